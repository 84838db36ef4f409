# SPDX-License-Identifier: Apache-2.0
"""Damages videos at random, reads them, and reports whatever is neither frames nor a `VideoDecodingError`.

    python tests/support/fuzz_video_decoding.py --mutations 2000 --seed 0
    python tests/support/fuzz_video_decoding.py --seed 0 --only 1234 --keep damaged

The files of the test corpus are damaged in the ways files are damaged, and in the ways that hurt a reader most: with
extreme numbers where containers store sizes and counts. A damaged file is a function of the corpus, the seed and its
number, so that each can be made again. Children read the files: one that dies or takes too long is noted and replaced.
Linux only, for `/proc`.
"""

import argparse
import collections
import ctypes
import gc
import multiprocessing
import os
import queue
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from tubevit_hf import VideoDecodingError, VideoReader


NUM_FRAMES = 16
# Seconds for one file: what takes longer hangs
TIME_LIMIT = 20.0
# Bytes of address space that a child may take on top of what Python and torch have taken
MEMORY_LIMIT = 4 * 2**30
# Bytes by which a child's memory may grow while it reads the second half of its files
GROWTH_LIMIT = 256 * 2**20
GOOD = ("decoded", "decoded with stand-ins", "refused")
BAD = ("wrong frames", "wrong error", "crash", "hang", "leak")


@dataclass
class Result:
    """What became of one damaged file: `outcome` is one of `GOOD` or `BAD`, memory is in bytes."""

    number: int
    name: str
    damage: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    peak_memory: int = 0
    final_memory: int = 0
    child: int = 0


# Where containers store numbers


class Field(NamedTuple):
    """A number in a file; `marker` are its bits that are no part of the number, such as the length of an EBML size."""

    offset: int
    num_bytes: int
    byteorder: str = "big"
    marker: int = 0


MP4_BOXES_OF_BOXES = {
    b"moov",
    b"trak",
    b"mdia",
    b"minf",
    b"stbl",
    b"edts",
    b"udta",
    b"mvex",
    b"moof",
    b"traf",
    b"dinf",
}


def mp4_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Sizes of boxes, and the first numbers in them: versions, counts, entries of tables."""
    while start + 8 <= stop:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        end = min(stop, start + max(size, 8))
        yield Field(start, 4)
        if kind in MP4_BOXES_OF_BOXES:
            yield from mp4_fields(data, start + 8, end)
        elif kind != b"mdat":
            yield from (Field(offset, 4) for offset in range(start + 8, min(end, start + 136) - 3, 4))
        start = end


EBML_ELEMENTS_OF_ELEMENTS = {
    b"\x18\x53\x80\x67",  # Segment
    b"\x11\x4d\x9b\x74",  # SeekHead
    b"\x4d\xbb",  # Seek
    b"\x15\x49\xa9\x66",  # Info
    b"\x16\x54\xae\x6b",  # Tracks
    b"\xae",  # TrackEntry
    b"\xe0",  # Video
    b"\x1c\x53\xbb\x6b",  # Cues
    b"\xbb",  # CuePoint
    b"\xb7",  # CueTrackPositions
    b"\x1f\x43\xb6\x75",  # Cluster
    b"\xa0",  # BlockGroup
}


def ebml_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Sizes of elements, and the numbers in them."""
    while start + 2 <= stop:
        # the zeros before the first one bit tell the length, of identifiers and of sizes
        id_bytes = 9 - data[start].bit_length()
        size_start = start + id_bytes
        if size_start >= stop:
            return
        size_bytes = 9 - data[size_start].bit_length()
        marker = 1 << 7 * size_bytes
        size = int.from_bytes(data[size_start : size_start + size_bytes], "big") & (marker - 1)
        yield Field(size_start, size_bytes, marker=marker)
        content = size_start + size_bytes
        # all ones mean that the size is unknown
        end = stop if size == marker - 1 else min(stop, content + size)
        if data[start:size_start] in EBML_ELEMENTS_OF_ELEMENTS:
            yield from ebml_fields(data, content, end)
        elif 0 < size <= 8:
            yield Field(content, size)
        else:
            yield from (Field(offset, 2) for offset in range(content, min(end, content + 16) - 1, 2))
        start = end


