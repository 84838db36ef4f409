# SPDX-License-Identifier: Apache-2.0
"""Many files through a model: the pipeline's answers, in order, whatever batches, workers, kills and processes."""

import csv
import json

import pytest
import torch
from transformers import pipeline

from tubevit_hf import TubeViTVideoProcessor
from tubevit_hf.data.clips import EvaluationViews
from tubevit_hf.data.listing import find_videos
from tubevit_hf.evaluation.views import predict_views
from tubevit_hf.inference.identity import OutputMismatch, check_same
from tubevit_hf.inference.prediction import Prediction, PredictionFile, format_prediction, predict_files
from tubevit_hf.inference.reading import Reading, list_files
from tubevit_hf.inference.running import LoadedModel, Runner, load_model

from .conftest import tubevit


# float32 sums of batches of another size, through three layers and a softmax
SAME_SCORE = 1e-5


@pytest.fixture(scope="module")
def loaded(checkpoint) -> LoadedModel:
    return load_model(str(checkpoint))


@pytest.fixture(scope="module")
def expected(checkpoint, video_folder) -> list[tuple[str, dict[str, float] | None]]:
    """What the pipeline says of one file after the other; `None` of the broken one."""
    classify = pipeline("video-classification", model=str(checkpoint))
    answers = []
    for path in map(str, find_videos(video_folder)):
        scores = None if path.endswith("b/1.mp4") else classify(path, top_k=5)
        answers.append((path, scores and {entry["label"]: entry["score"] for entry in scores}))
    return answers


def assert_as_expected(predictions: list[Prediction], expected) -> None:
    assert [prediction.video for prediction in predictions] == [path for path, _ in expected]
    for prediction, (path, scores) in zip(predictions, expected):
        if scores is None:
            assert prediction.predictions is None and prediction.error.startswith(f"{path}: ")
        else:
            found = {entry["label"]: entry["score"] for entry in prediction.predictions}
            assert found == pytest.approx(scores, abs=SAME_SCORE)
            assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (2, 1), (3, 2), (100, 0)])
def test_answers_of_the_pipeline_in_order(loaded, video_folder, expected, batch_size, num_workers):
    files = list_files([str(video_folder)])
    predictions = predict_files(loaded, files, batch_size=batch_size, num_workers=num_workers)
    assert_as_expected(list(predictions), expected)


def test_views_are_averaged(loaded, video_folder):
    files = [str(path) for path in find_videos(video_folder) if path.name != "1.mp4"]
    views = EvaluationViews(
        TubeViTVideoProcessor(**loaded.processor.to_dict()), num_frames=7, num_clips=2, num_crops=3
    )
    predictions = list(predict_files(loaded, files, views=(2, 3), batch_size=4, num_workers=0))
    for file, prediction in zip(files, predictions, strict=True):
        scores = predict_views(loaded.model, views(file)[None])[0]
        found = {entry["label"]: entry["score"] for entry in prediction.predictions}
        names = loaded.model.config.id2label
        assert found == pytest.approx({names[i]: value for i, value in enumerate(scores.tolist())}, abs=SAME_SCORE)


def test_a_clip_that_the_model_refuses_is_named_and_the_rest_goes_on():
    class Model(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, pixel_values):
            if (pixel_values > 10).any():
                raise ValueError("no such thing")
            return pixel_values.sum(dim=1, keepdim=True)

    values = [torch.arange(3.0)[None], torch.full((2, 3), 11.0), torch.ones(3, 3), torch.ones(1, 4)]
    readings = [Reading(str(number), {"pixel_values": value}) for number, value in enumerate(values)]
    results = list(Runner(Model(), lambda output: output, batch_size=5).run(readings))
    assert [reading.error for reading, _ in results] == [None, "1: no such thing", None, None]
    assert [None if sums is None else sums.flatten().tolist() for _, sums in results] == [[3], None, [3, 3, 3], [4]]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_goes_on_where_a_killed_run_left_it(loaded, video_folder, tmp_path, suffix):
    files = list_files([str(video_folder)])

    def run(name: str, stop: int | None = None) -> PredictionFile:
        file = PredictionFile(tmp_path / f"{name}.{suffix}", files)
        written = file.write(predict_files(loaded, file.start({}), batch_size=1, num_workers=0))
        for number, _ in enumerate(written, start=1):
            if number == stop:
                break
        return file

    whole = run("whole")
    for stop in (1, 4, 7):
        file = run(f"stopped-{stop}", stop)
        file.path.write_bytes(file.path.read_bytes() + b'{"video": "cut o')
        # and the rest of the work
        assert len(run(f"stopped-{stop}").start({})) == 0
        assert file.path.read_bytes() == whole.path.read_bytes()
    assert whole.path.read_text().count("1.mp4") > 0


