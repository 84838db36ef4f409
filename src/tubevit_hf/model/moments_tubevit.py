# SPDX-License-Identifier: Apache-2.0
"""The order of a clip's tokens, and functions that split, pool and mask them. Nothing here has weights.

A moment is one frame that is encoded as an image: tubes of one frame read it, and the layers before `joint_layer`
encode it alone. Without a `joint_layer`, a clip has one moment, which holds the tokens of all tubes.
"""

from collections.abc import Sequence
from itertools import compress
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import avg_pool2d, pad

from .inputs_tubevit import can_read
from .tubes_tubevit import Size, Tube, as_size, sincos_times, smallest_tube


if TYPE_CHECKING:
    from .configuration_tubevit import TubeViTConfig


class TokenLayout(NamedTuple):
    """The order of a clip's tokens.

    First come the tokens of each moment, then the tokens of the later tubes: the tubes over several frames, which join
    at `joint_layer`. A moment has CLS, registers, then the tokens of each of its tubes, in raster order.

    Args:
        num_moments: number of moments in the clip.
        num_prefix_tokens: number of CLS and register tokens in a moment.
        grids: `(t, h, w)` of each tube in the config: within a moment if the tube belongs to moments, else within the
            clip; `(0, 0, 0)` for a tube that does not fit.
        in_moments: for each tube, True if its tokens belong to moments.
    """

    num_moments: int
    num_prefix_tokens: int
    grids: tuple[Size, ...]
    in_moments: tuple[bool, ...]

    @property
    def moment_grids(self) -> tuple[Size, ...]:
        """Grids within a moment, of the tubes that belong to moments."""
        return tuple(compress(self.grids, self.in_moments))

    @property
    def later_grids(self) -> tuple[Size, ...]:
        """Grids within the clip, of the later tubes."""
        return tuple(grid for grid, inside in zip(self.grids, self.in_moments) if not inside)

    @property
    def clip_grids(self) -> tuple[Size, ...]:
        """Grids within the clip, of all tubes."""
        return tuple(
            (self.num_moments * grid[0], *grid[1:]) if inside else grid
            for grid, inside in zip(self.grids, self.in_moments)
        )

    @property
    def tokens_per_moment(self) -> int:
        """Number of tokens in a moment, CLS and registers included."""
        return self.num_prefix_tokens + sum(map(prod, self.moment_grids))

    @property
    def num_moment_tokens(self) -> int:
        """Number of tokens in all moments together."""
        return self.num_moments * self.tokens_per_moment

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the clip."""
        return self.num_moment_tokens + sum(map(prod, self.later_grids))

    def pool(self, factors: Sequence[int]) -> "TokenLayout":
        """Returns the layout after `pool_moments` with the same `factors`, `[h, w]`. A single moment is not pooled."""
        if self.num_moments == 1:
            return self
        height, width = factors
        grids = tuple(
            as_size((t, -(-h // height), -(-w // width))) if inside else (t, h, w)
            for (t, h, w), inside in zip(self.grids, self.in_moments)
        )
        return self._replace(grids=grids)


def token_layout(tubes: Sequence[Tube], size: Size, num_prefix_tokens: int, by_moment: bool) -> TokenLayout:
    """Lays out the tokens of a clip of `size` (frames, pixels); `by_moment`: True if there is a `joint_layer`."""
    grids = [tube.grid(size) for tube in tubes]
    if not by_moment:
        return TokenLayout(1, num_prefix_tokens, tuple(grids), (True,) * len(grids))
    in_moments = tuple(tube.sees_one_frame for tube in tubes)
    num_moments = max(steps for steps, _, _ in compress(grids, in_moments))
    grids = [
        as_size((min(steps, 1), height, width)) if inside else (steps, height, width)
        for (steps, height, width), inside in zip(grids, in_moments)
    ]
    return TokenLayout(num_moments, num_prefix_tokens, tuple(grids), in_moments)


def arrange_tokens(prefix: Sequence[torch.Tensor], tubes: Sequence[torch.Tensor], layout: TokenLayout) -> torch.Tensor:
    """Concatenates tokens in the order of the layout.

    Args:
        prefix: CLS, then registers, each `(batch, num_moments, 1 or more, ...)`.
        tubes: tokens of each tube that fits, `(batch, t * h * w, ...)`, with the grid of the whole clip.

    Returns:
        `(batch, tokens, ...)`.
    """
    moments = list(prefix)
    later: list[torch.Tensor] = []
    fitting = [(grid, inside) for grid, inside in zip(layout.grids, layout.in_moments) if all(grid)]
    for tokens, (grid, inside) in zip(tubes, fitting):
        if inside:
            moments.append(tokens.unflatten(1, (layout.num_moments, prod(grid))))
        else:
            later.append(tokens)
    moment_tokens = torch.cat(moments, dim=2).flatten(1, 2)
    return torch.cat([moment_tokens, *later], dim=1) if later else moment_tokens


def split_moments(states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Splits `(batch, tokens, ...) -> (batch, num_moments, tokens_per_moment, ...)`; drops the later tubes."""
    # with a -1, exported graphs would divide, which some runtimes do in floating point
    return states[:, : layout.num_moment_tokens].unflatten(1, (layout.num_moments, layout.tokens_per_moment))


