# SPDX-License-Identifier: Apache-2.0
"""Where the tubes lie in a clip."""

from collections.abc import Sequence
from math import prod

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..model.configuration_tubevit import TubeViTConfig
from ..model.tubes_tubevit import Size, Tube


# (name, the axis drawn to the right, the axis drawn downwards) of the views of a clip
VIEWS = (("seen from the front", 2, 1), ("seen from above", 2, 0))
AXIS_LABELS = ("frame", "y (pixel)", "x (pixel)")


def draw_tubes(config: TubeViTConfig, size: Size | None = None) -> Figure:
    """Each tube in its own column: the region of every token, from the front (x, y) and from above (x, time).

    The region of the first token is filled, and so is each kernel application in it where space-to-depth concatenates
    several; a dot marks every token's centre.

    Args:
        config: the configuration whose tubes are drawn.
        size: `(num_frames, height, width)` of the clip; the config's native one by default.
    """
    size = config.native_size if size is None else size
    tubes = config.resolved_tubes
    figure = Figure(figsize=(3.2 * len(tubes), 6.6), layout="constrained")
    axes = figure.subplots(len(VIEWS), len(tubes), squeeze=False)
    for column, (tube, grid) in enumerate(zip(tubes, config.token_grids(*size))):
        for row, (view, right, down) in enumerate(VIEWS):
            axis = axes[row][column]
            for first, corner in enumerate_corners(tube, grid, right, down):
                _add_region(axis, corner, (tube.extent[right], tube.extent[down]), filled=first)
                center = (corner[0] + tube.extent[right] / 2, corner[1] + tube.extent[down] / 2)
                axis.plot(*center, ".", color="black", markersize=2)
            for corner in kernel_corners(tube, right, down):
                _add_region(axis, corner, (tube.kernel_size[right], tube.kernel_size[down]), filled=True)
            axis.set(xlim=(0, size[right]), ylim=(size[down], 0))
            axis.set_xlabel(AXIS_LABELS[right])
            axis.set_ylabel(AXIS_LABELS[down])
            axis.set_title(view, fontsize=8)
        factors = "x".join(map(str, tube.space_to_depth))
        axes[0][column].set_title(
            f"{'x'.join(map(str, tube.kernel_size))}, stride {'x'.join(map(str, tube.stride))}\n"
            f"space-to-depth {factors}: {'x'.join(map(str, grid))} = {prod(grid)} tokens\n"
            f"{VIEWS[0][0]}",
            fontsize=8,
        )
    return figure


def enumerate_corners(tube: Tube, grid: Size, right: int, down: int) -> list[tuple[bool, tuple[int, int]]]:
    """Corners of all tokens in a view, and whether it is the first token's."""
    return [
        (i == j == 0, (tube.offset[right] + i * tube.stride[right], tube.offset[down] + j * tube.stride[down]))
        for j in range(grid[down])
        for i in range(grid[right])
    ]


def kernel_corners(tube: Tube, right: int, down: int) -> Sequence[tuple[int, int]]:
    """Corners of the kernel applications of the first token in a view."""
    return [
        (tube.offset[right] + i * tube.kernel_stride[right], tube.offset[down] + j * tube.kernel_stride[down])
        for j in range(tube.space_to_depth[down])
        for i in range(tube.space_to_depth[right])
    ]


def _add_region(axis: Axes, corner: tuple[int, int], size: tuple[int, int], filled: bool) -> None:
    face = (0.1, 0.45, 0.85, 0.35) if filled else "none"
    axis.add_patch(Rectangle(corner, *size, facecolor=face, edgecolor=(0.1, 0.45, 0.85, 0.8), linewidth=0.7))
