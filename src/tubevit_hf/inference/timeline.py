# SPDX-License-Identifier: Apache-2.0
"""Scores over the time of a video of any length: it is decoded once, and memory does not grow with it.

Frames are taken as they come from the decoder. One that a window needs is prepared and kept until the last window that
has it is scored.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..model.video_decoding_tubevit import (
    ABSENT,
    DAMAGED,
    FrameBuffer,
    FrameTransform,
    StandIn,
    VideoDecodingError,
    VideoLimits,
    VideoReader,
)
from ..model.video_index_tubevit import UnreliableTimestampsError
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from ..model.video_sampling_tubevit import duration, frames_shown_at
from ..model.video_sources_tubevit import VideoSource
from .running import choose_batch_size
from .windows import Classifier, FrameState, WindowScorer, check_seconds, count_windows, sample_times


# Wanted frames that are decoded after one seek, at least. For so long a damaged frame is waited for: it may come in a
# second try
PART_FRAMES = 64
# frames that go through the processor together
AT_ONCE = 8


@dataclass
class Timeline:
    """Scores over the time of a video.

    Args:
        times: start and end of each window, `(windows, 2)`, in seconds after the first frame.
        scores: probabilities of the classes in each, `(windows, labels)`; NaN for a window more than half of whose
            frames cannot be decoded.
        labels: names of the classes.
        seconds: length of the video.
        stand_ins: frames that could not be decoded, and what is there instead.
        start_seconds: when the first frame is shown, in seconds after the beginning of the file as players count it:
            above 0 where the sound begins before the picture. Players show what is at a time so much later.
    """

    times: np.ndarray
    scores: np.ndarray
    labels: list[str]
    seconds: float
    stand_ins: list[StandIn]
    start_seconds: float = 0.0

    @property
    def lost(self) -> np.ndarray:
        """Start and end of the windows without scores, `(lost windows, 2)`."""
        return self.times[np.isnan(self.scores).any(axis=1)]


def scan_timeline(
    model: Classifier,
    processor: TubeViTVideoProcessor,
    video: VideoSource,
    window: float,
    stride: float,
    num_frames: int | None = None,
    batch_size: int | None = None,
    reuse: bool = True,
    progress: bool = False,
    limits: VideoLimits | None = None,
) -> Timeline:
    """Classifies windows of a video, which begin every `stride` seconds and lie wholly in it.

    A window gets the scores of a clip of its frames: those shown at `num_frames` moments, evenly from its start on.

    Args:
        model: a classifier; it is put into evaluation mode.
        processor: its video processor.
        video: path, http(s) URL, bytes or seekable binary file object.
        window: length of a window in seconds.
        stride: from the start of one window to that of the next, in seconds.
        num_frames: of a window; by default the model's.
        batch_size: windows that go through the model together; by default 1 on a CPU, else 8.
        reuse: whether layers before a `joint_layer` run once for each frame instead of for each window; it changes
            nothing but the time. Other models have no such layers.
        progress: whether a bar on stderr shows how far it is.
        limits: what the video may be and take; by default what the environment says.

    Returns:
        The scores. Of frames that cannot be decoded it tells, with a warning: for each stands in the nearest of all
        frames that windows have, where `read_video` takes the nearest of those of one clip.

    Raises:
        VideoDecodingError: `video` is no video, tells neither times nor a frame rate, or no window can be decoded.
        ValueError: `window` or `stride` is not above 0, or the video is shorter than a window.
    """
    check_seconds(window=window, stride=stride)
    batch_size = choose_batch_size(model.device, batch_size)
    scorer = WindowScorer(model, processor, num_frames, reuse)
    with VideoReader(video, limits) as reader, tqdm(unit="window", disable=not progress) as bar:
        scan = Scan(reader, scorer, window, stride, batch_size, bar)
        while not scan.run():
            # the file is wrong about where its frames are, and they have other numbers than was thought
            scan = Scan(reader, scorer, window, stride, batch_size, bar)
        return scan.finish()


class Scan:
    """One pass over a video.

    Args:
        reader: of the video.
        scorer: of its windows.
        window, stride: in seconds.
        batch_size: windows that are scored together.
        bar: that shows how many are.
    """

    def __init__(
        self,
        reader: VideoReader,
        scorer: WindowScorer,
        window: float,
        stride: float,
        batch_size: int,
        bar: "tqdm[Any]",
    ):
        self.reader, self.scorer, self.batch_size, self.bar = reader, scorer, batch_size, bar
        seconds = reader.seconds()
        self.index, self.seconds = reader.index, duration(seconds)
        num_windows = count_windows(self.seconds, window, stride)
        if num_windows == 0:
            what = "one frame, as an image has" if len(seconds) == 1 else f"{self.seconds:.3g} seconds"
            raise ValueError(
                f"{reader.name}: it has {what}, and a window {window:g} seconds: choose a shorter `window`, or a "
                "longer video."
            )
        self.starts = np.arange(num_windows) * stride
        self.window = window
        shown = frames_shown_at(seconds, sample_times(self.starts, window, scorer.num_frames).ravel())
        # wanted frames in ascending order, and of each window the places among them
        self.wanted, places = np.unique(shown, return_inverse=True)
        self.places = places.reshape(num_windows, scorer.num_frames)
        self.transform = scorer.make_shrink()
        bar.reset(num_windows)
        self.begin()

    def begin(self) -> None:
        """Nothing is known of any window."""
        self.scores = np.full((len(self.starts), len(self.scorer.labels)), np.nan, dtype=np.float32)
        self.states: dict[int, FrameState] = {}
        self.unprepared: dict[int, torch.Tensor] = {}
        self.batch: list[tuple[int, list[FrameState]]] = []
        self.next_window = 0
        self.stand_ins: dict[int, StandIn] = {}
        # as far as the index tells
        self.is_there = np.ones(len(self.wanted), dtype=bool)
        self.bar.reset()

    def run(self) -> bool:
        """Decodes and scores; false if the file must be scanned anew."""
        for start, stop in self.split():
            stream = FrameStream(stop - start, self.transform, partial(self.receive, start), self.begin)
            with self.reader.naming_errors():
                self.decode(self.wanted[start:stop], stream)
            if self.reader.index is not self.index:
                return False
            self.is_there[start:stop] = stream.is_there
            self.prepare()
            self.advance(stop - 1, patience=0)
        self.flush()
        return True

    def finish(self) -> Timeline:
        if np.isnan(self.scores).all():
            raise VideoDecodingError(
                f"{self.reader.name}: of no window half of the frames can be decoded; the file is damaged."
            )
        num_lost = np.isnan(self.scores).all(axis=1).sum()
        if self.stand_ins or num_lost:
            warnings.warn(
                f"{self.reader.name}: {len(self.stand_ins)} frames cannot be decoded, and the nearest stand in for "
                f"them; {num_lost} of {len(self.scores)} windows lack more than half of theirs, and have no scores.",
                stacklevel=3,
            )
        times = np.stack((self.starts, self.starts + self.window), axis=1)
        stand_ins = [self.stand_ins[place] for place in sorted(self.stand_ins)]
        start = self.reader.metadata.start_seconds
        return Timeline(times, self.scores, self.scorer.labels, self.seconds, stand_ins, start)

    def split(self) -> Iterator[tuple[int, int]]:
        """Parts of the wanted frames, none of which ends between two keyframes, so that nothing is decoded twice. All
        of them are one part where only the decoder tells frames apart."""
        start = 0
        while start < len(self.wanted):
            stop = len(self.wanted)
            if self.index is not None and start + PART_FRAMES < stop:
                stop = start + PART_FRAMES
                try:
                    group = self.index.find(int(self.wanted[stop - 1]))
                    stop = max(stop, int(np.searchsorted(self.wanted, group.first + len(group.pts))))
                except UnreliableTimestampsError:
                    pass  # the file ends before what its header lists
            yield start, stop
            start = stop

    def decode(self, wanted: np.ndarray, stream: "FrameStream") -> None:
        if self.reader.index is None:
            self.reader.decode(wanted, stream)
            return
        try:
            self.reader.decode_groups(wanted, stream)
        except UnreliableTimestampsError:
            # where others were decoded, a part without any frame is damaged
            if (self.next_window == 0 and not self.states) or stream.is_filled.any():
                self.reader.distrust_index()

    def receive(self, start: int, position: int, image: torch.Tensor) -> None:
        """Takes a frame of the part that begins at place `start`."""
        self.unprepared[start + position] = image
        if len(self.unprepared) == AT_ONCE:
            self.prepare()
            self.advance(start + position, patience=PART_FRAMES)

    def prepare(self) -> None:
        if self.unprepared:
            self.states |= zip(self.unprepared, self.scorer.prepare(list(self.unprepared.values())))
            self.unprepared.clear()

    def advance(self, newest: int, patience: int) -> None:
        """Takes what windows are complete, or have waited for `patience` frames behind theirs."""
        while self.next_window < len(self.places):
            places = self.places[self.next_window]
            if newest < places[-1] or (newest < places[-1] + patience and not self.states.keys() >= set(places)):
                break
            window = self.fill(places)
            if window is not None:
                self.batch.append((self.next_window, window))
            if len(self.batch) == self.batch_size:
                self.flush()
            self.next_window += 1
            self.bar.update()
        first = self.places[self.next_window, 0] if self.next_window < len(self.places) else np.inf
        for place in [place for place in self.states if place < first]:
            del self.states[place]

    def fill(self, places: np.ndarray) -> list[FrameState] | None:
        """The frames of a window, each missing one by the nearest that is there; `None` if more than half miss."""
        there = np.array(sorted(self.states))
        shown = places.copy()
        is_missing = np.array([place not in self.states for place in places])
        if 2 * is_missing.sum() > len(places):
            return None
        for place in np.unique(places[is_missing]):
            nearest = there[np.abs(self.wanted[there] - self.wanted[place]).argmin()]
            shown[places == place] = nearest
            reason = DAMAGED if self.is_there[place] else ABSENT
            self.stand_ins[place] = StandIn(int(self.wanted[place]), int(self.wanted[nearest]), reason)
        return [self.states[place] for place in shown]

    def flush(self) -> None:
        """Scores what windows wait."""
        if self.batch:
            numbers, windows = zip(*self.batch)
            self.scores[list(numbers)] = self.scorer.score(windows)
            self.batch.clear()


class FrameStream(FrameBuffer):
    """Hands decoded frames on and keeps none.

    Args:
        num_frames: that are wanted.
        transform: of each frame.
        receive: takes the place among the wanted frames, and the frame.
        restart: all that came was wrong, and comes again.
    """

    def __init__(
        self,
        num_frames: int,
        transform: FrameTransform | None,
        receive: Callable[[int, torch.Tensor], None],
        restart: Callable[[], None],
    ):
        super().__init__(num_frames, transform)
        self.receive, self.restart = receive, restart

    def put(self, position: int, image: torch.Tensor) -> None:
        shrunk = image if self.transform is None else self.transform(image)
        self.is_filled[position] = True
        # memory of the decoder's, which lays the next frame there
        self.receive(position, shrunk.clone() if shrunk is image else shrunk)

    def clear(self) -> None:
        super().clear()
        self.restart()
