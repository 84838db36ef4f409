# SPDX-License-Identifier: Apache-2.0
"""Pooling: makes one vector of a clip's tokens.

All poolers have one signature, so that the model calls them without knowing which one it has:

    hidden_states   normed tokens after the last layer: (batch, tokens, hidden_size) -> (batch, features)
    layout          the layout of the clip in the embeddings; `layout.pool(config.joint_pooling)` is the layout of
                    `hidden_states`
    token_mask      (batch, tokens), True for valid tokens of `hidden_states`; None if all are valid
    layer_states    normed tokens after some layers; `config.layers_read` lists the keys
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention_tubevit import TubeViTMultiHeadAttention, make_mask
from .configuration_tubevit import TubeViTConfig
from .moments_tubevit import TokenLayout, split_moments, tube_tokens
from .tubes_tubevit import Size, Tube


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
# beyond any place in a clip, in half frames or half pixels
MAX_PLACE = 2**31


class TubeViTGridPooler(nn.Module):
    """Describes each region of a clip by statistics: `(batch, tokens, hidden_size) -> (batch, features)`. No weights.

    `pooling_grid` divides the clip into steps in time and regions in space. A step or region has the tokens of all
    tubes of `config.pooling_tubes` that lie in it, and each of these tubes counts alike. Along an axis a token stands
    for a stretch as long as its tube's stride, around its centre; the stretches of all tubes together are what is
    divided. Tubes that begin or end within a stride of each other are taken to begin or end together, so that
    interleaved ones are divided alike. In time, a tube's first and last token stand for what lies before and after it
    too. The features are, for each layer in `layer_states`, the parts of `config.pooling_parts`:

        means        mean of each region over time
        changes      mean absolute change of a region's patches from one step to the next
        shares       the changes of a region, relative to the mean over all regions
        differences  each region at each step, minus its mean over time
        peaks        largest absolute change of any patch, from each step to the next
        signed       mean over a region's patches and steps of the change's square root, with the change's sign

    A patch is one place in one tube's grid. A tube with one token in time adds nothing to changes. A scene without
    motion shows in the means alone, so that a head can read motion apart from it. Of a clip that runs backwards,
    means, changes and shares are the same, and signed has the other sign. All parts are per channel. Of changes,
    shares and peaks, the square root is returned.
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
        indices = [index for index in self.config.pooling_tubes if all(layout.grids[index])]
        tubes = [self.config.resolved_tubes[index] for index in indices]
        steps, *regions = self.config.pooling_grid
        # the tokens of a step are valid together, and valid steps come first
        lengths = [
            torch.full((1,), layout.clip_grids[index][0], device=hidden_states.device)
            if token_mask is None
            else tube_tokens(token_mask, joined, index)[..., 0].sum(dim=1)
            for index in indices
        ]
        # the same after all layers up to the joint one, and after all later ones
        weights: dict[bool, tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]] = {}
        features: list[torch.Tensor] = []
        for number, states in layer_states.items():
            is_joint = number > self.config.joint_layer
            layer_layout = joined if is_joint else layout
            if is_joint not in weights:
                grids = [layer_layout.clip_grids[index] for index in indices]
                scale = (1, *(self.config.joint_pooling if is_joint and layout.num_moments > 1 else (1, 1)))
                in_time = time_weights(tubes, grids, lengths, steps, states.dtype)
                weights[is_joint] = in_time, *space_weights(tubes, grids, lengths, scale, regions, states.dtype)
            patches = [tube_tokens(states, layer_layout, index) for index in indices]
            features.append(self.describe(patches, *weights[is_joint]))
        return torch.cat(features, dim=1)

    def describe(
        self,
        patches: Sequence[torch.Tensor],
        in_time: Sequence[torch.Tensor],
        still: torch.Tensor,
        moving: torch.Tensor,
    ) -> torch.Tensor:
        """Computes the features after one layer: `(batch, features)`.

        Args:
            patches: tokens of each tube, `(batch, t, h * w, hidden_size)`.
            in_time: as `time_weights` returns them.
            still, moving: as `space_weights` returns them.
        """
        averages = [
            torch.bmm(weights.expand(of_tube.shape[0], -1, -1), of_tube.flatten(2)).unflatten(2, of_tube.shape[2:])
            for weights, of_tube in zip(in_time, patches)
        ]
        by_step = torch.cat(averages, dim=2)  # (batch, t, patches, hidden_size)
        regions = average_regions(still, by_step)
        mean = regions.mean(dim=1, keepdim=True)
        differences = by_step.diff(dim=1)
        changes = differences.abs()
        # a single step has no changes
        num_changes = max(1, by_step.shape[1] - 1)
        changed = average_regions(moving, changes).sum(dim=1) / num_changes
        found = {
            "means": mean,
            "changes": smooth_sqrt(changed),
            "shares": smooth_sqrt(changed / changed.mean(dim=1, keepdim=True).clamp_min(LEAST_CHANGE)),
            "differences": regions - mean,
            "peaks": smooth_sqrt(changes.amax(dim=2)),
        }
        parts = self.config.pooling_parts
        if "signed" in parts:
            # finite slope at 0
            roots = differences / (changes + LEAST_CHANGE).sqrt()
            found["signed"] = average_regions(moving, roots).sum(dim=1) / num_changes
        return torch.cat([found[name].flatten(1) for name in parts], dim=1)


