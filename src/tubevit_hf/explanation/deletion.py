# SPDX-License-Identifier: Apache-2.0
"""Whether what an explanation names is what the model needs (Petsiuk, Das and Saenko, 2018)."""

import torch

from ..evaluation.views import to_scores
from ..model.modeling_tubevit import TubeViTForClassification
from .gradient import mean_colour
from .scores import choose_labels, of_labels, read_logits


@torch.no_grad()
def deletion_curve(
    model: TubeViTForClassification,
    pixel_values: torch.Tensor,
    explanation: torch.Tensor,
    labels: torch.Tensor | None = None,
    num_steps: int = 16,
) -> torch.Tensor:
    """Probability of a label as more and more of a clip is replaced by its mean colour, the most important first.

    The sooner it falls, the better the explanation; `torch.trapezoid(curve, dim=1) / num_steps` is the area under it.

    Args:
        model: a classifier, in evaluation mode.
        pixel_values: `(batch, num_frames, channels, height, width)`.
        explanation: `(batch, num_frames, height, width)`, higher for what goes first; of equal pixels the earlier.
        labels: `(batch,)`; by default the most likely one of each whole clip.
        num_steps: equal parts of the pixels that go one after another.

    Returns:
        `(batch, num_steps + 1)`, from the whole clip to nothing but its colour.
    """
    labels = choose_labels(read_logits(model, pixel_values), labels)
    blank = mean_colour(pixel_values)
    order = explanation.flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1).view_as(explanation)
    num_pixels = order.shape[1]
    curve = []
    for step in range(num_steps + 1):
        gone = (ranks < step * num_pixels // num_steps)[:, :, None]
        logits = read_logits(model, torch.where(gone, blank, pixel_values))
        curve.append(of_labels(to_scores(logits, model.config.problem_type), labels))
    return torch.stack(curve, dim=1)
