# SPDX-License-Identifier: Apache-2.0
"""Copies the pixels that tubes see, so that a tube is one matrix product."""

from math import gcd

import torch

from .store_tubevit import can_keep
from .tubes_tubevit import Size, Tube


# types in which neighbouring pixels are copied as one element, by their size in bytes
BLOCK_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def gather_patches(pixel_values: torch.Tensor, tube: Tube, grid: Size, dtype: torch.dtype) -> torch.Tensor:
    """Copies the pixels under each kernel application of a tube.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, neighbours, channels * kt * kh * kw)`, each in
    raster order. `grid` is `(t, h, w)`, the tube's grid in these clips.
    """
    block = find_block(pixel_values, tube, dtype)
    if block > 1:
        blocks = pixel_values.view(BLOCK_TYPES[block * pixel_values.element_size()])
        return copy_patches(blocks, tube, grid, blocks.dtype, block).view(dtype)
    return copy_patches(pixel_values, tube, grid, dtype)


def copy_patches(
    pixel_values: torch.Tensor, tube: Tube, grid: Size, dtype: torch.dtype, block: int = 1
) -> torch.Tensor:
    """Does the work of `gather_patches`, one element at a time; `block` is the number of pixels in an element."""
    (kt, kh, kw), (ft, fh, fw), (t, h, w) = tube.kernel_size, tube.space_to_depth, grid
    # all kernel applications along an axis are one `kernel_stride` apart, within a token and from one token to the
    # next: an axis has t * ft of them, and one `unfold` finds them all. Nothing is copied before the end
    axes = zip(tube.offset, grid, tube.space_to_depth, tube.kernel_stride, tube.kernel_size, (1, 1, block))
    frames, rows, columns = (
        slice(start // of, (start + (count * factor - 1) * step + kernel) // of)
        for start, count, factor, step, kernel, of in axes
    )
    step_t, step_h, step_w = tube.kernel_stride
    patches = pixel_values[:, frames, :, rows, columns].unfold(1, kt, step_t).unfold(3, kh, step_h)
    patches = patches.unfold(4, kw // block, step_w // block)
    batch_size, channels = pixel_values.shape[0], pixel_values.shape[2]
    # (batch, t * ft, channels, h * fh, w * fw, kt, kh, kw) -> (batch, t, h, w, ft, fh, fw, channels, kt, kh, kw)
    patches = patches.view(batch_size, t, ft, channels, h, fh, w, fw, kt, kh, kw // block)
    patches = patches.permute(0, 1, 4, 6, 2, 5, 7, 3, 8, 9, 10)
    # always a copy, see `TubeViTMeanPooler.choose`
    patches = patches.to(dtype, copy=True, memory_format=torch.contiguous_format)
    return patches.view(batch_size, t * h * w, ft * fh * fw, channels * kt * kh * (kw // block))


def find_block(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> int:
    """Returns the number of pixels along the width that can be copied as one element of a wider type.

    Pixel by pixel, a CPU copies short rows at a fraction of its rate. The number is 1 on other devices, and where
    gradients, graphs or a change of dtype need single pixels.
    """
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
