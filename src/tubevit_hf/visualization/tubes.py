# SPDX-License-Identifier: Apache-2.0
"""Where the tubes lie in a clip."""

from math import ceil, prod

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..model.configuration_tubevit import TubeViTConfig
from ..model.tubes_tubevit import Size
from .space import View, add_boxes, add_card, add_frame_of_reference, cut_boxes, kernel_boxes, set_up
from .theme import LIGHT, SMALL, WIDTH, WORDS, Theme, add_axes, describe_tube, new_figure, put, title


# of frames that stand in the block, evenly over the clip
NUM_CARDS = 4
# share of a clip that tubes cover, from which on they would hide all of it
SPARSE = 0.5
# of tubes in a row below
PER_ROW = 4
# inches: of the clip, and of a row of tubes below
TOP, BELOW = 5.0, 2.3


def draw_tubes(
    config: TubeViTConfig, frames: torch.Tensor | None = None, size: Size | None = None, theme: Theme = LIGHT
) -> Figure:
    """A clip as a block of frames, height and width, and in it what each tube covers; below each kind of tube alone,
    in words.

    Drawn are the kernels: where space-to-depth concatenates several, each of them.

    Args:
        config: the configuration whose tubes are drawn.
        frames: `(num_frames, 3, height, width)`, uint8 RGB, a clip that stands behind the tubes.
        size: `(num_frames, height, width)` of the clip without `frames`; the config's native one by default.
        theme: light or dark.
    """
    if frames is not None:
        size = (frames.shape[0], frames.shape[2], frames.shape[3])
    size = config.native_size if size is None else size
    grids, tubes = config.token_grids(*size), config.resolved_tubes
    tokens = [kernel_boxes(tube, grid) for tube, grid in zip(tubes, grids)]
    pictures = None if frames is None else frames.permute(0, 2, 3, 1).numpy()

    figure = new_figure(TOP + BELOW * ceil(len(tubes) / PER_ROW), theme)
    title(figure, f"{sum(map(prod, grids)):,} tokens of a clip of {size[0]} frame{'s' * (size[0] > 1)}", theme)
    view = View(size)
    axes = add_axes(figure, 0, 0.4, WIDTH, TOP - 0.4)
    set_up(axes, view, (0.4, 0.03, 0.1, 0.2))
    add_frame_of_reference(axes, view, theme)
    owners = np.repeat(np.arange(len(tubes)), [some.shape[0] * some.shape[1] for some in tokens])
    boxes = np.concatenate([some.reshape(-1, 2, 3) for some in tokens])
    fill_block(axes, view, boxes, [theme.of_tube(int(owner)) for owner in owners], theme, pictures)

    for index, (tube, grid) in enumerate(zip(tubes, grids)):
        row, column = divmod(index, PER_ROW)
        in_row = min(PER_ROW, len(tubes) - row * PER_ROW)
        width = WIDTH / PER_ROW
        left, down = (column + (PER_ROW - in_row) / 2) * width, TOP + row * BELOW
        small = add_axes(figure, left, down, width, 1.25)
        draw_kind(
            small, view, tokens[index].reshape(*grid, prod(tube.space_to_depth), 2, 3), theme.of_tube(index), theme
        )
        name, *lines = describe_tube(tube, grid)
        put(figure, left + width / 2, down + 1.3, name, theme.ink, WORDS, fontweight="bold", ha="center")
        put(figure, left + width / 2, down + 1.54, "\n".join(lines), theme.ink, SMALL, linespacing=1.35, ha="center")
    return figure


def draw_kind(axes: Axes, view: View, tokens: np.ndarray, colour: str, theme: Theme) -> None:
    """The outlines of all tokens `(t, h, w, neighbours, 2, 3)` of a tube, and one of them in full."""
    set_up(axes, view, (0.02, 0.02, 0.02, 0.02))
    add_frame_of_reference(axes, view, theme, labels=False)
    add_card(axes, view, 0, theme, None, 0.6, zorder=1)
    boxes = tokens.reshape(-1, 2, 3)
    # many of them would be a wall
    edge_alpha = float(np.clip(50 / max(1, len(boxes)), 0.06, 0.35))
    add_boxes(axes, view, boxes, [colour] * len(boxes), 2, alpha=0.02, edge_alpha=edge_alpha, edge=0.35)
    if len(boxes):
        # of those at the left, which nothing hides, the middle one
        one = tokens[0, tokens.shape[1] // 2, 0]
        add_boxes(axes, view, one, [colour] * len(one), 3, alpha=1.0)


def fill_block(
    axes: Axes, view: View, boxes: np.ndarray, colours: list[str], theme: Theme, pictures: np.ndarray | None
) -> None:
    """Cards and boxes from the back to the front: a card hides what is behind it, and what is before it hides it."""
    num_frames = view.size[0]
    times = sorted({number * num_frames // NUM_CARDS for number in range(NUM_CARDS)})
    names = np.array(colours)
    alpha, edge_alpha = choose_alpha(boxes, view.size)
    for number, (start, stop) in enumerate(zip(times, [*times[1:], num_frames])):
        picture = None if pictures is None else pictures[start]
        add_card(axes, view, start, theme, picture, 1.0, zorder=2 * number + 1)
        parts, kept, whole = cut_boxes(boxes, start, stop)
        add_boxes(axes, view, parts, names[kept].tolist(), 2 * number + 2, alpha, edge_alpha, whole=whole)


def choose_alpha(boxes: np.ndarray, size: Size) -> tuple[float, float]:
    """How much faces and edges of tubes hide: the less, the more of the clip they cover, or nothing would be seen
    behind them."""
    covered = np.prod(boxes[:, 1] - boxes[:, 0], axis=1).sum() / prod(size)
    haze = len(boxes) ** -0.5
    return (0.95, 1.0) if covered < SPARSE else (min(0.4, 1.3 * haze), min(0.6, 3.2 * haze))
