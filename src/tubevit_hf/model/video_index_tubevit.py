# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a video stream lie, so that a reader can go straight to the wanted ones.

Frames are numbered from 0 in the order in which they are shown. Decoding can start at keyframes only, so the frames
form groups: a keyframe and the frames shown from it up to the next one. (Frames that a file stores after a keyframe
but shows before it, as open GOPs have them, belong to the group before: that is where their references lie.)

Containers differ in what they tell. The header of an MP4 or QuickTime file lists all packets, so only the groups that
are asked for have to be read ([`HeaderIndex`]). Matroska, WebM, MPEG-TS, AVI and fragmented MP4 are read through once,
without decoding ([`ScannedIndex`]); of plain Matroska and WebM files, only the times of the frames are read. Where
timestamps are missing or wrong, nothing but decoding tells the frames apart, and there is no index
([`UnreliableTimestampsError`]).
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import NamedTuple, overload

import av
import numpy as np

from .video_matroska_tubevit import Row, read_rows


# FFmpeg's AVINDEX_KEYFRAME and AVINDEX_DISCARD_FRAME, flags of an `av.index.IndexEntry`
KEYFRAME, HIDDEN = 1, 2
# AVI and MPEG-PS do not store when each frame is shown; FFmpeg's guesses go wrong where frames are stored out of order
FORMATS_WITHOUT_PTS = {"avi", "mpeg"}


class UnreliableTimestampsError(ValueError):
    """The frames of a stream cannot be told apart by their timestamps."""


class FrameGroup(NamedTuple):
    """A keyframe and the frames shown from it up to the next keyframe.

    Args:
        number: 0-based, in the order of the stream.
        first: index of the first frame.
        keyframe_pts: when the keyframe is shown, in the stream's time base. An edit list can hide the keyframe itself.
        pts: when each frame is shown, ascending.
    """

    number: int
    first: int
    keyframe_pts: int
    pts: np.ndarray


def index_frames(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | None
) -> "HeaderIndex | ScannedIndex":
    """The cheapest index that a container allows; `path` is that of a local file.

    Raises:
        UnreliableTimestampsError: there is none.
    """
    if container.format.name in FORMATS_WITHOUT_PTS and stream.codec_context.has_b_frames:
        raise UnreliableTimestampsError(f"{container.format.name} does not tell when a frame is shown")
    # fragmented files list some packets in their header, edit lists hide or repeat some: then the two numbers differ
    # a damaged header lists more frames than there are bytes, and that of a download that broke off frames that are
    # not there
    is_mp4, entries = "mp4" in container.format.name, stream.index_entries
    if is_mp4 and 0 < stream.frames == len(entries) <= container.size >= entries[-1].pos + entries[-1].size:
        try:
            return HeaderIndex(container, stream)
        except UnreliableTimestampsError:
            container.seek(0, stream=stream)
    is_local_matroska = path is not None and "matroska" in container.format.name
    return ScannedIndex(container, stream, read_rows(path) if is_local_matroska else None)