def riff_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Sizes of chunks, and the first numbers in them."""
    while start + 8 <= stop:
        size, kind = int.from_bytes(data[start + 4 : start + 8], "little"), data[start : start + 4]
        end = min(stop, start + 8 + size)
        yield Field(start + 4, 4, "little")
        if kind in (b"RIFF", b"LIST"):
            yield from riff_fields(data, start + 12, end)
        elif not kind.endswith((b"dc", b"db")):
            yield from (Field(offset, 4, "little") for offset in range(start + 8, min(end, start + 136) - 3, 4))
        start = end + size % 2


def number_fields(data: bytes) -> list[Field]:
    """Where a container stores numbers; of formats that are not taken apart, the beginning."""
    if data[4:8] == b"ftyp":
        return list(mp4_fields(data, 0, len(data)))
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return list(ebml_fields(data, 0, len(data)))
    if data[:4] == b"RIFF":
        return list(riff_fields(data, 0, len(data)))
    if data[:1] == data[188:189] == b"G":
        # the headers of MPEG-TS packets, of PES packets in them, and the program tables
        return [Field(packet + offset, 2) for packet in range(0, len(data), 188) for offset in range(1, 30, 2)]
    return [Field(offset, 4, order) for offset in range(0, min(512, len(data) - 4), 2) for order in ("big", "little")]


# Ways to damage a file; each changes `data` in place


def set_number(data: bytearray, generator: random.Random) -> None:
    fields = [field for field in number_fields(bytes(data)) if field.offset + field.num_bytes <= len(data)]
    if not fields:
        return
    field = generator.choice(fields)
    place = slice(field.offset, field.offset + field.num_bytes)
    old = int.from_bytes(data[place], field.byteorder)
    largest = (field.marker or 1 << 8 * field.num_bytes) - 1
    old &= largest
    values = (0, 1, 2, largest, largest - 1, largest // 2, largest // 2 + 1, old + 1, old - 1, 2 * old, old * 1000)
    new = generator.choice([*values, generator.randint(0, largest)]) & largest
    data[place] = (new | field.marker).to_bytes(field.num_bytes, field.byteorder)


def flip_bits(data: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 1, 4, 32))):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def flip_bits_of_header(data: bytearray, generator: random.Random) -> None:
    for _ in range(generator.choice((1, 1, 4))):
        data[generator.randrange(min(1024, len(data)))] ^= 1 << generator.randrange(8)


def overwrite(data: bytearray, generator: random.Random) -> None:
    chunk = random_chunk(data, generator)
    length = chunk.stop - chunk.start
    data[chunk] = generator.choice((bytes(length), b"\xff" * length, generator.randbytes(length)))


def delete(data: bytearray, generator: random.Random) -> None:
    del data[random_chunk(data, generator)]


def duplicate(data: bytearray, generator: random.Random) -> None:
    chunk = random_chunk(data, generator)
    data[chunk.stop : chunk.stop] = data[chunk]


def move(data: bytearray, generator: random.Random) -> None:
    chunk = random_chunk(data, generator)
    moved = data[chunk]
    del data[chunk]
    place = generator.randint(0, len(data))
    data[place:place] = moved


def truncate(data: bytearray, generator: random.Random) -> None:
    del data[generator.randrange(len(data)) :]


def random_chunk(data: bytearray, generator: random.Random) -> slice:
    """Of a few bytes to a quarter of the file, short ones as often as long ones."""
    length = int(len(data) ** generator.uniform(0, 1)) // 4 + 1
    start = generator.randint(0, max(0, len(data) - length))
    return slice(start, min(len(data), start + length))


MUTATIONS = (set_number,) * 8 + (flip_bits, flip_bits_of_header, overwrite, delete, duplicate, move, truncate)


def mutate(corpus: dict[str, bytes], seed: int, number: int) -> tuple[str, str, bytes]:
    """The damaged file of a number: name of the sound one, what was done, content. Names take turns."""
    generator = random.Random(f"{seed} {number}")
    names = sorted(corpus)
    name = names[number % len(names)]
    data, damage = bytearray(corpus[name]), []
    if generator.random() < 0.1:
        other = generator.choice(names)
        # the beginning of one file and the end of another
        data[generator.randrange(len(data)) :] = corpus[other][generator.randrange(len(corpus[other])) :]
        damage.append(f"spliced with {other}")
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        if data:
            mutation = generator.choice(MUTATIONS)
            mutation(data, generator)
            damage.append(mutation.__name__)
    return name, ", ".join(damage), bytes(data)


# Reading in child processes


def check_reading(reader_class: type[VideoReader], path: Path, generator: random.Random) -> tuple[str, str]:
    """Reads a file from disk and from memory: frames evenly over the video, some at random, all of them.

    Returns:
        The outcome, one of `GOOD` or "wrong frames", with a detail.
    """
    replaced = False
    try:
        for source in (path, path.read_bytes()):
            with reader_class(source) as reader, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                total = reader.metadata.total_num_frames
                for indices in (
                    [index * total // NUM_FRAMES for index in range(NUM_FRAMES)],
                    [generator.randrange(total) for _ in range(4)],
                    list(range(min(total, 100))),
                ):
                    frames, metadata = reader.get_frames(indices)
                    flaw = find_flaw(frames, metadata, indices)
                    if flaw:
                        return "wrong frames", flaw
                try:
                    seconds = reader.seconds()
                except VideoDecodingError as error:
                    if "does not tell when" not in str(error):
                        raise
                else:
                    if seconds.shape != (total,) or seconds[0] != 0 or not (np.diff(seconds) >= 0).all():
                        return "wrong frames", f"{total} frames, shown at {seconds}"
            replaced |= any("stand in" in str(warning.message) for warning in caught)
    except VideoDecodingError as error:
        name = str(path) if source is path else f"<{len(source)} bytes>"
        return "refused" if name in str(error) else "wrong error", str(error)
    return ("decoded with stand-ins" if replaced else "decoded"), ""


def find_flaw(frames: torch.Tensor, metadata, indices: list[int]) -> str | None:
    """What is wrong with decoded frames, if anything."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[:2] != (len(indices), 3) or not frames.numel():
        return f"{frames.dtype} frames of shape {tuple(frames.shape)}"
    if metadata.frames_indices != indices:
        return f"{metadata.frames_indices} instead of frames {indices}"
    if (metadata.height, metadata.width) != frames.shape[2:]:
        return f"metadata of {metadata.height} x {metadata.width} for frames of shape {tuple(frames.shape)}"
    if metadata.fps is not None and not 0 < metadata.fps < float("inf"):
        return f"a rate of {metadata.fps}"
    shown_at = metadata.frame_seconds
    if shown_at is not None and not np.isfinite(shown_at).all():
        return f"frames shown at {shown_at}"
    return None


