# SPDX-License-Identifier: Apache-2.0
"""TubeViT: a plain ViT encoder over the tokens of sparse video tubes, for videos and images.

Videos and images share all weights: an image is a clip of one frame, and a tube that does not fit a clip adds no
tokens.

Every shape in this file uses these words:

    batch                        clips, or images
    num_frames, height, width    size of a clip, in frames and pixels
    channels                     channels of a frame
    t, h, w                      a tube's grid: the number of its tokens along time, height and width
    ft, fh, fw                   a tube's space-to-depth; neighbours = ft * fh * fw kernel outputs make a token
    kt, kh, kw                   size of a tube's kernel, in frames and pixels
    out_channels                 channels of one kernel output
    tokens                       CLS, registers, then t * h * w tokens of each tube that fits
    hidden_size                  width of a token: heads * head_dim
    queries                      the tokens or, in the attention pooling, one learned query

This file holds the paper's model. Our additions are in files of their own: single frames that are encoded as images
(`moments_`, `stages_`), poolings (`pooling_`), lists of clips without padding (`packing_`), and cached outputs of
frozen layers (`frozen_`). The model calls them, and does not branch on them. Pre-training without labels
(`pretraining_`) is a model beside the classifiers.
"""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention_tubevit import AttentionWeights, TubeViTMultiHeadAttention
from .configuration_tubevit import TubeViTConfig
from .frozen_tubevit import check_frozen, encode_frozen, freeze, resume_frozen
from .hub_tubevit import TubeViTHubModel
from .inputs_tubevit import as_frame_mask, as_video, check_channels, warn_of_images
from .loss_tubevit import classification_loss
from .moments_tubevit import TokenLayout, arrange_tokens, checked_token_layout, mask_tokens
from .packing_tubevit import encode_packed
from .patches_tubevit import gather_patches
from .pooling_tubevit import POOLERS, TubeViTAttentionPooler
from .positions_tubevit import interpolate_kernel, resize_positions
from .stages_tubevit import Encoded, JointStage, MomentStage
from .store_tubevit import StoringModule
from .tubes_tubevit import Size, Tube, sincos_positions, sincos_times


if TYPE_CHECKING:
    # transformers ships the files that this one imports; each checkpoint's `auto_map` names this class too
    from .pretraining_tubevit import TubeViTForPreTraining  # noqa: F401


class TubeViTTubeEmbedding(StoringModule):
    """Makes the tokens of one tube, without positions.

    `(batch, num_frames, channels, height, width) -> (batch, t * h * w, hidden_size)`.
    """

    def __init__(self, config: TubeViTConfig, tube: Tube):
        super().__init__(config)
        self.tube = tube
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
        # a processor returns float32, and weights may be in bfloat16
        patches = gather_patches(pixel_values, self.tube, weight.dtype, self.store)
        # at sparse strides, a gather and one matrix product take a fraction of conv3d's time
        tokens = nn.functional.linear(patches, weight.flatten(1), self.bias)
        # (batch, t * h * w, neighbours, out_channels) -> (batch, t * h * w, hidden_size)
        return tokens.flatten(-2).narrow(-1, 0, self.hidden_size)

    def resize_kernel(self, base_kernel: torch.Tensor) -> torch.Tensor:
        """Resizes the kernel that all tubes share to this tube's size (Section 3.3)."""

        def compute() -> torch.Tensor:
            return interpolate_kernel(base_kernel[: self.tube.out_channels], self.tube.kernel_size, self.store)

        return self.store.get_tensor("kernel", compute, self.bias, [base_kernel])


