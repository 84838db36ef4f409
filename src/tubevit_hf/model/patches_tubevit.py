# SPDX-License-Identifier: Apache-2.0
"""Copies the pixels that tubes see, so that a tube is one matrix product."""

from math import gcd
from typing import NamedTuple

import torch
from torch.autograd.forward_ad import unpack_dual

from .store_tubevit import Store, can_keep
from .tubes_tubevit import Tube


# types in which neighbouring pixels are copied as one element, by their size in bytes
BLOCK_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Window(NamedTuple):
    """Where the pixels of a tube lie in the memory of clips, in blocks of neighbouring pixels."""

    block_type: torch.dtype | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    # from the first pixel of the clips
    offset: int


def gather_patches(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype, store: Store) -> torch.Tensor:
    """Copies the pixels under each kernel application of a tube.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, neighbours, channels * kt * kh * kw)`, each in
    raster order.
    """
    if not is_plain(pixel_values):
        return copy_patches(view_patches(pixel_values, tube), dtype)
    # one view instead of many, whose making takes the host as long as the copy
    start = pixel_values.storage_offset()
    key = (pixel_values.shape, pixel_values.stride(), start % 16, pixel_values.dtype, dtype, pixel_values.device.type)
    window = store.get(key, lambda: find_window(pixel_values, tube, dtype))
    if window.block_type is None:
        return copy_patches(pixel_values.as_strided(window.shape, window.stride, start + window.offset), dtype)
    blocks = pixel_values.view(window.block_type)
    patches = blocks.as_strided(window.shape, window.stride, blocks.storage_offset() + window.offset)
    return copy_patches(patches, window.block_type).view(dtype)


def view_patches(pixel_values: torch.Tensor, tube: Tube, block: int = 1) -> torch.Tensor:
    """Views the pixels under each kernel application of a tube, without a copy.

    `-> (batch, t, h, w, ft, fh, fw, channels, kt, kh, kw)`; `block` is the number of pixels in an element.
    """
    start_t, start_h, start_w = tube.offset
    patches = pixel_values[:, start_t:, :, start_h:, start_w // block :]
    # -> (batch, t, channels, h, w, ft, kt, fh, kh, fw, kw): the region of each token, and in it each application
    lengths = zip((1, 3, 4), (1, 1, block), tube.extent, tube.stride, tube.kernel_size, tube.kernel_stride)
    for dim, of, extent, stride, kernel, kernel_stride in lengths:
        patches = patches.unfold(dim, extent // of, stride // of).unfold(-1, kernel // of, kernel_stride // of)
    return patches.permute(0, 1, 3, 4, 5, 7, 9, 2, 6, 8, 10)


def copy_patches(patches: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Copies a view of patches: `-> (batch, t * h * w, neighbours, channels * kt * kh * kw)`."""
    # always a copy, see `TubeViTMeanPooler.choose`
    patches = patches.to(dtype, copy=True, memory_format=torch.contiguous_format)
    return patches.flatten(7).flatten(4, 6).flatten(1, 3)


def is_plain(pixel_values: torch.Tensor) -> bool:
    """Returns True if these pixels are just memory: no gradient, derivative, graph or sign comes with them."""
    return (
        can_keep(pixel_values)
        and not pixel_values.requires_grad
        and not pixel_values.is_neg()
        and unpack_dual(pixel_values).tangent is None
    )


def find_window(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> Window:
    """Finds the pixels of a tube in memory."""
    block, block_type = find_block(pixel_values, tube, dtype), None
    if block > 1:
        block_type = BLOCK_TYPES[block * pixel_values.element_size()]
        pixel_values = pixel_values.view(block_type)
    patches = view_patches(pixel_values, tube, block)
    offset = int(patches.storage_offset() - pixel_values.storage_offset())
    return Window(block_type, patches.shape, patches.stride(), offset)


def find_block(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> int:
    """Returns the number of pixels along the width that can be copied as one element of a wider type.

    Pixel by pixel, a CPU copies short rows at a fraction of its rate. The number is 1 on other devices and where the
    dtype changes.
    """
    if pixel_values.device.type != "cpu" or pixel_values.dtype != dtype or pixel_values.stride(-1) != 1:
        return 1
    places = (tube.kernel_size[2], tube.kernel_stride[2], tube.offset[2], pixel_values.shape[-1])
    return gcd(*places, *pixel_values.stride()[:-1], pixel_values.storage_offset(), 16 // pixel_values.element_size())
