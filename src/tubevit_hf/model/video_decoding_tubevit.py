# SPDX-License-Identifier: Apache-2.0
"""Video decoding with PyAV, whose wheels carry FFmpeg: nothing else has to be installed."""

import contextlib
import http.client
import math
import os
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple, SupportsIndex

import av
import numpy as np
import torch
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter
from transformers.video_utils import VideoMetadata

from .video_colours_tubevit import convert, name_unknown_matrix
from .video_index_tubevit import (
    FrameClock,
    FrameGroup,
    HeaderIndex,
    ScannedIndex,
    UnreliableTimestampsError,
    index_frames,
    may_have_no_frame,
    read_from_keyframe,
    read_packets,
    to_seconds,
)
from .video_sources_tubevit import (
    VideoDecodingError,
    VideoLimits,
    VideoSource,
    name_of,
    open_container,
    open_source,
)


# Decoding this many frames that nobody asked for takes about as long as seeking past them
SEEK_COST = 4
# frames that can be asked for at once, of a video that has fewer: an hour's at 30 a second, and more
MAX_INDICES = 2**17
# Pixels from which on a frame is large: more than 4K video has
LARGE_FRAME = 4096 * 2304
# Packets after which a decoder of many threads has given a frame, whatever comes
PATIENCE = 64
# Codecs where no other frame needs one that is marked as no reference, so that it is decoded only if it is wanted. (In
# HEVC, frames of a higher temporal layer may need it.)
CODECS_THAT_SKIP = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
# Decoders of FFmpeg 8 that a damaged file crashes when their threads work on several frames at once
CODECS_WITHOUT_FRAME_THREADS = {"vp9"}


class StandIn(NamedTuple):
    """A frame that could not be decoded: its number, that of the frame shown instead, and why."""

    index: int
    shown: int
    reason: str


class FrameIndex(NamedTuple):
    """Where the frames of a file are, as [`VideoReader`] found out; it can be pickled.

    Args:
        file_size: in bytes, of the file that it is of.
        num_frames: of the file.
        groups: that were found by reading the file through, if it had to be.
        is_ordered: whether timestamps tell the frames apart.
        times: when each frame is shown, on the file's clock in seconds, where they do not.
    """

    file_size: int
    num_frames: int
    groups: ScannedIndex | None
    is_ordered: bool
    times: np.ndarray | None = None


@dataclass
class VideoFileMetadata(VideoMetadata):
    """Metadata of a video file, whose frame rate may vary.

    Args:
        frame_seconds: when each sampled frame is shown, in seconds after the first frame of the file.
        all_frame_seconds: gives the same for all frames, `(total_num_frames,)`; only while the file is open.
        stand_ins: sampled frames that could not be decoded, and what is there instead.
        start_seconds: when the first frame is shown, in seconds after the file's beginning as players count it: above
            0 where the sound begins before the picture.
    """

    frame_seconds: list[float] | None = field(default=None, repr=False)
    all_frame_seconds: Callable[[], np.ndarray] | None = field(default=None, repr=False)
    stand_ins: list[StandIn] = field(default_factory=list)
    start_seconds: float = 0.0

    @property
    def timestamps(self) -> list[float]:
        return super().timestamps if self.frame_seconds is None else self.frame_seconds


# why a frame is not there
DAMAGED = "its data are damaged"
ABSENT = "the file ends before it"
# what is done with a frame, `(3, height, width)`, before it is kept
FrameTransform = Callable[[torch.Tensor], torch.Tensor]


class Target(NamedTuple):
    """A wanted frame: its place among all wanted, its number, when it is shown, and the group it belongs to."""

    position: int
    index: int
    pts: int
    group: FrameGroup


