# SPDX-License-Identifier: Apache-2.0
"""Pre-training without labels: the tokens predict features of a teacher, or pixels.

A step is cheap where the encoder sees few tokens: `visible_tokens` are chosen from the embeddings' output, and only
these run through the encoder. Without a decoder, some of them predict. A decoder predicts tokens that the encoder does
not see: it runs on the encoder's output and a mask token with its position for each of them.

Every shape in this file uses these words beside those of `modeling_tubevit.py`:

    tube_tokens          tokens of the tubes: all but CLS and registers, in the order of the layout, from 0
    visible, targets     number of the tube tokens that the encoder sees, and of those that are predicted
    layers               number of layers after which tokens are read; each has a head
    target_size          values that a head predicts for a token
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_tubevit import TubeViTConfig
from .inputs_tubevit import as_video, can_read
from .modeling_tubevit import TubeViTAttention, TubeViTLayer, TubeViTModel, TubeViTPreTrainedModel
from .moments_tubevit import TokenLayout
from .patches_tubevit import copy_patches, view_patches
from .stages_tubevit import Encoded
from .tubes_tubevit import Tube, as_size


# added to the variance of a token's pixels, as masked autoencoders do
PIXEL_EPS = 1e-6


@auto_docstring(custom_intro="Predictions of tube tokens, and their loss.")
@dataclass
class TubeViTForPreTrainingOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
        Mean squared error of all predictions, in float32.
    predictions (`torch.FloatTensor` of shape `(batch, targets, layers, target_size)`):
        What each target token predicts after each of `config.pretraining["layers"]`.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*):
        The encoder's input, and the output of each layer that ran: CLS, registers and visible tokens.
    attentions (`tuple(torch.FloatTensor)`, *optional*):
        Attention weights of each encoder layer that ran.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class TubeViTDecoder(nn.Module):
    """Predicts tokens that the encoder does not see: layers of the encoder's width, and a norm.

    `(batch, prefix + visible, hidden_size) -> (batch, prefix + visible + missing, hidden_size)`.
    """

    def __init__(self, config: TubeViTConfig, num_layers: int):
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        # they count on from the encoder's layers, so that none is the gated one
        first = config.num_hidden_layers
        self.layers = nn.ModuleList([TubeViTLayer(config, first + index) for index in range(num_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        missing_tokens: torch.Tensor,
        layout: TokenLayout,
        model: TubeViTModel,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Runs the decoder.

        Args:
            hidden_states: the encoder's output, normed, `(batch, prefix + visible, hidden_size)`.
            missing_tokens: indices of the tube tokens that are appended, `(missing,)`.
            layout: the layout of the clip.
            model: the encoder, whose position embeddings and stage run here.
        """
        masks = self.mask_token.expand(1, layout.num_tokens, -1)
        # with the positions of all tokens: (1, tokens, hidden_size)
        masks = model.embeddings.position_embeddings(masks, layout)
        masks = masks[:, layout.num_prefix_tokens :].to(hidden_states.device).index_select(1, missing_tokens)
        tokens = torch.cat([hidden_states, masks.expand(hidden_states.shape[0], -1, -1)], dim=1)
        encoded = Encoded(tokens, tokens, {})
        encoded = model.joint_stage(self.layers, encoded, None, range(len(self.layers)), **kwargs)
        return self.layernorm(encoded.hidden_states)


