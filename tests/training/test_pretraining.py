# SPDX-License-Identifier: Apache-2.0
"""`tubevit pretrain`: from videos without labels to a model; what it learns, what a stop leaves, what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoConfig, AutoModel, TrainingArguments, pipeline
from typer.testing import CliRunner

from tubevit_hf import TubeViTForPreTraining, TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.cli import app
from tubevit_hf.data import ClipDataset, EvaluationViews, TrainingClip
from tubevit_hf.data.moving_digits import write_video
from tubevit_hf.training import find_checkpoint, frozen
from tubevit_hf.training.frozen import FrozenCacheMismatch
from tubevit_hf.training.objectives import FeatureObjective, LogitObjective, Mask, PixelObjective
from tubevit_hf.training.pretrainer import PretrainingTrainer, WatchCallback, find_warnings
from tubevit_hf.training.taught_clips import cache_targets

from ..support.stopping import run_until_killed, stop_at
from ..support.tiny import SMALL_TUBES, randomize, tiny_config, tiny_video_processor, vit_classifier
from ..support.tolerances import assert_close


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
SIZE = (7, 40, 56)
EPOCHS = ["--num_train_epochs", 2, "--bf16", "False"]


def pretrain(*arguments: object):
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


def command(*arguments: object, stop: Sequence[str] = ()) -> list[str]:
    return [sys.executable, *stop, "-m", "tubevit_hf.cli", "pretrain", *map(str, arguments)]


def read_record(out: Path) -> dict:
    return json.loads((out / "pretraining.json").read_text())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """An image classifier whose weights are wide enough that its tokens differ, of another normalisation."""
    folder = tmp_path_factory.mktemp("source") / "teacher"
    randomize(vit_classifier(), std=0.3).save_pretrained(folder)
    settings = {"image_mean": [0.4, 0.45, 0.6], "image_std": [0.2, 0.3, 0.25]}
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videomae(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "videomae"
    config = transformers.VideoMAEConfig(
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=24,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        id2label={0: "still", 1: "left", 2: "right", 3: "up"},
    )
    randomize(transformers.VideoMAEForVideoClassification(config), std=0.5).save_pretrained(folder)
    transformers.VideoMAEVideoProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tubes(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("tubes") / "tubes.json"
    file.write_text(json.dumps(SMALL_TUBES))
    return file


@pytest.fixture(scope="module")
def start(clips, teacher) -> list[object]:
    """What each run begins with; tubes are the default ones."""
    return [clips, "--from", teacher, "--num_frames", 8, *EPOCHS]


@pytest.fixture(scope="module")
def pretrained(start, tmp_path_factory) -> Path:
    """What a run leaves that learned features."""
    out = tmp_path_factory.mktemp("pretrained") / "out"
    settings = ["--num_train_epochs", 25, "--learning_rate", 5e-3, "--patience", 25, "--copies", 1]
    settings += ["--per_device_train_batch_size", 8, "--validation-share", 0.3]
    result = pretrain(*start, "--out", out, *settings)
    assert result.exit_code == 0, result.output
    (out.parent / "output.txt").write_text(result.output)
    return out


# Whole runs


def test_videos_and_an_image_vit_are_enough(pretrained, clips):
    output = (pretrained.parent / "output.txt").read_text()
    record = read_record(pretrained)
    assert "28 videos train, 12 are held out: by group, as the names tell." in output
    assert "700 clips of 17 tokens, at most about" in output
    assert "of the teacher, which sees 8 of its 8 frames, " in output
    assert f"tubevit train LABELLED_VIDEOS --from {pretrained}" in output
    # actors are on one side
    held_out = {Path(file).name.split("_")[0] for file in record["held_out"]}
    assert len(record["held_out"]) == 12 and len(held_out) == 3
    assert record["tokens"] == 17 and record["size"] == [8, 32, 32]

    # it learns what it did not see, of the mean and of the change
    metrics, before = record["metrics"], record["start"]
    assert metrics["loss"] < 0.9 * before["loss"]
    assert metrics["baseline_error"] == before["baseline_error"]
    assert metrics["explained"] == pytest.approx(1 - metrics["error"] / metrics["baseline_error"])
    assert metrics["explained_mean"] > 0.15 and metrics["explained_change"] > 0.15
    # heads begin fitted to what the model gives before it is trained
    assert 0.3 < before["explained"] < metrics["explained"]
    assert record["warnings"] == []
    history = json.loads((pretrained / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 25 and losses[-1] < 0.9 * losses[0]
    assert (pretrained / "training_curves.png").stat().st_size > 10_000
    # what the teacher said is for a run that is not finished
    assert not (pretrained / "teacher").exists()


def test_the_result_is_a_plain_model(pretrained, clips, tmp_path):
    model, information = AutoModel.from_pretrained(pretrained, output_loading_info=True)
    assert type(model) is TubeViTModel and model.config.pretraining is None
    assert not information["unexpected_keys"] and not information["missing_keys"]
    assert "pretraining" not in json.loads((pretrained / "config.json").read_text())
    # the weights are those of the best checkpoint, whose heads are left out
    checkpoint = json.loads((pretrained / "trainer_state.json").read_text())["best_model_checkpoint"]
    trained = TubeViTForPreTraining.from_pretrained(checkpoint)
    for name, tensor in trained.tubevit.state_dict().items():
        assert_close(model.state_dict()[name], tensor, "exact", name)
    card = (pretrained / "README.md").read_text()
    assert "Trained without labels on 28 videos" in card and "| explained_change |" in card
    # and `tubevit train` begins with it
    arguments = ["--from", pretrained, "--out", tmp_path / "out", "--recipe", "gradients", *EPOCHS]
    result = CliRunner().invoke(app, ["train", *map(str, [clips, *arguments, "--eval_clips", 1, "--eval_crops", 1])])
    assert result.exit_code == 0, result.output
    assert AutoConfig.from_pretrained(tmp_path / "out").num_labels == 2


def test_a_finished_run_is_not_run_again(pretrained, start):
    before = {path: path.stat().st_mtime_ns for path in pretrained.rglob("*") if path.is_file()}
    settings = ["--num_train_epochs", 25, "--learning_rate", 5e-3, "--patience", 25, "--copies", 1]
    settings += ["--per_device_train_batch_size", 8, "--validation-share", 0.3]
    result = pretrain(*start, "--out", pretrained, *settings)
    assert result.exit_code == 0, result.output
    assert "is finished; nothing is trained again" in result.output
    assert {path: path.stat().st_mtime_ns for path in pretrained.rglob("*") if path.is_file()} == before
    result = pretrain(*start, "--out", pretrained, *settings, "--mask-ratio", 0.3)
    assert result.exit_code == 2
    assert "holds a finished run with other arguments: mask_ratio was None and is 0.3" in result.output


@pytest.mark.parametrize("kind", ["videomae", "teacher"])
def test_logits_make_a_classifier(kind, clips, start, tmp_path, request):
    """Of a video model, and of one of images."""
    source, out = request.getfixturevalue(kind), tmp_path / "out"
    settings = ["--targets", "logits", "--teacher", source, "--learning_rate", 5e-3, "--num_train_epochs", 6]
    result = pretrain(*start, "--out", out, *settings)
    assert result.exit_code == 0, result.output
    record = read_record(out)
    assert record["metrics"]["loss"] < 0.8 * record["start"]["loss"]
    model = TubeViTForVideoClassification.from_pretrained(out)
    names = AutoConfig.from_pretrained(source).id2label
    assert model.config.id2label == names
    classify = pipeline("video-classification", model=str(out))
    answers = classify(str(next(clips.rglob("*.mp4"))))
    assert {answer["label"] for answer in answers} <= set(names.values())


def test_hidden_pixels(start, tubes, tmp_path):
    """Of tubes of one's own."""
    out = tmp_path / "out"
    settings = ["--targets", "pixels", "--tubes", tubes, "--learning_rate", 3e-3, "--num_train_epochs", 6]
    result = pretrain(*start, "--out", out, *settings)
    assert result.exit_code == 0, result.output
    record = read_record(out)
    assert record["teacher"] is None
    assert record["metrics"]["loss"] < record["start"]["loss"]
    assert type(AutoModel.from_pretrained(out)) is TubeViTModel


