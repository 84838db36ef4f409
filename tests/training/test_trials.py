# SPDX-License-Identifier: Apache-2.0
"""Trials of settings: what is chosen, what a stop leaves, what the budget is, and that no validation video is seen."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoVideoProcessor
from typer.testing import CliRunner

from tubevit_hf import TubeViTModel
from tubevit_hf.cli import app
from tubevit_hf.data import ClipDataset, EvaluationViews, TrainingClip
from tubevit_hf.data import clips as clips_module
from tubevit_hf.data.dividing import read_division
from tubevit_hf.data.labelled import load_labelled
from tubevit_hf.evaluation import predict_views
from tubevit_hf.training import (
    FEW_VIDEOS,
    TrainingDiverged,
    cache_frozen,
    fit_few_videos,
    from_folder,
    held_out,
    trials,
)
from tubevit_hf.training.trials import Budget, HeldOut, Setting, run_trials


optuna = pytest.importorskip("optuna", reason="the extra `tune` brings it")

SPACE = {
    "rate": Setting(1e-4, 1e-5, 1e-2, log=True),
    "steps": Setting(20, 5, 40),
    "smoothing": Setting(0.0, 0.0, 0.3, step=0.1),
    "mirror": Setting(True),
}


def loss_of(settings: dict) -> float:
    """Best at a rate of 3e-3 and without mirroring, where the defaults are not."""
    return (math.log10(settings["rate"]) + 2.5) ** 2 + settings["mirror"] + settings["smoothing"] / 10


def objective(settings: dict, attempt: trials.Attempt) -> HeldOut:
    return HeldOut(loss_of(settings), 0.5)


def without_time(found: trials.Trials) -> list[dict]:
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in found.tried]


# The search, without videos


def test_the_best_of_the_trials_is_chosen_and_the_defaults_are_one(tmp_path):
    found = run_trials(objective, SPACE, Budget(15), tmp_path, {}, seed=3)
    assert len(found.tried) == 15
    assert found.tried[0]["settings"] == {"rate": 1e-4, "steps": 20, "smoothing": 0.0, "mirror": True}
    losses = [loss_of(trial["settings"]) for trial in found.tried]
    assert [trial["loss"] for trial in found.tried] == losses
    assert found.chosen == found.tried[int(np.argmin(losses))]["settings"]
    assert found.best["loss"] < losses[0] - 1  # what was planted: without mirroring
    assert found.chosen["mirror"] is False
    assert json.loads((tmp_path / "trials.json").read_text()) == found.to_dict()
    # by Optuna alone
    study = optuna.load_study(study_name="tubevit", storage=f"sqlite:///{tmp_path}/trials.db")
    complete = [trial for trial in study.trials if "repeats" not in trial.user_attrs]
    assert [trial.value for trial in complete] == losses
    # every value can be typed, and is one that may be
    for trial in found.tried[1:]:
        settings = trial["settings"]
        assert 1e-5 <= settings["rate"] <= 1e-2 and settings["rate"] == float(f"{settings['rate']:.3g}")
        assert settings["steps"] in range(5, 41) and settings["smoothing"] in (0.0, 0.1, 0.2, 0.3)


def test_the_defaults_stay_if_nothing_is_better(tmp_path):
    found = run_trials(lambda settings, attempt: HeldOut(1.0), SPACE, Budget(4), tmp_path, {})
    assert found.best is found.tried[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.test_trials import SPACE, objective
from tubevit_hf.training.trials import Budget, run_trials

def killed(settings, attempt):
    if (number := attempt.trial.number) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return objective(settings, attempt)

run_trials(killed, SPACE, Budget(9), Path(sys.argv[1]), {}, seed=1)
"""


