# SPDX-License-Identifier: Apache-2.0
"""H.264 videos as cameras write them and no encoder of PyAV's wheels does: frames coded as two fields each, in packets
of their own (PAFF), and files that begin with frames stored after a keyframe and shown before it. All blocks are
stored as they are (I_PCM), so that pixels are exact.
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import av


# of a frame
SIZE = 32
RATE = 25
# pictures from one that can be decoded first to the next
GROUP = 4


class Bits:
    def __init__(self):
        self.text = ""

    def put(self, value: int, length: int) -> "Bits":
        self.text += f"{value:0{length}b}" if length else ""
        return self

    def golomb(self, *values: int) -> "Bits":
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def align(self) -> "Bits":
        self.text += "0" * (-len(self.text) % 8)
        return self

    def to_unit(self, kind: int) -> bytes:
        self.put(1, 1).align()
        data = int(self.text, 2).to_bytes(len(self.text) // 8, "big")
        for value in range(4):
            data = data.replace(bytes([0, 0, value]), bytes([0, 0, 3, value]))
        return b"\0\0\0\1" + bytes([3 << 5 | kind]) + data


def sequence_set(has_order: bool = False) -> bytes:
    """Parameters of a video whose slices tell the order in which pictures are shown, or that has none but its own."""
    # main profile, level 3
    bits = Bits().put(77, 8).put(0, 8).put(30, 8)
    # its number, bits of the frame number - 4; how the order is told; reference frames
    bits.golomb(0, 0).golomb(*((0, 4) if has_order else (2,))).golomb(4)
    # no gaps; a width of 2 blocks, a height of 1 pair; fields are allowed, no pairs of blocks, direct inference
    bits.put(0, 1).golomb(SIZE // 16 - 1, SIZE // 32 - 1).put(0b001, 3)
    # no cropping; on use: nothing but that two frames may be shown before one that is stored before them
    bits.put(0, 1).put(has_order, 1)
    if has_order:
        bits.put(1, 9).put(0, 1).golomb(0, 0, 0, 0, 2, 4)
    return bits.to_unit(7)


def picture_set() -> bytes:
    bits = Bits().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3)
    return bits.golomb(0, 0, 0).put(0, 3).to_unit(8)


def picture(number: int, luma: int, field: str | None = None, order: int | None = None) -> bytes:
    """A frame, or the `"top"` or `"bottom"` field of one, of one grey; in each group, the first is a keyframe.

    Args:
        number: of the frame, as it is stored.
        luma: of all pixels.
        field: which one it is.
        order: when it is shown, in fields, if that is another order.
    """
    in_group = number % GROUP
    is_keyframe = in_group == 0 and field != "bottom"
    # decoding may begin there, without an end to what came before
    is_open = order is not None
    is_independent = is_keyframe and not is_open
    bits = Bits().golomb(0, 7, 0).put(number % 16 if is_open else in_group, 4)
    bits.put(field is not None, 1)
    if field is not None:
        bits.put(field == "bottom", 1)
    if is_independent:
        bits.golomb(number // GROUP % 2)
    if order is not None:
        bits.put(order % 256, 8)
    bits.put(0, 2 if is_independent else 1).golomb(0)
    for _ in range((SIZE // 16) ** 2 // (1 if field is None else 2)):
        bits.golomb(25).align()
        for value, count in ((luma, 256), (128, 128)):
            bits.text += f"{value:08b}" * count
    unit = bits.to_unit(5 if is_independent else 1)
    if not is_keyframe:
        return unit
    recovery_point = b"\0\0\0\1\6\6\1\xc4\x80" if is_open else b""
    return sequence_set(is_open) + picture_set() + recovery_point + unit


def grey_of(number: int) -> tuple[int, int]:
    """Luma of the upper and lower field of a frame."""
    return 40 + 6 * number, 140 + 6 * number


def write_field_pictures(path: Path, kinds: str) -> Path:
    """Writes a video with a frame a letter.

    Args:
        path: its ending chooses the container.
        kinds: `"f"` for a frame coded as a whole, with the grey of its upper field; `"s"` for two fields in a packet
            each; `"b"` for two fields in one packet.
    """
    packets: list[tuple[bytes, Fraction]] = []
    for number, kind in enumerate(kinds):
        top, bottom = grey_of(number)
        if kind == "f":
            packets.append((picture(number, top), Fraction(number)))
            continue
        fields = [picture(number, top, "top"), picture(number, bottom, "bottom")]
        if kind == "b":
            packets.append((b"".join(fields), Fraction(number)))
        else:
            packets += [(data, number + Fraction(place, 2)) for place, data in enumerate(fields)]
    # when they are decoded, and shown, in fields
    times = [int(2 * time) for _, time in packets]
    return mux(path, [data for data, _ in packets], times, times)


def write_with_leading_frames(path: Path, num_groups: int) -> Path:
    """Writes groups of four frames: the first is shown third. Frames carry `grey_of` their place as they are shown."""
    packets, shown = [], []
    for number in range(num_groups * GROUP):
        group, place = divmod(number, GROUP)
        index = group * GROUP + (2, 0, 1, 3)[place]
        packets.append(picture(number, grey_of(index)[0], order=2 * index))
        shown.append(2 * index)
    return mux(path, packets, [2 * number - 4 for number in range(len(packets))], shown)


def mux(path: Path, packets: list[bytes], decoded: list[int], shown: list[int]) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.h264"
        plain.write_bytes(b"".join(packets))
        with av.open(str(plain)) as source, av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            stream.time_base = Fraction(1, 2 * RATE)
            for number, data in enumerate(packets):
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 2 * RATE)
                packet.dts, packet.pts = decoded[number], shown[number]
                following = decoded[number + 1 : number + 2] or [decoded[-1] + 1]
                packet.duration = following[0] - decoded[number]
                packet.is_keyframe = sequence_set()[:5] == data[:5]
                container.mux(packet)
    return path
