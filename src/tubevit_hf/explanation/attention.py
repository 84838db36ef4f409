# SPDX-License-Identifier: Apache-2.0
"""Where a model attends: its pooling alone, or all layers together. Neither knows of labels."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..model.modeling_tubevit import (
    TubeViTAttention,
    TubeViTAttentionPooler,
    TubeViTLayer,
    TubeViTModel,
    TubeViTMultiHeadAttention,
    TubeViTPreTrainedModel,
    as_video,
)
from ..model.tubes_tubevit import TokenLayout
from .regions import share_out, token_regions


@torch.no_grad()
def pooling_attention(model: TubeViTPreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Attention of the pooling's query, brought back to the pixels.

    A token's weight, averaged over the heads, is shared out evenly over the region that the token sees. CLS and
    register tokens see no region; their share is left out.

    Args:
        model: a TubeViT with attention pooling, with or without a head.
        pixel_values: `(batch, num_frames, channels, height, width)`, or images `(batch, channels, height, width)`.

    Returns:
        `(batch, num_frames, height, width)`; sums to 1 for each clip where there is no CLS or register token.

    Raises:
        ValueError: the model pools otherwise.
    """
    base_model = model.base_model
    if not isinstance(base_model.pooler, TubeViTAttentionPooler):
        raise ValueError(
            f"the model has no attention pooling (`pooling_type` is {model.config.pooling_type!r}), so there is no "
            'attention of it to show: choose the method "gradient" or "rollout".'
        )
    pixel_values = as_video(pixel_values)
    hidden_states = base_model(pixel_values).last_hidden_state
    assert hidden_states is not None
    size = (pixel_values.shape[1], pixel_values.shape[3], pixel_values.shape[4])
    weights = pooler_weights(base_model.pooler, hidden_states)
    return share_out(weights, token_regions(model.config, size), size)


def pooler_weights(pooler: TubeViTAttentionPooler, hidden_states: torch.Tensor) -> torch.Tensor:
    """Weights of the pooling's query: `(batch, tokens, hidden_size) -> (batch, tokens)`."""
    return mean_weights(pooler, pooler.query.expand(len(hidden_states), -1, -1), hidden_states)[:, 0]


def mean_weights(
    attention: TubeViTMultiHeadAttention, queries: torch.Tensor, hidden_states: torch.Tensor
) -> torch.Tensor:
    """Weights of an attention, averaged over its heads, whatever computes it in the model: `(batch, queries,
    hidden_size)`, `(batch, tokens, hidden_size) -> (batch, queries, tokens)`."""
    # (batch, heads, queries or tokens, head_dim)
    query, key = (
        projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2).float()
        for projected in (attention.q_proj(queries), attention.k_proj(hidden_states))
    )
    return (query @ key.transpose(-2, -1) * attention.scaling).softmax(dim=-1).mean(dim=1)


