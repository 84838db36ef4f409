# SPDX-License-Identifier: Apache-2.0
"""The model and label that are explained, and how likely the label is."""

import torch
from torch import nn

from ..model.modeling_tubevit import TubeViTForClassification, TubeViTPreTrainedModel


def find_tubevit(model: nn.Module) -> TubeViTPreTrainedModel:
    """The TubeViT itself, or that within what wraps it as a whole, such as a `PeftModel`, whose adapters are in its
    layers, or what `torch.compile` returns."""
    for module in model.modules():
        if isinstance(module, TubeViTPreTrainedModel):
            return module
    raise ValueError(f"only a TubeViT can be explained, got {type(model).__name__}.")


def check_classifier(model: nn.Module) -> TubeViTForClassification:
    """The classifier, as `find_tubevit` finds it, or a `ValueError` if it has no labels."""
    model = find_tubevit(model)
    if not isinstance(model, TubeViTForClassification) or not model.config.num_labels:
        raise ValueError(
            f"{type(model).__name__} has no labels: load TubeViTForVideoClassification, or choose the method "
            '"rollout" or "attention", which need none.'
        )
    return model


def read_logits(model: TubeViTForClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    """In float32: `(batch, labels)`."""
    logits = model(pixel_values).logits
    assert logits is not None
    return logits.float()


def choose_labels(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """`labels`, checked, or the most likely one of each clip: `(batch,)`."""
    if labels is None:
        return logits.argmax(dim=-1)
    labels = torch.as_tensor(labels, device=logits.device)
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"`labels` must be whole numbers, one for each of {len(logits)} clip(s), got {tuple(labels.shape)} of "
            f"{labels.dtype}."
        )
    wrong = labels[(labels < 0) | (labels >= logits.shape[-1])].tolist()
    if wrong:
        raise ValueError(f"`labels` must be from 0 to {logits.shape[-1] - 1}, got {wrong}.")
    return labels


def of_labels(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`(batch, labels)` at one label of each clip: `(batch,)`."""
    return values.gather(1, labels[:, None])[:, 0]


def log_odds(logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """Of one label of each clip against all others together: `(batch, labels) -> (batch,)`. Unlike a probability it
    still moves where a model is sure. The value of a regression is given as it is."""
    own = of_labels(logits, labels)
    if problem_type in ("multi_label_classification", "regression") or logits.shape[1] == 1:
        return own
    return own - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
