# SPDX-License-Identifier: Apache-2.0
"""A clip as a block in space: time to the right and towards the viewer, frames as cards, tubes as boxes.

Points are `(t, y, x)`, in frames and pixels; a box is its two corners, `(2, 3)`. The view is a parallel projection, so
that equal things look equal wherever they are.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.transforms import Affine2D
from matplotlib.typing import ColorType

from ..model.tubes_tubevit import Size, Tube
from .theme import SMALL, Theme


# length of a clip in the picture, in heights of its frame: at most, and of each of a few frames
LENGTH, OF_A_FRAME = 2.3, 0.3
# how far one step along time and along the width goes to the right and down
ALONG_TIME = (0.97, 0.21)
ALONG_WIDTH = (0.56, -0.29)
# corners of a box (first or last along t, y, x) that make its faces that are seen (the last moment, the top, the left
# side), and how bright each face is
FACES = (
    (((1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)), 1.0),
    (((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)), 1.18),
    (((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)), 0.8),
)
# edges that are seen: along time, at the end, at the beginning
EDGES = (
    (((0, 0, 0), (1, 0, 0)), ((0, 0, 1), (1, 0, 1)), ((0, 1, 0), (1, 1, 0))),
    (((1, 0, 0), (1, 0, 1)), ((1, 0, 1), (1, 1, 1)), ((1, 1, 1), (1, 1, 0)), ((1, 1, 0), (1, 0, 0))),
    (((0, 0, 0), (0, 0, 1)), ((0, 0, 0), (0, 1, 0))),
)


def kernel_boxes(tube: Tube, grid: Size) -> np.ndarray:
    """What the kernels of a tube cover: `(t * h * w, neighbours, 2, 3)`, tokens and the applications that make each in
    raster order, first and last corner, in frames and pixels."""
    tokens = np.array(list(product(*map(range, grid)))).reshape(-1, 3)
    neighbours = np.array(list(product(*map(range, tube.space_to_depth))))
    first = (
        np.array(tube.offset)
        + tokens[:, None] * np.array(tube.stride)
        + neighbours[None] * np.array(tube.kernel_stride)
    )
    return np.stack((first, first + np.array(tube.kernel_size)), axis=2)


def cut_boxes(boxes: np.ndarray, start: float, stop: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of each box `(boxes, 2, 3)` between two times, without those that have none; which those are; and
    whether each begins and ends there, `(boxes, 2)`, or has been cut."""
    cut = boxes.astype(float)
    cut[:, :, 0] = cut[:, :, 0].clip(start, stop)
    kept = cut[:, 1, 0] > cut[:, 0, 0]
    return cut[kept], kept, cut[kept, :, 0] == boxes[kept, :, 0]


