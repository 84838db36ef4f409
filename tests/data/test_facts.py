# SPDX-License-Identifier: Apache-2.0
"""What is seen in files: of every kind of container, whole, cut off, turned, with sound, or nothing at all."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tubevit_hf.data import facts
from tubevit_hf.data.facts import decode_signature, hash_file, look_at, open_video

from ..support.video_corpus import NUM_FRAMES, RATE, Case, draw_frame, turn, write, write_frames


CASES = [
    Case("a.mp4", container_options={"movflags": "faststart"}),
    Case("a.mkv", options={"g": "10"}),
    Case("a.webm", "libvpx", options={"g": "10"}),
    Case("a.flv", options={"g": "10"}),
    Case("a.mxf", "mpeg2video"),
    Case("a.avi", "mjpeg", "yuvj420p"),
    # FFmpeg finds no times in it
    Case("b.avi", options={"g": "10", "bf": "2"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)
def test_what_a_header_promises(case, tmp_path):
    path = write(case, tmp_path)
    whole = look_at(str(path))
    assert (whole.fault, whole.num_frames, whole.num_missing, whole.missing_seconds) == (None, NUM_FRAMES, 0, 0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    cut = look_at(str(path))
    there = open_video(str(path)).num_frames
    assert 0 < there < NUM_FRAMES
    # packets lie in another order than frames are shown, and FLV counts two frames more than it has
    assert cut.missing_seconds == pytest.approx((NUM_FRAMES - there) / RATE, abs=2.5 / RATE)


def test_sound_may_go_on_after_the_last_frame(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE)
        video.height, video.width = draw_frame(0).shape[:2]
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(draw_frame(index), format="rgb24")))
        container.mux(video.encode())
        for second in range(3):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, second * 8000
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert container.duration == 3_000_000
    assert open_video(str(path)).seconds == pytest.approx(0.4)
    assert look_at(str(path)).missing_seconds == 0
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert look_at(str(path)).missing_seconds > 1


@pytest.mark.parametrize("start", [0, 60])
@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts", "a.mp4"])
def test_what_starts_after_0_is_not_truncated(name, start, tmp_path):
    """As segments of a recorder do: some files count their length from 0, others from where they start."""
    codec = "libvpx" if name == "a.webm" else "libx264"
    path = write(Case(name, codec, options={"g": "5"}), tmp_path)
    if start:
        path = shift(path, tmp_path / f"later-{name}", start)
    assert look_at(str(path)).missing_seconds == 0
    if name == "a.mkv":
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        assert look_at(str(path)).missing_seconds == pytest.approx(NUM_FRAMES / 25 / 2, abs=0.4)


def shift(source: Path, target: Path, seconds: float) -> Path:
    """The same packets, so much later."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is None:
                continue
            ticks = round(seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = stream
            new.mux(packet)
    return target


@pytest.mark.parametrize("max_frames", [100, 10])
def test_cells_of_frames_are_their_means(max_frames, tmp_path, monkeypatch):
    """Of a long video, of frames that are evenly spread."""
    monkeypatch.setattr(facts, "MAX_FRAMES", max_frames)
    path = write(Case("a.mkv", "ffv1", "bgr0", height=64, width=96), tmp_path)
    wanted = range(NUM_FRAMES) if max_frames == 100 else [0, 4, 9, 13, 17, 22, 26, 30, 35, 39]
    grey = np.stack([draw_frame(index).astype(float).mean(2) for index in wanted])
    # two rows by three columns of pixels
    cells = grey.reshape(-1, 32, 2, 32, 3).mean((2, 4))
    looked = look_at(str(path))
    assert looked.num_frames == len(wanted)
    assert looked.brightest == pytest.approx(cells.max(), abs=0.01)
    assert looked.darkest == pytest.approx(cells.min(), abs=0.01)
    assert looked.change == pytest.approx(np.abs(cells - cells[0]).max(), abs=0.01)
    # in the middle of each eighth
    middle = [2, 7, 12, 17, 22, 27, 32, 37] if max_frames == 100 else [0, 1, 3, 4, 5, 6, 8, 9]
    coarse = grey.reshape(-1, 8, 8, 8, 12).mean((2, 4))[middle]
    np.testing.assert_allclose(decode_signature(looked.signature), coarse, atol=0.01)
    assert looked.sha256 == hash_file(str(path))


@pytest.mark.parametrize(
    ("matrix", "rotation", "size"),
    [([1, 0, 0, 1], 0, (96, 64)), ([0, 1, -1, 0], 270, (64, 96)), ([-1, 0, 0, -1], 180, (96, 64))],
)
def test_rotation_and_size_as_shown(matrix, rotation, size, tmp_path):
    looked = look_at(str(write(Case("a.mp4", finish=turn(matrix)), tmp_path)))
    assert (looked.rotation, (looked.width, looked.height)) == (rotation, size)


def test_another_process_sees_the_same(tmp_path):
    path = str(write(Case("a.mp4"), tmp_path))
    assert look_at(path, isolated=True) == replace(look_at(path), rotation=None)


def test_nothing_to_see(tmp_path):
    path = tmp_path / "a.mp4"
    assert look_at(str(path)).fault == "it cannot be read (No such file or directory)."
    path.write_bytes(b"")
    assert look_at(str(path)).fault == open_video(str(path)).fault == "it is empty."
    write_frames(path, [draw_frame(0)] * 3, Case("a.mp4"))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + len(data) // 3] = bytes(len(data) // 3)
    path.write_bytes(data)
    assert "frames can be decoded" in (look_at(str(path)).fault or "")


def test_a_strange_error_is_that_of_its_file(tmp_path, monkeypatch):
    path = write(Case("a.mp4"), tmp_path)

    def fail(*_: object) -> None:
        raise RuntimeError("strange")

    monkeypatch.setattr(facts, "average_cells", fail)
    assert look_at(str(Path(path))).fault == "decoding it fails (RuntimeError: strange)."
