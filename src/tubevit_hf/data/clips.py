# SPDX-License-Identifier: Apache-2.0
"""From rows of a dataset, a path and a label each, to clips: a random one for training, views for evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import v2
from transformers import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from ..model.video_decoding_tubevit import VideoSource, read_video
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .splits import get_names, is_multi_label, path_of


class ClipDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Clips of the videos in a dataset.

    What is random in a clip depends on the seed, the epoch and the row, on nothing else: so it is the same with any
    number of workers and processes, and a run that is taken up again sees what it would have seen.

    Args:
        rows: with the columns `video`, a path, and `label`, as [`read_annotations`] and [`load_folder`] give them.
        load: a [`TrainingClip`] or [`EvaluationViews`].
        seed: of what is random.
        name: which head of a [`TubeViTForJointClassification`] classifies it.
    """

    def __init__(
        self, rows: Dataset, load: Callable[[VideoSource], torch.Tensor], seed: int = 0, name: str | None = None
    ):
        self.rows, self.load, self.seed, self.name = rows, load, seed, name
        self.num_labels = len(get_names(rows)) if is_multi_label(rows) else None
        # in shared memory, where workers that outlive an epoch see it
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`pixel_values`; `labels`, a class, or of several a one each `(num_labels,)`; `dataset`, if it has a name."""
        row = self.rows[index]
        with torch.random.fork_rng(devices=[]):
            # `torch.manual_seed` would seed the GPUs too, and so the model's dropout
            seeds = np.random.SeedSequence([self.seed, int(self.epoch), index])
            torch.default_generator.manual_seed(int(seeds.generate_state(1)[0]))
            pixel_values = self.load(path_of(row))
        labels = torch.tensor(row["label"])
        if self.num_labels is not None:
            labels = torch.zeros(self.num_labels).index_fill(0, labels.long(), 1.0)
        clip = {"pixel_values": pixel_values, "labels": labels}
        return clip if self.name is None else {**clip, "dataset": self.name}

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)


class TrainingClip:
    """A clip at a random time, augmented: `(num_frames, channels, height, width)`.

    Args:
        processor: brings pixels to what the model expects.
        num_frames: of a clip.
        fps: frames a second; by default the clip has frames from all of the video, evenly.
        random_crop: whether a random region is cut out and resized, instead of the centre.
        horizontal_flip: whether every other clip, at random, is mirrored.
        rand_augment: layers and magnitude of RandAugment, if any. All frames of a clip are changed alike.
    """

    def __init__(
        self,
        processor: BaseVideoProcessor,
        num_frames: int,
        fps: float | None = None,
        random_crop: bool = False,
        horizontal_flip: bool = False,
        rand_augment: tuple[int, int] | None = None,
    ):
        self.processor = processor
        self.arguments: dict[str, bool] = {}
        self.sample_frames = make_sampler(num_frames, fps, "random")
        transforms: list[v2.Transform] = []
        if rand_augment is not None:
            if len(rand_augment) != 2:
                raise ValueError(f"`rand_augment` must be two numbers, layers and magnitude, got {rand_augment}.")
            layers, magnitude = rand_augment
            transforms.append(v2.RandAugment(layers, magnitude))
        if random_crop:
            transforms.append(v2.RandomResizedCrop(get_crop_size(processor), scale=(0.5, 1.0)))
            self.arguments |= {"do_resize": False, "do_center_crop": False}
        if horizontal_flip:
            transforms.append(v2.RandomHorizontalFlip())
        self.augment = v2.Compose(transforms) if transforms else v2.Identity()

    def __call__(self, video: VideoSource) -> torch.Tensor:
        frames, _ = read_video(video, self.sample_frames)
        return process(self.processor, self.augment(frames), **self.arguments)


class EvaluationViews:
    """Views of a video, evenly spaced: `(num_clips * num_crops, num_frames, channels, height, width)`.

    Args:
        processor: brings pixels to what the model expects.
        num_frames: of a clip.
        fps: frames a second; by default each clip has frames from all of the video, evenly, as a training clip has,
            and those of the others lie between them.
        num_clips: how many clips in time.
        num_crops: how many crops of each along the longer side.
    """

    def __init__(
        self,
        processor: BaseVideoProcessor,
        num_frames: int,
        fps: float | None = None,
        num_clips: int = 1,
        num_crops: int = 1,
    ):
        if num_clips < 1 or num_crops < 1:
            raise ValueError(f"`num_clips` and `num_crops` must be at least 1, got {num_clips} and {num_crops}.")
        self.processor, self.num_clips, self.num_crops = processor, num_clips, num_crops
        self.sample_frames = make_sampler(num_frames, fps, "spaced", num_clips)

    def __call__(self, video: VideoSource) -> torch.Tensor:
        frames, _ = read_video(video, self.sample_frames)
        arguments: dict[str, bool] = {}
        crops = [frames]
        if self.num_crops > 1:
            only_resize = {"do_center_crop": False, "do_rescale": False, "do_normalize": False}
            frames = process(self.processor, frames, **only_resize)
            crops = spatial_crops(frames, get_crop_size(self.processor), self.num_crops)
            # what is left to crop lies on the other axis
            arguments["do_resize"] = False
        views: list[torch.Tensor] = []
        for crop in crops:
            pixel_values = process(self.processor, crop, **arguments)
            views += pixel_values.unflatten(0, (self.num_clips, -1)).unbind()
        return torch.stack(views)


def process(processor: BaseVideoProcessor, frames: torch.Tensor, **arguments: bool) -> torch.Tensor:
    """What a model's processor makes of the frames of a video, under whichever name: `(num_frames, channels, ...)`."""
    inputs = processor(frames, do_sample_frames=False, return_tensors="pt", **arguments)
    return inputs[processor.model_input_names[0]][0]


