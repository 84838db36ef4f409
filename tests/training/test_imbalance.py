# SPDX-License-Identifier: Apache-2.0
"""Classes that count unlike: the loss in plain loops, sampling, and both on two processes."""

import math
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, List
from transformers import PreTrainedConfig, TrainingArguments

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset, JointDataset, TrainingClip, load_folder
from tubevit_hf.training import VideoTrainer, cache_frozen, inverse_frequencies
from tubevit_hf.training.losses import video_loss

from ..support.tiny import rows_of, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close
from .test_training_runs import TRAINING, assert_same_weights, digits, losses, run, start  # noqa: F401


WEIGHTS = torch.tensor([0.3, 1.0, 4.0])


def head(several: bool = False) -> PreTrainedConfig:
    problem_type = "multi_label_classification" if several else "single_label_classification"
    return PreTrainedConfig(num_labels=3, problem_type=problem_type)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["classes", "soft", "several"])
@pytest.mark.parametrize("num_items", [None, 10])
def test_the_weighted_loss_is_that_of_loops(kind, smoothing, num_items):
    logits = torch.randn(4, 3, dtype=torch.float64)
    if kind == "classes":
        labels = torch.tensor([2, 0, 0, 1])
        soft = torch.nn.functional.one_hot(labels, 3).double().tolist()
    elif kind == "soft":
        labels = torch.rand(4, 3, dtype=torch.float64).softmax(dim=1)
        soft = labels.tolist()
    else:
        labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
        soft = labels.tolist()
    found = video_loss(logits, labels, head(kind == "several"), smoothing, num_items, WEIGHTS)

    total = 0.0
    for row, wanted in zip(logits.tolist(), soft):
        for number, (logit, target) in enumerate(zip(row, wanted)):
            if kind == "several":
                target = target * (1 - smoothing) + smoothing / 2
                probability = 1 / (1 + math.exp(-logit))
                weighted = float(WEIGHTS[number]) * target * math.log(probability)
                total -= weighted + (1 - target) * math.log(1 - probability)
            else:
                target = target * (1 - smoothing) + smoothing / 3
                log_probability = logit - math.log(sum(map(math.exp, row)))
                total -= float(WEIGHTS[number]) * target * log_probability
    entries = (12 if kind == "several" else 4) if num_items is None else num_items
    assert found.item() == pytest.approx(total / entries, rel=1e-6)
    # alike weights change nothing
    plain = video_loss(logits, labels, head(kind == "several"), smoothing, num_items)
    alike = video_loss(logits, labels, head(kind == "several"), smoothing, num_items, torch.ones(3))
    assert_close(alike, plain, "float32")


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("num_items", [None, 7])
def test_clips_without_a_label_add_nothing(weights, smoothing, num_items):
    """Marked by -100, in a batch of 32-bit classes."""
    logits, labels = torch.randn(4, 3), torch.tensor([2, -100, 0, -100], dtype=torch.int32)
    found = video_loss(logits, labels, head(), smoothing, num_items, weights)
    expected = video_loss(logits[[0, 2]], torch.tensor([2, 0]), head(), smoothing, num_items, weights)
    assert_close(found, expected, "exact")


def test_inverse_frequencies():
    weights = inverse_frequencies(rows_of(["x"] * 12, [0] * 6 + [1] * 4 + [2] * 2))
    assert weights == pytest.approx([12 / 18, 12 / 12, 12 / 6])
    # 1 in the mean of the videos
    assert sum(weight * count for weight, count in zip(weights, (6, 4, 2))) == pytest.approx(12)
    names = List(ClassLabel(names=["a", "b", "c"]))
    weights = inverse_frequencies(rows_of(["x"] * 4, [[0, 1], [0], [], [0, 2]], names))
    assert weights == pytest.approx([1 / 3, 3, 3])
    with pytest.raises(ValueError, match="0 of 2 videos are of the class 'b'"):
        inverse_frequencies(rows_of(["x"] * 2, [0, 2]))


def make_trainer(rows, folder: Path, **arguments) -> VideoTrainer:
    trainer_arguments = {name: arguments.pop(name) for name in ("class_weights", "balanced") if name in arguments}
    torch.manual_seed(0)
    return VideoTrainer(
        model=TubeViTForVideoClassification(tiny_config(num_labels=3)),
        args=TrainingArguments(folder, use_cpu=True, remove_unused_columns=False, report_to="none", **arguments),
        train_dataset=ClipDataset(rows, TrainingClip(tiny_video_processor(), 7)),
        **trainer_arguments,
    )


