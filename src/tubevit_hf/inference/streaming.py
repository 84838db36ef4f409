# SPDX-License-Identifier: Apache-2.0
"""Scores while a video is filmed: the same windows as those of a timeline, each as soon as it is complete.

A window is complete when a frame comes that is shown at its end or later. Until then its frames wait as they came;
they are prepared when it is scored.
"""

import os
import threading
import time as clock
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import av
import numpy as np
import torch

from ..model.video_decoding_tubevit import FrameBuffer, VideoDecodingError, VideoLimits, choose_stream
from ..model.video_index_tubevit import FORMATS_WITHOUT_PTS, read_time_base
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from ..model.video_sampling_tubevit import ROUNDING
from ..model.video_sources_tubevit import FORMATS, name_of
from .windows import Classifier, FrameState, WindowScorer, check_seconds, count_windows


# what a stream at an address may use; never files, to which a stranger's stream could lead
PROTOCOLS = ("http", "https", "httpproxy", "rtmp", "rtmps", "rtp", "srt", "srtp", "tcp", "tls", "udp")
STREAM_FORMATS = (*FORMATS, "mpjpeg", "rtp", "rtsp", "sdp")
# a clock that goes back by more seconds has begun anew
SET_BACK = 1.0

# RGB, uint8, `(height, width, 3)`, or as PyAV decodes it
VideoFrame = np.ndarray | av.VideoFrame


class StreamResult(NamedTuple):
    """Scores of a window of a stream.

    Args:
        start, end: in seconds after the first frame.
        scores: probabilities of the classes, `(labels,)`, float32.
        label: the most likely class.
        dropped: frames that came after the result before and were not looked at.
        skipped: windows between the result before and this one that were not scored.
    """

    start: float
    end: float
    scores: np.ndarray
    label: str
    dropped: int = 0
    skipped: int = 0


@dataclass(eq=False)
class Frame:
    """A frame as it came; brought near to its final size once a window has it; at last what the model needs of it."""

    frame: VideoFrame | None
    image: torch.Tensor | None = None
    state: FrameState | None = None


@dataclass
class OpenWindow:
    number: int
    frames: list[Frame] = field(default_factory=list)


