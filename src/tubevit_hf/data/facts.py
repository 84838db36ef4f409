# SPDX-License-Identifier: Apache-2.0
"""What there is to know about a video file: what its header tells, and what its frames show.

Both are found once for a file that does not change, see `known_files`.
"""

import base64
import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..model.video_decoding_tubevit import VideoDecodingError, VideoFileMetadata, VideoLimits, VideoReader
from ..model.video_index_tubevit import HeaderIndex
from ..model.video_sources_tubevit import name_of, open_container, open_source
from .known_files import KnownFiles, recall


SourceT = TypeVar("SourceT")
# frames of a video that are looked at, evenly spread from the first to the last: shorter ones are decoded in full
MAX_FRAMES = 256
# cells along each side that a frame is averaged over
NUM_CELLS = 32
# times a signature has, and cells along each side
SIGNATURE_SIZE = 8
# a header may promise a little more than there is: in frames, and as a share of all
SLACK_FRAMES, SLACK = 4, 0.03


@dataclass(frozen=True)
class Opened:
    """What a file tells when it is opened.

    Args:
        fault: why it cannot be used, without its name; the rest is empty then.
        num_frames: of the video.
        seconds: how long it is.
        fps: frames a second.
        width, height: in pixels, as they are stored.
        codec: name of the decoder, empty where another process decodes (`VideoLimits.isolated`).
    """

    fault: str | None = None
    num_frames: int = 0
    seconds: float | None = None
    fps: float | None = None
    width: int = 0
    height: int = 0
    codec: str = ""


@dataclass(frozen=True)
class Looked:
    """What is seen in a file when its frames are decoded, `MAX_FRAMES` at most.

    Args:
        fault: why there is nothing to see, without its name; only `sha256` is there then.
        sha256: of the file.
        num_frames: frames that were looked at.
        num_missing: of them those that could not be decoded.
        missing_seconds: how much of the length that the header promises is not in the file.
        width, height: in pixels, as they are shown.
        rotation: in degrees, by which frames are turned to be shown; `None` where it is not known.
        brightest, darkest: grey of a cell in any frame, 0 to 255, a frame having 32 x 32 cells.
        change: by how much the grey of a cell differs from the first frame, at most.
        signature: grey of 8 x 8 cells at 8 times, as 16-bit fractions in base64.
    """

    fault: str | None = None
    sha256: str = ""
    num_frames: int = 0
    num_missing: int = 0
    missing_seconds: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int | None = None
    brightest: float = 0.0
    darkest: float = 0.0
    change: float = 0.0
    signature: str = ""


def open_video(source: str | bytes) -> Opened:
    """Opens a video or an image."""
    try:
        with VideoReader(source) as reader:
            metadata = reader.metadata
            if metadata.total_num_frames == 1:
                # images open whatever is in them
                reader.get_frames([0])
            codec = "" if reader.stream is None else reader.stream.codec_context.name
            return Opened(
                None,
                metadata.total_num_frames,
                metadata.duration,
                metadata.fps,
                metadata.width or 0,
                metadata.height or 0,
                codec,
            )
    except VideoDecodingError as error:
        return Opened(without_name(error, source))


def without_name(error: VideoDecodingError, source: str | bytes) -> str:
    return str(error).removeprefix(f"{name_of(source)}: ")


def open_all(
    sources: Sequence[SourceT], open_one: Callable[[SourceT], Opened], description: str, show: bool = True
) -> Iterator[Opened]:
    """Opens videos in threads, under a progress bar if there are any; gives what they tell in order."""
    if not sources:
        return
    with ThreadPoolExecutor() as pool:
        yield from tqdm(
            pool.map(open_one, sources),
            total=len(sources),
            desc=description,
            unit="video",
            disable=None if show else True,
        )


def recall_opened(
    paths: Sequence[str], description: str, show: bool = True, store: KnownFiles | None = None
) -> dict[str, Opened]:
    """What files tell when they are opened, by path; those that are known are not opened again."""
    find_out = partial(open_all, open_one=open_video, description=description, show=show)
    return recall(paths, Opened, find_out, store)


def look_at(path: str, isolated: bool = False) -> Looked:
    """Decodes a video's frames, or `MAX_FRAMES` of them.

    Args:
        path: of a file.
        isolated: decode in a process of its own, which may die of the file.
    """
    try:
        digest = hash_file(path)
    except OSError as error:
        return Looked(f"it cannot be read ({error.strerror or error}).")
    limits = VideoLimits.from_environment()
    try:
        with VideoReader(path, replace(limits, isolated=True) if isolated else limits) as reader:
            return look_through(reader, path, digest)
    except VideoDecodingError as error:
        return Looked(without_name(error, path), sha256=digest)
    except (av.error.FFmpegError, ArithmeticError, LookupError, OSError, RuntimeError, ValueError) as error:
        # one strange file must not end the work on all
        return Looked(f"decoding it fails ({type(error).__name__}: {error}).", sha256=digest)