class View:
    """Where the points of a clip of `size` (frames, pixels) lie in a picture, in heights of a frame, y downwards."""

    def __init__(self, size: Size):
        num_frames, height, _ = size
        self.size = size
        # rows for t, y and x
        self.matrix = np.array(
            [
                np.array(ALONG_TIME) * min(LENGTH / num_frames, OF_A_FRAME),
                np.array([0.0, 1.0]) / height,
                np.array(ALONG_WIDTH) / height,
            ]
        )
        # the direction that comes straight at the viewer: it goes nowhere in the picture
        towards = np.cross(self.matrix[:, 0], self.matrix[:, 1])
        self.towards = towards if towards[0] > 0 else -towards

    def project(self, points: np.ndarray) -> np.ndarray:
        """`(..., 3) -> (..., 2)`."""
        return np.asarray(points, dtype=float) @ self.matrix

    def corners(self, boxes: np.ndarray, which: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """Corners of boxes, first or last along each axis: `(boxes, 2, 3) -> (boxes, corners, 2)`."""
        return self.project(np.stack([boxes[:, corner, range(3)] for corner in which], axis=1))

    def order(self, boxes: np.ndarray) -> np.ndarray:
        """From the farthest to the nearest."""
        return np.argsort(boxes.mean(axis=1) @ self.towards, kind="stable")

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest corner of the whole clip in the picture."""
        corners = self.project(np.array(list(product(*((0, length) for length in self.size)))))
        return corners.min(axis=0), corners.max(axis=0)


def set_up(axes: Axes, view: View, margin: tuple[float, float, float, float]) -> None:
    """Makes room for a clip, and around it for so much: left, top, right, bottom."""
    (left, top), (right, bottom) = view.bounds()
    axes.set(xlim=(left - margin[0], right + margin[2]), ylim=(bottom + margin[3], top - margin[1]), aspect="equal")
    axes.axis("off")


def add_boxes(
    axes: Axes,
    view: View,
    boxes: np.ndarray,
    colours: Sequence[ColorType] | np.ndarray,
    zorder: float,
    alpha: float,
    edge_alpha: float = 0.8,
    edge: float = 0.5,
    whole: np.ndarray | None = None,
) -> None:
    """Boxes `(boxes, 2, 3)` in a colour each, the nearest before the others.

    Args:
        axes, view, boxes, colours: which, and where.
        zorder: of all of them.
        alpha, edge_alpha: how much their faces and edges hide.
        edge: width of the edges, in points.
        whole: whether each begins and ends where it is drawn to, `(boxes, 2)`: where it was cut it has no edge.
    """
    if not len(boxes):
        return
    order = view.order(boxes)
    boxes, rgb = boxes[order], np.array([to_rgb(colour) for colour in colours])[order]
    ends = np.ones((len(boxes), 2), dtype=bool) if whole is None else whole[order]
    polygons: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    edges: list[np.ndarray] = []
    for which, brightness in FACES:
        polygons.append(view.corners(boxes, which))
        faces.append(np.column_stack([(rgb * brightness).clip(0, 1), np.full(len(boxes), alpha)]))
        edges.append(np.zeros((len(boxes), 4)))
    for group, drawn in zip(EDGES, (np.ones(len(boxes)), ends[:, 1], ends[:, 0])):
        for start, stop in group:
            # a polygon without an inside, so that edges and faces are sorted together
            polygons.append(view.corners(boxes, (start, stop, stop, start)))
            faces.append(np.zeros((len(boxes), 4)))
            edges.append(np.column_stack([0.75 * rgb, edge_alpha * drawn]))
    # box by box: (polygons of a box, boxes, ...) -> (polygons, ...)
    shapes, of_faces, of_edges = (np.stack(parts, axis=1) for parts in (polygons, faces, edges))
    axes.add_collection(
        PolyCollection(
            list(shapes.reshape(-1, 4, 2)),
            facecolors=of_faces.reshape(-1, 4),
            edgecolors=of_edges.reshape(-1, 4),
            linewidths=edge,
            joinstyle="round",
            zorder=zorder,
        ),
        autolim=False,
    )


def add_card(
    axes: Axes,
    view: View,
    time: float,
    theme: Theme,
    picture: np.ndarray | None,
    alpha: float,
    zorder: float,
    edge: float = 0.8,
) -> None:
    """A frame `(height, width, 3)`, uint8, as a card that stands at a time; a plain one if there is no picture."""
    _, height, width = view.size
    corners = view.project(np.array([(time, 0, 0), (time, 0, width), (time, height, width), (time, height, 0)]))
    plain = to_rgba(theme.faint, 0.25 * alpha)
    if picture is not None:
        along_t, along_y, along_x = view.matrix
        places = np.array([[along_x[0], along_y[0], 0], [along_x[1], along_y[1], 0], [0, 0, 1]])
        places[:2, 2] = time * along_t
        image = axes.imshow(
            picture,
            extent=(0, width, height, 0),
            transform=Affine2D(places) + axes.transData,
            alpha=alpha,
            zorder=zorder,
            interpolation="bilinear" if picture.shape[0] < 128 else "antialiased",
            aspect="equal",
            clip_on=False,
        )
        # an image is put back into upright axes otherwise
        image.set_clip_path(axes.patch)
        plain = (0.0, 0.0, 0.0, 0.0)
    axes.add_collection(
        PolyCollection(
            [corners], facecolors=[plain], edgecolors=[to_rgba(theme.faint, 0.9)], linewidths=edge, zorder=zorder
        ),
        autolim=False,
    )


def add_frame_of_reference(axes: Axes, view: View, theme: Theme, labels: bool = True) -> None:
    """The edges of the clip, and what runs along them."""
    num_frames, height, width = view.size
    edges = np.array(
        [
            ((0, height, 0), (num_frames, height, 0)),
            ((num_frames, height, 0), (num_frames, height, width)),
            ((num_frames, height, width), (num_frames, 0, width)),
            ((0, 0, 0), (0, 0, width)),
            ((0, 0, width), (num_frames, 0, width)),
            ((0, 0, 0), (0, height, 0)),
            ((0, 0, 0), (num_frames, 0, 0)),
            ((num_frames, 0, 0), (num_frames, height, 0)),
            ((num_frames, 0, 0), (num_frames, 0, width)),
        ],
        dtype=float,
    )
    axes.add_collection(
        LineCollection(list(view.project(edges)), colors=to_rgba(theme.faint, 0.45), linewidths=0.7, zorder=0),
        autolim=False,
    )
    if not labels:
        return
    words = {"color": theme.faint, "fontsize": SMALL}
    for frame in np.unique(np.linspace(0, num_frames, 5).round()):
        right, down = view.project(np.array((frame, height, 0)))
        axes.plot([right, right - 0.012], [down, down + 0.03], color=theme.faint, linewidth=0.8, clip_on=False)
        axes.text(right - 0.02, down + 0.045, f"{frame:g}", ha="center", va="top", **words)
    right, down = view.project(np.array((num_frames * 0.5, height, 0)))
    axes.text(right - 0.1, down + 0.15, "frames", ha="center", va="top", **words)
    right, down = view.project(np.array((0, height / 2, 0)))
    axes.text(right - 0.04, down, f"height\n{height} pixels", ha="right", va="center", **words)
    right, down = view.project(np.array((num_frames, height, width / 2)))
    axes.text(right + 0.06, down + 0.04, f"width\n{width} pixels", ha="left", va="top", **words)
