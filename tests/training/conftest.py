# SPDX-License-Identifier: Apache-2.0
"""A folder of videos, and models that `tubevit train` begins with."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data.moving_digits import write_video

from ..support.tiny import tiny_config, tiny_video_processor, vit_classifier


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Videos of a light square that moves right or left in front of noise that stands still, two of each actor."""
    folder = tmp_path_factory.mktemp("folder") / "clips"
    rng = np.random.default_rng(0)
    for name, step in (("left", -1), ("right", 1)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            frames = np.repeat(rng.integers(0, 60, (1, 32, 32, 3), dtype=np.uint8), 16, axis=0)
            row, column = rng.integers(4, 20, 2)
            for moment in range(16):
                place = (column + step * 2 * moment) % 28
                frames[moment, row : row + 8, place : place + 6] = 230
            write_video(folder / name / f"actor{number % 10}_{number}.mp4", frames, frames_per_second=10)
    return folder


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> Path:
    """An image ViT."""
    folder = tmp_path_factory.mktemp("source") / "vit"
    torch.manual_seed(0)
    vit_classifier().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tubevit(tmp_path_factory) -> Path:
    """A TubeViT of other classes."""
    folder = tmp_path_factory.mktemp("source") / "tubevit"
    torch.manual_seed(0)
    TubeViTForVideoClassification(tiny_config()).save_pretrained(folder)
    tiny_video_processor().save_pretrained(folder)
    return folder
