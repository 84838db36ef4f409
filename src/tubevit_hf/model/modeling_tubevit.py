# SPDX-License-Identifier: Apache-2.0
"""TubeViT: a plain ViT encoder over the tokens of sparse video tubes, for videos and images.

Both go through the same weights: an image is a clip of one frame, and a tube that does not fit a clip gives it no
tokens.

The words of every shape in this file:

    batch                        clips, or images
    num_frames, height, width    of a clip, in frames and pixels
    channels                     of a frame
    t, h, w                      a tube's grid: its tokens along time, height and width
    ft, fh, fw                   its space-to-depth; neighbours = ft * fh * fw outputs make a token
    kt, kh, kw                   its kernel, in frames and pixels
    out_channels                 of one output of a kernel
    tokens                       CLS, registers, then t * h * w of each tube that fits
    hidden_size                  of a token; heads * head_dim
    queries                      of an attention: the tokens or, in the pooling, one

Clips of different length or size that are given as a list are packed: their tokens make one row, of batch 1, in which
those of a clip attend to each other alone, and nothing is padded.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from huggingface_hub import CommitInfo, ModelCard
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, packed_sequence_mask_function
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.generic import can_return_tuple, is_flash_attention_requested, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_files_tubevit import HUB_ARGUMENTS, check_weights, refuse_pickles
from .configuration_tubevit import TubeViTConfig
from .loss_tubevit import can_read, classification_loss
from .model_card_tubevit import create_model_card, is_generated_card, read_tags
from .number_types_tubevit import warn_of_emulation
from .tubes_tubevit import Size, TokenLayout, Tube, sincos_positions, sincos_times, smallest_tube, token_layout


logger = logging.get_logger(__name__)


class TubeViTTubeEmbedding(nn.Module):
    """One tube's tokens, without positions.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, hidden_size)`.
    """

    def __init__(self, config: TubeViTConfig, index: int):
        super().__init__()
        self.tube = config.resolved_tubes[index]
        self.hidden_size = config.hidden_size
        if config.tube_kernels == "separate":
            self.weight = nn.Parameter(
                torch.empty(self.tube.out_channels, config.num_channels, *self.tube.kernel_size)
            )
        else:
            self.register_parameter("weight", None)
        self.bias = nn.Parameter(torch.empty(self.tube.out_channels))

    def forward(self, pixel_values: torch.Tensor, base_kernel: torch.Tensor | None = None) -> torch.Tensor:
        weight = self.weight if base_kernel is None else self.resize_kernel(base_kernel)
        # weights may be in bfloat16 while a processor gives float32
        patches = gather_patches(pixel_values, self.tube, weight.dtype)
        # one matrix product: the strided gather and this take a fraction of conv3d's time at sparse strides
        tokens = nn.functional.linear(patches, weight.flatten(1), self.bias)
        # (batch, t * h * w, neighbours, out_channels) -> (batch, t * h * w, hidden_size)
        return tokens.flatten(-2)[..., : self.hidden_size]

    def resize_kernel(self, base_kernel: torch.Tensor) -> torch.Tensor:
        """The tube's kernel out of the shared one (Section 3.3): tri-linear, without rescaling."""
        kernel = base_kernel[: self.tube.out_channels].to(torch.promote_types(base_kernel.dtype, torch.float32))
        with exact_products(kernel.device):
            for axis, (old, new) in enumerate(zip(kernel.shape[2:], self.tube.kernel_size), start=2):
                weights = resize_weights(old, new, "bilinear", kernel.dtype, kernel.device)
                kernel = torch.tensordot(kernel, weights, dims=([axis], [1])).movedim(-1, axis)
        return kernel.to(base_kernel.dtype)


def gather_patches(pixel_values: torch.Tensor, tube: Tube, dtype: torch.dtype) -> torch.Tensor:
    """Copies the pixels under each kernel application of a tube.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, neighbours, channels * kt * kh * kw)`, each in
    raster order.
    """
    # -> (batch, t, channels, h, w, ft, kt, fh, kh, fw, kw): what each token sees, and in it each application of the
    # kernel. Nothing is copied before the end.
    patches = pixel_values
    for axis, dim in enumerate((1, 3, 4)):
        patches = patches.narrow(dim, tube.offset[axis], patches.shape[dim] - tube.offset[axis])
        patches = patches.unfold(dim, tube.extent[axis], tube.stride[axis])
        patches = patches.unfold(-1, tube.kernel_size[axis], tube.kernel_stride[axis])
    # -> (batch, t, h, w, ft, fh, fw, channels, kt, kh, kw), copied here in any case: see `TubeViTMeanPooler`
    patches = patches.permute(0, 1, 3, 4, 5, 7, 9, 2, 6, 8, 10)
    patches = patches.to(dtype, copy=True, memory_format=torch.contiguous_format)
    # -> (batch, t * h * w, neighbours, channels * kt * kh * kw)
    return patches.flatten(7).flatten(4, 6).flatten(1, 3)


