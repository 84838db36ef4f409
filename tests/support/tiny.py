# SPDX-License-Identifier: Apache-2.0
"""The tiny models, processors and videos that tests of all rooms share.

Sizes are odd, and height, width and the strides along each axis differ, so that a swapped axis can't hide. Weights are
drawn wide: with the small ones of an initialisation, two mixed-up parameters can give almost the same output.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn

from tubevit_hf import TubeViTConfig, TubeViTVideoProcessor
from tubevit_hf.data import moving_digits


REPO_ID = "org/tubevit-b-k400"
LABELS = ["fall", "jump", "roll", "spin", "wave"]
# a tiny image ViT, and tubes for clips of 8 frames whose last is its patch
PATCH = 8
TINY_VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": PATCH,
}
SMALL_TUBES = [
    {"kernel_size": [2, 8, 8], "stride": [4, 16, 16]},
    {"kernel_size": [4, 4, 6], "stride": [4, 12, 12], "offset": [1, 2, 4]},
    {"kernel_size": [1, PATCH, PATCH], "stride": [8, PATCH, PATCH]},
]


def tiny_config(**overrides) -> TubeViTConfig:
    """A config of three tubes: 9 + 30 + 35 tokens for a native clip, 35 for an image."""
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "image_size": [40, 56],
        "num_frames": 7,
        "tubes": [
            {"kernel_size": [2, 8, 8], "stride": [4, 16, 24], "space_to_depth": [2, 1, 1]},
            {"kernel_size": [3, 4, 6], "stride": [2, 12, 10], "offset": [1, 2, 4]},
            {"kernel_size": [1, 8, 8], "stride": [7, 8, 8]},
        ],
        "id2label": dict(enumerate(LABELS)),
    }
    if "num_labels" in overrides:
        del settings["id2label"]
    return TubeViTConfig(**{**settings, **overrides})


def randomize(model: nn.Module, seed: int = 0, std: float = 0.4) -> nn.Module:
    """Draws every parameter from a wide normal distribution, and puts the model into evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    # around 1, or each norm would damp what comes through and all clips would look alike at the end
    norms = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(float(id(parameter) in norms) + std * noise)
    return model.eval()


def tiny_video_processor(**overrides) -> TubeViTVideoProcessor:
    """A processor for `tiny_config`, whose settings all differ from the defaults and between channels."""
    settings = {
        "size": {"shortest_edge": 44},
        "crop_size": {"height": 40, "width": 56},
        "image_mean": [0.3, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "num_frames": 7,
    }
    return TubeViTVideoProcessor(**{**settings, **overrides})


def write_video(path: Path, num_frames: int, height: int, width: int, seed: int) -> Path:
    """Writes an .mp4 file of a coloured pattern that drifts: every frame, row and column differs."""
    generator = np.random.default_rng(seed)
    frequency = generator.uniform(0.02, 0.2, size=(3, 3))  # of each colour along t, y and x
    time, row, column = np.meshgrid(range(num_frames), range(height), range(width), indexing="ij")
    angle = np.stack((time * 4, row, column), axis=-1) @ frequency.T
    frames = (127.5 + 127.5 * np.sin(angle)).astype(np.uint8)
    moving_digits.write_video(path, frames, frames_per_second=10)
    return path


def rows_of(videos: list[str], labels: list, label: ClassLabel | List | None = None) -> Dataset:
    """A data set of videos with their labels, by default classes a, b and c."""
    features = Features({"video": Value("string"), "label": label or ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"video": videos, "label": labels}, features=features)


def fill_hub_cache(cache: Path, repo_id: str, folder: Path) -> None:
    """Puts a folder into a Hub cache as a download would have left it (without its symlinks)."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    commit = "0123456789abcdef" * 2 + "01234567"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


def vit_classifier() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**TINY_VIT, num_labels=3))
