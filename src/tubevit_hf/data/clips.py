# SPDX-License-Identifier: Apache-2.0
"""From rows of a dataset, a path and a label each, to clips: a random one for training, views for evaluation."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import pad
from torchvision.transforms import v2
from transformers import BaseVideoProcessor, default_data_collator
from transformers.image_utils import pil_torch_interpolation_mapping
from transformers.video_utils import VideoMetadata

from ..model.video_decoding_tubevit import FrameTransform, VideoFileMetadata, VideoReader, VideoSource, read_video
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .splits import get_names, is_multi_label, not_decoded, path_of


# what is done where a video is shorter than a clip
SHORT_CLIPS = ("repeat", "pad")
# of frames that are held for several clips of a video
MAX_DECODED_BYTES = 400_000_000
# epochs between a clip and the next of the same video in one epoch: no run has as many, and as a prime number it leads
# to every copy
REPEAT = 1_000_003
# what `ClipDataset.epoch` holds while nobody has set it
NO_EPOCH = -1


class ClipDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Clips of the videos in a dataset.

    [`VideoTrainer`] and Accelerate's loaders set the epoch. What is random in a clip then depends on the seed, the
    epoch and the row, on nothing else: so it is the same with any number of workers and processes, and a run that is
    resumed sees what it would have seen.

    While nobody has called `set_epoch`, as in a loop of PyTorch, each reading draws from PyTorch's generator, as
    torchvision's transforms do: every reading is another clip, and `torch.manual_seed` makes it reproducible. Where
    nothing is random, nothing is drawn.

    Args:
        rows: with the columns `video`, a path or a `Video` of Datasets, and `label`, as [`read_annotations`] and
            [`load_folder`] give them. Without `label`, or where it is `None`, a clip has no `labels`.
        load: a [`TrainingClip`] or [`EvaluationViews`].
        seed: of what is random.
        name: which head of a [`TubeViTForJointClassification`] classifies it.
        copies: how many random clips there are of each video; then they come again. By default every epoch has others.
    """

    def __init__(
        self,
        rows: Dataset,
        load: Callable[[VideoSource], torch.Tensor],
        seed: int = 0,
        name: str | None = None,
        copies: int | None = None,
    ):
        if copies is not None and copies < 1:
            raise ValueError(f"`copies` must be at least 1, got {copies}.")
        self.rows = not_decoded(rows)
        self.load, self.seed, self.name, self.copies = load, seed, name, copies
        has_labels = "label" in rows.features
        self.num_labels = len(get_names(rows)) if has_labels and is_multi_label(rows) else None
        # in shared memory, where workers that outlive an epoch see it
        self.epoch = torch.tensor(NO_EPOCH).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """`pixel_values`; `labels`, a class, or of several a one each `(num_labels,)`, if the row has any; `dataset`,
        if it has a name.

        `(row, repeat)` is another clip of the row in the same epoch, see [`BalancedBatches`].
        """
        return self.get_clip(*place_of(index, self.get_epoch()))

    def get_clip(self, index: int, epoch: int | None) -> dict[str, Any]:
        """The clip of a row in an epoch; without one, a clip that PyTorch's generator draws."""
        row = self.rows[index]
        with self.chance(index, epoch):
            pixel_values = self.load(path_of(row))
        clip = {"pixel_values": pixel_values, **self.get_labels(index)}
        return clip if self.name is None else {**clip, "dataset": self.name}

    def get_pixels(self, index: int, epochs: Sequence[int]) -> torch.Tensor:
        """Pixels of the clips of a row in several epochs, `(epochs, ...)`: its video is decoded once for all."""
        load = self.load
        if not isinstance(load, TrainingClip):
            return torch.stack([self.get_clip(index, epoch)["pixel_values"] for epoch in epochs])
        clips = []
        with VideoReader(path_of(self.rows[index])) as reader:
            # transformers' metadata need not know them
            frame_bytes = 3 * (reader.metadata.width or 1) * (reader.metadata.height or 1)
            at_once = max(1, MAX_DECODED_BYTES // (frame_bytes * load.settings["num_frames"]))
            for start in range(0, len(epochs), at_once):
                chosen = []
                for epoch in epochs[start : start + at_once]:
                    with self.chance(index, epoch):
                        chosen.append(load.sample_frames(reader.metadata))
                wanted, places = np.unique(np.concatenate(chosen), return_inverse=True)
                frames, _ = reader.get_frames(wanted)
                for epoch, of_clip in zip(epochs[start:], np.split(places, len(chosen))):
                    with self.chance(index, epoch):
                        # so that what comes after is the same as if this were the only clip
                        load.sample_frames(reader.metadata)
                        clips.append(load.finish(frames[torch.from_numpy(of_clip)]))
        return torch.stack(clips)

    @contextlib.contextmanager
    def chance(self, index: int, epoch: int | None) -> Generator[None, None, None]:
        """What is random within is that of a row in an epoch; without one, of what PyTorch's generator draws."""
        generator = torch.default_generator
        state = generator.get_state()
        if epoch is None:
            epoch = draw_epoch()
        drawn = generator.get_state()
        copy = epoch if self.copies is None else epoch % self.copies
        with seeded(self.seed, copy, index):
            before = generator.get_state()
            yield
            is_random = not generator.get_state().equal(before)
        generator.set_state(drawn if is_random else state)

    def get_labels(self, index: int) -> dict[str, torch.Tensor]:
        """The row's `labels`; nothing where it has none."""
        label = self.rows[index].get("label")
        if label is None:
            return {}
        labels = torch.tensor(label)
        if self.num_labels is not None:
            labels = torch.zeros(self.num_labels).index_fill(0, labels.long(), 1.0)
        return {"labels": labels}

    def get_epoch(self) -> int | None:
        """The epoch that was set, if any."""
        epoch = int(self.epoch)
        return None if epoch == NO_EPOCH else epoch

    def set_epoch(self, epoch: int | None) -> None:
        """Which epoch it is, from 0; it holds until the next call. `None`: each reading draws again.

        Raises:
            ValueError: the epoch is below 0.
        """
        if epoch is not None and epoch < 0:
            raise ValueError(f"`epoch` must be at least 0, or None, got {epoch}.")
        self.epoch.fill_(NO_EPOCH if epoch is None else epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # of a copy, whose workers are to see it too
        self.epoch.share_memory_()


@contextlib.contextmanager
def seeded(*numbers: int) -> Generator[None, None, None]:
    """What PyTorch's generator gives within depends on the numbers alone; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        # `torch.manual_seed` would seed the GPUs too, and so the model's dropout
        torch.default_generator.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        yield


def draw_epoch() -> int:
    """An epoch, where nobody has set one, by PyTorch's generator: DataLoader workers differ."""
    return int(torch.randint(2**62, ()))


def place_of(index: int | tuple[int, int], epoch: int | None) -> tuple[int, int | None]:
    """Row and epoch whose clip is meant."""
    row, repeat = index if isinstance(index, tuple) else (index, 0)
    return row, None if epoch is None else epoch + repeat * REPEAT


def has_short_clips(dataset: object) -> bool:
    """Whether clips of a [`ClipDataset`] may be shorter than others."""
    return isinstance(dataset, ClipDataset) and getattr(dataset.load, "short_clips", "repeat") == "pad"


class TrainingClip:
    """A clip at a random time, augmented: `(num_frames, channels, height, width)`.

    Args:
        processor: brings pixels to what the model expects.
        num_frames: of a clip.
        fps: frames a second; by default the clip has frames from all of the video, evenly.
        random_crop: whether a random region is cut out and resized, instead of the centre.
        crop_scale: least and greatest share of a frame's area that it has.
        time_scale: least share of the video that a clip without `fps` spans, at a random place; 1 for all of it.
        color_jitter: how far brightness, contrast and saturation may change, up to this share; 0 for not at all.
        horizontal_flip: whether every other clip, at random, is mirrored.
        rand_augment: layers and magnitude of RandAugment, if any. All frames of a clip are changed alike.
        short_clips: of a video with fewer frames, at `fps` if that is given, `"repeat"` has them evenly repeated;
            `"pad"` gives those that there are, and [`collate_clips`] pads the clips of a batch.
    """

    def __init__(
        self,
        processor: BaseVideoProcessor,
        num_frames: int,
        fps: float | None = None,
        random_crop: bool = False,
        horizontal_flip: bool = False,
        rand_augment: tuple[int, int] | None = None,
        crop_scale: tuple[float, float] = (0.5, 1.0),
        time_scale: float = 1.0,
        color_jitter: float = 0.0,
        short_clips: str = "repeat",
    ):
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ValueError(f"`crop_scale` must be two shares above 0, the least and the greatest, got {crop_scale}.")
        if not 0 < time_scale <= 1:
            raise ValueError(f"`time_scale` must be above 0 and at most 1, got {time_scale}.")
        if fps is not None and time_scale < 1:
            raise ValueError(f"`fps` is {fps} and fixes the length of a clip; `time_scale` is for clips without.")
        if short_clips != "repeat" and time_scale < 1:
            raise ValueError(f"`short_clips` {short_clips!r} needs a `time_scale` of 1, got {time_scale}.")
        self.processor, self.short_clips = processor, short_clips
        self.settings: dict[str, Any] = {
            "num_frames": num_frames,
            "fps": fps,
            "random_crop": random_crop,
            "horizontal_flip": horizontal_flip,
            "rand_augment": rand_augment,
            "crop_scale": crop_scale,
            "time_scale": time_scale,
            "color_jitter": color_jitter,
            "short_clips": short_clips,
        }
        self.arguments: dict[str, bool] = {}
        self.sample_frames: FrameSampler | SpanSampler
        if time_scale < 1:
            self.sample_frames = SpanSampler(num_frames, time_scale)
        else:
            self.sample_frames = FrameSampler(num_frames, fps, "random", short_clips=short_clips)
        transforms: list[v2.Transform] = []
        if rand_augment is not None:
            if len(rand_augment) != 2:
                raise ValueError(f"`rand_augment` must be two numbers, layers and magnitude, got {rand_augment}.")
            layers, magnitude = rand_augment
            transforms.append(v2.RandAugment(layers, magnitude))
        if random_crop:
            interpolation = get_interpolation(processor)
            transforms.append(v2.RandomResizedCrop(get_crop_size(processor), crop_scale, interpolation=interpolation))
            self.arguments |= {"do_resize": False, "do_center_crop": False}
        if color_jitter:
            transforms.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter, color_jitter / 8))
        if horizontal_flip:
            transforms.append(v2.RandomHorizontalFlip())
        self.augment = v2.Compose(transforms) if transforms else v2.Identity()

    def __call__(self, video: VideoSource) -> torch.Tensor:
        frames, _ = read_video(video, self.sample_frames)
        return self.finish(frames)

    def finish(self, frames: torch.Tensor) -> torch.Tensor:
        """What is done with the frames of a clip."""
        return process(self.processor, self.augment(frames), **self.arguments)

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip; at most so many frames, where short clips are padded."""
        return clip_size(self.settings["num_frames"], self.processor)

    def describe(self) -> dict[str, Any]:
        """All that a clip depends on, but for its video and chance."""
        return {**self.settings, "processor": self.processor.to_dict()}


class EvaluationViews:
    """Views of a video, evenly spaced: `(views, num_frames, channels, height, width)`, of each crop its clips.

    Args:
        processor: brings pixels to what the model expects.
        num_frames: of a clip.
        fps: frames a second; by default each clip has frames from all of the video, evenly, as a training clip has,
            and those of the others lie between them.
        num_clips: how many clips in time.
        num_crops: how many crops of each: along the longer side or, where the processor stretches frames to one shape
            and leaves nothing to spare, from the whole frame to the middle 70% of its height and width.
        mirror: whether each is seen mirrored too.
        short_clips: as of [`TrainingClip`].
    """

    def __init__(
        self,
        processor: BaseVideoProcessor,
        num_frames: int,
        fps: float | None = None,
        num_clips: int = 1,
        num_crops: int = 1,
        mirror: bool = False,
        short_clips: str = "repeat",
    ):
        if num_clips < 1 or num_crops < 1:
            raise ValueError(f"`num_clips` and `num_crops` must be at least 1, got {num_clips} and {num_crops}.")
        self.processor, self.num_clips, self.num_crops, self.mirror = processor, num_clips, num_crops, mirror
        self.short_clips = short_clips
        self.settings: dict[str, Any] = {
            "num_frames": num_frames,
            "fps": fps,
            "num_clips": num_clips,
            "num_crops": num_crops,
            "mirror": mirror,
            "short_clips": short_clips,
        }
        self.sample_frames = FrameSampler(num_frames, fps, "spaced", num_clips, short_clips)

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops * (1 + self.mirror)

    def __call__(self, video: VideoSource) -> torch.Tensor:
        return self.read(video)[0]

    def read(self, video: VideoSource) -> tuple[torch.Tensor, VideoFileMetadata]:
        """The views, and which frames they are of."""
        # crops are cut out of whole frames
        shrink = None if self.num_crops > 1 else get_shrink(self.processor)
        frames, metadata = read_video(video, self.sample_frames, transform=shrink)
        views: list[torch.Tensor] = []
        for crop, arguments in self.crop(frames):
            pixel_values = process(self.processor, crop, **arguments)
            clips = pixel_values.unflatten(0, (self.num_clips, -1))
            views += clips.unbind()
            if self.mirror:
                views += clips.flip(-1).unbind()
        return torch.stack(views), metadata

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of a view."""
        return clip_size(self.settings["num_frames"], self.processor)

    def describe(self) -> dict[str, Any]:
        """All that the views depend on, but for their video."""
        return {**self.settings, "processor": self.processor.to_dict()}

    def crop(self, frames: torch.Tensor) -> list[tuple[torch.Tensor, dict[str, bool]]]:
        """The crops, and what the processor shall not do with them."""
        if self.num_crops == 1:
            return [(frames, {})]
        size = get_crop_size(self.processor)
        # pyrefly: ignore[missing-attribute]  each kind of processor declares its own
        if self.processor.size.height is not None:
            crops = centre_crops(frames, size, self.num_crops, get_interpolation(self.processor))
            return [(crop, {"do_resize": False, "do_center_crop": False}) for crop in crops]
        only_resize = {"do_center_crop": False, "do_rescale": False, "do_normalize": False}
        frames = process(self.processor, frames, **only_resize)
        # what is left to crop lies on the other axis
        return [(crop, {"do_resize": False}) for crop in spatial_crops(frames, size, self.num_crops)]