class StreamingClassifier:
    """Classifies windows of a stream, as [`scan_timeline`] does those of a file: the same frames at the same times
    give the same scores.

    ```python
    classifier = StreamingClassifier(model, processor, window=2.0, every=0.5)
    for result in classifier.run("rtsp://camera.example/stream"):
        print(f"{result.end:.1f} s: {result.label}")
    ```

    Args:
        model: a classifier; it is put into evaluation mode.
        processor: its video processor.
        window: length of a window in seconds.
        every: from the start of one window to that of the next, in seconds.
        num_frames: of a window; by default the model's.
        reuse: as of [`scan_timeline`].

    Raises:
        ValueError: `window` or `every` is not above 0, or the model gives no scores of classes.
    """

    def __init__(
        self,
        model: Classifier,
        processor: TubeViTVideoProcessor,
        window: float,
        every: float,
        num_frames: int | None = None,
        reuse: bool = True,
    ):
        check_seconds(window=window, every=every)
        self.scorer = WindowScorer(model, processor, num_frames, reuse)
        self.window, self.every = window, every
        self.reset()

    def reset(self) -> None:
        """Forgets the stream; the next frame is the first of another one."""
        self.windows: deque[OpenWindow] = deque()
        self.num_windows = self.num_frames = 0
        # of the last frame, after the first one's
        self.first_time = self.time = 0.0
        self.frame: Frame | None = None
        self.shape: tuple[int, ...] | None = None
        self.buffer = FrameBuffer(1, self.scorer.make_shrink())

    def push(self, frame: VideoFrame, time: float) -> list[StreamResult]:
        """Takes the next frame; gives what windows are complete with it.

        Args:
            frame: `(height, width, 3)`, RGB, uint8, or a frame of PyAV.
            time: when it is shown, in seconds; the first may have any.

        Raises:
            ValueError: the frame is none, is of another size than the first, or does not come after the one before.
        """
        return [self.score(window) for window in self.take(frame, time)]

    def finish(self) -> list[StreamResult]:
        """The stream is over: gives what windows lie wholly in it, if its last frame is shown as long as the others
        on average, and forgets it."""
        seconds = self.time * self.num_frames / max(1, self.num_frames - 1)
        num_windows = count_windows(seconds, self.window, self.every)
        self.show_until(seconds)
        results = []
        for window in self.windows:
            if window.number < num_windows:
                assert self.frame is not None
                window.frames += [self.keep(self.frame)] * (self.scorer.num_frames - len(window.frames))
                results.append(self.score(window))
        self.reset()
        return results

    def run(
        self,
        source: str | os.PathLike[str] | Iterable[tuple[VideoFrame, float]],
        live: bool | None = None,
        timeout: float = 10.0,
        max_delay: float | None = None,
    ) -> Generator[StreamResult, None, None]:
        """Results of a stream until it ends.

        Where the model cannot keep up with a live stream, windows are passed over, and then the oldest frames are
        dropped: each result counts both, and the first time there is a warning.

        Args:
            source: what [`open_stream`] opens, or frames with their times, as `push` takes them.
            live: whether the source does not wait. By default an address or a device does not, a file and frames do.
            timeout: seconds that a live source may give nothing.
            max_delay: seconds of a live stream that wait for the model at most; by default `every`.

        Raises:
            TimeoutError: a live source gives nothing for too long.
            VideoDecodingError: it cannot be opened or read.
            ValueError: as of `push`.
        """
        max_delay = self.every if max_delay is None else max_delay
        check_seconds(timeout=timeout, max_delay=max_delay)
        self.reset()
        if isinstance(source, (str, os.PathLike)):
            live = is_live(source) if live is None else live
            source = open_stream(source, timeout)
        if not live:
            for frame, time in source:
                yield from self.push(frame, time)
            yield from self.finish()
            return
        inbox = Inbox(iter(source), max_delay)
        try:
            yield from self.empty(inbox, timeout)
        finally:
            inbox.close()

    def empty(self, inbox: "Inbox", timeout: float) -> Iterator[StreamResult]:
        """Results of what comes in, the last of the windows that are complete at a time."""
        dropped = skipped = 0
        is_warned = False
        while frames := inbox.take(timeout):
            due = [window for frame, time in frames for window in self.take(frame, time)]
            dropped += inbox.count_dropped()
            if not due:
                continue
            skipped += len(due) - 1
            if (dropped or skipped) and not is_warned:
                is_warned = True
                warnings.warn(
                    f"the model cannot keep up with the stream: {skipped} windows were passed over and {dropped} "
                    "frames dropped. Each result counts them; a larger `every` or a smaller model helps.",
                    stacklevel=3,
                )
            yield self.score(due[-1])._replace(dropped=dropped, skipped=skipped)
            dropped = skipped = 0
        yield from self.finish()[-1:]

    def take(self, frame: VideoFrame, time: float) -> list[OpenWindow]:
        """Takes the next frame; gives the windows that are complete with it."""
        self.check(frame)
        if self.frame is None:
            self.first_time = time
        time -= self.first_time
        if self.frame is not None and not time > self.time:
            raise ValueError(
                f"frames must come in order: this one is shown {time:g} seconds after the first, and the one before "
                f"{self.time:g}."
            )
        self.show_until(time)
        # whoever gives an array may write the next frame into it
        self.frame = Frame(frame.copy() if isinstance(frame, np.ndarray) else frame)
        self.time = time
        self.num_frames += 1
        complete = []
        while self.windows and self.is_complete(self.windows[0]):
            complete.append(self.windows.popleft())
        return complete

    def check(self, frame: VideoFrame) -> None:
        if isinstance(frame, av.VideoFrame):
            # one of another size is brought to that of the first
            return
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame must be (height, width, 3), uint8, got {frame.shape}, {frame.dtype}.")
        if self.shape not in (None, frame.shape):
            raise ValueError(f"frames must be of one size; the first is {self.shape}, and this one {frame.shape}.")
        self.shape = frame.shape

    def show_until(self, time: float) -> None:
        """The last frame is on the screen until then, and so belongs to what windows sample before."""
        while self.num_windows * self.every + ROUNDING < time:
            self.windows.append(OpenWindow(self.num_windows))
            self.num_windows += 1
        for window in self.windows:
            while len(window.frames) < self.scorer.num_frames and self.next_sample(window) + ROUNDING < time:
                assert self.frame is not None
                window.frames.append(self.keep(self.frame))

    def next_sample(self, window: OpenWindow) -> float:
        """When the next frame of a window is sampled, see `sample_times`."""
        return window.number * self.every + len(window.frames) * (self.window / self.scorer.num_frames)

    def is_complete(self, window: OpenWindow) -> bool:
        is_over = window.number * self.every + self.window <= self.time + ROUNDING
        return is_over and len(window.frames) == self.scorer.num_frames

    def keep(self, frame: Frame) -> Frame:
        """Brings a frame that a window has near to its final size, once."""
        if frame.frame is not None:
            if isinstance(frame.frame, av.VideoFrame):
                self.buffer.add(0, frame.frame)
            else:
                self.buffer.put(0, torch.from_numpy(np.ascontiguousarray(frame.frame)).permute(2, 0, 1))
            assert self.buffer.images is not None
            frame.image, frame.frame = self.buffer.images[0].clone(), None
        return frame

    def score(self, window: OpenWindow) -> StreamResult:
        # of several places in the window, a frame is prepared once
        new = {id(frame): frame for frame in window.frames if frame.state is None}.values()
        if new:
            images = [frame.image for frame in new if frame.image is not None]
            for frame, state in zip(new, self.scorer.prepare(images)):
                frame.state, frame.image = state, None
        scores = self.scorer.score([[frame.state for frame in window.frames if frame.state is not None]])[0]
        start = window.number * self.every
        return StreamResult(start, start + self.window, scores, self.scorer.labels[int(scores.argmax())])


