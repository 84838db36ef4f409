# SPDX-License-Identifier: Apache-2.0
"""Every epoch has other clips, whoever trains: a Trainer or a loop, and whether it tells the dataset the epoch."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from transformers import Trainer, TrainingArguments

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset, JointDataset, TrainingClip, collate_clips
from tubevit_hf.training import VideoTrainer, cache_frozen

from ..support.tiny import rows_of, tiny_config, tiny_video_processor


NUM_EPOCHS = 4


def make_clips(videos: list[str], **settings) -> ClipDataset:
    clip = TrainingClip(tiny_video_processor(), 4, random_crop=True, horizontal_flip=True, time_scale=0.5)
    return ClipDataset(rows_of(videos * 2, [0, 1, 2] * 2), clip, **settings)


def train(trainer_class: type[Trainer], dataset: Dataset, folder: Path, **arguments) -> list[bytes]:
    """The clips that a model was trained on."""
    seen: list[bytes] = []

    class Watched(trainer_class):
        def training_step(self, model, inputs, *args, **kwargs):
            seen.extend(clip.numpy().tobytes() for clip in inputs["pixel_values"])
            return super().training_step(model, inputs, *args, **kwargs)

    settings = {"num_train_epochs": NUM_EPOCHS, "per_device_train_batch_size": 4, "save_strategy": "no"}
    shared = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False}
    Watched(
        model=TubeViTForVideoClassification(tiny_config(num_labels=3, problem_type="single_label_classification")),
        args=TrainingArguments(folder, **settings, **shared, **arguments),
        train_dataset=dataset,
        **({} if trainer_class is VideoTrainer else {"data_collator": collate_clips}),
    ).train()
    return seen


@pytest.mark.parametrize(
    ("trainer_class", "kind", "arguments"),
    [
        (VideoTrainer, "whole", {}),
        (Trainer, "whole", {}),
        (Trainer, "subset", {}),
        (Trainer, "joined", {}),
        (Trainer, "subset", {"dataloader_num_workers": 2}),
        (Trainer, "subset", {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}),
    ],
)
def test_trainers(trainer_class, kind, arguments, videos, tmp_path):
    clips = make_clips(videos)
    parts = {"whole": clips, "subset": Subset(clips, range(6)), "joined": ConcatDataset([clips, clips])}
    seen = train(trainer_class, parts[kind], tmp_path, **arguments)
    assert len(seen) == len(set(seen)) == NUM_EPOCHS * len(parts[kind])
    # and again with the same seed the same
    torch.manual_seed(1)
    assert train(trainer_class, parts[kind], tmp_path, **arguments) == seen


def test_after_training_each_reading_is_drawn_again(videos, tmp_path):
    clips = make_clips(videos)
    train(VideoTrainer, Subset(clips, range(6)), tmp_path)
    assert not clips[0]["pixel_values"].equal(clips[0]["pixel_values"])


@pytest.mark.parametrize("kind", ["whole", "subset"])
def test_loops_of_accelerate(kind, videos):
    clips = make_clips(videos)
    dataset = clips if kind == "whole" else Subset(clips, range(6))
    loader = Accelerator(cpu=True).prepare(DataLoader(dataset, 4, shuffle=True, collate_fn=collate_clips))
    seen = [clip.numpy().tobytes() for _ in range(NUM_EPOCHS) for batch in loader for clip in batch["pixel_values"]]
    assert len(seen) == len(set(seen)) == NUM_EPOCHS * 6


def test_joint_datasets_and_frozen_clips(videos, tmp_path):
    """Each reading is drawn by itself, of copies one of them."""
    joint = JointDataset([make_clips(videos, name=name) for name in ("one", "two")])
    read = [joint[name, 3]["pixel_values"].numpy().tobytes() for name in ("one", "two") for _ in range(NUM_EPOCHS)]
    assert len(set(read)) == 2 * NUM_EPOCHS

    model = TubeViTForVideoClassification(tiny_config(freeze_before=1, num_labels=3))
    state = torch.get_rng_state()
    frozen = cache_frozen(model, make_clips(videos, copies=3), tmp_path)
    assert torch.get_rng_state().equal(state)
    copies = [frozen.get_output(4, copy) for copy in range(3)]
    drawn = [frozen[4]["frozen_output"] for _ in range(30)]
    assert {next(place for place, copy in enumerate(copies) if copy.equal(one)) for one in drawn} == {0, 1, 2}
    # of one copy nothing is drawn
    torch.set_rng_state(state)
    assert frozen.select(copies=1)[4]["frozen_output"].equal(copies[0])
    assert torch.get_rng_state().equal(state)