def process(processor: BaseVideoProcessor, frames: torch.Tensor, **arguments: bool) -> torch.Tensor:
    """What a model's processor makes of the frames of a video, under whichever name: `(num_frames, channels, ...)`."""
    inputs = processor(frames, do_sample_frames=False, return_tensors="pt", **arguments)
    return inputs[processor.model_input_names[0]][0]


def get_shrink(processor: BaseVideoProcessor) -> FrameTransform | None:
    """What brings frames to the size of a TubeViT's processor as they are decoded."""
    if not isinstance(processor, TubeViTVideoProcessor):
        return None
    return processor.make_shrink(bool(processor.do_resize), processor.size, processor.resample)


# classes, as functions within functions cannot be sent to workers that are spawned
@dataclass
class FrameSampler:
    """Which frames to read, as [`TubeViTVideoProcessor`] chooses them, for the processor of any model."""

    num_frames: int
    fps: float | None
    frame_sampling: str
    num_clips: int = 1
    short_clips: str = "repeat"
    processor: TubeViTVideoProcessor = field(default_factory=TubeViTVideoProcessor, init=False)

    def __post_init__(self) -> None:
        if self.num_frames < 1 or (self.fps is not None and self.fps <= 0):
            raise ValueError(
                f"`num_frames` must be at least 1 and `fps` above 0, got {self.num_frames} and {self.fps}."
            )
        if self.short_clips not in SHORT_CLIPS:
            raise ValueError(
                f"`short_clips` must be one of {', '.join(map(repr, SHORT_CLIPS))}, got {self.short_clips!r}."
            )

    def __call__(self, metadata: VideoMetadata) -> np.ndarray:
        return self.sample_all(metadata) if self.fps is None else self.sample_windows(metadata)

    def sample_windows(self, metadata: VideoMetadata) -> np.ndarray:
        return self.processor.sample_frames(
            metadata, self.num_frames, self.fps, self.frame_sampling, self.num_clips, self.short_clips
        )

    def sample_all(self, metadata: VideoMetadata) -> np.ndarray:
        length = self.num_frames
        if self.short_clips == "pad":
            length = max(1, min(length, metadata.total_num_frames))
        frames = self.processor.sample_frames(metadata, num_frames=length * self.num_clips, short_clips="repeat")
        return frames.reshape(length, self.num_clips).T.reshape(-1)


