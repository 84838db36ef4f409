# SPDX-License-Identifier: Apache-2.0
"""A clip on its way through a model, in numbers: what counts in each frame, and what is said as the clip goes on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from transformers.image_utils import load_image

from ..data.listing import kind_of
from ..explanation import explain_clips, scores_so_far, to_heat
from ..explanation.attention import pooling_weights
from ..explanation.occlusion import Watch
from ..explanation.scores import find_tubevit
from ..model.modeling_tubevit import TubeViTForClassification, TubeViTPreTrainedModel
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .explaining import read_clip, to_pictures
from .running import LoadedModel


@dataclass(frozen=True)
class Passage:
    """What becomes of a clip in a model.

    Args:
        frames: as the model saw them, `(num_frames, 3, height, width)`, uint8 RGB.
        heat: `(num_frames, height, width)`, from 0 to 1: what speaks for the most likely label or, without labels,
            where the attention of all layers lies.
        labels: names of the classes; none of a model without a head.
        scores: of the labels if the clip stood still from each frame on, `(num_frames, labels)`.
        weights: how the pooling weighs the tokens of the tubes, `(tokens,)`; `None` where no attention pools them one
            by one.
    """

    frames: torch.Tensor
    heat: torch.Tensor
    labels: list[str]
    scores: np.ndarray | None
    weights: np.ndarray | None


def read_frames(model: LoadedModel, video: str) -> torch.Tensor:
    """What a processor makes of a video, or of an image for a model of one frame: `(num_frames, channels, height,
    width)`.

    Raises:
        ValueError: it cannot be read, the processor is not of a TubeViT, or there is an image where a video is
            expected, or the reverse.
    """
    processor, num_frames = model.processor, model.model.config.num_frames
    if not isinstance(processor, TubeViTVideoProcessor):
        raise ValueError(f"only the video processor of a TubeViT can read it, got {type(processor).__name__}.")
    if is_image(video) != (num_frames == 1):
        raise ValueError(
            f"{video}: the model reads single images (`num_frames` is 1): give an image, such as a .png."
            if num_frames == 1
            else f"{video}: it is an image, but the model reads clips of {num_frames} frames: give a video, such as "
            "an .mp4."
        )
    if num_frames == 1:
        image = torch.from_numpy(np.array(load_image(video)))[None].permute(0, 3, 1, 2)
        return processor(image, do_sample_frames=False, return_tensors="pt")["pixel_values"][0]
    return read_clip(processor, video, num_frames)[0]


def is_image(file: str) -> bool:
    """Whether Pillow knows a file, and not by the name of a video, as of a GIF."""
    if not Path(file).is_file() or kind_of(file):
        return False
    try:
        with Image.open(file):
            return True
    except (UnidentifiedImageError, OSError):
        return False


def follow_clip(model: LoadedModel, clip: torch.Tensor, watch: Watch = lambda steps: steps) -> Passage:
    """Follows a clip through a model.

    Args:
        model: as `load_model` gives it, with or without a head.
        clip: as [`read_frames`] gives it.
        watch: around the numbers of the frames, such as `tqdm`.
    """
    network = find_tubevit(model.model)
    clips = clip[None].to(network.device, network.dtype)
    labels: list[str] = []
    scores = None
    if isinstance(network, TubeViTForClassification) and network.config.num_labels:
        labels = [name for _, name in sorted((network.config.id2label or {}).items())]
        scores = scores_so_far(network, clips, watch)[0].cpu().numpy()
    heat = explain_clips(network, clips, "gradient" if labels else "rollout")[0].cpu()
    return Passage(
        frames=to_pictures(model.processor, clip).round().byte().permute(0, 3, 1, 2),
        heat=to_heat(heat, smooth=bool(labels)),
        labels=labels,
        scores=scores,
        weights=weigh_tokens(network, clips),
    )


def weigh_tokens(model: TubeViTPreTrainedModel, clips: torch.Tensor) -> np.ndarray | None:
    if model.config.pooling_type != "attention" or model.config.joint_layer > 0:
        return None
    return pooling_weights(model, clips)[0, model.config.num_prefix_tokens :].cpu().numpy()
