# SPDX-License-Identifier: Apache-2.0
"""How long does a second start take to check videos that an earlier start has opened?

    python benchmarks/known_files.py

Writes class folders of 10,000 small videos, a half of them .mp4 and a half .webm (which is read to its end to find its
frames), and lists and checks them as the examples do, each time in a new process: nothing known, all known, and a
hundredth changed since. The time to import the package is told by itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from common import describe_machine, report


NUM_CLASSES = 10
START = """
import sys, time
start = time.perf_counter()
from tubevit_hf.data import drop_unreadable, load_folder
imported = time.perf_counter()
splits = load_folder(sys.argv[1])
listed = time.perf_counter()
num_videos = sum(len(drop_unreadable(rows, split)) for split, rows in splits.items())
print(num_videos, imported - start, listed - imported, time.perf_counter() - listed)
"""


def write_video(path: Path, codec: str) -> None:
    """Two seconds of 64 x 64 pixels."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"cpu-used": "8"} if codec == "libvpx" else {})
        stream.height = stream.width = 64
        for _ in range(50):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_folder(folder: Path, num_videos: int) -> list[Path]:
    """A fifth of the videos is for validation."""
    templates = [folder / "template.mp4", folder / "template.webm"]
    for template, codec in zip(templates, ("libx264", "libvpx")):
        write_video(template, codec)
    files = []
    for number in range(num_videos):
        split = "validation" if number % 5 == 0 else "train"
        path = folder / "videos" / split / f"class {number // 5 % NUM_CLASSES}" / f"{number:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.append(path.with_suffix(templates[number % 2].suffix))
        shutil.copyfile(templates[number % 2], files[-1])
    return files


def start(folder: Path, name: str) -> dict:
    environment = {**os.environ, "HF_ASSETS_CACHE": str(folder / "assets"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", START, str(folder / "videos")],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    num_videos, imports, listing, checking = map(float, result.stdout.split()[-4:])
    return {
        "start": name,
        "videos": int(num_videos),
        "import (s)": imports,
        "list (s)": listing,
        "check (s)": checking,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_folder(folder, arguments.videos)
        rows = [start(folder, "nothing known"), start(folder, "all known")]
        for path in files[::100]:
            os.utime(path)
        rows.append(start(folder, "a hundredth changed"))
    report("known_files_cpu", "Starts on the same videos", describe_machine(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
