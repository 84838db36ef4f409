# SPDX-License-Identifier: Apache-2.0
"""Decoding in a process of its own: the same frames, and whatever befalls that process is an error here."""

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from tubevit_hf import TubeViTVideoProcessor, VideoDecodingError, VideoLimits, VideoReader, read_video
from tubevit_hf.data import ClipDataset, EvaluationViews
from tubevit_hf.model import video_isolation_tubevit as isolation
from tubevit_hf.model.video_isolation_tubevit import IsolatedVideoReader, Worker, receive, send

from ..support.tiny import rows_of, tiny_video_processor
from ..support.video_corpus import CASES, Case, write
from .test_video_decoding import spoil
from .test_video_limits import serving


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")
ISOLATED = VideoLimits(isolated=True)
NAMES = ("h264.mp4", "h264.mkv", "h264.ts", "mpeg4_bframes.avi", "h264.h264", "vp9.webm", "odd_size.mkv", "uneven.mp4")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    chosen = [*NAMES, "all_intra.mp4"]
    return {case.file: write(case, folder) for case in CASES if case.file in chosen}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_here(corpus, name):
    path = corpus[name]
    content = path.read_bytes()
    for indices in ([3], [20, 0, 39, 20], range(40), None):
        expected, expected_metadata = read_video(path, indices)
        for source in (path, str(path), content, io.BytesIO(content)):
            frames, metadata = read_video(source, indices, ISOLATED)
            assert frames.equal(expected)
            assert metadata == expected_metadata
    with VideoReader(path, ISOLATED) as reader, VideoReader(path) as here:
        assert isinstance(reader, IsolatedVideoReader)
        assert reader.seconds().tolist() == here.seconds().tolist()
        # a transform is done here
        shrunk, metadata = reader.get_frames([5, 7], lambda frame: frame[:, ::2, ::2])
        assert shrunk.equal(here.get_frames([5, 7])[0][..., ::2, ::2])
        assert (metadata.height, metadata.width) == (here.metadata.height, here.metadata.width)


def test_from_an_address(corpus):
    with serving() as server:
        server.pages["/video.mp4"] = corpus["h264.mp4"].read_bytes()
        frames, _ = read_video(f"{server.url}/video.mp4", [3, 30], ISOLATED)
        assert frames.equal(read_video(corpus["h264.mp4"], [3, 30])[0])
        limits = VideoLimits(isolated=True, max_download=1000)
        with pytest.raises(VideoDecodingError, match=r"video\.mp4: more than 1000 bytes"):
            read_video(f"{server.url}/video.mp4", limits=limits)


def test_errors_are_those_of_here(corpus, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    sources = (tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "missing.mp4", tmp_path, b"no video", b"")
    for source in sources:
        messages = []
        for limits in (None, ISOLATED):
            with pytest.raises(VideoDecodingError) as caught:
                read_video(source, limits=limits)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    with pytest.raises(IndexError, match="has the frames 0 to 39"):
        read_video(corpus["h264.mp4"], [40], ISOLATED)
    with pytest.raises(TypeError, match="A video is a path"):
        read_video(io.StringIO("text"), limits=ISOLATED)
    damaged = spoil(corpus["all_intra.mp4"], [7, 8], tmp_path / "damaged.mp4")
    with pytest.warns(UserWarning, match="2 of the 40 wanted frames"):
        _, metadata = read_video(damaged, limits=ISOLATED)
    assert [stand_in[:2] for stand_in in metadata.stand_ins] == [(7, 6), (8, 9)]
    spoilt = spoil(corpus["all_intra.mp4"], list(range(40)), tmp_path / "nothing.mp4")
    for _ in range(2):
        with pytest.raises(VideoDecodingError, match=r"nothing\.mp4: only 0 of the 40"):
            read_video(spoilt, limits=ISOLATED)
    assert len(read_video(corpus["h264.mp4"], [3], ISOLATED)[0]) == 1


def test_a_worker_is_kept_for_the_next_video(corpus):
    with VideoReader(corpus["h264.mp4"], ISOLATED) as first:
        process = first.worker.process
        # at the same time, another
        with VideoReader(corpus["h264.mp4"], ISOLATED) as second:
            assert second.worker.process.pid != process.pid
            other = second.worker.process.pid
    pids = set()
    for name in NAMES[:3]:
        with VideoReader(corpus[name], ISOLATED) as reader:
            reader.get_frames([0])
            pids.add(reader.worker.process.pid)
    assert pids <= {process.pid, other}


def test_a_crash_is_an_error(corpus):
    with VideoReader(corpus["h264.mp4"], ISOLATED) as reader:
        pid = reader.worker.process.pid
        os.kill(pid, signal.SIGSEGV)
        for message in (r"died \(SIGSEGV\)", "is over; open the video again"):
            with pytest.raises(VideoDecodingError, match=rf"h264\.mp4: the decoding process {message}"):
                reader.get_frames([3])
    with VideoReader(corpus["h264.mp4"], ISOLATED) as reader:
        assert reader.worker.process.pid != pid
        assert len(reader.get_frames([3])[0]) == 1
        pid = reader.worker.process.pid
    # and one that dies while it waits is not used
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert len(read_video(corpus["h264.mp4"], [3], ISOLATED)[0]) == 1


def test_a_hang_is_an_error(corpus):
    limits = VideoLimits(isolated=True, max_silence=1)
    with VideoReader(corpus["h264.mp4"], limits) as reader:
        process = reader.worker.process
        os.kill(process.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(
            VideoDecodingError, match=r"silent for 1 seconds \(`VideoLimits.max_silence`\), and was ended"
        ):
            reader.get_frames([3])
        assert time.monotonic() - start < 5
    assert process.poll() is not None


def test_too_much_memory_is_an_error(tmp_path, corpus):
    path = write(Case("large.mp4", options={"preset": "ultrafast"}, height=2048, width=2048, num_frames=6), tmp_path)
    with pytest.raises(VideoDecodingError, match=r"large\.mp4"):
        read_video(path, limits=VideoLimits(isolated=True, max_memory=2**24))
    assert len(read_video(path, [3], ISOLATED)[0]) == 1


def test_a_worker_knows_no_secrets(corpus, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    limits = VideoLimits(isolated=True, max_silence=59)
    with VideoReader(corpus["h264.mp4"], limits) as reader:
        pid = reader.worker.process.pid
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        # neither its own files nor those of others are open in it
        opened = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum("socket" in link for link in opened) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"shape": [2**20, 2**20]},
        {"shape": [0, 5]},
        {"shape": "many"},
        {"shape": [-4, -4]},
        {"position": 7, "slot": 0},
        {"position": -1, "slot": 0},
        {"position": "0", "slot": 0},
        {"position": 0, "slot": 9},
        {"seconds": [1.0]},
        {"is_there": [True, True], "seconds": None},
        {"is_there": [True], "seconds": [0.0, 1.0]},
        [1, 2],
        "text",
    ],
)
def test_nonsense_of_a_worker_is_an_error(answer, corpus, monkeypatch):
    """One that a video has taken over may say anything."""
    with VideoReader(corpus["h264.mp4"], VideoLimits(isolated=True, max_silence=58)) as reader:
        line, other = socket.socketpair()
        monkeypatch.setattr(reader.worker, "line", line)
        send(other, answer)
        with pytest.raises(VideoDecodingError, match="gives nonsense"):
            reader.get_frames([3])
        # and nothing is asked of it any more
        assert reader.worker.is_over
        assert reader.worker.process.poll() is not None
        other.close()


