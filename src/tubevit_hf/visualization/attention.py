# SPDX-License-Identifier: Apache-2.0
"""Where the attention pooling looks."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from matplotlib.figure import Figure

from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTAttentionPooler, TubeViTPreTrainedModel
from ..model.tubes_tubevit import Size, Tube, as_size


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
    if not isinstance(base_model.pooler, TubeViTAttentionPooler):
        raise ValueError(f"There is no attention to show: `pooling_type` is {model.config.pooling_type!r}.")
    hidden_states = base_model(pixel_values).last_hidden_state
    assert hidden_states is not None
    weights = pooler_weights(base_model.pooler, hidden_states)
    batch_size, num_frames, _, height, width = pixel_values.shape
    attention = torch.zeros(batch_size, num_frames, height, width)
    regions = list(token_regions(model.config, (num_frames, height, width)))
    assert len(regions) == weights.shape[1]
    for token, region in enumerate(regions):
        if region is not None:
            frames, rows, columns = region
            attention[:, frames, rows, columns] += (
                weights[:, token, None, None, None] / attention[0, frames, rows, columns].numel()
            )
    return attention


def token_regions(config: TubeViTConfig, size: Size) -> Iterator[tuple[slice, slice, slice] | None]:
    """What each token that is pooled sees, in frames and pixels; `None` for CLS and registers."""
    layout = config.token_layout(*size)
    of_moments = [tube for tube in config.resolved_tubes if config.joint_layer == 0 or tube.sees_one_frame]
    later = [tube for tube in config.resolved_tubes if tube not in of_moments]
    factors = config.joint_pooling if layout.num_moments > 1 else [1, 1]
    for moment in range(layout.num_moments):
        yield from [None] * layout.num_prefix_tokens
        for tube, grid in zip(of_moments, layout.moment_grids):
            yield from tube_regions(tube, grid, moment, factors)
    for tube, grid in zip(later, layout.later_grids):
        yield from tube_regions(tube, grid, 0, [1, 1])


def tube_regions(tube: Tube, grid: Size, first: int, factors: Sequence[int]) -> Iterator[tuple[slice, slice, slice]]:
    """From step `first` on, `factors` patches along height and width together."""
    steps, rows, columns = grid
    for corner in product(range(steps), range(0, rows, factors[0]), range(0, columns, factors[1])):
        begins = as_size((corner[0] + first, *corner[1:]))
        ends = as_size((begins[0] + 1, min(rows, begins[1] + factors[0]), min(columns, begins[2] + factors[1])))
        frames, height, width = (
            slice(offset + step * begin, offset + step * (end - 1) + extent)
            for offset, step, extent, begin, end in zip(tube.offset, tube.stride, tube.extent, begins, ends)
        )
        yield frames, height, width


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
