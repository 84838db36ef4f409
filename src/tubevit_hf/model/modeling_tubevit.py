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
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import CommitInfo, ModelCard
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from .configuration_tubevit import TubeViTConfig
from .loss_tubevit import classification_loss
from .model_card_tubevit import create_model_card, is_generated_card, read_tags
from .tubes_tubevit import Size, Tube, sincos_positions, smallest_tube


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

    def forward(self, pixel_values: torch.Tensor, grid: Size, base_kernel: torch.Tensor | None = None) -> torch.Tensor:
        weight = self.weight if base_kernel is None else self.resize_kernel(base_kernel)
        patches = gather_patches(pixel_values, self.tube, grid)
        # one matrix product: the strided gather and this take a fraction of conv3d's time at sparse strides
        tokens = nn.functional.linear(patches, weight.flatten(1), self.bias)
        # (batch, t * h * w, neighbours, out_channels) -> (batch, t * h * w, hidden_size)
        return tokens.flatten(-2)[..., : self.hidden_size]

    def resize_kernel(self, base_kernel: torch.Tensor) -> torch.Tensor:
        """The tube's kernel out of the shared one (Section 3.3): tri-linear, without rescaling."""
        kernel = base_kernel[: self.tube.out_channels]
        return nn.functional.interpolate(kernel, size=self.tube.kernel_size, mode="trilinear", align_corners=False)


