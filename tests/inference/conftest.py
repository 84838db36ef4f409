# SPDX-License-Identifier: Apache-2.0
"""Folders of small videos, and what runs a command in processes of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..support.tiny import write_video


ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> Path:
    """Seven videos in three folders, of different sizes and lengths, the fourth of them broken."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(7):
        place = folder / "abc"[number % 3]
        place.mkdir(exist_ok=True)
        write_video(place / f"{number}.mp4", 9 + number, 48 + 4 * number, 72 - 4 * number, seed=number)
    (folder / "b" / "1.mp4").write_bytes((folder / "b" / "1.mp4").read_bytes()[:300])
    return folder


def tubevit(*arguments: object, processes: int = 1) -> subprocess.Popen:
    """Starts a command, by `accelerate launch` if in several processes."""
    line = command(*arguments, processes=processes)
    return subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command(*arguments: object, processes: int = 1, stop: Sequence[str] = ()) -> list[str]:
    """The line that runs a command, up to a call if `stop` is a `stop_at`."""
    line = [sys.executable]
    if processes > 1:
        line += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        line += ["--num_machines", "1", "--main_process_port", "0"]
    return [*line, *stop, "-m", "tubevit_hf.cli", *map(str, arguments)]
