# SPDX-License-Identifier: Apache-2.0
"""Timelines: each window is the clip that was cut out by hand, decoded once and in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification, VideoLimits, VideoReader, read_video
from tubevit_hf.commands.timeline import parse_seconds, timeline
from tubevit_hf.inference import timeline as room
from tubevit_hf.inference.segments import Segment, find_segments, format_srt
from tubevit_hf.inference.timeline import FrameStream, scan_timeline
from tubevit_hf.inference.windows import SingleFrames, WholeClips, WindowScorer, sample_times
from tubevit_hf.model.video_decoding_tubevit import DAMAGED, VideoDecodingError
from tubevit_hf.model.video_index_tubevit import FrameClock

from ..model.test_video_decoding import write_with_sound
from ..support.tiny import LABELS, randomize, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close
from ..support.video_corpus import UNEVEN, Case, write


FRAME = {"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}
SECOND = {"kernel_size": [1, 10, 6], "stride": [1, 13, 11], "offset": [0, 2, 3]}
PREFIX = {"use_cls_token": True, "num_register_tokens": 2}
WHOLE = {
    "tubes": {},
    "joint_tube": {"tubes": [FRAME, {"kernel_size": [3, 8, 8], "stride": [2, 9, 9]}], "joint_layer": 1},
    "moments_apart": {"tubes": [{**FRAME, "stride": [3, 8, 8]}], "joint_layer": 2},
    "positions_in_time": {"tubes": [FRAME], "joint_layer": 2, "position_embedding_type": "tube_center"},
}
SPLIT = {
    "attention": {"tubes": [FRAME, SECOND], "joint_layer": 1, **PREFIX},
    "late_gate": {"tubes": [FRAME], "joint_layer": 1, "joint_pooling": [2, 3], "gate_layer": 2, **PREFIX},
    "early_gate": {"tubes": [FRAME], "joint_layer": 2, "gate_layer": 0, "position_embedding_type": "none"},
    "grid": {"tubes": [FRAME], "joint_layer": 3, "pooling_type": "grid", "pooling_grid": [3, 2, 2], **PREFIX},
    "grid_of_layers": {
        "tubes": [FRAME],
        "joint_layer": 2,
        "joint_pooling": [2, 1],
        "gate_layer": 2,
        "pooling_type": "grid",
        "pooling_grid": [4, 1, 3],
        "pooling_layers": [0, 1, 2, 3],
    },
    "one_layer_each": {"tubes": [FRAME], "joint_layer": 1, "num_hidden_layers": 2, "pooling_type": "mean"},
}
MODELS = WHOLE | SPLIT


def build(case: str = "tubes", **settings) -> TubeViTForVideoClassification:
    if "joint_layer" in MODELS[case]:
        settings = {"position_embedding_type": "pretrained", **settings}
    config = tiny_config(**{**settings, **MODELS[case]})
    model = randomize(TubeViTForVideoClassification(config), std=0.25)
    if config.pooling_type == "grid":
        # hundreds of features; no class is to take it all
        model.classifier.weight.data *= 0.2
    return model


@pytest.fixture(scope="module")
def long_video(tmp_path_factory) -> Path:
    """Four seconds with a keyframe every ten frames, times that are not even, and frames that are shrunk."""
    ticks = np.cumsum([10 * (2 + index * index % 5) for index in range(100)]).tolist()
    case = Case("long.mkv", options={"g": "10", "bf": "2"}, num_frames=100, ticks=ticks, height=136, width=190)
    return write(case, tmp_path_factory.mktemp("timeline"))


def by_hand(model, processor, video, window: float, stride: float, num_frames: int = 7) -> np.ndarray:
    """Scores of each window by itself: its frames are looked for one by one, and the file is opened anew for them."""
    with VideoReader(video) as reader:
        seconds = reader.seconds()
    total = seconds[-1] * len(seconds) / (len(seconds) - 1)
    scores, start = [], 0
    while start * stride + window <= total + 1e-3:
        moments = [start * stride + number * window / num_frames for number in range(num_frames)]
        indices = [max(index for index, shown in enumerate(seconds) if shown <= moment + 1e-3) for moment in moments]
        frames, _ = read_video(video, indices)
        inputs = processor(frames, do_sample_frames=False, return_tensors="pt")
        with torch.no_grad():
            scores.append(model(**inputs).logits[0].softmax(dim=-1))
        start += 1
    return torch.stack(scores).numpy()


def check(timeline, expected: np.ndarray) -> None:
    assert timeline.scores.shape == expected.shape
    # or any window would do for any other
    assert np.abs(np.diff(expected, axis=0)).max(axis=1).min() > 1e-4
    assert_close(torch.from_numpy(timeline.scores), torch.from_numpy(expected), "probability")


@pytest.mark.parametrize("case", MODELS)
def test_windows_are_those_cut_by_hand(case, long_video):
    model, processor = build(case), tiny_video_processor()
    expected = by_hand(model, processor, long_video, window=0.9, stride=0.37)
    timeline = scan_timeline(model, processor, long_video, 0.9, 0.37, batch_size=3)
    check(timeline, expected)
    assert timeline.labels == LABELS
    np.testing.assert_allclose(timeline.times[:, 0], 0.37 * np.arange(len(expected)))
    np.testing.assert_allclose(timeline.times[:, 1] - timeline.times[:, 0], 0.9)
    assert timeline.stand_ins == [] and len(timeline.lost) == 0


@pytest.mark.parametrize("case", SPLIT)
def test_halves_give_what_the_model_gives(case):
    model, processor = build(case), tiny_video_processor()
    scorer, whole = (WindowScorer(model, processor, reuse=reuse) for reuse in (True, False))
    assert isinstance(scorer.encoder, SingleFrames) and isinstance(whole.encoder, WholeClips)
    frames = list(torch.randint(0, 256, (13, 3, 47, 61), dtype=torch.uint8))
    for number in (1, 2, 7, 11):
        scores, expected = (
            torch.from_numpy(each.score([each.prepare(frames[:number]), each.prepare(frames[-number:])]))
            for each in (scorer, whole)
        )
        assert_close(scores, expected, "probability")
    assert (scores[0] - scores[1]).abs().max() > 1e-4


@pytest.mark.parametrize("case", WHOLE)
def test_other_models_stay_whole(case):
    assert isinstance(WindowScorer(build(case), tiny_video_processor()).encoder, WholeClips)


CONTAINERS = [
    Case("h264.mp4", options={"g": "6", "bf": "2"}),
    Case("uneven.mp4", options={"g": "6"}, ticks=UNEVEN),
    Case("h264.ts", options={"g": "10"}),
    # only the decoder tells its frames apart
    Case("bframes.avi", "mpeg4", options={"bf": "2", "g": "10"}),
]


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("case", CONTAINERS, ids=lambda case: case.name)
def test_any_container(case, isolated, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PART_FRAMES", 5)
    model, processor = build(), tiny_video_processor()
    video = write(case, tmp_path)
    limits = VideoLimits(isolated=isolated)
    timeline = scan_timeline(model, processor, video, 0.31, 0.1, limits=limits)
    check(timeline, by_hand(model, processor, video, 0.31, 0.1))


def test_windows_with_gaps_between(long_video):
    model, processor = build(), tiny_video_processor()
    expected = by_hand(model, processor, long_video, window=0.2, stride=1.3, num_frames=3)
    assert len(expected) == 3
    check(scan_timeline(model, processor, long_video, 0.2, 1.3, num_frames=3), expected)


def test_sample_times():
    assert_close(
        torch.from_numpy(sample_times(np.array([0.0, 3.0]), 2.0, 4)),
        torch.tensor([[0, 0.5, 1, 1.5], [3, 3.5, 4, 4.5]], dtype=torch.float64),
        "float64",
    )


@pytest.mark.parametrize("name", ["once.ts", "once.avi"])
def test_every_frame_is_decoded_and_prepared_once(name, tmp_path, monkeypatch):
    """Windows that overlap five times, and parts that end at keyframes."""
    monkeypatch.setattr(room, "PART_FRAMES", 7)
    codec = {"once.ts": "mpeg2video", "once.avi": "mpeg4"}[name]
    # closed groups: no frame of one needs another
    video = write(Case(name, codec, options={"g": "8", "bf": "0"}), tmp_path)
    decoded, prepared = [], []
    decode_packet, prepare = VideoReader.decode_packet, WindowScorer.prepare

    def count_decoded(self, packet):
        frames = decode_packet(self, packet)
        decoded.extend(frame.pts for frame in frames)
        return frames

    monkeypatch.setattr(VideoReader, "decode_packet", count_decoded)
    monkeypatch.setattr(WindowScorer, "prepare", lambda self, frames: prepared.extend(frames) or prepare(self, frames))
    timeline = scan_timeline(build(), tiny_video_processor(), video, 0.5, 0.1)
    assert len(timeline.times) == 12
    assert len(decoded) == len(set(decoded)) >= 38
    # 0.5 seconds in 7 frames, a window every 2.5 frames of 40
    assert len(prepared) <= 40 < 12 * 7


def test_reuse_changes_nothing_but_the_time(long_video):
    model, processor = build("grid"), tiny_video_processor()
    encoded = []
    # before the joint layer frames are encoded
    model.tubevit.layers[0].register_forward_hook(lambda layer, args, output: encoded.append(output.shape[:2]))
    # frames of one window are 0.1 apart, and windows 0.2
    with_reuse = scan_timeline(model, processor, long_video, 0.7, 0.2)
    tokens_of_a_frame = 1 + 2 + 5 * 7
    once = sum(batch for batch, tokens in encoded if tokens == tokens_of_a_frame)
    encoded.clear()
    without = scan_timeline(model, processor, long_video, 0.7, 0.2, reuse=False)
    assert sum(batch for batch, tokens in encoded if tokens == 7 * tokens_of_a_frame) == len(without.times)
    assert_close(torch.from_numpy(with_reuse.scores), torch.from_numpy(without.scores), "probability")
    assert once < 0.4 * 7 * len(without.times)


# Damage


def damage(video: Path, first: float, last: float) -> Path:
    """Overwrites a share of a file."""
    data = bytearray(video.read_bytes())
    start, stop = int(first * len(data)), int(last * len(data))
    data[start:stop] = np.random.default_rng(0).integers(0, 256, stop - start, dtype=np.uint8).tobytes()
    video.write_bytes(data)
    return video


@pytest.mark.parametrize("isolated", [False, True])
def test_a_damaged_stretch(isolated, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PART_FRAMES", 8)
    video = write(Case("damaged.mp4", options={"g": "10"}, num_frames=120), tmp_path)
    model, processor = build(), tiny_video_processor()
    whole = scan_timeline(model, processor, video, 0.4, 0.2)
    limits = VideoLimits(isolated=isolated)
    with pytest.warns(UserWarning, match=r"damaged\.mp4: .* frames cannot be decoded, and the nearest stand in"):
        damaged = scan_timeline(model, processor, damage(video, 0.4, 0.6), 0.4, 0.2, limits=limits)
    lost = damaged.lost
    assert 0 < len(lost) < len(whole.times) / 2
    assert 1.5 < lost[0, 0] < lost[-1, 1] < 3.5
    assert damaged.stand_ins and {stand_in.reason for stand_in in damaged.stand_ins} == {DAMAGED}
    # what lies far from the damage is as it was
    far = (whole.times[:, 1] < 1.5) | (whole.times[:, 0] > 3.5)
    assert far.sum() > 10
    assert_close(torch.from_numpy(damaged.scores[far]), torch.from_numpy(whole.scores[far]), "probability")
    assert np.array_equal(np.isnan(damaged.scores).all(axis=1), np.isin(damaged.times[:, 0], lost[:, 0]))


def test_a_file_that_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PART_FRAMES", 8)
    case = Case("early.mp4", options={"g": "10"}, container_options={"movflags": "faststart"}, num_frames=100)
    video = write(case, tmp_path)
    model, processor = build(), tiny_video_processor()
    whole = scan_timeline(model, processor, video, 0.4, 0.2)
    video.write_bytes(video.read_bytes()[: int(0.6 * video.stat().st_size)])
    cut = scan_timeline(model, processor, video, 0.4, 0.2)
    # what is there is its length
    assert 0.3 * whole.seconds < cut.seconds < 0.8 * whole.seconds
    assert 0.3 * len(whole.times) < len(cut.times) < 0.8 * len(whole.times)
    number = len(cut.times) - 1
    assert_close(torch.from_numpy(cut.scores[:number]), torch.from_numpy(whole.scores[:number]), "probability")


def test_a_file_that_holds_no_frame_any_more(tmp_path):
    video = write(Case("broken.mp4", options={"g": "10"}, container_options={"movflags": "faststart"}), tmp_path)
    damage(video, 0.3, 1.0)
    with pytest.raises(VideoDecodingError, match=r"broken\.mp4"):
        scan_timeline(build(), tiny_video_processor(), video, 0.4, 0.2)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 60.0}, r"long\.mkv: it has 4.02 seconds, and a window 60 seconds"),
        ({"stride": 0.0}, "`stride` must be a number of seconds above 0, got 0.0"),
        ({"stride": -1.0}, "`stride` must be a number of seconds above 0, got -1.0"),
        ({"window": float("nan")}, "`window` must be a number of seconds above 0, got nan"),
        ({"num_frames": 0}, "`num_frames` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(long_video, arguments, message):
    with pytest.raises(ValueError, match=message):
        scan_timeline(build(), tiny_video_processor(), long_video, **{"window": 0.9, "stride": 0.5, **arguments})


def test_an_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"image\.png: it has one frame, as an image has, and a window 1 seconds"):
        scan_timeline(build(), tiny_video_processor(), tmp_path / "image.png", 1.0, 0.5)


def test_a_file_without_a_frame_rate(long_video, monkeypatch):
    def without_rate(self):
        self.index, self.metadata.fps = None, None
        return seconds(self)

    seconds = VideoReader.seconds
    monkeypatch.setattr(VideoReader, "seconds", without_rate)
    # nor do its frames have times
    monkeypatch.setattr(FrameClock, "seconds", lambda self: None)
    with pytest.raises(VideoDecodingError, match="does not tell when its frames are shown"):
        scan_timeline(build(), tiny_video_processor(), long_video, 1.0, 0.5)


def test_a_regression_is_refused(long_video):
    with pytest.raises(ValueError, match="'regression'"):
        scan_timeline(build(problem_type="regression"), tiny_video_processor(), long_video, 1.0, 0.5)


def test_several_labels(long_video):
    model, processor = build(problem_type="multi_label_classification"), tiny_video_processor()
    scores = torch.from_numpy(scan_timeline(model, processor, long_video, 0.9, 0.6).scores)
    model.config.problem_type = "single_label_classification"
    single = torch.from_numpy(scan_timeline(model, processor, long_video, 0.9, 0.6).scores)
    assert_close(scores.logit().softmax(dim=-1), single, "float32")
    assert (scores.sum(dim=1) - 1).abs().min() > 0.01


def test_frames_are_copied_from_the_decoder():
    kept = []
    stream = FrameStream(2, None, lambda _, image: kept.append(image), kept.clear)
    image = torch.ones(3, 4, 5, dtype=torch.uint8)
    stream.put(0, image)
    image.zero_()
    assert kept[0].min() == 1
    stream.clear()
    assert kept == [] and not stream.is_filled.any()


# Memory

WORKER = """
import re, sys
import torch
from pathlib import Path
from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.inference.timeline import scan_timeline

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
model = TubeViTForVideoClassification.from_pretrained(sys.argv[1])
processor = TubeViTVideoProcessor.from_pretrained(sys.argv[1])
before = memory("VmRSS")
timeline = scan_timeline(model, processor, sys.argv[2], 2.0, 4.0)
print(len(timeline.times), memory("VmHWM") - before)
"""


def write_long_video(path: Path, seconds: int, rate: int = 5) -> Path:
    """Ten seconds of frames over and over, without encoding them again."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.gop_size = 320, 240, 5 * rate
        rng = np.random.default_rng(0)
        packets = []
        for _ in range(10 * rate):
            image = np.kron(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
            packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        packets += stream.encode()
        assert len(packets) == 10 * rate and all(packet.pts == packet.dts for packet in packets)
        for number in range(seconds * rate):
            source = packets[number % len(packets)]
            packet = av.Packet(bytes(source))
            packet.stream, packet.time_base, packet.is_keyframe = stream, source.time_base, source.is_keyframe
            packet.pts = packet.dts = number * (packets[1].pts - packets[0].pts)
            container.mux(packet)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_an_hour(checkpoint, tmp_path):
    used = {}
    for seconds in (60, 3600):
        video = write_long_video(tmp_path / f"{seconds}.mp4", seconds)
        command = [sys.executable, "-c", WORKER, str(checkpoint), str(video)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        windows, used[seconds] = result.stdout.split()
        assert int(windows) == seconds // 4
    # MiB above the model
    assert float(used[3600]) < 100
    assert float(used[3600]) - float(used[60]) < 20


# Segments


def naive_segments(times, scores, labels, threshold, smoothing, min_length) -> list[Segment]:
    """Window by window, and second by second in steps so fine that nothing falls between."""
    found = []
    middles = [(start + end) / 2 for start, end in times]
    smooth = []
    for middle in middles:
        near = [scores[i] for i, m in enumerate(middles) if abs(m - middle) <= smoothing / 2 + 1e-6]
        near = [row for row in near if not np.isnan(row).any()]
        smooth.append(np.mean(near, axis=0) if near else np.zeros(len(labels)))
    step = 0.05
    grid = [times[0][0] + step / 2 + step * k for k in range(round((times[-1][1] - times[0][0]) / step))]
    nearest = [min(range(len(middles)), key=lambda i: (abs(middles[i] - t), i)) for t in grid]
    for column, label in enumerate(labels):
        runs = []
        for t, i in zip(grid, nearest):
            if smooth[i][column] >= threshold:
                gap = t - step / 2 - runs[-1][1] if runs else np.inf
                if gap < max(min_length, step / 2) - 1e-9:
                    runs[-1][1] = t + step / 2
                else:
                    runs.append([t - step / 2, t + step / 2])
        for start, end in runs:
            if end - start >= min_length - 1e-9:
                inside = [smooth[i][column] for t, i in zip(grid, nearest) if start < t < end]
                found.append(Segment(start, end, label, float(np.mean(inside))))
    return sorted(found, key=lambda segment: (segment.start, segment.end))


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 1.3])
@pytest.mark.parametrize("min_length", [0.0, 0.65, 1.5])
def test_segments_against_a_loop(smoothing, min_length):
    rng = np.random.default_rng(0)
    starts = 0.3 * np.arange(61)
    times = np.stack((starts, starts + 1.1), axis=1)
    scores = rng.dirichlet(np.full(3, 0.5), size=61)
    scores[[7, 20, 21, 22, 23, 24, 25, 60]] = np.nan
    labels = ["a", "b", "c"]
    for threshold in (0.3, 0.6):
        found = find_segments(times, scores, labels, threshold, smoothing, min_length)
        expected = naive_segments(times.tolist(), scores, labels, threshold, smoothing, min_length)
        assert [segment.label for segment in found] == [segment.label for segment in expected]
        np.testing.assert_allclose([s[:2] for s in found], [s[:2] for s in expected], atol=1e-6)
        np.testing.assert_allclose([s.score for s in found], [s.score for s in expected], atol=1e-6)
        assert found or threshold == 0.6