@auto_docstring(
    custom_intro="TubeViT that is trained without labels: tokens predict the features of a teacher, or pixels, as "
    "`config.pretraining` says. Layers after the last one that is read, and the pooling, do not run, and are frozen."
)
class TubeViTForPreTraining(TubeViTPreTrainedModel):
    _no_split_modules = ["TubeViTEmbeddings", "TubeViTLayer", "TubeViTDecoder"]
    # those of the decoder are not recorded
    _can_record_outputs = {
        "hidden_states": OutputRecorder(TubeViTLayer, index=0, layer_name="tubevit"),
        "attentions": OutputRecorder(TubeViTAttention, index=1, layer_name="tubevit"),
    }

    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        if config.pretraining is None:
            raise ValueError(
                "`pretraining` is None: say what is predicted, such as "
                'TubeViTConfig(pretraining={"target": "features", "target_size": 384}) or {"target": "pixels"}.'
            )
        self.tubevit = TubeViTModel(config)
        num_layers = config.pretraining["decoder_layers"]
        self.decoder = TubeViTDecoder(config, num_layers) if num_layers > 0 else None
        self.heads = nn.ModuleList(
            [nn.Linear(config.hidden_size, config.pretraining_size) for _ in config.pretraining["layers"]]
        )
        self.post_init()

    if TYPE_CHECKING:
        # see `TubeViTModel`
        def __call__(
            self,
            pixel_values: torch.Tensor | None = None,
            targets: torch.Tensor | None = None,
            visible_tokens: torch.Tensor | None = None,
            target_tokens: torch.Tensor | None = None,
            **kwargs: Unpack[TransformersKwargs],
        ) -> TubeViTForPreTrainingOutput: ...

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TubeViTDecoder):
            init.trunc_normal_(module.mask_token, std=self.config.initializer_range)

    def freeze_before(self, layer: int | None) -> None:
        """See [`TubeViTPreTrainedModel.freeze_before`]. What does not run stays frozen."""
        super().freeze_before(layer)
        # distributed training waits for the gradient of each parameter that has one
        self.tubevit.pooler.requires_grad_(False)
        for index in range(self.layers_read[-1], len(self.tubevit.layers)):
            self.tubevit.layers[index].requires_grad_(False)

    @property
    def layers_read(self) -> list[int]:
        """Numbers of the encoder layers after which tokens are read, ascending."""
        assert self.config.pretraining is not None
        return self.config.pretraining["layers"]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        visible_tokens: torch.Tensor | None = None,
        target_tokens: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TubeViTForPreTrainingOutput:
        r"""
        pixel_values (`torch.Tensor`):
            A video `(batch, num_frames, channels, height, width)` or an image `(batch, channels, height, width)`.
        targets (`torch.Tensor` of shape `(batch, targets, layers, target_size)`, *optional*):
            Features that are predicted. Without them there is no loss. The target `"pixels"` takes none: it is
            computed from `pixel_values`, see `pixel_targets`.
        visible_tokens (`torch.LongTensor` of shape `(visible,)`, *optional*):
            Indices of the tube tokens that the encoder sees, in all clips of the batch; by default all. CLS and
            registers are always seen, and not counted: 0 is the first token of the first tube.
        target_tokens (`torch.LongTensor` of shape `(targets,)`, *optional*):
            Indices of the tube tokens that are predicted; by default all. Without a decoder they must be visible.

        Indices on the CPU save the host waiting for a GPU.

        Example:

        ```python
        >>> import torch
        >>> from tubevit_hf import TubeViTConfig, TubeViTForPreTraining

        >>> config = TubeViTConfig.from_preset("Ti", pretraining={"target": "pixels", "decoder_layers": 1})
        >>> model = TubeViTForPreTraining(config)
        >>> visible, hidden = torch.arange(100), torch.arange(100, 539)
        >>> video = torch.randn(1, 32, 3, 224, 224)
        >>> model(video, visible_tokens=visible, target_tokens=hidden).predictions.shape
        torch.Size([1, 439, 1, 384])
        ```"""
        pixel_values = as_video(pixel_values)
        if kwargs.get("frame_mask") is not None:
            raise ValueError("`frame_mask` is not supported in pre-training: give clips without padding.")
        layout = self.tubevit.embeddings.layout(pixel_values)
        num_tokens = layout.num_tokens - layout.num_prefix_tokens
        check_tokens("visible_tokens", visible_tokens, num_tokens)
        check_tokens("target_tokens", target_tokens, num_tokens)
        places, missing = find_places(visible_tokens, target_tokens, num_tokens)
        if len(missing) and self.decoder is None:
            raise ValueError(
                f"{len(missing)} of the `target_tokens` are not among the `visible_tokens`: without a decoder only "
                "visible tokens can be predicted. Set 'decoder_layers' in `config.pretraining`, or change the tokens."
            )

        states = self.encode(pixel_values, layout, visible_tokens, **kwargs)
        if self.decoder is not None:
            states = [self.decoder(states[0], missing.to(states[0].device), layout, self.tubevit, **kwargs)]
        rows = places.to(states[0].device) + layout.num_prefix_tokens
        # (batch, targets, layers, target_size)
        predictions = torch.stack(
            [head(of_layer.index_select(1, rows)) for head, of_layer in zip(self.heads, states)], dim=2
        )
        targets = self.choose_targets(pixel_values, layout, targets, target_tokens, predictions)
        loss = None
        if targets is not None:
            exact = torch.promote_types(predictions.dtype, torch.float32)
            loss = nn.functional.mse_loss(predictions.to(exact), targets.to(exact))
        return TubeViTForPreTrainingOutput(loss=loss, predictions=predictions)

    def encode(
        self,
        pixel_values: torch.Tensor,
        layout: TokenLayout,
        visible_tokens: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> list[torch.Tensor]:
        """Runs the encoder on the visible tokens, and returns its normed states after each layer that is read,
        `(batch, prefix + visible, hidden_size)`."""
        model = self.tubevit
        tokens = model.embeddings(pixel_values)
        if visible_tokens is not None:
            prefix, tube_tokens = tokens.tensor_split([layout.num_prefix_tokens], dim=1)
            visible = tube_tokens.index_select(1, visible_tokens.to(tokens.device))
            tokens = torch.cat([prefix, visible], dim=1)
        encoded, start = Encoded.start(tokens, self.config), 0
        states: list[torch.Tensor] = []
        for stop in self.layers_read:
            encoded = model.joint_stage(model.layers, encoded, None, range(start, stop), **kwargs)
            states.append(model.layernorm(encoded.hidden_states))
            start = stop
        return states

    def choose_targets(
        self,
        pixel_values: torch.Tensor,
        layout: TokenLayout,
        targets: torch.Tensor | None,
        target_tokens: torch.Tensor | None,
        predictions: torch.Tensor,
    ) -> torch.Tensor | None:
        """Returns the targets in the shape of the predictions, on their device; None if there are none.

        Raises:
            ValueError: targets have another shape, or are given although pixels are predicted.
        """
        settings = self.config.pretraining
        assert settings is not None
        if settings["target"] == "pixels":
            if targets is not None:
                raise ValueError(
                    "`targets` are given, but `config.pretraining` has the target 'pixels', which is computed from "
                    "`pixel_values`: leave them out, or set 'target' to 'features'."
                )
            pixels = pixel_targets(pixel_values, self.tubevit.embeddings.geometry, settings["pixel_size"])
            if target_tokens is not None:
                pixels = pixels.index_select(1, target_tokens.to(pixels.device))
            # (batch, targets, target_size) -> (batch, targets, layers, target_size)
            return pixels[:, :, None].expand_as(predictions)
        if targets is not None and targets.shape != predictions.shape:
            raise ValueError(
                "`targets` must be (batch, targets, layers, target_size), here "
                f"{tuple(predictions.shape)}, got {tuple(targets.shape)}."
            )
        return None if targets is None else targets.to(predictions.device)


def check_tokens(name: str, tokens: torch.Tensor | None, num_tokens: int) -> None:
    """Checks indices of tube tokens.

    Raises:
        ValueError: they are not one axis of whole numbers, there are none, one is out of range, or one comes twice.
    """
    if tokens is None:
        return
    if tokens.ndim != 1 or len(tokens) == 0 or tokens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"`{name}` must be a LongTensor of indices of one axis, at least one of them, got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}."
        )
    if can_read(tokens) and (tokens.min() < 0 or tokens.max() >= num_tokens or len(tokens.unique()) < len(tokens)):
        raise ValueError(
            f"`{name}` must be different indices from 0 to {num_tokens - 1}, of the tokens of the tubes without CLS "
            f"and registers; got {len(tokens)}, from {int(tokens.min())} to {int(tokens.max())}, "
            f"{len(tokens.unique())} different ones."
        )


