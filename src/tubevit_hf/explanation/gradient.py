# SPDX-License-Identifier: Apache-2.0
"""Which tokens speak for a label: gradients at the tokens that the tubes give."""

import torch

from ..model.modeling_tubevit import TubeViTForClassification
from .regions import share_out, token_regions
from .scores import choose_labels, of_labels


def token_gradient(
    model: TubeViTForClassification, pixel_values: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    """Gradient times input, where tokens leave the embeddings: `(batch, num_frames, height, width)`.

    A token's input is what it holds beyond that of a clip of a single colour, the clip's mean. Nothing is left in
    `.grad`, and whether parameters are frozen makes no difference.
    """
    base_model = model.base_model
    layout = base_model.embeddings.layout(pixel_values)
    with torch.no_grad():
        tokens = base_model.embeddings(pixel_values)
        blank = base_model.embeddings(mean_colour(pixel_values))
    with torch.enable_grad():
        leaves = tokens.detach().requires_grad_()
        states = base_model.run_layers(leaves, leaves, layout, None, 0, len(base_model.layers))
        logits = model.classifier(base_model.finish(states, layout, None).pooler_output)
        labels = choose_labels(logits, labels)
        (gradient,) = torch.autograd.grad(of_labels(logits, labels).sum(), leaves)
    shares = (gradient * (tokens - blank)).sum(dim=-1)
    size = (pixel_values.shape[1], pixel_values.shape[3], pixel_values.shape[4])
    return share_out(shares, token_regions(model.config, size, joined=False), size)


def mean_colour(pixel_values: torch.Tensor) -> torch.Tensor:
    """Each clip with its mean colour everywhere."""
    return pixel_values.mean(dim=(1, 3, 4), keepdim=True).expand_as(pixel_values)