@dataclass
class SpanSampler:
    """Frames from a random span of a video, evenly: from `time_scale` of it to all."""

    num_frames: int
    time_scale: float

    def __call__(self, metadata: VideoMetadata) -> np.ndarray:
        length, place, phase = torch.rand(3, dtype=torch.float64).tolist()
        length = self.time_scale + (1 - self.time_scale) * length
        times = place * (1 - length) + length * (np.arange(self.num_frames) + phase) / self.num_frames
        return (times * metadata.total_num_frames).astype(int).clip(0, metadata.total_num_frames - 1)


def get_crop_size(processor: BaseVideoProcessor) -> tuple[int, int]:
    """Height and width of what a processor gives, in pixels."""
    # pyrefly: ignore[missing-attribute]  each kind of processor declares its own
    size = processor.crop_size if processor.do_center_crop else processor.size
    return size["height"], size["width"]


def clip_size(num_frames: int, processor: BaseVideoProcessor) -> tuple[int, int, int]:
    height, width = get_crop_size(processor)
    return num_frames, height, width


def get_interpolation(processor: BaseVideoProcessor) -> v2.InterpolationMode:
    # pyrefly: ignore[missing-attribute]  as above
    return pil_torch_interpolation_mapping[processor.resample]


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


def centre_crops(
    frames: torch.Tensor, size: tuple[int, int], num_crops: int, interpolation: v2.InterpolationMode
) -> list[torch.Tensor]:
    """The frame, and ever smaller parts of it around its centre, down to 70% of its sides: each resized to `size`.

    Args:
        frames: `(..., height, width)`.
        size: `(height, width)` of a crop in pixels.
        num_crops: two or more.
    """
    height, width = frames.shape[-2:]
    parts = [
        v2.functional.center_crop(frames, [max(1, round(height * share)), max(1, round(width * share))])
        for share in np.linspace(1, 0.7, num_crops)
    ]
    return [v2.functional.resize(part, list(size), interpolation=interpolation) for part in parts]


