# SPDX-License-Identifier: Apache-2.0
"""Does `tubevit predict` cost more than the slower of decoding and computing, and does its memory grow with files?

    python benchmarks/predict.py
    python benchmarks/predict.py --videos FOLDER --workers 8

1. Small models over the same files, three ways that take turns: only reading them, by worker processes; only
   computing, on clips that are in memory; and `predict_files`, where both run beside each other. On a CPU once with a
   core for each worker and the others for the model, so that what is measured is what one waits for the other; and
   once with all cores for the model, as the command does it. Nothing can take less time than the slower part, nor,
   on a CPU, than all seconds of all cores by the cores. Ratio: the time of `predict_files` by that, in each round.
2. The memory of the command's process, and of its worker, after 1,000 and after 10,000 files (links to the same few).
"""

import argparse
import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import describe_machine, in_a_new_process, print_table, summarise, time_interleaved, write_result
from transformers import set_seed

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.commands.common import share_cores
from tubevit_hf.data.moving_digits import write_video
from tubevit_hf.inference.prediction import predict_files, read_logits
from tubevit_hf.inference.reading import list_files, make_load, read_files
from tubevit_hf.inference.running import LoadedModel, Runner


NUM_VIDEOS = 8
# frames, height, width: three seconds
VIDEO = (100, 360, 640)
FILES = (1_000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--videos", type=Path, help="folder of videos; by default some are made")
    parser.add_argument("--sizes", nargs="+", default=["Ti", "S"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--passes", type=int, default=12, help="over the videos, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    # of the processes that measure, as the command does it
    share_cores()
    with tempfile.TemporaryDirectory() as folder:
        videos = arguments.videos or make_videos(Path(folder, "videos"), *VIDEO)
        files = arguments.passes * list_files([str(videos)])
        cases = [
            in_a_new_process(time_case, size, files, arguments.workers, threads, device, arguments.rounds)
            for size in arguments.sizes
            for threads in count_threads(arguments.workers, device)
        ]
        memory = in_a_new_process(measure_memory, Path(folder))
    machine = describe_machine(device)
    tables = {"Seconds for all files": cases, "Memory after many files (MiB)": memory}
    for title, rows in tables.items():
        print_table(f"{title}\n{machine['hardware']}", rows)
    write_result(f"predict_{device.type}", {"machine": machine, "tables": tables})


def count_threads(workers: int, device: torch.device) -> list[int]:
    cores = torch.get_num_threads()
    return [cores] if device.type != "cpu" else sorted({max(1, cores - workers), cores})


def make_videos(folder: Path, num_frames: int, height: int, width: int) -> Path:
    """Videos of noise that drifts over a gradient, so that decoding has something to do."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(NUM_VIDEOS):
        noise = generator.integers(0, 64, (height, width, 3)).astype(np.uint8)
        light = np.linspace(0, 160, width).astype(np.uint8)[None, :, None]
        frames = np.stack([np.roll(noise, (frame, 2 * frame), axis=(0, 1)) + light for frame in range(num_frames)])
        write_video(folder / f"{number}.mp4", frames, frames_per_second=30)
    return folder


def build(size: str, device: torch.device) -> LoadedModel:
    set_seed(0)
    model = TubeViTForVideoClassification(TubeViTConfig.from_preset(size, num_labels=400)).eval().to(device)
    return LoadedModel(model, TubeViTVideoProcessor(), "")


def time_case(size: str, files: list[str], workers: int, threads: int, device: torch.device, rounds: int) -> dict:
    loaded = build(size, device)
    cores = torch.get_num_threads()
    torch.set_num_threads(threads)
    load = make_load(loaded.processor, loaded.model.config.num_frames, (1, 1))
    known = {file: load(file) for file in dict.fromkeys(files)}
    runner = Runner(loaded.model, read_logits)

    def end(results: Iterator[object]) -> None:
        assert sum(1 for _ in results) == len(files)

    seconds = time_interleaved(
        {
            "decoding": lambda: end(read_files(files, load, workers)),
            "computing": lambda: end(runner.run(known[file] for file in files)),
            "predict": lambda: end(predict_files(loaded, files, num_workers=workers)),
        },
        device,
        rounds,
    )
    bounds = [
        max(decoding, computing, (workers * decoding + threads * computing) / cores if device.type == "cpu" else 0)
        for decoding, computing in zip(seconds["decoding"], seconds["computing"])
    ]
    ratio = summarise([whole / bound for whole, bound in zip(seconds["predict"], bounds)])
    return {
        "model": size,
        "files": len(files),
        "workers": workers,
        "threads": threads,
        **{name: summarise(times)["median"] for name, times in seconds.items()},
        "predict / bound": ratio["median"],
        "min": ratio["min"],
        "max": ratio["max"],
    }


def measure_memory(folder: Path) -> list[dict]:
    """Resident memory at milestones of one run, once the first hundred files are done."""
    videos = make_videos(folder / "small", 16, 64, 64)
    files = list(itertools.islice(itertools.cycle(list_files([str(videos)])), max(FILES)))
    tubes = [{"kernel_size": [1, 16, 16], "stride": [4, 16, 16]}]
    set_seed(0)
    config = TubeViTConfig.from_preset("Ti", num_hidden_layers=1, num_frames=8, image_size=64, tubes=tubes)
    processor = TubeViTVideoProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    loaded = LoadedModel(TubeViTForVideoClassification(config).eval(), processor, "")
    rows = []
    for number, prediction in enumerate(predict_files(loaded, files, num_workers=1), start=1):
        assert prediction.error is None
        if number in (100, *FILES):
            worker = Path(f"/proc/self/task/{torch.multiprocessing.current_process().pid}/children").read_text()
            processes = {"predict": "self", "worker": worker.split()[0]}
            rows.append({"files": number, **{name: resident_memory(pid) for name, pid in processes.items()}})
    return rows


def resident_memory(process: str) -> float:
    """In MiB (Linux)."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())[1]) / 2**10


if __name__ == "__main__":
    main()
