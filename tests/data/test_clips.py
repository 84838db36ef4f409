# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Clips, batches, views, metrics, losses and recipes: what training is made of."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from torch import nn
from torch.utils.data import DataLoader
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.video_utils import VideoMetadata

from tubevit_hf import TubeViTConfig, TubeViTForJointClassification, TubeViTForVideoClassification, read_video
from tubevit_hf.data import (
    AnnotationError,
    ClipDataset,
    EvaluationViews,
    JointBatches,
    ShuffledBatches,
    TrainingClip,
    collate_clips,
    drop_unreadable,
    get_names,
    holds_images,
    load_by_name,
    load_folder,
)
from tubevit_hf.data.clips import make_sampler, spatial_crops
from tubevit_hf.evaluation import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy, predict_views
from tubevit_hf.training import RECIPES
from tubevit_hf.training.trainer import video_loss

from ..support.tiny import randomize, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close


def rows_of(videos: list[str], labels: list, label: ClassLabel | List | None = None) -> Dataset:
    features = Features({"video": Value("string"), "label": label or ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"video": videos, "label": labels}, features=features)


# Clips


def augmented() -> TrainingClip:
    processor = tiny_video_processor()
    return TrainingClip(processor, 4, fps=5, random_crop=True, horizontal_flip=True, rand_augment=(2, 10))


def all_clips(dataset: ClipDataset, num_workers: int) -> torch.Tensor:
    loader = DataLoader(dataset, 2, collate_fn=collate_clips, num_workers=num_workers)
    return torch.cat([batch["pixel_values"] for batch in loader])


def test_clips_depend_on_seed_epoch_and_row_alone(videos):
    rows = rows_of(videos, [0, 2, 1])
    dataset = ClipDataset(rows, augmented(), seed=1)
    first = all_clips(dataset, num_workers=0)
    state = torch.get_rng_state()
    assert all_clips(dataset, num_workers=2).equal(first)
    torch.manual_seed(5)
    assert dataset[2]["pixel_values"].equal(first[2])
    # nor is the generator of whoever asks moved
    torch.set_rng_state(state)
    dataset[0]
    assert torch.get_rng_state().equal(state)

    dataset.set_epoch(1)
    second = all_clips(dataset, num_workers=0)
    assert not second.equal(first)
    assert not all_clips(ClipDataset(rows, augmented(), seed=2), num_workers=0).equal(first)


