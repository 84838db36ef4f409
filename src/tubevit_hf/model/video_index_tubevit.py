# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a video stream lie, so that a reader can go straight to the wanted ones.

Frames are numbered from 0 in the order in which they are shown. Decoding can start at keyframes only, so the frames
form groups: a keyframe and the frames shown from it up to the next one. (Frames that a file stores after a keyframe
but shows before it, as open GOPs have them, belong to the group before: that is where their references lie.)

Containers differ in what they tell. The header of an MP4 or QuickTime file lists all packets, so only the groups that
are asked for have to be read ([`HeaderIndex`]). Matroska, WebM, MPEG-TS, AVI and fragmented MP4 are read through once,
without decoding ([`ScannedIndex`]); of plain Matroska and WebM files, only the times of the frames are read. Where
timestamps are missing, repeated or wrong, nothing but decoding tells the frames apart, and there is no index
([`UnreliableTimestampsError`]); [`FrameClock`] tells when such frames are shown.

FFmpeg hands some of what a decoder must know to the packet where it changes, once: a palette, or the parameters of the
next of several joined clips. [`Changes`] keeps it for those who read packets and decode others.
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from itertools import islice
from typing import Literal, NamedTuple, overload

import av
import numpy as np
from av.packet import PacketSideData

from .video_fields_tubevit import FieldPairs
from .video_matroska_tubevit import Row, read_rows


# FFmpeg's AVINDEX_KEYFRAME and AVINDEX_DISCARD_FRAME, flags of an `av.index.IndexEntry`
KEYFRAME, HIDDEN = 1, 2
# AVI and MPEG-PS do not store when each frame is shown; FFmpeg's guesses go wrong where frames are stored out of order
FORMATS_WITHOUT_PTS = {"avi", "mpeg"}
# What packets bring along that changes how they and the following ones are decoded
CHANGES: tuple[Literal["palette", "new_extradata", "param_change"], ...] = ("palette", "new_extradata", "param_change")
# Bytes of an MPEG-4 packet that may say no more than that there is no new frame, as FFmpeg reckons
NOT_CODED = 19
# Seconds that times may go back from frame to frame before they are those of another recording
SLACK = 0.1


class UnreliableTimestampsError(ValueError):
    """The frames of a stream cannot be told apart by their timestamps."""


class Changes(dict[str, PacketSideData]):
    """The latest of each kind that came with the packets of a stream."""

    def note(self, packet: "av.Packet[av.VideoStream]") -> bool:
        """Keeps what a packet brings along; gives whether there is anything."""
        found: dict[str, PacketSideData] = {
            kind: packet.get_sidedata(kind) for kind in CHANGES if packet.has_sidedata(kind)
        }
        self.update(found)
        return bool(found)

    def give(self, packet: "av.Packet[av.VideoStream]") -> None:
        """Lays it beside a packet, unless that has its own."""
        for kind in CHANGES:
            if kind in self and not packet.has_sidedata(kind):
                packet.set_sidedata(self[kind])


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
    pairs = FieldPairs(stream.codec_context.extradata or b"") if stream.codec_context.name == "h264" else None
    if pairs is not None and not pairs.is_possible:
        pairs = None
    # fragmented files list some packets in their header, edit lists hide or repeat some: then the two numbers differ
    # a damaged header lists more frames than there are bytes, and that of a download that broke off frames that are
    # not there
    is_mp4, entries = "mp4" in container.format.name, stream.index_entries
    is_mpeg4 = stream.codec_context.name == "mpeg4"
    if is_mp4 and is_mpeg4 and any(may_have_no_frame(entry.size, stream) for entry in entries):
        raise UnreliableTimestampsError("a packet that may have no frame")
    if is_mp4 and 0 < stream.frames == len(entries) <= container.size >= entries[-1].pos + entries[-1].size:
        try:
            return HeaderIndex(container, stream, pairs)
        except UnreliableTimestampsError:
            container.seek(0, stream=stream)
    is_known = path is not None and "matroska" in container.format.name and pairs is None and not is_mpeg4
    return ScannedIndex(container, stream, read_rows(path) if is_known else None, pairs)