def read_video(
    source: VideoSource,
    indices: Sequence[int] | np.ndarray | Callable[[VideoFileMetadata], Sequence[int] | np.ndarray] | None = None,
    limits: VideoLimits | None = None,
    transform: FrameTransform | None = None,
) -> tuple[torch.Tensor, VideoFileMetadata]:
    """Decodes chosen frames of a video.

    Args:
        source: path, http(s) URL, bytes or seekable binary file object.
        indices: numbers of the wanted frames, from 0, in any order and possibly repeated, or a function that gives
            them for the file's metadata. `None` wants all frames.
        limits: what the video may be and take; by default what the environment says.
        transform: what is done with each frame, `(3, height, width)`, as it is decoded, so that no more than a few are
            there in full size. It must give all frames the same size.

    Returns:
        `(num_frames, 3, height, width)`, uint8 RGB, and the metadata with `frames_indices` set. A frame that cannot be
        decoded is replaced by the nearest one, with a warning.

    Raises:
        VideoDecodingError: `source` is no video, or less than half of the wanted frames can be decoded.
        IndexError: a wanted frame lies outside the video.
    """
    with VideoReader(source, limits) as reader:
        if indices is None:
            indices = range(reader.metadata.total_num_frames)
        elif callable(indices):
            indices = indices(reader.metadata)
        return reader.get_frames(indices, transform)


