# SPDX-License-Identifier: Apache-2.0
"""What the kernels of a model look like: strips over time, one picture for each frame that a kernel sees."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from matplotlib.figure import Figure

from ..model.modeling_tubevit import TubeViTPreTrainedModel
from ..model.tubes_tubevit import Tube
from .theme import LIGHT, SMALL, WIDTH, WORDS, Theme, add_axes, name_tube, new_figure, note, put, size_in_words, title


# pictures side by side, at least, and rows of strips for each tube
ACROSS, ROWS = 16, 4
# inches: between frames, kernels, rows and tubes, around all, and for the words above a tube's
GAP, APART, BETWEEN, BELOW, MARGIN, WORDS_ABOVE = 0.03, 0.08, 0.12, 0.22, 0.15, 0.5
# of kernels whose inflation is shown for each tube
NUM_INFLATED = 2


def tube_kernels(model: TubeViTPreTrainedModel) -> list[torch.Tensor]:
    """The kernel of each tube, `(out_channels, channels, t, h, w)`, in float32; one that all share as each has it."""
    embeddings = model.base_model.embeddings
    with torch.no_grad():
        return [
            (tube.weight if embeddings.base_kernel is None else tube.resize_kernel(embeddings.base_kernel))
            .detach()
            .float()
            .cpu()
            for tube in embeddings.tubes
        ]


def draw_kernels(model: TubeViTPreTrainedModel, theme: Theme = LIGHT) -> Figure:
    """Of each tube the kernels with the largest weights, as strips over time (the paper's Figure 5).

    Each kernel is drawn by itself: grey is no weight, the brightest and darkest its largest. Where one kernel is
    shared by all tubes, the same ones are shown of each.

    Args:
        model: a TubeViT, with or without a head. Kernels of three channels are shown as colours, others as the mean
            over their channels.
        theme: light or dark.
    """
    tubes, kernels = model.config.resolved_tubes, tube_kernels(model)
    base_kernel = model.base_model.embeddings.base_kernel
    shared = None if base_kernel is None else strongest(base_kernel.detach().float().cpu())
    across = max(ACROSS, *(tube.kernel_size[0] for tube in tubes))
    # kernels of several frames stand farther apart than the frames of one
    most = max(across // tube.kernel_size[0] * (tube.kernel_size[0] > 1) for tube in tubes)
    side = (WIDTH - 2 * MARGIN - across * GAP - most * APART) / across
    blocks = []
    for kernel in kernels:
        per_row = across // kernel.shape[2]
        order = strongest(kernel) if shared is None else shared[shared < len(kernel)]
        chosen = kernel[order[: ROWS * per_row]]
        blocks.append((per_row, chosen))
    heights = [
        WORDS_ABOVE + ceil(len(chosen) / per_row) * (side * chosen.shape[3] / chosen.shape[4] + GAP) + BELOW
        for per_row, chosen in blocks
    ]
    top = 0.62 if shared is None else 0.85
    figure = new_figure(top + sum(heights), theme)
    title(figure, "Kernels of each tube: what they respond to, frame by frame", theme)
    if base_kernel is not None:
        size = size_in_words((base_kernel.shape[2], base_kernel.shape[3], base_kernel.shape[4]))
        note(figure, 0.45, f"One kernel of {size} is resized to the shape of each tube.", theme)
    for tube, (per_row, chosen), kernel, height in zip(tubes, blocks, kernels, heights):
        words = f"{size_in_words(tube.kernel_size)}; {len(chosen)} of {len(kernel)} kernels"
        write(figure, top, name_tube(tube), words + ", time to the right" * (tube.kernel_size[0] > 1), theme)
        apart = APART * (tube.kernel_size[0] > 1)
        for number, one in enumerate(chosen):
            row, column = divmod(number, per_row)
            down = top + WORDS_ABOVE + row * (side * one.shape[2] / one.shape[3] + GAP)
            draw_strip(figure, MARGIN + column * (one.shape[1] * (side + GAP) + apart), down, side, one)
        top += height
    return figure


def draw_inflation(
    patch: torch.Tensor,
    tubes: Sequence[Tube],
    inflated: Sequence[torch.Tensor],
    kernels: Sequence[torch.Tensor],
    theme: Theme = LIGHT,
) -> Figure:
    """How the kernel of images became those of tubes: some kernels of the patch, and beside each what inflating makes
    of it; below that the model's own, where training has changed it since.

    Args:
        patch: of the model, `(hidden_size, channels, h, w)`.
        tubes: those that were inflated.
        inflated: what inflating makes of the patch for each, `(hidden_size, channels, *kernel_size)`.
        kernels: the model's own, of the same shapes.
        theme: light or dark.
    """
    chosen = strongest(patch)[:NUM_INFLATED]
    across = max(12, *(tube.kernel_size[0] for tube in tubes))
    source, arrow = 0.8, 0.55
    changed = [not torch.allclose(made, kernel, rtol=1e-3, atol=1e-6) for made, kernel in zip(inflated, kernels)]
    left = MARGIN + source + arrow
    after = 1.15 if any(changed) else 0.0
    side = (WIDTH - left - MARGIN - after) / across - GAP
    steps = [max(source, (1 + more) * (side + GAP)) + BETWEEN for more in changed]
    heights = [WORDS_ABOVE + NUM_INFLATED * step + BELOW for step in steps]
    top = 0.62
    figure = new_figure(top + sum(heights) + 0.1, theme)
    title(figure, "How kernels of images became kernels of tubes", theme)
    for tube, made, kernel, more, step, height in zip(tubes, inflated, kernels, changed, steps, heights):
        words = f"{size_in_words(tube.kernel_size)}; each frame has an equal share of the image kernel"
        write(figure, top, name_tube(tube), words, theme)
        for row, index in enumerate(chosen):
            down = top + WORDS_ABOVE + row * step
            draw_strip(figure, MARGIN, down, source, patch[index][:, None])
            strips = [(made[index], "inflated"), *([(kernel[index], "after training")] if more else [])]
            first = down + (source - len(strips) * (side + GAP)) / 2
            point(figure, MARGIN + source + 0.08, down + source / 2, arrow - 0.16, theme)
            for place, (strip, name) in enumerate(strips):
                begins = max(down, first) + place * (side + GAP)
                draw_strip(figure, left, begins, side, strip)
                if more:
                    ends = left + strip.shape[1] * (side + GAP) + 0.08
                    put(figure, ends, begins + side / 2, name, theme.faint, SMALL, va="center")
        top += height
    return figure


def strongest(kernels: torch.Tensor) -> torch.Tensor:
    """Numbers of kernels `(kernels, ...)`, those with the largest weights first."""
    return kernels.flatten(1).norm(dim=1).argsort(descending=True, stable=True)


def to_picture(kernel: torch.Tensor) -> np.ndarray:
    """A kernel `(channels, t, h, w)` as colours from 0 to 1, `(t, h, w, 3)`: grey where it has no weight."""
    if len(kernel) != 3:
        kernel = kernel.mean(dim=0, keepdim=True).expand(3, -1, -1, -1)
    largest = kernel.abs().max().clamp_min(torch.finfo(kernel.dtype).tiny)
    return (0.5 + 0.5 * kernel / largest).permute(1, 2, 3, 0).numpy()


def draw_strip(figure: Figure, left: float, down: float, side: float, kernel: torch.Tensor) -> None:
    """A kernel `(channels, t, h, w)` from a place on, in inches; `side` is the width of a frame of it."""
    for step, picture in enumerate(to_picture(kernel)):
        height = side * picture.shape[0] / picture.shape[1]
        axes = add_axes(figure, left + step * (side + GAP), down, side, height)
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.axis("off")


def write(figure: Figure, down: float, name: str, words: str, theme: Theme) -> None:
    """What stands above the kernels of a tube."""
    put(figure, MARGIN, down, name, theme.ink, WORDS, fontweight="bold")
    put(figure, MARGIN, down + 0.24, words, theme.faint, SMALL)


def point(figure: Figure, left: float, down: float, length: float, theme: Theme) -> None:
    """An arrow to the right."""
    axes = add_axes(figure, left, down - 0.1, length, 0.2)
    axes.annotate(
        "", (1, 0.5), (0, 0.5), xycoords="axes fraction", arrowprops={"arrowstyle": "->", "color": theme.faint}
    )
    axes.axis("off")