def test_views_of_a_model_for_images_are_refused(loaded):
    with pytest.raises(ValueError, match="2x3 cannot be had"):
        predict_files(loaded._replace(processor=loaded.processor.to_image_processor()), [], views=(2, 3))


def test_csv_is_what_a_table_program_reads(tmp_path):
    entries = [{"label": 'say "hi", twice', "score": 0.75}, {"label": "b", "score": 0.25}]
    predictions = [Prediction("a,b.mp4", entries), Prediction("c.mp4", error="c.mp4: broken")]
    file = PredictionFile(tmp_path / "out.csv", ["a,b.mp4", "c.mp4"])
    assert list(file.start({})) == ["a,b.mp4", "c.mp4"]
    assert list(file.write(predictions)) == predictions
    with file.path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [list(row.values()) for row in rows] == [
        ["a,b.mp4", "1", 'say "hi", twice', "0.75", ""],
        ["a,b.mp4", "2", "b", "0.25", ""],
        ["c.mp4", "", "", "", "c.mp4: broken"],
    ]
    assert list(file.start({})) == []
    assert json.loads(format_prediction(predictions[1], "jsonl")) == {"video": "c.mp4", "error": "c.mp4: broken"}


@pytest.mark.parametrize("letter", ["\r", "\n", "\r\n", '"', ",", "\u2028", "\x85", "\x0b", "\udcff"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_name_may_have_any_letters(suffix, letter, tmp_path):
    """An earlier run's file is read again, whatever ends a line for some program."""
    files = [f"a{letter}.mp4", "b.mp4"]
    entries = [{"label": f"c{letter}d", "score": 0.75}, {"label": "e", "score": 0.25}]
    file = PredictionFile(tmp_path / f"out.{suffix}", files)
    assert list(file.start({})) == files
    list(file.write([Prediction(files[0], entries)]))
    before = file.path.read_bytes()
    assert list(file.start({})) == files[1:]
    file.merge()
    assert file.path.read_bytes() == before


def test_an_output_of_another_model_is_refused(tmp_path):
    path = tmp_path / "made_with.json"
    check_same(path, {"weights": "abc", "views": "1x1"})
    check_same(path, {"weights": "abc", "views": "1x1"})
    with pytest.raises(OutputMismatch, match='views is "1x1", now "4x3"; weights is "abc", now "abd"'):
        check_same(path, {"weights": "abd", "views": "4x3"})
    mine = tmp_path / "mine.csv"
    mine.write_text("a,b\n")
    with pytest.raises(OutputMismatch, match="nothing tells what made it"):
        PredictionFile(mine, []).start({})
    assert mine.read_text() == "a,b\n"
    with pytest.raises(ValueError, match=r"must end with \.jsonl or \.csv"):
        PredictionFile(tmp_path / "out.txt", [])


def test_processes_share_the_files(checkpoint, video_folder, expected, tmp_path):
    """Each file once; what a process that was killed left is kept."""
    out = tmp_path / "out.jsonl"
    first = find_videos(video_folder)[0]
    # a part of a run of more processes, which ended early
    left = format_prediction(Prediction(str(first), [{"label": "kept", "score": 1.0}]), "jsonl")
    out.with_name("out.jsonl.part-2").write_text(left + '{"vid')
    arguments = ["predict", video_folder, "--model", checkpoint, "--out", out, "--workers", 0]
    process = tubevit(*arguments, processes=2)
    _, errors = process.communicate()
    assert process.returncode == 1, errors  # a video is broken
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["predictions"] == [{"label": "kept", "score": 1.0}]
    found = [Prediction(row["video"], row.get("predictions"), row.get("error")) for row in rows]
    assert_as_expected(found[1:], expected[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.made_with.json"]