def test_a_tubevit_with_a_teacher(clips, pretrained, videomae, tmp_path):
    """It keeps its tubes; some of it is hidden."""
    out = tmp_path / "out"
    arguments = ["--from", pretrained, "--teacher", videomae, "--out", out, "--mask-ratio", 0.4, *EPOCHS]
    result = pretrain(clips, *arguments, "--num_train_epochs", 1)
    assert result.exit_code == 0, result.output
    assert AutoConfig.from_pretrained(out).resolved_tubes == AutoConfig.from_pretrained(pretrained).resolved_tubes


@pytest.mark.parametrize(
    "settings",
    [["--copies", 2], ["--targets", "pixels", "--gradient_accumulation_steps", 2]],
    ids=["features", "pixels"],
)
def test_killed_runs_end_with_the_same_bytes(settings, start, tmp_path):
    arguments = [*start, *settings, "--num_train_epochs", 3, "--per_device_train_batch_size", 6]
    whole = subprocess.run(
        command(*arguments, "--out", tmp_path / "whole"), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "killed"
    # an epoch of three steps is saved, and another begun; where steps are halved, these are six
    line = command(*arguments, "--out", out, stop=stop_at("transformers:Trainer.training_step", 8))
    run_until_killed(line, ENVIRONMENT)
    assert find_checkpoint(out) is not None
    assert not (out / "pretraining.json").exists()
    last = subprocess.run(command(*arguments, "--out", out), env=ENVIRONMENT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    found, expected = read_record(out), read_record(tmp_path / "whole")
    for name in ("metrics", "start", "steps", "warnings", "held_out"):
        assert found[name] == expected[name], name


def test_it_ends_where_nothing_is_gained(start, tmp_path):
    """With a learning rate of nothing, patience 1 is two epochs. Another folder of videos does not go on with it."""
    out = tmp_path / "out"
    settings = ["--learning_rate", 1e-30, "--num_train_epochs", 9, "--patience", 1, "--out", out]
    result = pretrain(*start, *settings)
    assert result.exit_code == 0, result.output
    record = read_record(out)
    assert record["steps"] == 6
    [warning] = [warning for warning in record["warnings"] if "no lower than before the first step" in warning]
    assert warning in result.output and warning in (out / "README.md").read_text()
    (out / "pretraining.json").unlink()
    fewer = tmp_path / "fewer"
    shutil.copytree(start[0] / "left", fewer)
    result = pretrain(fewer, *start[1:], *settings)
    assert result.exit_code == 2
    assert "is of a run with other arguments: videos was '40, " in result.output.splitlines()[-1]


def test_arguments_are_listed():
    result = pretrain("--list-arguments")
    assert result.exit_code == 0
    for name in ("--learning_rate", "--horizontal_flip", "--mask_ratio", "--report_to"):
        assert name in result.output
    assert "--freeze_before" not in result.output


# What is learned


class States:
    """A teacher of given states."""

    # tokens that end before frame 3 have no change
    num_features, positions, grid = 3, [3.0, 5.0], (1, 2, 2)

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.states = torch.randn(5, 2, 2, 2, 2, 3, generator=generator) + torch.tensor([5.0, 0, -1])

    def __call__(self, pixel_values):
        return self.states[: len(pixel_values)]


def make_features(ratio: float = 0.0) -> FeatureObjective:
    resolved = tiny_config().resolved_tubes
    return FeatureObjective(States(), resolved, SIZE, Mask(resolved, SIZE, ratio))


def test_features_are_standardised():
    """In loops over clips, tokens, layers and features."""
    objective = make_features()
    raw = objective.make_targets(torch.zeros(5, *SIZE))
    clips, tokens, layers, features = raw.shape
    assert (clips, layers, features) == (5, 2, 6)
    objective.fit([raw[:3], raw[3:]])
    inputs, targets = objective.prepare(torch.zeros(5, *SIZE), raw, torch.Generator())
    assert_close(inputs["targets"], targets, "exact")
    baseline = objective.statistics["baseline"]
    has_change = [token for token in range(tokens) if any(raw[:, token, :, 3:].flatten() != 0)]
    assert 0 < len(has_change) < tokens
    for layer in range(layers):
        for feature in range(features):
            values = [float(raw[clip, token, layer, feature]) for clip in range(clips) for token in range(tokens)]
            if feature < 3:
                center = sum(values) / len(values)
                scale = (sum((value - center) ** 2 for value in values) / len(values)) ** 0.5
            else:
                center = 0.0
                scale = (sum(value**2 for value in values) / (clips * len(has_change))) ** 0.5
            for clip, token in ((0, 1), (4, tokens - 1), (2, 10)):
                expected = (float(raw[clip, token, layer, feature]) - center) / scale
                assert_close(targets[clip, token, layer, feature], torch.tensor(expected), "float32")
                mean = sum(float(targets[other, token, layer, feature]) for other in range(clips)) / clips
                assert_close(baseline[token, layer, feature], torch.tensor(mean), "float32")

    # errors of a student and of the baseline
    predictions = torch.randn(targets.shape, generator=torch.Generator().manual_seed(2))
    found = objective.errors({"predictions": predictions}, (batch := SimpleNamespace(inputs={}, targets=targets)))
    for clip in range(clips):
        for number, guess in enumerate((predictions[clip], baseline)):
            squares = ((guess - targets[clip]) ** 2).tolist()
            means = [squares[t][k][f] for t in range(tokens) for k in range(layers) for f in range(3)]
            changes = [squares[t][k][f] for t in has_change for k in range(layers) for f in range(3, 6)]
            assert_close(found[clip, 0, number], torch.tensor(sum(means) / len(means)), "float32")
            assert_close(found[clip, 1, number], torch.tensor(sum(changes) / len(changes)), "float32")
    # whoever predicts the baseline explains nothing
    guess = objective.errors({"predictions": baseline.expand_as(targets)}, batch)
    assert_close(guess[..., 0], guess[..., 1], "float32")


def test_targets_of_hidden_tokens_only():
    objective = make_features(ratio=0.5)
    raw = objective.make_targets(torch.zeros(5, *SIZE))
    objective.fit([raw])
    inputs, targets = objective.prepare(torch.zeros(5, *SIZE), raw, torch.Generator().manual_seed(0))
    hidden = inputs["target_tokens"]
    assert not set(hidden.tolist()) & set(inputs["visible_tokens"].tolist())
    whole = make_features()
    whole.statistics = objective.statistics
    every = whole.prepare(torch.zeros(5, *SIZE), raw, torch.Generator()).targets
    assert_close(targets, every[:, hidden], "exact")


def test_divergence_of_logits():
    objective = LogitObjective(lambda pixel_values: pixel_values, temperature=3.0)
    generator = torch.Generator().manual_seed(0)
    teacher, student = (4 * torch.randn(3, 5, generator=generator) for _ in range(2))
    objective.fit([teacher[:2], teacher[2:]])

    def softmax(logits: list[float]) -> list[float]:
        powers = [np.exp(logit / 3) for logit in logits]
        return [power / sum(powers) for power in powers]

    wanted, given = ([softmax(row) for row in logits.tolist()] for logits in (teacher, student))
    mean = [sum(row[k] for row in wanted) / 3 for k in range(5)]
    of_student, of_mean = (
        [9 * sum(p * np.log(p / q) for p, q in zip(row, guess)) for row, guess in zip(wanted, guesses)]
        for guesses in (given, [mean] * 3)
    )
    batch = objective.prepare(teacher, None, torch.Generator())
    found = objective.errors({"logits": student}, batch)
    assert_close(found[:, 0], torch.tensor([of_student, of_mean]).T.float(), "float32")
    assert_close(
        objective.loss({"logits": student}, batch.targets), torch.tensor(np.mean(of_student)).float(), "float32"
    )


# The Trainer


def make_trainer(folder: Path, videos: list[str], objective=None, **settings) -> PretrainingTrainer:
    config = tiny_config(pretraining={"target": "pixels", "decoder_layers": 1})
    resolved = config.resolved_tubes
    if objective is None:
        objective = PixelObjective(resolved, [2, 8, 8], Mask(resolved, SIZE, 0.5))
    torch.manual_seed(0)
    model = randomize(TubeViTForPreTraining(config), std=0.1)
    rows = Dataset.from_dict({"video": videos * 2})
    arguments = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "logging_steps": 1,
        **settings,
    }
    trainer = PretrainingTrainer(
        model=model,
        args=TrainingArguments(folder, **arguments),
        train_dataset=ClipDataset(rows, TrainingClip(tiny_video_processor(), 7, random_crop=True)),
        eval_dataset=ClipDataset(rows, EvaluationViews(tiny_video_processor(), 7)),
        objective=objective,
    )
    objective.fit([objective.make_targets(torch.stack([trainer.eval_dataset[0]["pixel_values"][0]]))])
    return trainer


def test_accumulated_batches_make_the_same_step(videos, tmp_path, monkeypatch):
    """Were the mean of each batch not shared among those of a step, it would be twice as long."""
    # every batch hides the same
    monkeypatch.setattr(np.random, "SeedSequence", lambda place: SimpleNamespace(generate_state=lambda n: [3]))
    trained = []
    for settings in ({}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}):
        trainer = make_trainer(tmp_path, videos, max_steps=1, **settings)
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        trained.append(trainer.model.state_dict())
    for name, tensor in trained[0].items():
        assert_close(trained[1][name], tensor, "accumulated", name)
    assert any(not torch.equal(before[name], trained[0][name]) for name in before)