class Inbox:
    """Frames that wait, while a thread brings more. Once they span more than `max_delay` seconds, the oldest go."""

    def __init__(self, frames: Iterator[tuple[VideoFrame, float]], max_delay: float):
        self.frames: deque[tuple[VideoFrame, float]] = deque()
        self.max_delay = max_delay
        self.num_dropped = 0
        self.error: Exception | None = None
        self.is_over = self.is_closed = False
        self.changed = threading.Condition()
        threading.Thread(target=self.fill, args=[frames], daemon=True).start()

    def fill(self, frames: Iterator[tuple[VideoFrame, float]]) -> None:
        try:
            for frame, time in frames:
                with self.changed:
                    self.frames.append((frame, time))
                    while time - self.frames[0][1] > self.max_delay:
                        self.frames.popleft()
                        self.num_dropped += 1
                    self.changed.notify()
                    if self.is_closed:
                        break
        except Exception as error:
            # raised where the frames are taken
            self.error = error
        finally:
            # what was opened is closed by the thread that opened it
            if isinstance(frames, Generator):
                frames.close()
            with self.changed:
                self.is_over = True
                self.changed.notify()

    def take(self, timeout: float) -> list[tuple[VideoFrame, float]]:
        """All that waits; nothing if the stream is over."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.frames or self.is_over, timeout):
                raise TimeoutError(f"the stream gave no frame for {timeout:g} seconds (`timeout`).")
            frames = list(self.frames)
            self.frames.clear()
            if not frames and self.error is not None:
                raise self.error
            return frames

    def count_dropped(self) -> int:
        """Frames that were dropped since the last call."""
        with self.changed:
            dropped, self.num_dropped = self.num_dropped, 0
        return dropped

    def close(self) -> None:
        with self.changed:
            self.is_closed = True


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether it is an address or a device, which do not wait."""
    path = os.fspath(source)
    return "://" in path or path.startswith("/dev/")


