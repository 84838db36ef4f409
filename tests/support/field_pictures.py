# SPDX-License-Identifier: Apache-2.0
"""H.264 videos whose frames are coded as two fields each, in packets of their own (PAFF), which no encoder of PyAV's
wheels writes. All blocks are stored as they are (I_PCM), so that pixels are exact.
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


def sequence_set() -> bytes:
    # main profile, level 3
    bits = Bits().put(77, 8).put(0, 8).put(30, 8)
    # number, bits of the frame number - 4, pictures in order, references; a width of 2 blocks, a height of 2 pairs / 2
    bits.golomb(0, 0, 2, 1).put(0, 1).golomb(SIZE // 16 - 1, SIZE // 32 - 1)
    # fields are allowed, no pairs of blocks, direct inference, no cropping, nothing on use
    return bits.put(0, 1).put(0, 1).put(1, 1).put(0, 1).put(0, 1).to_unit(7)


def picture_set() -> bytes:
    bits = Bits().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3)
    return bits.golomb(0, 0, 0).put(0, 3).to_unit(8)


def picture(number: int, luma: int, field: str | None = None) -> bytes:
    """A frame, or the `"top"` or `"bottom"` field of one, of one grey."""
    in_group = number % GROUP
    # of an independent frame, the second field is not independent
    is_first = in_group == 0 and field != "bottom"
    bits = Bits().golomb(0, 7, 0).put(in_group, 4)
    bits.put(field is not None, 1)
    if field is not None:
        bits.put(field == "bottom", 1)
    if is_first:
        bits.golomb(number // GROUP % 2).put(0, 2)
    else:
        bits.put(0, 1)
    bits.golomb(0)
    for _ in range((SIZE // 16) ** 2 // (1 if field is None else 2)):
        bits.golomb(25).align()
        for value, count in ((luma, 256), (128, 128)):
            bits.text += f"{value:08b}" * count
    unit = bits.to_unit(5 if is_first else 1)
    return sequence_set() + picture_set() + unit if is_first else unit


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
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.h264"
        plain.write_bytes(b"".join(data for data, _ in packets))
        with av.open(str(plain)) as source, av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            stream.time_base = Fraction(1, 2 * RATE)
            for number, (data, time) in enumerate(packets):
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 2 * RATE)
                packet.pts = packet.dts = int(2 * time)
                packet.duration = int(2 * (packets[number + 1][1] - time)) if number + 1 < len(packets) else 1
                packet.is_keyframe = data.startswith(sequence_set())
                container.mux(packet)
    return path