class ScannedIndex:
    """Index of a stream that is read through once: 8 bytes a frame.

    Args:
        container: stands at its beginning.
        stream: of the container.
        known: what the file says of all frames. If FFmpeg says the same of the first, it need not read the others. The
            frames are the same then, but `is_checked` is false: what the file calls a keyframe may be none.

    Raises:
        UnreliableTimestampsError: a timestamp is missing, or they repeat or go back.
    """

    is_checked = True

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, known: list[Row] | None = None):
        packets = read_packets(container, stream)
        unread = ((packet.pts, packet.is_keyframe, packet.is_discard) for packet in packets)
        rows = list(islice(unread, 1))
        # the numbers of the frames depend on the first keyframe, but on no other
        if known and rows == known[:1] and rows[0][1]:
            rows, self.is_checked = known, False
        else:
            rows += unread
        if any(pts is None for pts, _, _ in rows):
            raise UnreliableTimestampsError("packets without a timestamp")
        pts, is_keyframe, is_hidden = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        self.keyframe_pts = pts[is_keyframe == 1]
        shown = np.sort(pts[is_hidden == 0])
        if len(self.keyframe_pts) == 0 or (np.diff(self.keyframe_pts) <= 0).any() or (np.diff(shown) == 0).any():
            raise UnreliableTimestampsError("no keyframes, or timestamps that repeat or go back")
        # what comes before the first keyframe lacks its references: no decoder gives these frames
        self.pts = shown[np.searchsorted(shown, self.keyframe_pts[0]) :]
        self.num_frames = len(self.pts)
        self.first_pts = int(self.pts[0]) if self.num_frames else 0
        self.firsts = np.searchsorted(self.pts, self.keyframe_pts)
        self.time_base = read_time_base(stream)

    def find(self, index: int) -> FrameGroup:
        """The group that holds frame `index`."""
        # of several keyframes with the same first frame, an edit list hides all but the last
        return self.group(int(np.searchsorted(self.firsts, index, side="right")) - 1)

    def group(self, number: int) -> FrameGroup:
        first = int(self.firsts[number])
        stop = self.firsts[number + 1] if number + 1 < len(self.firsts) else self.num_frames
        return FrameGroup(number, first, int(self.keyframe_pts[number]), self.pts[first:stop])

    def to_seconds(self, pts: int) -> float:
        """Seconds after the first frame."""
        return to_seconds(pts - self.first_pts, self.time_base)

    def seconds(self) -> np.ndarray:
        """When each frame is shown, `(num_frames,)`, in seconds after the first."""
        return to_seconds(self.pts - self.first_pts, self.time_base)


class HeaderIndex:
    """Index of an MP4 or QuickTime file: the header lists all packets, and which of them are keyframes.

    What it does not list is when each frame is shown. A group is read for that when it is first asked for.

    Raises:
        UnreliableTimestampsError: the file does not begin with a keyframe, or a listed keyframe is not there.
    """

    is_checked = True

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self.container, self.stream = container, stream
        self.time_base = read_time_base(stream)
        entries = stream.index_entries
        # two bits with a sign, so that both together are -1
        flags = np.fromiter((entry.flags for entry in entries), dtype=np.int8, count=len(entries))
        self.num_packets = len(entries)
        self.starts = np.flatnonzero(flags & KEYFRAME)
        # number of shown packets before each one, and at the end of all
        self.shown_before = np.concatenate(([0], np.cumsum(flags & HIDDEN == 0)))
        if len(self.starts) == 0 or self.starts[0] != 0:
            raise UnreliableTimestampsError("the file does not begin with a keyframe")
        first = next(read_packets(container, stream), None)
        if first is None or first.pts is None or first.dts is None:
            raise UnreliableTimestampsError("the first packet has no timestamp")
        self.delay = first.pts - first.dts
        self.groups: dict[int, FrameGroup | None] = {}
        # what comes before the first keyframe lacks its references: no decoder gives these frames
        self.num_undecodable = 0
        group = self.read_group(0)
        if len(group.pts) == 0:
            raise UnreliableTimestampsError("the first group holds no frame that is shown")
        self.num_undecodable = group.first
        self.first_pts = group.pts[0]
        self.num_frames = int(self.shown_before[-1]) - self.num_undecodable

    def find(self, index: int) -> FrameGroup:
        """The group that holds frame `index`."""
        number = int(np.searchsorted(self.shown_before[self.starts], index + self.num_undecodable, side="right")) - 1
        group = self.group(number)
        # what is stored after the keyframe and shown before it counts for the group before
        return group if index >= group.first or number == 0 else self.group(number - 1)

    def group(self, number: int) -> FrameGroup:
        if number not in self.groups:
            # not to look for it again for each of its frames
            self.groups[number] = None
            self.groups[number] = self.read_group(number)
        group = self.groups[number]
        if group is None:
            raise UnreliableTimestampsError("this group cannot be read")
        return group

    def read_group(self, number: int) -> FrameGroup:
        """Reads the packets of a group, and those of the next that are shown before the next keyframe."""
        start = int(self.starts[number])
        if self.stream.index_entries[start].pos >= self.container.size:
            raise UnreliableTimestampsError("the file ends before this keyframe")
        stop = int(self.starts[number + 1]) if number + 1 < len(self.starts) else self.num_packets
        dts = self.stream.index_entries[start].timestamp
        own: list[int] = []
        # the two times are read after their packets only
        leading = keyframe_pts = next_keyframe_pts = 0
        for position, packet in enumerate(
            read_from_keyframe(self.container, self.stream, "dts", dts, dts + self.delay), start=start
        ):
            if packet.pts is None:
                raise UnreliableTimestampsError("a packet without a timestamp")
            if position == start:
                keyframe_pts = packet.pts
            if position == stop:
                next_keyframe_pts = packet.pts
            elif position > stop and packet.pts > next_keyframe_pts:
                break
            if packet.is_discard:
                continue
            if position < stop and packet.pts < keyframe_pts:
                leading += 1
            elif position != stop:
                own.append(packet.pts)
        first = int(self.shown_before[start]) + leading - self.num_undecodable
        return FrameGroup(number, first, keyframe_pts, np.sort(np.array(own, dtype=np.int64)))

    def to_seconds(self, pts: int) -> float:
        """Seconds after the first frame."""
        return to_seconds(pts - self.first_pts, self.time_base)

    def seconds(self) -> np.ndarray:
        """When each frame is shown, `(num_frames,)`, in seconds after the first.

        Raises:
            UnreliableTimestampsError: the file holds other frames than its header lists.
        """
        timestamps = np.fromiter((entry.timestamp for entry in self.stream.index_entries), dtype=np.int64)
        steps = np.diff(timestamps)
        # at a constant rate the list of packets tells: they are shown at the same steps, if in another order
        if self.num_frames == self.num_packets and (len(steps) == 0 or np.ptp(steps) == 0):
            return to_seconds(timestamps - timestamps[0], self.time_base)
        self.container.seek(0, stream=self.stream)
        index = ScannedIndex(self.container, self.stream)
        if index.num_frames != self.num_frames:
            raise UnreliableTimestampsError("the file holds other frames than its header lists")
        return index.seconds()


