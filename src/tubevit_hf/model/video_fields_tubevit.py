# SPDX-License-Identifier: Apache-2.0
"""Which packets of an H.264 stream begin a frame (ITU-T H.264, 7.3).

Interlaced video may code the two fields of a frame one after the other, as AVCHD camcorders and broadcasts do, each in
a packet of its own. A decoder gives one frame for both, at the time of the first. Only headers are read here.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple


# types of NAL units, which H.264 streams are made of
SLICE, KEYFRAME_SLICE, SEQUENCE_SET, PICTURE_SET = 1, 5, 7, 8
# bytes at the beginning of a unit that hold what is read of it, matrices of a sequence set included
HEADER = 1024
# profiles whose sequence sets tell more of colours
HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


class Sequence(NamedTuple):
    """What slices need of a sequence parameter set."""

    is_progressive: bool
    has_colour_planes: bool
    frame_number_bits: int


class Field(NamedTuple):
    frame_number: int
    is_bottom: bool


class FieldPairs:
    """Finds the second fields of a stream whose packets are shown to it in the order in which they are stored.

    Args:
        extradata: of the stream, with its parameter sets.
    """

    def __init__(self, extradata: bytes):
        self.sequences: dict[int, Sequence] = {}
        # number of the sequence set that each picture set belongs to
        self.sequence_of: dict[int, int] = {}
        # bytes of the length before each unit; 0 where start codes part them
        self.length_size = (extradata[4] & 3) + 1 if is_boxed(extradata) else 0
        # a field that waits for the other one of its frame
        self.first: Field | None = None
        for unit in list_parameter_sets(extradata):
            self.read_unit(unit)

    @property
    def is_possible(self) -> bool:
        """Whether fields may have packets of their own, as far as is known."""
        return not self.sequences or not all(sequence.is_progressive for sequence in self.sequences.values())

    def begins_frame(self, packet: bytes) -> bool:
        """Whether a packet has a frame of its own: all but those of second fields."""
        pictures: list[Field | None] = []
        for unit in split(packet, self.length_size):
            pictures += self.read_unit(unit)
        num_frames = 0
        previous = None
        for picture in pictures:
            if picture is not None and picture == previous:
                continue  # another slice of the same field
            previous = picture
            if picture is None:
                self.first = None
            elif self.first == Field(picture.frame_number, not picture.is_bottom):
                self.first = None
                continue
            else:
                self.first = picture
            num_frames += 1
        return num_frames > 0 or not pictures

    def read_unit(self, unit: bytes) -> list[Field | None]:
        """Keeps a parameter set; of a slice, gives its field, or `None` for a slice of a whole frame."""
        kind, bits = unit[0] & 31, Bits(unit[1:HEADER])
        # a damaged unit is left to the decoder
        with contextlib.suppress(IndexError, KeyError):
            if kind in (SLICE, KEYFRAME_SLICE):
                return [self.read_slice(bits)]
            if kind == SEQUENCE_SET:
                number, sequence = read_sequence(bits)
                self.sequences[number] = sequence
            elif kind == PICTURE_SET:
                number = bits.golomb()
                self.sequence_of[number] = bits.golomb()
        return []

    def read_slice(self, bits: "Bits") -> Field | None:
        # its first block and type come before
        _, _, picture_set = bits.golomb(), bits.golomb(), bits.golomb()
        sequence = self.sequences[self.sequence_of[picture_set]]
        if sequence.has_colour_planes:
            bits.take(2)
        frame_number = bits.take(sequence.frame_number_bits)
        is_field = not sequence.is_progressive and bits.take(1)
        return Field(frame_number, bool(bits.take(1))) if is_field else None


def read_sequence(bits: "Bits") -> tuple[int, Sequence]:
    """A sequence parameter set and its number."""
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    number, has_colour_planes = bits.golomb(), False
    if profile in HIGH_PROFILES:
        chroma = bits.golomb()
        has_colour_planes = chroma == 3 and bool(bits.take(1))
        bits.golomb(), bits.golomb(), bits.take(1)  # depths of luma and chroma, lossless
        if bits.take(1):
            for matrix in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    skip_scaling_matrix(bits, 16 if matrix < 6 else 64)
    frame_number_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    # number of references, gaps, width, height
    bits.golomb(), bits.take(1), bits.golomb(), bits.golomb()
    return number, Sequence(bool(bits.take(1)), has_colour_planes, frame_number_bits)


def skip_scaling_matrix(bits: "Bits", size: int) -> None:
    scale = 8
    for _ in range(size):
        code = bits.golomb()
        # whole numbers with a sign: 1, -1, 2, -2, ...
        scale = (scale + ((code + 1) // 2 if code % 2 else -code // 2)) % 256
        if scale == 0:
            return


class Bits:
    """Bits of a unit, without the bytes that keep start codes out of it; raises `IndexError` after the last."""

    def __init__(self, data: bytes):
        data = data.replace(b"\0\0\3", b"\0\0")
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, number: int) -> int:
        self.left -= number
        if self.left < 0:
            raise IndexError("no more bits")
        return self.value >> self.left & ((1 << number) - 1)

    def golomb(self) -> int:
        """A number in Exp-Golomb code, as it is without a sign."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def is_boxed(extradata: bytes) -> bool:
    """Whether it is as MP4 and Matroska files have it (ISO/IEC 14496-15, 5.3.3)."""
    return extradata[:1] == b"\1" and len(extradata) > 6


def list_parameter_sets(extradata: bytes) -> Iterator[bytes]:
    if not is_boxed(extradata):
        yield from split(extradata, 0)
        return
    rest = extradata[5:]
    # sequence sets, then picture sets, each after their number
    for mask in (31, 255):
        for _ in range(rest[0] & mask if rest else 0):
            size = int.from_bytes(rest[1:3], "big")
            unit = rest[3 : 3 + size]
            if unit:
                yield unit
            rest = rest[:1] + rest[3 + size :]
        rest = rest[1:]


def split(data: bytes, length_size: int) -> Iterator[bytes]:
    """The units of a packet."""
    if length_size == 0:
        yield from filter(None, data.split(b"\0\0\1")[1:])
        return
    start = 0
    while start + length_size < len(data):
        size = int.from_bytes(data[start : start + length_size], "big")
        start += length_size
        if size:
            yield data[start : start + size]
        start += size


__all__ = ["FieldPairs"]
