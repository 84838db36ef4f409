# SPDX-License-Identifier: Apache-2.0
"""Parameter and FLOP counts against PyTorch's own counting, and the command that prints them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.evaluation.complexity import count_flops, count_parameters

from ..support.tiny import tiny_config


@pytest.mark.parametrize("size", [None, (5, 40, 48), (1, 32, 72)])
@pytest.mark.parametrize(
    "overrides",
    [{}, {"pooling_type": "mean"}, {"use_cls_token": True, "num_register_tokens": 3, "pooling_type": "cls"}],
)
def test_counts_match_pytorch(overrides, size):
    config = tiny_config(**overrides)
    with torch.device("meta"):
        model = TubeViTForVideoClassification(config)
        pixel_values = torch.empty(1, size[0], 3, *size[1:]) if size else torch.empty(1, 7, 3, 40, 56)
    with FlopCounterMode(display=False) as counter:
        model(pixel_values)
    flops = count_flops(config, size)
    assert sum(flops.values()) == counter.get_total_flops()
    assert sum(count_parameters(config).values()) == model.num_parameters()


def test_default_counts():
    """TubeViT-B with 400 classes, as the project's design states them in millions."""
    millions = {part: count / 1e6 for part, count in count_parameters(TubeViTConfig(num_labels=400)).items()}
    assert {part: round(count, 1) for part, count in millions.items()} == {
        "encoder": 85.1,
        "tubes": 2.7,
        "pooling": 2.4,
        "head": 0.3,
    }
