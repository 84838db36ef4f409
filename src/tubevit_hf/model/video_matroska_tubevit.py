# SPDX-License-Identifier: Apache-2.0
"""When the frames of a Matroska or WebM file are shown, without reading the frames themselves (RFC 9559).

FFmpeg copies and parses each frame on the way, and PyAV makes an object of it: for an hour of video, this takes three
times as long. Only the plainest files are read here: whole ones, where nothing shifts the times that stand in them.
"""

import os
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import IO


# IDs of elements
HEADER, SEGMENT, TRACKS, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675
TRACK, TRACK_NUMBER, TRACK_TYPE, CODEC = 0xAE, 0xD7, 0x83, 0x86
TIME, SIMPLE_BLOCK, GROUP, BLOCK, REFERENCE = 0xE7, 0xA3, 0xA0, 0xA1, 0xFB
# void and checksum, which can stand anywhere
FILLING = {0xEC, 0xBF}
# seek head, information, chapters, attachments, tags, cues
BESIDE_CLUSTERS = FILLING | {0x114D9B74, 0x1549A966, 0x1043A770, 0x1941A469, 0x1254C367, 0x1C53BB6B}
# size of the cluster before, and where this one lies
BESIDE_BLOCKS = FILLING | {0xAB, 0xA7}
# block, reference, duration, padding; of additions, such as alpha, a damaged one costs FFmpeg the frame
IN_GROUPS = FILLING | {BLOCK, REFERENCE, 0x9B, 0x75A2}
# scale and delay of a track's times, and compression, which can fail for a single frame
UNUSUAL_IN_TRACKS = {0x23314F, 0x56AA, 0x6D80}
VIDEO = 1
# bits of a block: a keyframe; laces, which hold several frames, and what is not shown or not defined
KEYFRAME, UNUSUAL_BITS = 0x80, 0x7E
# bytes of a cluster, which is read at once: FFmpeg writes 5 MB at most
LARGEST = 2**26
# elements of a file, clusters most of all: more than a day has
MOST_ELEMENTS = 2**17
# bytes of an ID or size, by its first byte, where 9 are too many, and what stands for an unknown size, by its bytes
LENGTHS = [9 - byte.bit_length() for byte in range(256)]
UNKNOWN = [2 ** (7 * length) - 1 for length in range(9)]

# as FFmpeg's packets tell: when a frame is shown, whether it is a keyframe, whether it is hidden
Row = tuple[int, bool, bool]


class UnusualFileError(ValueError):
    """The file is damaged, or of a form that is not read here."""


def read_rows(path: str) -> list[Row] | None:
    """The frames of a file with one video stream, in the order in which they are stored; `None` if FFmpeg must read
    them. Times are in the stream's time base."""
    try:
        with open(path, "rb", buffering=0) as file:
            return find_frames(file)
    except (UnusualFileError, OSError):
        return None


def find_frames(file: IO[bytes]) -> list[Row]:
    rows: list[Row] = []
    size, tracks = os.fstat(file.fileno()).st_size, None
    outermost = list(islice(read_elements(file, 0, size), 2))
    if [identity for identity, _, _ in outermost] != [HEADER, SEGMENT] or outermost[-1][2] != size:
        raise UnusualFileError("no whole file")
    for number, (identity, start, stop) in enumerate(read_elements(file, outermost[-1][1], size)):
        if number == MOST_ELEMENTS or (stop - start > LARGEST and identity not in BESIDE_CLUSTERS):
            raise UnusualFileError("too many elements, or too large ones")
        if identity == TRACKS and tracks is None:
            tracks = read_tracks(read(file, start, stop))
        elif identity == CLUSTER and tracks is not None:
            rows += read_cluster(read(file, start, stop), tracks)
        elif identity not in BESIDE_CLUSTERS:
            raise UnusualFileError("unknown elements, or in another order")
    keyframes = [time for time, is_keyframe, _ in rows if is_keyframe]
    if any(time >= next_time for time, next_time in pairwise(keyframes)):
        raise UnusualFileError("keyframes whose times repeat or go back")
    return rows