class ScannedIndex:
    """Index of a stream that is read through once: 8 bytes a frame.

    Args:
        container: stands at its beginning.
        stream: of the container.
        known: what the file says of all frames. If FFmpeg says the same of the first, it need not read the others. The
            frames are the same then, but `is_checked` is false: what the file calls a keyframe may be none.
        pairs: finds the packets that are second fields, where there may be such.

    Raises:
        UnreliableTimestampsError: a timestamp is missing, or they repeat or go back, or the way of decoding changes
            within the stream.
    """

    is_checked = True

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        known: list[Row] | None = None,
        pairs: FieldPairs | None = None,
    ):
        self.changes, self.has_pairs = Changes(), pairs is not None
        unread = self.read_rows(container, stream, pairs)
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
        self.time_base = read_time_base(stream)
        # what comes before the first keyframe lacks its references, as a rule
        num_leading = int(np.searchsorted(shown, self.keyframe_pts[0]))
        self.leading = shown[:num_leading]
        self.set_frames(shown[num_leading:])

    def set_frames(self, pts: np.ndarray) -> None:
        """When each frame is shown."""
        self.pts, self.num_frames = pts, len(pts)
        self.first_pts = int(pts[0]) if len(pts) else 0
        self.firsts = np.searchsorted(pts, self.keyframe_pts)
        self.firsts[0] = 0

    def show_leading(self, given: set[int]) -> None:
        """Counts those of the `leading` frames that a decoder gives, by their times, as frames of the video."""
        self.set_frames(np.concatenate((self.leading[np.isin(self.leading, list(given))], self.pts)))

    def read_rows(
        self, container: av.container.InputContainer, stream: av.VideoStream, pairs: FieldPairs | None
    ) -> Iterator[Row]:
        for number, packet in enumerate(read_packets(container, stream)):
            if self.changes.note(packet) and number > 0:
                raise UnreliableTimestampsError("the way of decoding changes within the stream")
            if may_have_no_frame(packet.size, stream):
                raise UnreliableTimestampsError("a packet that may have no frame")
            if pairs is None or pairs.begins_frame(bytes(packet)):
                # pyrefly: ignore[invalid-yield]  a time may be missing, which is refused
                yield packet.pts, packet.is_keyframe, packet.is_discard

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

    listed_seconds = seconds


