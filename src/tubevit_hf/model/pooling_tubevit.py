# SPDX-License-Identifier: Apache-2.0
"""Pooling: makes one vector of a clip's tokens.

All poolers have one signature, so that the model calls them without knowing which one it has:

    hidden_states   normed tokens after the last layer: (batch, tokens, hidden_size) -> (batch, features)
    layout          the layout of the clip in the embeddings; `layout.pool(config.joint_pooling)` is the layout of
                    `hidden_states`
    token_mask      (batch, tokens), True for valid tokens of `hidden_states`; None if all are valid
    layer_states    normed tokens after some layers; `config.layers_read` lists the keys
"""

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention_tubevit import TubeViTMultiHeadAttention, make_mask
from .configuration_tubevit import TubeViTConfig
from .moments_tubevit import TokenLayout, split_moments, tube_tokens


class TubeViTAttentionPooler(TubeViTMultiHeadAttention):
    """One learned query attends to all valid tokens: `(batch, tokens, hidden_size) -> (batch, hidden_size)`."""

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.query = nn.Parameter(torch.empty(1, 1, config.hidden_size))

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        layer_states: dict[int, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        # a copy, for the reason given in `TubeViTMeanPooler.choose`
        query = self.query.repeat(hidden_states.shape[0], 1, 1)
        attention_mask = make_mask(self.config, query, token_mask, hidden_states)
        return self.attend(query, hidden_states, attention_mask, None, **kwargs)[0].squeeze(1)


class TubeViTMeanPooler(nn.Module):
    """Averages the tubes' valid tokens: `(batch, tokens, hidden_size) -> (batch, hidden_size)`."""

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        layer_states: dict[int, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        joined = layout.pool(self.config.joint_pooling)
        chosen = self.choose(hidden_states, joined)
        if token_mask is None:
            return chosen.mean(dim=1)
        weight = self.choose(token_mask, joined)[..., None].to(chosen.dtype)
        return (chosen * weight).sum(dim=1) / weight.sum(dim=1)

    def choose(self, states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """Selects the tokens that are averaged: `(batch, tokens, ...) -> (batch, chosen, ...)`."""
        later = states[:, layout.num_moment_tokens :]
        # a copy even where a view would do: a traced graph would then fit those sizes only
        patches = split_moments(states, layout)[:, :, layout.num_prefix_tokens :]
        patches = patches.clone(memory_format=torch.contiguous_format)
        return torch.cat([patches.flatten(1, 2), later], dim=1)


class TubeViTClsPooler(TubeViTMeanPooler):
    """Averages the CLS tokens of valid moments; without a `joint_layer` there is one: `(batch, tokens, hidden_size) ->
    (batch, hidden_size)`."""

    def choose(self, states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        return split_moments(states, layout)[:, :, 0]


# smallest change of a channel that the grid pooling counts
LEAST_CHANGE = 1e-6


class TubeViTGridPooler(nn.Module):
    """Describes each region of a clip by statistics: `(batch, tokens, hidden_size) -> (batch, features)`. No weights.

    `pooling_grid` divides the clip into steps in time and regions in space. The features are, for each layer in
    `layer_states` and each tube of `config.pooling_tubes`, the parts of `config.pooling_parts`:

        means        mean of each region over time
        changes      mean absolute change of a region's patches from one step to the next
        shares       the changes of a region, relative to the mean over all regions
        differences  each region at each step, minus its mean over time
        peaks        largest absolute change of any patch, from each step to the next

    A scene without motion shows in the means alone, so that a head can read motion apart from it. All parts are per
    channel. Of changes, shares and peaks, the square root is returned.
    """

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        layer_states: dict[int, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        joined = layout.pool(self.config.joint_pooling)
        features: list[torch.Tensor] = []
        for number, states in layer_states.items():
            layer_layout = joined if number > self.config.joint_layer else layout
            for index in self.config.pooling_tubes:
                valid = None
                if not all(layout.grids[index]):
                    # as a tube whose tokens are all masked
                    patches, size = states.new_zeros(states.shape[0], 1, 1, states.shape[2]), (1, 1)
                    valid = torch.zeros(states.shape[0], 1, dtype=torch.bool, device=states.device)
                else:
                    patches, size = tube_tokens(states, layer_layout, index), layer_layout.grids[index][1:]
                    if token_mask is not None:
                        # the tokens of a step are valid together
                        valid = tube_tokens(token_mask, joined, index)[..., 0]
                features.append(self.describe(patches, size, valid))
        return torch.cat(features, dim=1)

    def describe(self, patches: torch.Tensor, size: tuple[int, int], valid: torch.Tensor | None) -> torch.Tensor:
        """Computes the features of one tube after one layer: `(batch, t, h * w, hidden_size) -> (batch, features)`.

        Args:
            size: `(h, w)` of the tube's grid.
            valid: `(batch, t)`, bool; None if all steps are valid.
        """
        (steps, rows, columns), (height, width) = self.config.pooling_grid, size
        if valid is None:
            valid = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        # valid steps come first
        in_time = region_weights(valid.sum(dim=1), patches.shape[1], steps, patches.dtype)
        of_rows, of_columns = (
            region_weights(torch.full((1,), length, device=patches.device), length, parts, patches.dtype)[0]
            for length, parts in ((height, rows), (width, columns))
        )
        # (regions, patches)
        in_space = (of_rows[:, None, :, None] * of_columns[None, :, None, :]).flatten(2).flatten(0, 1)
        by_step = (in_time @ patches.flatten(2)).unflatten(2, patches.shape[2:])  # (batch, t, patches, hidden_size)
        regions = average_regions(in_space, by_step)
        mean = regions.mean(dim=1, keepdim=True)
        changes = by_step.diff(dim=1).abs()
        # a single step has no changes
        changed = average_regions(in_space, changes).sum(dim=1) / max(1, steps - 1)
        shares = changed / changed.mean(dim=1, keepdim=True).clamp_min(LEAST_CHANGE)
        peaks = changes.amax(dim=2)
        parts = [mean, smooth_sqrt(changed), smooth_sqrt(shares), regions - mean, smooth_sqrt(peaks)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)


def average_regions(weights: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Averages patches over regions: weights `(regions, patches)`, states `(batch, t, patches, hidden_size) -> (batch,
    t, regions, hidden_size)`."""
    batch_size, steps = states.shape[:2]
    averages = torch.bmm(weights.expand(batch_size * steps, -1, -1), states.flatten(0, 1))
    return averages.unflatten(0, (batch_size, steps))


def smooth_sqrt(values: torch.Tensor) -> torch.Tensor:
    """Square root with a finite slope at 0."""
    return values.clamp_min(LEAST_CHANGE).sqrt()


def region_weights(lengths: torch.Tensor, max_length: int, num_regions: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns weights that average items over evenly spaced regions, as adaptive average pooling does: `(batch,) ->
    (batch, num_regions, max_length)`. A row has `max_length` items, of which the first `lengths` count."""
    index = torch.arange(num_regions, device=lengths.device)
    # bounds are multiplied by the number of regions, to stay whole without a division, see `split_moments`
    starts = (index * lengths[:, None])[..., None]
    ends = ((index + 1) * lengths[:, None])[..., None]
    items = num_regions * torch.arange(max_length, device=lengths.device)
    inside = ((items + num_regions > starts) & (items < ends)).to(dtype)
    # where nothing counts the weights are 0
    return inside / inside.sum(dim=-1, keepdim=True).clamp_min(1)


POOLERS: dict[str, type[nn.Module]] = {
    "attention": TubeViTAttentionPooler,
    "cls": TubeViTClsPooler,
    "mean": TubeViTMeanPooler,
    "grid": TubeViTGridPooler,
}
