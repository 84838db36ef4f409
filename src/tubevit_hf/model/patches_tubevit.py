# SPDX-License-Identifier: Apache-2.0
"""Copies the pixels that tubes see, so that a tube is one matrix product."""

from math import gcd

import torch
from torch.autograd.forward_ad import unpack_dual

from .store_tubevit import can_keep
from .tubes_tubevit import Tube


# types in which neighbouring pixels are copied as one element, by their size in bytes
BLOCK_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def gather_patches(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> torch.Tensor:
    """Copies the pixels under each kernel application of a tube.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, neighbours, channels * kt * kh * kw)`, each in
    raster order.
    """
    block = find_block(pixel_values, tube, dtype)
    if block > 1:
        blocks = pixel_values.view(BLOCK_TYPES[block * pixel_values.element_size()])
        return copy_patches(blocks, tube, blocks.dtype, block).view(dtype)
    return copy_patches(pixel_values, tube, dtype)


def copy_patches(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype, block: int = 1) -> torch.Tensor:
    """Does the work of `gather_patches`, one element at a time; `block` is the number of pixels in an element."""
    start_t, start_h, start_w = tube.offset
    patches = pixel_values[:, start_t:, :, start_h:, start_w // block :]
    # -> (batch, t, channels, h, w, ft, kt, fh, kh, fw, kw): the region of each token, and in it each application of
    # the kernel. Nothing is copied before the end
    lengths = zip((1, 3, 4), (1, 1, block), tube.extent, tube.stride, tube.kernel_size, tube.kernel_stride)
    for dim, of, extent, stride, kernel, kernel_stride in lengths:
        patches = patches.unfold(dim, extent // of, stride // of).unfold(-1, kernel // of, kernel_stride // of)
    # -> (batch, t, h, w, ft, fh, fw, channels, kt, kh, kw), always a copy, see `TubeViTMeanPooler.choose`
    patches = patches.permute(0, 1, 3, 4, 5, 7, 9, 2, 6, 8, 10)
    patches = patches.to(dtype, copy=True, memory_format=torch.contiguous_format)
    # -> (batch, t * h * w, neighbours, channels * kt * kh * kw)
    return patches.flatten(7).flatten(4, 6).flatten(1, 3)


def find_block(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> int:
    """Returns the number of pixels along the width that can be copied as one element of a wider type.

    Pixel by pixel, a CPU copies short rows at a fraction of its rate. The number is 1 on other devices, and where
    gradients, graphs or a change of dtype need single pixels.
    """
    if (
        pixel_values.device.type != "cpu"
        or pixel_values.dtype != dtype
        or pixel_values.requires_grad
        or not can_keep(pixel_values)
        or unpack_dual(pixel_values).tangent is not None
        or pixel_values.is_neg()
        or pixel_values.stride(-1) != 1
    ):
        return 1
    places = (tube.kernel_size[2], tube.kernel_stride[2], tube.offset[2], pixel_values.shape[-1])
    return gcd(*places, *pixel_values.stride()[:-1], pixel_values.storage_offset(), 16 // pixel_values.element_size())