def test_messages_have_a_limit():
    line, other = socket.socketpair()
    with line, other:
        other.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ValueError, match="a message of 4294967295 bytes"):
            receive(line)
        other.sendall((4).to_bytes(4, "big") + b"none")
        with pytest.raises(ValueError, match="Expecting value"):
            receive(line)
    with pytest.raises((EOFError, OSError)):
        receive(line)


def test_an_index_is_for_decoding_here(corpus):
    with VideoReader(corpus["h264.mkv"]) as reader:
        index = reader.frame_index
    with pytest.raises(ValueError, match="`index` is for decoding in this process"):
        VideoReader(corpus["h264.mkv"], ISOLATED, index)
    with VideoReader(corpus["h264.mkv"], ISOLATED) as reader, pytest.raises(ValueError, match="`frame_index` is of"):
        reader.frame_index  # noqa: B018


def test_the_environment_isolates_all_that_decodes(corpus, monkeypatch):
    processor = TubeViTVideoProcessor(num_frames=4)
    expected = processor([str(corpus["h264.mp4"]), str(corpus["vp9.webm"])], return_tensors="pt")["pixel_values"]
    rows = rows_of([str(corpus["h264.mp4"])] * 3, [0, 1, 2])
    clips = ClipDataset(rows, EvaluationViews(tiny_video_processor(), 4))
    without = [clips[index]["pixel_values"] for index in range(3)]
    monkeypatch.setenv("TUBEVIT_ISOLATED", "1")
    started = []
    init = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda self, limits: started.append(limits) or init(self, limits))
    monkeypatch.setattr(isolation, "idle", {})
    found = processor([str(corpus["h264.mp4"]), str(corpus["vp9.webm"])], return_tensors="pt")["pixel_values"]
    assert found.equal(expected)
    assert started == [ISOLATED]
    # in workers of a loader, which were forked, each with a process of its own
    loader = torch.utils.data.DataLoader(clips, batch_size=None, num_workers=1)
    for one, other in zip(loader, without):
        assert one["pixel_values"].equal(other)
    assert started == [ISOLATED]


def test_nothing_is_left_running(corpus):
    code = """
        import sys
        from tubevit_hf import VideoLimits, VideoReader
        reader = VideoReader(sys.argv[1], VideoLimits(isolated=True))
        print(reader.worker.process.pid, flush=True)
        if sys.argv[2] == "close":
            reader.close()
        if sys.argv[2] == "die":
            import os
            os._exit(3)
    """
    for end in ("close", "open", "die"):
        arguments = [sys.executable, "-c", textwrap.dedent(code), str(corpus["h264.mp4"]), end]
        result = subprocess.run(arguments, capture_output=True, text=True)
        assert result.returncode == (3 if end == "die" else 0), result.stderr
        # a busy machine may take its time; a worker that goes on does so for good
        for _ in range(600):
            if not Path(f"/proc/{int(result.stdout)}").exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"after {end} a worker goes on")
