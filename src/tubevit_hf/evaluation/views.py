# SPDX-License-Identifier: Apache-2.0
"""Evaluation with several views of a video (Section 4): their scores are averaged."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig


@torch.no_grad()
def predict_views(
    model: nn.Module,
    pixel_values: torch.Tensor,
    multi_label: bool = False,
    frame_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Scores averaged over views: `(batch, views, frames, channels, height, width) -> (batch, num_labels)`.

    All views of the batch go through the model at once. Probabilities are averaged, by softmax or, of several labels,
    by sigmoid. Of padded clips `frame_mask`, `(batch, views, frames)`, says which frames are real.
    """
    num_views = pixel_values.shape[1]
    if frame_mask is not None:
        kwargs["frame_mask"] = frame_mask.flatten(0, 1)
    logits = model(pixel_values.flatten(0, 1), **kwargs).logits.float()
    scores = to_scores(logits, "multi_label_classification" if multi_label else None)
    return scores.unflatten(0, (-1, num_views)).mean(dim=1)


def list_labels(config: PreTrainedConfig) -> list[str]:
    """Names of a model's classes, in the order of its scores."""
    # of models in memory other architectures may have texts as numbers
    return [name for _, name in sorted((int(number), name) for number, name in (config.id2label or {}).items())]


def to_scores(logits: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """As Transformers' pipelines: probabilities, of each label by itself if there may be several; values of a
    regression as they are."""
    if problem_type == "regression":
        return logits
    return logits.sigmoid() if problem_type == "multi_label_classification" else logits.softmax(dim=-1)
