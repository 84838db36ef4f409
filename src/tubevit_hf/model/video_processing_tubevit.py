# SPDX-License-Identifier: Apache-2.0
"""Video files, arrays and tensors become the clips that TubeViT reads."""

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import pad
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    PILImageResampling,
    SizeDict,
    load_image,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, TensorType, logging
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoInput, VideoMetadata, make_batched_metadata

from .image_processing_tubevit import TubeViTImageProcessor
from .processing_limits_tubevit import check_settings
from .video_decoding_tubevit import MAX_INDICES, FrameTransform, VideoFileMetadata, read_video
from .video_sampling_tubevit import (
    fits,
    frame_seconds,
    frames_at_rate,
    random_starts,
    spaced_starts,
    uniform_frames,
    window_frames,
)
from .video_sources_tubevit import VideoDecodingError, VideoLimits, VideoSource, is_address, name_of, open_source


logger = logging.get_logger(__name__)

# this file saves an image processor too, also where it runs as remote code
TubeViTImageProcessor.register_for_auto_class("AutoImageProcessor")


# the settings that choose frames
SAMPLING = ("num_frames", "fps", "frame_sampling", "num_clips", "short_clips")
FRAME_SAMPLINGS = ("uniform", "random", "spaced")
SHORT_CLIPS = ("repeat", "pad", "error")

# how many times as large a frame is that is made small before the others are there
SHRINK = 3

# the frames of a video as files
Pictures = Sequence[str | os.PathLike[str]]
# what a `Video` column of Datasets gives that is not decoded: "path" and "bytes", one of which may be `None`
Row = dict[str, str | bytes | None]
# what can be processed, one or many
Videos = VideoInput | VideoSource | Row | Sequence[VideoSource | Row] | Sequence[Pictures]
# chooses the frames of a video by number
SampleFrames = Callable[[VideoMetadata], np.ndarray]
ProcessorT = TypeVar("ProcessorT", bound="TubeViTVideoProcessor")


class TubeViTVideoProcessorKwargs(VideosKwargs, total=False):
    r"""
    frame_sampling (`str`, *optional*, defaults to `self.frame_sampling`):
        Which frames to take: `"uniform"`, from the whole video, `num_frames` of them or `fps` a second; `"random"`,
        `num_clips` windows at random places; `"spaced"`, `num_clips` windows evenly spaced, a single one in the
        middle. A window has `num_frames` frames, `fps` a second or, if `fps` is `None`, each following one.
    num_clips (`int`, *optional*, defaults to `self.num_clips`):
        Number of windows. The clips of a video follow each other: `pixel_values` has `videos * num_clips` rows.
    short_clips (`str`, *optional*, defaults to `self.short_clips`):
        What to do with a video of fewer frames than asked: `"repeat"` its frames evenly; `"pad"` with zeros at the
        end and return `frame_mask`, `(batch, num_frames)`, True for real frames; `"error"`. By default files repeat,
        and arrays are an error.
    """

    frame_sampling: Literal["uniform", "random", "spaced"] | None
    num_clips: int | None
    short_clips: Literal["repeat", "pad", "error"] | None


