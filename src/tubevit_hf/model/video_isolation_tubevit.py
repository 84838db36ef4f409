# SPDX-License-Identifier: Apache-2.0
"""Decoding in a process of its own: what a hostile video does to it, it does to nothing else.

A worker opens one video after another. It gets a path, an address or an open file, answers in JSON, which is checked,
and lays frames into memory that both processes see; nothing that comes from it is unpickled. Workers are kept for the
next video, and one that crashes, hangs or wants too much memory is replaced.
"""

import atexit
import contextlib
import dataclasses
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch

from .video_decoding_tubevit import FrameBuffer, FrameIndex, VideoFileMetadata, VideoReader
from .video_sources_tubevit import VideoDecodingError, VideoLimits, VideoSource, check_source, name_of, printable


# frames that a worker may be ahead
NUM_SLOTS = 4
# bytes of an answer at most: the times of millions of frames
LONGEST_ANSWER = 2**28
# what a worker sees of the environment: no keys, no tokens
ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "TMPDIR"),
    *("LD_LIBRARY_PATH", "HF_HOME", "HF_MODULES_CACHE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
START = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({line}, {memory})"


class IsolatedVideoReader(VideoReader):
    """A [`VideoReader`] whose video is decoded elsewhere, with `VideoLimits.isolated`."""

    def __init__(self, source: VideoSource, limits: VideoLimits | None = None, index: FrameIndex | None = None):
        if index is not None:
            raise ValueError("`index` is for decoding in this process; it does not go with `VideoLimits.isolated`.")
        self.name = name_of(source)
        self.limits = VideoLimits.from_environment() if limits is None else limits
        with self.naming_errors(), contextlib.ExitStack() as resources:
            check_source(source)
            file = copy_file(source, resources)
            self.worker = take_worker(self.limits)
            resources.callback(give_back, self.worker)
            path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
            its_limits = dataclasses.asdict(dataclasses.replace(self.limits, isolated=False))
            answer = self.worker.ask({"open": path, "limits": its_limits}, file)
            self.metadata = VideoFileMetadata(
                **self.worker.check(answer, "metadata", dict), all_frame_seconds=self.seconds
            )
            for text in self.worker.check(answer, "warnings", list):
                warnings.warn(f"{self.name}: {printable(str(text)[:2000])}", stacklevel=3)
            self.resources = resources.pop_all()

    def decode(self, wanted: np.ndarray, frames: FrameBuffer) -> np.ndarray | None:
        worker = self.worker
        worker.send({"decode": wanted.tolist()})
        while True:
            answer = worker.receive()
            if "shape" in answer:
                # some files turn out in the middle to need another way
                frames.clear()
                worker.share_memory(worker.check(answer, "shape", list))
            elif "slot" in answer:
                position, slot = worker.check(answer, "position", int), worker.check(answer, "slot", int)
                if not (0 <= position < len(wanted) and 0 <= slot < len(worker.slots)):
                    raise worker.nonsense()
                frames.put(position, worker.slots[slot])
                worker.send({"free": slot})
            else:
                is_there, seconds = worker.check(answer, "is_there", list), answer.get("seconds")
                if len(is_there) != len(wanted) or (seconds is not None and len(seconds) != len(wanted)):
                    raise worker.nonsense()
                frames.is_there[:] = is_there
                return None if seconds is None else np.array(seconds, dtype=np.float64)

    def seconds(self) -> np.ndarray:
        with self.naming_errors():
            return np.array(self.worker.check(self.worker.ask({"seconds": None}), "seconds", list), dtype=np.float64)

    @property
    def frame_index(self) -> FrameIndex:
        raise ValueError("`frame_index` is of decoding in this process, without `VideoLimits.isolated`.")


def copy_file(source: VideoSource, resources: contextlib.ExitStack) -> IO[bytes] | None:
    """Bytes and file objects as a file that another process can read; nothing for a path or URL."""
    if isinstance(source, (str, os.PathLike)):
        return None
    file = shared_file(resources)
    if isinstance(source, bytes):
        file.write(source)
    else:
        source.seek(0)
        shutil.copyfileobj(source, file)
    file.flush()
    return file


def shared_file(resources: contextlib.ExitStack) -> IO[bytes]:
    """A file without a name, in memory where there is such a place."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    return resources.enter_context(tempfile.TemporaryFile(dir=folder))


# Messages: their length in 4 bytes, then JSON; a file beside it


def send(line: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    if files:
        data = data[socket.send_fds(line, [data], list(files)) :]
    line.sendall(data)


def receive(line: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Raises `EOFError` if the other side is gone."""
    files: list[int] = []

    def take(length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part, found, _, _ = socket.recv_fds(line, min(length - len(parts), 2**20), 1)
            files.extend(found)
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    length = int.from_bytes(take(4), "big")
    if length > LONGEST_ANSWER:
        raise ValueError(f"a message of {length} bytes")
    message = json.loads(take(length))
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message, files


def make_slots(memory: mmap.mmap, height: int, width: int) -> list[torch.Tensor]:
    """Frames in memory, `(3, height, width)` each, as video libraries lay them."""
    length = height * width * 3
    frames = torch.frombuffer(memory, dtype=torch.uint8, count=NUM_SLOTS * length)
    return list(frames.view(NUM_SLOTS, height, width, 3).permute(0, 3, 1, 2))


class Worker:
    """A process that decodes, seen from the one that asked for it."""

    def __init__(self, limits: VideoLimits):
        if not hasattr(socket, "send_fds"):
            raise VideoDecodingError("`VideoLimits.isolated` needs Linux or macOS.")
        self.limits, self.owner = limits, os.getpid()
        self.resources = contextlib.ExitStack()
        self.slots: list[torch.Tensor] = []
        # kept for the next video
        self.memory: mmap.mmap | None = None
        self.is_over = False
        self.line, other = socket.socketpair()
        self.resources.callback(self.line.close)
        code = START.format(path=sys.path, module=__name__, line=other.fileno(), memory=limits.max_memory)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        # each arena of a thread takes address space, which is limited
        environment["MALLOC_ARENA_MAX"] = "2"
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        # to import what it needs takes some seconds
        self.line.settimeout(max(60, limits.max_silence))
        self.receive()
        self.line.settimeout(limits.max_silence)

    def ask(self, question: dict[str, Any], file: IO[bytes] | None = None) -> dict[str, Any]:
        self.send(question, file)
        return self.receive()

    def send(self, question: dict[str, Any], file: IO[bytes] | None = None) -> None:
        if self.is_over:
            raise VideoDecodingError("the decoding process is over; open the video again.")
        # a worker that dies now says so when it is listened to
        with contextlib.suppress(ConnectionError):
            send(self.line, question, [] if file is None else [file.fileno()])

    def receive(self) -> dict[str, Any]:
        try:
            answer, _ = receive(self.line)
        except TimeoutError:
            self.end()
            raise VideoDecodingError(
                f"the decoding process was silent for {self.limits.max_silence} seconds (`VideoLimits.max_silence`), "
                "and was ended."
            ) from None
        except (EOFError, ConnectionError):
            code = self.end()
            reason = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise VideoDecodingError(f"the decoding process died ({reason}).") from None
        except ValueError:
            raise self.nonsense() from None
        if "error" in answer:
            raise VideoDecodingError(str(answer["error"])[:2000])
        return answer

    def check(self, answer: dict[str, Any], name: str, kind: type) -> Any:
        """A part of an answer, if it is what it should be; else the worker is ended, whatever took it over."""
        value = answer.get(name)
        if not isinstance(value, kind):
            raise self.nonsense()
        return value

    def nonsense(self) -> VideoDecodingError:
        self.end()
        return VideoDecodingError("the decoding process gives nonsense.")

    def share_memory(self, shape: list[int]) -> None:
        """Memory for some frames of `[height, width]`, which the worker sees too."""
        if len(shape) != 2 or not all(isinstance(length, int) and length > 0 for length in shape):
            raise self.nonsense()
        height, width = shape
        if height * width > self.limits.max_pixels:
            raise self.nonsense()
        length = NUM_SLOTS * height * width * 3
        with contextlib.ExitStack() as resources:
            file = None
            if self.memory is None or len(self.memory) < length:
                file = shared_file(resources)
                os.ftruncate(file.fileno(), length)
                self.memory = mmap.mmap(file.fileno(), length)
            self.send({"memory": len(self.memory)}, file)
        self.slots = make_slots(self.memory, height, width)

    def end(self) -> int:
        """Ends the process, and gives its exit status."""
        self.slots.clear()
        self.is_over = True
        self.resources.close()
        if self.owner == os.getpid():
            # one that died by itself says why
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.2)
            self.process.kill()
            return self.process.wait()
        return 0


idle: dict[tuple[int, VideoLimits], list[Worker]] = {}
lock = threading.Lock()


def take_worker(limits: VideoLimits) -> Worker:
    with lock:
        workers = idle.get((os.getpid(), limits), [])
        while workers:
            worker = workers.pop()
            if worker.process.poll() is None:
                return worker
            worker.end()
    return Worker(limits)


def give_back(worker: Worker) -> None:
    """Keeps a worker for the next video, if it is alive and closes this one."""
    worker.slots = []
    if worker.is_over:
        return
    try:
        worker.ask({"close": None})
    except VideoDecodingError:
        worker.end()
        return
    with lock:
        idle.setdefault((worker.owner, worker.limits), []).append(worker)


@atexit.register
def end_workers() -> None:
    for (owner, _), workers in idle.items():
        if owner == os.getpid():
            for worker in workers:
                worker.process.kill()
                worker.end()


# In the worker


class SharedFrames(FrameBuffer):
    """Lays frames into memory that the other process sees, and tells it."""

    # what was shared for earlier videos
    memory: mmap.mmap | None = None

    def __init__(self, num_frames: int, line: socket.socket):
        super().__init__(num_frames)
        self.line = line
        self.slots: list[torch.Tensor] = []
        self.free: list[int] = []

    def put(self, position: int, image: torch.Tensor) -> None:
        if not self.slots:
            height, width = image.shape[1:]
            send(self.line, {"shape": [height, width]})
            message, files = receive(self.line)
            if files:
                SharedFrames.memory = mmap.mmap(files[0], message["memory"])
                os.close(files[0])
            assert SharedFrames.memory is not None
            self.slots = make_slots(SharedFrames.memory, height, width)
            self.free = list(range(NUM_SLOTS))
        if not self.free:
            self.wait()
        slot = self.free.pop()
        # rows of pixels, which torch would copy one by one
        np.copyto(self.slots[slot].permute(1, 2, 0).numpy(), image.permute(1, 2, 0).numpy())
        self.is_filled[position] = True
        send(self.line, {"position": position, "slot": slot})

    def wait(self) -> None:
        message, _ = receive(self.line)
        self.free.append(message["free"])

    def clear(self) -> None:
        self.finish()
        self.slots = []
        super().clear()

    def finish(self) -> None:
        """Waits until all frames have been seen."""
        while len(self.free) < len(self.slots):
            self.wait()


def serve(line_number: int, memory: int) -> None:
    """What a worker does: it answers until nobody asks any more."""
    import resource

    torch.set_num_threads(1)
    with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else contextlib.nullcontext() as file:
        used = int(file.read().split()[0]) * resource.getpagesize() if file else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    line = socket.socket(fileno=line_number)
    send(line, {})
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            with contextlib.ExitStack() as resources:
                answer_about_one_video(line, resources, memory)
            send(line, {})


def answer_about_one_video(line: socket.socket, resources: contextlib.ExitStack, memory: int) -> None:
    reader: VideoReader | None = None
    name = ""
    while True:
        message, files = receive(line)
        if "close" in message:
            return
        if "free" in message:
            # of a frame before an error
            continue
        try:
            if "open" in message:
                source = resources.enter_context(os.fdopen(files[0], "rb")) if files else message["open"]
                name = name_of(source)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    reader = resources.enter_context(VideoReader(source, VideoLimits(**message["limits"])))
                told = [text for warning in caught if (text := str(warning.message)).startswith(f"{name}: ")]
                answer = {
                    "metadata": describe(reader.metadata),
                    "warnings": [text.removeprefix(f"{name}: ") for text in told],
                }
            elif reader is None:
                answer = {"error": "nothing is open"}
            elif "seconds" in message:
                answer = {"seconds": reader.seconds().tolist()}
            else:
                answer = decode(reader, np.array(message["decode"], dtype=np.int64), line)
        except VideoDecodingError as error:
            answer = {"error": str(error).removeprefix(f"{name}: ")}
        except MemoryError:
            answer = {"error": f"decoding it takes more than {memory} bytes (`VideoLimits.max_memory`)."}
        send(line, answer)


def decode(reader: VideoReader, wanted: np.ndarray, line: socket.socket) -> dict[str, Any]:
    frames = SharedFrames(len(wanted), line)
    with reader.naming_errors():
        seconds = reader.decode(wanted, frames)
    frames.finish()
    return {"is_there": frames.is_there.tolist(), "seconds": None if seconds is None else seconds.tolist()}


def describe(metadata: VideoFileMetadata) -> dict[str, Any]:
    names = ("total_num_frames", "fps", "width", "height", "duration", "video_backend", "start_seconds")
    return {name: getattr(metadata, name) for name in names}


__all__ = ["IsolatedVideoReader"]
