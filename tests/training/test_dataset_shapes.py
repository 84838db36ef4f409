# SPDX-License-Identifier: Apache-2.0
"""Datasets of other shapes than a `ClipDataset`: each trains, is evaluated and predicted rightly, or gets one line."""

import logging

import pytest
import torch
from datasets import ClassLabel, Dataset, List
from torch.utils.data import ConcatDataset, IterableDataset, Subset, random_split
from transformers import AutoConfig, AutoModelForVideoClassification

from tubevit_hf.data import ClipDataset, EvaluationViews, JointDataset, TrainingClip, collate_clips
from tubevit_hf.training import TubeViTForJointClassification, VideoTrainer, cache_frozen

from ..support.modeling_cases import assert_all_close
from ..support.tiny import rows_of, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close
from .test_trainer_arguments import CLASSES, losses, make_arguments, make_rows, make_trainer, new_model


class Watched(ClipDataset):
    """Notes which clip was made of which row."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def __getitem__(self, index):
        clip = super().__getitem__(index)
        self.seen.append((index, round(clip["pixel_values"].double().sum().item(), 3)))
        return clip


@pytest.fixture
def rows(videos) -> Dataset:
    return rows_of(videos * 2, [0, 1, 2, 2, 1, 0])


def make_clips(rows, kind=ClipDataset, **settings) -> ClipDataset:
    clip = TrainingClip(tiny_video_processor(), 7, random_crop=True, crop_scale=(0.2, 0.5))
    return kind(rows, clip, **settings)


@pytest.mark.parametrize("shape", ["subset", "split", "concatenated", "nested", "own"])
def test_wrapped_clips_are_other_clips_in_each_epoch(shape, rows, tmp_path):
    """As of the dataset itself: each row comes once an epoch, and its clip is that of row and epoch."""

    class Own(torch.utils.data.Dataset):
        """A wrapper of a user's."""

        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            return self.dataset[index]

    clips = make_clips(rows, Watched)
    wrapped = {
        "subset": lambda: Subset(clips, [0, 2, 4]),
        "split": lambda: random_split(clips, [4, 2])[0],
        "concatenated": lambda: ConcatDataset([clips, make_clips(rows.select([0]))]),
        "nested": lambda: Subset(ConcatDataset([Subset(clips, [1, 3]), clips]), [0, 1, 2]),
        "own": lambda: Own(clips),
    }[shape]()
    trainer = make_trainer(tmp_path, init={"train_dataset": wrapped}, max_steps=-1, num_train_epochs=3)
    trainer.train()
    per_epoch = len(clips.seen) // 3
    assert per_epoch == {"subset": 3, "split": 4, "concatenated": 6, "nested": 3, "own": 6}[shape]
    alone = make_clips(rows)
    for epoch in range(3):
        alone.set_epoch(epoch)
        for index, total in clips.seen[epoch * per_epoch : (epoch + 1) * per_epoch]:
            assert total == round(alone[index]["pixel_values"].double().sum().item(), 3)
    assert len({total for index, total in clips.seen if index == clips.seen[0][0]}) >= 3
    assert trainer.model.config.problem_type == "single_label_classification"


def test_what_is_read_of_clips_is_read_through_wrappers(videos, rows, tmp_path):
    """Several labels, clips of different lengths, frozen layers' caches, names of heads."""
    several = rows_of(videos, [[0, 1], [1], [2]], List(ClassLabel(names=["a", "b", "c"])))
    trainer = make_trainer(tmp_path, init={"train_dataset": Subset(make_clips(several), [0, 1]), "mixup": 0.2})
    assert trainer.model.config.problem_type == "multi_label_classification"

    padded = ClipDataset(rows, TrainingClip(tiny_video_processor(), 7, fps=10, short_clips="pad"))
    with pytest.raises(ValueError, match='`mixup` blends clips of one length, and `short_clips="pad"`'):
        make_trainer(tmp_path, init={"train_dataset": ConcatDataset([padded]), "mixup": 0.2})

    model = new_model()
    model.freeze_before(1)
    frozen = cache_frozen(model, make_clips(rows, copies=2), tmp_path / "frozen")
    with pytest.raises(ValueError, match="`pack` is for clips"):
        make_trainer(tmp_path, init={"model": model, "train_dataset": Subset(frozen, [0, 1]), "pack": True})
    make_trainer(tmp_path, init={"model": model, "train_dataset": Subset(frozen, [0, 1])}).train()

    one, other = make_clips(rows, name="one"), make_clips(rows, name="other")
    with pytest.raises(ValueError, match="need a JointDataset, got a ConcatDataset"):
        make_trainer(tmp_path, init={"train_dataset": ConcatDataset([one, other])})
    with pytest.raises(ValueError, match=r"`balanced` needs a ClipDataset or FrozenClips.*got a Subset"):
        make_trainer(tmp_path, init={"train_dataset": Subset(one, [0]), "balanced": True})