class HeaderIndex:
    """Index of an MP4 or QuickTime file: the header lists all packets, and which of them are keyframes.

    What it does not list is when each frame is shown. A group is read for that when it is first asked for.

    Args:
        container, stream: that are read.
        pairs: finds the packets that are second fields, where there may be such.

    Raises:
        UnreliableTimestampsError: the file does not begin with a keyframe, or a listed keyframe is not there, or a
            packet is a second field.
    """

    is_checked, has_pairs = True, False

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, pairs: FieldPairs | None = None
    ):
        self.time_base, self.pairs = read_time_base(stream), pairs
        entries = stream.index_entries
        # two bits with a sign, so that both together are -1
        flags = np.fromiter((entry.flags for entry in entries), dtype=np.int8, count=len(entries))
        self.num_packets = len(entries)
        self.starts = np.flatnonzero(flags & KEYFRAME)
        # number of shown packets before each one, and at the end of all
        self.shown_before = np.concatenate(([0], np.cumsum(flags & HIDDEN == 0)))
        if len(self.starts) == 0 or self.starts[0] != 0:
            raise UnreliableTimestampsError("the file does not begin with a keyframe")
        self.stream = stream
        if pairs is not None and not self.is_regular:
            raise UnreliableTimestampsError("some packets may be fields, others frames")
        # whether frames are stored in another order than they are shown, as far as is known
        self.is_reordered = stream.codec_context.has_b_frames
        self.groups: dict[int, FrameGroup | None] = {}
        # what comes before the first keyframe lacks its references, as a rule
        self.num_undecodable, self.leading = 0, np.zeros(0, dtype=np.int64)
        group = self.bind(container, stream)
        if len(group.pts) == 0:
            raise UnreliableTimestampsError("the first group holds no frame that is shown")
        self.num_undecodable = len(self.leading)
        self.set_first(group._replace(first=0))

    def bind(self, container: av.container.InputContainer, stream: av.VideoStream) -> FrameGroup:
        """Reads from this container, which has just been opened, from now on; gives the first group."""
        self.container, self.stream, self.changes = container, stream, Changes()
        first = next(read_packets(container, stream), None)
        if first is None or first.pts is None or first.dts is None:
            raise UnreliableTimestampsError("the first packet has no timestamp")
        self.changes.note(first)
        self.delay = first.pts - first.dts
        # FFmpeg may have read ahead, past a change, which it tells again once it is back
        return self.read_group(0)

    @cached_property
    def timestamps(self) -> np.ndarray:
        """Of all packets, as the header lists them: when they are decoded."""
        entries = self.stream.index_entries
        return np.fromiter((entry.timestamp for entry in entries), dtype=np.int64, count=len(entries))

    @property
    def is_regular(self) -> bool:
        """Whether all packets are as far apart."""
        return len(self.timestamps) < 3 or bool(np.ptp(np.diff(self.timestamps)) == 0)

    def set_first(self, group: FrameGroup) -> None:
        self.groups[0], self.first_pts = group, int(group.pts[0])
        self.num_frames = int(self.shown_before[-1]) - self.num_undecodable

    def show_leading(self, given: set[int]) -> None:
        """Counts the `leading` frames as frames of the video, if a decoder gives them, by their times.

        Raises:
            UnreliableTimestampsError: it gives some of them only.
        """
        given &= set(self.leading.tolist())
        if given and len(given) < len(self.leading):
            raise UnreliableTimestampsError("some of the frames before the first keyframe can be decoded")
        if given:
            self.num_undecodable = 0
            group = self.group(0)
            self.set_first(group._replace(pts=np.concatenate((self.leading, group.pts))))

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
        before: list[int] = []
        if self.pairs is not None:
            self.pairs.first = None
        # the two times are read after their packets only
        keyframe_pts = next_keyframe_pts = 0
        for position, packet in enumerate(
            read_from_keyframe(self.container, self.stream, self.changes, "dts", dts, dts + self.delay), start=start
        ):
            if packet.pts is None or packet.dts is None:
                raise UnreliableTimestampsError("a packet without a timestamp")
            if self.pairs is not None and not self.pairs.begins_frame(bytes(packet)):
                raise UnreliableTimestampsError("a packet that is a second field")
            self.is_reordered |= packet.pts - packet.dts != self.delay
            if position == start:
                keyframe_pts = packet.pts
            if position == stop:
                next_keyframe_pts = packet.pts
            elif position > stop and packet.pts > next_keyframe_pts:
                break
            if packet.is_discard:
                continue
            if position < stop and packet.pts < keyframe_pts:
                before.append(packet.pts)
            elif position != stop:
                own.append(packet.pts)
        if number == 0:
            self.leading = np.sort(np.array(before, dtype=np.int64))
        first = int(self.shown_before[start]) + len(before) - self.num_undecodable
        return FrameGroup(number, first, keyframe_pts, np.sort(np.array(own, dtype=np.int64)))

    def to_seconds(self, pts: int) -> float:
        """Seconds after the first frame."""
        return to_seconds(pts - self.first_pts, self.time_base)

    def seconds(self) -> np.ndarray:
        """When each frame is shown, `(num_frames,)`, in seconds after the first.

        Raises:
            UnreliableTimestampsError: the file holds other frames than its header lists.
        """
        if not self.is_reordered and self.num_frames == self.num_packets:
            return to_seconds(self.timestamps - self.timestamps[0], self.time_base)
        # stored at the same steps, they are shown at the same steps, in another order; the last ones need not be
        last_pts = int(self.timestamps[self.num_frames - 1] - self.timestamps[0]) + self.first_pts
        is_whole = self.num_frames == self.num_packets and self.is_regular
        if is_whole and self.group(len(self.starts) - 1).pts[-1:].tolist() == [last_pts]:
            return to_seconds(self.timestamps - self.timestamps[0], self.time_base)
        self.container.seek(0, stream=self.stream)
        shown: list[int] = []
        for packet in read_packets(self.container, self.stream):
            self.changes.note(packet)
            if packet.pts is not None and not packet.is_discard:
                shown.append(packet.pts)
        if len(shown) - self.num_undecodable != self.num_frames:
            raise UnreliableTimestampsError("the file holds other frames than its header lists")
        pts = np.sort(np.array(shown, dtype=np.int64))[self.num_undecodable :]
        return to_seconds(pts - self.first_pts, self.time_base)

    def listed_seconds(self) -> np.ndarray | None:
        """The same, if the header alone tells."""
        return None if self.is_reordered or self.num_frames < self.num_packets else self.seconds()