class VideoReader:
    """Random access to the frames of a video, to be used in a `with` statement.

    The best video stream is read. Frames are turned and mirrored as the file says; alpha is dropped, and interlaced
    frames stay woven. `metadata` has the true number of frames, also where the file's header is silent.

    Args:
        source: path, http(s) URL, bytes or seekable binary file object.
        limits: what the video may be and take; by default what the environment says, see [`VideoLimits`].
        index: the `frame_index` of an earlier reader of the same file: a long file is not read through again.

    Raises:
        VideoDecodingError: `source` is no video, more than the limits allow, or another file than `index` is of.
    """

    # only while the file is open
    container: av.container.InputContainer | None = None
    stream: av.VideoStream | None = None
    index: HeaderIndex | ScannedIndex | None = None
    # when each frame is shown, on the file's clock in seconds, as far as only decoding told
    times: np.ndarray | None = None
    # of the decoder; `None` for as many as suit the file
    num_threads: int | None = None
    # whether the decoder refused a packet since the last read of all frames began
    met_damage: bool = False

    def __new__(
        cls, source: VideoSource, limits: VideoLimits | None = None, index: FrameIndex | None = None
    ) -> "VideoReader":
        limits = VideoLimits.from_environment() if limits is None else limits
        if cls is VideoReader and limits.isolated:
            from .video_isolation_tubevit import IsolatedVideoReader

            return object.__new__(IsolatedVideoReader)
        return object.__new__(cls)

    def __init__(self, source: VideoSource, limits: VideoLimits | None = None, index: FrameIndex | None = None):
        self.name = name_of(source)
        self.limits = VideoLimits.from_environment() if limits is None else limits
        with self.naming_errors(), contextlib.ExitStack() as resources:
            self.file = open_source(source, resources, self.limits)
            resources.callback(self.close_container)
            self.open_container()
            num_frames = self.find_frames(index)
            if num_frames == 0:
                raise VideoDecodingError("the video stream holds no frames.")
            self.metadata = self.read_metadata(num_frames)
            self.warn_of_colours()
            # all went well: what is open stays open until `close`
            self.resources = resources.pop_all()

    def find_frames(self, known: FrameIndex | None) -> int:
        """Sets the index, and gives the number of frames."""
        assert self.container is not None and self.stream is not None
        self.file_size = self.container.size
        if known is not None and known.file_size != self.file_size:
            raise VideoDecodingError(
                f"the index that was handed in is of another file, of {known.file_size} bytes; this one has "
                f"{self.file_size}."
            )
        if known is not None and (known.groups is not None or not known.is_ordered):
            self.index, self.times = known.groups, known.times
            return known.num_frames
        try:
            path = self.file.removeprefix("file:") if isinstance(self.file, str) else None
            self.index = index_frames(self.container, self.stream, path)
            if len(self.index.leading):
                self.index.show_leading(self.find_leading())
            return self.index.num_frames
        except UnreliableTimestampsError:
            return self.find_times()

    def find_leading(self) -> set[int]:
        """Times of the frames shown before the first keyframe that can be decoded all the same: they refer to none, or
        to that one only."""
        assert self.index is not None
        group = self.index.group(0)
        given: set[int] = set()
        for packet in self.read_group(group):
            frames = self.decode_packet(packet)
            given |= {frame.pts for frame in frames if frame.pts is not None}
            if given and max(given) >= group.keyframe_pts:
                break
        return given

    def find_times(self) -> int:
        """Decodes all frames to find when each is shown; gives their number. There is no index then."""
        self.open_container()
        assert self.container is not None and self.stream is not None
        clock = FrameClock(self.container, self.stream)
        for frame in self.decode_all():
            clock.read(frame)
        self.times = clock.seconds()
        return len(clock.stamps)

    @property
    def frame_index(self) -> FrameIndex:
        """Where the frames are, for another reader of the same file."""
        # what FFmpeg brought along with packets cannot be kept, only read again
        groups = self.index if isinstance(self.index, ScannedIndex) and not self.index.changes else None
        return FrameIndex(self.file_size, self.metadata.total_num_frames, groups, self.index is not None, self.times)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.resources.close()
        self.metadata.all_frame_seconds = None

    @contextlib.contextmanager
    def naming_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (VideoDecodingError, av.error.FFmpegError, OSError, http.client.HTTPException) as error:
            if isinstance(error, VideoDecodingError):
                message, cause = str(error), error.__cause__
            elif isinstance(error, av.error.FFmpegError):
                message, cause = f"FFmpeg cannot read it ({error.strerror}).", error
            else:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                message, cause = f"it cannot be read ({reason}).", error
            # their variables hold the decoder, see `close_container`
            traceback.clear_frames(error.__traceback__)
            raise VideoDecodingError(f"{self.name}: {message}") from cause

    def open_container(self) -> None:
        """Opens the file at its beginning, again if it was open; there is no index then."""
        self.close_container()
        self.container = open_container(self.file, self.limits)
        self.stream = choose_stream(self.container, self.limits)
        for stream in self.container.streams:
            if stream is not self.stream:
                stream.discard = Discard.all
        context = self.stream.codec_context
        context.options = self.limits.decoder_options()
        # By default PyAV lets threads share a frame's slices, which most files don't have: whole frames at once help
        # more. The workers of a DataLoader share the cores already.
        context.thread_type = "SLICE" if context.name in CODECS_WITHOUT_FRAME_THREADS else "AUTO"
        is_worker = torch.utils.data.get_worker_info() is not None
        # each thread holds a frame
        is_large = self.stream.width * self.stream.height > LARGE_FRAME
        num_threads = 1 if is_worker else min(2, os.cpu_count() or 1) if is_large else 0
        context.thread_count = num_threads if self.num_threads is None else self.num_threads

    def close_container(self) -> None:
        if self.container is not None:
            self.container.close()
        # Nothing must keep the decoder alive, be it a cycle or the traceback of an error: only the process that began
        # its threads can end them, and a worker forked in the meantime would crash when it collects garbage.
        self.container = self.stream = self.index = None

    def read_metadata(self, num_frames: int) -> VideoFileMetadata:
        assert self.stream is not None
        rate = self.stream.average_rate or self.stream.guessed_rate
        fps = float(rate) if rate else None
        seconds = self.known_seconds()
        if seconds is not None and num_frames > 1 and seconds[-1] > 0:
            measured = (num_frames - 1) / float(seconds[-1])
            # headers often have a wrong rate, or count how long the last frame stays
            fps = fps if fps and math.isclose(fps, measured, rel_tol=1e-6) else measured
        return VideoFileMetadata(
            total_num_frames=num_frames,
            fps=fps,
            width=self.stream.width,
            height=self.stream.height,
            duration=num_frames / fps if fps else None,
            video_backend="pyav",
            all_frame_seconds=self.seconds,
            start_seconds=self.find_start(),
        )

    def warn_of_colours(self) -> None:
        assert self.stream is not None
        context = self.stream.codec_context
        matrix = name_unknown_matrix(int(context.colorspace), context.format)
        if matrix is not None:
            warnings.warn(
                f"{self.name}: its colours are stored by a matrix that FFmpeg does not convert ({matrix}); the "
                "nearest is used, and they are a little off.",
                stacklevel=4,
            )

    def known_seconds(self) -> np.ndarray | None:
        """When each frame is shown, in seconds after the first, where no more has to be read to tell."""
        if self.index is None:
            return None if self.times is None else self.times - self.times[0]
        return self.index.listed_seconds()

    def find_start(self) -> float:
        """When the first frame is shown, in seconds after the earliest start of the file's streams."""
        assert self.container is not None
        if self.container.start_time is None:
            return 0.0
        if self.index is not None:
            start = to_seconds(self.index.first_pts, self.index.time_base)
        elif self.times is not None:
            start = float(self.times[0])
        else:
            return 0.0
        return max(0.0, start - self.container.start_time / av.time_base)

    def seconds(self) -> np.ndarray:
        """When each frame is shown, `(total_num_frames,)`, in seconds after the first.

        Raises:
            VideoDecodingError: the file tells neither times nor a frame rate.
        """
        total = self.metadata.total_num_frames
        if self.index is not None:
            try:
                with self.naming_errors():
                    return self.index.seconds()
            except UnreliableTimestampsError:
                self.index = None
        if self.times is None:
            with self.naming_errors():
                self.find_times()
        if self.times is None:
            raise VideoDecodingError(f"{self.name}: the file does not tell when its frames are shown.")
        # of a damaged file, the decoder gives other frames than were counted
        seconds = self.times[:total] - self.times[0]
        num_lost = total - len(seconds)
        return np.concatenate((seconds, seconds[-1] + np.arange(1, num_lost + 1) / (self.metadata.fps or np.inf)))

    def get_frames(
        self, indices: Sequence[int] | np.ndarray, transform: FrameTransform | None = None
    ) -> tuple[torch.Tensor, VideoFileMetadata]:
        """Decodes the frames of the given numbers; results and errors are those of [`read_video`]."""
        total = self.metadata.total_num_frames
        if len(indices) > max(MAX_INDICES, 2 * total):
            raise ValueError(
                f"{self.name}: {len(indices)} frames are wanted of a video that has {total}; at most {MAX_INDICES}, "
                "or each frame twice, are given."
            )
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim != 1 or len(indices) == 0:
            raise ValueError(f"{self.name}: the wanted frames must be a list of numbers, got {indices.tolist()}.")
        if indices.min() < 0 or indices.max() >= total:
            raise IndexError(f"{self.name} has the frames 0 to {total - 1}; {abbreviate(indices)} were asked for.")
        wanted, places = np.unique(indices, return_inverse=True)
        with self.naming_errors():
            frames = FrameBuffer(len(wanted), transform, self.limits.max_decoded)
            seconds = self.decode(wanted, frames)
            missing = indices[~frames.is_filled[places]].tolist()
            if 2 * len(missing) > len(indices):
                raise VideoDecodingError(
                    f"only {len(indices) - len(missing)} of the {len(indices)} wanted frames can be decoded; the file "
                    "is damaged or ends early."
                )
        stand_ins: list[StandIn] = []
        if missing:
            warnings.warn(
                f"{self.name}: {len(missing)} of the {len(indices)} wanted frames cannot be decoded, and the nearest "
                f"stand in for them. Missing: {abbreviate(missing)}.",
                stacklevel=3,
            )
            filled = np.flatnonzero(frames.is_filled)
            after = np.searchsorted(wanted[filled], wanted).clip(max=len(filled) - 1)
            before = (after - 1).clip(0)
            is_nearer = wanted - wanted[filled[before]] <= wanted[filled[after]] - wanted
            shown = filled[np.where(is_nearer, before, after)]
            stand_ins = [
                StandIn(int(wanted[place]), int(wanted[shown[place]]), DAMAGED if frames.is_there[place] else ABSENT)
                for place in np.flatnonzero(~frames.is_filled)
            ]
            places = shown[places]
        video = frames.images
        assert video is not None
        # frames that are in order and all there need no copy
        if len(places) != len(wanted) or (np.diff(places) != 1).any():
            video = video[torch.from_numpy(places)]
        metadata = replace(
            self.metadata,
            height=frames.height,
            width=frames.width,
            frames_indices=indices.tolist(),
            frame_seconds=None if seconds is None else seconds[places].tolist(),
            all_frame_seconds=None,
            stand_ins=stand_ins,
        )
        return video, metadata

    def decode(self, wanted: np.ndarray, frames: "FrameBuffer") -> np.ndarray | None:
        """Decodes frames, given in ascending order; gives the time of each in seconds, where the file tells."""
        while self.index is not None:
            try:
                return self.decode_groups(wanted, frames)
            except UnreliableTimestampsError:
                frames.clear()
                self.distrust_index()
        frames.clear()
        self.open_container()
        assert self.container is not None and self.stream is not None
        clock = FrameClock(self.container, self.stream)
        for index, frame in enumerate(self.decode_all()):
            clock.read(frame)
            position = np.searchsorted(wanted, index)
            if wanted[position] == index:
                frames.add(position, frame)
            if index == wanted[-1]:
                break
        times = clock.seconds() if self.times is None else self.times
        if times is None or len(times) == 0:
            return None
        return times[wanted.clip(max=len(times) - 1)] - times[0]

    def distrust_index(self) -> None:
        """Puts another index in the place of one that turned out wrong, or none."""
        assert self.index is not None
        is_checked = self.index.is_checked
        self.open_container()
        if not is_checked:
            # a damaged file, or one that is wrong about itself: FFmpeg tells what it can give
            assert self.container is not None and self.stream is not None
            with contextlib.suppress(UnreliableTimestampsError):
                self.index = ScannedIndex(self.container, self.stream)

    def decode_all(self) -> Iterator[av.VideoFrame]:
        """All frames from the beginning of the file, which has just been opened."""
        assert self.container is not None and self.stream is not None
        # packets that hold no frame of their own make the two numbers differ in sound files
        may_differ, num_packets, num_frames = False, 0, 0
        self.met_damage = False
        for packet in read_packets(self.container, self.stream):
            num_packets += 1
            may_differ |= may_have_no_frame(packet.size, self.stream)
            for frame in self.decode_packet(packet):
                num_frames += 1
                yield frame
        for frame in self.decode_packet(None):
            num_frames += 1
            yield frame
        lacks_frames = self.met_damage or (num_frames < num_packets and not may_differ)
        if lacks_frames and self.stream.codec_context.thread_count != 1:
            # an error ends the last output of several threads, which can hold sound frames
            self.num_threads = 1
            self.open_container()
            yield from islice(self.decode_all(), num_frames, None)

    def read_group(self, group: FrameGroup) -> Iterator["av.Packet[av.VideoStream]"]:
        """Packets from the keyframe of a group on."""
        assert self.container is not None and self.stream is not None and self.index is not None
        return read_from_keyframe(
            self.container, self.stream, self.index.changes, "pts", group.keyframe_pts, seek_time=group.keyframe_pts
        )

    def use_one_thread(self) -> None:
        """An error ends the last output of several threads, which can hold sound frames; of one thread, it costs a
        single frame."""
        assert self.index is not None
        index, self.num_threads = self.index, 1
        self.open_container()
        assert self.container is not None and self.stream is not None
        if isinstance(index, HeaderIndex):
            index.bind(self.container, self.stream)
        self.index = index

    def decode_packet(self, packet: "av.Packet[av.VideoStream] | None") -> list[av.VideoFrame]:
        """The frames that the decoder gives for a packet; `None` makes it give all that it still holds."""
        assert self.stream is not None
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            self.met_damage = True
            return []
        return [frame for frame in frames if not frame.is_corrupt]

    def decode_groups(self, wanted: np.ndarray, frames: "FrameBuffer") -> np.ndarray:
        """Decodes from the keyframe before each frame, passing over groups that hold no wanted frame.

        Raises:
            UnreliableTimestampsError: the decoder gives frames in another order than their timestamps, or not all of
                them with an index that is not checked.
        """
        assert self.stream is not None and self.index is not None
        seconds = np.full(len(wanted), np.nan)
        runs: list[list[Target]] = []
        frames.is_there[:] = False
        for target in self.locate(wanted):
            frames.is_there[target.position] = True
            seconds[target.position] = self.index.to_seconds(target.pts)
            if not runs or target.group.first - runs[-1][-1].index > SEEK_COST:
                runs.append([])
            runs[-1].append(target)
        for run in runs:
            self.decode_run(run, run[0].group, frames)
            is_complete = all(frames.is_filled[target.position] for target in run)
            if not is_complete and self.stream.codec_context.thread_count != 1:
                self.use_one_thread()
            # where pictures are refreshed bit by bit, only later ones can be decoded from what is called a keyframe
            for groups_before in (0, 1, 2, 4):
                run = [target for target in run if not frames.is_filled[target.position]]
                if run and run[0].group.number >= groups_before:
                    self.decode_run(run, self.group_before(run[0].group, groups_before), frames, patience=PATIENCE)
        if not frames.is_filled.any():
            # some formats cannot go back (APNG), whatever they say
            raise UnreliableTimestampsError("no frame could be decoded after a seek")
        if not (self.index.is_checked or frames.is_filled.all()):
            raise UnreliableTimestampsError("frames are missing where the file says that they are")
        return seconds

    def group_before(self, group: FrameGroup, number: int) -> FrameGroup:
        """The group that many before another, or that one itself if there is none that can be read."""
        assert self.index is not None
        try:
            return self.index.group(group.number - number)
        except UnreliableTimestampsError:
            return group

    def locate(self, wanted: np.ndarray) -> Iterator[Target]:
        assert self.index is not None
        for position, index in enumerate(wanted.tolist()):
            try:
                group = self.index.find(index)
            except UnreliableTimestampsError:
                continue  # the file ends before what its header lists
            if index - group.first < len(group.pts):
                yield Target(position, index, int(group.pts[index - group.first]), group)

    def decode_run(self, run: list[Target], group: FrameGroup, frames: "FrameBuffer", patience: int = 0) -> None:
        """Decodes from the keyframe of a group up to the last target, and up to `patience` packets more to get it."""
        assert self.container is not None and self.stream is not None and self.index is not None
        context = self.stream.codec_context
        # the second field of a frame is a packet more, which nothing may refer to
        can_skip = context.name in CODECS_THAT_SKIP and not self.index.has_pairs
        patience += self.index.has_pairs
        positions = {target.pts: target.position for target in run}
        unread = set(positions)
        is_checked, last_pts = self.index.is_checked, None

        def keep(decoded: list[av.VideoFrame]) -> None:
            nonlocal last_pts
            for frame in decoded:
                if frame.pts is None or (last_pts is not None and frame.pts <= last_pts):
                    raise UnreliableTimestampsError("the decoder gives frames in another order than their timestamps")
                last_pts = frame.pts
                if frame.pts in positions:
                    frames.add(positions[frame.pts], frame)

        for packet in self.read_group(group):
            # the first one, which the file calls a keyframe
            if not (is_checked or packet.is_keyframe):
                raise UnreliableTimestampsError("a keyframe that is none")
            is_checked = True
            if can_skip:
                context.skip_frame = "DEFAULT" if packet.pts in unread else "NONREF"
            keep(self.decode_packet(packet))
            unread.discard(packet.pts)
            if not unread or (packet.dts is not None and packet.dts > run[-1].pts):
                patience -= 1
                if patience < 0 or all(frames.is_filled[target.position] for target in run):
                    break
        # what the decoder still holds; the next run begins with a seek, which resets it
        keep(self.decode_packet(None))