class TubeViTPositionEmbeddings(nn.Module):
    """Position embeddings of a tube's tokens: `(1, t * h * w, hidden_size)`, or `None` for `"none"`.

    It holds the learned tables by the index of their tube, and reads them in its call: a parameter that is offloaded
    is there only while its module runs.
    """

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config
        self.tubes = config.resolved_tubes
        for index, tube in enumerate(self.tubes):
            shape = config.position_table_shape(tube)
            if shape is not None:
                self.register_parameter(str(index), nn.Parameter(torch.empty(shape)))

    def forward(self, index: int, grid: Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        table = getattr(self, str(index), None)
        if table is not None:
            return resize_positions(table, grid, self.config.position_embedding_resize).to(dtype)
        kind = self.config.position_embedding_type
        if kind == "none":
            return None
        # computed anew, never stored: right at every size and after a load through the meta device. bfloat16 would
        # round positions above 256 pixels to even numbers.
        exact = torch.promote_types(dtype, torch.float32)
        if kind == "tube_index":
            axes = [torch.arange(length, dtype=exact, device=device) for length in grid]
        else:
            axes = [self.tubes[index].centers(axis, length, exact, device) for axis, length in enumerate(grid)]
        table = self.config.position_embedding_scale * sincos_positions(axes, self.config.hidden_size)
        return table[None].to(dtype)


class TubeViTEmbeddings(nn.Module):
    """Encoder input: CLS, registers, then each tube's tokens with their positions.

    `(batch, num_frames, channels, height, width) -> (batch, tokens, hidden_size)`.
    """

    # a ModuleList, which does not tell type checkers what it holds
    tubes: Sequence[TubeViTTubeEmbedding]
    base_kernel: nn.Parameter | None

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config
        # pyrefly: ignore[bad-assignment]  see above
        self.tubes = nn.ModuleList(
            [TubeViTTubeEmbedding(config, index) for index in range(len(config.resolved_tubes))]
        )
        if config.tube_kernels == "interpolated":
            self.base_kernel = nn.Parameter(
                torch.empty(config.hidden_size, config.num_channels, *config.base_kernel_size)
            )
        else:
            self.register_parameter("base_kernel", None)
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, config.hidden_size))
        self.position_embeddings = TubeViTPositionEmbeddings(config)
        self.layernorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_pre_layernorm else nn.Identity()
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        layout = self.layout(pixel_values)
        dtype = self.tubes[0].bias.dtype
        batch_size = pixel_values.shape[0]

        # (batch, num_moments, tokens, hidden_size) each
        moments = []
        if self.config.use_cls_token:
            moments.append(self.cls_token[:, None].expand(batch_size, layout.num_moments, -1, -1))
        if self.config.num_register_tokens:
            moments.append(self.register_tokens[:, None].expand(batch_size, layout.num_moments, -1, -1))
        later = []
        for index, (tube, grid) in enumerate(zip(self.tubes, self.token_grids(pixel_values))):
            if all(grid):
                # under autocast the product is in bfloat16, but positions and residual stream are not rounded
                embedding = tube(pixel_values, self.base_kernel).to(dtype)
                positions = self.positions(index, grid, dtype, embedding.device)
                embedding = embedding if positions is None else embedding + positions
                if self.config.joint_layer > 0 and not tube.tube.sees_one_frame:
                    later.append(embedding)
                elif self.config.joint_layer > 0:
                    moments.append(embedding.unflatten(1, (grid[0], grid[1] * grid[2])))
                else:
                    moments.append(embedding[:, None])
        tokens = torch.cat([torch.cat(moments, dim=2).flatten(1, 2), *later], dim=1)
        return self.dropout(self.layernorm(tokens))

    def layout(self, pixel_values: torch.Tensor) -> TokenLayout:
        """Order of this clip's tokens; raises as `token_grids`."""
        self.token_grids(pixel_values)
        num_frames, height, width = (pixel_values.shape[axis] for axis in (1, 3, 4))
        tubes = [embedding.tube for embedding in self.tubes]
        size = (num_frames, height, width)
        return token_layout(tubes, size, self.config.num_prefix_tokens, by_moment=self.config.joint_layer > 0)

    def token_grids(self, pixel_values: torch.Tensor) -> list[Size]:
        """Grid of each tube in this clip.

        Raises:
            ValueError: the number of channels is not the config's, or no tube fits.
        """
        _, num_frames, num_channels, height, width = pixel_values.shape
        if num_channels != self.config.num_channels:
            raise ValueError(
                f"`pixel_values` has {num_channels} channels, but `num_channels` is {self.config.num_channels}. "
                "Videos are (batch, frames, channels, height, width), images (batch, channels, height, width); got "
                f"{tuple(pixel_values.shape)}, an image counted as one frame."
            )
        grids = [embedding.tube.grid((num_frames, height, width)) for embedding in self.tubes]
        if not any(all(grid) for grid in grids):
            tube = smallest_tube([embedding.tube for embedding in self.tubes])
            raise ValueError(
                f"No tube fits a clip of {num_frames} frame(s) of {height}x{width} pixels. The smallest one sees "
                f"{'x'.join(map(str, tube.extent))} (frames x height x width) from offset {list(tube.offset)}: give a "
                "longer or larger clip, or a config whose `tubes` fit."
            )
        if self.config.joint_layer > 0 and not any(
            embedding.tube.sees_one_frame and all(grid) for embedding, grid in zip(self.tubes, grids)
        ):
            raise ValueError(
                f"None of the tubes that see one frame fits a clip of {num_frames} frame(s) of {height}x{width} "
                f"pixels, but the layers before `joint_layer` {self.config.joint_layer} read those only: give a "
                "longer or larger clip."
            )
        return grids

    def token_mask(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Which tokens see real frames only, in the order of the joint layers: `(batch, num_frames) -> (batch,
        tokens)`, bool. With a `joint_layer` CLS and registers are of a moment, and count where its frame is real.

        Raises:
            ValueError: `frame_mask` has a wrong shape or type or, in eager mode, leaves a clip without a valid token
                or, where that makes a difference, with a single moment beside others with more.
        """
        if frame_mask.shape != pixel_values.shape[:2]:
            raise ValueError(
                f"`frame_mask` must be (batch, num_frames), here {tuple(pixel_values.shape[:2])}, got "
                f"{tuple(frame_mask.shape)}."
            )
        if frame_mask.is_floating_point():
            raise ValueError(f"`frame_mask` must be bool, True where a frame is real, got {frame_mask.dtype}.")
        frame_mask = frame_mask.to(device=pixel_values.device, dtype=torch.bool)
        layout = self.layout(pixel_values).pool(self.config.joint_pooling)
        of_moments: list[torch.Tensor] = []
        later: list[torch.Tensor] = []
        for embedding, grid in zip(self.tubes, self.token_grids(pixel_values)):
            if not all(grid):
                continue
            mask = embedding.tube.valid_tokens(frame_mask, grid)
            if self.config.joint_layer > 0 and embedding.tube.sees_one_frame:
                # all tokens of a moment alike
                of_moments = [mask.unflatten(1, (grid[0], grid[1] * grid[2]))[..., :1]]
            elif self.config.joint_layer > 0:
                later.append(mask)
            else:
                of_moments.append(mask[:, None])
        from_moments = torch.cat(of_moments, dim=2)  # (batch, num_moments, 1 or all tokens but the prefix)
        if self.config.joint_layer > 0:
            from_moments = from_moments.expand(-1, -1, layout.tokens_per_moment)
        else:
            from_moments = nn.functional.pad(from_moments, (layout.num_prefix_tokens, 0), value=True)
        token_mask = torch.cat([from_moments.flatten(1, 2), *later], dim=1)
        if can_read(token_mask):
            self.check_token_mask(token_mask, frame_mask, layout)
        return token_mask

    def check_token_mask(self, token_mask: torch.Tensor, frame_mask: torch.Tensor, layout: TokenLayout) -> None:
        counts = split_moments(token_mask, layout)
        if self.config.joint_layer == 0:
            counts = token_mask[:, None, layout.num_prefix_tokens :]
        empty = (~counts.flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"`frame_mask` leaves clip(s) {empty} without a valid token: "
                f"{frame_mask[empty].sum(dim=1).tolist()} real frame(s) hold no tube. Give longer clips, or drop them."
            )
        if self.config.pooling_type == "grid" and self.config.joint_layer == self.config.num_hidden_layers:
            return
        # where moments are joined a single one is an image, and many are not
        single = ((counts.any(dim=2).sum(dim=1) == 1) & (layout.num_moments > 1)).nonzero().flatten().tolist()
        if single:
            raise ValueError(
                f"`frame_mask` leaves clip(s) {single} a single moment, which is encoded as an image: give them by "
                "themselves, without padding."
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Number of CLS and register tokens; with a `joint_layer` each moment has as many."""
        return self.config.num_prefix_tokens

    def positions(self, index: int, grid: Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """Position embeddings of tube `index`: `(1, t * h * w, hidden_size)`, in `dtype`; `None` for `"none"`."""
        return self.position_embeddings(index, grid, dtype, device)


# mode, align_corners and antialias: how ViT libraries resize their position tables, by `position_embedding_resize`,
# and how shared kernels are resized along each axis ("bilinear")
RESIZE_ARGUMENTS = {
    "bicubic": ("bicubic", False, False),
    "bicubic_antialias": ("bicubic", False, True),
    "bicubic_corners": ("bicubic", True, False),
    "bilinear": ("bilinear", False, False),
    "bilinear_corners": ("bilinear", True, False),
}


def resize_positions(table: torch.Tensor, grid: Size, resize: str) -> torch.Tensor:
    """Brings a learned position table to a grid: `(1, [t,] h, w, hidden_size) -> (1, t * h * w, hidden_size)`.

    In space as `resize` says. In time by index, the last step repeated: to interpolate there would give a padded clip
    other positions than the unpadded one. A table without a time axis is the same at every step.
    """
    steps, height, width = grid
    if table.ndim == 4:
        table = table[:, None]
    # a graph that is traced once serves the table's own size and others
    if is_tracing(table) or table.shape[2:4] != (height, width):
        exact = torch.promote_types(table.dtype, torch.float32)
        rows, columns = (
            resize_weights(old, new, resize, exact, table.device)
            for old, new in zip(table.shape[2:4], (height, width))
        )
        with exact_products(table.device):
            table = torch.einsum("yi,btijd->btyjd", rows, table.to(exact))
            table = torch.einsum("xj,btyjd->btyxd", columns, table)
    table = table[:, torch.arange(steps, device=table.device).clamp(max=table.shape[1] - 1)]
    return table.flatten(1, 3)


def exact_products(device: torch.device) -> AbstractContextManager[object]:
    """Products that autocast does not round."""
    # a context that changes nothing is kept out of exported graphs
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def resize_weights(old: int, new: int, resize: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What each of `new` places takes of each of `old` ones: `(new, old)`. Resizing is a product along each axis,
    which every runtime computes alike."""
    mode, align_corners, antialias = RESIZE_ARGUMENTS[resize]
    each_alone = torch.eye(old, dtype=dtype, device=device)[None, None]
    return nn.functional.interpolate(
        each_alone, size=(new, old), mode=mode, align_corners=align_corners, antialias=antialias
    )[0, 0]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in full: `(batch, heads, queries, head_dim)` over keys and values `(batch, heads, tokens, head_dim) ->
    (batch, queries, heads, head_dim)` and the weights `(batch, heads, queries, tokens)`."""
    attn_weights = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    exact = torch.promote_types(query.dtype, torch.float32)
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=exact).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    attn_output = (attn_weights @ value).transpose(1, 2).contiguous()
    return attn_output, attn_weights


# of packed clips, those of each
AttentionWeights = torch.Tensor | tuple[torch.Tensor, ...] | None


class TubeViTMultiHeadAttention(nn.Module):
    """Multi-head attention of queries over keys and values, through transformers' attention interface.

    `(batch, queries, hidden_size)`, `(batch, tokens, hidden_size) -> (batch, queries, hidden_size)` and the weights.
    """

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def attend(
        self,
        queries: torch.Tensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        clip_tokens: Sequence[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, AttentionWeights]:
        # (batch, queries, hidden_size) -> (batch, heads, queries, head_dim), and so for the tokens' keys and values
        query, key, value = (
            projected.unflatten(-1, (self.config.num_attention_heads, self.head_dim)).transpose(1, 2)
            for projected in (self.q_proj(queries), self.k_proj(hidden_states), self.v_proj(hidden_states))
        )
        attention: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            # pyrefly: ignore[bad-argument-type]  None, as of a module without its model, is allowed there
            self.config._attn_implementation,
            eager_attention_forward,
        )
        settings = {"dropout": self.attention_dropout if self.training else 0.0, "scaling": self.scaling, **kwargs}
        attn_weights: AttentionWeights
        if clip_tokens is None:
            attn_output, attn_weights = attention(self, query, key, value, attention_mask, **settings)
        else:
            # clip by clip: a mask would have all that it hides computed first
            of_clips = zip(*(states.split(list(clip_tokens), dim=2) for states in (query, key, value)))
            outputs, weights = zip(*(attention(self, *of_clip, None, **settings) for of_clip in of_clips))
            attn_output, attn_weights = torch.cat(outputs, dim=1), None if weights[0] is None else weights
        # (batch, queries, heads, head_dim) -> (batch, queries, hidden_size)
        return self.o_proj(attn_output.flatten(-2)), attn_weights


# moments of a sequence whose tokens all attend to each other, and the tokens of each
ALL_TOGETHER = (1, -1)


class TubeViTAttention(TubeViTMultiHeadAttention):
    """Self-attention over all tokens or, with several moments, over those of each moment; the weights then are
    `(batch * num_moments, heads, queries, tokens)`. In a row of packed clips over those of each clip, as many as
    `clip_tokens` says."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        moments: tuple[int, int] = ALL_TOGETHER,
        clip_tokens: Sequence[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, AttentionWeights]:
        batch_size, num_moments = hidden_states.shape[0], moments[0]
        hidden_states = hidden_states.unflatten(1, moments).flatten(0, 1)
        attn_output, attn_weights = self.attend(hidden_states, hidden_states, attention_mask, clip_tokens, **kwargs)
        return attn_output.unflatten(0, (batch_size, num_moments)).flatten(1, 2), attn_weights


# Poolers are modules of one signature, with weights or without, so that the model calls whatever is there. Arguments:
#   hidden_states, the normed tokens at the end: (batch, tokens, hidden_size) -> (batch, features)
#   layout, of the clip in the embeddings; `layout.pool(config.joint_pooling)` is that of the tokens at the end
#   token_mask, of the tokens at the end: (batch, tokens), or None
#   read, the normed tokens by the number of layers before them, where `config.pooling_type` is "grid"


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
        read: dict[int, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        # copied, see `TubeViTMeanPooler`
        query = self.query.repeat(hidden_states.shape[0], 1, 1)
        attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=query,
            attention_mask=token_mask,
            encoder_hidden_states=hidden_states,
        )
        return self.attend(query, hidden_states, attention_mask, None, **kwargs)[0].squeeze(1)


class TubeViTMeanPooler(nn.Module):
    """The mean of the tubes' valid tokens: `(batch, tokens, hidden_size) -> (batch, hidden_size)`."""

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        read: dict[int, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        joined = layout.pool(self.config.joint_pooling)
        chosen = self.choose(hidden_states, joined)
        if token_mask is None:
            return chosen.mean(dim=1)
        weight = self.choose(token_mask, joined)[..., None].to(chosen.dtype)
        return (chosen * weight).sum(dim=1) / weight.sum(dim=1)

    def choose(self, states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """What is averaged, of `(batch, tokens, ...)`."""
        later = states[:, layout.num_moment_tokens :]
        # copied, or a graph would be for those sizes only at which it need not be
        patches = split_moments(states, layout)[:, :, layout.num_prefix_tokens :]
        patches = patches.clone(memory_format=torch.contiguous_format)
        return torch.cat([patches.flatten(1, 2), later], dim=1)


class TubeViTClsPooler(TubeViTMeanPooler):
    """The CLS token, with a `joint_layer` the mean of the valid moments': `(batch, tokens, hidden_size) -> (batch,
    hidden_size)`."""

    def choose(self, states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        return split_moments(states, layout)[:, :, 0]


# of a token's channel, as the grid pooling sees it
LEAST_CHANGE = 1e-6


class TubeViTGridPooler(nn.Module):
    """What is where and when, and what changes: `(batch, tokens, hidden_size) -> (batch, features)`, for each layer
    that is read the parts of `config.pooling_parts` one after another. Tokens are averaged over `pooling_grid` regions
    of time, height and width. Of each region in space its mean over time ("means"), how much its patches change from
    each region in time to the next, all in all ("changes") and beside the other regions ("shares"), and how each
    region in time differs from the mean ("differences"); and of each step the greatest change of any patch, wherever
    it is ("peaks").

    A scene that stands still is in the means alone, so that what moves can be told by itself. Changes are absolute
    values of each channel, and their square roots are given. There are no weights.
    """

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        read: dict[int, torch.Tensor],
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        joined = layout.pool(self.config.joint_pooling)
        valid = None if token_mask is None else valid_moments(token_mask, joined)
        features = [
            self.describe(states, joined if number > self.config.joint_layer else layout, valid)
            for number, states in read.items()
        ]
        return torch.cat(features, dim=1)

    def describe(self, states: torch.Tensor, layout: TokenLayout, valid: torch.Tensor | None) -> torch.Tensor:
        """Features of one layer; `valid`: `(batch, num_moments)`."""
        steps, rows, columns = self.config.pooling_grid
        num_moments, (_, height, width) = layout.num_moments, layout.moment_grids[0]
        moments = split_moments(states, layout)
        patches = moments[:, :, layout.num_prefix_tokens :]
        if valid is None:
            valid = torch.ones(states.shape[0], num_moments, dtype=torch.bool, device=states.device)
        # valid moments come first
        in_time = region_weights(valid.sum(dim=1), num_moments, steps, states.dtype)
        of_rows, of_columns = (
            region_weights(torch.full((1,), length, device=states.device), length, parts, states.dtype)[0]
            for length, parts in ((height, rows), (width, columns))
        )
        # (regions, patches)
        in_space = (of_rows[:, None, :, None] * of_columns[None, :, None, :]).flatten(2).flatten(0, 1)
        by_step = (in_time @ patches.flatten(2)).unflatten(2, patches.shape[2:])  # (batch, t, patches, hidden_size)
        regions = average_regions(in_space, by_step)
        mean = regions.mean(dim=1, keepdim=True)
        changes = by_step.diff(dim=1).abs()
        # of a single step nothing changes
        changed = average_regions(in_space, changes).sum(dim=1) / max(1, steps - 1)
        shares = changed / changed.mean(dim=1, keepdim=True).clamp_min(LEAST_CHANGE)
        peaks = changes.amax(dim=2)
        parts = [mean, smooth_sqrt(changed), smooth_sqrt(shares), regions - mean, smooth_sqrt(peaks)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)


def average_regions(weights: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """`(regions, patches)`, `(batch, t, patches, hidden_size) -> (batch, t, regions, hidden_size)`."""
    batch_size, steps = states.shape[:2]
    averages = torch.bmm(weights.expand(batch_size * steps, -1, -1), states.flatten(0, 1))
    return averages.unflatten(0, (batch_size, steps))


def smooth_sqrt(values: torch.Tensor) -> torch.Tensor:
    """Square roots, whose slope is finite where nothing changes."""
    return values.clamp_min(LEAST_CHANGE).sqrt()


def region_weights(lengths: torch.Tensor, max_length: int, num_regions: int, dtype: torch.dtype) -> torch.Tensor:
    """Averages of evenly spaced regions of the first `lengths` of `max_length` items, as adaptive average pooling
    takes them: `(batch,) -> (batch, num_regions, max_length)`."""
    index = torch.arange(num_regions, device=lengths.device)
    # of regions, times their number: whole numbers without a quotient, see `split_moments`
    starts = (index * lengths[:, None])[..., None]
    ends = ((index + 1) * lengths[:, None])[..., None]
    items = num_regions * torch.arange(max_length, device=lengths.device)
    inside = ((items + num_regions > starts) & (items < ends)).to(dtype)
    return inside / inside.sum(dim=-1, keepdim=True)


POOLERS: dict[str, type[nn.Module]] = {
    "attention": TubeViTAttentionPooler,
    "cls": TubeViTClsPooler,
    "mean": TubeViTMeanPooler,
    "grid": TubeViTGridPooler,
}


class TubeViTMLP(nn.Module):
    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.fc1(hidden_states)
        # compilers choose by themselves what they keep
        recompute = self.config.recompute_activation and self.training and not torch.compiler.is_compiling()
        if recompute and hidden_states.requires_grad:
            # a quarter of what a layer keeps for the backward pass is the output of the activation. It is computed
            # again there, and the product is not: checkpointing stops once it has what was left out
            return checkpoint(self.project_activated, hidden_states, use_reentrant=False)
        return self.project_activated(hidden_states)

    def project_activated(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(hidden_states))


class TubeViTLayerScale(nn.Module):
    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.lambda1


class TubeViTLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer; the gated one (Eq. 8) adds `tanh(gate) * embedding_output` after its MLP."""

    gate: nn.Parameter | None

    def __init__(self, config: TubeViTConfig, index: int):
        super().__init__()
        self.attention = TubeViTAttention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = TubeViTMLP(config)
        self.layer_scale1 = TubeViTLayerScale(config) if config.use_layer_scale else nn.Identity()
        self.layer_scale2 = TubeViTLayerScale(config) if config.use_layer_scale else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        if index == config.gate_layer:
            # of shape (1,), since sharded training refuses parameters without dimensions
            self.gate = nn.Parameter(torch.empty(1))
        else:
            self.register_parameter("gate", None)

    # `embedding_output` must come by position: re-entrant checkpointing drops the gradient of keyword arguments
    def forward(
        self,
        hidden_states: torch.Tensor,
        embedding_output: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        moments: tuple[int, int] = ALL_TOGETHER,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, moments, **kwargs)
        hidden_states = self.dropout(self.layer_scale1(hidden_states)) + residual

        residual = hidden_states
        hidden_states = self.mlp(self.layernorm_after(hidden_states))
        hidden_states = self.dropout(self.layer_scale2(hidden_states)) + residual

        if self.gate is not None:
            hidden_states = hidden_states + self.gate.tanh() * embedding_output
        return hidden_states


ModelT = TypeVar("ModelT", bound="TubeViTPreTrainedModel")


@auto_docstring
class TubeViTPreTrainedModel(PreTrainedModel):
    # pyrefly: ignore[bad-override-mutable-attribute]  transformers reads this annotation: it names the class
    config: TubeViTConfig
    base_model_prefix = "tubevit"
    main_input_name = "pixel_values"
    input_modalities = ["video", "image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["TubeViTEmbeddings", "TubeViTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TubeViTLayer, "attentions": TubeViTAttention}
    # called as a whole, and returns a tensor: that is what input hooks (LoRA with checkpointing) rely on
    _input_embed_layer = "embeddings"

    if TYPE_CHECKING:
        # transformers wraps these two so that type checkers refuse every call, and calls the last an `nn.Module`
        # pyrefly: ignore[bad-override-mutable-attribute]
        def to(self: ModelT, *args: Any, **kwargs: Any) -> ModelT: ...

        # pyrefly: ignore[bad-override]
        def cuda(self: ModelT, device: torch.device | int | None = None) -> ModelT: ...

        @property
        def base_model(self) -> "TubeViTModel": ...

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, TubeViTTubeEmbedding):
            if module.weight is not None:
                init.trunc_normal_(module.weight, std=std)
            init.zeros_(module.bias)
        elif isinstance(module, (TubeViTEmbeddings, TubeViTPositionEmbeddings)):
            for parameter in module.parameters(recurse=False):
                init.trunc_normal_(parameter, std=std)
        elif isinstance(module, TubeViTAttentionPooler):
            # the query meets layer-normed tokens: at their scale it prefers some from the start. At
            # `initializer_range` all would weigh the same, and the model learns slowly or not at all
            # (benchmarks/initialization.py)
            init.normal_(module.query)
            for projection in (module.q_proj, module.k_proj, module.v_proj, module.o_proj):
                init.xavier_uniform_(projection.weight)
        elif isinstance(module, TubeViTLayerScale):
            init.ones_(module.lambda1)
        elif isinstance(module, TubeViTLayer) and module.gate is not None:
            init.zeros_(module.gate)

    def post_init(self) -> None:
        super().post_init()
        self.freeze_before(self.config.freeze_before)

    @classmethod
    def from_pretrained(
        cls: type[ModelT], pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> ModelT:
        if "use_safetensors" not in kwargs:
            kwargs["use_safetensors"] = True
            refuse_pickles(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
        if pretrained_model_name_or_path is not None and kwargs["use_safetensors"] and "state_dict" not in kwargs:
            config = kwargs.get("config")
            # that of a checkpoint's own code is another class of the same name
            if not isinstance(config, PreTrainedConfig):
                known = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
                config = TubeViTConfig.from_pretrained(config or pretrained_model_name_or_path, **known)
            # pyrefly: ignore[bad-argument-type]  as above
            check_weights(pretrained_model_name_or_path, config, kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        # what is frozen in `__init__` thaws when the loaded weights replace the parameters
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_before(model.config.freeze_before)
        # where there is a GPU, the model may be on its way there
        if model.dtype == torch.bfloat16 and model.device.type == "cpu" and not torch.cuda.is_available():
            warn_of_emulation("The model is in bfloat16")
        # pyrefly: ignore[bad-return]  Python 3.10 has no `Self`, which `super()` gives
        return loaded

    def freeze_before(self, layer: int | None) -> None:
        """Freezes the embeddings and the encoder layers before `layer` (Section 3.6) and notes it in the config, so
        that it holds after saving and loading. Pooling and head are not touched; where the pooling is `"grid"`, the
        final norm is frozen with the last layer.

        Args:
            layer (`int`, *optional*):
                0-based; `num_hidden_layers` freezes all layers, 0 only the embeddings. `None` thaws them all.

        Raises:
            ValueError: `layer` is out of range.
        """
        num_layers = self.config.num_hidden_layers
        if layer is not None and (not isinstance(layer, int) or not 0 <= layer <= num_layers):
            raise ValueError(f"`layer` must be from 0 to {num_layers} (`num_hidden_layers`) or None, got {layer}.")
        if layer is None and self.config.freeze_before is None:
            return
        base_model = self.base_model
        base_model.embeddings.requires_grad_(layer is None)
        if self.config.pooling_type == "grid":
            # comes before the pooling, which has no weights: with all layers frozen, so is what is pooled
            base_model.layernorm.requires_grad_(layer is None or layer < num_layers)
        for index, encoder_layer in enumerate(base_model.layers):
            encoder_layer.requires_grad_(layer is None or index >= layer)
        self.config.freeze_before = layer

    def create_model_card(self, model_name: str, **kwargs: Any) -> ModelCard:
        """A model card of this model, see [`create_model_card`]."""
        return create_model_card(self.config, model_name, num_parameters=self.num_parameters(), **kwargs)

    def _upload_modified_files(
        self, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **kwargs: Any
    ) -> CommitInfo:
        # `push_to_hub` and `save_pretrained(..., push_to_hub=True)` end here, with a card that is either the
        # repository's own or transformers' empty template
        card = os.path.join(working_dir, "README.md")
        if is_generated_card(card):
            # the template holds the tags that the user gave
            self.create_model_card(repo_id, tags=read_tags(card)).save(card)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


@auto_docstring(custom_intro="TubeViT without a head: the tokens of the encoder and, pooled, a vector a clip.")
class TubeViTModel(TubeViTPreTrainedModel):
    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.embeddings = TubeViTEmbeddings(config)
        self.layers = nn.ModuleList([TubeViTLayer(config, index) for index in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = POOLERS[config.pooling_type](config)
        self.post_init()

    if TYPE_CHECKING:
        # a call runs `forward`, whose types are lost in transformers' decorators
        def __call__(
            self,
            pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
            frame_mask: torch.Tensor | None = None,
            frozen_output: torch.Tensor | None = None,
            **kwargs: Unpack[TransformersKwargs],
        ) -> BaseModelOutputWithPooling: ...

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        frame_mask: torch.Tensor | None = None,
        frozen_output: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.Tensor` or a list of them):
            A video `(batch, num_frames, channels, height, width)` or an image `(batch, channels, height, width)`, of
            any number of frames and any size that a tube fits. A list of clips `(num_frames, channels, height, width)`
            and images `(channels, height, width)` of different lengths and sizes is packed: what comes of each is
            that of the clip alone, without any padding, `pooler_output` is `(clips, hidden_size)`,
            `last_hidden_state` the row `(1, tokens of all clips, hidden_size)`, and `attentions` has the weights of
            each clip.
        frame_mask (`torch.BoolTensor` of shape `(batch, num_frames)`, *optional*):
            True where a frame is real, False where it pads a shorter clip. A token counts if every frame that it sees
            is real, so that a padded clip gives the output of the unpadded one.
        frozen_output (`torch.Tensor`, *optional*):
            What [`TubeViTModel.encode_frozen`] gave of clips, instead of these.

        Example:

        ```python
        >>> import torch
        >>> from tubevit_hf import TubeViTConfig, TubeViTModel

        >>> model = TubeViTModel(TubeViTConfig.from_preset("Ti"))
        >>> video = torch.randn(1, 32, 3, 224, 224)
        >>> model(video).last_hidden_state.shape
        torch.Size([1, 539, 192])
        >>> model(video[:, 0]).last_hidden_state.shape
        torch.Size([1, 196, 192])
        ```"""
        if frozen_output is not None:
            return self.forward_frozen(frozen_output, **kwargs)
        if isinstance(pixel_values, Sequence):
            return self.forward_packed(pixel_values, frame_mask, **kwargs)
        pixel_values = as_video(pixel_values)
        token_mask = None if frame_mask is None else self.embeddings.token_mask(pixel_values, frame_mask)
        embedding_output = self.embeddings(pixel_values)
        layout = self.embeddings.layout(pixel_values)
        states = self.run_layers(embedding_output, embedding_output, layout, token_mask, 0, len(self.layers), **kwargs)
        return self.finish(states, layout, token_mask, **kwargs)

    def forward_packed(
        self, clips: Sequence[torch.Tensor], frame_mask: torch.Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Clips one after another in a row; see `forward`.

        Raises:
            ValueError: there are no clips, a `frame_mask` comes with them, what is recorded of layers is asked of a
                model with a `joint_layer`, or the model is a replica of `DataParallel`.
        """
        joint_layer, num_layers = self.config.joint_layer, len(self.layers)
        if frame_mask is not None:
            raise ValueError("`frame_mask` is for padded clips, and a list of clips has no padding: leave it out.")
        recorded = ("output_hidden_states", "output_attentions")
        if joint_layer > 0 and any(kwargs.get(name, getattr(self.config, name, False)) for name in recorded):
            raise ValueError(
                "`output_hidden_states` and `output_attentions` of a list of clips need a `joint_layer` of 0, got "
                f"{joint_layer}: give the clips one by one."
            )
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "a list of clips does not go with `DataParallel`, which cuts each clip into pieces, one for each "
                "device: use one device, or `DistributedDataParallel` (torchrun)."
            )
        videos = as_videos(clips)
        layouts = [self.embeddings.layout(video) for video in videos]
        # what comes before the joint layer is of single frames in any case
        alone: list[EncoderStates] = []
        for video, layout in zip(videos, layouts):
            tokens = self.embeddings(video)
            alone.append(self.run_layers(tokens, tokens, layout, None, 0, joint_layer, **kwargs))
        hidden_states = torch.cat([states.hidden_states for states in alone], dim=1)
        embedding_output = torch.cat([states.embedding_output for states in alone], dim=1)
        lengths = [states.hidden_states.shape[1] for states in alone]
        mask, apart = self.keep_apart(hidden_states, lengths)
        # the layout is not asked from there on
        row = self.run_layers(
            hidden_states, embedding_output, layouts[0], mask, joint_layer, num_layers, **apart, **kwargs
        )
        outputs = []
        for states, packed, layout in zip(alone, row.split(lengths), layouts):
            later = {number: read for number, read in packed.read.items() if number > joint_layer}
            outputs.append(self.finish(packed._replace(read=states.read | later), layout, None, **kwargs))
        return BaseModelOutputWithPooling(
            last_hidden_state=torch.cat([output["last_hidden_state"] for output in outputs], dim=1),
            pooler_output=torch.cat([output["pooler_output"] for output in outputs]),
        )

    def keep_apart(self, row: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """What has the tokens of each clip in a row, `(1, tokens, hidden_size)`, attend to each other alone, by the
        kind of attention: a mask and arguments of the layers."""
        if is_flash_attention_requested(self.config):
            ends = torch.tensor([0, *lengths]).cumsum(0).to(row.device, torch.int32)
            longest = max(lengths)
            return None, {
                "cu_seq_lens_q": ends,
                "cu_seq_lens_k": ends,
                "max_length_q": longest,
                "max_length_k": longest,
            }
        if self.config._attn_implementation == "flex_attention":
            clip_of = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None].to(row.device)
            same_clip = packed_sequence_mask_function(clip_of)
            # blocks of two clips are not computed
            return create_bidirectional_mask(self.config, row, None, and_mask_function=same_clip), {}
        return None, {"clip_tokens": lengths}

    def run_layers(
        self,
        hidden_states: torch.Tensor,
        embedding_output: torch.Tensor,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        start: int,
        stop: int,
        **kwargs: Unpack[TransformersKwargs],
    ) -> "EncoderStates":
        """Runs the layers from `start` to before `stop`; what enters the layer `joint_layer` is joined before `stop`.

        Args:
            hidden_states: what enters layer `start`.
            embedding_output: z0 in the same order, which the gate adds.
            layout: of the clip in the embeddings.
            token_mask: of the joint layers.
        """
        joint_layer = self.config.joint_layer
        # kept no longer than needed, but for what the grid pooling reads
        read: dict[int, torch.Tensor] = {}
        wanted = self.config.layers_read if self.config.pooling_type == "grid" else ()
        attention_mask = None
        later = embedding_output[:, layout.num_moment_tokens :]
        if start == 0 < joint_layer:
            # what comes in later is not encoded before
            hidden_states = embedding_output = embedding_output[:, : layout.num_moment_tokens]
        for index in range(start, stop + 1):
            if index in wanted:
                read[index] = hidden_states
            if index == joint_layer > start:
                hidden_states = torch.cat([self.join(hidden_states, layout), later], dim=1)
                hidden_states = hidden_states + self.time_positions(layout, hidden_states)
                embedding_output = torch.cat([self.join(embedding_output, layout), later], dim=1)
            if index == stop:
                break
            if index == max(start, joint_layer):
                attention_mask = create_bidirectional_mask(
                    config=self.config, inputs_embeds=hidden_states, attention_mask=token_mask
                )
            layer = self.layers[index]
            if index == self.config.freeze_before and layer.gradient_checkpointing and not hidden_states.requires_grad:
                # re-entrant checkpointing trains a layer only if one of its inputs asks for a gradient
                hidden_states = hidden_states.detach().requires_grad_()
            moments = (layout.num_moments, layout.tokens_per_moment) if index < joint_layer else ALL_TOGETHER
            hidden_states = layer(hidden_states, embedding_output, attention_mask, moments, **kwargs)
        return EncoderStates(hidden_states, embedding_output, read)

    def join(self, states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """Averages the patches of each moment over `joint_pooling` regions: `(batch, tokens of moments, hidden_size)`.
        At the edge of a grid that they do not divide, regions are smaller."""
        if layout.num_moments == 1 or self.config.joint_pooling == [1, 1]:
            return states
        moments = split_moments(states, layout)
        lengths = [layout.num_prefix_tokens, *map(prod, layout.moment_grids)]
        prefix, *patches = moments.split(lengths, dim=2)
        joined = [prefix]
        for of_tube, (_, rows, columns) in zip(patches, layout.moment_grids):
            if not rows:
                continue
            # (batch, num_moments, h * w, hidden_size) -> (batch * num_moments, hidden_size, h, w)
            pictures = of_tube.flatten(0, 1).transpose(1, 2).unflatten(2, (rows, columns))
            pooled = nn.functional.avg_pool2d(
                pictures, self.config.joint_pooling, ceil_mode=True, count_include_pad=False
            )
            joined.append(pooled.flatten(2).transpose(1, 2).unflatten(0, moments.shape[:2]))
        return torch.cat(joined, dim=2).flatten(1, 2)

    def time_positions(self, layout: TokenLayout, states: torch.Tensor) -> torch.Tensor:
        """Sine-cosine of the time of each moment, in frames: `(1, tokens, hidden_size)`; zero for tubes over several
        frames, which have positions in time, and for a single moment."""
        positions = torch.zeros_like(states[:1])
        if layout.num_moments > 1:
            exact = torch.promote_types(states.dtype, torch.float32)
            tube = next(embedding.tube for embedding in self.embeddings.tubes if embedding.tube.sees_one_frame)
            times = tube.centers(0, layout.num_moments, exact, states.device)
            of_moments = sincos_times(times, states.shape[-1]).to(states.dtype)
            repeats = layout.pool(self.config.joint_pooling).tokens_per_moment
            positions = nn.functional.pad(
                of_moments.repeat_interleave(repeats, dim=0)[None],
                (0, 0, 0, states.shape[1] - repeats * layout.num_moments),
            )
        return positions

    def finish(
        self,
        states: "EncoderStates",
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Final norm and pooling."""
        last_hidden_state = self.layernorm(states.hidden_states)
        read = {number: self.layernorm(state) for number, state in states.read.items()}
        pooler_output = self.pooler(last_hidden_state, layout, token_mask, read, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=pooler_output)

    @torch.no_grad()
    def encode_frozen(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the frozen part of the model gives of clips: it can be kept, and given to `forward` as `frozen_output`
        as often as the rest trains.

        Returns:
            The pooled features, `(batch, features)`, if all that comes before the head is frozen; else what enters
            layer `freeze_before` and, for a gate, z0 beside it: `(batch, 1 or 2, tokens, hidden_size)`.

        Raises:
            ValueError: nothing is frozen, or layers that are not frozen come before `joint_layer` or the last that the
                grid pooling reads.
        """
        before = self.check_frozen()
        pixel_values = as_video(pixel_values)
        embedding_output = self.embeddings(pixel_values)
        layout = self.embeddings.layout(pixel_values)
        states = self.run_layers(embedding_output, embedding_output, layout, None, 0, before)
        if self.config.pooling_type == "grid":
            pooler_output = self.finish(states, layout, None).pooler_output
            assert pooler_output is not None
            return pooler_output
        parts = [states.hidden_states]
        if self.config.gate_layer is not None and self.config.gate_layer >= before:
            parts.append(states.embedding_output)
        return torch.stack(parts, dim=1)

    def check_frozen(self) -> int:
        """`freeze_before`, if what it freezes can be kept apart; raises as `encode_frozen`."""
        config = self.config
        if config.freeze_before is None:
            raise ValueError("nothing is frozen: call `freeze_before(layer)` first.")
        if config.freeze_before < config.joint_layer:
            raise ValueError(
                f"`freeze_before` is {config.freeze_before}, below `joint_layer` {config.joint_layer}: single frames "
                "are encoded up to there, and tubes come in. Freeze before that layer or a later one."
            )
        if config.pooling_type == "grid" and config.freeze_before < config.num_hidden_layers:
            raise ValueError(
                f"`freeze_before` is {config.freeze_before} of {config.num_hidden_layers} layers, and the grid "
                "pooling reads what comes of them: freeze all layers."
            )
        return config.freeze_before

    def is_frozen_apart(self) -> bool:
        """Whether `encode_frozen` can run."""
        try:
            self.check_frozen()
        except ValueError:
            return False
        return True

    def forward_frozen(
        self, frozen_output: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        before = self.check_frozen()
        # not `self.dtype`: replicas of `DataParallel` have no parameters
        frozen_output = frozen_output.to(self.layernorm.weight.dtype)
        if self.config.pooling_type == "grid":
            return BaseModelOutputWithPooling(pooler_output=frozen_output)
        if frozen_output.ndim != 4 or frozen_output.shape[1] > 2 or frozen_output.shape[3] != self.config.hidden_size:
            raise ValueError(
                f"`frozen_output` must be (batch, 1 or 2, tokens, {self.config.hidden_size}), as `encode_frozen` "
                f"gives it, got {tuple(frozen_output.shape)}."
            )
        layout = self.config.token_layout()
        num_tokens = layout.pool(self.config.joint_pooling).num_tokens
        # attention pools whatever there is
        if self.config.pooling_type != "attention" and frozen_output.shape[2] != num_tokens:
            raise ValueError(
                f"`frozen_output` has {frozen_output.shape[2]} tokens, and a clip of the config's own size, "
                f"{'x'.join(map(str, self.config.native_size))}, {num_tokens}: with `pooling_type` "
                f"{self.config.pooling_type!r} only those can be told apart."
            )
        hidden_states, embedding_output = frozen_output[:, 0], frozen_output[:, -1]
        states = self.run_layers(hidden_states, embedding_output, layout, None, before, len(self.layers), **kwargs)
        return self.finish(states, layout, None, **kwargs)


class EncoderStates(NamedTuple):
    hidden_states: torch.Tensor
    embedding_output: torch.Tensor
    # what the grid pooling reads, by the number of layers before it
    read: dict[int, torch.Tensor]

    def split(self, lengths: list[int]) -> "list[EncoderStates]":
        """Of each clip in a row, by their numbers of tokens."""
        parts = [
            part.split(lengths, dim=1) for part in (self.hidden_states, self.embedding_output, *self.read.values())
        ]
        return [EncoderStates(hidden, embedded, dict(zip(self.read, read))) for hidden, embedded, *read in zip(*parts)]


def split_moments(states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """`(batch, tokens, ...) -> (batch, num_moments, tokens_per_moment, ...)`, without the tubes that come in later."""
    # a -1 would ask exported graphs for a quotient, which some runtimes take in floating point
    return states[:, : layout.num_moment_tokens].unflatten(1, (layout.num_moments, layout.tokens_per_moment))


def valid_moments(token_mask: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """`(batch, tokens) -> (batch, num_moments)`, where a moment has a `joint_layer` to wait for."""
    return token_mask[:, : layout.num_moment_tokens : layout.tokens_per_moment]


def as_video(pixel_values: torch.Tensor | None) -> torch.Tensor:
    """An image becomes a clip of one frame: `(batch, [num_frames,] channels, height, width) -> (batch, num_frames,
    channels, height, width)`.

    Raises:
        ValueError: `pixel_values` is missing, has another number of axes, or holds whole numbers.
    """
    if pixel_values is None:
        raise ValueError("`pixel_values` is missing: give a video or an image, as TubeViTVideoProcessor makes them.")
    if pixel_values.ndim not in (4, 5):
        raise ValueError(
            "`pixel_values` must be a video (batch, frames, channels, height, width) or an image (batch, channels, "
            f"height, width), got {tuple(pixel_values.shape)}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` must be floating point, got {pixel_values.dtype}: rescale and normalize frames first, as "
            "TubeViTVideoProcessor and TubeViTImageProcessor do."
        )
    return pixel_values if pixel_values.ndim == 5 else pixel_values[:, None]


def as_videos(clips: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each clip `(num_frames, channels, height, width)` and image `(channels, height, width)` of a list as a batch of
    one: `(1, num_frames, channels, height, width)`.

    Raises:
        ValueError: the list is empty, or an item has another number of axes or holds whole numbers.
    """
    if not clips:
        raise ValueError("`pixel_values` is an empty list; at least one clip is needed.")
    for clip in clips:
        if not isinstance(clip, torch.Tensor) or clip.ndim not in (3, 4):
            got = tuple(clip.shape) if isinstance(clip, torch.Tensor) else type(clip).__name__
            raise ValueError(
                "`pixel_values` as a list must hold tensors, clips (frames, channels, height, width) or images "
                f"(channels, height, width), got {got}."
            )
    return [as_video(clip[None]) for clip in clips]


def warn_of_images(pixel_values: torch.Tensor | Sequence[torch.Tensor] | None) -> None:
    """An image processor makes images of the frames of a video, of which a video pipeline reads the first answer."""
    if not isinstance(pixel_values, torch.Tensor) or is_tracing(pixel_values):
        return
    if pixel_values.ndim == 4 and len(pixel_values) > 1:
        logger.warning_once(
            "`pixel_values` (batch, channels, height, width) are images, and each gets an answer of its own. For the "
            "frames of one video use a video processor, `AutoVideoProcessor` or `pipeline(..., video_processor=...)`, "
            "or give `pixel_values[None]`. For images, `TubeViTForImageClassification` has the same weights, and does "
            "not say this."
        )


class TubeViTForClassification(TubeViTPreTrainedModel):
    """What the two classifiers share, weights included: a linear layer on the pooled tokens."""

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.tubevit = TubeViTModel(config)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.loss_function = classification_loss
        self.post_init()

    if TYPE_CHECKING:
        # see `TubeViTModel`
        def __call__(
            self,
            pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
            frame_mask: torch.Tensor | None = None,
            labels: torch.Tensor | None = None,
            frozen_output: torch.Tensor | None = None,
            **kwargs: Unpack[TransformersKwargs],
        ) -> ImageClassifierOutput: ...

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        frame_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frozen_output: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        r"""
        pixel_values (`torch.Tensor` or a list of them):
            A video `(batch, num_frames, channels, height, width)` or an image `(batch, channels, height, width)`; a
            list of clips of different lengths and sizes is packed, see [`TubeViTModel`].
        frame_mask (`torch.BoolTensor` of shape `(batch, num_frames)`, *optional*):
            True where a frame is real, False where it pads a shorter clip.
        labels (`torch.Tensor`, *optional*):
            Classes `(batch,)`; probabilities `(batch, num_labels)` of soft labels, with `config.problem_type` set to
            `"single_label_classification"`; zeros and ones `(batch, num_labels)` of several labels; numbers for a
            regression.
        frozen_output (`torch.Tensor`, *optional*):
            What [`TubeViTModel.encode_frozen`] gave of clips, instead of these.
        """
        if isinstance(self, TubeViTForVideoClassification) and not self.training:
            warn_of_images(pixel_values)
        outputs = self.tubevit(pixel_values, frame_mask=frame_mask, frozen_output=frozen_output, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@auto_docstring(
    custom_intro="TubeViT with a linear classifier on the pooled tokens, for videos; images go in as well."
)
class TubeViTForVideoClassification(TubeViTForClassification):
    pass


@auto_docstring(
    custom_intro="TubeViT with a linear classifier on the pooled tokens, for images; videos go in as well."
)
class TubeViTForImageClassification(TubeViTForClassification):
    pass


__all__ = [
    "TubeViTForImageClassification",
    "TubeViTForVideoClassification",
    "TubeViTModel",
    "TubeViTPreTrainedModel",
]
