# SPDX-License-Identifier: Apache-2.0
"""`tubevit train`: from a folder to a model, what a stop leaves, and what is refused."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForVideoClassification, AutoVideoProcessor
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.cli import app
from tubevit_hf.data import EvaluationViews
from tubevit_hf.data.labelled import load_labelled
from tubevit_hf.evaluation import predict_views
from tubevit_hf.training import find_checkpoint, frozen, trainer

from ..support.stopping import run_until_killed, stop_at
from ..support.tiny import rows_of, tiny_config, tiny_video_processor


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
CLOSED = ["--copies", 5, "--no-mirror"]
GRADIENTS = [
    *("--num_train_epochs", 3, "--learning_rate", 1e-3, "--copies", 2, "--eval_clips", 1, "--eval_crops", 1),
    *("--no-mirror", "--bf16", "False"),
]


def train(*arguments: object):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def command(*arguments: object, stop: Sequence[str] = ()) -> list[str]:
    return [sys.executable, *stop, "-m", "tubevit_hf.cli", "train", *map(str, arguments)]


def read_splits(out: Path) -> list[dict[str, str]]:
    with open(out / "splits.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_predictions(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "validation_predictions.jsonl").read_text().splitlines()]


def groups_of(out: Path) -> dict[str, set[str]]:
    found = {"train": set(), "validation": set()}
    for row in read_splits(out):
        found[row["split"]].add(row["group"])
    return found


def scores_by_hand(out: Path, videos: Path, files: list[str], **views: object) -> torch.Tensor:
    """What the saved model says of videos."""
    model = AutoModelForVideoClassification.from_pretrained(out).eval()
    processor = AutoVideoProcessor.from_pretrained(out)
    load = EvaluationViews(processor, model.config.num_frames, **views)
    with torch.no_grad():
        return torch.cat([predict_views(model, load(str(videos / file))[None]) for file in files])


@pytest.fixture(scope="module")
def fitted(clips, vit, tmp_path_factory) -> Path:
    """What the closed form leaves."""
    out = tmp_path_factory.mktemp("fitted") / "out"
    result = train(clips, "--from", vit, "--out", out, *CLOSED, "--bf16", "False")
    assert result.exit_code == 0, result.output
    (out.parent / "output.txt").write_text(result.output)
    return out


# Whole runs


def test_a_folder_and_an_image_vit_are_enough(fitted, clips):
    output = (fitted.parent / "output.txt").read_text()
    assert "becomes a TubeViT in" in output
    assert "32 videos train, 8 validate: by group (as the names tell)" in output
    assert "In closed form, behind frozen layers." in output
    # a hundred and sixty clips, of which the first few tell how long the others take
    assert "160 clips, about " in output
    assert f"{fitted / 'report.html'} tells" in output and (fitted / "report.html").stat().st_size > 10_000

    # what frozen layers gave is for a run that is not finished
    assert not (fitted / "frozen").exists()
    # no actor is on both sides, and every video on one
    groups = groups_of(fitted)
    assert not groups["train"] & groups["validation"]
    assert (len(groups["train"]), len(groups["validation"])) == (8, 2)
    rows = read_splits(fitted)
    assert sorted(row["file"] for row in rows) == sorted(f"{p.parent.name}/{p.name}" for p in clips.rglob("*.mp4"))
    assert all(row["file"].startswith(f"{row['label']}/{row['group']}_") for row in rows)


def test_what_is_measured_is_what_the_saved_model_says(fitted, clips):
    predictions, results = read_predictions(fitted), json.loads((fitted / "results.json").read_text())
    files = [row["file"] for row in read_splits(fitted) if row["split"] == "validation"]
    assert [row["file"] for row in predictions] == files
    expected = scores_by_hand(fitted, clips, files, num_clips=2, num_crops=3)
    assert [list(row["scores"]) for row in predictions] == [["left", "right"]] * 8
    found = torch.tensor([list(row["scores"].values()) for row in predictions])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    right = sum(max(row["scores"], key=row["scores"].get) == row["label"] for row in predictions)
    accuracy = results["accuracy"]
    assert (accuracy["right"], accuracy["of"], accuracy["value"]) == (right, 8, right / 8)
    assert right >= 6  # no single frame tells left from right
    # Wilson's interval, written out
    z, share = 1.959964, right / 8
    middle, spread = share + z**2 / 16, z * (share * (1 - share) / 8 + z**2 / 256) ** 0.5
    expected_interval = [(middle - spread) / (1 + z**2 / 8), (middle + spread) / (1 + z**2 / 8)]
    assert accuracy["interval_95"] == pytest.approx(expected_interval, abs=1e-6)
    assert results["metrics"]["top_1_accuracy"] == right / 8
    assert results["videos"] == {"train": 32, "validation": 8}
    assert results["groups"] == {"train": 8, "validation": 2}
    [limit] = results["limits"]
    assert "of 2 groups only" in limit
    card = (fitted / "README.md").read_text()
    # of the report, which comes last
    for text in ("8 videos, interval", "| left | 16 | 4 |", "of 2 groups", torch.__version__.split("+")[0]):
        assert text in card


def test_a_finished_run_is_not_run_again(fitted, clips, vit):
    before = {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.is_file()}
    result = train(clips, "--from", vit, "--out", fitted, *CLOSED, "--bf16", "False")
    assert result.exit_code == 0, result.output
    assert "is finished; nothing is trained again" in result.output
    assert "validation videos" in result.output
    assert {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.is_file()} == before
    # and never mixed up with another
    result = train(clips, "--from", vit, "--out", fitted, *CLOSED, "--bf16", "False", "--seed", 3)
    assert result.exit_code == 2
    assert "holds a finished run with other arguments: seed was 42 and is 3" in result.output
    assert {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.is_file()} == before


# Layouts


@pytest.fixture(scope="module")
def compared(clips, vit, tmp_path_factory) -> Path:
    """What the comparison of both layouts leaves."""
    out = tmp_path_factory.mktemp("compared") / "out"
    result = train(clips, "--from", vit, "--out", out, *CLOSED, "--bf16", "False", "--layout", "auto")
    assert result.exit_code == 0, result.output
    (out.parent / "output.txt").write_text(result.output)
    return out


def test_layouts_are_compared_by_training_videos(compared, fitted, clips):
    output = (compared.parent / "output.txt").read_text()
    # the room for both is said before
    assert f"GB in {compared / 'frozen'}\n" in output
    assert f"GB in {compared / 'frozen_sparse'}\n" in output
    assert not any((compared / name).exists() for name in ("frozen", "frozen_sparse"))
    results, fit = (json.loads((compared / name).read_text()) for name in ("results.json", "few_videos.json"))
    layouts = results["layouts"]
    assert layouts == fit["layouts"]
    kept = min(layouts, key=lambda layout: layouts[layout]["loss"])
    assert results["layout"] == fit["layout"] == kept
    best = fit["choices"][fit["chosen"]]
    assert (layouts[kept]["loss"], layouts[kept]["accuracy"]) == (best["loss"], best["accuracy"])
    # eight frames of 4x4 patches, each with a CLS token; two tubes of 2x2 places and eight steps
    assert (layouts["frames"]["tokens"], layouts["sparse"]["tokens"]) == (8 * 17, 2 * 2 * 2 * 8 + 1)
    for layout, found in layouts.items():
        line = f"Layout {layout}: {found['accuracy']:.1%} of the held-out training videos right, log loss"
        assert f"{line} {found['loss']:.3f}; {found['tokens']} tokens and {found['flops'] / 1e9:.3g} GFLOPs" in output
        assert line in (compared / "README.md").read_text()
    # frames come out as they do alone
    alone = json.loads((fitted / "few_videos.json").read_text())
    assert alone["layouts"] == {}
    best = alone["choices"][alone["chosen"]]
    assert layouts["frames"]["loss"] == pytest.approx(best["loss"], rel=1e-6)
    # what is kept says what was measured
    model = TubeViTForVideoClassification.from_pretrained(compared)
    assert (model.config.joint_layer > 0) == (kept == "frames")
    files = [row["file"] for row in read_predictions(compared)]
    found = torch.tensor([list(row["scores"].values()) for row in read_predictions(compared)])
    expected = scores_by_hand(compared, clips, files, num_clips=2, num_crops=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_finished_comparison_is_not_run_again(compared, clips, vit):
    before = {path: path.stat().st_mtime_ns for path in compared.rglob("*") if path.is_file()}
    arguments = [clips, "--from", vit, "--out", compared, *CLOSED, "--bf16", "False"]
    result = train(*arguments, "--layout", "auto")
    assert result.exit_code == 0, result.output
    assert "is finished; nothing is trained again" in result.output
    for other, value in (([], "None"), (["--layout", "sparse"], "'sparse'")):
        result = train(*arguments, *other)
        assert result.exit_code == 2
        assert f"holds a finished run with other arguments: layout was 'auto' and is {value}" in result.output
    assert {path: path.stat().st_mtime_ns for path in compared.rglob("*") if path.is_file()} == before


def test_a_comparison_goes_on_where_the_disk_was_full(compared, clips, vit, tmp_path, monkeypatch):
    """Between the caches of the layouts, each of three shards."""
    arguments = [clips, "--from", vit, "--out", tmp_path / "out", *CLOSED, "--bf16", "False", "--layout", "auto"]
    with monkeypatch.context() as full:
        full.setattr(frozen.np, "save", full_disk(4, np.save))
        result = train(*arguments)
    assert (result.exit_code, "the disk is full" in result.output) == (2, True)
    caches = [tmp_path / "out" / "frozen", tmp_path / "out" / "frozen_sparse"]
    assert [len(list(cache.glob("clips-*.npy"))) for cache in caches] == [3, 1]
    saved = []

    def save(file, array):
        saved.append(array)
        np.lib.format.write_array(file, array)

    monkeypatch.setattr(frozen.np, "save", save)
    result = train(*arguments)
    assert result.exit_code == 0, result.output
    assert len(saved) == 2
    for name in ("model.safetensors", "few_videos.json", "validation_predictions.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (compared / name).read_bytes()


def test_tubes_of_a_tubevit(clips, tubevit, tmp_path):
    """Its own, at its own length; the recipe's eight frames are of the other layout."""
    out = tmp_path / "out"
    result = train(clips, "--from", tubevit, "--out", out, *CLOSED, "--copies", 1, "--layout", "sparse")
    assert result.exit_code == 0, result.output
    config = TubeViTForVideoClassification.from_pretrained(out).config
    assert (config.num_frames, config.joint_layer, len(config.tubes)) == (7, 0, 3)
    results = json.loads((out / "results.json").read_text())
    assert (results["layout"], results["layouts"]) == ("sparse", {})
    assert f"Layout sparse: {config.num_tokens()} tokens and " in result.output