def test_joint_datasets_of_wrapped_ones(rows, tmp_path):
    """A head each; for evaluation each by itself, by the head of its name."""
    one, other = make_clips(rows, Watched, name="one"), make_clips(rows, Watched, name="other")
    heads = {"one": {"labels": ["a", "b", "c"]}, "other": {"labels": ["a", "b", "c", "d"]}}
    model = TubeViTForJointClassification(tiny_config(num_hidden_layers=1, heads=heads))
    joint = JointDataset([Subset(one, [0, 1, 2]), ConcatDataset([other, other])])
    assert len(joint) == 3 + 12
    trainer = make_trainer(
        tmp_path,
        init={"model": model, "train_dataset": joint, "eval_dataset": joint},
        max_steps=-1,
        num_train_epochs=4,
    )
    trainer.train()
    assert {index for index, _ in one.seen} == {0, 1, 2}
    assert len({total for index, total in other.seen if index == 0}) >= 3
    metrics = trainer.evaluate()
    assert {"eval_one_top_1_accuracy", "eval_other_top_1_accuracy"} <= metrics.keys()
    with pytest.raises(ValueError, match="a row of a JointDataset is a name and a number, got 0"):
        trainer.predict(joint)
    with pytest.raises(ValueError, match="two of the joint datasets have the name 'one'"):
        JointDataset([one, Subset(one, [0])])
    with pytest.raises(ValueError, match="each of the joint datasets needs a `name`"):
        JointDataset([ConcatDataset([one, other])])


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows, self.epoch, self.epochs = rows, None, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.epochs.append(self.epoch)
        yield from self.rows


def test_streams(tmp_path):
    """In their own order, epoch after epoch, also of Datasets; evaluated and predicted as rows are."""
    stream = Stream(make_rows())
    trainer = make_trainer(tmp_path, init={"train_dataset": stream, "mixup": 0.0}, max_steps=9)
    trainer.train()
    assert len(losses(trainer)) == 9
    # seven rows in batches of two are four steps
    assert stream.epochs == [0, 1, 2]
    by_rows = make_trainer(tmp_path, train_sampling_strategy="sequential", max_steps=9)
    by_rows.train()
    assert_all_close(dict(trainer.model.named_parameters()), dict(by_rows.model.named_parameters()), "float32")
    found = trainer.predict(Stream(make_rows(5)))
    expected = by_rows.predict(make_rows(5))
    assert_close(torch.from_numpy(found.predictions), torch.from_numpy(expected.predictions), "probability")
    assert trainer.evaluate(Stream(make_rows(5)))["eval_loss"] == pytest.approx(by_rows.evaluate()["eval_loss"])
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        make_trainer(tmp_path, init={"train_dataset": stream}, max_steps=-1)

    rows = [
        {**row, "pixel_values": row["pixel_values"].tolist(), "labels": int(row["labels"])} for row in make_rows(4)
    ]
    of_datasets = Dataset.from_list(rows).to_iterable_dataset().with_format("torch")
    make_trainer(tmp_path, init={"train_dataset": of_datasets}, max_steps=3).train()


@pytest.mark.parametrize("how", ["set", "with"])
def test_transformed_rows_are_as_clips(how, rows, tmp_path):
    """With the labels called as in the column."""
    views = EvaluationViews(tiny_video_processor(), 7)

    def transform(batch):
        return {"pixel_values": [views(video)[0] for video in batch["video"]], "label": batch["label"]}

    transformed = rows.with_transform(transform)
    if how == "set":
        transformed = rows.select(range(len(rows)))
        transformed.set_transform(transform)
    with pytest.raises(ValueError, match=r"`remove_unused_columns` takes .*video from the rows before"):
        make_trainer(tmp_path, init={"train_dataset": transformed})
    with pytest.raises(ValueError, match="`remove_unused_columns` takes"):
        make_trainer(tmp_path).predict(transformed)
    settings = {"remove_unused_columns": False, "max_steps": 3}
    trainer = make_trainer(tmp_path, init={"train_dataset": transformed, "mixup": 0.2}, **settings)
    trainer.train()
    assert trainer.model.config.problem_type == "single_label_classification"
    as_list = [transformed[index] for index in range(len(rows))]
    by_list = make_trainer(tmp_path, init={"train_dataset": as_list, "mixup": 0.2}, **settings)
    by_list.train()
    assert losses(trainer) == pytest.approx(losses(by_list))
    assert trainer.evaluate(transformed)["eval_top_1_accuracy"] == by_list.evaluate(as_list)["eval_top_1_accuracy"]


