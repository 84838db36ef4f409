# SPDX-License-Identifier: Apache-2.0
"""What the tests of the model share: configurations, clips, masks and gradients.

Clips have an odd length and differ in height and width, kernels and strides differ along each axis, and all parameters
are drawn at random: a swapped axis, a missing bias or a transposed weight changes the numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForVideoClassification,
)

from .tiny import randomize
from .tolerances import assert_close


# A width of 20 leaves two channels without positions; MLP, labels and channels are odd or differ from all else
BASE = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 13,
    "image_size": [17, 23],
    "num_frames": 9,
    "num_channels": 2,
    "base_kernel_size": [2, 3, 4],
    "num_labels": 3,
}
NATIVE = (9, 17, 23)
PATCH = {"kernel_size": [1, 5, 4], "stride": [5, 6, 8]}
TUBES = {
    "plain": [{"kernel_size": [3, 4, 5], "stride": [4, 8, 9], "offset": [1, 2, 0]}, PATCH],
    "overlapping": [{"kernel_size": [4, 6, 7], "stride": [2, 9, 5], "offset": [0, 1, 3]}],
    "time": [{"kernel_size": [2, 3, 4], "stride": [4, 9, 10], "space_to_depth": [2, 1, 1]}, PATCH],
    # six neighbours of four channels: 24, cut to 20
    "space": [
        {
            "kernel_size": [2, 3, 2],
            "stride": [3, 8, 9],
            "offset": [1, 0, 2],
            "space_to_depth": [1, 2, 3],
            "out_channels": 4,
        }
    ],
    # eight neighbours of three channels, with gaps between them: 24, cut to 20
    "time_and_space": [
        {
            "kernel_size": [1, 2, 3],
            "stride": [4, 8, 10],
            "offset": [0, 3, 1],
            "space_to_depth": [2, 2, 2],
            "out_channels": 3,
        },
        {"kernel_size": [2, 7, 5], "stride": [5, 9, 11], "space_to_depth": [1, 1, 1]},
    ],
    # all of it at once, in the manner of Table 12
    "mixed": [
        {"kernel_size": [2, 4, 3], "stride": [4, 9, 12], "space_to_depth": [2, 1, 1]},
        {"kernel_size": [4, 2, 3], "stride": [3, 10, 9], "offset": [1, 2, 3], "space_to_depth": [1, 2, 1]},
        PATCH,
    ],
}
ATTENTION = ["eager", "sdpa"]
# tokens that a clip can be pooled from, and what else it may carry
POOLING = {
    "attention": {"pooling_type": "attention"},
    "attention_with_prefix": {"pooling_type": "attention", "use_cls_token": True, "num_register_tokens": 3},
    "mean": {"pooling_type": "mean"},
    "mean_with_prefix": {"pooling_type": "mean", "use_cls_token": True, "num_register_tokens": 2},
    "mean_with_registers": {"pooling_type": "mean", "num_register_tokens": 1},
    "cls": {"pooling_type": "cls", "use_cls_token": True},
    "cls_with_registers": {"pooling_type": "cls", "use_cls_token": True, "num_register_tokens": 2},
}
# a model that has every part
ALL_PARTS = {
    "num_hidden_layers": 3,
    "gate_layer": 1,
    "use_layer_scale": True,
    "use_pre_layernorm": True,
    "position_embedding_type": "learned",
    **POOLING["attention_with_prefix"],
}


def build(
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    cls: type = TubeViTForVideoClassification,
    std: float = 0.3,
    **settings,
):
    """A model in evaluation mode, all of its parameters random."""
    config = TubeViTConfig(**{**BASE, "tubes": TUBES["mixed"], **settings})
    return randomize(cls._from_config(config, attn_implementation=attn), std=std).to(dtype)


def random_clip(size=NATIVE, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    """`(batch, frames, channels, height, width)` for a `size` of `(frames, height, width)`."""
    frames, height, width = size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, BASE["num_channels"], height, width, generator=generator).to(dtype)


@contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Fills with what autograd stores in forward passes within, parameters aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def mask_of(lengths, num_frames: int) -> torch.Tensor:
    """`(batch, num_frames)`: the first `lengths[i]` frames of clip `i` are real."""
    return torch.arange(num_frames) < torch.tensor(lengths)[:, None]


def gradients(output: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By name; zero where `output` does not depend on it, as on a tube that does not fit."""
    found = torch.autograd.grad(output, list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(inputs.items(), found)
    }


def backward(model: nn.Module, *args, **kwargs) -> dict[str, torch.Tensor]:
    """Gradients of a random direction of the logits, by the parameter's name."""
    logits = model(*args, **kwargs).logits
    direction = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)
    model.zero_grad()
    (logits * direction).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_all_close(actual: dict, expected: dict, tolerance: str):
    assert actual.keys() == expected.keys()
    for name in actual:
        assert_close(actual[name], expected[name], tolerance, name)
