# SPDX-License-Identifier: Apache-2.0
"""The two stages of the encoder. They have no parameters: the model passes its layers to them.

`MomentStage` runs the layers before `joint_layer`, `JointStage` the layers from there on. A model without a
`joint_layer` has the second only, in which all tokens attend to each other.
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention_tubevit import make_mask
from .configuration_tubevit import TubeViTConfig
from .moments_tubevit import TokenLayout, find_moment_tube, pool_moments, time_positions
from .store_tubevit import Store


class Encoded(NamedTuple):
    """The state of the encoder between two layers. Each tensor is `(batch, tokens, hidden_size)`."""

    hidden_states: torch.Tensor
    # z0, which a gate adds (Eq. 8), in the order of `hidden_states`
    embedding_output: torch.Tensor
    # hidden states that the grid pooling reads; key 6 holds those after the first six layers
    layer_states: dict[int, torch.Tensor]

    @classmethod
    def start(cls, tokens: torch.Tensor, config: TubeViTConfig) -> "Encoded":
        """Returns the state before the first layer."""
        return cls(tokens, tokens, {0: tokens} if 0 in config.layers_read else {})

    @classmethod
    def pack(cls, clips: "Sequence[Encoded]") -> "Encoded":
        """Concatenates clips of batch 1 to one row, without their `layer_states`."""
        hidden_states = torch.cat([clip.hidden_states for clip in clips], dim=1)
        embedding_output = torch.cat([clip.embedding_output for clip in clips], dim=1)
        return cls(hidden_states, embedding_output, {})

    def unpack(self, clips: "Sequence[Encoded]") -> "list[Encoded]":
        """Splits a row of these clips; each gets its own earlier `layer_states` and those of the row."""
        lengths = [clip.hidden_states.shape[1] for clip in clips]
        hidden_states = self.hidden_states.split(lengths, dim=1)
        embedding_output = self.embedding_output.split(lengths, dim=1)
        layer_states = {number: states.split(lengths, dim=1) for number, states in self.layer_states.items()}
        return [
            Encoded(
                hidden_states[index],
                embedding_output[index],
                clip.layer_states | {number: states[index] for number, states in layer_states.items()},
            )
            for index, clip in enumerate(clips)
        ]


def run_layers(
    layers: nn.ModuleList,
    encoded: Encoded,
    indices: range,
    config: TubeViTConfig,
    attention_mask: torch.Tensor | None = None,
    moments: tuple[int, int] | None = None,
    **kwargs: Unpack[TransformersKwargs],
) -> Encoded:
    """Runs some of the model's layers, one after another.

    Args:
        layers: all layers of the model.
        encoded: the input of the first layer that runs.
        indices: 0-based indices of the layers that run.
        attention_mask: a mask in the form that the attention implementation takes.
        moments: `(num_moments, tokens_per_moment)` if each token attends to the tokens of its moment only.
    """
    hidden_states, embedding_output, layer_states = encoded
    layer_states, layers_read, freeze_before = dict(layer_states), config.layers_read, config.freeze_before
    for index, layer in zip(indices, islice(layers, indices.start, None)):
        if index == freeze_before and layer.gradient_checkpointing and not hidden_states.requires_grad:
            # re-entrant checkpointing trains a layer only if one of its inputs requires a gradient
            hidden_states = hidden_states.detach().requires_grad_()
        hidden_states = layer(hidden_states, embedding_output, attention_mask, moments, **kwargs)
        if index + 1 in layers_read:
            layer_states[index + 1] = hidden_states
    return Encoded(hidden_states, embedding_output, layer_states)


class MomentStage:
    """Runs the layers before `joint_layer`: each token attends to the tokens of its moment, as in an image."""

    def __init__(self, config: TubeViTConfig, store: Store):
        self.config = config
        # fixed when the model is built, as the tubes of the embeddings are
        self.tubes = config.resolved_tubes
        # the embeddings' cache, which is emptied with them
        self.store = store

    def __call__(
        self,
        layers: nn.ModuleList,
        tokens: torch.Tensor,
        layout: TokenLayout,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Encoded:
        """Encodes each moment alone.

        Args:
            tokens: the embeddings' output, `(batch, tokens, hidden_size)`; the later tubes are not used.
            layout: the layout of `tokens`.

        Returns:
            States of the moments, `(batch, tokens of moments, hidden_size)`.
        """
        encoded = Encoded.start(tokens[:, : layout.num_moment_tokens], self.config)
        moments = (layout.num_moments, layout.tokens_per_moment)
        return run_layers(layers, encoded, range(self.config.joint_layer), self.config, None, moments, **kwargs)

    def join(self, encoded: Encoded, later: torch.Tensor, layout: TokenLayout) -> Encoded:
        """Makes the input of the joint layers: pools the moments, adds their times, and appends the later tubes.

        Args:
            encoded: states of the moments, as a call returns them.
            later: embeddings of the later tubes, `(batch, tokens, hidden_size)`.
            layout: the layout of the clip in the embeddings.
        """
        hidden_states, embedding_output = (
            torch.cat([pool_moments(states, layout, self.config.joint_pooling), later], dim=1)
            for states in (encoded.hidden_states, encoded.embedding_output)
        )
        if layout.num_moments > 1:
            joined, like = layout.pool(self.config.joint_pooling), hidden_states
            hidden_states = hidden_states + self.store.get_tensor(
                joined, lambda: time_positions(find_moment_tube(self.tubes), joined, like), like
            )
        return encoded._replace(hidden_states=hidden_states, embedding_output=embedding_output)


class JointStage:
    """Runs the layers from `joint_layer` on, in which all tokens attend to each other."""

    def __init__(self, config: TubeViTConfig):
        self.config = config

    def __call__(
        self,
        layers: nn.ModuleList,
        encoded: Encoded,
        token_mask: torch.Tensor | None = None,
        indices: range | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Encoded:
        """Runs these layers.

        Args:
            token_mask: `(batch, tokens)`, bool, or a mask in the form that the attention implementation takes.
            indices: 0-based indices of the layers; by default all from `joint_layer` on.
        """
        if indices is None:
            indices = range(self.config.joint_layer, len(layers))
        attention_mask = make_mask(self.config, encoded.hidden_states, token_mask) if indices else None
        return run_layers(layers, encoded, indices, self.config, attention_mask, None, **kwargs)
