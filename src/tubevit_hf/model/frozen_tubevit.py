# SPDX-License-Identifier: Apache-2.0
"""Freezes layers (Section 3.6), and splits the model there: the output of the frozen part can be cached."""

from typing import TYPE_CHECKING

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_tubevit import TubeViTConfig
from .inputs_tubevit import as_video
from .stages_tubevit import Encoded


if TYPE_CHECKING:
    from .modeling_tubevit import TubeViTModel


def freeze(model: "TubeViTModel", layer: int | None) -> None:
    """Freezes the embeddings and the layers before `layer`; see [`TubeViTPreTrainedModel.freeze_before`]."""
    config = model.config
    num_layers = config.num_hidden_layers
    if layer is not None and (not isinstance(layer, int) or not 0 <= layer <= num_layers):
        raise ValueError(f"`layer` must be from 0 to {num_layers} (`num_hidden_layers`) or None, got {layer}.")
    if layer is None and config.freeze_before is None:
        return
    model.embeddings.requires_grad_(layer is None)
    if config.pooling_type == "grid":
        # the grid pooling has no weights: with all layers and the final norm frozen, its output can be cached
        model.layernorm.requires_grad_(layer is None or layer < num_layers)
    for index, encoder_layer in enumerate(model.layers):
        encoder_layer.requires_grad_(layer is None or index >= layer)
    config.freeze_before = layer


def check_frozen(config: TubeViTConfig) -> int:
    """Returns `freeze_before` if the frozen part can run alone.

    Raises:
        ValueError: nothing is frozen, or trained layers come before `joint_layer` or before the grid pooling.
    """
    if config.freeze_before is None:
        raise ValueError("nothing is frozen: call `freeze_before(layer)` first.")
    if config.freeze_before < config.joint_layer:
        raise ValueError(
            f"`freeze_before` is {config.freeze_before}, below `joint_layer` {config.joint_layer}: single frames are "
            "encoded up to there, and tubes come in. Freeze before that layer or a later one."
        )
    if config.pooling_type == "grid" and config.freeze_before < config.num_hidden_layers:
        raise ValueError(
            f"`freeze_before` is {config.freeze_before} of {config.num_hidden_layers} layers, and the grid pooling "
            "reads the output of all: freeze all layers."
        )
    return config.freeze_before


@torch.no_grad()
def encode_frozen(model: "TubeViTModel", pixel_values: torch.Tensor) -> torch.Tensor:
    """Runs the frozen part of a model; see [`TubeViTModel.encode_frozen`]."""
    config, before = model.config, check_frozen(model.config)
    pixel_values = as_video(pixel_values)
    layout = model.embeddings.layout(pixel_values)
    encoded = model.encode_moments(pixel_values, layout)
    encoded = model.joint_stage(model.layers, encoded, None, range(config.joint_layer, before))
    if config.pooling_type == "grid":
        pooler_output = model.finish(encoded, layout, None).pooler_output
        assert pooler_output is not None
        return pooler_output
    parts = [encoded.hidden_states]
    if config.gate_layer is not None and config.gate_layer >= before:
        parts.append(encoded.embedding_output)
    return torch.stack(parts, dim=1)


def resume_frozen(
    model: "TubeViTModel", frozen_output: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
) -> BaseModelOutputWithPooling:
    """Runs the trained part of a model on the output of its frozen part.

    Raises:
        ValueError: as `check_frozen`; or `frozen_output` has a wrong shape.
    """
    config, before = model.config, check_frozen(model.config)
    # `model.dtype` reads the parameters, which replicas of `DataParallel` lack
    frozen_output = frozen_output.to(model.layernorm.weight.dtype)
    if config.pooling_type == "grid":
        return BaseModelOutputWithPooling(pooler_output=frozen_output)
    if frozen_output.ndim != 4 or frozen_output.shape[1] > 2 or frozen_output.shape[3] != config.hidden_size:
        raise ValueError(
            f"`frozen_output` must be (batch, 1 or 2, tokens, {config.hidden_size}), as `encode_frozen` gives it, got "
            f"{tuple(frozen_output.shape)}."
        )
    layout = config.token_layout()
    num_tokens = layout.pool(config.joint_pooling).num_tokens
    # attention pooling needs no layout, so that it takes any number of tokens
    if config.pooling_type != "attention" and frozen_output.shape[2] != num_tokens:
        raise ValueError(
            f"`frozen_output` has {frozen_output.shape[2]} tokens, and a clip of the config's own size, "
            f"{'x'.join(map(str, config.native_size))}, {num_tokens}: `pooling_type` {config.pooling_type!r} needs "
            "the order of the tokens, which is known for that size only."
        )
    encoded = Encoded(frozen_output[:, 0], frozen_output[:, -1], {})
    encoded = model.joint_stage(model.layers, encoded, None, range(before, len(model.layers)), **kwargs)
    return model.finish(encoded, layout, None, **kwargs)