class FrameBuffer:
    """RGB frames, uint8, all in the size and orientation of the first one added: `(num_frames, 3, height, width)`, or
    what a transform makes of them."""

    def __init__(self, num_frames: int, transform: FrameTransform | None = None, max_bytes: float = np.inf):
        self.is_filled = np.zeros(num_frames, dtype=bool)
        # in the file, as far as its index tells
        self.is_there = np.ones(num_frames, dtype=bool)
        self.images: torch.Tensor | None = None
        self.stored: tuple[int, int] | None = None
        self.transform, self.max_bytes = transform, max_bytes
        # one for all: `frame.to_ndarray(format=...)` sets up its own each time, which costs more than decoding
        self.reformatter = VideoReformatter()

    def clear(self) -> None:
        self.is_filled[:] = False
        self.is_there[:] = True
        self.images = self.stored = None

    def add(self, position: SupportsIndex, frame: av.VideoFrame) -> None:
        if self.stored is None:
            self.stored = frame.width, frame.height
            self.matrix = read_display_matrix(frame)
        width, height = self.stored
        pixels = orient(view_pixels(convert(frame, self.reformatter, width, height)), self.matrix)
        # torch knows no negative strides, and is slow where rows have gaps between them
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        self.put(position.__index__(), image)

    def put(self, position: int, image: torch.Tensor) -> None:
        """Adds a frame, `(3, height, width)`, that is RGB and upright."""
        if self.images is None:
            self.height, self.width = image.shape[1:]
        if self.transform is not None:
            image = self.transform(image)
        if self.images is None:
            if (num_bytes := len(self.is_filled) * image.nbytes) > self.max_bytes:
                raise VideoDecodingError(
                    f"{len(self.is_filled)} frames of {image.shape[2]} x {image.shape[1]} pixels take {num_bytes} "
                    f"bytes; at most {self.max_bytes} are kept (`VideoLimits.max_decoded`). Read fewer, or in parts."
                )
            # frame after frame, each in rows of pixels, as video libraries lay them; numpy takes large pages for it
            images = np.empty((len(self.is_filled), *image.shape[1:], image.shape[0]), image.numpy().dtype)
            self.images = torch.from_numpy(images).permute(0, 3, 1, 2)
        # rows of pixels: torch would take its threads to copy them one value at a time
        np.copyto(self.images[position].permute(1, 2, 0).numpy(), image.permute(1, 2, 0).numpy())
        self.is_filled[position] = True


