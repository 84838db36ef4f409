# SPDX-License-Identifier: Apache-2.0
"""What a recipe of Table 10 takes at its real size: operations, GPU hours, memory, decoding cores and storage."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers.initialization import no_init_weights

from ..data.clips import TrainingClip
from ..evaluation.complexity import count_flops, count_parameters
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForVideoClassification
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .recipes import RECIPES, Recipe


# training videos and classes, as the datasets' authors count them
DATASETS = {
    "k400": (240_000, 400),
    "k600": (390_000, 600),
    "k700": (545_000, 700),
    "ssv2": (169_000, 174),
    "charades": (8_000, 157),
}
# weights, gradients and Adam's two moments, in float32, which mixed precision keeps
BYTES_A_PARAMETER = 16
# a backward pass has two matrix products for each of the forward pass
TRAINING_PASSES = 3


@dataclass(frozen=True)
class ReadingRate:
    """What one core does with the videos of a training set.

    Args:
        clips_per_second: decoded and augmented as the recipe says.
        bytes_per_video: of a file, on average.
    """

    clips_per_second: float
    bytes_per_video: float


@dataclass(frozen=True)
class Plan:
    """What a run takes; `dataclasses.replace(plan, num_gpus=...)` is that of another number of GPUs.

    Args:
        num_gpus: that train together.
        batch_size: clips of an optimizer step, of all GPUs.
        tokens: of a clip.
        clips: that are trained on; a clip counts each time.
        epochs: how often each video is seen.
        flops: floating-point operations in all, a multiply-add as two.
        gpu_hours: of all GPUs together, at the share of their rate that was stated.
        state_bytes: of weights, gradients and optimizer, on each GPU, if nothing is sharded.
        activation_bytes: that autograd keeps of one clip, in bfloat16.
        clips_per_second: that each GPU takes.
        cores_per_gpu: that decode, so that no GPU waits; `None` if reading was not measured.
        storage_bytes: of the training videos; likewise.
    """

    num_gpus: int
    batch_size: int
    tokens: int
    clips: int
    epochs: float
    flops: float
    gpu_hours: float
    state_bytes: int
    activation_bytes: int
    clips_per_second: float
    cores_per_gpu: float | None
    storage_bytes: float | None

    def __post_init__(self) -> None:
        if self.num_gpus < 1:
            raise ValueError(f"a plan needs one GPU or more, got {self.num_gpus}.")

    @property
    def days(self) -> float:
        """That pass."""
        return self.gpu_hours / self.num_gpus / 24

    @property
    def clips_per_gpu(self) -> float:
        """Of an optimizer step."""
        return self.batch_size / self.num_gpus

    @property
    def memory_bytes(self) -> float:
        """Of a GPU, at least: what it holds between steps and what it keeps in one."""
        return self.state_bytes + self.clips_per_gpu * self.activation_bytes


def make_plan(name: str, num_gpus: int, teraflops: float, share: float, reading: ReadingRate | None = None) -> Plan:
    """Works out what a recipe takes.

    Args:
        name: of the recipe, see [`RECIPES`].
        num_gpus: that train together.
        teraflops: of one GPU in bfloat16, as its maker states or a benchmark measured.
        share: of this rate that training reaches, up to 1.
        reading: of videos like those of the dataset.

    Raises:
        ValueError: there is no such recipe, or a number is out of range.
    """
    recipe = find_recipe(name)
    if num_gpus < 1 or teraflops <= 0 or not 0 < share <= 1:
        raise ValueError(
            f"a plan needs one GPU or more, a rate above 0 and a share of it above 0 and up to 1, got {num_gpus}, "
            f"{teraflops} and {share}."
        )
    num_videos, num_labels = DATASETS[name.split("-")[0]]
    config = recipe.make_config(num_labels=num_labels)
    flops_a_clip = TRAINING_PASSES * sum(count_flops(config).values())
    clips = recipe.steps * recipe.batch_size
    clips_per_second = 1e12 * teraflops * share / flops_a_clip
    return Plan(
        num_gpus=num_gpus,
        batch_size=recipe.batch_size,
        tokens=config.num_tokens(),
        clips=clips,
        epochs=clips / num_videos,
        flops=clips * flops_a_clip,
        gpu_hours=clips / clips_per_second / 3600,
        state_bytes=BYTES_A_PARAMETER * sum(count_parameters(config).values()),
        activation_bytes=count_activations(config),
        clips_per_second=clips_per_second,
        cores_per_gpu=None if reading is None else clips_per_second / reading.clips_per_second,
        storage_bytes=None if reading is None else num_videos * reading.bytes_per_video,
    )


def find_recipe(name: str) -> Recipe:
    """Raises a `ValueError` that lists the recipes if there is none of this name."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]


def count_activations(config: TubeViTConfig) -> int:
    """Bytes that autograd keeps for the backward pass of each clip under bfloat16 autocast. Nothing is allocated:
    tensors are imitated."""
    # what does not grow are weights, also those that autocast rounded
    return count_saved(config, 2) - count_saved(config, 1)


def count_saved(config: TubeViTConfig, batch_size: int) -> int:
    """Bytes of all tensors that autograd keeps of a batch."""
    kept: dict[int, int] = {}
    with FakeTensorMode():
        # what is drawn at random would look at numbers
        with no_init_weights():
            model = TubeViTForVideoClassification(config)

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            return tensor

        num_frames, height, width = config.native_size
        clip = torch.empty(batch_size, num_frames, config.num_channels, height, width)
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            model.train()(clip)
    return sum(kept.values())


def measure_reading(recipe: Recipe, videos: Sequence[Path], seconds: float = 20.0) -> ReadingRate:
    """Decodes and augments training clips of the videos on one core, over and over.

    Args:
        recipe: says how.
        videos: files like those of the dataset.
        seconds: to measure for, at least one video in any case.
    """
    settings = {name: value for name, value in recipe.clip_arguments().items() if name not in ("mixup", "dropout")}
    load = TrainingClip(TubeViTVideoProcessor(), **settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        load(str(videos[0]))  # warms up
        start, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - start < seconds:
            load(str(videos[count % len(videos)]))
            count += 1
        elapsed = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    return ReadingRate(count / elapsed, sum(video.stat().st_size for video in videos) / len(videos))