def read_in_child(connection, reader_class, corpus: dict[str, bytes], seed: int, folder: Path) -> None:
    """What a child does: it reads the damaged files of the numbers that are sent, and sends a `Result` for each."""
    # what a library prints about damaged files would drown the report
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, used + MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # what is there now is never collected, which makes collecting the rest fast
    gc.freeze()
    libc = ctypes.CDLL(None)
    connection.send(None)
    while (number := connection.recv()) is not None:
        name, damage, data = mutate(corpus, seed, number)
        path = folder / f"{os.getpid()}{Path(name).suffix}"
        path.write_bytes(data)
        opened = open_files_and_threads()
        # from here on the peak counts anew
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        try:
            outcome, detail = check_reading(reader_class, path, random.Random(f"{seed} {number}"))
        except Exception:
            outcome, detail = "wrong error", traceback.format_exc()
        seconds = time.perf_counter() - start
        gc.collect()
        # a thread that has ended is listed for another moment
        for _ in range(20):
            left = [after - before for before, after in zip(opened, open_files_and_threads())]
            if max(left) <= 0:
                break
            time.sleep(0.01)
        else:
            if outcome in GOOD:
                outcome, detail = "leak", f"{left[0]} files and {left[1]} threads stay open"
        # what is freed goes back to the system, so that what is left tells
        libc.malloc_trim(0)
        memory = memory_in_use()
        path.unlink()
        connection.send(
            Result(number, name, damage, outcome, detail, seconds, memory["VmHWM"], memory["VmRSS"], os.getpid())
        )


