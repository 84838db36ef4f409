# SPDX-License-Identifier: Apache-2.0
"""Resizes learned position tables and shared kernels by matrix products, which every runtime computes alike."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from transformers.utils.import_utils import is_tracing

from .store_tubevit import Store
from .tubes_tubevit import Size


# (mode, align_corners, antialias) of `interpolate`, by `position_embedding_resize`: ViT libraries resize their tables
# in these ways; "bilinear" is for shared kernels
RESIZE_ARGUMENTS = {
    "bicubic": ("bicubic", False, False),
    "bicubic_antialias": ("bicubic", False, True),
    "bicubic_corners": ("bicubic", True, False),
    "bilinear": ("bilinear", False, False),
    "bilinear_corners": ("bilinear", True, False),
}


def resize_positions(table: torch.Tensor, grid: Size, resize: str, store: Store) -> torch.Tensor:
    """Resizes a learned position table to a grid: `(1, [t,] h, w, hidden_size) -> (1, t * h * w, hidden_size)`.

    In space it interpolates by the method `resize`. In time it reads the table by index and repeats the last step:
    with interpolation, a padded clip would get other positions than the unpadded one. A table without a time axis is
    the same at every step.
    """
    steps, height, width = grid
    if table.ndim == 4:
        table = table[:, None]
    # a traced graph must fit other sizes too, not only the table's own
    traced = is_tracing(table)
    if traced or table.shape[2:4] != (height, width):
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        rows = resize_weights(table.shape[2], height, resize, table, store)
        columns = resize_weights(table.shape[3], width, resize, table, store)
        with exact_products(table.device):
            table = torch.einsum("yi,btijd->btyjd", rows, table)
            table = torch.einsum("xj,btyjd->btyxd", columns, table)
    if traced or table.shape[1] != steps:
        table = table[:, torch.arange(steps, device=table.device).clamp(max=table.shape[1] - 1)]
    return table.flatten(1, 3)


def interpolate_kernel(base_kernel: torch.Tensor, kernel_size: Size, store: Store) -> torch.Tensor:
    """Resizes a shared kernel `(out_channels, channels, t, h, w)` tri-linearly to another size, without rescaling its
    values (Section 3.3)."""
    kernel = base_kernel.to(torch.promote_types(base_kernel.dtype, torch.float32))
    with exact_products(kernel.device):
        for axis, (old, new) in enumerate(zip(kernel.shape[2:], kernel_size), start=2):
            weights = resize_weights(old, new, "bilinear", kernel, store)
            kernel = torch.tensordot(kernel, weights, dims=([axis], [1])).movedim(-1, axis)
    return kernel.to(base_kernel.dtype).contiguous()


def resize_weights(old: int, new: int, resize: str, like: torch.Tensor, store: Store) -> torch.Tensor:
    """Returns the matrix `(new, old)` that resizes an axis from `old` to `new` places, in the dtype of `like`."""
    mode, align_corners, antialias = RESIZE_ARGUMENTS[resize]

    def compute() -> torch.Tensor:
        each_alone = torch.eye(old, dtype=like.dtype, device=like.device)[None, None]
        return nn.functional.interpolate(
            each_alone, size=(new, old), mode=mode, align_corners=align_corners, antialias=antialias
        )[0, 0]

    return store.get_tensor((old, new, resize), compute, like.detach())


def exact_products(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which autocast does not round products."""
    # without autocast no context is needed, and exported graphs contain none
    rounds = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if rounds else nullcontext()
