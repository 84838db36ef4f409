# SPDX-License-Identifier: Apache-2.0
"""One call for each way to tell what counts in a clip."""

from typing import Literal, get_args

import torch

from ..model.modeling_tubevit import TubeViTPreTrainedModel, as_video
from .attention import attention_rollout, pooling_attention
from .gradient import integrated_gradients
from .scores import check_classifier


Method = Literal["gradient", "rollout", "attention"]
METHODS: tuple[Method, ...] = get_args(Method)


def explain_clips(
    model: TubeViTPreTrainedModel,
    pixel_values: torch.Tensor,
    method: Method = "gradient",
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """How much each region of a clip counts, exact to the tubes: 0 where none looks.

    Gradients are known for each pixel. Attention is known for each token, and is shared out evenly over the region
    that the token sees.

    Args:
        model: in evaluation mode.
        pixel_values: videos `(batch, num_frames, channels, height, width)` or images `(batch, channels, height,
            width)`, as the processor makes them.
        method: `"gradient"`, what speaks for a label, by integrated gradients, for every model with a head;
            `"rollout"`, attention through all layers, for every model; `"attention"`, that of the pooling, for models
            that have one. The last two are the same for all labels.
        labels: `(batch,)`; by default the most likely one of each clip.

    Returns:
        `(batch, num_frames, height, width)`, in float32. With `"gradient"` in log-odds, below 0 where something speaks
        against the label; the others sum to 1, but for what CLS and register tokens have.

    Raises:
        ValueError: the model cannot be explained by this method, or a label is not one of its.
    """
    pixel_values = as_video(pixel_values)
    if method == "attention":
        return pooling_attention(model, pixel_values)
    if method == "rollout":
        return attention_rollout(model, pixel_values)
    if method != "gradient":
        raise ValueError(f"`method` must be one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    return integrated_gradients(check_classifier(model), pixel_values, labels)
