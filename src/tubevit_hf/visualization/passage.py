# SPDX-License-Identifier: Apache-2.0
"""A clip on its way through a model, as an animation: frames, tubes, tokens, what counts, scores."""

import io
from collections.abc import Sequence
from math import ceil, prod

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..explanation import lay_over
from ..explanation.occlusion import Watch
from ..model.configuration_tubevit import TubeViTConfig
from ..model.video_sources_tubevit import printable
from .space import View, add_boxes, add_card, add_frame_of_reference, cut_boxes, kernel_boxes, set_up
from .theme import LIGHT, SMALL, WORDS, Theme, encode, new_figure, to_image
from .tubes import choose_alpha


# of an animation that a README can hold
MAX_BYTES = 2_000_000
# of WebP
QUALITY = 82
# for which a frame is shown, in milliseconds: about so long for all of them, but no less and no more for one
TOGETHER, LEAST, MOST = 6000, 120, 400
# for which the end is shown
PAUSE = 3000
# of labels that have bars
NUM_LABELS = 5
HEIGHT = 4.3


def animate_passage(
    config: TubeViTConfig,
    frames: torch.Tensor,
    heat: torch.Tensor,
    scores: np.ndarray | None = None,
    labels: Sequence[str] = (),
    weights: np.ndarray | None = None,
    heat_title: str = "what counts in it",
    theme: Theme = LIGHT,
    watch: Watch = lambda steps: steps,
) -> tuple[bytes, bytes]:
    """An animated WebP of at most 2 MB, and its last page as a PNG for those who want nothing to move.

    A page for each frame: the frame goes through the clip as a card, tubes that cover it light up, tokens appear as
    their tubes have been passed, and bars tell what the model would say if the clip stood still from there on. A last
    page shows how the pooling weighs the tokens.

    Args:
        config: of the model.
        frames: as the model saw them, `(num_frames, 3, height, width)`, uint8 RGB.
        heat: what counts, `(num_frames, height, width)`, from 0 to 1.
        scores: of the labels after each frame, `(num_frames, labels)`, from 0 to 1; without them there are no bars.
        labels: their names.
        weights: how the pooling weighs the tokens of the tubes, `(tokens,)`, in the order of the tubes; without them
            all count alike.
        heat_title: what `heat` is, in words.
        theme: light or dark.
        watch: around the numbers of the pages, such as `tqdm`.
    """
    stage = Stage(config, frames, heat, scores, labels, weights, heat_title, theme)
    num_frames = len(frames)
    pages = [to_image(stage.draw(number)) for number in watch(range(num_frames + 1))]
    durations = [int(np.clip(TOGETHER / num_frames, LEAST, MOST))] * num_frames + [PAUSE]
    last = encode(pages[-1])
    while True:
        file = io.BytesIO()
        pages[0].save(
            file, "WEBP", save_all=True, append_images=pages[1:], duration=durations, loop=0, quality=QUALITY, method=4
        )
        if file.tell() <= MAX_BYTES:
            return file.getvalue(), last
        # bytes grow about as the area does
        smaller = 0.95 * (MAX_BYTES / file.tell()) ** 0.5
        width, height = (max(1, int(smaller * length)) for length in pages[0].size)
        pages = [page.resize((width, height), Image.Resampling.LANCZOS) for page in pages]