def gather_patches(pixel_values: torch.Tensor, tube: Tube, grid: Size) -> torch.Tensor:
    """Copies the pixels under each kernel application of a tube.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, neighbours, channels * kt * kh * kw)`, each in
    raster order.
    """
    # -> (batch, t * ft, channels, h * fh, w * fw, kt, kh, kw): at the finer stride of space-to-depth. Nothing is
    # copied before the last reshape.
    patches = pixel_values
    for axis, dim in enumerate((1, 3, 4)):
        kernel, step = tube.kernel_size[axis], tube.kernel_stride[axis]
        length = grid[axis] * tube.space_to_depth[axis]
        patches = patches.narrow(dim, tube.offset[axis], (length - 1) * step + kernel).unfold(dim, kernel, step)
    # -> (batch, t, ft, channels, h, fh, w, fw, kt, kh, kw)
    patches = patches.unflatten(4, (grid[2], -1)).unflatten(3, (grid[1], -1)).unflatten(1, (grid[0], -1))
    # -> (batch, t, h, w, ft, fh, fw, channels, kt, kh, kw)
    patches = patches.permute(0, 1, 4, 6, 2, 5, 7, 3, 8, 9, 10)
    # -> (batch, t * h * w, neighbours, channels * kt * kh * kw)
    return patches.flatten(7).flatten(4, 6).flatten(1, 3)


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
        self.position_embeddings = nn.ParameterDict(
            {
                str(index): nn.Parameter(torch.empty(shape))
                for index, tube in enumerate(config.resolved_tubes)
                if (shape := config.position_table_shape(tube)) is not None
            }
        )
        self.layernorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_pre_layernorm else nn.Identity()
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        grids = self.token_grids(pixel_values)
        # weights may be in bfloat16 while a processor gives float32
        dtype = self.tubes[0].bias.dtype
        pixel_values = pixel_values.to(dtype)
        batch_size = pixel_values.shape[0]

        tokens = []
        if self.config.use_cls_token:
            tokens.append(self.cls_token.expand(batch_size, -1, -1))
        if self.config.num_register_tokens:
            tokens.append(self.register_tokens.expand(batch_size, -1, -1))
        for index, (tube, grid) in enumerate(zip(self.tubes, grids)):
            if all(grid):
                # under autocast the product is in bfloat16, but positions and residual stream are not rounded
                embedding = tube(pixel_values, grid, self.base_kernel).to(dtype)
                positions = self.positions(index, grid, dtype, embedding.device)
                tokens.append(embedding if positions is None else embedding + positions)
        return self.dropout(self.layernorm(torch.cat(tokens, dim=1)))

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
        return grids

    def token_mask(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Which tokens see real frames only: `(batch, num_frames) -> (batch, tokens)`, bool.

        Raises:
            ValueError: `frame_mask` has a wrong shape or type or, in eager mode, leaves a clip without a valid token.
        """
        if frame_mask.shape != pixel_values.shape[:2]:
            raise ValueError(
                f"`frame_mask` must be (batch, num_frames), here {tuple(pixel_values.shape[:2])}, got "
                f"{tuple(frame_mask.shape)}."
            )
        if frame_mask.is_floating_point():
            raise ValueError(f"`frame_mask` must be bool, True where a frame is real, got {frame_mask.dtype}.")
        frame_mask = frame_mask.to(device=pixel_values.device, dtype=torch.bool)
        masks = [
            embedding.tube.valid_tokens(frame_mask, grid)
            for embedding, grid in zip(self.tubes, self.token_grids(pixel_values))
            if all(grid)
        ]
        from_tubes = torch.cat(masks, dim=1)
        if not is_tracing(from_tubes) and not from_tubes.any(dim=1).all():
            empty = (~from_tubes.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(
                f"`frame_mask` leaves clip(s) {empty} without a valid token: "
                f"{frame_mask[empty].sum(dim=1).tolist()} real frame(s) hold no tube. Give longer clips, or drop them."
            )
        return nn.functional.pad(from_tubes, (self.num_prefix_tokens, 0), value=True)

    @property
    def num_prefix_tokens(self) -> int:
        """Number of CLS and register tokens."""
        return int(self.config.use_cls_token) + self.config.num_register_tokens

    def positions(self, index: int, grid: Size, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """Position embeddings of tube `index`: `(1, t * h * w, hidden_size)`, in `dtype`; `None` for `"none"`."""
        if str(index) in self.position_embeddings:
            table = self.position_embeddings[str(index)]
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
            tube = self.tubes[index].tube
            axes = [tube.centers(axis, length, exact, device) for axis, length in enumerate(grid)]
        table = self.config.position_embedding_scale * sincos_positions(axes, self.config.hidden_size)
        return table[None].to(dtype)


# how ViT libraries resize their position tables, by `position_embedding_resize`: mode, align_corners, antialias
RESIZE_ARGUMENTS = {
    "bicubic": ("bicubic", False, False),
    "bicubic_antialias": ("bicubic", False, True),
    "bicubic_corners": ("bicubic", True, False),
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
    table = table[:, torch.arange(steps, device=table.device).clamp(max=table.shape[1] - 1)]
    if table.shape[2:4] != (height, width):
        exact = torch.promote_types(table.dtype, torch.float32)
        channels_first = table[0].permute(0, 3, 1, 2).to(exact)  # (t, hidden_size, h, w)
        mode, align_corners, antialias = RESIZE_ARGUMENTS[resize]
        resized = nn.functional.interpolate(
            channels_first, size=(height, width), mode=mode, align_corners=align_corners, antialias=antialias
        )
        table = resized.permute(0, 2, 3, 1)[None]  # (1, t, h, w, hidden_size)
    return table.flatten(1, 3)


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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
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
        attn_output, attn_weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        # (batch, queries, heads, head_dim) -> (batch, queries, hidden_size)
        return self.o_proj(attn_output.flatten(-2)), attn_weights


class TubeViTAttention(TubeViTMultiHeadAttention):
    """Self-attention over all tokens."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.attend(hidden_states, hidden_states, attention_mask, **kwargs)


class TubeViTAttentionPooler(TubeViTMultiHeadAttention):
    """One learned query attends to all valid tokens: `(batch, tokens, hidden_size) -> (batch, hidden_size)`."""

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.query = nn.Parameter(torch.empty(1, 1, config.hidden_size))

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        query = self.query.expand(hidden_states.shape[0], -1, -1)
        attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=query,
            attention_mask=token_mask,
            encoder_hidden_states=hidden_states,
        )
        return self.attend(query, hidden_states, attention_mask, **kwargs)[0].squeeze(1)


class TubeViTMLP(nn.Module):
    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


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
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
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
        elif isinstance(module, TubeViTEmbeddings):
            for parameter in module.parameters(recurse=False):
                init.trunc_normal_(parameter, std=std)
        elif isinstance(module, nn.ParameterDict):
            # position tables, by themselves: transformers passes over a module that has no parameter of its own, as
            # `TubeViTEmbeddings` may have none
            for parameter in module.values():
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
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        # what is frozen in `__init__` thaws when the loaded weights replace the parameters
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_before(model.config.freeze_before)
        # pyrefly: ignore[bad-return]  Python 3.10 has no `Self`, which `super()` gives
        return loaded

    def freeze_before(self, layer: int | None) -> None:
        """Freezes the embeddings and the encoder layers before `layer` (Section 3.6) and notes it in the config, so
        that it holds after saving and loading. Pooling and head are not touched.

        Args:
            layer (`int`, *optional*):
                0-based; `num_hidden_layers` freezes all layers, 0 only the embeddings. `None` thaws them all.

        Raises:
            ValueError: `layer` is out of range.
        """
        num_layers = self.config.num_hidden_layers
        if layer is not None and not 0 <= layer <= num_layers:
            raise ValueError(f"`layer` must be from 0 to {num_layers} (`num_hidden_layers`) or None, got {layer}.")
        if layer is None and self.config.freeze_before is None:
            return
        base_model = self.base_model
        base_model.embeddings.requires_grad_(layer is None)
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