def test_clips_of_another_length(clips, tubevit, tmp_path):
    """They are what the model is fitted to; once it is, it takes no others."""
    out = tmp_path / "out"
    arguments = [clips, *CLOSED, "--copies", 1]
    result = train(*arguments, "--from", tubevit, "--out", out, "--layout", "sparse", "--num_frames", 9)
    assert result.exit_code == 0, result.output
    assert TubeViTForVideoClassification.from_pretrained(out).config.num_frames == 9
    assert AutoVideoProcessor.from_pretrained(out).num_frames == 9
    again = [*arguments, "--from", out, "--out", tmp_path / "again"]
    result = train(*again, "--num_frames", 7)
    assert result.exit_code == 2
    assert "fitted to clips of 9 frames, and cannot be fitted to clips of 7" in result.output
    result = train(*again)
    assert result.exit_code == 0, result.output
    assert TubeViTForVideoClassification.from_pretrained(tmp_path / "again").config.num_frames == 9


def test_trials_of_a_layout(clips, tubevit, tmp_path):
    out = tmp_path / "out"
    arguments = [clips, "--from", tubevit, "--out", out, "--copies", 1, "--trials", 2]
    result = train(*arguments, "--layout", "sparse")
    assert result.exit_code == 0, result.output
    assert len(json.loads((out / "results.json").read_text())["trials"]["tried"]) == 2
    # and what they found is not taken for that of frames
    (out / "results.json").unlink()
    result = train(*arguments)
    assert result.exit_code == 2
    assert "layout" in result.output.splitlines()[-1]


