# SPDX-License-Identifier: Apache-2.0
"""Animated WebP and PNG: the frames and times that were written, by every way to hand them in, within the limits."""

import io
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tubevit_hf import VideoDecodingError, VideoLimits, VideoReader, read_video

from ..support.video_corpus import draw_frame
from .test_video_limits import serving, with_ranges


SIZE = 45, 67
PICTURES = [draw_frame(index, *SIZE) for index in range(7)]
# milliseconds; browsers show what is to be shown for no time for a tenth of a second
LASTS = [40, 200, 33, 0, 10, 1000, 500]
STARTS = [0, 0.04, 0.24, 0.273, 0.373, 0.473, 1.473]
LOSSLESS = {"webp": {"lossless": True}, "png": {}}


def write(path: Path, **settings) -> Path:
    first, *others = (Image.fromarray(picture) for picture in PICTURES)
    kind = path.suffix[1:]
    first.save(path, save_all=True, append_images=others, **{"duration": LASTS, **LOSSLESS[kind], **settings})
    return path


def to_pictures(frames) -> np.ndarray:
    return frames.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_frames_and_times(kind, isolated, tmp_path):
    path, limits = write(tmp_path / f"a.{kind}"), VideoLimits(isolated=isolated)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        frames, metadata = read_video(source, limits=limits)
        assert (to_pictures(frames) == np.array(PICTURES)).all()
        assert metadata.timestamps == pytest.approx(STARTS, abs=1e-4)
    with VideoReader(path, limits) as reader:
        assert reader.metadata.total_num_frames == 7 and (reader.metadata.width, reader.metadata.height) == SIZE[::-1]
        assert (to_pictures(reader.get_frames([5, 1])[0]) == np.array(PICTURES)[[5, 1]]).all()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_it_is_tells_and_not_its_name(kind, tmp_path):
    for name in ("a.mp4", "a.gif", "a", "a%d.png"):
        path = write(tmp_path / f"a.{kind}").rename(tmp_path / name)
        assert len(read_video(path)[0]) == 7


@pytest.mark.parametrize("kind", LOSSLESS)
def test_at_an_address(kind, tmp_path):
    data = write(tmp_path / f"a.{kind}").read_bytes()
    with serving() as server:
        server.pages |= {"/whole": data, "/parts": with_ranges(data)}
        for place in server.pages:
            assert (to_pictures(read_video(server.url + place)[0]) == np.array(PICTURES)).all()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_pictures_that_do_not_move_stay_as_they_are(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(PICTURES[0]).save(path, **LOSSLESS[kind])
    frames, metadata = read_video(path)
    assert metadata.total_num_frames == 1 and np.abs(to_pictures(frames)[0].astype(int) - PICTURES[0]).max() <= 4


@pytest.mark.parametrize("kind", LOSSLESS)
def test_limits(kind, tmp_path):
    path = write(tmp_path / f"a.{kind}")
    with pytest.raises(VideoDecodingError, match=rf"^{path}: frames of 67 x 45 pixels are too large; at most 3014 "):
        read_video(path, limits=VideoLimits(max_pixels=67 * 45 - 1))
    most = 7 * 67 * 45 * 3
    assert len(read_video(path, limits=VideoLimits(max_decoded=most))[0]) == 7
    with pytest.raises(VideoDecodingError, match=r"an animation of 7 frames of 67 x 45 pixels.*`VideoLimits.max_dec"):
        read_video(path, [0], limits=VideoLimits(max_decoded=most - 1))


def test_a_header_that_claims_much(tmp_path):
    """Nothing is allocated for it."""
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"acTL", struct.pack(">II", 2**31 - 1, 0)), (b"IDAT", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    webp = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + b"\xff" * 6 + b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    webp = b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp
    for data in (png, webp):
        with pytest.raises(VideoDecodingError, match="pixels are too large"):
            read_video(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", LOSSLESS)
def test_damaged_files_give_frames_or_an_error(kind, tmp_path):
    data = write(tmp_path / f"a.{kind}").read_bytes()
    outcomes = set()
    random = np.random.default_rng(0)
    for length in random.integers(10, len(data), 40):
        spoilt = bytearray(data)
        spoilt[length % len(data)] ^= 0x55
        for source in (data[:length], bytes(spoilt)):
            try:
                frames, metadata = read_video(source)
                assert 1 <= len(frames) == metadata.total_num_frames <= 7
                outcomes.add(len(frames))
            except VideoDecodingError:
                outcomes.add(0)
    assert 0 in outcomes and 7 in outcomes


@pytest.mark.parametrize("isolated", [False, True])
def test_a_png_that_breaks_off(isolated, tmp_path):
    path = write(tmp_path / "a.png")
    data = path.read_bytes()
    # in the data of the fourth frame
    place = [at for at in range(len(data)) if data[at : at + 4] == b"fdAT"][2]
    path.write_bytes(data[: place + 50])
    with pytest.warns(UserWarning, match=rf"^{path}: it is damaged, and read up to its frame 2 "):
        frames, _ = read_video(path, limits=VideoLimits(isolated=isolated))
    assert (to_pictures(frames) == np.array(PICTURES)[:3]).all()


def test_what_ffmpeg_reads_of_a_png(tmp_path):
    """Frames that change a part, an image for those who know no animations, and 16 bits."""
    random = np.random.default_rng(0)
    pictures = [PICTURES[0].copy()]
    for number in range(1, 6):
        pictures.append(pictures[-1].copy())
        pictures[-1][3 * number : 20, 5:30] = random.integers(0, 256, 3)
    first, *others = (Image.fromarray(picture) for picture in pictures)
    for settings in ({}, {"default_image": True}, {"disposal": 1}, {"disposal": 2, "blend": 1}):
        path = tmp_path / "a.png"
        first.save(path, save_all=True, append_images=others, duration=100, **settings)
        with av.open(str(path), format="apng") as container:
            expected = np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert len(expected) == 6 - settings.get("default_image", 0)
        assert (to_pictures(read_video(path)[0]) == expected).all()


def test_16_bits(tmp_path):
    grey = [np.full((8, 8), 256 * level + 77, dtype=np.uint16) for level in (0, 200)]
    first, *others = (Image.fromarray(image) for image in grey)
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=100)
    frames, _ = read_video(tmp_path / "a.png")
    assert [sorted(set(frame.flatten().tolist())) for frame in frames] == [[0], [200]]


def test_an_animation_that_is_turned(tmp_path):
    exif = Image.Exif()
    # a quarter turn to the right
    exif[0x0112] = 6
    frames, metadata = read_video(write(tmp_path / "a.webp", exif=exif))
    assert (metadata.height, metadata.width) == SIZE[::-1]
    assert (to_pictures(frames) == np.rot90(np.array(PICTURES), -1, axes=(1, 2))).all()
