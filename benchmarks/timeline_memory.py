# SPDX-License-Identifier: Apache-2.0
"""How far does the scan of a long video raise memory above that of the model, and does it grow with the video?

    python benchmarks/timeline_memory.py

A new process for each case: a pass of the model first, then the scan of a video of that many minutes, with as many
windows in each, spread over it. Linux tells the most memory that a process has held.
"""

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from common import describe_machine, in_a_new_process, peak_memory, report
from transformers import set_seed

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.inference.timeline import scan_timeline


FRAMES_PER_SECOND, HEIGHT, WIDTH = 25, 240, 320
WINDOWS, WINDOW = 30, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["Ti", "B"])
    parser.add_argument("--minutes", nargs="+", type=int, default=[2, 60])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = {minutes: write_video(Path(folder, f"{minutes}.mp4"), minutes) for minutes in arguments.minutes}
        rows = [
            {
                "model": size,
                "minutes": minutes,
                "above the model (MiB)": in_a_new_process(measure, size, video, minutes),
            }
            for size in arguments.sizes
            for minutes, video in videos.items()
        ]
    title = f"Memory of a scan, {WINDOWS} windows, video of {WIDTH}x{HEIGHT} pixels"
    report("timeline_memory_cpu", title, describe_machine(torch.device("cpu")), rows)


def write_video(path: Path, minutes: int) -> str:
    """A minute of noise that drifts, again and again; frame by frame, as all would not fit into memory."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, width=WIDTH, height=HEIGHT, options=options)
        for index in range(minutes * 60 * FRAMES_PER_SECOND):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, index % (60 * FRAMES_PER_SECOND), axis=1))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def measure(size: str, video: str, minutes: int) -> float:
    set_seed(0)
    model = TubeViTForVideoClassification(TubeViTConfig.from_preset(size, num_labels=400)).eval()
    with torch.inference_mode():
        model(torch.randn(1, *model.config.native_size[:1], 3, *model.config.native_size[1:]))
    before = peak_memory()
    scan_timeline(model, TubeViTVideoProcessor(), video, WINDOW, (60 * minutes - WINDOW) / WINDOWS)
    return peak_memory() - before


if __name__ == "__main__":
    main()