def test_a_killed_search_goes_on_with_the_same_trials(tmp_path):
    whole = run_trials(objective, SPACE, Budget(9), tmp_path / "whole", {}, seed=1)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed"])
    assert killed.returncode == -signal.SIGKILL
    table = json.loads((tmp_path / "killed" / "trials.json").read_text())
    assert [trial["settings"] for trial in table["tried"]] == [trial["settings"] for trial in whole.tried[:5]]
    calls = []

    def counted(settings, attempt):
        calls.append(settings)
        # the second time it is stopped by hand
        if len(calls) == 2:
            raise KeyboardInterrupt
        return objective(settings, attempt)

    with pytest.raises(KeyboardInterrupt):
        run_trials(counted, SPACE, Budget(9), tmp_path / "killed", {}, seed=1)
    found = run_trials(counted, SPACE, Budget(9), tmp_path / "killed", {}, seed=1)
    assert without_time(found) == without_time(whole)
    assert len(calls) == 4 + 1
    # at its end nothing is tried again
    assert run_trials(counted, SPACE, Budget(9), tmp_path / "killed", {}, seed=1) == found
    assert len(calls) == 5
    # and a larger budget goes on
    more = run_trials(objective, SPACE, Budget(11), tmp_path / "killed", {}, seed=1)
    assert (more.tried[:9], len(more.tried)) == (found.tried, 11)


