# SPDX-License-Identifier: Apache-2.0
"""Streams: the numbers of timelines, over a loopback connection too; what happens when they stall or are too fast."""

import contextlib
import http.server
import socket
import socketserver
import struct
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tubevit_hf import VideoReader, read_video
from tubevit_hf.inference.streaming import StreamingClassifier, StreamResult, open_stream
from tubevit_hf.inference.timeline import scan_timeline
from tubevit_hf.inference.windows import WindowScorer
from tubevit_hf.model.video_decoding_tubevit import VideoDecodingError

from ..support.tiny import LABELS, tiny_video_processor
from ..support.tolerances import assert_close
from ..support.video_corpus import UNEVEN, Case, write
from .test_timeline import build


STREAM = Case("stream.ts", options={"g": "10", "tune": "zerolatency"}, num_frames=60, height=70, width=90)
CASES = [
    STREAM,
    Case("uneven.mkv", options={"g": "10", "bf": "2"}, ticks=UNEVEN),
    # only the decoder tells its frames apart
    Case("bframes.avi", "mpeg4", options={"bf": "2", "g": "10"}),
    Case("raw.h264", options={"g": "10", "bf": "2"}),
    # large enough to be shrunk
    Case("large.mp4", options={"g": "7"}, height=136, width=190),
]


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Path:
    return write(STREAM, tmp_path_factory.mktemp("stream"))