def tube_tokens(states: torch.Tensor, layout: TokenLayout, index: int) -> torch.Tensor:
    """Selects the tokens of a tube that fits and belongs to moments: `(batch, tokens, ...) -> (batch, t, h * w, ...)`,
    `(t, h, w)` being its grid in the clip."""
    before = [grid for grid, inside in zip(layout.grids[:index], layout.in_moments) if inside]
    start, (t, h, w) = layout.num_prefix_tokens + sum(map(prod, before)), layout.grids[index]
    # a copy even where a view would do: a traced graph would then fit those sizes only
    tokens = split_moments(states, layout)[:, :, start : start + t * h * w].clone(
        memory_format=torch.contiguous_format
    )
    return tokens.unflatten(2, (t, h * w)).flatten(1, 2)


def pool_moments(states: torch.Tensor, layout: TokenLayout, factors: Sequence[int]) -> torch.Tensor:
    """Averages the patches of each moment over regions of `factors`, `[h, w]`: `(batch, tokens, hidden_size) ->
    (batch, tokens of moments, hidden_size)`. Regions at the edge are smaller if `factors` do not divide the grid."""
    if layout.num_moments == 1 or list(factors) == [1, 1]:
        return states
    moments = split_moments(states, layout)
    lengths = [layout.num_prefix_tokens, *map(prod, layout.moment_grids)]
    prefix, *patches = moments.split(lengths, dim=2)
    pooled = [prefix]
    for grid_patches, (_, rows, columns) in zip(patches, layout.moment_grids):
        if not rows:
            continue
        # (batch, num_moments, h * w, hidden_size) -> (batch * num_moments, hidden_size, h, w)
        pictures = grid_patches.flatten(0, 1).transpose(1, 2).unflatten(2, (rows, columns))
        averages = avg_pool2d(pictures, list(factors), ceil_mode=True, count_include_pad=False)
        pooled.append(averages.flatten(2).transpose(1, 2).unflatten(0, moments.shape[:2]))
    return torch.cat(pooled, dim=2).flatten(1, 2)


def find_moment_tube(tubes: Sequence[Tube]) -> Tube:
    """Returns a tube that sees one frame. All such tubes have the same offset and stride in time."""
    return next(tube for tube in tubes if tube.sees_one_frame)


def time_positions(tube: Tube, layout: TokenLayout, states: torch.Tensor) -> torch.Tensor:
    """Returns the sine-cosine embedding of each moment's time, in frames, for all its tokens: `(1, tokens,
    hidden_size)`. It is zero for the later tubes, whose own positions include time.

    Args:
        tube: a tube that sees one frame.
        layout: the layout of `states`.
        states: `(batch, tokens, hidden_size)`, of several moments.
    """
    exact = torch.promote_types(states.dtype, torch.float32)
    times = tube.centers(0, layout.num_moments, exact, states.device)
    positions = sincos_times(times, states.shape[-1]).to(states.dtype)
    num_later = states.shape[1] - layout.num_moment_tokens
    return pad(positions.repeat_interleave(layout.tokens_per_moment, dim=0)[None], (0, 0, 0, num_later))