def test_without_a_tube_of_one_frame(clips, tmp_path):
    """By gradients, as ever; the recipe small takes the tubes that there are."""
    config = tiny_config(tubes=[{"kernel_size": [2, 8, 8], "stride": [2, 16, 16]}])
    TubeViTForVideoClassification(config).save_pretrained(tmp_path / "tubes")
    tiny_video_processor().save_pretrained(tmp_path / "tubes")
    arguments = [clips, "--from", tmp_path / "tubes", "--out", tmp_path / "out", *CLOSED, "--copies", 1]
    result = train(*arguments, "--layout", "frames")
    assert result.exit_code == 2
    assert "None of the model's tubes sees a single frame" in result.output
    result = train(*arguments, "--recipe", "small")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["layout"] == "sparse"


def test_layouts_that_go_with_nothing_else(clips, tubevit, tmp_path):
    for arguments, message in (
        (["--layout", "auto", "--recipe", "gradients"], "--layout is of the recipe small, and has no meaning for"),
        (
            ["--layout", "sparse", "--recipe", "k400-b"],
            "--layout is of the recipe small, and has no meaning for k400-b",
        ),
        (["--layout", "sparse", "--learning_rate", 1], "a closed form without --learning_rate: leave that out, or"),
        (["--layout", "auto", "--trials", 2], "--layout auto does not go with trials of settings"),
    ):
        result = train(clips, "--from", tubevit, "--out", tmp_path / "out", *arguments)
        assert (result.exit_code, result.output.count("Error: ")) == (2, 1)
        assert message in result.output.splitlines()[-1]
        assert not (tmp_path / "out").exists()
    assert train(clips, "--from", tubevit, "--out", tmp_path / "out", "--layout", "tubes").exit_code == 2