def read_time_base(stream: av.VideoStream) -> Fraction:
    """Seconds that a timestamp counts in; raises [`UnreliableTimestampsError`] where the file does not tell."""
    if stream.time_base is None:
        raise UnreliableTimestampsError("no time base")
    return stream.time_base


@overload
def to_seconds(timestamps: int, time_base: Fraction) -> float: ...


@overload
def to_seconds(timestamps: np.ndarray, time_base: Fraction) -> np.ndarray: ...


def to_seconds(timestamps: int | np.ndarray, time_base: Fraction) -> float | np.ndarray:
    # in this order whole seconds come out exactly
    return timestamps * time_base.numerator / time_base.denominator


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator["av.Packet[av.VideoStream]"]:
    """Packets of a stream from where the container stands. Where reading fails, the file ends."""
    try:
        # PyAV's iterator leaks when it is dropped before its end; it is a generator, though PyAV's types do not say so
        # pyrefly: ignore[bad-specialization]
        with contextlib.closing(container.demux(stream)) as packets:
            for packet in packets:
                # PyAV adds an empty one at the end; empty ones within an AVI file repeat the frame before
                if packet.size:
                    yield packet
    except (av.error.FFmpegError, IndexError):
        # PyAV raises IndexError at the end of a file in which a stream appeared while it was read
        return


def read_from_keyframe(
    container: av.container.InputContainer, stream: av.VideoStream, clock: str, time: int, seek_time: int
) -> Iterator["av.Packet[av.VideoStream]"]:
    """Packets from the keyframe on whose `clock`, `"pts"` or `"dts"`, is `time`.

    Containers seek by another clock, or to a neighbour only: where `seek_time` leads too far, a second earlier is
    tried, then the start.

    Raises:
        UnreliableTimestampsError: there is no such keyframe.
    """
    second = int(1 / read_time_base(stream))
    for position in (seek_time, seek_time - second, min(0, seek_time, stream.start_time or 0)):
        try:
            container.seek(position, stream=stream)
        except av.error.FFmpegError:
            continue
        packets = read_packets(container, stream)
        for packet in packets:
            reading = getattr(packet, clock)
            # FFmpeg does not call it a keyframe where it is damaged, so its time must do
            if reading == time:
                yield packet
                yield from packets
                return
            if packet.is_keyframe and reading is not None and reading > time:
                break
    raise UnreliableTimestampsError(f"no keyframe at {clock} {time}")


__all__ = ["FrameGroup", "HeaderIndex", "ScannedIndex", "UnreliableTimestampsError", "index_frames", "to_seconds"]