def hash_file(path: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()


def look_through(reader: VideoReader, path: str, digest: str) -> Looked:
    total = reader.metadata.total_num_frames
    wanted = np.linspace(0, total - 1, min(total, MAX_FRAMES)).round().astype(np.int64)
    with warnings.catch_warnings():
        # missing frames are counted, and tell no one else
        warnings.simplefilter("ignore")
        frames, metadata = reader.get_frames(wanted, average_cells)
    cells = frames.numpy()[:, 0]
    return Looked(
        None,
        digest,
        len(wanted),
        len(metadata.stand_ins),
        find_missing_seconds(reader, path),
        *find_shown_size(reader, metadata),
        brightest=round(float(cells.max()), 2),
        darkest=round(float(cells.min()), 2),
        change=round(float(np.abs(cells - cells[0]).max()), 2),
        signature=encode_signature(cells),
    )


def average_cells(frame: torch.Tensor) -> torch.Tensor:
    """Grey of the cells of a frame: `(3, height, width)` -> `(1, 32, 32)`."""
    # of large frames some rows and columns do
    step = max(1, min(frame.shape[1:]) // (8 * NUM_CELLS))
    grey = frame[:, ::step, ::step].float().mean(0, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(grey, NUM_CELLS)


def find_shown_size(reader: VideoReader, metadata: VideoFileMetadata) -> tuple[int, int, int | None]:
    """Width, height and rotation of the frames as they are shown."""
    rotation = None
    if not reader.limits.isolated:
        reader.open_container()
        first = next(reader.decode_all(), None)
        rotation = None if first is None else round(first.rotation) % 360
        # or it would keep the decoder alive
        del first
    return metadata.width or 0, metadata.height or 0, rotation


def find_missing_seconds(reader: VideoReader, path: str) -> float:
    """How much of the length that a file's header promises is not there, 0 where it promises none."""
    # such an index is that of a file that is there in full
    if reader.container is None or reader.stream is None or isinstance(reader.index, HeaderIndex):
        return 0.0
    total, fps = reader.metadata.total_num_frames, reader.metadata.fps
    rate = reader.stream.average_rate
    if reader.container.format.name == "avi" and rate:
        # FFmpeg makes the length of an AVI file fit what is there, but keeps the header's number of frames
        promised = reader.stream.frames / float(rate)
    else:
        promised = (reader.container.duration or 0) / 1e6
    start = max(0.0, (reader.container.start_time or 0) / 1e6)
    # some files count the length from 0, others from where they start
    length = promised - start if promised > start else promised
    slack = max(SLACK_FRAMES / fps if fps else 0.0, SLACK * length)
    found = total / fps if fps else 0.0
    if promised - found <= slack:
        return 0.0
    # sound may go on when the last frame has been shown
    with contextlib.ExitStack() as resources:
        file = open_source(path, resources, reader.limits)
        with open_container(file, reader.limits) as container:
            end = 0.0
            # where reading fails, the file ends; PyAV raises IndexError where a stream appears late
            with contextlib.suppress(av.error.FFmpegError, IndexError):
                for packet in container.demux():
                    if packet.pts is not None and packet.time_base is not None:
                        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            missing = promised - max(end, end - (container.start_time or 0) / 1e6)
    return round(missing, 3) if missing > slack else 0.0


def encode_signature(cells: np.ndarray) -> str:
    """`(num_frames, 32, 32)` -> text, see [`Looked`]."""
    places = ((np.arange(SIGNATURE_SIZE) + 0.5) / SIGNATURE_SIZE * len(cells)).astype(np.int64)
    side = NUM_CELLS // SIGNATURE_SIZE
    coarse = cells[places].reshape(len(places), SIGNATURE_SIZE, side, SIGNATURE_SIZE, side).mean((2, 4))
    return base64.b64encode((coarse * 256).astype("<u2").tobytes()).decode()


def decode_signature(text: str) -> np.ndarray:
    """Grey of the cells, `(8 times, 8, 8)`, float32."""
    shape = (SIGNATURE_SIZE,) * 3
    return np.frombuffer(base64.b64decode(text), "<u2").reshape(shape).astype(np.float32) / 256


class FilesToLookAt(Dataset[Looked]):
    def __init__(self, paths: Sequence[str]):
        # one array: workers would copy a list of many strings bit by bit as they count references
        self.paths = np.array(paths, dtype=np.str_)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Looked:
        return look_at(str(self.paths[index]))


def look_at_all(paths: Sequence[str], num_workers: int | None = None) -> Iterator[Looked]:
    """Looks at files in processes, under a progress bar; gives them in order.

    A process that dies of a file takes nothing with it: what was at hand is looked at again, each file in a process of
    its own, which names the one.

    Args:
        paths: of files.
        num_workers: processes; 0 for none. By default one for each CPU, four at most.
    """
    if num_workers is None:
        num_workers = min(4, os.cpu_count() or 1)
    with tqdm(total=len(paths), desc="Looking at videos", unit="video", disable=None) as bar:
        done = 0
        while done < len(paths):
            # a generator of its own leaves the global one as it is
            loader = DataLoader(
                FilesToLookAt(paths[done:]), batch_size=None, num_workers=num_workers, generator=torch.Generator()
            )
            try:
                for looked in loader:
                    done += 1
                    bar.update()
                    yield looked
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker (pid"):
                    raise
                for path in paths[done : done + 2 * num_workers]:
                    done += 1
                    bar.update()
                    yield look_at(path, isolated=True)


def recall_looked(
    paths: Sequence[str], num_workers: int | None = None, store: KnownFiles | None = None
) -> dict[str, Looked]:
    """What is seen in files, by path; those that are known are not decoded again."""
    return recall(paths, Looked, partial(look_at_all, num_workers=num_workers), store)