def make_sampler(
    num_frames: int, fps: float | None, frame_sampling: str, num_clips: int = 1
) -> Callable[[VideoMetadata], np.ndarray]:
    """Which frames to read, as [`TubeViTVideoProcessor`] chooses them, for the processor of any model."""
    if num_frames < 1 or (fps is not None and fps <= 0):
        raise ValueError(f"`num_frames` must be at least 1 and `fps` above 0, got {num_frames} and {fps}.")
    sampler = TubeViTVideoProcessor(short_clips="repeat")

    def sample_windows(metadata: VideoMetadata) -> np.ndarray:
        window = {"num_frames": num_frames, "fps": fps, "frame_sampling": frame_sampling, "num_clips": num_clips}
        return sampler.sample_frames(metadata, **window)

    def sample_all(metadata: VideoMetadata) -> np.ndarray:
        frames = sampler.sample_frames(metadata, num_frames=num_frames * num_clips)
        return frames.reshape(num_frames, num_clips).T.reshape(-1)

    return sample_all if fps is None else sample_windows


def get_crop_size(processor: BaseVideoProcessor) -> tuple[int, int]:
    """Height and width of what a processor gives, in pixels."""
    # pyrefly: ignore[missing-attribute]  each kind of processor declares its own
    size = processor.crop_size if processor.do_center_crop else processor.size
    return size["height"], size["width"]


def spatial_crops(frames: torch.Tensor, size: tuple[int, int], num_crops: int) -> list[torch.Tensor]:
    """Crops evenly spaced along the axis with more to spare, and of that length; the other axis stays as it is.

    Args:
        frames: `(..., height, width)`.
        size: `(height, width)` of a crop in pixels.
        num_crops: two or more.
    """
    spare = [have - want for have, want in zip(frames.shape[-2:], size)]
    along = int(spare[1] >= spare[0])
    starts = np.linspace(0, max(0, spare[along]), num_crops).round().astype(int)
    return [frames.narrow(along - 2, start, min(size[along], frames.shape[along - 2])) for start in starts]


def collate_clips(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of the clips of a [`ClipDataset`], or of one of the datasets of a [`JointDataset`]."""
    batch = {name: torch.stack([clip[name] for clip in clips]) for name in ("pixel_values", "labels")}
    return {**batch, "dataset": clips[0]["dataset"]} if "dataset" in clips[0] else batch