def view_pixels(frame: av.VideoFrame) -> np.ndarray:
    """The pixels of an RGB frame where they lie, `(height, width, 3)`: `to_ndarray` would copy them."""
    plane = frame.planes[0]
    # pyrefly: ignore[bad-argument-type]  a buffer
    return np.ndarray((frame.height, frame.width, 3), np.uint8, buffer=plane, strides=(plane.line_size, 3, 1))


def read_display_matrix(frame: av.VideoFrame) -> bytes | None:
    """How the frame lies on the screen, see [`orient`]; `None` if as it is stored."""
    try:
        # pyrefly: ignore[bad-return]  a buffer; PyAV's types know of motion vectors only
        return frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # beside it lies something that this PyAV has no name for, such as Exif; the turn is known without it, a mirror
        # is not
        cosine, sine = np.cos(np.radians(frame.rotation)), np.sin(np.radians(frame.rotation))
        matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        return (matrix * 2**16).round().astype(np.int32).tobytes()


def orient(image: np.ndarray, display_matrix: bytes | None) -> np.ndarray:
    """Turns and mirrors `(height, width, 3)` as a display matrix says, to the nearest quarter turn.

    The matrix takes the place `(x, y, 1)` of a pixel, as a row, to its place on the screen (ISO/IEC 14496-12, 6.2.2).
    """
    if display_matrix is None:
        return image
    (x_to_x, x_to_y), (y_to_x, y_to_y) = np.frombuffer(display_matrix, dtype=np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(x_to_x) + abs(y_to_y) < abs(x_to_y) + abs(y_to_x):
        image = image.transpose(1, 0, 2)
        x_to_x, y_to_y = y_to_x, x_to_y
    return image[:: -1 if y_to_y < 0 else 1, :: -1 if x_to_x < 0 else 1]


def abbreviate(numbers: Sequence[int] | np.ndarray) -> str:
    if len(numbers) <= 20:
        return str(list(map(int, numbers)))
    return f"[{', '.join(map(str, numbers[:10]))}, ..., {numbers[-1]}]"


def choose_stream(container: av.container.InputContainer, limits: VideoLimits) -> av.VideoStream:
    """The best video stream, as FFmpeg judges, but not a cover picture."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        found = ", ".join(sorted({stream.type or "unknown" for stream in container.streams})) or "nothing"
        raise VideoDecodingError(f"it holds no video stream (found: {found}).")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoDecodingError("FFmpeg has no decoder for its video.")
    limits.check_codec(stream.codec_context.codec.name)
    limits.check_size(stream.width, stream.height)
    return stream


__all__ = ["VideoDecodingError", "VideoFileMetadata", "VideoLimits", "VideoReader", "read_video"]
