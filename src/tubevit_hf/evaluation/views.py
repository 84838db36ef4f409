# SPDX-License-Identifier: Apache-2.0
"""Evaluation with several views of a video (Section 4): their scores are averaged."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput


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

    A clip `(batch, frames, channels, height, width)`, with a `frame_mask` of `(batch, frames)`, is one view, and so is
    an image `(batch, channels, height, width)`.
    """
    outputs, num_views = run_views(model, pixel_values, frame_mask, **kwargs)
    logits = outputs["logits"].float()
    scores = to_scores(logits, "multi_label_classification" if multi_label else None)
    return average_views(scores, num_views)


def run_views(
    model: nn.Module,
    pixel_values: torch.Tensor | list[torch.Tensor] | None = None,
    frame_mask: torch.Tensor | None = None,
    frozen_output: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[ModelOutput, int]:
    """What the model gives of views as of so many clips, `(batch * views, ...)`, and how many views a video has.

    The number of axes tells views from clips and images; what frozen layers gave of a clip has two or four, of views
    one more.
    """
    views, inputs = None, {"frame_mask": frame_mask, "frozen_output": frozen_output}
    if isinstance(pixel_values, torch.Tensor) and pixel_values.ndim == 6:
        views = pixel_values
    elif frozen_output is not None and frozen_output.ndim in (3, 5):
        views = frozen_output
    if views is not None:
        inputs = {name: None if value is None else value.flatten(0, 1) for name, value in inputs.items()}
        pixel_values = pixel_values.flatten(0, 1) if isinstance(pixel_values, torch.Tensor) else pixel_values
    elif isinstance(pixel_values, torch.Tensor) and pixel_values.ndim == 4 and is_tubevit(model):
        # images that are meant: a classifier of videos would warn of them
        pixel_values = pixel_values[:, None]
    # models of other families have no such arguments, and call their clips otherwise
    inputs = {name: value for name, value in inputs.items() if value is not None}
    clips = () if pixel_values is None else (pixel_values,)
    return model(*clips, **inputs, **kwargs), 1 if views is None else views.shape[1]


def is_tubevit(model: nn.Module) -> bool:
    return getattr(getattr(model, "config", None), "model_type", None) == "tubevit"


def average_views(scores: torch.Tensor, num_views: int) -> torch.Tensor:
    """`(batch * views, num_labels) -> (batch, num_labels)`"""
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