class Stage:
    """What all pages of an animation share, see [`animate_passage`]."""

    def __init__(
        self,
        config: TubeViTConfig,
        frames: torch.Tensor,
        heat: torch.Tensor,
        scores: np.ndarray | None,
        labels: Sequence[str],
        weights: np.ndarray | None,
        heat_title: str,
        theme: Theme,
    ):
        self.theme, self.scores, self.heat_title = theme, scores, heat_title
        self.size = (frames.shape[0], frames.shape[2], frames.shape[3])
        self.frames = frames.permute(0, 2, 3, 1).numpy()
        self.covered = lay_over(frames, heat).numpy()
        self.view = View(self.size)
        tubes, grids = config.resolved_tubes, config.token_grids(*self.size)
        tokens = [kernel_boxes(tube, grid) for tube, grid in zip(tubes, grids)]
        self.boxes = np.concatenate([some.reshape(-1, 2, 3) for some in tokens])
        numbers = np.repeat(np.arange(len(tubes)), [prod(grid) for grid in grids])
        # of each token: its colour, when its tube begins and ends; of each box: its token
        self.colours = np.array([to_rgb(theme.of_tube(int(number))) for number in numbers])
        self.times = np.array([(some[:, 0, 0].min(), some[:, 1, 0].max()) for part in tokens for some in part])
        self.owners = np.repeat(np.arange(len(numbers)), [len(some) for part in tokens for some in part])
        self.weights = None if weights is None else np.sqrt(weights / weights.max())
        self.alpha, self.edge_alpha = choose_alpha(self.boxes, self.size)
        if scores is not None:
            # those that lead at any time, the most likely at the end first
            most = np.argsort(-scores.max(axis=0), kind="stable")[:NUM_LABELS]
            self.shown = most[np.argsort(-scores[-1, most], kind="stable")]
            self.labels = [shorten(labels[index]) for index in self.shown]

    def draw(self, number: int) -> Figure:
        """Page `number`; the one after the last frame shows the end."""
        theme, frame = self.theme, min(number, self.size[0] - 1)
        ended = number == self.size[0]
        figure = new_figure(HEIGHT, theme)
        right = 0.755 if self.scores is not None else 1.0
        self.draw_frame(figure, (0.012, 0.54), self.frames[frame], f"frame {frame + 1} of {self.size[0]}")
        self.draw_frame(figure, (0.012, 0.03), self.covered[frame], self.heat_title)
        self.title(figure, 0.235, "tubes")
        self.draw_tubes(figure.add_axes((0.225, 0.3, right - 0.235, 0.62)), frame, ended)
        seen = int((self.times[:, 1] <= frame + 1).sum())
        total = len(self.times)
        words = f"{seen:,} of {total:,} tokens"
        if ended and self.weights is not None:
            words = f"{total:,} tokens, as the pooling weighs them"
        self.draw_tokens(figure.add_axes((0.235, 0.03, right - 0.26, 0.2)), frame, ended)
        self.title(figure, 0.235, words, 0.285)
        if self.scores is not None:
            told = "of the whole clip" if frame == self.size[0] - 1 else "if it stood still from here"
            self.title(figure, 0.765, "scores")
            figure.text(0.765, 0.9, told, fontsize=SMALL, color=theme.faint, va="top")
            self.draw_scores(figure.add_axes((0.765, 0.03, 0.22, 0.8)), self.scores[frame, self.shown])
        return figure

    def title(self, figure: Figure, left: float, words: str, top: float = 0.97) -> None:
        figure.text(left, top, words, fontsize=WORDS, fontweight="bold", color=self.theme.ink, va="top")

    def draw_frame(self, figure: Figure, place: tuple[float, float], picture: np.ndarray, words: str) -> None:
        self.title(figure, place[0], words, place[1] + 0.43)
        axes = figure.add_axes((*place, 0.2, 0.37), anchor="NW")
        axes.imshow(picture, interpolation="bilinear" if picture.shape[0] < 128 else "antialiased")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(self.theme.faint)

    def draw_tubes(self, axes: Axes, frame: int, ended: bool) -> None:
        """Tubes up to the frame, the frame as a card, what it cuts, and the outlines of what is still to come."""
        num_frames = self.size[0]
        set_up(axes, self.view, (0.02, 0.02, 0.02, 0.02))
        add_frame_of_reference(axes, self.view, self.theme, labels=False)
        colours = self.colours.copy()
        paper = np.array(to_rgb(self.theme.paper))
        if ended and self.weights is not None:
            share = 0.15 + 0.85 * self.weights[:, None]
            colours = share * colours + (1 - share) * paper
        elif not ended:
            passed = self.times[:, 1] <= frame
            colours[passed] = 0.5 * colours[passed] + 0.5 * paper
        of_boxes = colours[self.owners]
        stretches = ((0, frame, 1.0), (frame, frame + 1, 1.0), (frame + 1, num_frames, 0.0))
        for number, (start, stop, filled) in enumerate(stretches):
            if number == 1:
                add_card(axes, self.view, frame, self.theme, self.frames[frame], 1.0, 3, edge=1.2)
            parts, kept, whole = cut_boxes(self.boxes, start, stop)
            alpha, edge_alpha = filled * self.alpha, self.edge_alpha if filled else 0.3 * self.edge_alpha
            if number == 1:
                # the frame is to be seen through what covers it
                alpha, edge_alpha = min(alpha, 0.5), min(1.0, 8 / max(1, len(parts)) ** 0.5)
            add_boxes(axes, self.view, parts, of_boxes[kept], 2 * number + 2, alpha, edge_alpha, 0.4, whole)

    def draw_tokens(self, axes: Axes, frame: int, ended: bool) -> None:
        """A square for each token: empty before its tube begins, half as strong while it is passed."""
        count = len(self.times)
        box = axes.get_window_extent()
        # as large as lets all of them in
        columns = ceil((count * box.width / box.height) ** 0.5)
        columns = max(columns, ceil(count / max(1, count // columns)))
        columns = max(columns, 24)
        rows = ceil(count / columns)
        begins, ends = self.times.T
        strength = np.where(ends <= frame + 1, 1.0, np.where(begins <= frame, 0.45, 0.08))
        if ended and self.weights is not None:
            strength = 0.08 + 0.92 * self.weights
        places = np.column_stack([np.arange(count) % columns, np.arange(count) // columns])
        squares = [Rectangle((x + 0.08, y + 0.08), 0.84, 0.84) for x, y in places]
        paper = np.array(to_rgb(self.theme.paper))
        mixed = strength[:, None] * self.colours + (1 - strength[:, None]) * paper
        edges = 0.5 * self.colours + 0.5 * paper
        axes.add_collection(PatchCollection(squares, facecolors=mixed, edgecolors=edges, linewidths=0.3))
        axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", anchor="NW")
        axes.axis("off")

    def draw_scores(self, axes: Axes, scores: np.ndarray) -> None:
        theme = self.theme
        for place, (label, score) in enumerate(zip(self.labels, scores)):
            leads = score == scores.max()
            axes.add_patch(Rectangle((0, place + 0.45), 1, 0.26, facecolor=theme.faint, alpha=0.18))
            axes.add_patch(Rectangle((0, place + 0.45), score, 0.26, facecolor=theme.ink if leads else theme.faint))
            style = {"fontsize": SMALL + 0.5, "color": theme.ink, "fontweight": "bold" if leads else "normal"}
            axes.text(0, place + 0.36, label, va="bottom", parse_math=False, **style)
            axes.text(1, place + 0.36, f"{score:.0%}", va="bottom", ha="right", **style)
        axes.set(xlim=(0, 1), ylim=(max(len(scores), 4), 0))
        axes.axis("off")


def shorten(label: str, length: int = 18) -> str:
    """The first of a label's names, as much of it as fits."""
    label = printable(label.split(",")[0])
    return label if len(label) <= length else label[: length - 1] + "…"
