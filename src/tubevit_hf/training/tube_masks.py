# SPDX-License-Identifier: Apache-2.0
"""Masks for pre-training: which tokens the encoder sees, and which it predicts.

Where tubes overlap, as the paper's do, a mask of single tokens leaks: other tokens see the pixels of a hidden one
(`benchmarks/tube_masks.py`). Here cuboids of the clip are hidden. The encoder sees tokens that touch none of them, and
predicts tokens that lie wholly in them. No pixel of a predicted token is visible.
"""

from collections.abc import Sequence
from itertools import chain
from math import gcd, prod
from typing import NamedTuple

import torch

from ..explanation.regions import tube_regions
from ..model.tubes_tubevit import Size, Tube, as_size


# draws of a mask, until some token is visible and some token is hidden
NUM_DRAWS = 100


class TubeMask(NamedTuple):
    """Tokens of a masked clip, as [`TubeViTForPreTraining`] takes them: ascending indices in the order of the layout,
    without CLS and registers.

    Args:
        visible: tokens that see no hidden pixel, `(visible,)`.
        target: tokens that see hidden pixels only, `(targets,)`. Tokens that see both kinds are in neither.
        hidden_share: hidden share of the clip's volume.
    """

    visible: torch.Tensor
    target: torch.Tensor
    hidden_share: float


def draw_tube_mask(
    tubes: Sequence[Tube],
    size: Size,
    ratio: float,
    generator: torch.Generator | None = None,
    block: Size = (16, 64, 64),
) -> TubeMask:
    """Hides cuboids at random places until they fill a share of a clip.

    Cuboids begin where tubes can begin or end, so that few tokens lie at their faces.

    Args:
        tubes: the tubes of a model.
        size: `(num_frames, height, width)` of the clip, in frames and pixels.
        ratio: hidden share of the volume, above 0 and below 1. The last cuboid may exceed it.
        generator: draws the places.
        block: size `(t, h, w)` of each cuboid, in frames and pixels; at least that of one tube. The clip's faces cut
            some.

    Raises:
        ValueError: `ratio` is out of range; no tube fits the clip, or none fits `block`; or in a hundred draws, no
            token was visible or none was hidden.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"`ratio` must be above 0 and below 1, got {ratio}.")
    fitting = [tube for tube in tubes if all(tube.grid(size))]
    extents = ", ".join("x".join(map(str, tube.extent)) for tube in tubes)
    clip = f"a clip of {'x'.join(map(str, size))} (frames x height x width)"
    if not fitting:
        raise ValueError(f"no tube, of {extents}, fits {clip}: give a larger clip.")
    if not any(all(length <= room for length, room in zip(tube.extent, block)) for tube in fitting):
        raise ValueError(
            f"`block` must hold a tube, of {extents} (frames x height x width), got {'x'.join(map(str, block))}."
        )
    for _ in range(NUM_DRAWS):
        hidden = hide_cuboids(size, ratio, block, find_steps(fitting), generator)
        counts = [(count_hidden(tube, hidden), prod(tube.extent)) for tube in fitting]
        visible = torch.cat([count == 0 for count, _ in counts]).nonzero().flatten()
        target = torch.cat([count == volume for count, volume in counts]).nonzero().flatten()
        if len(visible) and len(target):
            return TubeMask(visible, target, int(hidden.count_nonzero()) / hidden.numel())
    raise ValueError(
        f"{NUM_DRAWS} masks of ratio {ratio} and cuboids of {'x'.join(map(str, block))} left no token visible, or hid "
        f"none, in {clip}: choose a `ratio` nearer to a half, or another `block`."
    )


def find_steps(tubes: Sequence[Tube]) -> Size:
    """Returns the greatest steps `(t, h, w)` on whose multiples all tokens begin and end."""
    return as_size(
        gcd(*chain.from_iterable((tube.offset[axis], tube.stride[axis], tube.extent[axis]) for tube in tubes))
        for axis in range(3)
    )


def hide_cuboids(
    size: Size, ratio: float, block: Size, steps: Size, generator: torch.Generator | None
) -> torch.Tensor:
    """Marks cuboids of a clip, `(num_frames, height, width)`, bool, until their share is at least `ratio`."""
    hidden, count = torch.zeros(size, dtype=torch.bool), 0
    while count < ratio * hidden.numel():
        places: list[slice] = []
        for length, extent, step in zip(size, block, steps):
            # before the clip too: its faces are hidden as often as its middle
            first, last = -((extent - 1) // step), (length - 1) // step
            begin = step * int(torch.randint(first, last + 1, (), generator=generator))
            places.append(slice(max(0, begin), begin + extent))
        cuboid = hidden[tuple(places)]
        count += cuboid.numel() - int(cuboid.count_nonzero())
        cuboid.fill_(True)
    return hidden


def count_hidden(tube: Tube, hidden: torch.Tensor) -> torch.Tensor:
    """Counts the hidden pixels that each token of a tube sees: `(num_frames, height, width) -> (t * h * w,)`."""
    for axis in range(3):
        hidden = hidden.narrow(axis, tube.offset[axis], hidden.shape[axis] - tube.offset[axis])
        # (..., t, h, w) -> with the extent of each token as the last axis
        hidden = hidden.unfold(axis, tube.extent[axis], tube.stride[axis])
    return hidden.sum(dim=(3, 4, 5)).flatten()


def measure_leak(tubes: Sequence[Tube], size: Size, visible: torch.Tensor, target: torch.Tensor) -> float:
    """Returns the share of the target tokens' pixels that a visible token sees, from 0 to 1.

    Args:
        tubes: the tubes of a model.
        size: `(num_frames, height, width)` of the clip, in frames and pixels.
        visible, target: indices of tokens, as in [`TubeMask`].
    """
    regions = list(chain.from_iterable(tube_regions(tube, tube.grid(size), 0, [1, 1]) for tube in tubes))
    seen, wanted = torch.zeros(2, *size, dtype=torch.bool)
    for pixels, tokens in ((seen, visible), (wanted, target)):
        for index in tokens.tolist():
            pixels[regions[index]] = True
    return int((seen & wanted).count_nonzero()) / int(wanted.count_nonzero())
