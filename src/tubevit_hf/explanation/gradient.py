# SPDX-License-Identifier: Apache-2.0
"""Which pixels speak for a label: integrated gradients (Sundararajan, Taly and Yan, 2017)."""

import torch

from ..model.modeling_tubevit import TubeViTForClassification
from .scores import choose_labels, log_odds, read_logits


# on the way from a clip without content to the clip. With one, what a sure model does not need any more is missed
NUM_STEPS = 8


def integrated_gradients(
    model: TubeViTForClassification,
    pixel_values: torch.Tensor,
    labels: torch.Tensor | None = None,
    num_steps: int = NUM_STEPS,
) -> torch.Tensor:
    """How much each pixel adds to the log-odds of a label, beside a clip of a single colour.

    Tubes are linear: how much of what a token adds comes from which of the pixels under it is known, and is not spread
    over the region of the token, most of which may be empty. The colour is the mean of the clip. Nothing is left in
    `.grad`, and whether parameters are frozen makes no difference.

    Args:
        model: a classifier, in evaluation mode.
        pixel_values: `(batch, num_frames, channels, height, width)`.
        labels: `(batch,)`; by default the most likely one of each clip.
        num_steps: at which gradients are taken. The more, the nearer the sum over a clip comes to the difference of
            its log-odds and those of the single colour.

    Returns:
        `(batch, num_frames, height, width)`, in float32; below 0 where something speaks against the label.
    """
    with torch.no_grad():
        labels = choose_labels(read_logits(model, pixel_values), labels)
    blank = mean_colour(pixel_values)
    content = pixel_values - blank
    total = torch.zeros_like(pixel_values)
    for step in range(num_steps):
        # in the middle of each part of the way
        clip = (blank + (step + 0.5) / num_steps * content).detach().requires_grad_()
        with torch.enable_grad():
            odds = log_odds(read_logits(model, clip), labels, model.config.problem_type).sum()
        (gradient,) = torch.autograd.grad(odds, clip)
        total += gradient
    return (total * content / num_steps).float().sum(dim=2)


def mean_colour(pixel_values: torch.Tensor) -> torch.Tensor:
    """Each clip with its mean colour everywhere."""
    return pixel_values.mean(dim=(1, 3, 4), keepdim=True).expand_as(pixel_values)