def read_tracks(data: bytes) -> dict[int, bool]:
    """Whether a track is the video, by its number as blocks begin with it."""
    tracks = [
        {identity: data[start:stop] for identity, start, stop in elements(data, *track)}
        for name, *track in elements(data, 0, len(data))
        if name == TRACK
    ]
    videos = [track for track in tracks if number_in(track.get(TRACK_TYPE, b"")) == VIDEO]
    if len(videos) != 1 or videos[0].keys() & UNUSUAL_IN_TRACKS:
        raise UnusualFileError("not one video track, or one that changes times")
    # codecs of AVI files have its times as well: when a frame is decoded
    if videos[0].get(CODEC, b"").startswith(b"V_MS/"):
        raise UnusualFileError("a codec whose times are others")
    # numbers are written as sizes are
    is_video = {number_in(track.get(TRACK_NUMBER, b"")) | 0x80: track is videos[0] for track in tracks}
    if len(is_video) < len(tracks) or not all(0x80 < number < 0xFF for number in is_video):
        raise UnusualFileError("tracks of the same number, or of large ones")
    return is_video


def read_cluster(data: bytes, tracks: dict[int, bool]) -> Iterator[Row]:
    time = None
    for identity, start, stop in elements(data, 0, len(data)):
        if identity == SIMPLE_BLOCK:
            if is_video(tracks, data, start, stop):
                yield shown_at(time, data, start), data[start + 3] >= KEYFRAME, False
        elif identity == TIME:
            time = number_in(data[start:stop])
        elif identity == GROUP:
            group = {name: place for name, *place in elements(data, start, stop)}
            if not group.keys() <= IN_GROUPS or BLOCK not in group:
                raise UnusualFileError("unknown elements in a group")
            start, stop = group[BLOCK]
            if is_video(tracks, data, start, stop):
                yield shown_at(time, data, start), REFERENCE not in group, False
        elif identity not in BESIDE_BLOCKS:
            raise UnusualFileError("unknown elements in a cluster")


def is_video(tracks: dict[int, bool], data: bytes, start: int, stop: int) -> bool:
    """Whether a block is of the video. Before its frame, it has the track's number, 2 bytes of time and 1 of bits."""
    if stop - start <= 4 or data[start] not in tracks:
        raise UnusualFileError("a block of no track, or without a frame")
    return tracks[data[start]]


def shown_at(time: int | None, data: bytes, start: int) -> int:
    """When the frame of a block is shown, in a cluster of a time."""
    offset = data[start + 1] << 8 | data[start + 2]
    offset -= (offset & 0x8000) << 1
    # FFmpeg reckons with floats
    if data[start + 3] & UNUSUAL_BITS or time is None or not -offset <= time < 2**48:
        raise UnusualFileError("a block without a time, or of several frames")
    return time + offset


def elements(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """ID, start and end of each element between two places.

    Raises:
        UnusualFileError: it does not lie between them, or its size is unknown.
    """
    try:
        while start < stop:
            body = start + LENGTHS[data[start]]
            identity = data[start] if body == start + 1 else number_in(data[start:body])
            length = LENGTHS[data[body]]
            body += length
            size = int.from_bytes(data[body - length : body], "big") & UNKNOWN[length]
            start = body + size
            if start > stop or size == UNKNOWN[length]:
                raise UnusualFileError("an element of unknown size, or larger than its parent")
            yield identity, body, start
    except IndexError as error:
        raise UnusualFileError("an element is cut off, or its size takes too many bytes") from error


def read_elements(file: IO[bytes], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """As [`elements`], of a file."""
    while start < stop:
        # an ID has 4 bytes at most, a size 8
        identity, body, end = next(elements(read(file, start, start + 12), 0, stop - start))
        yield identity, start + body, start + end
        start += end


def read(file: IO[bytes], start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def number_in(data: bytes) -> int:
    return int.from_bytes(data, "big")


__all__ = ["read_rows"]
