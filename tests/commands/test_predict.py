# SPDX-License-Identifier: Apache-2.0
"""`tubevit predict`: what it prints is what the pipeline says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline
from typer.testing import CliRunner

from tubevit_hf import TubeViTModel
from tubevit_hf.cli import app

from ..support.tiny import tiny_config, tiny_video_processor


@pytest.fixture
def folder(videos, tmp_path) -> Path:
    """A folder with two videos, one of them in a folder of its own and named in capitals, and other files."""
    (tmp_path / "clips" / "more").mkdir(parents=True)
    shutil.copy(videos[0], tmp_path / "clips" / "a.mp4")
    shutil.copy(videos[1], tmp_path / "clips" / "more" / "B.MP4")
    (tmp_path / "clips" / "notes.txt").write_text("no video")
    return tmp_path / "clips"


def predict(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def in_one_line(text: str) -> str:
    """Without the frame and the line breaks that depend on the terminal's width."""
    return " ".join(text.replace("│", " ").split())


def test_json(checkpoint, folder):
    result = predict(folder, "--model", checkpoint, "--top-k", 3, "--json", "--batch-size", 1)
    assert result.exit_code == 0
    classify = pipeline("video-classification", model=str(checkpoint))
    expected = [str(folder / "a.mp4"), str(folder / "more" / "B.MP4")]
    assert json.loads(result.stdout) == [{"video": path, "predictions": classify(path, top_k=3)} for path in expected]


def test_table(checkpoint, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    result = predict(folder / "a.mp4", folder / "more" / "B.MP4", "--model", checkpoint, "--top-k", 2)
    assert result.exit_code == 0
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in result.stdout.splitlines() if "│" in line
    ]
    classify = pipeline("video-classification", model=str(checkpoint))
    expected = []
    for path in (folder / "a.mp4", folder / "more" / "B.MP4"):
        first, second = ([entry["label"], f"{entry['score']:.3f}"] for entry in classify(str(path), top_k=2))
        expected += [[str(path), *first], ["", *second]]
    assert rows == expected


def test_five_labels_by_default(checkpoint, videos):
    result = predict(videos[0], "--model", checkpoint, "--json")
    assert len(json.loads(result.stdout)[0]["predictions"]) == 5


def test_a_failing_video_is_reported_and_passed_over(checkpoint, folder):
    (folder / "broken.mp4").write_text("no video")
    result = predict(folder, "missing.mp4", "--model", checkpoint, "--json")
    assert result.exit_code == 1
    entries = json.loads(result.stdout)
    assert [Path(entry["video"]).name for entry in entries] == ["a.mp4", "broken.mp4", "B.MP4", "missing.mp4"]
    assert ["predictions" in entry for entry in entries] == [True, False, True, False]
    assert "broken.mp4: FFmpeg cannot read it" in entries[1]["error"]
    assert "missing.mp4: it cannot be read (No such file or directory)" in entries[3]["error"]
    assert result.stderr.count("failed: ") == 2
    table = predict(folder / "broken.mp4", "--model", checkpoint)
    assert table.exit_code == 1
    assert "failed" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--model", "{folder}"], "Invalid value for --model"),
        (["{folder}", "--model", "{folder}/missing"], "Invalid value for --model"),
        (["{folder}/empty", "--model", "{checkpoint}"], "empty: it holds no videos."),
        (["{folder}"], "Missing option '--model'"),
        (["--model", "{checkpoint}"], "Missing argument 'VIDEO_OR_FOLDER"),
        (["{folder}", "--model", "{checkpoint}", "--top-k", "0"], "Invalid value for '--top-k'"),
    ],
)
def test_bad_arguments(checkpoint, folder, arguments, message):
    (folder / "empty").mkdir()
    arguments = [argument.format(folder=folder, checkpoint=checkpoint) for argument in arguments]
    result = predict(*arguments)
    assert result.exit_code == 2
    assert message in in_one_line(result.stderr)
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["predict", "timeline", "explain"])
def test_a_model_without_a_classifier(command, videos, tmp_path, monkeypatch):
    """As `tubevit pretrain` leaves it: nothing makes one up."""
    monkeypatch.setenv("COLUMNS", "1000")
    folder = tmp_path / "headless"
    TubeViTModel(tiny_config()).save_pretrained(folder)
    tiny_video_processor().save_pretrained(folder)
    out = ["--out", str(tmp_path / "out")] if command == "explain" else []
    result = CliRunner().invoke(app, [command, videos[0], "--model", str(folder), *out])
    assert result.exit_code == 2
    assert f"{folder}: the model has no classifier of videos" in in_one_line(result.stderr)
    assert f"tubevit train FOLDER --from {folder} --out DIR" in in_one_line(result.stderr)
    assert not result.stdout


def test_as_a_command(checkpoint, folder):
    command = [Path(sys.executable).with_name("tubevit"), "predict", folder, "--model", checkpoint, "--json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert len(json.loads(result.stdout)) == 2
    # no progress bars where nobody watches
    assert result.stderr == ""
