# SPDX-License-Identifier: Apache-2.0
"""Many files, decoded in worker processes beside the model and given in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from ..data.clips import EvaluationViews, draw_epoch, seeded
from ..data.listing import describe_passed_over, list_folder
from ..model.video_processing_tubevit import open_picture
from ..model.video_sources_tubevit import name_of


@dataclass
class Reading:
    """What became of a file: the inputs of a model, or why there are none.

    Args:
        file: as it was asked for.
        inputs: by name, a row a view.
        seconds: when each clip begins and ends in the video, in seconds; empty where the file does not tell.
        length: of the whole video, in seconds; `None` where the file does not tell.
        error: what went wrong, if anything.
    """

    file: str
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: list[tuple[float, float]] = field(default_factory=list)
    length: float | None = None
    error: str | None = None

    @property
    def num_views(self) -> int:
        return len(self.inputs["pixel_values"]) if self.error is None else 0


Load = Callable[[str], Reading]
Processor = BaseVideoProcessor | BaseImageProcessor


class BySettings:
    """The clips that a processor makes of a file by its own settings, as Transformers' pipelines have it.

    Args:
        processor: of videos or, for a model of images, of images.
        num_frames: of a clip.
    """

    def __init__(self, processor: Processor, num_frames: int):
        self.processor, self.num_frames = processor, num_frames

    def __call__(self, file: str) -> Reading:
        if not isinstance(self.processor, BaseVideoProcessor):
            return Reading(file, dict(self.processor(open_picture(file), return_tensors="pt")))
        inputs, metadata = read_by_settings(self.processor, file, self.num_frames)
        return Reading(file, inputs, clip_seconds(metadata, len(inputs["pixel_values"])), length=metadata.duration)


def read_by_settings(
    processor: BaseVideoProcessor, file: str, num_frames: int
) -> tuple[dict[str, torch.Tensor], VideoMetadata]:
    """What a processor makes of a video by its own settings, a row a clip, and which frames those are."""
    inputs = processor(file, num_frames=num_frames, do_sample_frames=True, return_tensors="pt", return_metadata=True)
    (metadata,) = inputs.pop("video_metadata")
    return dict(inputs), metadata


class ByViews:
    """Several views of a file, see [`EvaluationViews`]: of each crop its clips."""

    def __init__(self, views: EvaluationViews):
        self.views = views

    def __call__(self, file: str) -> Reading:
        pixel_values, metadata = self.views.read(file)
        seconds = clip_seconds(metadata, self.views.num_clips)
        return Reading(file, {"pixel_values": pixel_values}, seconds, length=metadata.duration)


def make_load(processor: Processor, num_frames: int, views: tuple[int, int]) -> Load:
    """How a file is read.

    Args:
        processor: of the model.
        num_frames: of a clip.
        views: clips in time and crops of each; with one of each the processor's own settings hold.

    Raises:
        ValueError: several views are asked of a model for images.
    """
    if views == (1, 1):
        return BySettings(processor, num_frames)
    if not isinstance(processor, BaseVideoProcessor):
        raise ValueError(f"the model is for images, which have one view: {views[0]}x{views[1]} cannot be had.")
    # transformers' processors have it as an attribute where it was set
    return ByViews(EvaluationViews(processor, num_frames, getattr(processor, "fps", None), *views))


def clip_seconds(metadata: VideoMetadata, num_clips: int) -> list[tuple[float, float]]:
    """Times of the first and the last frame of each clip, in seconds."""
    try:
        seconds = np.asarray(metadata.timestamps, dtype=float)
    except ValueError:
        # neither times nor a frame rate
        return []
    return [(float(clip.min()), float(clip.max())) for clip in np.array_split(seconds, num_clips)]


def is_random(load: Load) -> bool:
    """Whether a processor takes the clips of a file at random places."""
    return isinstance(load, BySettings) and getattr(load.processor, "frame_sampling", None) == "random"


class FilesToRead(Dataset[Reading]):
    """What is random in a reading depends on the seed and the file, and not on which process reads it."""

    def __init__(self, files: Sequence[str], load: Load, seed: int = 0):
        # one array: workers would copy a list of many strings bit by bit as they count references
        self.files, self.load, self.seed = np.array(files, dtype=np.str_), load, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Reading:
        file = str(self.files[index])
        with seeded(self.seed, int.from_bytes(file.encode("utf-8", "surrogatepass"), "big")):
            return self.read(file)

    def read(self, file: str) -> Reading:
        try:
            return self.load(file)
        except (ValueError, OSError, LookupError) as error:
            return Reading(file, error=str(error) or type(error).__name__)
        except RuntimeError as error:
            # of torch and its operators, which do not name the file
            return Reading(file, error=f"{name_of(file)}: {error}")


def read_files(
    files: Sequence[str], load: Load, num_workers: int | None = None, batch_size: int = 1
) -> Iterator[Reading]:
    """Reads files in order, ahead of who takes them.

    Clips at random places, where the processor takes such, are drawn by PyTorch's generator: any number of workers
    gives the same, and `torch.manual_seed` makes them reproducible.

    Args:
        files: paths or URLs.
        load: what is made of a file.
        num_workers: processes that read; 0 reads in this one. By default one for each CPU beside that of the model,
            from one to four.
        batch_size: files that are asked for at once: while a model is at some, as many are read.
    """
    if not files:
        return
    if num_workers is None:
        num_workers = max(1, min(4, torch.get_num_threads() - 1))
    # a generator of its own leaves the global one as it is
    yield from DataLoader(
        FilesToRead(files, load, draw_epoch() if is_random(load) else 0),
        batch_size=None,
        num_workers=num_workers,
        # some more make up for files that take longer than others
        prefetch_factor=ceil(max(8, batch_size) / num_workers) if num_workers else None,
        generator=torch.Generator(),
    )


def list_files(videos: Sequence[str]) -> list[str]:
    """Files and URLs as they are, and of each folder all videos in it and the folders in it, sorted, as
    [`list_folder`] finds them. A warning says what is passed over.

    Raises:
        ValueError: a folder holds no videos.
    """
    files: list[str] = []
    for video in videos:
        if not Path(video).is_dir():
            files.append(video)
            continue
        listing = list_folder(video)
        if not listing.videos:
            raise ValueError(f"{video}: it holds no videos.{describe_passed_over(listing.passed_over)}")
        listing.tell()
        files += map(str, listing.videos)
    return files
