# SPDX-License-Identifier: Apache-2.0
"""Checks the model's inputs, and brings them to one form."""

from collections.abc import Sequence

import torch
from transformers.utils import logging
from transformers.utils.import_utils import is_tracing


logger = logging.get_logger(__name__)


def as_video(pixel_values: torch.Tensor | None) -> torch.Tensor:
    """Turns images into clips of one frame: `(batch, [num_frames,] channels, height, width) -> (batch, num_frames,
    channels, height, width)`.

    Raises:
        ValueError: `pixel_values` is None, has another number of axes, or holds integers.
    """
    if pixel_values is None:
        raise ValueError("`pixel_values` is missing: give a video or an image, as TubeViTVideoProcessor makes them.")
    if pixel_values.ndim not in (4, 5):
        raise ValueError(
            "`pixel_values` must be a video (batch, frames, channels, height, width) or an image (batch, channels, "
            f"height, width), got {tuple(pixel_values.shape)}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` must be floating point, got {pixel_values.dtype}: rescale and normalize frames first, as "
            "TubeViTVideoProcessor and TubeViTImageProcessor do."
        )
    return pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]


def as_videos(clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Turns each clip `(num_frames, channels, height, width)` or image `(channels, height, width)` of a list into a
    batch of one, `(1, num_frames, channels, height, width)`.

    Raises:
        ValueError: the list is empty, or an item has another number of axes or holds integers.
    """
    if not clips:
        raise ValueError("`pixel_values` is an empty list; at least one clip is needed.")
    for clip in clips:
        if not isinstance(clip, torch.Tensor) or clip.ndim not in (3, 4):
            got = tuple(clip.shape) if isinstance(clip, torch.Tensor) else type(clip).__name__
            raise ValueError(
                "`pixel_values` as a list must hold tensors, clips (frames, channels, height, width) or images "
                f"(channels, height, width), got {got}."
            )
    return [as_video(clip[None]) for clip in clips]


def warn_of_images(pixel_values: torch.Tensor | Sequence[torch.Tensor] | None) -> None:
    """Warns if a video classifier gets several images.

    An image processor makes images of a video's frames. A video pipeline would then return the prediction of the first
    frame for the whole video.
    """
    if not isinstance(pixel_values, torch.Tensor) or pixel_values.ndim != 4 or is_tracing(pixel_values):
        return
    if len(pixel_values) > 1:
        logger.warning_once(
            "`pixel_values` (batch, channels, height, width) are images, and each gets an answer of its own. For the "
            "frames of one video use a video processor, `AutoVideoProcessor` or `pipeline(..., video_processor=...)`, "
            "or give `pixel_values[None]`. For images, `TubeViTForImageClassification` has the same weights, and does "
            "not say this."
        )


def check_channels(pixel_values: torch.Tensor, num_channels: int) -> None:
    """Raises a `ValueError` if clips `(batch, num_frames, channels, height, width)` have not `num_channels`."""
    if pixel_values.shape[2] != num_channels:
        raise ValueError(
            f"`pixel_values` has {pixel_values.shape[2]} channels, but `num_channels` is {num_channels}. "
            "Videos are (batch, frames, channels, height, width), images (batch, channels, height, width); got "
            f"{tuple(pixel_values.shape)}, an image counted as one frame."
        )


def as_frame_mask(frame_mask: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Moves a mask `(batch, num_frames)` to the device of its clips, as bool.

    Raises:
        ValueError: the mask has a wrong shape or type.
    """
    if frame_mask.shape != pixel_values.shape[:2]:
        raise ValueError(
            f"`frame_mask` must be (batch, num_frames), here {tuple(pixel_values.shape[:2])}, got "
            f"{tuple(frame_mask.shape)}."
        )
    if frame_mask.is_floating_point():
        raise ValueError(f"`frame_mask` must be bool, True where a frame is real, got {frame_mask.dtype}.")
    return frame_mask.to(device=pixel_values.device, dtype=torch.bool)


def can_read(tensor: torch.Tensor) -> bool:
    """Returns False while a graph is traced and within `torch.func`, where a tensor's values cannot be read."""
    return not is_tracing(tensor) and not torch._C._are_functorch_transforms_active()
