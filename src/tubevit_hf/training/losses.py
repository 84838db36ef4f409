# SPDX-License-Identifier: Apache-2.0
"""The losses that a [`VideoTrainer`] trains with: label smoothing, soft labels, and classes that count unlike."""

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedConfig

from ..data import get_names, is_multi_label
from ..model.loss_tubevit import classification_loss, count_labels


def video_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    head: PreTrainedConfig,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of a classifier of any architecture, with smoothed labels.

    A single label gives `label_smoothing` to all classes alike; each of several moves that far towards one half.
    `num_items_in_batch` is what the Trainer counts: one a clip of a single label, also where MixUp made it soft.
    `class_weights` multiply what each class adds for a single label, and of several what each adds where it is right.
    """
    num_entries = num_items_in_batch
    if head.problem_type == "single_label_classification" and not labels.is_floating_point():
        # -100 is the usual mark of "no label"
        logits, labels = logits[labels != -100], labels[labels != -100].long()
    if head.problem_type == "multi_label_classification":
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
    elif label_smoothing or labels.is_floating_point():
        num_labels = count_labels(head)
        if not labels.is_floating_point():
            labels = nn.functional.one_hot(labels, num_labels).to(logits.dtype)
        labels = labels * (1 - label_smoothing) + label_smoothing / num_labels
        if num_items_in_batch is not None:
            num_entries = num_items_in_batch * num_labels
    if class_weights is not None:
        return weighted_loss(logits, labels, class_weights, head, num_items_in_batch)
    return classification_loss(labels, logits, head, num_entries)


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    head: PreTrainedConfig,
    num_items_in_batch: torch.Tensor | int | None,
) -> torch.Tensor:
    """As [`classification_loss`], of which it is a multiple where all weights are alike.

    It is divided by how many clips there are, not by what they weigh: otherwise a batch of one class would weigh as
    much as if its class weighed 1, and the loss would depend on how a step is shared out to batches and processes.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    class_weights = class_weights.to(logits)
    if head.problem_type == "multi_label_classification":
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=class_weights, reduction="sum"
        )
        return loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
    labels = labels.to(logits.dtype) if labels.is_floating_point() else labels.long()
    loss = nn.functional.cross_entropy(logits, labels, weight=class_weights, reduction="sum")
    return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def inverse_frequencies(rows: Dataset) -> list[float]:
    """For each class what its errors should count, so that all classes count alike: the mean number of videos of a
    class over its own, 1 in the mean of the videos. Of several labels a video, how many lack it over how many have it.

    Raises:
        ValueError: a class has no video, or with several labels all of them.
    """
    names, several = get_names(rows), is_multi_label(rows)
    counts = [0] * len(names)
    for labels in rows["label"]:
        for label in set(labels) if several else [labels]:
            counts[label] += 1
    for name, count in zip(names, counts):
        if count == 0 or (several and count == len(rows)):
            raise ValueError(f"{count} of {len(rows)} videos are of the class {name!r}, which gives it no weight.")
    if several:
        return [(len(rows) - count) / count for count in counts]
    return [len(rows) / (len(names) * count) for count in counts]