def test_segments_by_default():
    times = np.stack((np.arange(8) * 0.5, np.arange(8) * 0.5 + 2), axis=1)
    # one window in the middle dissents
    scores = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] + [[0.9, 0.1]] * 4)
    assert [segment.label for segment in find_segments(times, scores, ["a", "b"])] == ["a"]
    plain = find_segments(times, scores, ["a", "b"], smoothing=0, min_length=0)
    assert [(segment.start, segment.end, segment.label) for segment in plain] == [
        (0, 2.25, "a"),
        (2.25, 2.75, "b"),
        (2.75, 5.5, "a"),
    ]
    assert find_segments(times[:0], scores[:0], ["a", "b"]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "`threshold` must be above 0 and at most 1, got 0.0"),
        ({"smoothing": -1.0}, "`smoothing` must be 0 seconds or more, got -1.0"),
        ({"min_length": float("inf")}, "`min_length` must be 0 seconds or more, got inf"),
        ({"labels": ["a"]}, r"`times` must be \(windows, 2\) and `scores` \(windows, 1 labels\)"),
    ],
)
def test_bad_settings_of_segments(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_segments(np.array([[0.0, 1.0]]), np.array([[0.2, 0.8]]), **{"labels": ["a", "b"], **arguments})


def test_subtitles():
    text = format_srt([Segment(0.0, 2.25, "wave", 0.876), Segment(3661.9996, 4000.5, "fall", 1.0)])
    assert text == ("1\n00:00:00,000 --> 00:00:02,250\nwave (88%)\n\n2\n01:01:02,000 --> 01:06:40,500\nfall (100%)\n")


def test_subtitles_count_as_players_do():
    text = format_srt([Segment(0.0, 2.25, "wave", 0.5)], start_seconds=5.04)
    assert text == "1\n00:00:05,040 --> 00:00:07,290\nwave (50%)\n"


# The command


@pytest.fixture
def command():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(timeline)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("2", 2.0), ("1.25", 1.25), (".5 s", 0.5), ("1500 ms", 1.5)]
)
def test_times_are_parsed(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["2m", "", "s", "-1s", "1e3", "1:30", "2ss"])
def test_other_times_are_refused(text):
    with pytest.raises(typer.BadParameter, match="is no length of time: write it as 2s, 500ms or"):
        parse_seconds(text)