def test_evaluations_hide_the_same(videos, tmp_path):
    trainer = make_trainer(tmp_path, videos)
    first, second = trainer.measure_start(), trainer.measure_start()
    measured = [name for name in first if not name.endswith(("time", "per_second"))]
    assert {name: first[name] for name in measured} == {name: second[name] for name in measured}
    assert 0 < first["eval_token_variety"] < 1


def test_a_collapse_is_told(videos, tmp_path, caplog):
    trainer = make_trainer(tmp_path, videos)
    start = trainer.measure_start()
    trainer.add_callback(WatchCallback(start))
    trainer.evaluate()
    assert "collapses" not in caplog.text
    for tube in trainer.model.tubevit.embeddings.tubes:
        # no pixel counts any more
        torch.nn.init.zeros_(tube.weight)
    transformers.utils.logging.enable_propagation()
    metrics = trainer.evaluate()
    transformers.utils.logging.disable_propagation()
    assert metrics["eval_token_variety"] < 1e-6
    assert "The student collapses: tokens of different clips became alike." in caplog.text


def test_warnings_wait_for_the_first_epoch():
    start = {"eval_loss": 0.6, "eval_token_variety": 0.4}
    entry = {"eval_loss": 0.5, "eval_explained": -0.1, "eval_token_variety": 0.3, "epoch": 0.5}
    assert find_warnings([], start) == find_warnings([{"loss": 1.0}, entry], start) == []
    [warning] = find_warnings([{**entry, "epoch": 1.0}], start)
    assert "explains nothing of held-out clips yet" in warning
    # or for the end of a shorter training
    assert find_warnings([entry], start, has_ended=True) == [warning]
    good = {
        "eval_loss": 0.5,
        "eval_explained": 0.1,
        "eval_explained_change": 0.05,
        "eval_token_variety": 0.3,
        "epoch": 2.0,
    }
    assert find_warnings([{**entry, "epoch": 1.0}, good], start) == []
    [warning] = find_warnings([{**good, "eval_explained_change": -0.01}], start)
    assert "explains nothing yet of how features change" in warning
    [warning] = find_warnings([{**good, "eval_token_variety": 0.019}], start)
    assert "collapses" in warning
    [warning] = find_warnings([good, {**good, "eval_loss": 0.6}], start)
    assert "no lower than before the first step" in warning
    assert find_warnings([{**good, "eval_loss": 0.6}, good], start) == []


