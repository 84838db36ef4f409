# SPDX-License-Identifier: Apache-2.0
"""Sources for the tests of conversion, and how outputs are compared."""

import torch
import torchvision
from torch import nn

from .tiny import PATCH, TINY_VIT, randomize
from .tolerances import CONVERSION_TOLERANCE


NATIVE, *OTHERS = [(32, 32), (48, 32), (40, 72)]
DINOV2 = {**TINY_VIT, "mlp_ratio": 2}
DINOV2.pop("intermediate_size")
TIMM = {"img_size": 32, "patch_size": PATCH, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}


def random_source(model: nn.Module) -> nn.Module:
    """Weights large enough that a missing bias or another GELU shows, and small enough that float32 sums in another
    order stay within the tolerance."""
    return randomize(model, std=0.3)


def random_images(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= CONVERSION_TOLERANCE * theirs.std()


SMALL_TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}


def torchvision_vit(image_size: int = 32) -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=image_size, patch_size=PATCH, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=40, num_classes=3
    )


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert tensor.equal(theirs.state_dict()[name]), name
