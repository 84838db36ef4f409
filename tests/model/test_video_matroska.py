# SPDX-License-Identifier: Apache-2.0
"""What is read of a Matroska file without FFmpeg is what FFmpeg reads, or nothing."""

import warnings
from pathlib import Path

import av
import numpy as np
import pytest

from tubevit_hf import VideoReader, read_video
from tubevit_hf.model import video_index_tubevit
from tubevit_hf.model.video_matroska_tubevit import read_rows

from ..support.video_corpus import CASES, Case, add_stream, draw_frame, encode, read_index, write


# FFmpeg reads these
UNPLAIN = [
    Case("live.mkv", container_options={"live": "1"}),  # clusters of unknown size
    next(case for case in CASES if case.file == "alpha.webm"),
]
PLAIN = [
    *(case for case in CASES if case.file.endswith((".mkv", ".webm")) and case not in UNPLAIN),
    Case("many_clusters.mkv", options={"bf": "3"}, container_options={"cluster_time_limit": "100"}),
    Case("index_in_front.mkv", container_options={"cues_to_front": "1"}),
    Case("mpeg2.mkv", "mpeg2video", options={"bf": "2", "g": "10"}),
    Case("mpeg4.mkv", "mpeg4", options={"bf": "2", "g": "10"}),
    Case("intra_refresh.mkv", options={"x264-params": "intra-refresh=1:keyint=10"}),
]
GROUPS_OF_TEN = Case("video.mkv", options={"bf": "0", "g": "10", "sc_threshold": "0"})


def read_with_ffmpeg(path: Path) -> list[tuple[int, bool, bool]]:
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        return [(packet.pts, packet.is_keyframe, packet.is_discard) for packet in packets if packet.size]


def blocks_of(path: Path) -> list[int]:
    """Where the block of each frame begins: a byte of the track, two of the time, one of bits."""
    with av.open(str(path)) as container:
        return [packet.pos for packet in container.demux(video=0) if packet.size]


def indices_in(frames) -> list[int]:
    return [read_index(frame.permute(1, 2, 0).numpy()) for frame in frames]


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_times_and_keyframes_are_those_of_ffmpeg(case, tmp_path):
    path = write(case, tmp_path)
    rows = read_rows(str(path))
    assert len(rows) == case.num_frames
    assert rows == read_with_ffmpeg(path)
    with VideoReader(path) as reader:
        # of MPEG-4, the size of a packet tells whether it has a frame
        assert reader.index.is_checked == (case.codec == "mpeg4")
        assert indices_in(reader.get_frames(range(case.num_frames))[0]) == case.indices


@pytest.mark.parametrize("case", UNPLAIN, ids=lambda case: case.name)
def test_other_files_are_left_to_ffmpeg(case, tmp_path):
    path = write(case, tmp_path)
    assert read_rows(str(path)) is None
    assert indices_in(read_video(path, [30, 3])[0]) == [30, 3]


def test_sound_is_passed_over(tmp_path):
    path, case = tmp_path / "sound.mkv", Case("sound.mkv")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        video = add_stream(container, case)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        silence.rate = 8000
        for packet in [*sound.encode(silence), *sound.encode(), *encode(video, [draw_frame(7)] * 20, case)]:
            container.mux(packet)
    assert read_rows(str(path)) == read_with_ffmpeg(path)
    assert len(read_rows(str(path))) == 20


def test_packets_are_not_read_to_find_the_frames(tmp_path, monkeypatch):
    packets = []
    read_packets = video_index_tubevit.read_packets

    def counted(container, stream):
        for packet in read_packets(container, stream):
            packets.append(packet)
            yield packet

    monkeypatch.setattr(video_index_tubevit, "read_packets", counted)
    with VideoReader(write(GROUPS_OF_TEN, tmp_path)) as reader:
        assert len(packets) == 1
        assert indices_in(reader.get_frames([25])[0]) == [25]
        assert len(packets) == 1 + 6
        assert not reader.index.is_checked


def test_what_the_file_calls_a_keyframe_and_is_none(tmp_path):
    path = write(GROUPS_OF_TEN, tmp_path)
    data = bytearray(path.read_bytes())
    for place in blocks_of(path)[1:]:
        data[place + 3] |= 0x80
    path.write_bytes(data)
    with warnings.catch_warnings(), VideoReader(path) as reader:
        warnings.simplefilter("error")
        assert all(is_keyframe for _, is_keyframe, _ in read_rows(str(path)))
        assert reader.metadata.total_num_frames == 40
        assert indices_in(reader.get_frames([20])[0]) == [20]
        assert not reader.index.is_checked
        # FFmpeg knows better when it comes to decoding
        assert indices_in(reader.get_frames([15, 33])[0]) == [15, 33]
        assert reader.index.is_checked
        assert reader.index.keyframe_pts.tolist() == [0, 400, 800, 1200]