class FrameClock:
    """Tells when the frames are shown that a decoder gives one after the other, as FFmpeg guesses it.

    Args:
        container: of the stream.
        stream: that the decoder gives.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self.time_base, self.rate = read_time_base(stream), stream.average_rate or stream.guessed_rate
        # an AVI file has no other time of a frame than that of the packet after which a decoder can give it
        self.has_pts = container.format.name != "avi"
        self.stamps: list[int | None] = []
        # timestamps that did not come after the one before, of both kinds
        self.last_pts = self.last_dts = -(2**63)
        self.faulty_pts = self.faulty_dts = 0

    def read(self, frame: av.VideoFrame) -> None:
        """Takes the next frame (`guess_correct_pts` of FFmpeg)."""
        pts, dts = frame.pts if self.has_pts else None, frame.dts
        if dts is not None:
            self.faulty_dts += dts <= self.last_dts
        if pts is not None:
            self.faulty_pts += pts <= self.last_pts
        self.last_dts = next((time for time in (dts, pts) if time is not None), self.last_dts)
        self.last_pts = next((time for time in (pts, dts) if time is not None), self.last_pts)
        is_pts = pts is not None and (dts is None or self.faulty_pts <= self.faulty_dts)
        self.stamps.append(pts if is_pts else dts)

    def seconds(self) -> np.ndarray | None:
        """When each frame is shown, on the clock of the file, ascending; `None` where the file does not tell.

        A frame without a time, or with one that is out of line, is put between its neighbours. Where the clock is put
        back, as in joined recordings, time goes on by a frame. A clock that stands still tells nothing.
        """
        times = np.array([np.nan if time is None else to_seconds(time, self.time_base) for time in self.stamps])
        known = np.flatnonzero(~np.isnan(times))
        rated = 1 / float(self.rate) if self.rate else None
        if len(known) == 0:
            return None if rated is None else np.arange(len(times)) * rated
        before, here, after = times[known[:-2]], times[known[1:-1]], times[known[2:]]
        is_out = (before <= after) & ((here > after + SLACK) | (here < before - SLACK))
        known = np.delete(known, 1 + np.flatnonzero(is_out))
        first, last = int(known[0]), int(known[-1])
        # as frames mostly follow each other: some headers have the rate of fields
        step = float(np.median(np.diff(times[known]) / np.diff(known))) if first < last else 0.0
        if step <= 0:
            step = rated or 0.0
        numbers = np.arange(len(times))
        times = np.interp(numbers, known, times[known])
        times += step * (np.minimum(0, numbers - first) + np.maximum(0, numbers - last))
        if not self.has_pts:
            # so many frames the decoder held back, each until it was given a later packet
            times -= step * (len(times) - 1 - last)
        steps = np.diff(times)
        steps[steps < -SLACK] = step
        if (steps <= 0).all():
            steps[:] = step
        return np.maximum.accumulate(np.concatenate((times[:1], times[0] + np.cumsum(steps))))


def may_have_no_frame(num_bytes: int, stream: av.VideoStream) -> bool:
    """Whether a packet of this size may say no more than that there is no new frame."""
    return num_bytes <= NOT_CODED and stream.codec_context.name == "mpeg4"


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
    # FFmpeg's guesses of when a frame is shown go wrong where frames repeat; without frames out of order, both are one
    is_without_pts = container.format.name == "avi"
    try:
        # PyAV's iterator leaks when it is dropped before its end; it is a generator, though PyAV's types do not say so
        # pyrefly: ignore[bad-specialization]
        with contextlib.closing(container.demux(stream)) as packets:
            for packet in packets:
                # PyAV adds an empty one at the end; empty ones within an AVI file repeat the frame before
                if packet.size:
                    if is_without_pts:
                        packet.pts = packet.dts
                    yield packet
    except (av.error.FFmpegError, IndexError):
        # PyAV raises IndexError at the end of a file in which a stream appeared while it was read
        return


def read_from_keyframe(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    changes: Changes,
    clock: str,
    time: int,
    seek_time: int,
) -> Iterator["av.Packet[av.VideoStream]"]:
    """Packets from the keyframe on whose `clock`, `"pts"` or `"dts"`, is `time`.

    Containers seek by another clock, or to a neighbour only: where `seek_time` leads too far, a second earlier is
    tried, then the start. The first packet gets the `changes` that came before it.

    Raises:
        UnreliableTimestampsError: there is no such keyframe.
    """
    second = int(1 / read_time_base(stream))
    for position in (seek_time, seek_time - second, min(0, seek_time, stream.start_time or 0)):
        try:
            container.seek(position, stream=stream)
        except av.error.FFmpegError:
            continue
        is_found = False
        for packet in read_packets(container, stream):
            changes.note(packet)
            reading = getattr(packet, clock)
            # FFmpeg does not call it a keyframe where it is damaged, so its time must do
            if not is_found and reading == time:
                is_found = True
                changes.give(packet)
            if is_found:
                yield packet
            elif packet.is_keyframe and reading is not None and reading > time:
                break
        if is_found:
            return
    raise UnreliableTimestampsError(f"no keyframe at {clock} {time}")


__all__ = [
    "FrameClock",
    "FrameGroup",
    "HeaderIndex",
    "ScannedIndex",
    "UnreliableTimestampsError",
    "index_frames",
    "to_seconds",
]
