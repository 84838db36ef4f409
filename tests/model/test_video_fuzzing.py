# SPDX-License-Identifier: Apache-2.0
"""Damaged videos give frames or a `VideoDecodingError`: the first files of `fuzz_video_decoding.py`, and that it sees
what it looks for.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tubevit_hf import VideoDecodingError, VideoFileMetadata

from ..support.fuzz_video_decoding import (
    BAD,
    GOOD,
    GROWTH_LIMIT,
    MEMORY_LIMIT,
    Result,
    find_growing_children,
    fuzz,
    mutate,
    summarize,
)
from ..support.video_corpus import CASES, write


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the children are watched through /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("corpus")
    return {case.file: write(case, folder).read_bytes() for case in CASES}


def test_damaged_files_give_frames_or_an_error(corpus):
    results = list(fuzz(corpus, seed=0, numbers=range(150)))
    assert [result.number for result in results] == list(range(150))
    assert not [result for result in results if result.outcome in BAD]
    assert {result.outcome for result in results} == set(GOOD)


def test_damage_can_be_repeated(corpus):
    assert mutate(corpus, seed=0, number=5) == mutate(corpus, seed=0, number=5)
    assert mutate(corpus, seed=0, number=5) != mutate(corpus, seed=1, number=5)
    damaged = [mutate(corpus, seed=0, number=number) for number in range(100)]
    assert len({data for _, _, data in damaged}) > 95
    assert sum(data != corpus[name] for name, _, data in damaged) > 95


class FakeReader:
    """A reader that gives black frames for any file; the ones below have one fault each."""

    def __init__(self, source):
        self.metadata = VideoFileMetadata(total_num_frames=20, fps=10.0, height=4, width=6)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def get_frames(self, indices):
        return torch.zeros(len(indices), 3, 4, 6, dtype=torch.uint8), replace(self.metadata, frames_indices=indices)

    def seconds(self):
        return np.arange(20) / 10


class Hanging(FakeReader):
    def get_frames(self, indices):
        time.sleep(600)


class DyingBySignal(FakeReader):
    def get_frames(self, indices):
        os.kill(os.getpid(), signal.SIGSEGV)


class Exiting(FakeReader):
    def get_frames(self, indices):
        os._exit(3)


kept_open = []


class LeakingFiles(FakeReader):
    def __exit__(self, *exception):
        kept_open.append(open(__file__))  # noqa: SIM115 - never closed


class LeakingThreads(FakeReader):
    def __exit__(self, *exception):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


class RaisingAnything(FakeReader):
    def get_frames(self, indices):
        raise KeyError(indices[0])


class RefusingWithoutName(FakeReader):
    def get_frames(self, indices):
        raise VideoDecodingError("something is wrong")


class TakingAllMemory(FakeReader):
    def get_frames(self, indices):
        return bytes(2 * MEMORY_LIMIT)


class GivingTooFew(FakeReader):
    def get_frames(self, indices):
        frames, metadata = super().get_frames(indices)
        return frames[1:], metadata


class GivingOthers(FakeReader):
    def get_frames(self, indices):
        return super().get_frames(indices)[0], replace(self.metadata, frames_indices=indices[::-1])


class ForgettingTimes(FakeReader):
    def seconds(self):
        return super().seconds()[1:]


@pytest.mark.parametrize(
    ("reader_class", "outcome", "detail"),
    [
        (FakeReader, "decoded", ""),
        (Hanging, "hang", "nothing after 0.2 s"),
        (DyingBySignal, "crash", "Segmentation fault"),
        (Exiting, "crash", "exit code 3"),
        (LeakingFiles, "leak", "2 files"),
        (LeakingThreads, "leak", "2 threads"),
        (RaisingAnything, "wrong error", "KeyError: 0"),
        (RefusingWithoutName, "wrong error", "something is wrong"),
        (TakingAllMemory, "wrong error", "MemoryError"),
        (GivingTooFew, "wrong frames", "shape (15, 3, "),
        (GivingOthers, "wrong frames", "instead of frames"),
        (ForgettingTimes, "wrong frames", "shown at"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_faults_are_found(reader_class, outcome, detail):
    time_limit = 0.2 if outcome == "hang" else 20
    # two files: a child that dies or hangs is replaced by one that reads the next
    results = list(fuzz({"a.mp4": b"video"}, 0, [0, 1], reader_class=reader_class, time_limit=time_limit))
    assert [result.outcome for result in results] == [outcome] * 2
    assert all(detail in result.detail for result in results), results


def test_growing_memory_is_found():
    def results(step: int) -> list[Result]:
        return [
            Result(number, "a.mp4", "", "decoded", final_memory=number * step, child=number % 2 * 7)
            for number in range(400)
        ]

    assert not find_growing_children(results(GROWTH_LIMIT // 200))
    assert find_growing_children(results(GROWTH_LIMIT // 100)) == ["child 7"]


def test_summary_counts_by_container():
    results = [
        Result(0, "a.mp4", "truncate", "decoded", seconds=0.5, peak_memory=2**20, final_memory=2**20, child=7),
        Result(1, "b.mp4", "move", "refused", seconds=1.5, peak_memory=2**21, final_memory=2**20, child=7),
        Result(2, "c.mkv", "delete", "hang", "nothing after 20 s", seconds=20.0),
    ]
    header, *lines = summarize(results).split("\n")
    assert header.split() == ["decoded", "decoded", "with", "stand-ins", "refused", "hang"]
    assert [line.split() for line in lines[:3]] == [
        [".mkv", "0", "0", "0", "1"],
        [".mp4", "1", "0", "1", "0"],
        ["all", "1", "0", "1", "1"],
    ]
    assert lines[3:5] == ["slowest: 20.0 s for 2 c.mkv, delete", "most memory: 2 MiB for 1 b.mp4, move"]
