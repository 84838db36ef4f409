# SPDX-License-Identifier: Apache-2.0
"""Where the attention pooling looks."""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from matplotlib.figure import Figure

from ..model.modeling_tubevit import TubeViTAttentionPooler, TubeViTPreTrainedModel


@torch.no_grad()
def pooling_attention(model: TubeViTPreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Attention of the pooling's query, brought back to the pixels.

    A token's weight, averaged over the heads, is shared out evenly over the region that the token sees. CLS and
    register tokens see no region; their share is left out.

    Args:
        model: a TubeViT with attention pooling, with or without a head.
        pixel_values: `(batch, num_frames, channels, height, width)`.

    Returns:
        `(batch, num_frames, height, width)`; sums to 1 for each clip where there is no CLS or register token.

    Raises:
        ValueError: the model pools otherwise.
    """
    base_model = model.base_model
    if base_model.pooler is None:
        raise ValueError(f"There is no attention to show: `pooling_type` is {model.config.pooling_type!r}.")
    hidden_states = base_model(pixel_values).last_hidden_state
    assert hidden_states is not None
    weights = pooler_weights(base_model.pooler, hidden_states)
    weights = weights[:, base_model.embeddings.num_prefix_tokens :]

    batch_size, num_frames, _, height, width = pixel_values.shape
    attention = torch.zeros(batch_size, num_frames, height, width)
    token = 0
    for tube, grid in zip(model.config.resolved_tubes, model.config.token_grids(num_frames, height, width)):
        for index in product(*map(range, grid)):
            corner = [start + step * i for start, step, i in zip(tube.offset, tube.stride, index)]
            frames, rows, columns = (slice(start, start + size) for start, size in zip(corner, tube.extent))
            attention[:, frames, rows, columns] += weights[:, token, None, None, None] / prod(tube.extent)
            token += 1
    return attention


def pooler_weights(pooler: TubeViTAttentionPooler, hidden_states: torch.Tensor) -> torch.Tensor:
    """Weights of the pooling's query, averaged over the heads: `(batch, tokens, hidden_size) -> (batch, tokens)`."""
    query = pooler.q_proj(pooler.query).unflatten(-1, (-1, pooler.head_dim))  # (1, 1, heads, head_dim)
    keys = pooler.k_proj(hidden_states).unflatten(-1, (-1, pooler.head_dim))  # (batch, tokens, heads, head_dim)
    return ((query * keys).sum(dim=-1) * pooler.scaling).softmax(dim=1).mean(dim=-1)


def draw_attention(
    clips: torch.Tensor, attention: torch.Tensor, titles: Sequence[str], num_columns: int = 8
) -> Figure:
    """Frames of each clip, and below each the same frame as bright as the pooling looks at it.

    Args:
        clips: `(batch, num_frames, 3, height, width)`, uint8 RGB.
        attention: `(batch, num_frames, height, width)`, of [`pooling_attention`].
        titles: one for each clip.
        num_columns: frames to show, evenly spaced.
    """
    num_clips, num_frames = clips.shape[:2]
    num_columns = min(num_columns, num_frames)
    figure = Figure(figsize=(1.25 * num_columns, 3.0 * num_clips), layout="constrained")
    axes = figure.subplots(2 * num_clips, num_columns, squeeze=False)
    for row in range(num_clips):
        # the root brings out the weaker regions too
        brightness = 0.15 + 0.85 * (attention[row] / attention[row].max()).sqrt()
        for column in range(num_columns):
            frame = column * num_frames // num_columns
            image = clips[row, frame].permute(1, 2, 0).numpy()
            above, below = axes[2 * row][column], axes[2 * row + 1][column]
            above.imshow(image)
            below.imshow((image * brightness[frame, ..., None].numpy()).astype("uint8"))
            above.set_title(f"frame {frame}", fontsize=7)
            for axis in (above, below):
                axis.set(xticks=[], yticks=[])
        axes[2 * row][0].set_ylabel(titles[row], fontsize=8)
        axes[2 * row + 1][0].set_ylabel("pooling\nlooks at", fontsize=8)
    return figure
