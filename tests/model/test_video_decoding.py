# SPDX-License-Identifier: Apache-2.0
"""Frames come out exactly, whatever the file is, and what is no video is named."""

import contextlib
import io
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from transformers.video_utils import load_video

from tubevit_hf import VideoDecodingError, VideoReader, read_video
from tubevit_hf.model import video_decoding_tubevit, video_index_tubevit, video_matroska_tubevit
from tubevit_hf.model.video_decoding_tubevit import VideoLimits, orient
from tubevit_hf.model.video_index_tubevit import FrameClock, HeaderIndex

from ..support.joined_mp4 import join
from ..support.video_corpus import (
    BLOCK,
    CASES,
    HEIGHT,
    NUM_FRAMES,
    RATE,
    WIDTH,
    Case,
    add_stream,
    draw_frame,
    encode,
    read_index,
    turn,
    write,
    write_frames,
)


CLIPS = Path(__file__).parents[3] / "shared" / "clips"
BY_FILE = {case.file: case for case in CASES}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Path of a case of the corpus, which is written when it is first asked for."""
    folder, written = tmp_path_factory.mktemp("corpus"), {}

    def path(case: Case | str) -> Path:
        case = BY_FILE[case] if isinstance(case, str) else case
        if case.file not in written:
            written[case.file] = write(case, folder)
        return written[case.file]

    return path


def naive_read(path: Path) -> list[np.ndarray]:
    """All frames, as PyAV gives them from the beginning on."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def indices_in(frames: torch.Tensor) -> list[int]:
    """What frames `(num_frames, 3, height, width)` carry."""
    return [read_index(frame.permute(1, 2, 0).numpy()) for frame in frames]


# Every container, codec and trait

# of a format or codec that is open on demand only
UNUSUAL = {"h264.nut", "rv20.rm", "rle.mov", "alpha.mov"}