def test_by_gradients_with_all_that_the_trainer_has(clips, tubevit, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    out = tmp_path / "out"
    arguments = ["--from", tubevit, "--out", out, *GRADIENTS, "--report_to", "tensorboard", "--logging_steps", 1]
    result = train(clips, *arguments)
    assert result.exit_code == 0, result.output
    assert "By gradients: --num_train_epochs is given." in result.output
    assert "12 steps, about " in result.output
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert len(events.Scalars("train/loss")) == 12
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    accuracies = [entry["eval_top_1_accuracy"] for entry in history if "eval_top_1_accuracy" in entry]
    # the best of three epochs is kept, and evaluated once more
    assert len(accuracies) == 3
    results = json.loads((out / "results.json").read_text())
    assert results["metrics"]["top_1_accuracy"] == max(accuracies)
    assert results["recipe"] == "gradients"
    files = [row["file"] for row in read_predictions(out)]
    found = torch.tensor([list(row["scores"].values()) for row in read_predictions(out)])
    torch.testing.assert_close(found, scores_by_hand(out, clips, files), rtol=1e-4, atol=1e-5)
    assert (out / "training_curves.png").exists()


def test_it_ends_where_validation_gains_nothing(clips, tubevit, tmp_path):
    """With a learning rate of nothing: patience 2 is three epochs, in a second start too."""
    out = tmp_path / "out"
    arguments = [
        clips,
        "--from",
        tubevit,
        "--out",
        out,
        *GRADIENTS,
        "--num_train_epochs",
        30,
        "--learning_rate",
        1e-30,
    ]
    arguments += ["--patience", 2]
    result = train(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 12
    weights = (out / "model.safetensors").read_bytes()
    for name in ("results.json", "model.safetensors"):
        (out / name).unlink()
    result = train(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 12
    assert (out / "model.safetensors").read_bytes() == weights


# Runs that were stopped


def test_killed_runs_end_with_the_same_bytes(clips, vit, tmp_path):
    """By gradients behind frozen layers: killed among these, in a step, and where a checkpoint is half written."""
    arguments = [clips, "--from", vit, *GRADIENTS, "--balanced", "--class_weights", "--num_train_epochs", 8]
    whole = subprocess.run(
        command(*arguments, "--out", tmp_path / "whole"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    out, reached = tmp_path / "killed", []
    for function, count in (
        ("tubevit_hf.training.frozen:np.save", 1),
        ("transformers:Trainer.training_step", 7),
        ("transformers:Trainer._save_optimizer_and_scheduler", 2),
        ("transformers:Trainer.training_step", 6),
    ):
        run_until_killed(command(*arguments, "--out", out, stop=stop_at(function, count)), ENVIRONMENT)
        checkpoint = find_checkpoint(out)
        reached.append(0 if checkpoint is None else int(checkpoint.rpartition("-")[2]))
    assert reached == [0, 4, 8, 12]
    last = subprocess.run(command(*arguments, "--out", out), env=ENVIRONMENT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    for name in ("model.safetensors", "splits.csv", "validation_predictions.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def full_disk(after: int, function):
    """The function, until the disk is full."""
    calls = []

    def limited(*arguments, **kwargs):
        calls.append(None)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **kwargs)

    return limited


@pytest.mark.parametrize("where", ["frozen", "model", "predictions"])
def test_a_full_disk_loses_nothing(where, fitted, clips, vit, tmp_path, monkeypatch):
    arguments = [clips, "--from", vit, "--out", tmp_path / "out", *CLOSED, "--bf16", "False"]
    with monkeypatch.context() as full:
        if where == "frozen":
            full.setattr(frozen.np, "save", full_disk(1, np.save))
        elif where == "model":
            full.setattr(trainer.VideoTrainer, "save_model", full_disk(0, None))
        else:
            full.setattr("tubevit_hf.training.record.write_text", full_disk(0, None))
        result = train(*arguments)
    assert result.exit_code == 2
    assert "the disk is full. What was whole in" in result.output.splitlines()[-1]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "frozen").glob("clips-*")}
    assert len(kept) == (1 if where == "frozen" else 3)
    assert all(path.suffix == ".npy" for path in kept)
    assert not (tmp_path / "out" / "results.json").exists()
    saved = []

    def save(file, array):
        saved.append(array)
        np.lib.format.write_array(file, array)

    monkeypatch.setattr(frozen.np, "save", save)
    assert train(*arguments).exit_code == 0
    assert len(saved) == 3 - len(kept)  # no more than what was lacking
    for name in ("model.safetensors", "splits.csv", "validation_predictions.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (fitted / name).read_bytes()
    assert not list((tmp_path / "out").rglob("*unfinished*"))


# Other ways to bring data


def test_splits_of_ones_own(clips, tubevit, tmp_path):
    for path in sorted(clips.rglob("*.mp4")):
        actor = int(path.stem[5])
        folder = tmp_path / "data" / ("validation" if actor in (3, 7) else "train") / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    result = train(tmp_path / "data", "--from", tubevit, "--out", tmp_path / "out", *CLOSED)
    assert result.exit_code == 0, result.output
    assert "as the data has it, no group (as the names tell) on both sides" in result.output
    assert groups_of(tmp_path / "out")["validation"] == {"actor3", "actor7"}
    # one video of an actor on the other side is refused, with the name
    moved = next((tmp_path / "data" / "validation" / "left").iterdir())
    moved.rename(tmp_path / "data" / "train" / "left" / moved.name)
    result = train(tmp_path / "data", "--from", tubevit, "--out", tmp_path / "other", *CLOSED)
    assert result.exit_code == 2
    assert "1 group(s) are in both splits" in result.output
    assert "actor3 (1 in train and 3 in validation)" in result.output
    result = train(tmp_path / "data", "--from", tubevit, "--out", tmp_path / "other", *CLOSED, "--no-groups")
    assert result.exit_code == 0, result.output


def write_labels(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_several_labels_from_a_table(clips, tubevit, tmp_path):
    rows = []
    for path in sorted(clips.rglob("*.mp4")):
        actor = int(path.stem[5])
        side = path.parent.name
        labels = f"{side}; odd" if actor % 2 else side
        rows.append({"file": f"{side}/{path.name}", "label": labels, "group": f"g{actor}"})
        if actor == 4:
            rows.append({**rows[-1], "label": "four"})
    table = write_labels(tmp_path / "labels.csv", rows)
    data = load_labelled(clips, table)
    assert len(data) == 40
    assert data.features["label"].feature.names == ["four", "left", "odd", "right"]
    arguments = [clips, "--from", tubevit, "--labels", table, "--num_train_epochs", 2, "--bf16", "False"]
    result = train(*arguments, "--out", tmp_path / "out", "--class-weights", "--group-pattern", r"actor(\d)")
    # all of class four are of one actor, who trains
    assert result.exit_code == 0, result.output
    assert "By gradients: --num_train_epochs is given" in result.output
    assert "Mean average precision" in result.output
    groups = groups_of(tmp_path / "out")
    assert not groups["train"] & groups["validation"]
    assert "4" in groups["train"]
    predictions = read_predictions(tmp_path / "out")
    assert {tuple(row["label"]) for row in predictions} <= {("left",), ("right",), ("left", "odd"), ("odd", "right")}
    assert list(predictions[0]["scores"]) == ["four", "left", "odd", "right"]
    model = TubeViTForVideoClassification.from_pretrained(tmp_path / "out")
    assert model.config.problem_type == "multi_label_classification"
    # balanced is for one label each
    result = train(*arguments, "--out", tmp_path / "other", "--balanced")
    assert result.exit_code == 2
    assert "`balanced` needs one class a video" in result.output


def test_a_dataset_by_its_folder(clips, tubevit, tmp_path):
    rows = load_labelled(clips)
    names = rows.features["label"]
    videos, labels = rows["video"][:], rows["label"][:]
    rows_of(videos, labels, names).save_to_disk(tmp_path / "one")
    DatasetDict(
        train=rows_of(videos[::2], labels[::2], names), validation=rows_of(videos[1::2], labels[1::2], names)
    ).save_to_disk(tmp_path / "two")
    for name, count in (("one", 8), ("two", 20)):
        result = train(
            tmp_path / name,
            "--from",
            tubevit,
            "--out",
            tmp_path / f"{name}-out",
            *CLOSED,
            "--copies",
            1,
            "--no-groups",
        )
        assert result.exit_code == 0, result.output
        assert len(read_predictions(tmp_path / f"{name}-out")) == count


def test_videos_can_be_left_out(clips, tubevit, tmp_path):
    (tmp_path / "out.txt").write_text("# blurred\nleft/actor1_1.mp4\n\nright/actor2_2.mp4\n")
    arguments = [clips, "--from", tubevit, "--leave-out", tmp_path / "out.txt", *CLOSED, "--copies", 1]
    result = train(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    files = {row["file"] for row in read_splits(tmp_path / "out")}
    assert len(files) == 38
    assert not files & {"left/actor1_1.mp4", "right/actor2_2.mp4"}
    (tmp_path / "out.txt").write_text("left/nobody.mp4")
    result = train(*arguments, "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "there is no file" in result.output


# What is refused


def test_each_bad_input_is_one_line(clips, tubevit, tmp_path, monkeypatch):
    def refuse(message: str, folder: Path, *arguments: object, out: Path = tmp_path / "out") -> None:
        result = train(folder, "--from", tubevit, "--out", out, *arguments)
        assert result.exit_code == 2, result.output
        assert result.output.count("Error: ") == 1
        assert message in result.output.splitlines()[-1], result.output
        assert not (out / "results.json").exists()

    empty = tmp_path / "empty"
    (empty / "run").mkdir(parents=True)
    (empty / "fall").mkdir()
    refuse("it holds no videos", empty)
    refuse("there is no such folder", tmp_path / "nowhere")
    one = tmp_path / "one"
    shutil.copytree(clips / "left", one / "left")
    refuse("it holds 1 folder(s) of classes; two are needed", one)
    shutil.copytree(clips / "right", one / "Left")
    refuse("the classes 'Left' and 'left' differ only in case", one)
    refuse("its videos lie in no folder of a class", clips / "left")
    halves = tmp_path / "halves"
    shutil.copytree(clips, halves / "train")
    shutil.copytree(clips, halves / "val")
    refuse("it has val, but not validation", halves)

    video = {"file": "left/actor0_0.mp4", "label": "a"}
    table = write_labels(tmp_path / "labels.csv", [video, {"file": "left/nobody.mp4", "label": "b"}])
    refuse("1 of its videos are not in", clips, "--labels", table)
    refuse("left/nobody.mp4", clips, "--labels", table)
    write_labels(table, [video, {"file": "left/actor1_1.mp4", "label": ""}])
    refuse("line 3: it names no label", clips, "--labels", table)
    write_labels(table, [{**video, "split": "train"}, {"file": "left/actor1_1.mp4", "label": "b", "split": "test"}])
    refuse("the split must be train or validation, got 'test'", clips, "--labels", table)
    write_labels(table, [{**video, "group": "x"}, {"file": "left/actor1_1.mp4", "label": "b", "group": ""}])
    refuse("either all videos have a group or none", clips, "--labels", table)
    write_labels(table, [video, {"file": "left/actor1_1.mp4", "label": "a"}])
    refuse("it has 1 class(es), and two are needed", clips, "--labels", table)
    refuse("cannot be read", clips, "--labels", tmp_path / "none.csv")

    (tmp_path / "file").write_text("")
    refuse("it is a file, not a folder", clips, out=tmp_path / "file")
    refuse("it cannot be written (Not a directory)", clips, out=tmp_path / "file" / "out")
    refuse("--lerning_rate: there is no such argument", clips, "--lerning_rate", 3)
    refuse("invalid float value: 'fast'", clips, "--learning_rate", "fast")
    refuse("--output_dir is not for `tubevit train`: give --out", clips, "--output_dir", tmp_path)
    refuse(
        "the recipe small is a closed form without --learning_rate", clips, "--recipe", "small", "--learning_rate", 1
    )
    refuse("the recipe small is a closed form without --mixup", clips, "--recipe", "small", "--mixup", 0.3)
    refuse("--dataloader_drop_last is not for `tubevit train`: it keeps the", clips, "--dataloader_drop_last", "True")
    refuse("--report_to nonsense: nonsense is not supported", clips, "--report_to", "nonsense")
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    refuse("--report_to wandb: WandbCallback requires wandb", clips, "--report_to", "wandb")
    refuse("there is no recipe 'tiny'", clips, "--recipe", "tiny")
    refuse("finds no group", clips, "--group-pattern", "person")
    refuse("must be above 0", clips, "--validation-share", 0)
    result = train("--learning_rate", 1, clips, "--from", tubevit, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "give FOLDER first" in result.output
    result = train(clips, "--from", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (result.exit_code, result.output.count("Error: ")) == (2, 1)


def test_a_second_start_wants_the_same_videos(fitted, clips, vit, tmp_path):
    out, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(fitted, out)
    shutil.copytree(clips, data)
    (data / "left" / "actor0_0.mp4").rename(data / "left" / "actor0_99.mp4")
    result = train(data, "--from", vit, "--out", out, *CLOSED)
    assert result.exit_code == 2
    assert "1 are new, left/actor0_99.mp4 the first" in result.output
    # what a user changed by hand holds, if no group is torn apart
    shutil.rmtree(out)
    out.mkdir()
    rows = read_splits(fitted)
    [torn, *_] = [row for row in rows if row["split"] == "validation"]
    torn["split"] = "train"
    write_labels(out / "splits.csv", rows)
    result = train(clips, "--from", vit, "--out", out, *CLOSED)
    assert result.exit_code == 2
    assert f"{torn['group']} (1 in train and 3 in validation)" in result.output


def test_arguments_are_listed():
    result = train("--list-arguments")
    assert result.exit_code == 0
    for name in ("--learning_rate", "--horizontal_flip", "--freeze_before", "--report_to"):
        assert name in result.output
