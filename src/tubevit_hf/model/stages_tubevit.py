# SPDX-License-Identifier: Apache-2.0
"""How tokens run through the layers: two stages without parameters, to which the model hands its layers.

A model without a `joint_layer` has the second stage only: all tokens attend to each other in every layer.
"""

from itertools import islice
from typing import NamedTuple

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .attention_tubevit import make_mask
from .configuration_tubevit import TubeViTConfig
from .moments_tubevit import TokenLayout, pool_moments, time_positions
from .store_tubevit import Store


class Encoded(NamedTuple):
    """Tokens on their way: `(batch, tokens, hidden_size)` each."""

    hidden_states: torch.Tensor
    # z0, which a gate adds (Eq. 8), in the same order
    embedding_output: torch.Tensor
    # states after the layers that the pooling reads, by the number of layers
    read: dict[int, torch.Tensor]

    @classmethod
    def start(cls, tokens: torch.Tensor, config: TubeViTConfig) -> "Encoded":
        """Tokens that no layer has seen."""
        return cls(tokens, tokens, {0: tokens} if 0 in config.layers_read else {})

    def split(self, lengths: list[int]) -> "list[Encoded]":
        """Splits a row of packed clips by their numbers of tokens."""
        parts = [
            part.split(lengths, dim=1) for part in (self.hidden_states, self.embedding_output, *self.read.values())
        ]
        return [Encoded(hidden, embedded, dict(zip(self.read, read))) for hidden, embedded, *read in zip(*parts)]


def run_layers(
    layers: nn.ModuleList,
    encoded: Encoded,
    numbers: range,
    config: TubeViTConfig,
    attention_mask: torch.Tensor | None = None,
    moments: tuple[int, int] | None = None,
    **kwargs: Unpack[TransformersKwargs],
) -> Encoded:
    """Runs the layers of these numbers one after another.

    Args:
        layers: all layers of the model.
        encoded: states that enter the first of `numbers`.
        moments: number of moments, and tokens of each, where tokens attend to those of their moment only.
    """
    hidden_states, embedding_output, read = encoded
    read, wanted, freeze_before = dict(read), config.layers_read, config.freeze_before
    for number, layer in zip(numbers, islice(layers, numbers.start, None)):
        if number == freeze_before and layer.gradient_checkpointing and not hidden_states.requires_grad:
            # re-entrant checkpointing trains a layer only if one of its inputs asks for a gradient
            hidden_states = hidden_states.detach().requires_grad_()
        hidden_states = layer(hidden_states, embedding_output, attention_mask, moments, **kwargs)
        if number + 1 in wanted:
            read[number + 1] = hidden_states
    return Encoded(hidden_states, embedding_output, read)


class MomentStage:
    """The layers before `joint_layer`: tokens attend to those of their moment, as if each frame were an image."""

    def __init__(self, config: TubeViTConfig):
        self.config = config
        self.store = Store(config)

    def __call__(
        self,
        layers: nn.ModuleList,
        tokens: torch.Tensor,
        layout: TokenLayout,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Encoded:
        """Encodes each moment of the embeddings' output by itself; leaves out tubes that come in later."""
        encoded = Encoded.start(tokens[:, : layout.num_moment_tokens], self.config)
        moments = (layout.num_moments, layout.tokens_per_moment)
        return run_layers(layers, encoded, range(self.config.joint_layer), self.config, None, moments, **kwargs)

    def join(self, encoded: Encoded, later: torch.Tensor, layout: TokenLayout) -> Encoded:
        """Puts the moments and the tubes over several frames together, for the joint layers.

        Args:
            encoded: moments, as from a call.
            later: embeddings of the tubes over several frames, `(batch, tokens, hidden_size)`.
            layout: of the clip in the embeddings.
        """
        hidden_states, embedding_output = (
            torch.cat([pool_moments(states, layout, self.config.joint_pooling), later], dim=1)
            for states in (encoded.hidden_states, encoded.embedding_output)
        )
        if layout.num_moments > 1:
            hidden_states = hidden_states + self.time_positions(hidden_states, layout)
        return encoded._replace(hidden_states=hidden_states, embedding_output=embedding_output)

    def time_positions(self, states: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """Positions in time of joined moments: `(1, tokens, hidden_size)`."""
        joined = layout.pool(self.config.joint_pooling)
        tube = next(tube for tube in self.config.resolved_tubes if tube.sees_one_frame)
        return self.store.get_tensor(joined, lambda: time_positions(tube, joined, states), states)


class JointStage:
    """The layers from `joint_layer` on: all tokens attend to each other."""

    def __init__(self, config: TubeViTConfig):
        self.config = config

    def __call__(
        self,
        layers: nn.ModuleList,
        encoded: Encoded,
        token_mask: torch.Tensor | None = None,
        start: int | None = None,
        stop: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Encoded:
        """Runs the layers from `start` to before `stop`, by default all from `joint_layer` on.

        Args:
            token_mask: `(batch, tokens)`, bool, or a mask as the attention takes it.
        """
        numbers = range(
            self.config.joint_layer if start is None else start,
            len(layers) if stop is None else stop,
        )
        attention_mask = make_mask(self.config, encoded.hidden_states, token_mask) if numbers else None
        return run_layers(layers, encoded, numbers, self.config, attention_mask, **kwargs)