def refuse_pickles(folder: str | os.PathLike[str] | None, subfolder: str = "") -> None:
    """Raises an `OSError` for a local folder whose weights are pickles only: to read one can run code."""
    if folder is None or not os.path.isdir(folder):
        return
    folder = Path(folder, subfolder)
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise OSError(
            f"{folder} holds its weights as a pickle only ({', '.join(pickles)}), which can run code when it is read. "
            "TubeViT loads model.safetensors: if you trust the file, load it once with `use_safetensors=False` and "
            "save it again with `save_pretrained`."
        )


@auto_docstring(custom_intro="TubeViT without a head: the tokens of the encoder and, pooled, a vector a clip.")
class TubeViTModel(TubeViTPreTrainedModel):
    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.embeddings = TubeViTEmbeddings(config)
        self.layers = nn.ModuleList([TubeViTLayer(config, index) for index in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = TubeViTAttentionPooler(config) if config.pooling_type == "attention" else None
        self.post_init()

    if TYPE_CHECKING:
        # a call runs `forward`, whose types are lost in transformers' decorators
        def __call__(
            self,
            pixel_values: torch.Tensor | None = None,
            frame_mask: torch.Tensor | None = None,
            **kwargs: Unpack[TransformersKwargs],
        ) -> BaseModelOutputWithPooling: ...

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.Tensor`):
            A video `(batch, num_frames, channels, height, width)` or an image `(batch, channels, height, width)`, of
            any number of frames and any size that a tube fits.
        frame_mask (`torch.BoolTensor` of shape `(batch, num_frames)`, *optional*):
            True where a frame is real, False where it pads a shorter clip. A token counts if every frame that it sees
            is real, so that a padded clip gives the output of the unpadded one.

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
        pixel_values = as_video(pixel_values)
        embedding_output = self.embeddings(pixel_values)
        token_mask = None if frame_mask is None else self.embeddings.token_mask(pixel_values, frame_mask)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=embedding_output, attention_mask=token_mask
        )
        hidden_states = embedding_output
        for index, layer in enumerate(self.layers):
            if index == self.config.freeze_before and layer.gradient_checkpointing and not hidden_states.requires_grad:
                # re-entrant checkpointing trains a layer only if one of its inputs asks for a gradient
                hidden_states = hidden_states.detach().requires_grad_()
            hidden_states = layer(hidden_states, embedding_output, attention_mask, **kwargs)
        last_hidden_state = self.layernorm(hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state,
            pooler_output=self.pool(last_hidden_state, token_mask, **kwargs),
        )

    def pool(
        self,
        last_hidden_state: torch.Tensor,
        token_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`(batch, tokens, hidden_size) -> (batch, hidden_size)`, as `pooling_type` says."""
        if self.pooler is not None:
            return self.pooler(last_hidden_state, token_mask, **kwargs)
        if self.config.pooling_type == "cls":
            return last_hidden_state[:, 0]
        num_prefix_tokens = self.embeddings.num_prefix_tokens
        from_tubes = last_hidden_state[:, num_prefix_tokens:]
        if token_mask is None:
            return from_tubes.mean(dim=1)
        weight = token_mask[:, num_prefix_tokens:, None].to(from_tubes.dtype)
        return (from_tubes * weight).sum(dim=1) / weight.sum(dim=1)


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


class TubeViTForClassification(TubeViTPreTrainedModel):
    """What the two classifiers share, weights included: a linear layer on the pooled tokens."""

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.tubevit = TubeViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.loss_function = classification_loss
        self.post_init()

    if TYPE_CHECKING:
        # see `TubeViTModel`
        def __call__(
            self,
            pixel_values: torch.Tensor | None = None,
            frame_mask: torch.Tensor | None = None,
            labels: torch.Tensor | None = None,
            **kwargs: Unpack[TransformersKwargs],
        ) -> ImageClassifierOutput: ...

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        r"""
        pixel_values (`torch.Tensor`):
            A video `(batch, num_frames, channels, height, width)` or an image `(batch, channels, height, width)`.
        frame_mask (`torch.BoolTensor` of shape `(batch, num_frames)`, *optional*):
            True where a frame is real, False where it pads a shorter clip.
        labels (`torch.Tensor`, *optional*):
            Classes `(batch,)`; probabilities `(batch, num_labels)` of soft labels, with `config.problem_type` set to
            `"single_label_classification"`; zeros and ones `(batch, num_labels)` of several labels; numbers for a
            regression.
        """
        outputs = self.tubevit(pixel_values, frame_mask=frame_mask, **kwargs)
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
