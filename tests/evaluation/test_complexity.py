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
"""Parameter and FLOP counts against PyTorch's own counting, and the command that prints them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.cli import app
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


def test_info_prints_parameters_tokens_and_the_papers_figures():
    result = CliRunner().invoke(app, ["info", "b"])
    assert result.exit_code == 0
    for expected in ("539", "85.06", "2.66", "2.36", "90.38", "86 M", "90 M", "0.87"):
        assert expected in result.output
    result = CliRunner().invoke(app, ["info", "L", "--num-frames", "64"])
    for expected in ("1,176", "302.31", "311 M"):
        assert expected in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "XXL"], "choose one of Ti, S, B, L, H"),
        (["info", "B", "--num-frames", "0"], "--num-frames"),
        (["info", "B", "--num-frames", "many"], "--num-frames"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, message):
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_help_suffices():
    result = CliRunner().invoke(app, ["info", "--help"])
    assert result.exit_code == 0
    for expected in ("Ti, S, B, L, H", "--num-frames", "--image-size", "--num-labels"):
        assert expected in result.output