def test_command(command, checkpoint, long_video, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    arguments = [long_video, "--model", checkpoint, "--window", "900ms", "--stride", "0.3s", "--threshold", 0.3]
    result = command(*arguments, "--json", "--top-k", 3, "--srt", tmp_path / "a.srt", "--picture", tmp_path / "a.png")
    assert result.exit_code == 0 and result.stderr == ""
    found = json.loads(result.stdout)
    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    expected = scan_timeline(model, tiny_video_processor(), long_video, 0.9, 0.3)
    assert [window["start"] for window in found["windows"]] == expected.times[:, 0].tolist()
    assert found["windows"][1]["predictions"] == [
        {"label": LABELS[index], "score": pytest.approx(float(expected.scores[1, index]), abs=1e-5)}
        for index in np.argsort(-expected.scores[1])[:3]
    ]
    segments = find_segments(expected.times, expected.scores, LABELS, 0.3)
    assert found["segments"] == [
        {"start": s.start, "end": s.end, "label": s.label, "score": pytest.approx(s.score, abs=1e-5)} for s in segments
    ]
    assert found["seconds"] == pytest.approx(expected.seconds) and found["stand_ins"] == []
    assert (tmp_path / "a.srt").read_text() == format_srt(segments) != ""
    assert (tmp_path / "a.png").stat().st_size > 5000
    table = command(*arguments)
    assert table.exit_code == 0
    assert all(f"{segment.end:.2f}" in table.stdout for segment in segments)


@pytest.mark.parametrize("delay", [0, 5])
def test_command_on_a_picture_that_begins_late(command, checkpoint, tmp_path, delay):
    """Times are after the first frame, but those of subtitles after the beginning of the file."""
    video = write_with_sound(tmp_path / "late.mp4", 50, delay)
    arguments = [video, "--model", checkpoint, "--window", "1s", "--threshold", 0.001]
    found = json.loads(command(*arguments, "--json", "--srt", tmp_path / "a.srt").stdout)
    assert found["start_seconds"] == pytest.approx(delay, abs=0.2) == read_video(video, [0])[1].start_seconds
    assert found["windows"][0]["start"] == 0 and found["segments"][0]["start"] == 0
    segments = [Segment(**segment) for segment in found["segments"]]
    assert (tmp_path / "a.srt").read_text(encoding="utf-8") == format_srt(segments, found["start_seconds"])
    table = command(*arguments)
    assert (f"which players show at {found['start_seconds']:.2f} s" in table.stdout) == (delay > 0)


def test_command_on_a_damaged_file(command, checkpoint, tmp_path):
    video = damage(write(Case("damaged.mp4", options={"g": "10"}, num_frames=120), tmp_path), 0.4, 0.6)
    result = command(video, "--model", checkpoint, "--window", "400ms", "--stride", "200ms", "--json")
    assert result.exit_code == 1
    assert "frames cannot be decoded; the nearest stand in for them" in result.stderr
    assert "windows cannot be decoded, from second" in result.stderr
    found = json.loads(result.stdout)
    assert any(window["predictions"] == [] for window in found["windows"]) and found["stand_ins"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "1h"], "'1h' is no length of time"),
        (["--stride", "0s"], "`stride` must be a number of seconds above 0, got 0.0."),
        (["--window", "60s"], "it has 4.02 seconds, and a window 60 seconds"),
        (["--threshold", "2"], "Invalid value for '--threshold'"),
    ],
)
def test_bad_options(command, checkpoint, long_video, arguments, message):
    result = command(long_video, "--model", checkpoint, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == "" and "Traceback" not in result.output


def test_a_missing_model_or_video(command, checkpoint, long_video, tmp_path):
    for arguments in ([long_video, "--model", tmp_path], [tmp_path / "none.mp4", "--model", checkpoint]):
        result = command(*arguments)
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