def test_four_clips_accumulated_are_a_batch_of_four_whatever_they_weigh(videos, tmp_path):
    rows = rows_of(videos * 4, [0, 0, 1] * 2 + [2, 0, 0] * 2)
    shared = {
        "max_steps": 3,
        "learning_rate": 1e-3,
        "optim": "sgd",
        "balanced": True,
        "class_weights": [0.2, 1.0, 3.0],
    }
    batch = make_trainer(rows, tmp_path / "a", per_device_train_batch_size=4, **shared)
    split = make_trainer(rows, tmp_path / "b", per_device_train_batch_size=1, gradient_accumulation_steps=4, **shared)
    plain = make_trainer(rows, tmp_path / "c", per_device_train_batch_size=4, **{**shared, "class_weights": None})
    for trainer in (batch, split, plain):
        trainer.train()
    for (name, ours), theirs in zip(batch.model.named_parameters(), split.model.parameters()):
        assert_close(ours, theirs, "accumulated", name)
    assert not torch.equal(batch.model.classifier.weight, plain.model.classifier.weight)


def test_what_the_trainer_draws(videos, tmp_path):
    """As many clips of each class, from the frozen layers' copies too."""
    rows = rows_of(videos * 4, [0] * 9 + [1] * 2 + [2])
    trainer = make_trainer(rows, tmp_path / "out", balanced=True, per_device_train_batch_size=3)
    labels = torch.cat([batch["labels"] for batch in trainer.get_train_dataloader()])
    assert labels.bincount().tolist() == [4, 4, 4]
    model = TubeViTForVideoClassification(tiny_config(num_labels=3))
    model.freeze_before(2)
    clips = ClipDataset(rows, TrainingClip(tiny_video_processor(), 7, random_crop=True), copies=3)
    frozen = cache_frozen(model, clips, tmp_path / "frozen")
    frozen.set_epoch(0)
    with torch.no_grad():
        for index in (4, (4, 1), (11, 2)):
            expected = model.base_model.encode_frozen(clips[index]["pixel_values"][None])[0]
            assert_close(frozen[index]["frozen_output"], expected, "float32")


def test_what_cannot_be_balanced(videos, tmp_path):
    rows = rows_of(videos, [0, 1, 2])
    with pytest.raises(ValueError, match=r"a number above 0 for each of the 3 classes, got \[1.0, 2.0\]"):
        make_trainer(rows, tmp_path, class_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="a number above 0 for each of the 3 classes"):
        make_trainer(rows, tmp_path, class_weights=[1.0, 2.0, 0.0])
    several = rows_of(videos, [[0, 1], [1], [2]], List(ClassLabel(names=["a", "b", "c"])))
    with pytest.raises(ValueError, match="`balanced` needs one class a video"):
        make_trainer(several, tmp_path, balanced=True)
    clips = ClipDataset(rows, TrainingClip(tiny_video_processor(), 7), name="one")
    with pytest.raises(ValueError, match="are for one dataset; joint ones have `weights`"):
        VideoTrainer(
            model=TubeViTForVideoClassification(tiny_config(num_labels=3)),
            args=TrainingArguments(tmp_path, use_cpu=True, remove_unused_columns=False, report_to="none"),
            train_dataset=JointDataset([clips]),
            balanced=True,
        )


def test_two_processes_are_as_one(digits, start, tmp_path):  # noqa: F811
    """With classes of one to four clips."""
    folder = tmp_path / "unequal"
    for split in ("train", "validation"):
        for number, path in enumerate(sorted((digits / split).iterdir())):
            (folder / split / path.name).mkdir(parents=True)
            for video in sorted(path.iterdir())[: 1 + number % 4]:
                (folder / split / path.name / video.name).symlink_to(video)
    assert len(set(load_folder(folder)["train"]["label"])) == 11
    arguments = [*TRAINING, "--save_strategy", "no", "--data_dir", folder, "--config_name", start]
    arguments += ["--balanced", "--class_weights", "--random_crop", "--per_device_train_batch_size"]
    script = "run_video_classification.py"
    single = run(script, *arguments, 6, "--output_dir", tmp_path / "one")
    assert single.returncode == 0, single.stderr
    double = run(script, *arguments, 3, "--ddp_backend", "gloo", "--output_dir", tmp_path / "two", num_processes=2)
    assert double.returncode == 0, double.stderr
    assert_same_weights(tmp_path / "one", tmp_path / "two", "two_processes")
    assert_close(torch.tensor(losses(tmp_path / "two")), losses(tmp_path / "one"), "two_processes")