def collate_clips(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of the clips of a [`ClipDataset`], or of one of the datasets of a [`JointDataset`].

    Clips of different lengths are padded with zeros to the longest, and `frame_mask`, `(batch, num_frames)` or of
    views `(batch, views, num_frames)`, is True where a frame is real. All else is collated as by Transformers'
    `default_data_collator`: `label` becomes `labels`, texts are left out.

    Raises:
        ValueError: the clips have nothing that a model takes, they differ in more than their number of frames, only
            some have labels, or they are of several datasets.
    """
    others = collate_others(clips)
    if "pixel_values" not in clips[0]:
        if not others.keys() - {"labels", "dataset"}:
            raise ValueError(
                f"a clip needs `pixel_values`, got only {', '.join(clips[0]) or 'empty rows'}: give a ClipDataset of "
                "the rows, or rows with a transform that makes `pixel_values`, and `remove_unused_columns=False`."
            )
        return others
    pixel_values = [torch.as_tensor(clip["pixel_values"]) for clip in clips]
    if len({clip.shape for clip in pixel_values}) > 1:
        padded, frame_mask = pad_clips(pixel_values)
        return {"pixel_values": padded, "frame_mask": frame_mask, **others}
    return {"pixel_values": torch.stack(pixel_values), **others}


def pack_clips(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As [`collate_clips`], but `pixel_values` is a list of clips as long as they are, which a TubeViT packs."""
    return {"pixel_values": [torch.as_tensor(clip["pixel_values"]) for clip in clips], **collate_others(clips)}


def collate_others(clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What there is beside the pixels."""
    if len({"labels" in clip for clip in clips}) > 1:
        raise ValueError("some clips of the batch have labels and others have none: give each row a label, or none.")
    names = {clip.get("dataset") for clip in clips}
    if len(names) > 1:
        raise ValueError(
            f"clips of a batch must be of one `dataset`, got {', '.join(map(repr, names))}: put them into a "
            "JointDataset."
        )
    batch = default_data_collator(
        [{name: value for name, value in clip.items() if name not in ("pixel_values", "dataset")} for clip in clips]
    )
    return {**batch, "dataset": names.pop()} if "dataset" in clips[0] else batch


def pad_clips(clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `([views,] num_frames, channels, height, width)`, padded with zeros to the longest and stacked, and which
    of their frames are real, `(batch, [views,] num_frames)`.

    Raises:
        ValueError: they differ in more than their number of frames.
    """
    if len({(*clip.shape[:-4], *clip.shape[-3:]) for clip in clips}) > 1 or clips[0].ndim < 4:
        shapes = ", ".join(map(str, sorted({tuple(clip.shape) for clip in clips})))
        raise ValueError(f"clips of a batch may differ in their number of frames alone, got the shapes {shapes}.")
    longest = max(clip.shape[-4] for clip in clips)
    padded = [pad(clip, (0, 0) * 3 + (0, longest - clip.shape[-4])) for clip in clips]
    masks = [(torch.arange(longest) < clip.shape[-4]).expand(*clip.shape[:-4], -1) for clip in clips]
    return torch.stack(padded), torch.stack(masks)
