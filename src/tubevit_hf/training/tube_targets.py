# SPDX-License-Identifier: Apache-2.0
"""What a teacher's dense features say of each tube token: their mean over its extent, and their change over its
stretch of time.

A token sees a box of the clip. The share of the box in a cell of the teacher's grid is a product of shares along time,
height and width, so that three small matrices per tube make the targets of all its tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..model.tubes_tubevit import Size, Tube


def tube_targets(
    states: torch.Tensor,
    frame_positions: Sequence[float],
    patch: float | tuple[float, float],
    tubes: Sequence[Tube],
    size: Size,
) -> torch.Tensor:
    """Computes what each tube token of a student can regress: `(batch, t, h, w, c) -> (batch, tokens, 2 * c)`.

    The first half is the mean of the states over the token's extent, weighted by the volume in each cell of the grid.
    The second half is their change over its stretch of time, see [`find_stretches`]: the states at its last frame
    minus those at its first one, averaged over the token's height and width. Between the teacher's frames states are
    interpolated linearly; before the first and after the last one they are constant. The change is 0 where a stretch
    is a single frame, or lies before the teacher's first or after its last frame.

    Args:
        states: a teacher's output for `t` frames of `h * w` patches, which tile the picture.
        frame_positions: where the teacher's frames lie, as indices of the student's frames, ascending; 0.5 is between
            the first two. A frame stands for the time up to half-way to its neighbors, the first and the last one up
            to the clip's begin and end.
        patch: size of a patch in pixels of the student's clip, one number or `(height, width)`.
        tubes: the student's tubes.
        size: `(num_frames, height, width)` of the student's clip, in frames and pixels.

    Returns:
        Targets in float32 or better; tokens in the order of the student's layout, without CLS and registers.

    Raises:
        ValueError: the positions are not ascending indices in the clip, one for each teacher frame; the patches do not
            tile the picture; or no tube fits the clip.
    """
    positions = tuple(float(position) for position in frame_positions)
    _, num_steps, *grid, _ = states.shape
    if len(positions) != num_steps or sorted(set(positions)) != list(positions):
        raise ValueError(
            f"`frame_positions` must be ascending, one for each of the {num_steps} frames of `states`, got "
            f"{list(frame_positions)}."
        )
    if positions[0] < 0 or positions[-1] > size[0] - 1:
        raise ValueError(
            f"`frame_positions` must be from 0 to {size[0] - 1}, the clip's last frame, got {list(frame_positions)}."
        )
    for length, patches, step in zip(size[1:], grid, patch if isinstance(patch, tuple) else (patch, patch)):
        # a patch of a resized picture need not be a whole number
        if abs(patches * step - length) > 1e-3:
            raise ValueError(
                f"{grid[0]}x{grid[1]} patches of {patch} pixels do not tile a picture of {size[1]}x{size[2]} pixels "
                "(height x width): give `patch` as the picture's size divided by the number of patches."
            )
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    fitting = [tube for tube in tubes if all(tube.grid(size))]
    if not fitting:
        raise ValueError(f"no tube fits a clip of {'x'.join(map(str, size))} (frames x height x width).")
    targets: list[torch.Tensor] = []
    for tube in fitting:
        times, rows, columns = (
            weights.to(states) for weights in tube_weights(tube, size, positions, (grid[0], grid[1]))
        )
        # (batch, t, h, w, c) -> (batch, t, h, columns * c) -> (batch, t, rows * columns * c)
        of_rows = rows @ (columns @ states).flatten(-2)
        # the mean of each step, then the change: -> (batch, 2, tokens, c)
        both = (times @ of_rows.flatten(2)).unflatten(1, (2, -1)).unflatten(3, (-1, states.shape[-1])).flatten(2, 3)
        targets.append(torch.cat([both[:, 0], both[:, 1]], dim=-1))
    return torch.cat(targets, dim=1)


@lru_cache(maxsize=64)
def tube_weights(
    tube: Tube, size: Size, positions: tuple[float, ...], grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the weights of a tube's tokens along time `(2 * t, teacher frames)`, first of the mean and then of the
    change, and along height and width `(tokens, patches)`."""
    # a frame is a box from its index to its index + 1, as in `Tube.centers`
    centers = torch.tensor(positions, dtype=torch.float64) + 0.5
    begin, end = centers.new_tensor([0]), centers.new_tensor([size[0]])
    borders = torch.cat([begin, (centers[1:] + centers[:-1]) / 2, end])
    means = share_axis(tube, 0, size, borders)
    rows, columns = (
        share_axis(tube, axis, size, torch.linspace(0, size[axis], patches + 1, dtype=torch.float64))
        for axis, patches in zip((1, 2), grid)
    )
    firsts, lasts = (interpolation_weights(frames, positions) for frames in zip(*find_stretches(tube, size)))
    return torch.cat([means, lasts - firsts]), rows, columns


def find_stretches(tube: Tube, size: Size) -> list[tuple[int, int]]:
    """Returns the first and the last frame of the stretch of time over which a token's target changes, for each step
    of the tube's grid along time.

    It begins with the token and is as long as the token's extent or, where that is longer, the tube's stride in time:
    so tubes of one frame have a change too, and no time between two tokens is left out. The clip's end cuts it.

    Args:
        tube: of the student.
        size: `(num_frames, height, width)` of its clip, in frames and pixels.
    """
    length = max(tube.extent[0], tube.stride[0])
    begins = [tube.offset[0] + step * tube.stride[0] for step in range(tube.grid(size)[0])]
    return [(begin, min(begin + length, size[0]) - 1) for begin in begins]


def share_axis(tube: Tube, axis: int, size: Size, borders: torch.Tensor) -> torch.Tensor:
    """Returns the share of each token's extent that lies in each cell between `borders`, `(tokens, cells)`."""
    middles = tube.centers(axis, tube.grid(size)[axis], borders.dtype)[:, None]
    begins, ends = middles - tube.extent[axis] / 2, middles + tube.extent[axis] / 2
    overlaps = torch.minimum(ends, borders[1:]) - torch.maximum(begins, borders[:-1])
    return overlaps.clamp_min(0) / tube.extent[axis]


def interpolation_weights(frames: Sequence[int], positions: Sequence[float]) -> torch.Tensor:
    """Returns what each of the teacher's frames counts at frames of the clip, `(frames, teacher frames)`: linear
    between two positions, constant outside."""
    of_each = [np.interp(frames, positions, row) for row in np.eye(len(positions))]
    return torch.from_numpy(np.stack(of_each, axis=1))