def test_rows_that_are_no_clips_get_one_line(rows, tmp_path):
    with pytest.raises(ValueError, match=r"rows with the columns .*video.* are no clips: give `ClipDataset\(rows"):
        make_trainer(tmp_path, init={"train_dataset": rows})
    with pytest.raises(ValueError, match="are no clips"):
        make_trainer(tmp_path, init={"eval_dataset": {"all": Subset(rows, [0])}})
    with pytest.raises(ValueError, match="are no clips"):
        make_trainer(tmp_path).evaluate(rows)
    plain = make_trainer(tmp_path, init={"train_dataset": [{"video": "a.mp4", "label": 0}] * 4})
    with pytest.raises(ValueError, match="a clip needs `pixel_values`, got only label"):
        plain.train()
    # a collator may make clips of them
    given = {"train_dataset": rows, "data_collator": lambda some: None}
    make_trainer(tmp_path, init=given, remove_unused_columns=False)


def test_clips_that_make_no_batch_get_one_line(rows, tmp_path):
    clips, views = make_clips(rows), ClipDataset(rows, EvaluationViews(tiny_video_processor(), 7))
    with pytest.raises(ValueError, match=r"a dataset mixes clips and views, .* got 0, 1 views"):
        make_trainer(tmp_path, init={"eval_dataset": {"all": ConcatDataset([views, clips])}})
    # each by itself is right
    make_trainer(tmp_path, init={"eval_dataset": {"views": views, "clips": clips}})
    small = [{"pixel_values": torch.randn(7, 3, *size)} for size in ((40, 56), (40, 40))]
    with pytest.raises(ValueError, match=r"number of frames alone, got the shapes \(7, 3, 40, 40\), \(7, 3, 40, 56\)"):
        collate_clips(small)


def test_rows_without_labels_are_predicted(tmp_path):
    """Of lists, and of datasets by name; to train on they get one line."""
    labelled = make_rows(5)
    rows = [{"pixel_values": row["pixel_values"]} for row in labelled]
    trainer = make_trainer(tmp_path)
    found, expected = trainer.predict(rows), trainer.predict(labelled)
    assert found.label_ids is None
    assert (found.predictions == expected.predictions).all()
    assert "test_loss" not in found.metrics and "test_loss" in expected.metrics
    assert "eval_a_loss" not in trainer.evaluate({"a": rows, "b": labelled})
    with pytest.raises(ValueError, match="clips to train on need `labels`, got only pixel_values"):
        make_trainer(tmp_path, init={"train_dataset": rows}).train()
    with pytest.raises(ValueError, match="some clips of the batch have labels and others have none"):
        trainer.predict([*rows, *labelled])


def test_clips_of_rows_without_labels_are_predicted(rows, tmp_path):
    labelled, unlabelled = make_clips(rows), make_clips(rows.remove_columns("label"))
    trainer = make_trainer(tmp_path)
    found, expected = trainer.predict(unlabelled), trainer.predict(labelled)
    assert found.label_ids is None and (found.predictions == expected.predictions).all()
    with pytest.raises(ValueError, match=r"`train_dataset` needs labels, and its rows have only \['video'\]"):
        make_trainer(tmp_path, init={"train_dataset": Subset(unlabelled, [0])})