def test_keyframes_whose_times_go_back(tmp_path):
    path = write(Case("video.mkv", options={"bf": "3", "g": "10"}), tmp_path)
    data = bytearray(path.read_bytes())
    for place in blocks_of(path)[1:]:
        data[place + 3] |= 0x80
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert reader.index.is_checked
        assert indices_in(reader.get_frames([15, 33])[0]) == [15, 33]


def test_keyframes_that_the_file_does_not_call_so(tmp_path):
    path = write(GROUPS_OF_TEN, tmp_path)
    data = bytearray(path.read_bytes())
    blocks = blocks_of(path)
    for place in blocks[1:]:
        data[place + 3] &= 0x7F
    path.write_bytes(data)
    assert indices_in(read_video(path, [15, 33, 39])[0]) == [15, 33, 39]
    # not even the first: then FFmpeg must tell which frames there are
    data[blocks[0] + 3] &= 0x7F
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert reader.index.is_checked
        assert indices_in(reader.get_frames([15, 33, 39])[0]) == [15, 33, 39]


def test_a_damaged_frame_has_the_same_stand_in(tmp_path, monkeypatch):
    case = Case("video.mkv", options={"g": "1"})
    path = write(case, tmp_path)
    data = bytearray(path.read_bytes())
    first, last = blocks_of(path)[17:19]
    data[first + 4 : last - 8] = b"\xff" * (last - 8 - first - 4)
    path.write_bytes(data)
    assert len(read_rows(str(path))) == 40
    with pytest.warns(UserWarning, match="1 of the 40 wanted frames"):
        frames, metadata = read_video(path)
    monkeypatch.setattr(video_index_tubevit, "read_rows", lambda path: None)
    with pytest.warns(UserWarning, match="1 of the 40 wanted frames"):
        expected, expected_metadata = read_video(path)
    assert frames.equal(expected)
    assert metadata.stand_ins == expected_metadata.stand_ins == [(17, 16, "its data are damaged")]


@pytest.mark.parametrize(
    "change",
    [
        lambda data, block: data[:-1],
        lambda data, block: data + b"\0",
        lambda data, block: data[: block + 20],
        lambda data, block: data[:block] + b"\x82" + data[block + 1 :],  # of a track that there is not
        lambda data, block: data[:block] + b"\x41" + data[block + 1 :],
        lambda data, block: data[: block + 1] + b"\x80\0" + data[block + 3 :],  # before the beginning of time
        lambda data, block: data[: block + 3] + bytes([data[block + 3] | 2]) + data[block + 4 :],  # laced
        lambda data, block: data[: block + 3] + bytes([data[block + 3] | 8]) + data[block + 4 :],  # not shown
        lambda data, block: data[: block - 3] + b"\xaf" + data[block - 2 :],  # an encrypted block
        lambda data, block: data[: block - 2] + b"\x7f\xff" + data[block:],  # of unknown size
        lambda data, block: data[: block - 2] + b"\x7f\xfe" + data[block:],  # larger than what is around it
        lambda data, block: data.replace(b"\x83\x81\x01", b"\x83\x81\x02"),  # no video
        lambda data, block: data.replace(b"V_MPEG4/ISO/AVC", b"V_MS/VFW/FOURCC"),
        lambda data, block: data[:4],
        lambda data, block: b"",
    ],
)
def test_what_is_not_plain_is_not_read(change, tmp_path):
    path = write(GROUPS_OF_TEN, tmp_path)
    data, block = path.read_bytes(), blocks_of(path)[20]
    # before it, its ID and 2 bytes of size
    assert data[block - 3] == 0xA3 and data[block - 2] >> 6 == 1
    assert len(read_rows(str(path))) == 40
    path.write_bytes(change(data, block))
    assert read_rows(str(path)) is None


def test_a_file_that_is_not_there(tmp_path):
    assert read_rows(str(tmp_path / "missing.mkv")) is None


def test_a_damaged_file_is_not_read_for_long(tmp_path):
    path = write(GROUPS_OF_TEN, tmp_path)
    data = path.read_bytes()
    # empty elements without end, in a segment of 8 bytes of size
    start = data.index(bytes.fromhex("18538067")) + 4
    assert data[start] == 1
    data += b"\xec\x80" * 2**20
    data = data[:start] + (1 << 56 | len(data) - start - 8).to_bytes(8, "big") + data[start + 8 :]
    path.write_bytes(data)
    assert read_rows(str(path)) is None
    assert read_video(path, [39])[1].total_num_frames == 40