class TubeViTPositionEmbeddings(StoringModule):
    """Adds position embeddings to the tokens of all tubes. CLS and registers get none.

    `(batch, tokens, hidden_size) -> (batch, tokens, hidden_size)`. A learned table is a parameter named by the index
    of its tube. This module reads its tables itself, since an offloaded parameter exists only while its module runs.
    """

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.tubes = config.resolved_tubes
        self.with_table: list[int] = []
        for index, tube in enumerate(self.tubes):
            shape = config.position_table_shape(tube)
            if shape is not None:
                self.register_parameter(str(index), nn.Parameter(torch.empty(shape)))
                self.with_table.append(index)

    def forward(self, tokens: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        config = self.config
        kind, scale, resize = (
            config.position_embedding_type,
            config.position_embedding_scale,
            config.position_embedding_resize,
        )
        if kind == "none":
            return tokens

        # computed and not in the checkpoint: they fit every size, and survive a load through the meta device
        def compute() -> torch.Tensor:
            grids = enumerate(layout.clip_grids)
            tubes = [self.tube_positions(index, grid, tokens) for index, grid in grids if all(grid)]
            prefix = tokens.new_zeros(1, layout.num_moments, layout.num_prefix_tokens, tokens.shape[-1])
            return arrange_tokens([prefix], tubes, layout)

        # `self.parameters()` is empty in replicas of `DataParallel`
        tables = [getattr(self, str(index)) for index in self.with_table]
        return tokens + self.store.get_tensor((layout, kind, scale, resize), compute, tokens, tables)

    def tube_positions(self, index: int, grid: Size, like: torch.Tensor) -> torch.Tensor:
        """Returns the position embeddings of a tube's tokens, `(1, t * h * w, hidden_size)`, on the device and in the
        dtype of `like`."""
        if index in self.with_table:
            table = getattr(self, str(index))
            positions = resize_positions(table, grid, self.config.position_embedding_resize, self.store).to(like.dtype)
            spatial = self.config.position_embedding_type == "spatial"
            return positions + self.times(index, grid, like) if spatial else positions

        def compute() -> torch.Tensor:
            # bfloat16 rounds positions above 256 pixels to even numbers
            exact = torch.promote_types(like.dtype, torch.float32)
            if self.config.position_embedding_type == "tube_index":
                axes = [torch.arange(length, dtype=exact, device=like.device) for length in grid]
            else:
                tube = self.tubes[index]
                axes = [tube.centers(axis, length, exact, like.device) for axis, length in enumerate(grid)]
            table = self.config.position_embedding_scale * sincos_positions(axes, self.config.hidden_size)
            return table[None].to(like.dtype)

        # without learned tables, `forward` stores the embeddings of all tubes as one tensor
        key = (index, grid, self.config.position_embedding_scale)
        return self.store.get_tensor(key, compute, like) if self.with_table else compute()

    def times(self, index: int, grid: Size, like: torch.Tensor) -> torch.Tensor:
        """Returns the sine-cosine embeddings of the times of a tube's centres, `(1, t * h * w, hidden_size)`, as
        `tube_positions`."""

        def compute() -> torch.Tensor:
            exact = torch.promote_types(like.dtype, torch.float32)
            centers = self.tubes[index].centers(0, grid[0], exact, like.device)
            times = self.config.position_embedding_scale * sincos_times(centers, self.config.hidden_size)
            return times.repeat_interleave(prod(grid[1:]), dim=0)[None].to(like.dtype)

        return self.store.get_tensor(("times", index, grid, self.config.position_embedding_scale), compute, like)


class TubeViTEmbeddings(StoringModule):
    """Makes the encoder's input: CLS, registers, then each tube's tokens with their positions.

    `(batch, num_frames, channels, height, width) -> (batch, tokens, hidden_size)`.
    """

    # a ModuleList, which has no type of its items
    tubes: Sequence[TubeViTTubeEmbedding]
    base_kernel: nn.Parameter | None

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        # fixed when the model is built: `config.refine_strides` may change the config later
        self.geometry = config.resolved_tubes
        # pyrefly: ignore[bad-assignment]  see above
        self.tubes = nn.ModuleList([TubeViTTubeEmbedding(config, tube) for tube in self.geometry])
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
        prefix = []
        if self.config.use_cls_token:
            prefix.append(self.cls_token)
        if self.config.num_register_tokens:
            prefix.append(self.register_tokens)
        # each moment has its own CLS and registers: (1, n, hidden_size) -> (batch, num_moments, n, hidden_size)
        prefix = [token[:, None].expand(pixel_values.shape[0], layout.num_moments, -1, -1) for token in prefix]
        tubes = [tube(pixel_values, self.base_kernel) for tube, grid in zip(self.tubes, layout.grids) if all(grid)]
        # autocast computes the products in bfloat16; positions and residual stream keep the parameters' dtype
        tokens = arrange_tokens(prefix, tubes, layout).to(self.tubes[0].bias.dtype)
        return self.dropout(self.layernorm(self.position_embeddings(tokens, layout)))

    @property
    def num_prefix_tokens(self) -> int:
        """Number of CLS and register tokens; with a `joint_layer` each moment has as many."""
        return self.config.num_prefix_tokens

    def layout(self, pixel_values: torch.Tensor) -> TokenLayout:
        """Returns the order of the tokens of clips `(batch, num_frames, channels, height, width)`.

        Raises:
            ValueError: the number of channels differs from the config's, or no tube fits.
        """

        def compute(num_frames: int, _: int, height: int, width: int) -> TokenLayout:
            check_channels(pixel_values, self.config.num_channels)
            return checked_token_layout(self.config, self.geometry, (num_frames, height, width))

        # a user may edit the config
        return self.store.get_static(pixel_values.shape[1:], self.config.joint_layer > 0, compute)

    def token_mask(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Marks the tokens that see real frames only, in the order of the joint layers: `(batch, num_frames) ->
        (batch, tokens)`, bool.

        Raises:
            ValueError: `frame_mask` has a wrong shape or type; or, in eager mode, as `check_token_mask`.
        """
        layout, frame_mask = self.layout(pixel_values), as_frame_mask(frame_mask, pixel_values)
        return mask_tokens(self.config, self.geometry, layout, frame_mask)


class TubeViTAttention(TubeViTMultiHeadAttention):
    """Self-attention over all tokens.

    With `moments`, `(num_moments, tokens_per_moment)`, each token attends to the tokens of its moment, and the weights
    are `(batch * num_moments, heads, queries, tokens)`. With `clip_tokens`, the lengths of packed clips, each token
    attends to the tokens of its clip.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        moments: tuple[int, int] | None = None,
        clip_tokens: Sequence[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, AttentionWeights]:
        if moments is None:
            return self.attend(hidden_states, hidden_states, attention_mask, clip_tokens, **kwargs)
        # (batch, tokens, hidden_size) -> (batch * num_moments, tokens_per_moment, hidden_size)
        separate = hidden_states.unflatten(1, moments).flatten(0, 1)
        attn_output, attn_weights = self.attend(separate, separate, attention_mask, None, **kwargs)
        return attn_output.reshape(hidden_states.shape), attn_weights


class TubeViTMLP(nn.Module):
    """`(batch, tokens, hidden_size) -> (batch, tokens, hidden_size)`."""

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.fc1(hidden_states)
        may_recompute = self.training and hidden_states.requires_grad and self.config.recompute_activation
        # a compiler chooses what it stores
        if may_recompute and not torch.compiler.is_compiling():
            # the activation's output is a quarter of what a layer stores for the backward pass. It is computed again
            # there; `fc2` is not, since checkpointing stops once it has all tensors that were left out
            return checkpoint(self.project_activated, hidden_states, use_reentrant=False)
        return self.project_activated(hidden_states)

    def project_activated(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(hidden_states))


class TubeViTLayerScale(nn.Module):
    """Scales a residual branch by a learned vector, as DINOv2 does."""

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.lambda1


class TubeViTLayer(GradientCheckpointingLayer):
    """Pre-norm Transformer layer. The layer `gate_layer` adds `tanh(gate) * embedding_output` after its MLP (Eq. 8).

    `(batch, tokens, hidden_size) -> (batch, tokens, hidden_size)`.
    """

    gate: nn.Parameter | None

    def __init__(self, config: TubeViTConfig, index: int):
        super().__init__()
        self.attention = TubeViTAttention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = TubeViTMLP(config)
        self.layer_scale1 = TubeViTLayerScale(config) if config.use_layer_scale else None
        self.layer_scale2 = TubeViTLayerScale(config) if config.use_layer_scale else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        if index == config.gate_layer:
            # shape (1,): sharded training refuses parameters without dimensions
            self.gate = nn.Parameter(torch.empty(1))
        else:
            # no parameter of `None`, which a module searches for in each forward pass
            self.gate = None

    # pass `embedding_output` by position: re-entrant checkpointing drops the gradients of keyword arguments
    def forward(
        self,
        hidden_states: torch.Tensor,
        embedding_output: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        moments: tuple[int, int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, moments, **kwargs)
        hidden_states = self.add_residual(attn_output, self.layer_scale1, hidden_states)
        mlp_output = self.mlp(self.layernorm_after(hidden_states))
        hidden_states = self.add_residual(mlp_output, self.layer_scale2, hidden_states)
        if self.gate is not None:
            hidden_states = hidden_states + self.gate.tanh() * embedding_output
        return hidden_states

    def add_residual(
        self, hidden_states: torch.Tensor, layer_scale: TubeViTLayerScale | None, residual: torch.Tensor
    ) -> torch.Tensor:
        """Adds the output of a residual branch, scaled and with dropout, to its input."""
        if layer_scale is not None:
            hidden_states = layer_scale(hidden_states)
        # calling a dropout of 0 takes the host as long as launching an operation
        if self.dropout.p > 0:
            hidden_states = self.dropout(hidden_states)
        return hidden_states + residual


ModelT = TypeVar("ModelT", bound="TubeViTPreTrainedModel")


@auto_docstring
class TubeViTPreTrainedModel(TubeViTHubModel):
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
    # a module that returns a tensor, as hooks on the input need it (LoRA with checkpointing)
    _input_embed_layer = "embeddings"

    if TYPE_CHECKING:
        # transformers wraps `to` and `cuda` so that type checkers refuse every call, and types `base_model` too widely
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
            # the query meets layer-normed tokens: at their scale it prefers some tokens from the start. At
            # `initializer_range` it weighs all tokens alike, and the model learns slowly or not at all
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

    def freeze_before(self, layer: int | None) -> None:
        """Freezes the embeddings and the encoder layers before `layer` (Section 3.6). The config records it, so that
        they are frozen after loading too. Pooling and head are not touched. With the pooling `"grid"`, the final norm
        is frozen with the last layer.

        Args:
            layer (`int`, *optional*):
                0-based; `num_hidden_layers` freezes all layers, 0 only the embeddings. `None` unfreezes all.

        Raises:
            ValueError: `layer` is out of range.
        """
        freeze(self.base_model, layer)


@auto_docstring(custom_intro="TubeViT without a head: returns the encoder's tokens and one pooled vector per clip.")
class TubeViTModel(TubeViTPreTrainedModel):
    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        self.embeddings = TubeViTEmbeddings(config)
        self.layers = nn.ModuleList([TubeViTLayer(config, index) for index in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = POOLERS[config.pooling_type](config)
        # plain objects, not modules: they have no parameters, and get the layers as an argument
        self.moment_stage = MomentStage(config, self.embeddings.store)
        self.joint_stage = JointStage(config)
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
            and images `(channels, height, width)` of different lengths and sizes is packed into one row of tokens
            without padding. Each clip gets the output that it gets alone: `pooler_output` is `(clips, hidden_size)`,
            `last_hidden_state` is the row `(1, tokens of all clips, hidden_size)`, and `attentions` holds the weights
            of each clip.
        frame_mask (`torch.BoolTensor` of shape `(batch, num_frames)`, *optional*):
            True where a frame is real, False where it pads a shorter clip. A token counts if every frame that it sees
            is real, so that a padded clip gives the output of the unpadded one.
        frozen_output (`torch.Tensor`, *optional*):
            Output of [`TubeViTModel.encode_frozen`] for the clips, instead of `pixel_values`.

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
            return resume_frozen(self, frozen_output, **kwargs)
        if isinstance(pixel_values, Sequence):
            return encode_packed(self, pixel_values, frame_mask, **kwargs)
        pixel_values = as_video(pixel_values)
        layout = self.embeddings.layout(pixel_values)
        token_mask = None if frame_mask is None else self.embeddings.token_mask(pixel_values, frame_mask)
        encoded = self.encode_moments(pixel_values, layout, **kwargs)
        encoded = self.joint_stage(self.layers, encoded, token_mask, None, **kwargs)
        return self.finish(encoded, layout, token_mask, **kwargs)

    def encode_moments(
        self, pixel_values: torch.Tensor, layout: TokenLayout, **kwargs: Unpack[TransformersKwargs]
    ) -> Encoded:
        """Runs the embeddings and the layers before `joint_layer`."""
        tokens = self.embeddings(pixel_values)
        if self.config.joint_layer == 0:
            return Encoded.start(tokens, self.config)
        encoded = self.moment_stage(self.layers, tokens, layout, **kwargs)
        return self.moment_stage.join(encoded, tokens[:, layout.num_moment_tokens :], layout)

    def finish(
        self,
        encoded: Encoded,
        layout: TokenLayout,
        token_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Applies the final norm and the pooling."""
        last_hidden_state = self.layernorm(encoded.hidden_states)
        layer_states = {number: self.layernorm(states) for number, states in encoded.layer_states.items()}
        pooler_output = self.pooler(last_hidden_state, layout, token_mask, layer_states, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=pooler_output)

    def encode_frozen(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Runs the frozen part of the model. Its output can be cached: `forward` takes it as `frozen_output` in every
        epoch, and runs the rest of the model.

        Returns:
            With the pooling `"grid"`, the pooled features `(batch, features)`. Otherwise the input of the layer
            `freeze_before`, `(batch, 1, tokens, hidden_size)`; if a gate comes later, `(batch, 2, tokens,
            hidden_size)`, with z0 as the second.

        Raises:
            ValueError: nothing is frozen, or trained layers come before `joint_layer` or before the grid pooling.
        """
        return encode_frozen(self, pixel_values)

    def check_frozen(self) -> int:
        """Returns `freeze_before` if the frozen part can run alone; raises as `encode_frozen`."""
        return check_frozen(self.config)

    def is_frozen_apart(self) -> bool:
        """Returns True if `encode_frozen` can run."""
        try:
            self.check_frozen()
        except ValueError:
            return False
        return True


class TubeViTForClassification(TubeViTPreTrainedModel):
    """The base of the two classifiers below: a linear layer on the pooled tokens. Both have the same weights."""

    _expects_videos = False

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
            Output of [`TubeViTModel.encode_frozen`] for the clips, instead of `pixel_values`.
        """
        if self._expects_videos and not self.training:
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
    _expects_videos = True


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