def score(model, clips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(clips).logits.softmax(dim=-1)


@pytest.mark.parametrize("kind", ["clips", "views", "images", "padded"])
def test_clips_and_images_are_one_view(kind, monkeypatch, tmp_path):
    """Told from views by their axes, whatever the batch."""
    shape = {"clips": (7, 3, 40, 56), "views": (2, 7, 3, 40, 56), "images": (3, 40, 56), "padded": (7, 3, 40, 56)}[
        kind
    ]
    pixels = list(torch.randn(5, *shape))
    if kind == "padded":
        pixels = [clip[:length] for clip, length in zip(pixels, (7, 3, 5, 7, 4))]
    labels = torch.arange(5) % CLASSES
    rows = [{"pixel_values": clip, "labels": label} for clip, label in zip(pixels, labels)]
    # images are meant here
    monkeypatch.setattr(logging.Logger, "warning_once", lambda logger, text: pytest.fail(text), raising=False)
    trainer = make_trainer(tmp_path, init={"eval_dataset": rows}, per_device_eval_batch_size=2)
    with torch.no_grad():
        # one by one
        views = [clip if kind == "views" else clip[None] for clip in pixels]
        expected = torch.stack([score(trainer.model, clips).mean(dim=0) for clips in views])
    assert_close(torch.from_numpy(trainer.predict(rows).predictions), expected, "probability")
    found = trainer.evaluate()
    loss = [-expected[index, label].log() for index, label in enumerate(labels.tolist())]
    # the Trainer's mean is over batches, of which the last is smaller
    batches = [torch.stack(loss[start : start + 2]).mean() for start in (0, 2, 4)]
    weighted = sum(batch * size for batch, size in zip(batches, (2, 2, 1))) / 5
    assert found["eval_loss"] == pytest.approx(weighted.item(), rel=1e-3)
    assert found["eval_top_1_accuracy"] == pytest.approx((expected.argmax(dim=-1) == labels).double().mean().item())


def test_training_clips_for_evaluation(rows, tmp_path):
    """Also of the cache of frozen layers, and beside views under another name."""
    clips = make_clips(rows)
    views = ClipDataset(rows, EvaluationViews(tiny_video_processor(), 7, num_clips=2))
    model = new_model()
    model.freeze_before(1)
    frozen = cache_frozen(model, make_clips(rows, copies=1), tmp_path / "frozen")
    trainer = make_trainer(tmp_path, init={"model": model, "eval_dataset": {"clips": clips, "views": views}})
    of_clips = torch.stack([clips[index]["pixel_values"] for index in range(6)])
    for dataset, expected in (
        (clips, score(model, of_clips)),
        (frozen, score(model, of_clips)),
        (views, torch.stack([score(model, views[index]["pixel_values"]).mean(dim=0) for index in range(6)])),
    ):
        found = torch.from_numpy(trainer.predict(dataset).predictions)
        assert_close(found, expected, "probability")
    metrics = trainer.evaluate()
    assert {"eval_clips_loss", "eval_views_loss"} <= metrics.keys()
    assert trainer.evaluate()["eval_clips_loss"] == metrics["eval_clips_loss"]
    # of views frozen layers give one axis more
    with torch.no_grad():
        several = [
            {"frozen_output": model.base_model.encode_frozen(views[index]["pixel_values"])} for index in range(6)
        ]
    assert_close(torch.from_numpy(trainer.predict(several).predictions), expected, "probability")


def test_models_that_call_clips_otherwise(rows, tmp_path):
    """V-JEPA 2 takes `pixel_values_videos`; columns that it does not know are taken away by default."""
    config = AutoConfig.for_model(
        "vjepa2",
        crop_size=32,
        patch_size=8,
        frames_per_clip=4,
        tubelet_size=2,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=1,
        mlp_ratio=2.0,
        num_pooler_layers=1,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        num_labels=CLASSES,
    )
    torch.manual_seed(0)
    model = AutoModelForVideoClassification.from_config(config).eval()
    clips = torch.randn(4, 4, 3, 32, 32)
    rows = [{"pixel_values": clip, "labels": torch.tensor(index % CLASSES)} for index, clip in enumerate(clips)]
    kept = []

    def metrics(prediction):
        kept.append(prediction.inputs.shape)
        return {}

    trainer = VideoTrainer(
        model,
        make_arguments(tmp_path, include_num_input_tokens_seen="all", include_for_metrics=["inputs"], max_steps=2),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=metrics,
        mixup=0.2,
    )
    with torch.no_grad():
        expected = model(pixel_values_videos=clips).logits.softmax(dim=-1)
    assert_close(torch.from_numpy(trainer.predict(rows).predictions), expected, "probability")
    trainer.train()
    assert trainer.state.num_input_tokens_seen == clips.numel()
    assert kept == [(4, 4, 3, 32, 32)]