class TubeViTVideoProcessor(BaseVideoProcessor):
    r"""
    Prepares videos for TubeViT: samples frames, resizes the shorter side to 224 pixels, crops the centre, brings
    values to [-1, 1], and returns `pixel_values` `(batch, num_frames, channels, height, width)`.

    A video is a file (path, http(s) URL, bytes or file object; decoded with PyAV), a list of image files, a list of
    PIL images, or an array of 4 dimensions with values from 0 to 255; also what a `Video` column of Datasets gives:
    `{"path": ..., "bytes": ...}`, or a decoder of TorchCodec, which then decodes. A list of them is a batch, whose
    videos may differ in size and length.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    num_frames = 32
    do_sample_frames = True
    frame_sampling = "uniform"
    num_clips = 1
    short_clips: Literal["repeat", "pad", "error"] | None = None
    valid_kwargs = TubeViTVideoProcessorKwargs
    model_input_names = ["pixel_values", "frame_mask"]

    def preprocess(self, videos: Videos, **kwargs: Unpack[TubeViTVideoProcessorKwargs]) -> BatchFeature:
        # `fps` alone means all of the video at that rate, so the class' own `num_frames` must not stand in its way
        if kwargs.get("fps") is not None and (kwargs.get("frame_sampling") or self.frame_sampling) == "uniform":
            kwargs.setdefault("num_frames", None)
        if not kwargs.get("do_sample_frames", self.do_sample_frames):
            kwargs["num_clips"] = 1
        # pyrefly: ignore[bad-argument-type]  transformers' types know a path by their own class only
        return super().preprocess(videos, **kwargs)

    def __init__(self, **kwargs: Unpack[TubeViTVideoProcessorKwargs]) -> None:
        super().__init__(**kwargs)
        check_settings(self)
        for name, known in (("frame_sampling", FRAME_SAMPLINGS), ("short_clips", (*SHORT_CLIPS, None))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r}."
                )
        check_number_of_frames(self.num_frames, self.num_clips)

    if TYPE_CHECKING:
        # transformers lets a call take anything, and says that a tuple may be loaded
        __call__ = preprocess

        @classmethod
        def from_pretrained(
            cls: type[ProcessorT], pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
        ) -> ProcessorT: ...

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: int | float | None = None,
        frame_sampling: str | None = None,
        num_clips: int | None = None,
        short_clips: str | None = None,
        **kwargs: object,
    ) -> np.ndarray:
        """Indices of the frames to take, `(num_clips * num_frames,)`; [`TubeViTVideoProcessorKwargs`] tells which.

        Raises:
            ValueError: the arguments don't go together, `fps` is asked of a video of unknown rate, or the video has
                too few frames and may not be repeated or padded.
        """
        frame_sampling = frame_sampling or self.frame_sampling
        num_clips = self.num_clips if num_clips is None else num_clips
        for name, value in {"num_frames": num_frames, "fps": fps, "num_clips": num_clips}.items():
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be above 0, got {value}.")
        check_number_of_frames(num_frames, num_clips)
        is_file = metadata.video_backend is not None
        short_clips = short_clips or self.short_clips or ("repeat" if is_file else "error")
        total = metadata.total_num_frames
        if total == 0:
            raise ValueError("The video has no frames.")
        if frame_sampling == "uniform":
            if num_clips != 1:
                raise ValueError(f'`num_clips` is {num_clips}; it needs `frame_sampling` "random" or "spaced".')
            if num_frames is not None and fps is not None:
                raise ValueError(
                    f"`num_frames` is {num_frames} and `fps` is {fps}, which makes a window: choose its place by "
                    '`frame_sampling` "random" or "spaced", or give only one of the two for all of the video.'
                )
        elif num_frames is None:
            raise ValueError(f'`frame_sampling` "{frame_sampling}" needs `num_frames`.')

        # without a rate, frames are counted instead of seconds
        seconds, rate = (np.arange(total), 1) if fps is None else (frame_seconds(metadata), fps)
        if num_frames is None:
            return frames_at_rate(seconds, rate)
        if fits(seconds, num_frames, rate):
            if frame_sampling == "uniform":
                return uniform_frames(total, num_frames)
            starts = random_starts(num_clips) if frame_sampling == "random" else spaced_starts(num_clips)
            return window_frames(seconds, num_frames, rate, starts)
        if short_clips == "error":
            unit = "frames" if fps is None else f"frames at {fps} a second"
            raise ValueError(
                f"The video has {len(frames_at_rate(seconds, rate))} {unit}, but `num_frames` is {num_frames}. Lower "
                '`num_frames`, choose `short_clips="repeat"` or `"pad"`, or set `do_sample_frames=False`.'
            )
        clip = frames_at_rate(seconds, rate) if short_clips == "pad" else uniform_frames(total, num_frames)
        return np.tile(clip, num_clips)

    # pyrefly: ignore[bad-override]  transformers' types give an array, without its metadata
    def fetch_videos(
        self, video_url_or_urls: VideoSource | list[VideoSource], sample_indices_fn: SampleFrames | None = None
    ) -> tuple[torch.Tensor, VideoFileMetadata] | list[tuple[torch.Tensor, ...] | tuple[VideoFileMetadata, ...]]:
        """Decodes files: `(num_frames, 3, height, width)`, uint8, and metadata; of a list, a list of each."""
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]))
        # transformers has the settings of a call known to what samples frames
        settings = sample_indices_fn.keywords if isinstance(sample_indices_fn, partial) else {}
        return read_video(video_url_or_urls, sample_indices_fn, transform=self.make_shrink(**settings))

    def make_shrink(
        self,
        do_resize: bool = False,
        size: SizeDict | dict[str, int] | None = None,
        resample: PILImageResampling | None = None,
        **kwargs: object,
    ) -> FrameTransform | None:
        """Brings the frames of a video to the size that they are brought to later, if that is far smaller: of a large
        video no more than a few frames are there in full. It is for one video, whose frames are of one size."""
        if not do_resize:
            return None
        wanted: SizeDict = self._standardize_kwargs(size=size, default_to_square=self.default_to_square)["size"]

        is_worth_it: bool | None = None

        def shrink(frame: torch.Tensor) -> torch.Tensor:
            nonlocal is_worth_it
            if is_worth_it is False:
                return frame
            resized = self.resize(frame[None], size=wanted, resample=resample)[0]
            if is_worth_it is None:
                # all at once are faster
                is_worth_it = SHRINK * resized.numel() <= frame.numel()
            return resized if is_worth_it else frame

        return shrink

    # pyrefly: ignore[unannotated-return]  transformers' own annotation is wrong: it gives videos and their metadata
    def _decode_and_sample_videos(
        self,
        videos: Videos,
        video_metadata: VideoMetadata | dict[str, Any] | None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: SampleFrames | None = None,
    ):
        is_one = is_source(videos) or is_row(videos) or is_decoder(videos)
        given: Any = [videos] if is_one else videos
        if isinstance(given, (list, tuple)):
            batch = [source_of(video) if is_row(video) else video for video in given]
            if not batch:
                raise ValueError("`videos` is an empty list; at least one video is needed.")
            sources = [video for video in batch if is_source(video)]
            if len(sources) == len(batch):
                return self.fetch_videos(sources, sample_indices_fn)
            decoders = [video for video in batch if is_decoder(video)]
            if len(decoders) == len(batch):
                return read_decoders(decoders, sample_indices_fn)
            if sources or decoders:
                kind = "files" if sources else "decoders"
                raise ValueError(f"`videos` has {kind} beside arrays or others; process them in separate calls.")
            pictures = [video for video in batch if is_list_of_pictures(video)]
            if len(pictures) == len(batch):
                return self.load_pictures(pictures, video_metadata, sample_indices_fn)
        # pyrefly: ignore[bad-argument-type]  transformers' types leave out `None`, which it passes here itself
        return super()._decode_and_sample_videos(to_rgb(videos), video_metadata, do_sample_frames, sample_indices_fn)

    def load_pictures(
        self,
        videos: list[Pictures],
        video_metadata: VideoMetadata | dict[str, Any] | None,
        sample_indices_fn: SampleFrames | None = None,
    ) -> tuple[list[np.ndarray], list[VideoMetadata]]:
        """Reads videos whose frames are image files, only the sampled ones: `(num_frames, height, width, 3)` each."""
        # pyrefly: ignore[bad-argument-type]  as above
        metadata = make_batched_metadata(videos, video_metadata)
        arrays = []
        for pictures, entry in zip(videos, metadata):
            entry.video_backend = "pillow"
            chosen = range(len(pictures)) if sample_indices_fn is None else sample_indices_fn(entry)
            entry.frames_indices = indices = [int(index) for index in chosen]
            arrays.append(np.stack([read_picture(pictures[index]) for index in indices]))
        return arrays, metadata

    # pyrefly: ignore[bad-override]  all are passed by name, and most go on as they are
    def _preprocess(
        self,
        videos: list[torch.Tensor],
        num_frames: int | None = None,
        num_clips: int | None = None,
        short_clips: str | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if kwargs["do_rescale"] and any(video.is_floating_point() and video.max() <= 1 for video in videos):
            logger.warning_once(
                "No value of a floating-point video is above 1, yet it is rescaled as if they went to 255. If they go "
                "to 1, set `do_rescale=False`."
            )
        processed = super()._preprocess(videos, **kwargs)["pixel_values_videos"]
        # (num_clips * num_frames, channels, height, width) -> num_clips of (num_frames, channels, height, width)
        clips = [clip for video in processed for clip in video.unflatten(0, (num_clips or 1, -1))]
        lengths = [len(clip) for clip in clips]
        if short_clips == "pad":
            longest = max(lengths) if num_frames is None else max(num_frames, *lengths)
            data = {
                "pixel_values": [pad(clip, (0, 0) * 3 + (0, longest - len(clip))) for clip in clips],
                "frame_mask": [torch.arange(longest, device=clip.device) < len(clip) for clip in clips],
            }
        elif return_tensors is not None and len(set(lengths)) > 1:
            raise ValueError(
                f"The videos have {', '.join(map(str, lengths))} frames, which make no tensor. Sample the same number "
                'with `num_frames`, or choose `short_clips="pad"`.'
            )
        else:
            data = {"pixel_values": clips}
        return BatchFeature(data, tensor_type=return_tensors)

    @classmethod
    def get_video_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers does, which takes the image processor's file where there is none of a video processor: the
        settings that [`~TubeViTVideoProcessor.to_image_processor`] left there, and a warning of what is not known."""
        settings, rest = super().get_video_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "image_processor_type" not in settings:
            return settings, rest
        kept = settings.pop("video_processor", None)
        is_kept = isinstance(kept, dict)
        chosen = {name: getattr(cls, name, None) for name in SAMPLING} | (kept if is_kept else {})
        frames = ", ".join(f"{name}={chosen[name]!r}" for name in SAMPLING)
        logger.warning(
            f"{pretrained_model_name_or_path} has no {VIDEO_PROCESSOR_NAME}, which `Pipeline.save_pretrained` leaves "
            f"out. Videos are read {f'as {IMAGE_PROCESSOR_NAME} recorded it' if is_kept else 'as by default'}: "
            f"{frames}. If the model was used with other settings, save its video processor there: "
            "`pipe.video_processor.save_pretrained(folder)`."
        )
        return kept if is_kept else settings, rest

    def to_image_processor(self) -> TubeViTImageProcessor:
        """The image processor with the same settings. It carries those of this processor along, as
        `Pipeline.save_pretrained` saves the image processor only; and names this class for `AutoProcessor`."""
        names = TubeViTImageProcessor.valid_kwargs.__annotations__
        own = {name: value for name, value in self.to_dict().items() if name in self.valid_kwargs.__annotations__}
        code = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        more: dict[str, Any] = {"video_processor": own, "auto_map": {"AutoProcessor": code}}
        return TubeViTImageProcessor(**{name: value for name, value in own.items() if name in names}, **more)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves this processor and, with the same settings, the image processor: one folder then serves the video and
        the image pipelines. To have images processed otherwise, save an image processor of your own afterwards."""
        save_directory = os.fspath(save_directory)  # transformers itself takes no Path when it pushes
        self.to_image_processor().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


def check_number_of_frames(num_frames: int | None, num_clips: int | None) -> None:
    """Raises a `ValueError` for more than anybody can want: a processor may be a stranger's."""
    if (total := (num_frames or 1) * (num_clips or 1)) > MAX_INDICES:
        raise ValueError(
            f"`num_frames` is {num_frames} and `num_clips` is {num_clips}: {total} frames are wanted of a video, and "
            f"at most {MAX_INDICES} are read."
        )