def average_regions(weights: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Averages patches over regions: weights `(batch or 1, regions, patches)`, states `(batch, t, patches,
    hidden_size) -> (batch, t, regions, hidden_size)`."""
    batch_size, steps = states.shape[:2]
    # a copy even where a view would do: a traced graph would then fit that batch size only
    weights = weights[:, None].expand(batch_size, steps, -1, -1).clone(memory_format=torch.contiguous_format)
    return torch.bmm(weights.flatten(0, 1), states.flatten(0, 1)).unflatten(0, (batch_size, steps))


def smooth_sqrt(values: torch.Tensor) -> torch.Tensor:
    """Square root with a finite slope at 0."""
    return values.clamp_min(LEAST_CHANGE).sqrt()


class Stretches(NamedTuple):
    """Where the stretches of a tube's tokens along an axis begin and end, in half frames or half pixels, which are
    whole numbers: `(length,)` each."""

    begins: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def of(cls, tube: Tube, axis: int, length: int, scale: int, device: torch.device) -> "Stretches":
        first = 2 * tube.offset[axis] + tube.extent[axis] - tube.stride[axis]
        step = 2 * tube.stride[axis] * scale
        begins = first + step * torch.arange(length, device=device)
        return cls(begins, begins + step)

    @property
    def step(self) -> torch.Tensor:
        return self.ends[0] - self.begins[0]


def find_bounds(
    tubes: Sequence[Stretches], ends: Sequence[torch.Tensor], lengths: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns for each tube the begin and end of what is divided: those of all tubes together, or its own where they
    are less than a stride away; `(batch or 1,)` each.

    Args:
        ends: of each tube's last valid token, `(batch or 1,)`.
        lengths: how many valid tokens it has in time, `(batch or 1,)`. A tube without any has no place in the clip.
    """
    low = torch.stack([tube.begins[0].where(length > 0, MAX_PLACE) for tube, length in zip(tubes, lengths)]).amin(0)
    high = torch.stack([end.where(length > 0, -MAX_PLACE) for end, length in zip(ends, lengths)]).amax(0)
    return [
        (
            torch.where(tube.begins[0] - low < tube.step, tube.begins[0], low),
            torch.where(high - end < tube.step, end, high),
        )
        for tube, end in zip(tubes, ends)
    ]


def overlaps(
    begins: torch.Tensor, ends: torch.Tensor, low: torch.Tensor, high: torch.Tensor, num_regions: int
) -> torch.Tensor:
    """Marks which stretches `(batch or 1, tokens)` lie in which of the regions that divide `low` to `high` evenly:
    `(batch or 1, num_regions, tokens)`, bool."""
    index = torch.arange(num_regions, device=begins.device)[:, None]
    # bounds are multiplied by the number of regions, to stay whole without a division, see `split_moments`
    low, span = low[:, None, None], (high - low)[:, None, None]
    after_begin = num_regions * (ends[:, None] - low) > index * span
    return after_begin & (num_regions * (begins[:, None] - low) < (index + 1) * span)


def normalize(inside: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Makes weights of marks, whose sum is 1, or 0 where nothing is marked."""
    inside = inside.to(dtype)
    return inside / inside.sum(dim=-1, keepdim=True).clamp_min(1)


def time_weights(
    tubes: Sequence[Tube], grids: Sequence[Size], lengths: Sequence[torch.Tensor], num_regions: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Returns weights that average each tube's tokens over evenly spaced steps: `(batch or 1, num_regions, t)` each.

    Args:
        grids: `(t, h, w)` of each tube in the clip.
        lengths: how many of its steps are valid, `(batch,)` or `(1,)`.
    """
    device = lengths[0].device
    found = [Stretches.of(tube, 0, grid[0], 1, device) for tube, grid in zip(tubes, grids)]
    bounds = find_bounds(found, [tube.begins[0] + length * tube.step for tube, length in zip(found, lengths)], lengths)
    weights: list[torch.Tensor] = []
    for (begins, ends), length, (low, high) in zip(found, lengths, bounds):
        index = torch.arange(begins.shape[0], device=device)
        # the first and the last token reach to the ends of the clip
        begins = torch.where(index == 0, low[:, None], begins)
        ends = torch.where(index == length[:, None] - 1, high[:, None], ends)
        inside = overlaps(begins, ends, low, high, num_regions) & (index < length[:, None])[:, None]
        weights.append(normalize(inside, dtype))
    return weights


def space_weights(
    tubes: Sequence[Tube],
    grids: Sequence[Size],
    lengths: Sequence[torch.Tensor],
    scale: Sequence[int],
    regions: Sequence[int],
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weights that average the patches of all tubes over regions, and those for changes, which tubes with one
    valid step do not have: `(batch or 1, regions, patches)` each. Arguments are as in `time_weights`."""
    device = lengths[0].device
    marks: list[list[torch.Tensor]] = []
    for axis, num_regions in enumerate(regions, start=1):
        found = [Stretches.of(tube, axis, grid[axis], scale[axis], device) for tube, grid in zip(tubes, grids)]
        bounds = find_bounds(found, [tube.ends[-1:] for tube in found], lengths)
        pairs = zip(found, bounds)
        marks.append([overlaps(tube.begins[None], tube.ends[None], *its, num_regions) for tube, its in pairs])
    weights: list[tuple[torch.Tensor, torch.Tensor]] = []
    for in_rows, in_columns in zip(*marks):
        of_rows, of_columns = normalize(in_rows, dtype), normalize(in_columns, dtype)
        of_tube = (of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :]).flatten(3).flatten(1, 2)
        has_any = (in_rows.any(dim=-1)[:, :, None] & in_columns.any(dim=-1)[:, None]).flatten(1)
        weights.append((of_tube, has_any))
    return combine(weights, [length > 0 for length in lengths]), combine(weights, [length > 1 for length in lengths])


def combine(weights: Sequence[tuple[torch.Tensor, torch.Tensor]], counted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns weights that average the patches of all tubes over regions, each tube alike: `(batch or 1, regions,
    patches)`.

    Args:
        weights: of each tube's patches, `(batch or 1, regions, patches)`, and whether each region has any of them,
            `(batch or 1, regions)`.
        counted: whether each tube counts, `(batch,)` or `(1,)`.
    """
    present = [has_any & counts[:, None] for (_, has_any), counts in zip(weights, counted)]
    total = torch.stack(present).sum(dim=0).clamp_min(1)
    shares: list[torch.Tensor] = []
    for (of_tube, _), there in zip(weights, present):
        share = there.to(torch.promote_types(of_tube.dtype, torch.float32)) / total
        shares.append(of_tube * share[..., None].to(of_tube.dtype))
    return torch.cat(shares, dim=2)


POOLERS: dict[str, type[nn.Module]] = {
    "attention": TubeViTAttentionPooler,
    "cls": TubeViTClsPooler,
    "mean": TubeViTMeanPooler,
    "grid": TubeViTGridPooler,
}