@torch.no_grad()
def attention_rollout(model: TubeViTPreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Attention through all layers (Abnar and Zuidema, 2020), brought back to the pixels.

    What the pooling weighs is followed back to the tubes: through each layer half of it by the residual and half by
    the attention, averaged over the heads. Before a `joint_layer` it stays in its moment. Grid pooling counts each
    patch of the layers that it reads alike, and a gate adds what comes from the tubes past the layers.

    Args:
        model: any TubeViT, with or without a head.
        pixel_values: `(batch, num_frames, channels, height, width)`, or images `(batch, channels, height, width)`.

    Returns:
        `(batch, num_frames, height, width)`; sums to 1 for each clip but for what ends at CLS and register tokens.
    """
    base_model, pixel_values = model.base_model, as_video(pixel_values)
    config, layout = model.config, base_model.embeddings.layout(pixel_values)
    layers = list_layers(base_model)
    with recorded_attention(layers) as recorded:
        hidden_states = base_model(pixel_values).last_hidden_state
    assert hidden_states is not None
    weights, of_layers = start_weights(base_model, hidden_states, layout)
    # what has come to the tokens of the embeddings already: by a gate, or as they come in at the joint layer
    arrived = torch.zeros(len(weights), layout.num_tokens, device=weights.device)
    for number in range(config.num_hidden_layers, -1, -1):
        if number == config.joint_layer > 0:
            separated = separate(base_model, weights, layout)
            weights = separated[:, : layout.num_moment_tokens]
            arrived[:, layout.num_moment_tokens :] += separated[:, layout.num_moment_tokens :]
        if number in of_layers:
            weights = weights + of_layers[number]
        if number == 0:
            break
        gate = layers[number - 1].gate
        if gate is not None:
            strength = gate.tanh().abs().float()
            weights, by_gate = weights / (1 + strength), weights * strength / (1 + strength)
            if number > config.joint_layer:
                by_gate = separate(base_model, by_gate, layout)
            arrived[:, : by_gate.shape[1]] += by_gate
        weights = (weights + through(*recorded[number - 1], weights)) / 2
    arrived[:, : weights.shape[1]] += weights
    size = (pixel_values.shape[1], pixel_values.shape[3], pixel_values.shape[4])
    return share_out(arrived, token_regions(config, size, joined=False), size)


# an attention, its normed input, and over which moments it runs
Recorded = tuple[TubeViTAttention, torch.Tensor, tuple[int, int]]


def list_layers(base_model: TubeViTModel) -> list[TubeViTLayer]:
    return [layer for layer in base_model.layers if isinstance(layer, TubeViTLayer)]


@contextmanager
def recorded_attention(layers: Sequence[TubeViTLayer]) -> Generator[list[Recorded], None, None]:
    """What enters the attention of each layer, as they run."""
    recorded: list[Recorded] = []

    def record(attention: TubeViTAttention, arguments: tuple[Any, ...]) -> None:
        states, _, moments = arguments
        recorded.append((attention, states, moments))

    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.attention.register_forward_pre_hook(record)
            hooks.callback(hook.remove)
        yield recorded


def start_weights(
    base_model: TubeViTModel, hidden_states: torch.Tensor, layout: TokenLayout
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """How the pooling weighs the tokens at the end, `(batch, tokens)`, and for a grid pooling those that enter each of
    the layers that it reads, by their number."""
    batch_size, num_tokens = hidden_states.shape[:2]
    joined = layout.pool(base_model.config.joint_pooling)
    if isinstance(base_model.pooler, TubeViTAttentionPooler):
        return pooler_weights(base_model.pooler, hidden_states), {}
    if base_model.pooler is None:
        alone = torch.eye(num_tokens, device=hidden_states.device)[None]
        return base_model.pool(alone, joined, None).expand(batch_size, -1), {}
    of_layers = {}
    for number in base_model.config.layers_read:
        read = joined if number > base_model.config.joint_layer else layout
        in_moment = torch.ones(read.tokens_per_moment, device=hidden_states.device)
        in_moment[: read.num_prefix_tokens] = 0
        alike = in_moment.repeat(read.num_moments) / (read.num_moments * in_moment.sum())
        of_layers[number] = nn.functional.pad(
            alike, (0, read.num_tokens - read.num_moment_tokens if number > base_model.config.joint_layer else 0)
        ).expand(batch_size, -1) / len(base_model.config.layers_read)
    return torch.zeros(batch_size, num_tokens, device=hidden_states.device), of_layers


def separate(base_model: TubeViTModel, weights: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """From tokens that were joined at the joint layer to those of the embeddings, whose averages they are."""
    alone = torch.eye(layout.num_moment_tokens, device=weights.device)[None]
    averages = base_model.join(alone, layout)[0]  # (tokens of moments, joined or not)
    of_moments, later = weights.split([len(averages), weights.shape[1] - len(averages)], dim=1)
    return torch.cat([of_moments @ averages, later], dim=1)


def through(
    attention: TubeViTAttention, states: torch.Tensor, moments: tuple[int, int], weights: torch.Tensor
) -> torch.Tensor:
    """From what an attention gives to what it takes: `(batch, tokens) -> (batch, tokens)`."""
    states, queries = (part.unflatten(1, moments).flatten(0, 1) for part in (states, weights))
    taken = queries[:, None] @ mean_weights(attention, states, states)
    return taken[:, 0].unflatten(0, (len(weights), -1)).flatten(1)
