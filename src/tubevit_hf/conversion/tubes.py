# SPDX-License-Identifier: Apache-2.0
"""Kernels of the tubes that a converted ViT gets for videos."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import torch
from torch import nn

from ..model.configuration_tubevit import TABLE_12_TUBES
from ..model.tubes_tubevit import Size, Tube, as_size
from .sources import ConversionError


# cosine of a kernel and what inflating makes of the patch, from which on one comes from the other: it is about 0 for
# kernels that have nothing to do with each other
ALIKE = 0.5


def default_tubes(patch_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Table 12's shapes without space-to-depth, with the source's patch in place of its own."""
    tubes = [{**tube, "space_to_depth": 1} for tube in TABLE_12_TUBES[:-1]]
    patch = TABLE_12_TUBES[-1]
    stride = [patch["stride"][0], *patch_size]
    return [*tubes, {"kernel_size": [1, *patch_size], "stride": stride}]


def interleaved_tubes(patch_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Tubes of one and four frames that are as high and wide as a patch and lie at twice its stride, the one between
    the other like the fields of a chessboard, every four frames: 784 tokens for 32x224x224 and patches of 16 pixels.
    An image is seen through the first tube, which reads a quarter of its patches."""
    height, width = patch_size
    stride = [4, 2 * height, 2 * width]
    return [
        {"kernel_size": [1, height, width], "stride": stride},
        {"kernel_size": [4, height, width], "stride": stride, "offset": [0, height, width]},
    ]


def find_patch(tubes: tuple[Tube, ...], patch_size: tuple[int, int]) -> int:
    """Index of the tube that is the source's patch embedding, the densest if there are several. It begins at the first
    patch of the first frame, so that it fits an image.

    Raises:
        ConversionError: there is none.
    """
    steps = {
        index: patch_steps(tube, patch_size)
        for index, tube in enumerate(tubes)
        if prod(tube.space_to_depth) == 1
        and tube.offset == (0, 0, 0)
        and tube.kernel_size == (1, *patch_size)
        and not any(step % length for step, length in zip(tube.stride[1:], patch_size))
    }
    if steps:
        return min(steps, key=lambda index: prod(steps[index]))
    height, width = patch_size
    raise ConversionError(
        f"None of the `tubes` is the source's patch embedding: kernel [1, {height}, {width}] at a stride of "
        f"[any, {height}, {width}] or multiples of {height} and {width}, without offset or space-to-depth."
    )


def patch_steps(tube: Tube, patch_size: tuple[int, int]) -> tuple[int, int]:
    """How many patches of the source lie from one token of its patch tube to the next, along height and width: `(1,
    1)` for a tube that reads all patches."""
    # patches that overlap are all read
    rows, columns = (max(1, step // length) for step, length in zip(tube.stride[1:], patch_size))
    return rows, columns


def inflate_kernel(patch_kernel: torch.Tensor, kernel_size: Size) -> torch.Tensor:
    """A tube's kernel that gives, on a still clip, the patch embedding of what it sees, resized to the patch's size.

    Resizing an image is a linear map; its transpose, applied to the patch kernel, resizes the kernel such that the
    token is exactly that of the resized region, in direction and scale. Every frame has its equal share in it.

    Args:
        patch_kernel: `(hidden_size, channels, h, w)`.
        kernel_size: of the tube.

    Returns:
        `(hidden_size, channels, *kernel_size)`.
    """
    num_frames, *size = kernel_size
    rows, columns = (
        resize_matrix(length, patch_length).to(patch_kernel)
        for length, patch_length in zip(size, patch_kernel.shape[-2:])
    )
    # patch axes (p, q), tube axes (h, w)
    kernel = torch.einsum("dcpq,hp,wq->dchw", patch_kernel, rows, columns)
    return (kernel / num_frames)[:, :, None].repeat(1, 1, num_frames, 1, 1)


def find_inflated(tubes: Sequence[Tube], kernels: Sequence[torch.Tensor]) -> tuple[int, dict[int, torch.Tensor]]:
    """Which kernels of a model were inflated from that of its patch: the patch's number, and of each such tube what
    inflating makes of the patch. Training moves both; they are taken for inflated while most channels still agree
    better than not.

    Args:
        tubes: of the model.
        kernels: of each, `(out_channels, channels, t, h, w)`.
    """
    patches = [index for index, tube in enumerate(tubes) if tube.sees_one_frame and prod(tube.space_to_depth) == 1]
    if not patches:
        return -1, {}
    patch = patches[0]
    found: dict[int, torch.Tensor] = {}
    for index, kernel in enumerate(kernels):
        if kernel.shape[0] == kernels[patch].shape[0] and kernel.shape[2] > 1:
            made = inflate_kernel(kernels[patch][:, :, 0], tubes[index].kernel_size)
            if nn.functional.cosine_similarity(made.flatten(1), kernel.flatten(1)).median() > ALIKE:
                found[index] = made
    return patch, found


def resize_matrix(length: int, new_length: int) -> torch.Tensor:
    """Linear resizing of a row of pixels, `(length, new_length)`; antialiased where it shrinks."""
    pixels = torch.eye(length)[:, None, None]  # `length` images of a single row, each with another pixel lit
    size = (1, new_length)
    return nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)[:, 0, 0]


def widen(tube: Tube, hidden_size: int, native_size: Size) -> Tube:
    """The same kernel for a wider encoder: more of its neighbouring outputs are concatenated (Section 3.6).

    The fewest neighbours that reach the width are taken; of equally many, those that are nearest to a cube, then a
    square. What exceeds the width is cut by the model. A token then sees a larger region: choices that no longer fit
    the native clip are passed over.

    Raises:
        ConversionError: no number of neighbours reaches the width, since each factor must divide the stride, or none
            of those that do fits the clip.
    """
    options = []
    for factors in product(*(divisors(step // done) for step, done in zip(tube.stride, tube.space_to_depth))):
        space_to_depth = as_size(done * factor for done, factor in zip(tube.space_to_depth, factors))
        if prod(space_to_depth) * tube.out_channels >= hidden_size:
            _, height, width = factors
            options.append((prod(factors), max(factors), abs(height - width), space_to_depth))
    if not options:
        raise ConversionError(
            f"The tube {list(tube.kernel_size)} has {tube.out_channels} channels, and no space-to-depth that divides "
            f"its stride {list(tube.stride)} brings it to a width of {hidden_size}."
        )
    for *_, space_to_depth in sorted(options):
        wide = replace(tube, space_to_depth=space_to_depth)
        if all(wide.grid(native_size)):
            return wide
    num_frames, height, width = native_size
    raise ConversionError(
        f"The tube {list(tube.kernel_size)} has {tube.out_channels} channels; with as many neighbours as reach a "
        f"width of {hidden_size} it does not fit a clip of {num_frames} frames of {height}x{width} pixels. Give more "
        "frames."
    )


def renormalize(
    weight: torch.Tensor,
    bias: torch.Tensor,
    old: tuple[Sequence[float], Sequence[float]],
    new: tuple[Sequence[float], Sequence[float]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A kernel that gives of pixels normalised by `new` what it gave of those normalised by `old`.

    `(pixel - old_mean) / old_std` is, channel by channel, `normalised * new_std / old_std + (new_mean - old_mean) /
    old_std`; the factor goes into the weight, the rest into the bias.

    Args:
        weight: `(out_channels, channels, t, h, w)`.
        bias: `(out_channels)`.
        old, new: mean and standard deviation of each channel.
    """
    (old_mean, old_std), (new_mean, new_std) = (torch.tensor(numbers, dtype=torch.float64) for numbers in (old, new))
    exact = weight.double()
    shift = torch.einsum("dcthw,c->d", exact, (new_mean - old_mean) / old_std)
    scaled = exact * (new_std / old_std)[:, None, None, None]
    return scaled.to(weight.dtype), (bias.double() + shift).to(bias.dtype)


def divisors(number: int) -> list[int]:
    return [factor for factor in range(1, number + 1) if number % factor == 0]
