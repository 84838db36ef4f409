# SPDX-License-Identifier: Apache-2.0
"""Copies the pixels that tubes see, so that a tube is one matrix product."""

from dataclasses import replace
from math import gcd

import torch

from .store_tubevit import can_keep
from .tubes_tubevit import Size, Tube


# number types by their bytes, as which neighbouring pixels are copied at once
BLOCK_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def gather_patches(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> torch.Tensor:
    """Copies the pixels under each kernel application of a tube.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, neighbours, channels * kt * kh * kw)`, each in
    raster order.
    """
    block = find_block(pixel_values, tube, dtype)
    if block > 1:
        blocks = pixel_values.view(BLOCK_TYPES[block * pixel_values.element_size()])
        return copy_patches(blocks, join_pixels(tube, block), blocks.dtype).view(dtype)
    return copy_patches(pixel_values, tube, dtype)


def copy_patches(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> torch.Tensor:
    """Copies as `gather_patches`, element by element."""
    # -> (batch, t, channels, h, w, ft, kt, fh, kh, fw, kw): what each token sees, and in it each application of the
    # kernel. Nothing is copied before the end.
    patches = pixel_values
    for axis, dim in enumerate((1, 3, 4)):
        patches = patches.narrow(dim, tube.offset[axis], patches.shape[dim] - tube.offset[axis])
        patches = patches.unfold(dim, tube.extent[axis], tube.stride[axis])
        patches = patches.unfold(-1, tube.kernel_size[axis], tube.kernel_stride[axis])
    # -> (batch, t, h, w, ft, fh, fw, channels, kt, kh, kw), copied here in any case: see `TubeViTMeanPooler`
    patches = patches.permute(0, 1, 3, 4, 5, 7, 9, 2, 6, 8, 10)
    patches = patches.to(dtype, copy=True, memory_format=torch.contiguous_format)
    # -> (batch, t * h * w, neighbours, channels * kt * kh * kw)
    return patches.flatten(7).flatten(4, 6).flatten(1, 3)


def find_block(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> int:
    """Number of pixels along the width that can be copied as one element of a wider type: a CPU copies short rows by
    pixels, at a fraction of its rate. 1 where gradients, a graph or another number type need pixels."""
    if (
        pixel_values.device.type != "cpu"
        or pixel_values.requires_grad
        or pixel_values.dtype != dtype
        or pixel_values.stride(-1) != 1
        or not can_keep(pixel_values)
    ):
        return 1
    places = (tube.kernel_size[2], tube.kernel_stride[2], tube.offset[2], pixel_values.shape[-1])
    return gcd(*places, *pixel_values.stride()[:-1], pixel_values.storage_offset(), 16 // pixel_values.element_size())


def join_pixels(tube: Tube, block: int) -> Tube:
    """The same tube in blocks of pixels along the width."""

    def join(size: Size) -> Size:
        return (*size[:2], size[2] // block)

    return replace(tube, kernel_size=join(tube.kernel_size), stride=join(tube.stride), offset=join(tube.offset))