def limits_of(case: Case) -> VideoLimits:
    return VideoLimits(any_format=case.file in UNUSUAL)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_frame_and_its_time(corpus, case):
    frames, metadata = read_video(corpus(case), limits=limits_of(case))
    assert indices_in(frames) == case.indices
    assert frames.shape[2:] == (case.height, case.width) == (metadata.height, metadata.width)
    assert frames.dtype == torch.uint8
    assert metadata.total_num_frames == len(case.indices)
    assert metadata.timestamps == pytest.approx(case.seconds, abs=1e-6)
    if case.ticks is None:
        assert metadata.fps == pytest.approx(25)
        assert metadata.duration == pytest.approx(len(case.indices) / 25)
    with VideoReader(corpus(case), limits_of(case)) as reader:
        assert reader.metadata.all_frame_seconds() == pytest.approx(case.seconds, abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_any_frames_are_those_of_a_naive_read(corpus, case):
    path = corpus(case)
    expected = naive_read(path)
    last = len(expected) - 1
    generator = np.random.default_rng(0)
    with VideoReader(path, limits_of(case)) as reader:
        assert reader.metadata.total_num_frames == len(expected)
        for indices in (
            [last],
            [last // 2],
            [0, last],
            [last, 0, last // 3, 0],
            range(last // 2, last + 1),
            generator.integers(0, last + 1, size=5).tolist(),
            sorted(generator.integers(0, last + 1, size=9).tolist()),
        ):
            frames, metadata = reader.get_frames(indices)
            assert metadata.frames_indices == list(indices)
            assert np.array_equal(frames.permute(0, 2, 3, 1), np.stack([expected[index] for index in indices]))


@pytest.mark.parametrize("name", ["h264.avi", "mpeg4_bframes.avi", "mpeg2.mpg", "open_gop.mp4", "intra_refresh.mp4"])
def test_each_frame_alone(corpus, name):
    with VideoReader(corpus(name)) as reader:
        for index in range(NUM_FRAMES):
            assert indices_in(reader.get_frames([index])[0]) == [index]
        # the index held, where there is one: nothing had to be decoded from the beginning
        assert (reader.index is None) == name.endswith((".avi", ".mpg"))


def test_frames_in_another_order_than_their_timestamps(corpus, monkeypatch):
    # as if all AVI files told when a frame is shown
    monkeypatch.setattr(video_index_tubevit, "FORMATS_WITHOUT_PTS", set())
    assert indices_in(read_video(corpus("h264.avi"))[0]) == list(range(NUM_FRAMES))


def test_same_frames_as_transformers(corpus):
    theirs, _ = load_video(str(corpus("h264.mp4")), backend="pyav", num_frames=8)
    frames, _ = read_video(corpus("h264.mp4"), lambda metadata: np.arange(0, 40, 5))
    assert np.array_equal(frames.permute(0, 2, 3, 1), theirs)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([1, 0, 0, 1], lambda frame: frame),
        ([0, 1, -1, 0], lambda frame: np.rot90(frame, -1)),  # a quarter turn clockwise
        ([-1, 0, 0, -1], lambda frame: np.rot90(frame, 2)),
        ([0, -1, 1, 0], lambda frame: np.rot90(frame, 1)),
        ([-1, 0, 0, 1], lambda frame: frame[:, ::-1]),
        ([1, 0, 0, -1], lambda frame: frame[::-1]),
        ([0, 1, 1, 0], lambda frame: frame.transpose(1, 0, 2)),
        ([0, -1, -1, 0], lambda frame: np.rot90(frame, 2).transpose(1, 0, 2)),
    ],
)
def test_turned_and_mirrored(tmp_path, matrix, expected):
    path = write(Case("turned.mp4", finish=turn(matrix)), tmp_path)
    frames, metadata = read_video(path, [3, 20])
    upright = naive_read(path)
    for frame, index in zip(frames, (3, 20)):
        assert np.array_equal(frame.permute(1, 2, 0), expected(upright[index]))
    assert (metadata.height, metadata.width) == frames.shape[2:]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_turned_by_exif(orientation, tmp_path):
    """PyAV has no name for the Exif data that FFmpeg lays beside such a frame."""
    rows, columns = np.mgrid[:40, :64]
    picture = Image.fromarray(np.stack((rows * 6, columns * 3, rows + columns), axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    frames, _ = read_video(tmp_path / "turned.jpg")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")))
    # two decoders of a lossy format
    assert np.abs(frames[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 8


def test_orientation_goes_to_the_nearest_quarter_turn():
    image = np.arange(24).reshape(2, 4, 3)
    slightly = np.array([60000, 20000, 0, -20000, 60000, 0, 0, 0, 1 << 30], dtype=np.int32).tobytes()
    assert np.array_equal(orient(image, slightly), image)


# More than one stream


def test_best_of_several_video_streams(tmp_path):
    # the second is the one that the file calls its default
    small, large = Case("", height=32, width=48), Case("", height=128, width=192)
    path = tmp_path / "two_streams.mkv"
    with av.open(str(path), "w") as container:
        streams = [add_stream(container, case) for case in (small, large)]
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for stream, case in zip(streams, (small, large)):
            for packet in encode(stream, [draw_frame(index, case.height, case.width) for index in range(10)], case):
                container.mux(packet)
    frames, _ = read_video(path)
    assert frames.shape == (10, 3, 128, 192)
    assert indices_in(frames) == list(range(10))


def write_with_sound(path: Path, num_video_frames: int, delay: float = 0) -> Path:
    """A second of silence, and frames whose times are `delay` seconds later than without sound."""
    case = Case(path.name)
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        video = add_stream(container, case) if num_video_frames else None
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        silence.rate = 8000
        for packet in [*sound.encode(silence), *sound.encode()]:
            container.mux(packet)
        if video is not None:
            for packet in encode(video, [draw_frame(index) for index in range(num_video_frames)], case):
                ticks = round(delay / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                container.mux(packet)
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_sound_is_passed_over(tmp_path, ending):
    frames, _ = read_video(write_with_sound(tmp_path / f"sound.{ending}", 20), [19, 4])
    assert indices_in(frames) == [19, 4]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("isolated", [False, True])
def test_a_picture_that_begins_later_than_the_sound(ending, isolated, tmp_path):
    path = write_with_sound(tmp_path / f"late.{ending}", 20, delay=5)
    _, metadata = read_video(path, [0, 19], limits=VideoLimits(isolated=isolated))
    # AAC begins with 1024 samples before the sound
    assert metadata.start_seconds == pytest.approx(5, abs=0.13)
    assert metadata.timestamps == pytest.approx([0, 19 / 25])
    assert read_video(write_with_sound(tmp_path / f"plain.{ending}", 5), [0])[1].start_seconds < 0.21


def test_cover_is_no_video(tmp_path):
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 480, 640, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        video = add_stream(container, Case(""))
        for packet in encode(video, [draw_frame(index) for index in range(10)], Case("")):
            container.mux(packet)
        picture = av.VideoFrame.from_ndarray(draw_frame(1, 480, 640), format="rgb24")
        for packet in [*cover.encode(picture), *cover.encode()]:
            container.mux(packet)
    frames, _ = read_video(path)
    assert frames.shape == (10, 3, HEIGHT, WIDTH)


# Streams that change or jump


def elementary(tmp_path: Path, name: str, start: int, stop: int, **arguments) -> bytes:
    """Bytes of the frames `start` to `stop` as a file of their own."""
    case = Case(name, **arguments)
    frames = [draw_frame(index, case.height, case.width) for index in range(start, stop)]
    write_frames(tmp_path / name, frames, case)
    return (tmp_path / name).read_bytes()


def test_timestamps_that_jump_back(tmp_path):
    path = tmp_path / "joined.ts"
    path.write_bytes(elementary(tmp_path, "a.ts", 0, 15) + elementary(tmp_path, "b.ts", 15, 40))
    frames, metadata = read_video(path, [0, 14, 15, 16, 39])
    assert metadata.total_num_frames == 40
    assert indices_in(frames) == [0, 14, 15, 16, 39]
    # as if there had been no end
    assert metadata.timestamps == pytest.approx(np.array([0, 14, 15, 16, 39]) / RATE, abs=0.05)


def test_size_that_changes(tmp_path):
    path = tmp_path / "joined.h264"
    larger = elementary(tmp_path, "b.h264", 10, 20, height=2 * HEIGHT, width=2 * WIDTH)
    path.write_bytes(elementary(tmp_path, "a.h264", 0, 10) + larger)
    frames, _ = read_video(path)
    # all in the size of the first
    assert frames.shape == (20, 3, HEIGHT, WIDTH)
    assert indices_in(frames[:10]) == list(range(10))
    # half of what was drawn twice as large: its blocks are half as wide
    blocks = frames[15, :, 2, BLOCK // 4 :: BLOCK // 2].float().mean(dim=0)[:6] > 128
    assert int(blocks.long() @ 2 ** torch.arange(6)) == 15


def test_stream_that_begins_within_a_group(tmp_path):
    data = elementary(tmp_path, "whole.ts", 0, 40, options={"g": "10"})
    path = tmp_path / "cut.ts"
    # from the middle of the first group on, but with the tables at the beginning
    path.write_bytes(data[: 3 * 188] + data[len(data) // 8 // 188 * 188 :])
    frames, metadata = read_video(path)
    indices = indices_in(frames)
    # what cannot be decoded for want of a keyframe is no frame of the video
    assert indices == list(range(indices[0], 40))
    assert indices[0] in (10, 20)
    assert metadata.total_num_frames == len(indices)
    assert indices_in(read_video(path, [5, 2])[0]) == [indices[5], indices[2]]


# What packets bring along


def write_part(path: Path, start: int, stop: int, **arguments) -> Path:
    case = Case(path.name, **arguments)
    write_frames(path, [draw_frame(index, case.height, case.width) for index in range(start, stop)], case)
    return path


PLAIN = {"options": {"x264-params": "keyint=5:bframes=2"}}
OTHER = {"options": {"x264-params": "keyint=5:bframes=0:cabac=0:8x8dct=0:ref=1"}}
# decoded with the parameters of the other, all their frames come out wrong, without an error
FINE = {"options": {"x264-params": "keyint=5:bframes=2:qp=12"}}
COARSE = {"options": {"x264-params": "keyint=5:bframes=2:qp=30"}}
HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=5"}}
OTHER_HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=5:no-sao=1:ctu=16:min-cu-size=16"}}


@pytest.mark.parametrize("num_first", [20, 1])
@pytest.mark.parametrize(
    ("first", "second"), [(PLAIN, OTHER), (OTHER, PLAIN), (HEVC, OTHER_HEVC), (FINE, COARSE), (COARSE, FINE)]
)
@pytest.mark.parametrize("isolated", [False, True])
def test_clips_joined_without_coding_them_again(first, second, num_first, isolated, tmp_path):
    """The packet that begins the second clip brings what decodes it, and is read for the index."""
    parts = (
        write_part(tmp_path / "a.mp4", 0, num_first, **first),
        write_part(tmp_path / "b.mp4", num_first, 40, **second),
    )
    path = join(*parts, tmp_path / "joined.mp4")
    alone = np.concatenate([naive_read(part) for part in parts])
    with VideoReader(path, VideoLimits(isolated=isolated)) as reader:
        for indices in ([39], [num_first], [0], [num_first + 1, 0], range(40), [25], range(35, 40)):
            frames, metadata = reader.get_frames(indices)
            assert np.array_equal(frames.permute(0, 2, 3, 1), alone[list(indices)])
            assert metadata.stand_ins == []
        # nothing was decoded from the beginning
        assert isolated or isinstance(reader.index, HeaderIndex)
    if not isolated:
        with VideoReader(path) as reader:
            kept = pickle.loads(pickle.dumps(reader.frame_index))
        with VideoReader(path, index=kept) as reader:
            assert np.array_equal(reader.get_frames([39])[0][0].permute(1, 2, 0), alone[39])


def test_joined_clips_of_another_size(tmp_path):
    parts = write_part(tmp_path / "a.mp4", 0, 10), write_part(tmp_path / "b.mp4", 10, 20, height=96, width=192)
    path = join(*parts, tmp_path / "joined.mp4")
    # in that of the first wanted one
    assert read_video(path, [3, 15])[0].shape == (2, 3, HEIGHT, WIDTH)
    frames, metadata = read_video(path, [15, 19])
    assert frames.shape == (2, 3, 96, 192) and (metadata.height, metadata.width) == (96, 192)
    assert indices_in(frames) == [15, 19]


def write_flv_with_a_change(folder: Path) -> Path:
    """An FLV file, where a new sequence header lies between the packets."""
    parts = [
        write_part(folder / "a.flv", 0, 20, options={"x264-params": "keyint=5:bframes=0:qp=12"}).read_bytes(),
        write_part(folder / "b.flv", 20, 40, options={"x264-params": "keyint=5:bframes=0:qp=30"}).read_bytes(),
    ]
    # after 13 bytes of header come tags: type, size, time, stream, data, and the size of them all
    data = bytearray(parts[0])
    place = 13
    while place < len(parts[1]):
        stop = place + 11 + int.from_bytes(parts[1][place + 1 : place + 4], "big") + 4
        tag = bytearray(parts[1][place:stop])
        if tag[0] == 9:
            time = int.from_bytes(tag[4:7], "big") + 20 * 1000 // RATE
            tag[4:7] = time.to_bytes(3, "big")
            data += tag
        place = stop
    path = folder / "joined.flv"
    path.write_bytes(data)
    return path


def test_a_sequence_header_between_packets(tmp_path):
    path = write_flv_with_a_change(tmp_path)
    expected = naive_read(path)
    with VideoReader(path) as reader:
        for indices in ([39], [3], [21, 19], range(40), [30]):
            frames, metadata = reader.get_frames(indices)
            assert all(np.array_equal(frame.permute(1, 2, 0), expected[i]) for frame, i in zip(frames, indices))
            assert indices_in(frames) == list(indices)
            assert metadata.timestamps == pytest.approx(np.array(indices) / RATE)
        assert reader.metadata.fps == pytest.approx(RATE)


def write_palette(path: Path, is_changing: bool) -> np.ndarray:
    """A video of 8 bits a pixel; gives its frames, `(num_frames, height, width, 3)`."""
    generator = np.random.default_rng(0)
    indices = generator.integers(0, 256, (8, 16, 24), dtype=np.uint8)
    palettes = generator.integers(0, 256, (8 if is_changing else 1, 256, 4), dtype=np.uint8)
    palettes[..., 0] = 255  # alpha
    frames = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "pal8"
        for number, image in enumerate(indices):
            palette = palettes[number % len(palettes)]
            frames.append(palette[image][..., 1:])
            for packet in stream.encode(av.VideoFrame.from_ndarray((image, palette), format="pal8")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return np.stack(frames)


@pytest.mark.parametrize("ending", ["avi", "mov", "nut"])
@pytest.mark.parametrize("is_changing", [False, True])
def test_palettes(ending, is_changing, tmp_path):
    path = tmp_path / f"palette.{ending}"
    expected = write_palette(path, is_changing)
    if ending == "mov":
        expected = np.stack(naive_read(path))  # its header has one
    with VideoReader(path, VideoLimits(any_format=True)) as reader:
        for indices in ([7], [3], range(8), [6, 0]):
            assert np.array_equal(reader.get_frames(indices)[0].permute(0, 2, 3, 1), expected[list(indices)])
        kept = pickle.loads(pickle.dumps(reader.frame_index))
    with VideoReader(path, VideoLimits(any_format=True), index=kept) as reader:
        assert np.array_equal(reader.get_frames([5])[0][0].permute(1, 2, 0), expected[5])


@pytest.mark.parametrize("ending", ["avi", "mp4", "mkv"])
def test_packets_that_say_that_there_is_no_new_frame(ending, tmp_path):
    """As MPEG-4 encoders write them where nothing moves (VOPs that are not coded): a decoder gives none for them."""
    case = Case(f"still.{ending}", "mpeg4", options={"g": "10"})
    path, skipped = tmp_path / case.file, {9, 18, 19}  # before keyframes, so that nothing refers to them
    # a P picture, of the same second, at 5 bits of 25 in it, not coded
    bits = [f"010 1{index % RATE:05b} 1 0 0111".replace(" ", "") for index in range(NUM_FRAMES)]
    with av.open(str(path), "w") as container:
        stream = add_stream(container, case)
        for index, packet in enumerate(encode(stream, [draw_frame(index) for index in range(NUM_FRAMES)], case)):
            if index in skipped:
                empty = av.Packet(b"\0\0\1\xb6" + int(bits[index], 2).to_bytes(2, "big"))
                empty.pts, empty.dts, empty.duration = packet.pts, packet.dts, packet.duration
                empty.time_base, empty.stream = packet.time_base, stream
                packet = empty
            container.mux(packet)
    expected = sorted(set(range(NUM_FRAMES)) - skipped)
    with warnings.catch_warnings(), VideoReader(path) as reader:
        warnings.simplefilter("error")
        frames, metadata = reader.get_frames(range(len(expected)))
        assert indices_in(frames) == expected == [read_index(frame) for frame in naive_read(path)]
        assert metadata.timestamps == pytest.approx(np.array(expected) / RATE)
        assert indices_in(reader.get_frames([36, 17])[0]) == [39, 20]


# Times


@pytest.mark.parametrize(
    "case",
    [
        Case("twice.mkv", options={"bf": "0", "g": "10"}),
        Case("twice.webm", "libvpx", options={"g": "10"}),
    ],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("repeated", [20, 21])
def test_a_repeated_time_leaves_the_others(case, repeated, tmp_path):
    """One of a keyframe and the frame before it, or of two frames of a group; and a pause after them."""
    ticks = [40 * index + (3000 if index > 25 else 0) for index in range(NUM_FRAMES)]
    path = write(replace(case, ticks=ticks), tmp_path)
    data = bytearray(path.read_bytes())
    place = video_matroska_tubevit.read_rows(str(path)) and [
        packet.pos for packet in av.open(str(path)).demux(video=0) if packet.size
    ]
    offset = int.from_bytes(data[place[repeated] + 1 : place[repeated] + 3], "big") - 40
    data[place[repeated] + 1 : place[repeated] + 3] = offset.to_bytes(2, "big", signed=True)
    path.write_bytes(data)
    ticks[repeated] -= 40
    frames, metadata = read_video(path)
    assert indices_in(frames) == list(range(NUM_FRAMES))
    assert metadata.timestamps == pytest.approx(np.array(ticks) / 1000)
    assert metadata.fps == pytest.approx((NUM_FRAMES - 1) * 1000 / ticks[-1])
    frames, metadata = read_video(path, [39, repeated - 1, repeated])
    assert indices_in(frames) == [39, repeated - 1, repeated]
    assert metadata.timestamps == pytest.approx(np.array([ticks[39], ticks[repeated], ticks[repeated]]) / 1000)


@pytest.mark.parametrize(
    ("case", "late"),
    [
        # a frame is shown when the packet is decoded after which it is given
        (Case("gap.avi", "mpeg4", options={"bf": "2", "g": "10"}), 1),
        (Case("gap.avi", "mpeg4", options={"g": "10"}), 0),
        (Case("gap.avi", "mjpeg", "yuvj420p"), 0),
        (Case("gap.mpg", "mpeg2video", options={"bf": "2", "g": "10"}), 0),
        (Case("gap.ts", options={"bf": "2", "g": "10"}), 0),
        (Case("gap.mp4", options={"bf": "2", "g": "10"}), 0),
        (Case("gap.flv", options={"bf": "2", "g": "10"}), 0),
        (Case("gap.wmv", "wmv2"), 0),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_time_goes_on_where_frames_were_dropped(case, late, tmp_path):
    path, gap, first = tmp_path / case.file, 25, 20
    with av.open(str(path), "w") as container:
        stream = add_stream(container, case)
        packets = []
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(draw_frame(index), format="rgb24")
            frame.pts = index + gap * (index >= first)
            frame.time_base = Fraction(1, RATE)
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()]:
            container.mux(packet)
    frames, metadata = read_video(path)
    assert indices_in(frames) == list(range(NUM_FRAMES))
    numbers = np.arange(NUM_FRAMES)
    expected = (numbers + gap * (numbers >= first)) / RATE
    is_certain = np.abs(numbers - first + 0.5) > late
    assert np.array(metadata.timestamps)[is_certain] == pytest.approx(expected[is_certain], abs=2e-3)
    with VideoReader(path) as reader:
        assert reader.seconds().tolist() == metadata.timestamps
        assert reader.metadata.fps == pytest.approx((NUM_FRAMES - 1) / expected[-1], rel=0.02)
        assert reader.metadata.start_seconds == pytest.approx(0, abs=1e-6)
        kept = pickle.loads(pickle.dumps(reader.frame_index))
    with VideoReader(path, index=kept) as reader:
        assert reader.get_frames([39, 5])[1].timestamps == pytest.approx([expected[39], expected[5]], abs=2e-3)


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([(0, 0), (1, 1), (1, 1), (3, 3)], [0, 1, 1, 3]),
        # FFmpeg goes by the other clock where one turns out wrong
        ([(0, 0), (0, 1), (0, 2), (0, 3)], [0, 1, 2, 3]),
        # out of line
        ([(0, 0), (9, 9), (2, 2), (3, 3)], [0, 1, 2, 3]),
        ([(10, 10), (11, 11), (2, 2), (13, 13)], [10, 11, 12, 13]),
        # none at all, at the beginning, in the middle, at the end
        ([(None, None)] * 4, [0, 1, 2, 3]),
        ([(None, None), (None, None), (7, 7), (8, 8)], [5, 6, 7, 8]),
        ([(0, 0), (None, None), (None, None), (6, 6)], [0, 2, 4, 6]),
        ([(4, 4), (5, 5), (None, None), (None, None)], [4, 5, 6, 7]),
        # of another recording
        ([(90, 90), (91, 91), (10, 10), (12, 12)], [90, 91, 92, 94]),
        # not far enough to be one
        ([(0, 0), (2, 2), (1, 1), (3, 3)], [0, 2, 2, 3]),
        # that stands still, or goes back only
        ([(5, 5)] * 4, [5, 6, 7, 8]),
        ([(5, 5), (4, 4), (3, 3), (2, 2)], [5, 6, 7, 8]),
        # every second field
        ([(0, 0), (2, 2), (4, 4), (None, None)], [0, 2, 4, 6]),
    ],
)
def test_clock(stamps, expected):
    container, stream = SimpleNamespace(format=SimpleNamespace(name="mpegts")), SimpleNamespace()
    stream.time_base, stream.average_rate = Fraction(1, 25), Fraction(25)
    clock = FrameClock(container, stream)
    for pts, dts in stamps:
        clock.read(SimpleNamespace(pts=pts, dts=dts))
    assert clock.seconds() == pytest.approx(np.array(expected) / 25)


def count_packets(monkeypatch) -> list[av.Packet]:
    packets = []
    read_packets = video_index_tubevit.read_packets

    def counted(container, stream):
        for packet in read_packets(container, stream):
            packets.append(packet.pts)
            yield packet

    monkeypatch.setattr(video_index_tubevit, "read_packets", counted)
    return packets


def test_times_of_a_variable_rate_stand_in_the_header(corpus, monkeypatch):
    packets = count_packets(monkeypatch)
    with VideoReader(corpus("uneven_no_bframes.mp4")) as reader:
        num_packets = len(packets)
        assert reader.seconds() == pytest.approx(BY_FILE["uneven_no_bframes.mp4"].seconds, abs=1e-6)
        assert len(packets) == num_packets
    # of frames out of order they do not
    with VideoReader(corpus("uneven.mp4")) as reader:
        assert reader.seconds() == pytest.approx(BY_FILE["uneven.mp4"].seconds, abs=1e-6)


def test_no_group_but_the_first_and_last_is_read_for_a_constant_rate(tmp_path, monkeypatch):
    path = write(Case("video.mp4", options={"bf": "2", "g": "5", "sc_threshold": "0"}), tmp_path)
    packets = count_packets(monkeypatch)
    with VideoReader(path) as reader:
        assert len(packets) <= 1 + 8
        assert reader.seconds() == pytest.approx(np.arange(NUM_FRAMES) / RATE)
        assert len(packets) <= 1 + 8 + 5


@pytest.mark.parametrize("options", [{"bf": "2"}, {"bf": "0"}])
def test_a_last_frame_that_comes_late(options, tmp_path):
    """In the order in which they are stored, the packets are as far apart as at a constant rate."""
    ticks = [40 * index + 3000 * (index == NUM_FRAMES - 1) for index in range(NUM_FRAMES)]
    path = write(Case("late.mp4", options=options, ticks=ticks), tmp_path)
    with VideoReader(path) as reader:
        assert reader.seconds() == pytest.approx(np.array(ticks) / 1000)
        assert reader.get_frames([39, 2])[1].timestamps == pytest.approx([ticks[39] / 1000, 0.08])


def test_a_last_frame_that_stays(tmp_path):
    """The rate is that at which frames follow each other; how long the last one stays is no part of it."""
    pictures = [Image.fromarray(draw_frame(index)) for index in range(10)]
    pictures[0].save(tmp_path / "stays.gif", save_all=True, append_images=pictures[1:], duration=[100] * 9 + [3000])
    with VideoReader(tmp_path / "stays.gif") as reader:
        assert reader.metadata.fps == pytest.approx(10)
        assert reader.metadata.duration == pytest.approx(1)
        assert reader.seconds() == pytest.approx(np.arange(10) / 10)


# Colours


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("matrix", ["BT.601", "BT.709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_follow_the_formulas(tmp_path, bits, matrix, full_range):
    """RGB of flat colours, from the definition of Y'CbCr (ITU-R BT.601 and BT.709)."""
    scale = 2 ** (bits - 8)
    samples = np.array([[40, 128, 128], [180, 90, 150], [120, 200, 60], [75, 110, 190], [220, 128, 128]])
    pixel_format = "yuv444p" if bits == 8 else "yuv444p10le"
    path = tmp_path / "colours.mkv"
    case = Case(path.name, "ffv1", pixel_format)
    with av.open(str(path), "w") as container:
        stream = add_stream(container, case)
        stream.codec_context.color_range = 2 if full_range else 1
        stream.codec_context.colorspace = 1 if matrix == "BT.709" else 6
        for sample in samples:
            frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
            for plane, value in zip(frame.planes, sample * scale):
                size = plane.buffer_size // (1 if bits == 8 else 2)
                plane.update(np.full(size, value, dtype=np.uint8 if bits == 8 else "<u2"))
            frame.color_range, frame.colorspace = stream.codec_context.color_range, stream.codec_context.colorspace
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)

    red, blue = (0.299, 0.114) if matrix == "BT.601" else (0.2126, 0.0722)
    luma, cb, cr = (samples.T - [[0 if full_range else 16], [128], [128]]) / (
        [[255], [255], [255]] if full_range else [[219], [224], [224]]
    )
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    expected = 255 * np.stack((r, g, b), axis=-1).clip(0, 1)

    frames, _ = read_video(path)
    assert (frames == frames[..., :1, :1]).all()
    # FFmpeg's fixed-point arithmetic
    np.testing.assert_allclose(frames[..., 0, 0].numpy(), expected, atol=2)


# Sources


def test_names_that_mean_something_to_ffmpeg(tmp_path):
    for name in ("http:colon.mp4", "100%d.mp4", "a b.mp4", "ünïcödé.mp4", "file:x.mp4", "-y.mp4"):
        path = write(Case(name, num_frames=3), tmp_path)
        for source in (path, str(path), os.path.relpath(path)):
            assert indices_in(read_video(source)[0]) == [0, 1, 2]


def test_file_objects_are_read_from_their_beginning_and_left_open(corpus):
    with corpus("h264.mkv").open("rb") as file:
        file.seek(1000)
        for _ in range(2):
            assert indices_in(read_video(file, [7])[0]) == [7]
        assert not file.closed
    memory = io.BytesIO(corpus("h264.h264").read_bytes())
    # without timestamps the file is opened anew for every read
    with VideoReader(memory) as reader:
        assert indices_in(reader.get_frames([30, 2])[0]) == [30, 2]
        assert indices_in(reader.get_frames([1])[0]) == [1]
    assert indices_in(read_video(corpus("h264.mp4").read_bytes(), [39])[0]) == [39]


@pytest.mark.parametrize("source", [None, 5, io.StringIO("text"), ["a.mp4"]])
def test_what_is_no_source(source):
    with pytest.raises(TypeError, match="path, an http"):
        read_video(source)


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_pipe_is_refused(corpus):
    with pytest.raises(VideoDecodingError, match="read it into bytes"):
        read_video(Pipe(corpus("h264.mp4").read_bytes()))


class FileHandler(BaseHTTPRequestHandler):
    """Serves the server's files, with ranges if it `has_ranges`, and counts the bytes."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name == "moved.mp4":
            self.send_response(302)
            self.send_header("Location", "/video.mp4")
            self.end_headers()
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[name]
        range_header = self.headers.get("Range")
        if range_header and self.server.has_ranges:
            start, _, stop = range_header.removeprefix("bytes=").partition("-")
            start, stop = int(start), int(stop or len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            body = data[start : stop + 1]
        else:
            self.send_response(200)
            body = data
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # a reader that has what it wants hangs up
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(body), 4096):
                self.wfile.write(body[start : start + 4096])
                self.server.num_bytes += len(body[start : start + 4096])

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), FileHandler)
    # the end waits for those that still send
    http_server.daemon_threads = False
    http_server.files, http_server.has_ranges, http_server.num_bytes = {}, True, 0
    http_server.url = f"http://127.0.0.1:{http_server.server_port}"
    thread = threading.Thread(target=http_server.serve_forever)
    thread.start()
    yield http_server
    http_server.shutdown()
    thread.join()
    http_server.server_close()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with serving() as http_server:
        yield http_server


@pytest.mark.parametrize("has_ranges", [False, True])
@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts"])
def test_url(server, corpus, name, has_ranges):
    server.files["video.mp4"], server.has_ranges = corpus(name).read_bytes(), has_ranges
    for path in ("video.mp4", "moved.mp4"):
        assert indices_in(read_video(f"{server.url}/{path}", [33, 3])[0]) == [33, 3]


def test_url_is_read_in_part(server, corpus):
    # a long file whose frames are all at its beginning; what is on its way when a reader hangs up was sent, though
    rest = 200 * 2**20
    data = corpus("faststart.mp4").read_bytes()
    server.files["video.mp4"] = data + rest.to_bytes(4, "big") + b"free" + bytes(rest - 8)
    assert indices_in(read_video(f"{server.url}/video.mp4", [30])[0]) == [30]
    assert server.num_bytes < rest / 2


def test_bad_urls(server, tmp_path):
    with pytest.raises(VideoDecodingError, match=r"missing\.mp4: it cannot be read \(HTTP Error 404"):
        read_video(f"{server.url}/missing.mp4")
    server.files["text.mp4"] = b"no video " * 100
    with pytest.raises(VideoDecodingError, match=r"text\.mp4: FFmpeg cannot read it"):
        read_video(f"{server.url}/text.mp4")
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(VideoDecodingError, match=rf"{port}/video\.mp4: it cannot be read .*refused"):
        read_video(f"{server.url}/video.mp4")


# Cost


def count_decoded(monkeypatch, path: Path, indices: list[int]) -> int:
    """Number of frames that the decoder gives for a read."""
    counts = []
    decode_packet = VideoReader.decode_packet
    monkeypatch.setattr(
        VideoReader,
        "decode_packet",
        lambda self, packet: counts.append(frames := decode_packet(self, packet)) or frames,
    )
    with VideoReader(path) as reader:
        counts.clear()
        reader.get_frames(indices)
    return sum(map(len, counts))


@pytest.mark.parametrize("name", ["no_bframes.mp4", "vp9.webm", "h264.ts"])
def test_only_the_group_of_a_late_frame_is_decoded(corpus, monkeypatch, name):
    # groups of ten frames
    assert count_decoded(monkeypatch, corpus(name), [31]) <= 10
    assert count_decoded(monkeypatch, corpus(name), [1, 31]) <= 20
    assert count_decoded(monkeypatch, corpus(name), list(range(40))) == 40


def test_unwanted_frames_that_nothing_refers_to_are_not_decoded(corpus, monkeypatch):
    assert count_decoded(monkeypatch, corpus("h264.mp4"), list(range(40))) == 40
    assert count_decoded(monkeypatch, corpus("h264.mp4"), [39]) < 30


def test_neighbouring_groups_are_decoded_in_one_go(corpus, monkeypatch):
    seeks = []
    read = VideoReader.decode_run
    monkeypatch.setattr(VideoReader, "decode_run", lambda *arguments: seeks.append(arguments) or read(*arguments))
    read_video(corpus("no_bframes.mp4"), range(40))
    assert len(seeks) == 1
    read_video(corpus("no_bframes.mp4"), [0, 39])
    assert len(seeks) == 3


@pytest.mark.parametrize("name", ["open_gop.mp4", "open_gop.mkv", "hevc_open_gop.mp4", "h264.ts"])
def test_the_first_try_is_from_the_right_keyframe(corpus, monkeypatch, name):
    runs = []
    read = VideoReader.decode_run
    monkeypatch.setattr(
        VideoReader,
        "decode_run",
        lambda self, *arguments, **options: runs.append(1) or read(self, *arguments, **options),
    )
    with VideoReader(corpus(name)) as reader:
        for index in range(NUM_FRAMES):
            reader.get_frames([index])
    assert len(runs) == NUM_FRAMES


class Threads(torch.utils.data.Dataset):
    def __init__(self, path: Path):
        self.path = path

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        with VideoReader(self.path) as reader:
            return reader.stream.codec_context.thread_count, reader.get_frames([index, 30])[0]


def test_one_thread_in_a_worker(corpus):
    dataset = Threads(corpus("h264.mp4"))
    for index, (num_threads, frames) in enumerate(torch.utils.data.DataLoader(dataset, num_workers=2)):
        assert num_threads.item() == 1
        assert frames[0].equal(dataset[index][1])
    assert dataset[0][0] != 1


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_nothing_stays_open(corpus, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    files = [corpus("h264.mp4"), corpus("h264.h264"), tmp_path / "text.mp4", tmp_path]
    data = corpus("h264.mkv").read_bytes()
    errors = []
    before = open_files()
    for has_ranges in (False, True):
        with serving() as http_server:
            http_server.files["video.mp4"], http_server.has_ranges = data, has_ranges
            for source in [*files, f"{http_server.url}/video.mp4", http_server.url]:
                for index in (0, 1000):
                    try:
                        read_video(source, [index])
                    except (VideoDecodingError, IndexError) as error:
                        errors.append(error)  # which could keep alive what it happened in
    assert len(errors) == 2 * (3 + 3 * 2)
    assert open_files() == before


# Bad input


def truncated(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "it cannot be read .No such file or directory"),
        ("empty.mp4", b"", "it is empty"),
        ("text.mp4", b"This is no video at all.\n" * 50, "FFmpeg cannot read it .Invalid data"),
        ("playlist.mp4", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\n/etc/hostname\n", "FFmpeg cannot read it"),
        ("zeros.mkv", bytes(5000), "FFmpeg cannot read it"),
    ],
)
def test_what_is_no_video(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, str(tmp_path / name)):
        with pytest.raises(VideoDecodingError, match=f"{name}: {message}"):
            read_video(source)
    if content is not None:
        with pytest.raises(VideoDecodingError, match=rf"<{len(content)} bytes>: {message}"):
            read_video(content)
    assert issubclass(VideoDecodingError, ValueError)


def test_directory(tmp_path):
    with pytest.raises(VideoDecodingError, match="it is a directory"):
        read_video(tmp_path)


def test_sound_alone(tmp_path):
    with pytest.raises(VideoDecodingError, match=r"sound\.mp4: it holds no video stream \(found: audio\)"):
        read_video(write_with_sound(tmp_path / "sound.mp4", 0))


@pytest.mark.parametrize(
    "name",
    ["faststart.mp4", "fragmented.mp4", "h264.mkv", "h264.ts", "vp9.webm", "mpeg2.mpg", "mjpeg.avi"],
)
def test_truncated_files_hold_fewer_frames(corpus, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(truncated(corpus(name).read_bytes(), 0.6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the last frame can be there in part
        frames, metadata = read_video(path)
    assert 2 <= metadata.total_num_frames < NUM_FRAMES
    indices = indices_in(frames)
    # the last group can lack what its last frames need, or what is shown before them
    assert indices[:-5] == list(range(len(indices) - 5))
    assert indices == sorted(indices)


def test_a_header_lists_frames_that_are_not_there(corpus, tmp_path):
    """A download that broke off early: what is there can be read, however little."""
    path = tmp_path / "faststart.mp4"
    with av.open(str(corpus("faststart.mp4"))) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(corpus("faststart.mp4").read_bytes()[: starts[12]])
    frames, metadata = read_video(path, lambda metadata: [0, 3, 6])
    assert metadata.total_num_frames == 12
    assert indices_in(frames) == [0, 3, 6]


def test_what_the_file_lacks_is_told_from_what_is_damaged(corpus, tmp_path):
    # of a group, the last frames are not there, though its keyframe is
    path = tmp_path / "faststart.mp4"
    with av.open(str(corpus("faststart.mp4"))) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(corpus("faststart.mp4").read_bytes()[: starts[12]])
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data) + bytes(len(corpus("faststart.mp4").read_bytes()) - len(data)))
    with pytest.warns(UserWarning, match="stand in for them"):
        frames, metadata = read_video(path, range(20))
    assert {stand_in.reason for stand_in in metadata.stand_ins} <= {"its data are damaged", "the file ends before it"}
    # twelve packets hold the frames 0 to 10 and 12, which is stored before 11
    assert indices_in(frames) == [*range(11), 10, *[12] * 8]


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts", "h264.avi", "vp9.webm", "mpeg4_bframes.avi"])
def test_an_index_can_be_handed_in_again(corpus, name, monkeypatch):
    with VideoReader(corpus(name)) as reader:
        expected, _ = reader.get_frames([30, 3])
        kept = pickle.loads(pickle.dumps(reader.frame_index))
        assert (kept.num_frames, kept.file_size) == (40, corpus(name).stat().st_size)
        seconds = reader.seconds()
    packets = count_packets(monkeypatch)
    monkeypatch.setattr(video_decoding_tubevit, "read_packets", video_index_tubevit.read_packets)
    with VideoReader(corpus(name), index=kept) as reader:
        # an MP4 file's header is the index, of which the one group is read
        assert len(packets) <= (41 if name == "h264.mp4" else 0)
        assert reader.metadata.total_num_frames == 40
        assert reader.get_frames([30, 3])[0].equal(expected)
        assert reader.seconds() == pytest.approx(seconds)
    with pytest.raises(VideoDecodingError, match=r"is of another file, of \d+ bytes; this one has \d+"):
        VideoReader(corpus("slices.mp4"), index=kept)


def test_header_at_the_end_that_is_cut_off(corpus, tmp_path):
    path = tmp_path / "cut.mp4"
    for share, message in ((0.5, "FFmpeg cannot read it"), (0.9, "holds no frames")):
        path.write_bytes(truncated(corpus("h264.mp4").read_bytes(), share))
        with pytest.raises(VideoDecodingError, match=rf"cut\.mp4: .*{message}"):
            read_video(path)


def spoil(path: Path, numbers: list[int], target: Path) -> Path:
    """A copy of a video whose packets of these numbers hold nothing but 0xFF."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number in numbers:
            start, size = packets[number].pos, packets[number].size
            data[start : start + size] = b"\xff" * size
    target.write_bytes(data)
    return target


def test_corrupt_packets(corpus, tmp_path):
    # frames of their own, so that each packet is one frame
    path = spoil(corpus("all_intra.mp4"), [7, 8, 9, 25], tmp_path / "spoilt.mp4")
    with pytest.warns(UserWarning, match=r"spoilt\.mp4: 4 of the 40 .*Missing: \[7, 8, 9, 25\]"):
        frames, metadata = read_video(path)
    # the nearest stands in; of two as near, the earlier
    expected = [*range(7), 6, 6, 10, *range(10, 25), 24, *range(26, 40)]
    assert indices_in(frames) == expected
    assert metadata.frames_indices == list(range(40))
    assert metadata.timestamps == pytest.approx(np.array(expected) / 25)
    damaged = "its data are damaged"
    assert metadata.stand_ins == [(7, 6, damaged), (8, 6, damaged), (9, 10, damaged), (25, 24, damaged)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames, metadata = read_video(path, [6, 10, 39])
        assert (indices_in(frames), metadata.stand_ins) == ([6, 10, 39], [])
    with pytest.warns(UserWarning, match="1 of the 2 wanted frames"):
        assert indices_in(read_video(path, [8, 30])[0]) == [30, 30]
    with pytest.raises(VideoDecodingError, match="only 1 of the 3 wanted frames can be decoded; the file is damaged"):
        read_video(path, [7, 8, 30])
    spoilt = spoil(corpus("all_intra.mp4"), list(range(40)), tmp_path / "nothing.mp4")
    with pytest.raises(VideoDecodingError, match=r"nothing\.mp4: only 0 of the 40"):
        read_video(spoilt)


@pytest.mark.parametrize("numbers", [[37], [38], [39], [20, 38]])
@pytest.mark.parametrize("name", ["all_intra.mp4", "prores.mov", "mjpeg.avi", "mpeg4_bframes.avi", "h264.flv"])
def test_a_damaged_packet_costs_its_neighbours_nothing(corpus, numbers, name, tmp_path):
    """Threads hold several frames when an error comes up: those of one thread are all that can be decoded."""
    path = spoil(corpus(name), numbers, tmp_path / f"spoilt_{name}")
    expected = []
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.thread_count = 1
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.FFmpegError):
                decoded = context.decode(packet if packet.size else None)
                expected += [frame.to_ndarray(format="rgb24") for frame in decoded if not frame.is_corrupt]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        frames, metadata = read_video(path)
    replaced = {stand_in.index for stand_in in metadata.stand_ins}
    kept = [frame.numpy() for index, frame in enumerate(frames.permute(0, 2, 3, 1)) if index not in replaced]
    assert np.array_equal(kept, expected)


def test_frames_that_are_not_there(corpus):
    for indices in ([40], [-1], [3, 99]):
        with pytest.raises(IndexError, match=r"h264\.mp4 has the frames 0 to 39"):
            read_video(corpus("h264.mp4"), indices)
    for indices in ([], [[1, 2]]):
        with pytest.raises(ValueError, match="must be a list of numbers"):
            read_video(corpus("h264.mp4"), indices)


def test_absurd_sizes_are_refused(tmp_path):
    side = 60_000
    assert side * side > VideoLimits().max_pixels
    path = tmp_path / "huge.y4m"
    path.write_bytes(f"YUV4MPEG2 W{side} H{side} F25:1 C420jpeg\nFRAME\n".encode() + bytes(1000))
    with pytest.raises(VideoDecodingError, match=r"huge\.y4m"):
        read_video(path)


def test_absurd_numbers_of_frames(corpus, tmp_path):
    data = corpus("mjpeg.avi").read_bytes()
    # the main header's and the stream's number of frames
    for mark, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        start = data.index(mark) + offset
        data = data[:start] + (2**31 - 1).to_bytes(4, "little") + data[start + 4 :]
    path = tmp_path / "many.avi"
    path.write_bytes(data)
    frames, metadata = read_video(path)
    assert metadata.total_num_frames == 40
    assert indices_in(frames) == list(range(40))


# Real files


@pytest.mark.skipif(not CLIPS.exists(), reason="the folder of real clips is not here")
@pytest.mark.parametrize(
    ("name", "num_frames", "size"),
    [
        ("flipping_a_pancake.mkv", 310, (240, 426)),
        ("h264_10bits.mp4", 30, (200, 200)),
        ("nasa_13013.mp4", 390, (270, 480)),
        ("video_90.mov", 3, (568, 320)),
    ],
)
def test_real_clips(name, num_frames, size):
    with VideoReader(CLIPS / name) as reader:
        assert reader.metadata.total_num_frames == num_frames
        indices = [num_frames - 1, 0, num_frames // 2]
        frames, _ = reader.get_frames(indices)
    assert frames.shape[2:] == size
    expected = naive_read(CLIPS / name)
    assert len(expected) == num_frames
    for frame, index in zip(frames, indices):
        upright = np.rot90(expected[index], -1) if name == "video_90.mov" else expected[index]
        assert np.array_equal(frame.permute(1, 2, 0), upright)


@pytest.mark.skipif(not CLIPS.exists(), reason="the folder of real clips is not here")
def test_damaged_real_clip():
    with pytest.warns(UserWarning, match=r"corrupted\.mp4: 2 of the 50 wanted frames"):
        frames, _ = read_video(CLIPS / "corrupted.mp4")
    assert frames.shape == (50, 3, 720, 1280)
    assert (frames.float().flatten(1).std(dim=1) > 10).all()  # none is black


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("isolated", [False, True])
def test_an_image_by_its_path(suffix, isolated, tmp_path):
    """As by its bytes: FFmpeg guesses a format from some names, that of a series of files."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(noise).save(path)
    limits = VideoLimits(isolated=isolated, any_format=suffix == ".bmp")
    frames, _ = read_video(path, limits=limits)
    assert frames.shape == (1, 3, 300, 400)
    assert torch.equal(frames, read_video(path.read_bytes(), limits=limits)[0])
    with pytest.raises(VideoDecodingError, match="missing"):
        read_video(tmp_path / f"missing{suffix}")
