# SPDX-License-Identifier: Apache-2.0
"""Folders of small videos, and what runs a command in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.tiny import write_video


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
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        command += ["--num_machines", "1", "--main_process_port", "0", "-m"]
    command += ["tubevit_hf.cli", *map(str, arguments)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