# What the teacher says, kept


def test_kept_targets_are_those_of_the_clips(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "SHARD_SIZE", 4)
    objective = make_features()
    weights = torch.nn.Linear(3, 2)

    class Teacher(States):
        """States that depend on the clip."""

        name, model = "teacher", weights

        def __call__(self, pixel_values):
            corners = pixel_values[:, :2, :, :2, :2].permute(0, 1, 3, 4, 2)
            return torch.stack([corners, 2 * corners], dim=1)

    objective.teacher = objective.ask = Teacher()
    rows = Dataset.from_dict({"video": videos})
    clips = ClipDataset(rows, TrainingClip(tiny_video_processor(), 7, random_crop=True), seed=3, copies=2)
    arguments = (objective, clips, tmp_path, torch.device("cpu"), 100)
    taught = cache_targets(*arguments)
    assert [path.name for path in sorted(tmp_path.glob("*.npy"))] == ["clips-00000.npy", "clips-00001.npy"]
    for epoch in (0, 1, 2):
        taught.set_epoch(epoch)
        for row in range(3):
            found = taught[row]
            assert found["targets"].dtype == torch.float16
            pixel_values = clips.get_clip(row, epoch)["pixel_values"]
            assert_close(found["pixel_values"], pixel_values, "exact")
            expected = objective.make_targets(pixel_values[None])[0]
            assert_close(found["targets"].float(), expected, "float16")
    # nothing is computed again, nor mixed with what another teacher said
    objective.ask = None
    cache_targets(*arguments)
    torch.nn.init.zeros_(weights.weight)
    with pytest.raises(FrozenCacheMismatch, match="what the teacher says of the clips with another teacher's weights"):
        cache_targets(*arguments)