def checked_token_layout(config: "TubeViTConfig", tubes: Sequence[Tube], size: Size) -> TokenLayout:
    """Lays out the tokens of a clip of `size` (frames, pixels) in the embeddings.

    Raises:
        ValueError: no tube fits; or, with a `joint_layer`, no tube that sees one frame fits.
    """
    num_frames, height, width = size
    fitting = [tube for tube in tubes if all(tube.grid(size))]
    if not fitting:
        tube = smallest_tube(tubes)
        raise ValueError(
            f"No tube fits a clip of {num_frames} frame(s) of {height}x{width} pixels. The smallest one sees "
            f"{'x'.join(map(str, tube.extent))} (frames x height x width) from offset {list(tube.offset)}: give a "
            "longer or larger clip, or a config whose `tubes` fit."
        )
    by_moment = config.joint_layer > 0
    if by_moment and not any(tube.sees_one_frame for tube in fitting):
        raise ValueError(
            f"None of the tubes that see one frame fits a clip of {num_frames} frame(s) of {height}x{width} "
            f"pixels, but the layers before `joint_layer` {config.joint_layer} read those only: give a "
            "longer or larger clip."
        )
    return token_layout(tubes, size, config.num_prefix_tokens, by_moment)


def mask_tokens(
    config: "TubeViTConfig", tubes: Sequence[Tube], layout: TokenLayout, frame_mask: torch.Tensor
) -> torch.Tensor:
    """Marks the tokens that see real frames only, in the order of the joint layers: `(batch, num_frames) -> (batch,
    tokens)`, bool. CLS and registers are valid; with a `joint_layer`, they are valid if the frame of their moment is
    real.

    Args:
        tubes: all tubes of the model.
        layout: the layout of the clip in the embeddings.
        frame_mask: bool, True where a frame is real.

    Raises:
        ValueError: in eager mode, as `check_token_mask`.
    """
    joined, by_moment = layout.pool(config.joint_pooling), config.joint_layer > 0
    # (batch, num_moments)
    moments = torch.ones_like(frame_mask[:, :1])
    if by_moment:
        moments = find_moment_tube(tubes).valid_tokens(frame_mask, (layout.num_moments, 1, 1))
    prefix = moments[..., None].expand(-1, -1, layout.num_prefix_tokens)
    patches = [tube.valid_tokens(frame_mask, grid) for tube, grid in zip(tubes, joined.clip_grids) if all(grid)]
    token_mask = arrange_tokens([prefix], patches, joined)
    if can_read(token_mask):
        check_token_mask(config, token_mask, frame_mask, joined)
    return token_mask


def check_token_mask(
    config: "TubeViTConfig", token_mask: torch.Tensor, frame_mask: torch.Tensor, layout: TokenLayout
) -> None:
    """Checks that each clip has a valid token and, if moments are joined in the model, at least two valid moments.

    Args:
        layout: the layout of the tokens in `token_mask`.

    Raises:
        ValueError: a clip has no valid token; or it has one valid moment, and its batch is padded to several.
    """
    if config.joint_layer > 0:
        counts = split_moments(token_mask, layout)
    else:
        counts = token_mask[:, None, layout.num_prefix_tokens :]
    empty = (~counts.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"`frame_mask` leaves clip(s) {empty} without a valid token: "
            f"{frame_mask[empty].sum(dim=1).tolist()} real frame(s) hold no tube. Give longer clips, or drop them."
        )
    if config.pooling_type == "grid" and config.joint_layer == config.num_hidden_layers:
        return
    # the model encodes a clip of a single moment as an image: not pooled, and without a position in time
    single = ((counts.any(dim=2).sum(dim=1) == 1) & (layout.num_moments > 1)).nonzero().flatten().tolist()
    if single:
        raise ValueError(
            f"`frame_mask` leaves clip(s) {single} a single moment, which is encoded as an image: give them by "
            "themselves, without padding."
        )