def open_files_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def memory_in_use() -> dict[str, int]:
    """Bytes by the names of `/proc/self/status`: `VmRSS` is what is used now, `VmHWM` its peak."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


class Child:
    """A process that reads one damaged file after another; it is replaced when it dies or hangs."""

    def __init__(self, reader_class, corpus: dict[str, bytes], seed: int, folder: Path, time_limit: float):
        self.arguments = reader_class, corpus, seed, folder
        self.corpus, self.seed, self.time_limit = corpus, seed, time_limit
        self.process = None

    def start(self) -> None:
        # children of a process that has imported everything (pytest is for readers of a test file) and done nothing:
        # they start at once, and no thread is torn apart by the fork
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tubevit_hf", "pytest"])
        self.connection, connection = context.Pipe()
        process = context.Process(target=read_in_child, args=(connection, *self.arguments), daemon=True)
        process.start()
        self.process = process
        connection.close()
        self.connection.recv()

    def read(self, number: int) -> Result:
        if self.process is None:
            self.start()
        start = time.perf_counter()
        self.connection.send(number)
        if self.connection.poll(self.time_limit):
            try:
                return self.connection.recv()
            except EOFError:
                self.process.join()
                code = self.process.exitcode
                outcome, detail = "crash", signal.strsignal(-code) if code < 0 else f"exit code {code}"
        else:
            outcome, detail = "hang", f"nothing after {self.time_limit} s"
        self.stop()
        name, damage, _ = mutate(self.corpus, self.seed, number)
        return Result(number, name, damage, outcome, detail, time.perf_counter() - start)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def fuzz(
    corpus: dict[str, bytes],
    seed: int,
    numbers: Iterable[int],
    num_workers: int = 1,
    reader_class: type[VideoReader] = VideoReader,
    time_limit: float = TIME_LIMIT,
) -> Iterator[Result]:
    """Damages files of the corpus and reads them, one result for each number, in their order."""
    children = queue.SimpleQueue()

    def read(number: int) -> Result:
        child = children.get()
        try:
            return child.read(number)
        finally:
            children.put(child)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(num_workers) as threads:
        for _ in range(num_workers):
            children.put(Child(reader_class, corpus, seed, Path(folder), time_limit))
        try:
            yield from threads.map(read, numbers)
        finally:
            threads.shutdown(cancel_futures=True)
            for _ in range(num_workers):
                children.get().stop()


# The script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=2000, help="how many files to damage and read")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other damage")
    parser.add_argument("--only", type=int, help="read the damaged file of this number alone")
    parser.add_argument("--workers", type=int, default=2, help="processes that read")
    parser.add_argument("--corpus", type=Path, help="folder of sound videos, instead of the test corpus")
    parser.add_argument("--keep", type=Path, help="folder to write files with findings to, or the file of --only")
    arguments = parser.parse_args()
    codecs = {}
    if arguments.corpus is None:
        # a script finds its neighbours without the package around them
        from video_corpus import CASES, write

        # nothing but errors from an encoder that prints its settings
        os.environ.setdefault("SVT_LOG", "1")
        with tempfile.TemporaryDirectory() as folder:
            corpus = {case.file: write(case, Path(folder)).read_bytes() for case in CASES}
            codecs = {case.file: case.codec for case in CASES}
    else:
        corpus = {path.name: path.read_bytes() for path in arguments.corpus.iterdir()}
    numbers = range(arguments.mutations) if arguments.only is None else [arguments.only]
    results = []
    progress = tqdm(
        fuzz(corpus, arguments.seed, numbers, arguments.workers), total=len(numbers), unit=" files", disable=None
    )
    for result in progress:
        results.append(result)
        if result.outcome in BAD:
            tqdm.write(f"{result.number} {result.name}, {result.damage}: {result.outcome}\n{result.detail}")
        if arguments.keep and (result.outcome in BAD or arguments.only is not None):
            arguments.keep.mkdir(parents=True, exist_ok=True)
            path = arguments.keep / f"{arguments.seed}-{result.number}-{result.name}"
            path.write_bytes(mutate(corpus, arguments.seed, result.number)[2])
    print(summarize(results, codecs))
    growing = find_growing_children(results)
    if growing:
        print(f"FOUND: the memory of {growing} grew by more than {GROWTH_LIMIT / 2**20:.0f} MiB")
    sys.exit(bool(growing) or any(result.outcome in BAD for result in results))


def summarize(results: list[Result], codecs: dict[str, str] | None = None) -> str:
    """A table of outcomes by container and, of files whose codec is known, by codec; the slowest file, and the memory
    of the children."""
    outcomes = [*GOOD, *(outcome for outcome in BAD if any(result.outcome == outcome for result in results))]
    counts = collections.Counter()
    for result in results:
        codec = (codecs or {}).get(result.name)
        for row in (Path(result.name).suffix, "all", *([codec] if codec else [])):
            counts[row, result.outcome] += 1
    rows = [*sorted({row for row, _ in counts} - {"all"}), "all"]
    lines = [" " * 18 + "".join(f"{outcome:>24}" for outcome in outcomes)]
    lines += [f"{row:18}" + "".join(f"{counts[row, outcome]:24}" for outcome in outcomes) for row in rows]
    slowest = max(results, key=lambda result: result.seconds)
    largest = max(results, key=lambda result: result.peak_memory)
    lines.append(f"slowest: {slowest.seconds:.1f} s for {slowest.number} {slowest.name}, {slowest.damage}")
    lines.append(f"most memory: {to_mib(largest.peak_memory)} for {largest.number} {largest.name}, {largest.damage}")
    for child, memory in memory_of_children(results).items():
        lines.append(
            f"memory of {child} after the first, the middle and the last of {len(memory)} files: "
            f"{to_mib(memory[0])}, {to_mib(memory[len(memory) // 2])}, {to_mib(memory[-1])}"
        )
    return "\n".join(lines)


def find_growing_children(results: list[Result]) -> list[str]:
    """Children whose memory still grew in the second half of their files; in the first, caches fill."""
    memory = memory_of_children(results)
    return [child for child, used in memory.items() if used[-1] - used[len(used) // 2] > GROWTH_LIMIT]


def memory_of_children(results: list[Result]) -> dict[str, list[int]]:
    """Bytes in use after each file, by child."""
    memory = collections.defaultdict(list)
    for result in results:
        if result.child:
            memory[f"child {result.child}"].append(result.final_memory)
    return memory


def to_mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.0f} MiB"


if __name__ == "__main__":
    main()