# What is refused


def write_clip(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, frames_per_second=10)


def test_each_bad_input_is_one_line(clips, start, teacher, tubes, pretrained, videomae, tmp_path):
    def refuse(message: str, folder: Path, *arguments: object) -> None:
        out = tmp_path / "out"
        result = pretrain(folder, *start[1:], "--out", out, *arguments)
        assert result.exit_code == 2, result.output
        assert result.output.count("Error: ") == 1
        assert message in result.output.splitlines()[-1], result.output
        assert not (out / "pretraining.json").exists() and not list(out.glob("checkpoint-*"))
        shutil.rmtree(out, ignore_errors=True)

    (tmp_path / "empty").mkdir()
    refuse("it holds no videos", tmp_path / "empty")
    refuse("there is no such folder", tmp_path / "nowhere")
    rng = np.random.default_rng(0)
    moving = rng.integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    for number in range(3):
        picture = rng.integers(0, 255, (1, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        write_clip(tmp_path / "still" / f"{number}.mp4", picture.repeat(12, 0))
        write_clip(tmp_path / "same" / f"{number}.mp4", moving)
        write_clip(tmp_path / "short" / f"{number}.mp4", moving[number : number + 3])
    refuse("nothing changes in any of 3 videos that were looked at", tmp_path / "still")
    refuse("3 videos that were looked at are all the same", tmp_path / "same")
    refuse("the longest of its 3 videos has 3 frame(s), and a tube of the model sees 4", tmp_path / "short")
    write_clip(tmp_path / "one" / "0.mp4", moving)
    refuse("there is one video, and none is left to hold out", tmp_path / "one")
    few = ["--tubes", tubes, "--num_frames", 4]
    refuse("is too short or small for the tube that sees 4x4x6 from [1, 2, 4]: give more", clips, *few)

    refuse("is a TubeViT, which cannot teach itself", clips, "--from", pretrained, "--tubes", tubes)
    refuse("which has its own tubes", clips, "--from", pretrained, "--teacher", teacher, "--tubes", tubes)
    refuse("--targets pixels has no teacher", clips, "--targets", "pixels", "--teacher", teacher)
    refuse("needs a --mask_ratio above 0", clips, "--targets", "pixels", "--mask-ratio", 0)
    refuse("--mask_ratio hides tokens", clips, "--targets", "logits", "--mask-ratio", 0.5)
    refuse("`mask_ratio` must be from 0 to below 1, got 1.0", clips, "--mask-ratio", 1)
    refuse("--depths must be shares of the layers", clips, "--depths", 0, 1)
    refuse("are the layers [2, 2] of 2", clips, "--depths", 0.9, 1)
    refuse("the share of held-out videos must be above 0", clips, "--validation-share", 0)
    refuse("`temperature` must be above 0", clips, "--targets", "logits", "--temperature", 0)
    refuse("cannot be read", clips, "--teacher", tmp_path / "nowhere")
    refuse("--lerning_rate: there is no such argument; `tubevit pretrain --help`", clips, "--lerning_rate", 3)
    refuse("--output_dir is not for `tubevit pretrain`", clips, "--output_dir", tmp_path)
    refuse("--push_to_hub is not for `tubevit pretrain`", clips, "--push_to_hub", "True")
    frames = tmp_path / "frames.json"
    frames.write_text(json.dumps(SMALL_TUBES[2:]))
    refuse("all its tubes see single frames", clips, "--tubes", frames)
    model = TubeViTModel(tiny_config(joint_layer=1))
    model.save_pretrained(tmp_path / "joint")
    tiny_video_processor().save_pretrained(tmp_path / "joint")
    result = pretrain(clips, "--from", tmp_path / "joint", "--teacher", teacher, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "its first 1 layers see single frames" in result.output
    model.config.joint_layer, model.config.freeze_before = 0, 1
    model.save_pretrained(tmp_path / "joint")
    result = pretrain(clips, "--from", tmp_path / "joint", "--teacher", teacher, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "its layers before 1 are frozen" in result.output


def test_a_teacher_that_fails_is_told_before_the_training(clips, start, videomae, tmp_path, monkeypatch):
    arguments = [*start, "--teacher", videomae, "--out", tmp_path / "out"]
    answer = transformers.VideoMAEModel.forward

    def broken(self, *args, **kwargs):
        outputs = answer(self, *args, **kwargs)
        outputs.last_hidden_state[0, 0, 0] = float("nan")
        return outputs

    monkeypatch.setattr(transformers.VideoMAEModel, "forward", broken)
    result = pretrain(*arguments)
    assert result.exit_code == 2 and "the teacher gives numbers that are not finite" in result.output
    config = AutoConfig.from_pretrained(videomae, num_channels=4)
    broken_model = transformers.VideoMAEForVideoClassification(config)
    shutil.copytree(videomae, tmp_path / "four")
    broken_model.save_pretrained(tmp_path / "four")
    monkeypatch.undo()
    result = pretrain(*start, "--teacher", tmp_path / "four", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "the teacher cannot read clips of 8x32x32" in result.output


def test_no_room_for_what_the_teacher_says(start, tmp_path, monkeypatch):
    free = SimpleNamespace(f_bavail=10, f_frsize=512)
    monkeypatch.setattr(frozen.os, "statvfs", lambda folder: free)
    result = pretrain(*start, "--out", tmp_path / "out", "--copies", 3)
    assert result.exit_code == 2
    assert "what the teacher says of the clips takes 0.0 GB" in result.output.splitlines()[-1]


def test_a_loss_that_is_no_longer_finite_ends_in_one_line(start, tmp_path):
    result = pretrain(*start, "--out", tmp_path / "out", "--learning_rate", 1e30, "--max_grad_norm", 0)
    assert result.exit_code == 2
    assert "no longer finite" in result.output.splitlines()[-1] or "The loss is nan" in result.output.splitlines()[-1]