def read_frames(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """All frames, `(frames, height, width, 3)`, and their times."""
    with VideoReader(video) as reader:
        seconds = reader.seconds()
    return read_video(video)[0].permute(0, 2, 3, 1).numpy(), seconds


def check(results: list[StreamResult], timeline) -> None:
    assert len(results) == len(timeline.times) > 5
    np.testing.assert_allclose([result[:2] for result in results], timeline.times)
    assert np.abs(np.diff(timeline.scores, axis=0)).max(axis=1).min() > 1e-4
    scores = torch.from_numpy(np.stack([result.scores for result in results]))
    assert_close(scores, torch.from_numpy(timeline.scores), "probability")
    assert [result.label for result in results] == [LABELS[index] for index in timeline.scores.argmax(axis=1)]
    assert all(result.dropped == result.skipped == 0 for result in results)


@pytest.mark.parametrize("model", ["tubes", "late_gate", "grid"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_numbers_of_the_timeline(case, model, tmp_path):
    model, processor = build(model), tiny_video_processor()
    video = write(case, tmp_path)
    classifier = StreamingClassifier(model, processor, window=0.41, every=0.13)
    frames, seconds = read_frames(video)
    results, seen = [], []
    frame = np.empty_like(frames[0])
    for image, moment in zip(frames, seconds):
        # as a camera's driver does, all into the same memory
        frame[:] = image
        found = classifier.push(frame, 7.5 + moment)
        # each is given as soon as it is over
        assert all(moment - 0.1 < result.end <= moment + 1e-3 for result in found)
        results += found
        seen += [moment] * len(found)
    results += classifier.finish()
    timeline = scan_timeline(model, processor, video, 0.41, 0.13)
    check(results, timeline)
    assert len(results) - len(seen) <= 1
    # a second stream begins anew
    check(list(classifier.run(zip(frames, seconds))), timeline)
    check(list(classifier.run(video)), timeline)


def test_frames_are_prepared_once_and_only_if_they_are_wanted(stream, monkeypatch):
    prepared = []
    prepare = WindowScorer.prepare

    def count(self, frames):
        prepared.extend(frames)
        return prepare(self, frames)

    monkeypatch.setattr(WindowScorer, "prepare", count)
    frames, seconds = read_frames(stream)
    classifier = StreamingClassifier(build("grid"), tiny_video_processor(), window=0.8, every=0.4, num_frames=4)
    results = list(classifier.run(zip(frames, seconds)))
    assert len(results) == 5
    # every fifth of 60 frames; those of the first four fifths of the last window are the last
    assert len(prepared) == 12


def test_windows_finer_than_frames(stream):
    """Several samples of a window fall on a frame, and several windows end with one."""
    model, processor = build(), tiny_video_processor()
    timeline = scan_timeline(model, processor, stream, 0.13, 0.02)
    frames, seconds = read_frames(stream)
    results = list(StreamingClassifier(model, processor, 0.13, 0.02).run(zip(frames, seconds)))
    assert_close(
        torch.from_numpy(np.stack([result.scores for result in results])),
        torch.from_numpy(timeline.scores),
        "probability",
    )


def test_a_stream_shorter_than_a_window(stream):
    frames, seconds = read_frames(stream)
    classifier = StreamingClassifier(build(), tiny_video_processor(), 5.0, 1.0)
    assert list(classifier.run(zip(frames, seconds))) == []
    assert list(classifier.run([])) == []


# Over a connection


@contextlib.contextmanager
def serve(data: bytes, pause: float = 0.0, steps: int = 1, linger: float = 0.0):
    """Sends to whoever connects: in steps, with a pause after each, and then nothing for a while."""
    server = socket.create_server(("127.0.0.1", 0))
    is_done = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                for step in range(steps):
                    connection.sendall(data[step * len(data) // steps : (step + 1) * len(data) // steps])
                    time.sleep(pause)
                is_done.wait(linger)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    finally:
        is_done.set()
        server.close()
        thread.join()


def test_over_tcp(stream):
    model, processor = build(), tiny_video_processor()
    classifier = StreamingClassifier(model, processor, window=0.41, every=0.13)
    with serve(stream.read_bytes()) as address:
        results = list(classifier.run(address, live=False))
    check(results, scan_timeline(model, processor, stream, 0.41, 0.13))


def test_over_tcp_live(stream):
    """At the speed of the film or somewhat slower, a model that keeps up drops nothing."""
    model, processor = build(), tiny_video_processor()
    classifier = StreamingClassifier(model, processor, window=0.8, every=0.8)
    with serve(stream.read_bytes(), pause=0.1, steps=40) as address, warnings.catch_warnings():
        warnings.simplefilter("error")
        results = list(classifier.run(address, max_delay=60))
    timeline = scan_timeline(model, processor, stream, 0.8, 0.8)
    assert len(results) == len(timeline.times) == 3
    scores = torch.from_numpy(np.stack([result.scores for result in results]))
    assert_close(scores, torch.from_numpy(timeline.scores), "probability")


def test_over_http(stream):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Content-Length", str(stream.stat().st_size))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(stream.read_bytes())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        frames = list(open_stream(f"http://127.0.0.1:{server.server_port}/live.ts"))
    finally:
        server.shutdown()
        server.server_close()
    assert len(frames) == 60
    np.testing.assert_allclose(np.diff([moment for _, moment in frames]), 0.04, atol=1e-6)


class Camera(socketserver.StreamRequestHandler):
    """Answers RTSP as far as a client needs it, and sends MPEG-TS in RTP over the same connection."""

    data = b""
    DESCRIPTION = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=film\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"

    def handle(self) -> None:
        while request := self.rfile.readline().decode().split():
            headers = {}
            while ": " in (line := self.rfile.readline().decode()):
                name, headers[name] = line.rstrip().split(": ", 1)[0], line.rstrip().split(": ", 1)[1]
            body, more = "", ""
            if request[0] == "OPTIONS":
                more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif request[0] == "DESCRIBE":
                body, more = self.DESCRIPTION, "Content-Type: application/sdp\r\n"
            elif request[0] == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
            self.wfile.write(answer.encode())
            if request[0] == "PLAY":
                with contextlib.suppress(OSError):
                    self.play()
            if request[0] in ("PLAY", "TEARDOWN"):
                return

    def play(self) -> None:
        length = 7 * 188
        for number in range(0, len(self.data), length):
            part = self.data[number : number + length]
            # version 2, MPEG-TS; sequence number, time, source
            header = struct.pack(">BBHII", 0x80, 33, number // length & 0xFFFF, 0, 1)
            self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(part)) + header + part)


def test_over_rtsp(stream, monkeypatch):
    monkeypatch.setattr(Camera, "data", stream.read_bytes())
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model, processor = build(), tiny_video_processor()
    classifier = StreamingClassifier(model, processor, window=0.41, every=0.13)
    try:
        address = f"rtsp://user:secret@127.0.0.1:{server.server_address[1]}/live"
        results = list(classifier.run(address, live=False, timeout=5))
    finally:
        server.shutdown()
        server.server_close()
    check(results, scan_timeline(model, processor, stream, 0.41, 0.13))


def test_a_stream_that_stalls(stream):
    classifier = StreamingClassifier(build(), tiny_video_processor(), window=0.41, every=0.13)
    with serve(stream.read_bytes(), linger=20) as address:
        results = []
        with pytest.raises(TimeoutError, match=r"tcp://127.*: it was silent for 0.5 seconds \(`timeout`\)"):
            results.extend(classifier.run(address, live=False, timeout=0.5))
    with (
        serve(stream.read_bytes(), linger=20) as address,
        warnings.catch_warnings(),
        pytest.raises(TimeoutError, match=r"silent for 0.5 seconds|no frame for 0.5 seconds"),
    ):
        # it all comes at once
        warnings.simplefilter("ignore")
        results.extend(classifier.run(address, timeout=0.5))
    assert results


def test_frames_that_stall():
    stop = threading.Event()

    def film():
        yield np.zeros((50, 60, 3), np.uint8), 0.0
        stop.wait(20)

    classifier = StreamingClassifier(build(), tiny_video_processor(), window=0.4, every=0.1)
    with pytest.raises(TimeoutError, match=r"the stream gave no frame for 0\.2 seconds"):
        list(classifier.run(film(), live=True, timeout=0.2))
    stop.set()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "rtsp://user:secret@127.0.0.1:1/live"])
@pytest.mark.parametrize("live", [True, False])
def test_nobody_there(address, live):
    classifier = StreamingClassifier(build(), tiny_video_processor(), window=0.4, every=0.1)
    with pytest.raises(
        VideoDecodingError, match=r"127\.0\.0\.1:1.*: FFmpeg cannot read it \(Connection refused\)"
    ) as error:
        list(classifier.run(address, live=live, timeout=5))
    assert "secret" not in f"{error.value} {error.value.__cause__} {error.value.__context__}"


def test_streams_lead_to_no_files(tmp_path, stream):
    """A playlist is not read, nor a file that an address names."""
    playlist = f"#EXTM3U\n#EXTINF:10,\nfile://{stream}\n#EXT-X-ENDLIST\n".encode()
    with serve(playlist) as address, pytest.raises(VideoDecodingError, match="FFmpeg cannot read it"):
        list(open_stream(address, timeout=5))
    with pytest.raises(VideoDecodingError, match="FFmpeg cannot read it"):
        list(open_stream(f"file://{stream}"))
    (tmp_path / "list.m3u8").write_bytes(playlist)
    with pytest.raises(VideoDecodingError, match="FFmpeg cannot read it"):
        list(open_stream(tmp_path / "list.m3u8"))
    with pytest.raises(VideoDecodingError, match=r"none\.mp4: FFmpeg cannot read it \(No such file or directory\)"):
        list(open_stream(tmp_path / "none.mp4"))


def test_a_clock_that_goes_back(tmp_path):
    """As a camera's that restarts: a stream of MPEG-TS after another."""
    first = write(STREAM, tmp_path).read_bytes()
    with (
        serve(first + first) as address,
        pytest.raises(VideoDecodingError, match=r"its clock went back, from .* seconds; open it again"),
    ):
        list(open_stream(address, timeout=5))


# Too fast


class Slow:
    """A model that takes its time."""

    def __init__(self, seconds: float):
        self.model, self.seconds = build(), seconds
        self.config, self.device = self.model.config, self.model.device

    def __call__(self, pixel_values: torch.Tensor):
        time.sleep(self.seconds)
        return self.model(pixel_values)


def film(num_frames: int, rate: float):
    """Frames at their times, as a camera gives them; the first pixel of each is its number."""
    start = time.monotonic()
    for number in range(num_frames):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        yield np.full((50, 60, 3), number, np.uint8), number / rate


def test_a_model_that_cannot_keep_up():
    classifier = StreamingClassifier(Slow(0.5), tiny_video_processor(), window=0.2, every=0.1)
    with pytest.warns(
        UserWarning, match="the model cannot keep up with the stream: .* windows were passed over"
    ) as found:
        results = list(classifier.run(film(100, rate=40), live=True, max_delay=0.2))
    assert len(found) == 1
    # 2.5 seconds, of which each result takes half of one
    assert 2 <= len(results) <= 8
    assert sum(result.dropped for result in results) > 20
    assert sum(result.skipped for result in results) > 10
    # of 24 windows each is scored or counted, but for those behind the last result
    assert 20 <= len(results) + sum(result.skipped for result in results) <= 24
    starts = [result.start for result in results]
    assert starts == sorted(set(starts))
    # what waits is given up, so that results come soon
    assert starts[-1] > 1.5


def test_passing_over_windows_before_dropping_frames():
    classifier = StreamingClassifier(Slow(0.3), tiny_video_processor(), window=0.2, every=0.1)
    with pytest.warns(UserWarning, match="cannot keep up"):
        results = list(classifier.run(film(60, rate=40), live=True, max_delay=30))
    assert sum(result.dropped for result in results) == 0
    assert sum(result.skipped for result in results) > 3


def test_a_stream_is_closed_with_its_results():
    is_closed = threading.Event()

    def endless():
        try:
            yield from film(10_000, rate=100)
        finally:
            is_closed.set()

    results = StreamingClassifier(build(), tiny_video_processor(), 0.1, 0.1).run(endless(), live=True)
    next(results)
    results.close()
    assert is_closed.wait(5)


# Bad input


def test_bad_frames():
    classifier = StreamingClassifier(build(), tiny_video_processor(), window=0.4, every=0.1)
    frame = np.zeros((50, 60, 3), np.uint8)
    classifier.push(frame, 3.0)
    with pytest.raises(ValueError, match=r"frames must come in order: this one is shown 0 seconds after the first"):
        classifier.push(frame, 3.0)
    with pytest.raises(ValueError, match="frames must come in order"):
        classifier.push(frame, float("nan"))
    with pytest.raises(ValueError, match=r"a frame must be \(height, width, 3\), uint8, got \(50, 60\), uint8"):
        classifier.push(frame[..., 0], 4.0)
    with pytest.raises(ValueError, match=r"a frame must be \(height, width, 3\), uint8, got .*, float32"):
        classifier.push(frame.astype(np.float32), 4.0)
    with pytest.raises(ValueError, match=r"the first is \(50, 60, 3\), and this one \(40, 60, 3\)"):
        classifier.push(frame[:40], 4.0)


@pytest.mark.parametrize("arguments", [{"window": 0.0, "every": 1.0}, {"window": 1.0, "every": -1.0}])
def test_bad_lengths(arguments):
    with pytest.raises(ValueError, match="must be a number of seconds above 0"):
        StreamingClassifier(build(), tiny_video_processor(), **arguments)


def test_bad_limits():
    classifier = StreamingClassifier(build(), tiny_video_processor(), window=0.4, every=0.1)
    with pytest.raises(ValueError, match="`timeout` must be a number of seconds above 0, got 0"):
        list(classifier.run([], timeout=0))
    with pytest.raises(ValueError, match="`max_delay` must be a number of seconds above 0, got -1"):
        list(classifier.run([], max_delay=-1))