def test_workers_that_stay_learn_of_the_epoch(videos):
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), augmented())
    loader = DataLoader(dataset, 3, collate_fn=collate_clips, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        [batch] = loader
        assert batch["pixel_values"].equal(all_clips(dataset, num_workers=0))


def test_all_frames_of_a_clip_are_augmented_alike(videos):
    """A still clip stays one."""
    still = TrainingClip(tiny_video_processor(), 4, random_crop=True, horizontal_flip=True, rand_augment=(2, 10))
    frames, _ = read_video(videos[0], [3, 3, 3, 3])
    for seed in range(20):
        torch.manual_seed(seed)
        clip = still.augment(frames)
        assert clip.equal(clip[:1].expand_as(clip))


def test_labels(videos):
    clip = TrainingClip(tiny_video_processor(), 4)
    assert ClipDataset(rows_of(videos, [0, 2, 1]), clip)[1]["labels"].equal(torch.tensor(2))
    several = rows_of(videos, [[0, 2], [], [1]], List(ClassLabel(names=["a", "b", "c"])))
    batch = collate_clips([ClipDataset(several, clip)[index] for index in range(3)])
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert batch["pixel_values"].shape == (3, 4, 3, 40, 56)


def test_views_are_crops_of_spaced_clips(videos):
    processor = tiny_video_processor()
    views = EvaluationViews(processor, 4, fps=5, num_clips=2, num_crops=3)(videos[0])
    assert views.shape == (6, 4, 3, 40, 56)
    arguments = {"num_frames": 4, "fps": 5, "frame_sampling": "spaced", "num_clips": 2}
    uncropped = processor(videos[0], **arguments, do_center_crop=False, return_tensors="pt")["pixel_values"]
    _, _, _, height, width = uncropped.shape
    assert width > 56
    number = 0
    for left in (0, round((width - 56) / 2), width - 56):
        for clip in uncropped:
            top = round((height - 40) / 2)
            assert views[number].equal(clip[:, :, top : top + 40, left : left + 56])
            number += 1


@pytest.mark.parametrize(("total", "num_clips"), [(300, 4), (29, 2), (7, 3), (5, 4), (1, 2)])
def test_views_of_all_of_a_video_lie_between_each_other(total, num_clips):
    """Frames as far apart as those that the model is trained on."""
    metadata = VideoMetadata(total_num_frames=total, fps=25, video_backend="pyav")
    clips = make_sampler(7, None, "spaced", num_clips)(metadata).reshape(num_clips, 7)
    training = make_sampler(7, None, "random")(metadata)
    assert clips[0].tolist() == training.tolist()
    in_between = clips.T.reshape(-1)
    assert (np.diff(in_between) >= 0).all()
    assert (np.diff(in_between) <= np.ceil(total / (7 * num_clips))).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrainingClip(tiny_video_processor(), 0), "`num_frames` must be at least 1.*got 0"),
        (lambda: TrainingClip(tiny_video_processor(), 4, fps=-3.0), "`fps` above 0, got 4 and -3.0"),
        (lambda: TrainingClip(tiny_video_processor(), 4, rand_augment=[2]), r"two numbers.*got \[2\]"),
        (lambda: EvaluationViews(tiny_video_processor(), 4, num_clips=0), "at least 1, got 0 and 1"),
        (lambda: EvaluationViews(tiny_video_processor(), 4, num_crops=-1), "at least 1, got 1 and -1"),
    ],
)
def test_impossible_clips(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_single_view_is_what_the_pipeline_sees(videos):
    processor = tiny_video_processor()
    [view] = EvaluationViews(processor, 7)(videos[1])
    assert view.equal(processor(videos[1], num_frames=7, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("size", [(44, 90), (90, 44), (44, 44)])
def test_crops_lie_along_the_axis_with_more_to_spare(size):
    """Of a video that is narrower than a crop too: then as the processor crops and pads it."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    frames = torch.from_numpy(np.stack((rows, columns, rows + columns))).to(torch.uint8).expand(4, -1, -1, -1)
    processor = tiny_video_processor(do_normalize=False, do_rescale=False)
    crops = spatial_crops(frames, (40, 56), 3)
    height, width = size
    if width - 56 >= height - 40:
        expected = [frames[..., left : left + 56] for left in (0, round(max(0, width - 56) / 2), max(0, width - 56))]
    else:
        expected = [frames[..., top : top + 40, :] for top in (0, round((height - 40) / 2), height - 40)]
    for crop, ours in zip(crops, expected):
        assert crop.equal(ours)
    middle = processor(crops[1], do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    whole = processor(frames, do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    assert middle.equal(whole)


# Batches


@pytest.mark.parametrize("num_rows", [1, 5, 12, 13, 14, 15, 24])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_every_row_comes_once_on_any_number_of_processes(num_rows, num_processes):
    if num_rows < num_processes:
        with pytest.raises(ValueError, match="too few for"):
            ShuffledBatches(num_rows, 4, 0, 0, num_processes)
        return
    processes = [list(ShuffledBatches(num_rows, 4, 7, index, num_processes)) for index in range(num_processes)]
    assert Counter(row for batches in processes for batch in batches for row in batch) == Counter(range(num_rows))
    # all take part in each step
    assert len({len(batches) for batches in processes}) == 1
    assert all(batch for batches in processes for batch in batches)
    assert len(processes[0]) == len(ShuffledBatches(num_rows, 4, 7, 0, num_processes))
    # together they are the larger batches of one process
    if num_rows % (4 * num_processes) == 0:
        [single] = [list(ShuffledBatches(num_rows, 4 * num_processes, 7))]
        assert [set().union(*step) for step in zip(*processes)] == [set(batch) for batch in single]


def test_epochs_have_orders_of_their_own():
    batches = ShuffledBatches(40, 4)
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    assert list(ShuffledBatches(40, 4, seed=1)) != first


@pytest.mark.parametrize("num_processes", [1, 2])
def test_joint_batches_are_of_one_dataset_by_weight(num_processes):
    lengths, weights = {"clips": 30, "pictures": 370}, {"clips": 3.0, "pictures": 1.0}
    batches = [
        batch for index in range(num_processes) for batch in JointBatches(lengths, weights, 2, 0, index, num_processes)
    ]
    assert len(batches) == 200
    names = Counter()
    rows = Counter()
    for batch in batches:
        [name] = {name for name, _ in batch}
        names[name] += 1
        rows.update(batch)
    # 150 expected, six standard deviations of sqrt(200 * 3/16)
    assert abs(names["clips"] - 150) < 37
    # a dataset that is gone through several times is gone through evenly
    seen = [rows["clips", index] for index in range(30)]
    assert max(seen) - min(seen) <= 1
    with pytest.raises(ValueError, match="`weights` must give each of clips, pictures a share above 0"):
        JointBatches(lengths, {"clips": 1.0}, 2)


def test_joint_batches_of_two_processes_are_a_batch_of_one():
    """And so of the same dataset: sharded models have to train the same parameters at each step."""
    lengths, weights = {"clips": 30, "pictures": 70}, {"clips": 3.0, "pictures": 1.0}
    whole = list(JointBatches(lengths, weights, 4, 5))
    parts = zip(*(list(JointBatches(lengths, weights, 2, 5, index, 2)) for index in range(2)))
    assert [sorted(first + second) for first, second in parts] == [sorted(batch) for batch in whole]


# Where data lies


def write_folder(folder: Path, files: list[str], **splits: list[str]) -> Path:
    for split, classes in splits.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / Path(files[0]).name).symlink_to(files[0])
    return folder


def test_class_folders(tmp_path, videos):
    splits = load_folder(write_folder(tmp_path, videos, train=["run", "fall"], validation=["fall", "run"]))
    assert get_names(splits["train"]) == ["fall", "run"]
    assert not holds_images(splits["train"])
    assert ClipDataset(splits["train"], TrainingClip(tiny_video_processor(), 4))[0]["pixel_values"].shape[0] == 4


def test_names_of_folders_mean_no_split(tmp_path, videos):
    """Classes may be called like splits, their videos lie deeper, be links, or of any format that FFmpeg reads."""
    classes = ["training dog", "validation", "dev"]
    folder = write_folder(tmp_path, videos, train=classes, validation=classes)
    (folder / "train" / "dev" / "deeper").mkdir()
    (folder / "train" / "dev" / "deeper" / "b.webm").symlink_to(videos[1])
    (folder / "train_extra" / "dev").mkdir(parents=True)
    (folder / "train_extra" / "dev" / "c.mp4").symlink_to(videos[1])
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "d.mp4").symlink_to(videos[2])
    for split in ("train", "validation"):
        (folder / split / "linked").symlink_to(folder / "elsewhere")
    splits = load_folder(folder)
    assert get_names(splits["train"]) == ["dev", "linked", "training dog", "validation"]
    assert splits["train"]["label"][:] == [0, 0, 1, 2, 3]
    assert splits["validation"]["label"][:] == [0, 1, 2, 3]
    assert all(f"/{split}/" in row["video"] for split in splits for row in splits[split])


def test_class_folders_of_images(tmp_path, images):
    splits = load_folder(write_folder(tmp_path, images, train=["cat", "dog"], validation=["cat", "dog"]))
    assert holds_images(splits["train"])
    # an image is a clip of one frame
    clip = ClipDataset(splits["train"], TrainingClip(tiny_video_processor(), 1))[0]["pixel_values"]
    assert clip.shape == (1, 3, 40, 56)


def test_folders_that_lack_something(tmp_path, videos):
    with pytest.raises(AnnotationError, match=r"train: it holds 0 folder\(s\) of classes"):
        load_folder(tmp_path)
    folder = write_folder(tmp_path / "a", videos, train=["run", "fall", "jump"], validation=["jump", "fall"])
    with pytest.raises(AnnotationError, match=r"the splits have other classes.*one of the two has: run"):
        load_folder(folder)
    (folder / "train" / "run" / Path(videos[0]).name).unlink()
    with pytest.raises(AnnotationError, match=r"run: it holds no videos"):
        load_folder(folder)


def test_datasets_on_disk(tmp_path, videos):
    DatasetDict(train=rows_of(videos, [0, 1, 2]), validation=rows_of(videos, [0, 1, 2])).save_to_disk(tmp_path / "d")
    assert get_names(load_by_name(str(tmp_path / "d"))["train"]) == ["a", "b", "c"]
    DatasetDict(train=rows_of(videos, [0, 1, 2])).save_to_disk(tmp_path / "e")
    with pytest.raises(AnnotationError, match="it has no split 'validation', only train"):
        load_by_name(str(tmp_path / "e"))
    rows_of(videos, [0, 1, 2]).save_to_disk(tmp_path / "f")
    with pytest.raises(AnnotationError, match="one dataset without splits; save a DatasetDict with train and valid"):
        load_by_name(str(tmp_path / "f"))


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, -1, 2], None, "validation: row 1 has the label -1; allowed are 0 to 2"),
        ([0, 1, None], None, "validation: row 2 has the label None"),
        ([[0], [1], []], List(ClassLabel(names=["a", "b", "c"])), "one split have a label each, those of the other"),
    ],
)
def test_labels_that_would_fail_in_evaluation_fail_at_once(labels, feature, message, tmp_path, videos):
    validation = rows_of(videos, labels) if feature is None else rows_of(videos, labels, feature)
    DatasetDict(train=rows_of(videos, [0, 1, 2]), validation=validation).save_to_disk(tmp_path)
    with pytest.raises(AnnotationError, match=message):
        load_by_name(str(tmp_path))


def test_unreadable_videos_are_passed_over_and_reported(tmp_path, videos, caplog):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = rows_of([videos[0], str(tmp_path / "broken.mp4"), videos[1]], [0, 1, 2])
    usable = drop_unreadable(rows, "train")
    assert usable["label"][:] == [0, 2]
    assert "1 video(s) of train are passed over" in caplog.text
    assert "broken.mp4: " in caplog.text
    (tmp_path / "text.png").write_text("no image")
    assert len(drop_unreadable(rows_of([str(tmp_path / "text.png"), *videos[:2]], [0, 1, 2]), "train")) == 2
    assert "text.png" in caplog.text
    with pytest.raises(AnnotationError, match="none of the 1 videos of train can be read"):
        drop_unreadable(rows.select([1]), "train")


# Views and metrics


def test_scores_are_averaged_over_views():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    views = torch.randn(2, 3, 7, 3, 40, 56)
    with torch.no_grad():
        logits = torch.stack([model(views[:, index]).logits for index in range(3)])
    assert_close(predict_views(model, views), logits.softmax(dim=-1).mean(dim=0), "float32")
    assert_close(predict_views(model, views, multi_label=True), logits.sigmoid().mean(dim=0), "float32")


def test_metrics_against_loops():
    rng = np.random.default_rng(0)
    scores, classes = rng.random((50, 7)).astype(np.float32), rng.integers(0, 5, size=50)
    for k in (1, 3, 5):
        hits = [label in sorted(range(7), key=lambda index: -row[index])[:k] for row, label in zip(scores, classes)]
        found = TopKAccuracy(k).compute(predictions=scores, references=classes)
        assert found == {f"top_{k}_accuracy": pytest.approx(np.mean(hits))}
    by_class = {}
    for row, label in zip(scores, classes):
        by_class.setdefault(label, []).append(row.argmax() == label)
    found = MeanClassAccuracy().compute(predictions=scores, references=classes)["mean_class_accuracy"]
    assert found == pytest.approx(np.mean([np.mean(hits) for hits in by_class.values()]))

    present = (rng.random((50, 7)) < 0.3).astype(int)
    present[:, 4] = 0  # a class that does not occur counts for nothing
    precisions = []
    for label in (0, 1, 2, 3, 5, 6):
        # videos without any label count for nothing either
        order = [row for row in np.argsort(-scores[:, label]) if present[row].any()]
        ranks = [rank for rank, row in enumerate(order, start=1) if present[row, label]]
        precisions.append(np.mean([hits / rank for hits, rank in enumerate(ranks, start=1)]))
    found = MeanAveragePrecision().compute(predictions=scores, references=present)["mean_average_precision"]
    assert found == pytest.approx(np.mean(precisions))
    assert not present.any(axis=1).all()


def test_metrics_of_nothing():
    with pytest.raises(ValueError, match="scores must be finite; those of 1 videos are not"):
        TopKAccuracy(1).compute(predictions=[[0.1, 0.2], [float("nan"), 0.2]], references=[0, 1])
    with pytest.raises(ValueError, match="no video has a label"):
        MeanAveragePrecision().compute(predictions=[[0.1, 0.2]], references=[[0, 0]])


# Losses


def test_smoothed_loss_against_the_formula():
    head = TubeViTConfig(num_labels=5, problem_type="single_label_classification")
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
    assert_close(video_loss(logits, labels, head, 0.3), expected, "float32")
    # as a share of what is accumulated
    parts = [
        video_loss(logits[part], labels[part], head, 0.3, num_items_in_batch=6) for part in ([0, 1], [2, 3, 4, 5])
    ]
    assert_close(sum(parts), expected, "float32")
    soft = torch.rand(6, 5).softmax(dim=-1)
    assert_close(video_loss(logits, soft, head), nn.functional.cross_entropy(logits, soft), "float32")

    head.problem_type = "multi_label_classification"
    labels = torch.randint(0, 2, (6, 5)).float()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, labels * 0.7 + 0.15)
    assert_close(video_loss(logits, labels, head, 0.3), expected, "float32")


# Joint training


def joint_config() -> TubeViTConfig:
    heads = {
        "clips": {"labels": ["run", "fall"]},
        "tags": {"labels": ["x", "y", "z"], "problem_type": "multi_label_classification"},
    }
    return tiny_config(heads=heads)


def test_joint_heads_and_exports(tmp_path):
    model = randomize(TubeViTForJointClassification(joint_config()))
    model.save_pretrained(tmp_path)
    loaded = TubeViTForJointClassification.from_pretrained(tmp_path)
    clip, image = torch.randn(2, 7, 3, 40, 56), torch.randn(2, 3, 40, 56)
    for name, pixel_values in (("clips", clip), ("tags", image)):
        outputs = loaded(pixel_values, dataset=name)
        assert isinstance(outputs, ImageClassifierOutput)
        assert outputs.logits.equal(model(pixel_values, dataset=name).logits)
        exported = loaded.export(name, images=name == "tags")
        assert exported(pixel_values).logits.equal(outputs.logits)
        assert list(exported.config.id2label.values()) == model.config.heads[name]["labels"]
        assert exported.config.heads is None
    loss = loaded(image, dataset="tags", labels=torch.tensor([[1.0, 0, 1], [0, 0, 0]])).loss
    expected = nn.functional.binary_cross_entropy_with_logits(
        loaded(image, dataset="tags").logits, torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    )
    assert_close(loss, expected, "float32")
    with pytest.raises(ValueError, match=r"`dataset` must be one of clips, tags .*got None"):
        loaded(clip)


def test_heads_need_classes():
    with pytest.raises(ValueError, match="`heads` is empty"):
        TubeViTForJointClassification(tiny_config())
    for heads in ({"a.b": {"labels": ["x"]}}, {"a": {"labels": []}}, {"a": {"names": ["x"]}}):
        with pytest.raises(ValueError, match=r"`heads\[.*must be"):
            tiny_config(heads=heads)


# Recipes


def test_recipes_are_table_10():
    assert len(RECIPES) == 18
    for name, recipe in RECIPES.items():
        dataset, size, *_ = name.split("-")
        assert recipe.weight_decay == (1e-3 if size == "b" else 1e-5)
        assert (recipe.rand_augment_layers, recipe.rand_augment_magnitude) == (2, 10)
        assert (recipe.steps, recipe.warmup_steps) == (300_000, 10_000)
        kinetics = (5e-5 if size == "b" else 1e-5, 256, 64, 15, 0, 0, 0)
        expected = {"ssv2": (2e-5, 256, 32, 24, 0.3, 0.3, 0.3), "charades": (1e-3, 64, 128, 6, 0, 0.2, 0.1)}
        found = (recipe.learning_rate, recipe.batch_size, recipe.num_frames, recipe.fps)
        found = (*found, recipe.mixup, recipe.dropout, recipe.label_smoothing)
        assert found == expected.get(dataset, kinetics)
        assert recipe.horizontal_flip == (dataset != "ssv2")
        config = recipe.make_config(num_labels=9)
        assert (config.num_frames, config.hidden_dropout_prob, config.num_labels) == (*found[2:3], found[5], 9)
        assert (config.tube_kernels == "interpolated") == name.endswith("interpolated")


def test_gradients_accumulate_up_to_the_recipes_batch():
    assert RECIPES["k400-b"].accumulation_steps(clips_per_device=8, num_devices=4) == 8
    for clips_per_device in (24, 0):
        message = f"256 clips is no multiple of {clips_per_device} on each of 1 device"
        with pytest.raises(ValueError, match=message):
            RECIPES["k400-b"].accumulation_steps(clips_per_device)
