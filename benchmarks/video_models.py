# SPDX-License-Identifier: Apache-2.0
"""Video Transformers of Transformers that are as wide and deep as a TubeViT, and clips for them.

All have random weights, the TubeViT's classes, image size and activation (PyTorch's exact GELU), and patches of 16
pixels. V-JEPA 2 is without its predictor, which no classifier calls. VideoPrism has its four temporal layers on top.
"""

from collections.abc import Callable

import torch
from transformers import (
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoPrismForVideoClassification,
    VideoPrismVisionConfig,
    ViTConfig,
    ViTForImageClassification,
    VivitConfig,
    VivitForVideoClassification,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    set_seed,
)

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification


OURS = "TubeViT"


def build_tubevit(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    return TubeViTForVideoClassification(config)


def build_vivit(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    return VivitForVideoClassification(VivitConfig(**encoder(config), num_frames=num_frames, tubelet_size=[2, 16, 16]))


def build_videomae(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    return VideoMAEForVideoClassification(VideoMAEConfig(**encoder(config), num_frames=num_frames, tubelet_size=2))


def build_timesformer(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    return TimesformerForVideoClassification(TimesformerConfig(**encoder(config), num_frames=num_frames))


def build_vjepa2(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    settings = encoder(config)
    ratio = settings.pop("intermediate_size") / config.hidden_size
    settings["crop_size"] = settings.pop("image_size")
    return VJEPA2ForVideoClassification(
        VJEPA2Config(**settings, frames_per_clip=num_frames, mlp_ratio=ratio, pred_num_hidden_layers=0)
    )


def build_videoprism(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    settings = encoder(config)
    settings["num_spatial_layers"] = settings.pop("num_hidden_layers")
    return VideoPrismForVideoClassification(VideoPrismVisionConfig(**settings, num_frames=num_frames))


def build_vit(config: TubeViTConfig, num_frames: int) -> PreTrainedModel:
    """Reads images: `num_frames` is 0."""
    return ViTForImageClassification(ViTConfig(**encoder(config)))


def encoder(config: TubeViTConfig) -> dict:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    settings = {name: getattr(config, name) for name in names}
    return {**settings, "image_size": config.image_size, "num_labels": config.num_labels}


# the frames that each is known for, 0 for images, and how it is built like a TubeViT
MODELS: dict[str, tuple[int, Callable[[TubeViTConfig, int], PreTrainedModel]]] = {
    OURS: (32, build_tubevit),
    "ViViT": (32, build_vivit),
    "VideoMAE": (16, build_videomae),
    "VideoMAE (32 frames)": (32, build_videomae),
    "TimeSformer": (8, build_timesformer),
    "V-JEPA 2": (16, build_vjepa2),
    "VideoPrism": (16, build_videoprism),
    "ViT": (0, build_vit),
}


def build_like(name: str, config: TubeViTConfig, num_frames: int | None = None) -> PreTrainedModel:
    """The model of that name, with the same weights in every call.

    Args:
        name: of `MODELS`.
        config: of the TubeViT that it is as wide and deep as.
        num_frames: of its clips; default: those that it is known for.
    """
    set_seed(0)
    usual, construct = MODELS[name]
    return construct(config, usual if num_frames is None else num_frames)


def random_clips(batch: int, num_frames: int, image_size: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Clips `(batch, num_frames, 3, image_size, image_size)`; for 0 frames images, `(batch, 3, ...)`."""
    frames = [num_frames] if num_frames else []
    return torch.randn(batch, *frames, 3, image_size, image_size, device=device)