def open_stream(
    source: str | os.PathLike[str],
    timeout: float = 10.0,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Generator[tuple[av.VideoFrame, float], None, None]:
    """Frames of a camera, an address or a file as they come, with their times in seconds.

    An address may use the usual protocols of streams, and never leads to files. A frame of one that says no time gets
    that at which it came.

    Args:
        source: path of a file; address, such as `rtsp://...`, `rtmp://...`, `udp://...` or `http://...`; device, such
            as `/dev/video0`.
        timeout: seconds that an address may be silent.
        format: FFmpeg's name of a kind of device, such as `"avfoundation"` or `"dshow"`; for `/dev/video` it is known.
        options: of FFmpeg, such as `{"rtsp_transport": "udp"}` or `{"video_size": "1280x720"}`.

    Raises:
        TimeoutError: the address is silent for too long.
        VideoDecodingError: it cannot be opened or read, or its clock goes back.
    """
    path = os.fspath(source)
    name = name_of(path)
    limits = VideoLimits.from_environment()
    settings = limits.container_options()
    if "://" in path:
        settings["protocol_whitelist"] = ",".join(PROTOCOLS)
        settings["format_whitelist"] = ",".join(STREAM_FORMATS)
        settings["rtsp_flags"] = "prefer_tcp"
    elif path.startswith("/dev/video"):
        format = format or "video4linux2"
    if format is not None:
        # the user names it
        settings["format_whitelist"] = format
    elif "://" not in path:
        # without this, FFmpeg would take what stands before a colon for a protocol
        path = f"file:{path}"
    try:
        with av.open(path, format=format, options={**settings, **(options or {})}, timeout=timeout) as container:
            yield from read_stream(container, limits, is_file=not is_live(source))
            return
    except av.error.ExitError:
        refusal = TimeoutError(f"{name}: it was silent for {timeout:g} seconds (`timeout`).")
    except av.error.FFmpegError as error:
        refusal = VideoDecodingError(f"{name}: FFmpeg cannot read it ({error.strerror}).")
    except VideoDecodingError as error:
        raise VideoDecodingError(f"{name}: {error}") from error
    # without FFmpeg's error, which tells the whole address, with its password
    raise refusal


def read_stream(
    container: av.container.InputContainer, limits: VideoLimits, is_file: bool
) -> Generator[tuple[av.VideoFrame, float], None, None]:
    stream = choose_stream(container, limits)
    # one frame at a time: threads over several hold frames back
    stream.codec_context.thread_type = "SLICE"
    stream.codec_context.options = limits.decoder_options()
    time_base = read_time_base(stream)
    # what stores no times or wrong ones is counted, as `VideoReader` does
    rate = stream.average_rate or stream.guessed_rate
    has_no_times = container.format.name in FORMATS_WITHOUT_PTS and stream.codec_context.has_b_frames
    last = None
    for number, frame in enumerate(decode(container, stream)):
        if rate and (has_no_times or (is_file and frame.pts is None)):
            time = number / float(rate)
        else:
            # the last frames do not know their time base
            time = clock.monotonic() if frame.pts is None else float(frame.pts * time_base)
        if last is not None and time < last - SET_BACK:
            raise VideoDecodingError(f"its clock went back, from {last:g} to {time:g} seconds; open it again.")
        # a frame that is shown no later than another is not shown
        if last is None or time > last:
            last = time
            yield frame, time


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded."""
    for packet in container.demux(stream):
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except av.error.InvalidDataError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)
