# SPDX-License-Identifier: Apache-2.0
"""What a clip takes on this machine, and which machine that is."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from statistics import median

import torch

from ..inference.prediction import read_logits
from ..inference.reading import Load
from ..inference.running import LoadedModel, Runner
from ..machine import name_processor, peak_memory


PACKAGES = ("tubevit_hf", "torch", "transformers", "av")
MAX_CLIPS = 9
# that speed is measured for at most, after the first two videos
MAX_SECONDS = 15.0


@dataclass(frozen=True)
class Speed:
    """What a video takes, one at a time.

    Args:
        videos: how many were timed.
        reading_ms: to open and decode a video and to prepare its clips, in milliseconds; the median.
        model_ms: of the model on these clips; the median.
        memory_mib: the most that this process has held so far, in MiB; `None` where the system does not tell.
        gpu_memory_mib: the same on the GPU.
    """

    videos: int
    reading_ms: float
    model_ms: float
    memory_mib: float | None
    gpu_memory_mib: float | None


def measure_speed(loaded: LoadedModel, load: Load, files: Sequence[str]) -> Speed | None:
    """Times some of the files in this process, the first as a warm-up; `None` if there are none."""
    runner = Runner(loaded.model, read_logits)
    step = max(1, len(files) // MAX_CLIPS)
    chosen = [*files[::step][:MAX_CLIPS]]
    reading_ms: list[float] = []
    model_ms: list[float] = []
    began = time.perf_counter()
    for number, file in enumerate([*chosen[:1], *chosen]):
        start = time.perf_counter()
        reading = load(file)
        read = time.perf_counter()
        # its outputs are brought to the CPU, which waits for a GPU
        runner.run_batches([reading])
        done = time.perf_counter()
        if number:
            reading_ms.append(1e3 * (read - start))
            model_ms.append(1e3 * (done - read))
        if number and done - began > MAX_SECONDS:
            break
    if not reading_ms:
        return None
    device = loaded.model.device
    of_gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return Speed(len(reading_ms), median(reading_ms), median(model_ms), peak_memory(), of_gpu)


def describe_environment(device: torch.device) -> dict[str, str]:
    """Hardware and versions, by name."""
    environment = {"date": date.today().isoformat(), "CPU": name_processor()}
    if device.type == "cuda":
        environment["GPU"] = torch.cuda.get_device_name(device)
    environment["runs on"] = str(device)
    environment["system"] = f"{platform.system()} {platform.machine()}"
    environment["Python"] = platform.python_version()
    return environment | {package: metadata.version(package) for package in PACKAGES}