class Clock:
    """Instead of `time`."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_minutes_are_of_all_starts_together(tmp_path, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(trials, "time", clock)
    calls = []

    def slow(settings, attempt):
        """Forty seconds in steps of ten."""
        calls.append(settings)
        for _ in range(4):
            clock.now += 10
            attempt.tick()
        if len(calls) == 3:
            raise KeyboardInterrupt
        return objective(settings, attempt)

    with pytest.raises(KeyboardInterrupt):
        run_trials(slow, SPACE, Budget(minutes=3), tmp_path, {})
    assert "About 4 trial(s) in 3 minutes" in capsys.readouterr().out
    clock.now += 10_000  # overnight
    found = run_trials(slow, SPACE, Budget(minutes=3), tmp_path, {})
    # two before, two after; the fifth was stopped in its third step, 190 seconds from the begin, and does not count
    assert [trial["seconds"] for trial in found.tried] == [40] * 4
    assert len(calls) == 3 + 3
    assert clock.now == 120 + 10_000 + 80 + 30
    assert run_trials(slow, SPACE, Budget(minutes=3), tmp_path, {}) == found
    # whichever is over first
    assert len(run_trials(slow, SPACE, Budget(2, 3), tmp_path / "two", {}).tried) == 2
    # the defaults are tried in any case
    found = run_trials(slow, SPACE, Budget(minutes=0.1), tmp_path / "short", {})
    assert [trial["seconds"] for trial in found.tried] == [40]


def test_what_is_hopeless_is_given_up_and_never_chosen(tmp_path):
    ended = []

    def reported(settings, attempt):
        loss = loss_of(settings)
        # seen early as if it were better than all others ever are
        for step in range(5):
            attempt.report(step, loss - 100 if settings["mirror"] else loss - 200 + 300 * (step > 0))
        ended.append(settings)
        return HeldOut(loss if settings["mirror"] else loss + 100)

    found = run_trials(reported, SPACE, Budget(12), tmp_path, {})
    assert [trial["settings"] for trial in found.tried if trial["state"] == "complete"] == ended
    pruned = [trial for trial in found.tried if trial["state"] == "pruned"]
    assert pruned and all(trial["loss"] is None for trial in pruned)
    # three are left to their end before any is given up
    assert all(trial["state"] == "complete" for trial in found.tried[:3])
    assert found.best["state"] == "complete" and found.chosen["mirror"]


def test_a_loss_that_is_no_longer_finite_is_hopeless_too(tmp_path):
    def fails(settings, attempt):
        if settings["mirror"]:
            raise TrainingDiverged("broken")
        return HeldOut(loss_of(settings) if settings["steps"] > 20 else math.nan)

    found = run_trials(fails, SPACE, Budget(8), tmp_path, {})
    assert found.tried[0]["state"] == "pruned"
    assert not found.chosen["mirror"] and found.chosen["steps"] > 20
    space = {"mirror": Setting(True, False)}
    with pytest.raises(ValueError, match="none of 1 trials came to an end"):
        run_trials(fails, space, Budget(1), tmp_path / "none", {})


def test_the_same_settings_are_not_tried_again(tmp_path):
    calls = []

    def counted(settings, attempt):
        calls.append(settings["mirror"])
        return HeldOut(float(settings["mirror"]))

    found = run_trials(counted, {"mirror": Setting(True)}, Budget(10), tmp_path, {})
    assert calls == [True, False]
    assert found.chosen == {"mirror": False}


def test_other_trials_are_not_mixed_up(tmp_path):
    run_trials(objective, SPACE, Budget(1), tmp_path, {"source": "a", "seed": 1})
    with pytest.raises(ValueError, match=r"holds trials of another seed, another space\. Remove it"):
        run_trials(objective, {"rate": SPACE["rate"]}, Budget(1), tmp_path, {"source": "a", "seed": 2})
    (tmp_path / "trials.db").write_text("no database at all" * 100)
    with pytest.raises(ValueError, match="its trials cannot be read"):
        run_trials(objective, SPACE, Budget(1), tmp_path, {})


def test_any_path_will_do(tmp_path):
    folder = tmp_path / "is it? 100% #1"
    folder.mkdir()
    found = run_trials(objective, SPACE, Budget(2), folder, {})
    assert sorted(path.name for path in folder.iterdir()) == ["trials.db", "trials.json"]
    assert run_trials(objective, SPACE, Budget(2), folder, {}) == found


@pytest.mark.parametrize("several", [False, True])
def test_the_score_is_the_mean_log_loss(several):
    rng = np.random.default_rng(0)
    counts = rng.uniform(0.5, 2, 7)
    scores = rng.dirichlet(np.ones(3), 7)
    labels = rng.integers(0, 2, (7, 3)) if several else rng.integers(0, 3, 7)
    found = held_out.score(torch.tensor(scores), torch.tensor(labels), torch.tensor(counts))
    total = right = 0.0
    for row, label, count in zip(scores, labels, counts):
        if several:
            total -= sum(math.log(one if there else 1 - one) for one, there in zip(row, label)) / 21
        else:
            total -= count * math.log(row[label]) / counts.sum()
            right += count * (row.argmax() == label) / counts.sum()
    assert found.loss == pytest.approx(total)
    assert found.accuracy is None if several else found.accuracy == pytest.approx(right)


# Whole runs


def train(*arguments: object):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def opened(monkeypatch) -> list[tuple[bool, str]]:
    """Whether trials were under way, and which video was opened, by whatever makes clips."""
    found, under_way = [], []

    def spy(function):
        def told(video, *arguments, **kwargs):
            found.append((bool(under_way), os.path.realpath(video)))
            return function(video, *arguments, **kwargs)

        return told

    def spied_trials(*arguments, **kwargs):
        under_way.append(True)
        try:
            return run_trials(*arguments, **kwargs)
        finally:
            under_way.clear()

    for name in ("VideoReader", "read_video"):
        monkeypatch.setattr(clips_module, name, spy(getattr(clips_module, name)))
    monkeypatch.setattr(from_folder, "run_trials", spied_trials)
    return found


def videos_of(out: Path, folder: Path) -> dict[str, set[str]]:
    rows = load_labelled(folder)
    parts = read_division(out / "splits.csv", rows).select(rows)
    return {split: {os.path.realpath(path) for path in part["video"]} for split, part in parts.items()}


def test_in_closed_form_what_the_defaults_get_wrong_is_found(clips, vit, tmp_path, opened):
    """The classes are left and right, and by default clips are mirrored."""
    out = tmp_path / "out"
    arguments = [clips, "--from", vit, "--out", out, "--copies", 5, "--color_jitter", 0.0, "--bf16", "False"]
    result = train(*arguments, "--trials", 4)
    assert result.exit_code == 0, result.output
    assert "4 trials, about " in result.output
    assert "Chosen: --no-mirror" in result.output
    table, results = (json.loads((out / name).read_text()) for name in ("trials.json", "results.json"))
    assert results["trials"] == table
    assert len(table["tried"]) == 4
    complete = [trial for trial in table["tried"] if trial["state"] == "complete"]
    assert table["best"] == min(complete, key=lambda trial: trial["loss"])
    assert table["defaults"]["settings"] == {"horizontal_flip": True, "crop_scale": 0.4, "time_scale": 0.7}
    assert table["best"]["loss"] < table["defaults"]["loss"] and table["best"]["accuracy"] > 0.7
    # what was given stays, and what was chosen is trained with
    used = json.loads((out / "run_arguments.json").read_text())
    assert (used["copies"], used["color_jitter"]) == (5, 0.0)
    assert {name: used[name] for name in table["chosen"]} == table["chosen"]
    assert used["eval_mirror"] is False and used["trials"] == 4
    card = (out / "README.md").read_text()
    page = (out / "report.html").read_text()
    for text in ("Settings were chosen by 4 trial(s)", "The validation videos were in none of these trials"):
        assert text in card and text in page
    # trials saw every training video, and no other
    videos = videos_of(out, clips)
    assert {path for under_way, path in opened if under_way} == videos["train"]
    assert {path for under_way, path in opened if not under_way} >= videos["validation"]
    assert not (out / "trials").exists() and not (out / "frozen").exists()

    # the same command does nothing again, another budget is refused, and so is a run without
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    opened.clear()
    result = train(*arguments, "--trials", 4)
    assert result.exit_code == 0 and "nothing is trained again" in result.output
    assert not opened
    for other in (["--trials", 7], ["--trials", 4, "--trial-minutes", 1], []):
        result = train(*arguments, *other)
        assert result.exit_code == 2
        assert "holds a finished run with other arguments: " in result.output, result.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_a_trial_of_the_closed_form_by_hand(clips, vit, tmp_path):
    """Fitted to two thirds, of which groups are held out, and asked of the others as the pipeline sees them."""
    out = tmp_path / "out"
    arguments = [clips, "--from", vit, "--out", out, "--copies", 3, "--no-mirror", "--bf16", "False"]
    result = train(*arguments, "--trials", 1)
    assert result.exit_code == 0, result.output
    [tried] = json.loads((out / "trials.json").read_text())["tried"]

    rows = load_labelled(clips)
    division = read_division(out / "splits.csv", rows)
    rows, groups = division.select(rows)["train"], division.groups_of("train")
    processor = AutoVideoProcessor.from_pretrained(out / "converted", num_frames=8)
    model = FEW_VIDEOS.start(TubeViTModel.from_pretrained(out / "converted"))
    load = TrainingClip(processor, 8, random_crop=True, crop_scale=(0.4, 1.0), time_scale=0.7, color_jitter=0.4)
    folds = held_out.hold_out_folds(rows, groups, 42)
    assert sorted(index for fold in folds for index in fold) == list(range(len(rows)))
    frozen = cache_frozen(model, ClipDataset(rows, load, seed=42, copies=3), tmp_path / "frozen")
    views, losses, right = EvaluationViews(processor, 8), [], 0
    for fold in folds:
        inner = [index for index in range(len(rows)) if index not in fold]
        assert not {groups[index] for index in inner} & {groups[index] for index in fold}
        fitted, _ = fit_few_videos(model, frozen.select(inner), [groups[index] for index in inner])
        for index in fold:
            with torch.no_grad():
                scores = predict_views(fitted, views(rows[index]["video"])[None])[0]
            losses.append(-math.log(scores[rows[index]["label"]]))
            right += int(scores.argmax() == rows[index]["label"])
    assert tried["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
    assert tried["accuracy"] == right / len(rows)


@pytest.fixture(scope="module")
def shades(tmp_path_factory) -> Path:
    """Light and dark videos, two of each actor, to be learned by gradients within seconds."""
    from tubevit_hf.data.moving_digits import write_video

    folder = tmp_path_factory.mktemp("shades") / "videos"
    rng = np.random.default_rng(0)
    for name, least in (("dark", 0), ("light", 150)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            frames = rng.integers(least, least + 100, (12, 40, 56, 3), dtype=np.uint8)
            write_video(folder / name / f"actor{number % 10}_{number}.mp4", frames, frames_per_second=10)
    return folder


@pytest.mark.parametrize("kept", [True, False], ids=["frozen layers run once", "all layers"])
def test_by_gradients_a_learning_rate_that_is_too_low_is_found(kept, shades, vit, tubevit, tmp_path, opened):
    out = tmp_path / "out"
    arguments = [shades, "--from", vit if kept else tubevit, "--out", out, "--recipe", "gradients"]
    arguments += ["--bf16", "False", "--num_train_epochs", 4, "--weight_decay", 0.02]
    arguments += ["--copies", 2] if kept else ["--mirror"]
    result = train(*arguments, "--trials", 4, "--seed", 3)
    assert result.exit_code == 0, result.output
    table = json.loads((out / "trials.json").read_text())
    names = ["learning_rate", "label_smoothing_factor", "dropout"]
    assert all(list(trial["settings"]) == names for trial in table["tried"])
    assert table["defaults"]["settings"]["learning_rate"] == 1e-4
    assert table["best"]["loss"] < table["defaults"]["loss"]
    assert table["chosen"]["learning_rate"] > 1e-4
    used = json.loads((out / "run_arguments.json").read_text())
    assert (used["num_train_epochs"], used["weight_decay"]) == (4, 0.02)
    assert {name: used[name] for name in names} == table["chosen"]
    # to the end of its schedule: the validation videos choose no epoch
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == 16
    measured = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(measured) == 4
    assert json.loads((out / "results.json").read_text())["metrics"]["loss"] == pytest.approx(measured[-1], rel=1e-4)
    videos = videos_of(out, shades)
    assert {path for under_way, path in opened if under_way} == videos["train"]
    assert not (out / "trials").exists()


def test_each_bad_input_is_one_line(clips, vit, tmp_path, monkeypatch):
    def refuse(message: str, *arguments: object, folder: Path = clips) -> None:
        out = tmp_path / f"{folder.name}-out"
        result = train(folder, "--from", vit, "--out", out, *arguments)
        assert result.exit_code == 2, result.output
        assert result.output.count("Error: ") == 1
        assert message in result.output.splitlines()[-1], result.output
        assert not (out / "results.json").exists()

    refuse("--trials must be at least 1, got 0", "--trials", 0)
    refuse("--trial-minutes must be above 0, got -1.0", "--trial-minutes", -1)
    refuse("--trial-minutes must be above 0, got nan", "--trial-minutes", "nan")
    given = ["--crop_scale", 0.5, "--time_scale", 0.5, "--color_jitter", 0.1]
    refuse("all settings that trials would try are given", "--trials", 2, "--no-mirror", *given)
    refuse("all settings that trials would try are given", "--trials", 2, "--mirror", *given)
    refuse("`crop_scale` must be two shares", "--trials", 2, "--crop_scale", 1.5)

    def few(number: int, name: str) -> Path:
        folder = tmp_path / name
        for label in ("left", "right"):
            (folder / label).mkdir(parents=True)
            for path in sorted((clips / label).iterdir())[:number]:
                (folder / label / path.name).symlink_to(path)
        return folder

    refuse("trials hold out some of the training videos again, which are too few", "--trials", 2, folder=few(3, "few"))
    refuse(
        *("trials hold out some of the training videos again", "--trials", 2, "--recipe", "gradients"),
        *("--group-pattern", r"actor(\d)", "--validation-share", 0.5),
        folder=few(4, "four"),
    )
    monkeypatch.setitem(sys.modules, "optuna", None)
    refuse('optuna is not installed: `pip install "tubevit_hf[tune]"` brings it.', "--trials", 2)
