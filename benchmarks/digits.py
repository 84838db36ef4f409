# SPDX-License-Identifier: Apache-2.0
"""What the studies on moving digits share: clips and pictures of scikit-learn's handwritten digits, in memory.

Training, validation and test splits each have their own handwriting.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from common import BATCH_SIZE
from scipy import ndimage
from sklearn.datasets import load_digits
from tqdm.auto import tqdm

from tubevit_hf import TubeViTConfig
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES, render_clip


SPLITS = ("train", "validation", "test")
CLIPS_PER_MOTION = {"train": 300, "validation": 30, "test": 80}
PICTURES = {"train": 8000, "validation": 500}
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [8, 16, 16]},
    {"kernel_size": [16, 8, 8], "stride": [16, 16, 16], "space_to_depth": [1, 2, 2]},
    {"kernel_size": [1, 16, 16], "stride": [16, 16, 16]},
]
NUM_DIGITS = 10
NUM_IMAGES = 4 * BATCH_SIZE  # in a batch of pictures

_load_digits = cache(load_digits)


class Clips(NamedTuple):
    """Clips `(clips, frames, 3, height, width)` of uint8, with the motion and the digit in each."""

    pixels: torch.Tensor
    motions: torch.Tensor
    digits: torch.Tensor


def draw_handwriting(split: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """One of the split's own handwritten digits, `(8, 8)` from 0 to 16, and which digit it is."""
    digits = _load_digits()
    # half of them for training, a quarter for each of the others
    quarters = np.array_split(np.random.default_rng(0).permutation(len(digits.images)), 4)
    number = SPLITS.index(split)
    index = rng.choice(quarters[number + 1] if number else np.concatenate(quarters[:2]))
    return digits.images[index], digits.target[index]


@cache
def make_clips(split: str) -> Clips:
    """The split's clips, in order of their motions."""
    rng = np.random.default_rng([0, SPLITS.index(split)])
    motions = np.repeat(np.arange(len(MOTIONS)), CLIPS_PER_MOTION[split])
    clips, digits = [], []
    for motion in tqdm(motions, desc=f"{split} clips", disable=None):
        digit, label = draw_handwriting(split, rng)
        clips.append(render_clip(digit, MOTIONS[motion], rng))
        digits.append(label)
    return Clips(stack_frames(clips), torch.from_numpy(motions), torch.tensor(digits))


@cache
def make_pictures(split: str, sizes: tuple[int, int], most_tilt: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures `(pictures, 3, height, width)` of uint8, a digit in each, and the digits.

    Args:
        split: whose handwriting.
        sizes: smallest size of a digit, and one more than the largest, in pixels.
        most_tilt: how far it is turned to either side, in degrees.
    """
    rng = np.random.default_rng([1, SPLITS.index(split)])
    pictures, labels = [], []
    for _ in tqdm(range(PICTURES[split]), desc=f"{split} pictures", disable=None):
        digit, label = draw_handwriting(split, rng)
        size = rng.integers(*sizes)
        sprite = ndimage.zoom(digit / 16, size / len(digit), order=3)
        sprite = ndimage.rotate(sprite, rng.uniform(-most_tilt, most_tilt), reshape=False, order=1).clip(0, 1)
        alpha = np.zeros((FRAME_SIZE, FRAME_SIZE, 1))
        top, left = rng.integers(0, FRAME_SIZE - len(sprite) + 1, size=2)
        alpha[top : top + len(sprite), left : left + len(sprite), 0] = sprite
        foreground, background = rng.uniform(160, 255, size=3), rng.uniform(0, 80, size=3)
        pictures.append((alpha * foreground + (1 - alpha) * background).round().astype(np.uint8).transpose(2, 0, 1))
        labels.append(label)
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


def stack_frames(clips: list[np.ndarray]) -> torch.Tensor:
    """Clips `(frames, height, width, 3)` together, channels before height."""
    return torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).contiguous()


def small_config(tubes: list[dict], **settings: Any) -> TubeViTConfig:
    """Of a model of four layers that learns the digits' clips in minutes."""
    return TubeViTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=FRAME_SIZE,
        num_frames=NUM_FRAMES,
        tubes=tubes,
        **settings,
    )


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    return pixels / 127.5 - 1


def draw_from(pixels: torch.Tensor, labels: torch.Tensor, size: int = BATCH_SIZE) -> dict[str, torch.Tensor]:
    """A random batch."""
    chosen = torch.randint(len(pixels), (size,))
    return {"pixel_values": normalize(pixels[chosen]), "labels": labels[chosen]}