def find_places(
    visible_tokens: torch.Tensor | None, target_tokens: torch.Tensor | None, num_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds the targets in the sequence of the visible tokens and, after them, the missing ones.

    Returns:
        Place of each target, `(targets,)`, and the targets that are not visible, `(missing,)`.
    """
    device = next((tokens.device for tokens in (target_tokens, visible_tokens) if tokens is not None), None)
    every = torch.arange(num_tokens, device=device)
    target_tokens = every if target_tokens is None else target_tokens
    if visible_tokens is None:
        return target_tokens, every[:0]
    is_missing = torch.ones(num_tokens, dtype=torch.bool, device=device)
    visible_tokens = visible_tokens.to(every.device)
    is_missing[visible_tokens] = False
    missing = target_tokens[is_missing[target_tokens]]
    sequence = torch.cat([visible_tokens, missing])
    places = torch.empty_like(every)
    places[sequence] = every[: len(sequence)]
    return places[target_tokens], missing


@torch.no_grad()
def pixel_targets(pixel_values: torch.Tensor, tubes: Sequence[Tube], pixel_size: Sequence[int]) -> torch.Tensor:
    """Averages the pixels that each token sees, with the gaps of space-to-depth, to a small clip, and brings each clip
    to zero mean and unit variance, as [masked autoencoders](https://arxiv.org/abs/2111.06377) do.

    `(batch, num_frames, channels, height, width) -> (batch, tube_tokens, channels * t * h * w)`, in float32. Where a
    token sees fewer frames or pixels than `pixel_size`, `[t, h, w]`, they repeat. A region of one value gives zeros.
    """
    _, num_frames, channels, height, width = pixel_values.shape
    targets: list[torch.Tensor] = []
    for tube in tubes:
        if not all(tube.grid((num_frames, height, width))):
            continue
        region = replace(tube, kernel_size=tube.extent, space_to_depth=(1, 1, 1))
        exact = torch.promote_types(pixel_values.dtype, torch.float32)
        # (batch, tube_tokens, 1, channels * kt * kh * kw) -> (batch * tube_tokens, channels, kt, kh, kw)
        patches = copy_patches(view_patches(pixel_values, region), exact)
        clips = patches.unflatten(-1, (channels, *tube.extent)).flatten(0, 2)
        averages = nn.functional.adaptive_avg_pool3d(clips, as_size(pixel_size)).flatten(1)
        targets.append(averages.unflatten(0, patches.shape[:2]))
    tokens = torch.cat(targets, dim=1)
    return nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=PIXEL_EPS)


__all__ = ["TubeViTForPreTraining", "TubeViTForPreTrainingOutput"]
