# SPDX-License-Identifier: Apache-2.0
"""The loss of the classifiers, for one label, soft labels, several labels and regression."""

from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

from .inputs_tubevit import can_read


ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

# part of an error message, for configs without a `problem_type`
INFERENCE = (
    "It was inferred: whole numbers are classes, one a row; floats are zeros and ones of several labels. Give labels "
    "of the other type, or set `config.problem_type`."
)


def classification_loss(
    labels: torch.Tensor,
    logits: torch.Tensor,
    config: PreTrainedConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs: object,
) -> torch.Tensor:
    """Computes the loss that `config.problem_type` names. If it is `None`, it is inferred as everywhere in
    transformers, and set in the config.

    `"single_label_classification"` is cross-entropy with classes `(batch,)` or, for soft labels as MixUp makes them,
    probabilities `(batch, num_labels)`; `"multi_label_classification"` is binary cross-entropy with `(batch,
    num_labels)`; `"regression"` is the squared error. The loss is a mean or, with `num_items_in_batch`, a sum over the
    batch that is divided by this number: the Trainer's count of label entries in all accumulated batches.

    Raises:
        ValueError: labels have a wrong shape or are out of range. The range is checked for labels on the CPU only, in
            eager mode and outside `torch.func`: with labels on a GPU, the host would wait for it in every step.
    """
    num_labels = count_labels(config)
    problem_type = config.problem_type or infer_problem_type(labels, num_labels)
    given, labels = labels, labels.to(logits.device)
    # bfloat16 has a precision of 8 bits: too few for a loss
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    by_class = problem_type == "single_label_classification" and not labels.is_floating_point()
    if num_labels == 1 and labels.ndim == 1 and not by_class:
        labels = labels[:, None]
    expected = logits.shape[:1] if by_class else logits.shape
    if labels.shape != expected:
        inference = f" {INFERENCE}" if config.problem_type is None else ""
        raise ValueError(
            f"`labels` of type {labels.dtype} must have the shape {tuple(expected)} for `problem_type` "
            f"{problem_type!r}, got {tuple(labels.shape)}.{inference}"
        )
    if given.device.type == "cpu" and can_read(given):
        check_label_range(given, problem_type, num_labels)

    # `num_items_in_batch` counts label entries: one per row of classes, `num_labels` per row of soft labels
    reduction = "mean" if num_items_in_batch is None else "sum"
    if by_class:
        loss = nn.functional.cross_entropy(logits, labels.long(), reduction=reduction)
    elif problem_type == "single_label_classification":
        loss = nn.functional.cross_entropy(logits, labels.to(logits.dtype), reduction=reduction)
        if num_items_in_batch is not None:
            loss = loss * num_labels
    elif problem_type == "multi_label_classification":
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction=reduction)
    else:
        loss = nn.functional.mse_loss(logits, labels.to(logits.dtype), reduction=reduction)
    # last, so that refused labels do not change the config
    config.problem_type = problem_type
    return loss if num_items_in_batch is None else loss / num_items_in_batch


def infer_problem_type(labels: torch.Tensor, num_labels: int) -> ProblemType:
    """Infers the `problem_type` from the dtype of the labels, as transformers does."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def count_labels(config: PreTrainedConfig) -> int:
    """Returns `config.num_labels`; raises a `ValueError` if it is None, since `id2label` was set to None."""
    if config.num_labels is None:
        raise ValueError("`config.num_labels` must be a number, got None: set `config.id2label`.")
    return config.num_labels


def check_label_range(labels: torch.Tensor, problem_type: ProblemType, num_labels: int) -> None:
    """Raises a `ValueError` for labels out of range, before a kernel fails with an index error."""
    if problem_type == "regression":
        return
    if labels.is_floating_point() or problem_type == "multi_label_classification":
        wrong, allowed = (labels < 0) | (labels > 1), "between 0 and 1"
    else:
        # `cross_entropy` ignores -100, the usual mark of "no label"
        wrong = ((labels < 0) & (labels != -100)) | (labels >= num_labels)
        allowed = f"from 0 to {num_labels - 1} (`num_labels` is {num_labels})"
    if wrong.any():
        raise ValueError(f"`labels` must be {allowed}, got {labels[wrong].unique().tolist()}.")
