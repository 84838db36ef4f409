# SPDX-License-Identifier: Apache-2.0
"""From tokens back to pixels: which region of a clip each token sees, and a token's share of it."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from ..model.configuration_tubevit import TubeViTConfig
from ..model.tubes_tubevit import Size, Tube, as_size


Region = tuple[slice, slice, slice]


def token_regions(config: TubeViTConfig, size: Size, joined: bool = True) -> Iterator[Region | None]:
    """What each token sees, in frames and pixels; `None` for CLS and registers.

    Args:
        config: of the model.
        size: `(num_frames, height, width)` of the clip.
        joined: the tokens that are pooled; otherwise those that the embeddings give, which differ where a model
            averages patches over `joint_pooling` before its `joint_layer`.
    """
    layout = config.token_layout(*size)
    of_moments = [tube for tube in config.resolved_tubes if config.joint_layer == 0 or tube.sees_one_frame]
    later = [tube for tube in config.resolved_tubes if tube not in of_moments]
    factors = config.joint_pooling if joined and layout.num_moments > 1 else [1, 1]
    for moment in range(layout.num_moments):
        yield from [None] * layout.num_prefix_tokens
        for tube, grid in zip(of_moments, layout.moment_grids):
            yield from tube_regions(tube, grid, moment, factors)
    for tube, grid in zip(later, layout.later_grids):
        yield from tube_regions(tube, grid, 0, [1, 1])


def tube_regions(tube: Tube, grid: Size, first: int, factors: Sequence[int]) -> Iterator[Region]:
    """From step `first` on, `factors` patches along height and width together."""
    steps, rows, columns = grid
    for corner in product(range(steps), range(0, rows, factors[0]), range(0, columns, factors[1])):
        begins = as_size((corner[0] + first, *corner[1:]))
        ends = as_size((begins[0] + 1, min(rows, begins[1] + factors[0]), min(columns, begins[2] + factors[1])))
        frames, height, width = (
            slice(offset + step * begin, offset + step * (end - 1) + extent)
            for offset, step, extent, begin, end in zip(tube.offset, tube.stride, tube.extent, begins, ends)
        )
        yield frames, height, width


def share_out(shares: torch.Tensor, regions: Iterator[Region | None], size: Size) -> torch.Tensor:
    """Shares out what each token has evenly over the region that it sees; where regions overlap, it adds up.

    Args:
        shares: `(batch, tokens)`.
        regions: of each token, as `token_regions` gives them. What tokens without a region have is left out.
        size: `(num_frames, height, width)` of the clip.

    Returns:
        `(batch, num_frames, height, width)`, in float32; 0 where no token looks.
    """
    shares = shares.float()
    pixels = shares.new_zeros(shares.shape[0], *size)
    for share, region in zip(shares.unbind(dim=1), regions, strict=True):
        if region is not None:
            seen = pixels[(slice(None), *region)]
            seen += share[:, None, None, None] / seen[0].numel()
    return pixels
