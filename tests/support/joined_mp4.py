# SPDX-License-Identifier: Apache-2.0
"""MP4 files of clips that were joined without coding them again: each clip has its own description of the samples
(ISO/IEC 14496-12, 8.5.2), which no muxer of FFmpeg writes."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import av


TABLE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def change_box(data: bytes, path: Sequence[bytes], change: Callable[[bytes], bytes]) -> bytes:
    """`data`, boxes one after the other, with another body of the box that lies at `path`."""
    start = 0
    while start < len(data):
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        if kind == path[0]:
            body = data[start + 8 : start + size]
            body = change(body) if len(path) == 1 else change_box(body, path[1:], change)
            return data[:start] + box(kind, body) + data[start + size :]
        start += size
    raise KeyError(path)


def body_of(data: bytes, path: Sequence[bytes]) -> bytes:
    found: list[bytes] = []
    change_box(data, path, lambda body: found.append(body) or body)
    return found[0]


def join(first: Path, second: Path, path: Path) -> Path:
    """Writes the samples of two MP4 files, which have a video stream alone, one after the other."""
    sources = [file.read_bytes() for file in (first, second)]
    with av.open(str(path), "w") as container:
        stream, offset, numbers = None, 0, []
        for file in (first, second):
            with av.open(str(file)) as source:
                found = source.streams.video[0]
                if stream is None:
                    stream = container.add_stream_from_template(found)
                packets = [packet for packet in source.demux(found) if packet.size]
                # the second begins as late as its packets, which are decoded before they are shown, need
                offset -= packets[0].dts if numbers else 0
                end = max(packet.pts + packet.duration for packet in packets)
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    container.mux(packet)
                offset += end
                numbers.append(len(packets))
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    # the tables lie behind the samples, whose places stay
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    # each sample is a chunk, and chunks have a description
    chunks = struct.pack(">II", 0, len(places)) + b"".join(struct.pack(">I", place) for place in places)
    runs = struct.pack(">II6I", 0, 2, 1, 1, 1, numbers[0] + 1, 1, 2)
    descriptions = struct.pack(">II", 0, 2) + b"".join(body_of(source, (*TABLE, b"stsd"))[8:] for source in sources)
    for kind, body in ((b"stco", chunks), (b"stsc", runs), (b"stsd", descriptions)):
        data = change_box(data, (*TABLE, kind), lambda _, body=body: body)
    path.write_bytes(data)
    return path