def is_source(video: object) -> TypeGuard[VideoSource]:
    """Whether it is a file to decode: a path, a URL, bytes or a file object."""
    return isinstance(video, (str, os.PathLike, bytes)) or hasattr(video, "read")


def is_row(video: object) -> TypeGuard[Row]:
    return isinstance(video, dict) and {"path", "bytes"} == set(video)


def source_of(row: Row) -> str | bytes:
    source = row["path"] if row["bytes"] is None else row["bytes"]
    if source is None:
        raise ValueError("A video of `videos` has neither a path nor bytes.")
    return source


def is_decoder(video: object) -> bool:
    """Whether it is a `torchcodec.decoders.VideoDecoder`, which a `Video` column of Datasets gives."""
    return hasattr(video, "get_frames_at")


def read_decoders(
    decoders: list[Any], sample_indices_fn: SampleFrames | None = None
) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
    """Has decoders decode the sampled frames: `(num_frames, 3, height, width)` each, uint8, or as they say."""
    videos: list[torch.Tensor] = []
    metadata: list[VideoMetadata] = []
    for decoder in decoders:
        known = decoder.metadata
        entry = VideoMetadata(
            total_num_frames=known.num_frames,
            fps=known.average_fps,
            width=known.width,
            height=known.height,
            duration=known.duration_seconds,
            video_backend="torchcodec",
        )
        chosen = range(known.num_frames) if sample_indices_fn is None else sample_indices_fn(entry)
        entry.frames_indices = [int(index) for index in chosen]
        videos.append(decoder.get_frames_at(entry.frames_indices).data)
        metadata.append(entry)
    return videos, metadata


