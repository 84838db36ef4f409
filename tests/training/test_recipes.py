# SPDX-License-Identifier: Apache-2.0
"""Losses and recipes."""

import pytest
import torch
from torch import nn

from tubevit_hf import TubeViTConfig
from tubevit_hf.training import RECIPES
from tubevit_hf.training.losses import video_loss

from ..support.tolerances import assert_close


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
