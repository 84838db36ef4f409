# SPDX-License-Identifier: Apache-2.0
"""Interlaced H.264 whose fields have packets of their own, as AVCHD and broadcasts have it, and files that begin with
frames stored after the first keyframe and shown before it."""

import warnings

import numpy as np
import pytest

from tubevit_hf import VideoReader, read_video
from tubevit_hf.model.video_decoding_tubevit import VideoLimits
from tubevit_hf.model.video_fields_tubevit import FieldPairs

from ..support.field_pictures import RATE, grey_of, write_field_pictures, write_with_leading_frames
from ..support.video_corpus import Case, write


ENDINGS = ["ts", "m2ts", "mkv", "mp4", "mov", "flv", "avi"]
# fields alone; with frames between them; both fields in a packet; frames for long, then fields
KINDS = ["ssssssssssss", "ssffsfssbbfs", "bbbbbbbbbbbb", "ffffffffssss"]


def to_rgb(luma: int) -> float:
    """Grey of a luma of limited range (ITU-R BT.601)."""
    return min(255.0, (luma - 16) * 255 / 219)


def rows_of(frame: np.ndarray) -> list[float]:
    """Mean of the even rows, which are the upper field, and of the odd ones."""
    return [float(frame[:, start::2].mean()) for start in (0, 1)]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_frame_of_two_fields_is_one(ending, kinds, tmp_path):
    path = write_field_pictures(tmp_path / f"fields.{ending}", kinds)
    expected = [
        [to_rgb(luma) for luma in (grey_of(number) if kind != "f" else grey_of(number)[:1] * 2)]
        for number, kind in enumerate(kinds)
    ]
    with warnings.catch_warnings(), VideoReader(path, VideoLimits(any_format=True)) as reader:
        warnings.simplefilter("error")
        assert reader.metadata.total_num_frames == len(kinds)
        frames, metadata = reader.get_frames(range(len(kinds)))
        np.testing.assert_allclose([rows_of(frame.numpy()) for frame in frames], expected, atol=1.5)
        assert metadata.stand_ins == []
        for index in (len(kinds) - 1, 5, 0, 1):
            np.testing.assert_allclose(rows_of(reader.get_frames([index])[0][0].numpy()), expected[index], atol=1.5)
        if (
            ending != "avi" or len(set(kinds)) == 1
        ):  # FFmpeg's AVI files lose times of packets that are not as far apart
            assert reader.seconds() == pytest.approx(np.arange(len(kinds)) / RATE, abs=1e-3)
            assert metadata.fps == pytest.approx(RATE, rel=1e-3)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_frames_shown_before_the_first_keyframe_that_need_no_other(ending, tmp_path):
    path = write_with_leading_frames(tmp_path / f"leading.{ending}", 4)
    with VideoReader(path) as reader:
        assert reader.metadata.total_num_frames == 16
        assert reader.index is not None
        for indices in (range(16), [0], [1, 2], [15], [6, 0]):
            frames, metadata = reader.get_frames(indices)
            expected = [to_rgb(grey_of(index)[0]) for index in indices]
            np.testing.assert_allclose(frames.float().mean((1, 2, 3)), expected, atol=1.5)
            assert metadata.timestamps == pytest.approx(np.array(indices) / RATE, abs=1e-3)
        assert reader.seconds() == pytest.approx(np.arange(16) / RATE, abs=1e-3)


@pytest.mark.parametrize(
    "parameters", ["", ":slices=3", ":cqm=jvt", ":interlaced=1", ":interlaced=1:cqm=jvt:slices=2"]
)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("ending", ["mp4", "ts"])
def test_headers_of_other_files(ending, pixel_format, parameters, tmp_path):
    """A packet a frame, with all that a sequence set can hold before what is read."""
    options = {"x264-params": f"keyint=5{parameters}"}
    path = write(Case(f"video.{ending}", pixel_format=pixel_format, options=options, num_frames=12), tmp_path)
    with VideoReader(path) as reader:
        pairs = FieldPairs(reader.stream.codec_context.extradata)
        assert pairs.is_possible == ("interlaced" in parameters)
        assert len(pairs.sequences) == 1
        reader.container.seek(0)
        packets = [bytes(packet) for packet in reader.container.demux(video=0) if packet.size]
        assert [pairs.begins_frame(packet) for packet in packets] == [True] * 12
    assert len(read_video(path)[0]) == 12


@pytest.mark.parametrize(
    "extradata",
    [b"", b"\1", b"\1\x64\0\x1e\xff\xff", b"\1\x64\0\x1e\xff\xe1\0\5", b"\0\0\1\x67", b"\0\0\1\x67\x64" + bytes(99)],
)
def test_damaged_headers(extradata):
    pairs = FieldPairs(extradata)
    assert pairs.is_possible
    for packet in (b"", b"\0\0\1", b"\0\0\1\x65\x88", b"\0\0\0\5\x65", bytes(range(256))):
        assert pairs.begins_frame(packet)