def is_list_of_pictures(video: object) -> TypeGuard[Pictures]:
    is_list = isinstance(video, (list, tuple)) and len(video) > 0
    return is_list and all(isinstance(frame, (str, os.PathLike)) for frame in video)


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """`(height, width, 3)`, uint8."""
    return np.asarray(open_picture(path))


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """An image in RGB, by its path or at an address, which is called as that of a video.

    Raises:
        VideoDecodingError: it cannot be read.
    """
    file, name = os.fspath(path), name_of(path)
    try:
        with contextlib.ExitStack() as resources:
            limits = VideoLimits.from_environment()
            opened: Any = open_source(file, resources, limits) if is_address(file) else None
            return load_image(file if opened is None else Image.open(opened))
    except VideoDecodingError as error:
        raise VideoDecodingError(f"{name}: {error}") from error.__cause__
    except (OSError, ValueError) as error:
        reason = str(error).replace(file, name)
        raise VideoDecodingError(f"{name}: it is no image that Pillow can read ({reason}).") from None


def to_rgb(videos: object) -> object:
    """Converts PIL images, also in nested lists: those of other modes have no three channels."""
    if isinstance(videos, (list, tuple)):
        return [to_rgb(video) for video in videos]
    return videos.convert("RGB") if isinstance(videos, Image.Image) else videos


__all__ = ["TubeViTVideoProcessor"]
