# SPDX-License-Identifier: Apache-2.0
"""How alike the position embeddings of tokens are, laid out where and when the tokens are."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from ..model.modeling_tubevit import TubeViTPreTrainedModel
from ..model.moments_tubevit import token_layout
from ..model.tubes_tubevit import Size
from .theme import LIGHT, SMALL, WORDS, Theme, add_axes, name_tube, new_figure, note, put, title


# of a tube's steps in time, evenly over them
NUM_STEPS = 8
RING = "#d00000"
# inches: widths of the words and of the bar, height of a tube's row, of the words above and of the axis below
LEFT, ROW, ABOVE, BELOW, BETWEEN = 1.3, 0.95, 1.35, 0.95, 0.3

RIGHT = {"ha": "right", "va": "center"}

# of a token: its tube, and its place in that tube's grid
Token = tuple[int, int, int, int]


def compare_positions(model: TubeViTPreTrainedModel, token: Token, size: Size | None = None) -> dict[int, np.ndarray]:
    """Cosine similarity of a token's position embedding and all others', `(t, h, w)` of each tube that fits.

    Args:
        model: a TubeViT, with or without a head.
        token: its tube, and its place `t, h, w` in that tube's grid.
        size: `(num_frames, height, width)` of the clip; the config's native one by default.

    Raises:
        ValueError: the model has no position embeddings, or there is no such token.
    """
    config = model.config
    if config.position_embedding_type == "none":
        raise ValueError('the model has no position embeddings: `position_embedding_type` is "none".')
    grids = config.token_grids(*(config.native_size if size is None else size))
    index, *place = token
    if not 0 <= index < len(grids) or any(not 0 <= at < length for at, length in zip(place, grids[index])):
        raise ValueError(f"there is no token {token[1:]} of tube {index}: the grids of the tubes are {grids}.")
    layout = token_layout(config.resolved_tubes, config.native_size if size is None else size, 0, by_moment=False)
    with torch.no_grad():
        # not on `model.device`, which of an offloaded model is none
        zeros = torch.zeros(1, layout.num_tokens, config.hidden_size)
        positions = model.base_model.embeddings.position_embeddings(zeros, layout)[0]
    of_tubes = positions.float().cpu().split([prod(grid) for grid in grids])
    tables = {number: normalize(table, dim=-1) for number, table in enumerate(of_tubes) if all(grids[number])}
    own = tables[index][np.ravel_multi_index(place, grids[index])]
    return {number: (table @ own).numpy().reshape(grids[number]) for number, table in tables.items()}


def choose_tokens(grids: Sequence[Size]) -> list[Token]:
    """Two tokens to show: the middle one of the first tube, and an early, high and left one of the last."""
    fitting = [index for index, grid in enumerate(grids) if all(grid)]
    (t, h, w), (_, rows, columns) = grids[fitting[0]], grids[fitting[-1]]
    return [(fitting[0], t // 2, h // 2, w // 2), (fitting[-1], 0, rows // 4, columns // 4)]


def draw_positions(
    model: TubeViTPreTrainedModel,
    tokens: Sequence[Token] | None = None,
    size: Size | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """For each of some tokens a row of maps for each tube: how alike the positions of that tube's tokens are to the
    token's own, at the time of their centres.

    Args:
        model: a TubeViT, with or without a head.
        tokens: each its tube, and its place `t, h, w` in that tube's grid; by default two.
        size: `(num_frames, height, width)` of the clip; the config's native one by default.
        theme: light or dark.

    Raises:
        ValueError: the model has no position embeddings, or there is no such token.
    """
    config = model.config
    size = config.native_size if size is None else size
    tubes, grids = config.resolved_tubes, config.token_grids(*size)
    tokens = choose_tokens(grids) if tokens is None else tokens
    alike = [compare_positions(model, token, size) for token in tokens]
    # tokens that are all alike have a scale too
    lowest = min(0.99, *(float(values.min()) for one in alike for values in one.values()))
    scale = Normalize(lowest, 1)
    rows = list(alike[0])
    figure = new_figure(ABOVE + len(rows) * ROW + BELOW, theme)
    title(figure, "How alike the positions of tokens are", theme)
    words = "each map is a frame, and stands at the time that its tokens are centred on"
    if config.joint_layer > 0:
        words = f"what the tubes add; layer {config.joint_layer + 1} adds the time of each frame"
        if config.joint_layer == config.num_hidden_layers:
            words = "each frame is encoded by itself, and its patches know nothing of time"
    note(figure, 0.4, words, theme)
    width = (figure.get_figwidth() - LEFT - 0.15 - (len(tokens) - 1) * BETWEEN) / len(tokens)
    for row, index in enumerate(rows):
        middle = ABOVE + (row + 0.5) * ROW
        put(figure, LEFT - 0.15, middle, name_tube(tubes[index]).replace(" and ", "\nand "), theme.ink, SMALL, **RIGHT)
    for column, (token, one) in enumerate(zip(tokens, alike)):
        left = LEFT + column * (width + BETWEEN)
        own = tubes[token[0]]
        centre = [float(own.centers(axis, at + 1, torch.float32)[-1]) for axis, at in enumerate(token[1:])]
        put(figure, left, 0.75, f"to one “{name_tube(own)}” token", theme.ink, WORDS, fontweight="bold")
        put(figure, left, 1.0, f"centred on frame {centre[0]:g}, the ring", theme.faint, SMALL)
        for row, index in enumerate(rows):
            draw_row(figure, (left, ABOVE + row * ROW, width), model, index, one[index], token, size, scale, theme)
        axes = add_axes(figure, left, ABOVE + len(rows) * ROW + 0.02, width, 0.01)
        axes.set(xlim=(0, size[0]), yticks=[], facecolor=theme.paper)
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.spines["bottom"].set_color(theme.faint)
        axes.tick_params(colors=theme.faint, labelsize=SMALL)
        axes.set_xticks(np.unique(np.linspace(0, size[0], 5).round()))
    high = figure.get_figheight()
    put(figure, LEFT - 0.15, ABOVE + len(rows) * ROW + 0.1, "frame", theme.faint, SMALL, ha="right")
    bar_axes = add_axes(figure, figure.get_figwidth() / 2 - 1.2, high - 0.4, 2.4, 0.12)
    bar = figure.colorbar(ScalarMappable(scale, theme.scale), cax=bar_axes, orientation="horizontal")
    bar.set_ticks([lowest, 1.0], labels=[f"{lowest:.2f}", "1"])
    bar.ax.tick_params(colors=theme.faint, labelsize=SMALL)
    bar.outline.set_visible(False)
    put(figure, figure.get_figwidth() / 2 - 1.4, high - 0.34, "cosine similarity", theme.ink, SMALL, **RIGHT)
    return figure


def draw_row(
    figure: Figure,
    place: tuple[float, float, float],
    model: TubeViTPreTrainedModel,
    index: int,
    values: np.ndarray,
    token: Token,
    size: Size,
    scale: Normalize,
    theme: Theme,
) -> None:
    """Maps of a tube at the times of their centres, from a place on that is so wide, in inches."""
    left, down, width = place
    tube = model.config.resolved_tubes[index]
    steps = len(values)
    shown = np.unique(np.linspace(0, steps - 1, min(steps, NUM_STEPS)).round().astype(int))
    if index == token[0]:
        # its own map is one of them
        shown[np.abs(shown - token[1]).argmin()] = token[1]
    centres = tube.centers(0, steps, torch.float32).numpy()[shown]
    spacing = np.diff(centres).min() if len(shown) > 1 else np.inf
    side = min(ROW - 0.1, 0.92 * width * spacing / size[0])
    for step, centre in zip(shown, centres):
        middle = left + width * centre / size[0]
        # within the picture, also where it is as long as a frame
        begins = float(np.clip(middle - side / 2, left, left + width - side))
        axes = add_axes(figure, begins, down + (ROW - side) / 2, side, side)
        axes.imshow(values[step], cmap=theme.scale, norm=scale, aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(theme.faint)
        if (index, step) == token[:2]:
            axes.plot(token[3], token[2], "o", markersize=6, markerfacecolor="none", color=RING, markeredgewidth=1.6)
