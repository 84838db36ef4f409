# SPDX-License-Identifier: Apache-2.0
"""What becomes of a label if a stretch of time is taken out of a clip."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch

from ..evaluation.views import to_scores
from ..model.modeling_tubevit import TubeViTForClassification, as_video
from .scores import check_classifier, choose_labels, of_labels, read_logits


# around steps that take long
Watch = Callable[[Iterable[int]], Iterable[int]]


def equal_windows(num_frames: int, num_windows: int) -> list[tuple[int, int]]:
    """First frame and the one after the last of windows as even as whole frames allow."""
    edges = [number * num_frames // num_windows for number in range(num_windows + 1)]
    return list(pairwise(edges))


@torch.no_grad()
def occlude_time(
    model: TubeViTForClassification,
    pixel_values: torch.Tensor,
    windows: int | Sequence[tuple[int, int]],
    labels: torch.Tensor | None = None,
    fill: Literal["hold", "mean"] = "hold",
) -> torch.Tensor:
    """How far a label's probability drops if a stretch of time is taken out.

    Args:
        model: a classifier, in evaluation mode.
        pixel_values: `(batch, num_frames, channels, height, width)`.
        windows: their number, as even as whole frames allow, or of each its first frame and the one after its last.
        labels: `(batch,)`; by default the most likely one of each clip.
        fill: what is there instead: `"hold"`, the frame before it, as if the video stood still (at the start the one
            after it); `"mean"`, the mean of the clip's other frames.

    Returns:
        `(batch, windows)`, from -1 to 1: above 0 where the label needs what is seen there, below 0 where that speaks
        against it.

    Raises:
        ValueError: the model has no head, a label is not one of its, or a window is empty, beyond the clip or all of
            it.
    """
    model = check_classifier(model)
    pixel_values = as_video(pixel_values)
    num_frames = pixel_values.shape[1]
    if isinstance(windows, int):
        if not 2 <= windows <= num_frames:
            raise ValueError(f"`windows` must be from 2 to {num_frames}, the frames of a clip, got {windows}.")
        windows = equal_windows(num_frames, windows)
    logits = read_logits(model, pixel_values)
    labels = choose_labels(logits, labels)
    before = of_labels(to_scores(logits, model.config.problem_type), labels)
    drops = []
    for window in windows:
        after = to_scores(read_logits(model, take_out(pixel_values, window, fill)), model.config.problem_type)
        drops.append(before - of_labels(after, labels))
    return torch.stack(drops, dim=1)


@torch.no_grad()
def scores_so_far(
    model: TubeViTForClassification, pixel_values: torch.Tensor, watch: Watch = lambda steps: steps
) -> torch.Tensor:
    """What a model would say if a clip stood still from a frame on, for each of its frames; at the last one what it
    says of the clip.

    Args:
        model: a classifier, in evaluation mode.
        pixel_values: `(batch, num_frames, channels, height, width)`.
        watch: around the numbers of the frames, such as `tqdm`.

    Returns:
        Probabilities `(batch, num_frames, labels)`, in float32.
    """
    model = check_classifier(model)
    pixel_values = as_video(pixel_values)
    scores = []
    for frame in watch(range(pixel_values.shape[1])):
        held = pixel_values.clone()
        held[:, frame + 1 :] = pixel_values[:, frame : frame + 1]
        scores.append(to_scores(read_logits(model, held), model.config.problem_type))
    return torch.stack(scores, dim=1)


def take_out(pixel_values: torch.Tensor, window: tuple[int, int], fill: str) -> torch.Tensor:
    """Clips `(batch, num_frames, channels, height, width)` with a window filled as `occlude_time` says."""
    start, stop = window
    num_frames = pixel_values.shape[1]
    if not 0 <= start < stop <= num_frames or stop - start == num_frames:
        raise ValueError(
            f"a window must lie within the {num_frames} frame(s) of the clip, and leave some of them, got {start} to "
            f"{stop}."
        )
    if fill == "hold":
        instead = pixel_values[:, start - 1 if start else stop]
    elif fill == "mean":
        instead = torch.cat((pixel_values[:, :start], pixel_values[:, stop:]), dim=1).mean(dim=1)
    else:
        raise ValueError(f'`fill` must be "hold" or "mean", got {fill!r}.')
    filled = pixel_values.clone()
    filled[:, start:stop] = instead[:, None]
    return filled
