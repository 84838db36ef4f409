# SPDX-License-Identifier: Apache-2.0
"""Where a model attends: its pooling alone, or all layers together. Neither knows of labels.

Queries, keys and gates are taken from a forward pass while its modules run. Whatever wraps or replaces a module (PEFT,
`torch.compile`, quantization) is seen as it computes, and weights may be offloaded.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from ..model.modeling_tubevit import TubeViTModel, TubeViTPreTrainedModel, as_video
from ..model.moments_tubevit import TokenLayout, pool_moments
from .regions import share_out, token_regions
from .scores import find_tubevit


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
    model = find_tubevit(model)
    if model.config.pooling_type != "attention":
        raise ValueError(
            f"the model has no attention pooling (`pooling_type` is {model.config.pooling_type!r}), so there is no "
            'attention of it to show: choose the method "gradient" or "rollout".'
        )
    pixel_values = as_video(pixel_values)
    size = (pixel_values.shape[1], pixel_values.shape[3], pixel_values.shape[4])
    return share_out(pooling_weights(model, pixel_values), token_regions(model.config, size), size)


@torch.no_grad()
def pooling_weights(model: TubeViTPreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Weights of the pooling's query, averaged over its heads: `(batch, num_frames, channels, height, width)` to
    `(batch, tokens)`."""
    base_model = model.base_model
    with recorded_attention(base_model) as recorded:
        base_model(pixel_values)
    return mean_weights(recorded.pooler, model.config.num_attention_heads)[:, 0]


@dataclass
class Projected:
    """Queries `(batch, queries, hidden_size)` and keys `(batch, tokens, hidden_size)` of an attention; before a
    `joint_layer` of each moment by itself, `(batch * num_moments, tokens, hidden_size)`."""

    query: torch.Tensor = field(init=False)
    key: torch.Tensor = field(init=False)


def mean_weights(projected: Projected, num_heads: int) -> torch.Tensor:
    """Weights of an attention, averaged over its heads, whatever computes it in the model: `(batch, queries,
    tokens)`."""
    # (batch, heads, queries or tokens, head_dim)
    query, key = (
        states.unflatten(-1, (num_heads, -1)).transpose(1, 2).float() for states in (projected.query, projected.key)
    )
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)


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
    base_model, pixel_values = find_tubevit(model).base_model, as_video(pixel_values)
    config, layout = base_model.config, base_model.embeddings.layout(pixel_values)
    with recorded_attention(base_model) as recorded:
        hidden_states = base_model(pixel_values).last_hidden_state
    assert hidden_states is not None
    weights, of_layers = start_weights(base_model, recorded, hidden_states, layout)
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
        if number - 1 == config.gate_layer:
            strength = recorded.gate.tanh().abs().float()
            weights, by_gate = weights / (1 + strength), weights * strength / (1 + strength)
            if number > config.joint_layer:
                by_gate = separate(base_model, by_gate, layout)
            arrived[:, : by_gate.shape[1]] += by_gate
        of_attention = mean_weights(recorded.layers[number - 1], config.num_attention_heads)
        weights = (weights + through(of_attention, weights)) / 2
    arrived[:, : weights.shape[1]] += weights
    size = (pixel_values.shape[1], pixel_values.shape[3], pixel_values.shape[4])
    return share_out(arrived, token_regions(config, size, joined=False), size)


@dataclass
class Recorded:
    """What is taken from a forward pass: queries and keys of each layer and, of an attention pooling, its own; the
    gate, if there is one."""

    layers: list[Projected]
    pooler: Projected = field(default_factory=Projected)
    gate: torch.Tensor = field(init=False)


@contextmanager
def recorded_attention(base_model: TubeViTModel) -> Generator[Recorded, None, None]:
    """Records the forward pass that is run within."""
    config = base_model.config
    recorded = Recorded([Projected() for _ in base_model.layers])
    # whatever wraps a layer has its attributes
    layers: list[Any] = list(base_model.layers)
    attentions: list[Any] = [layer.attention for layer in layers]
    if config.pooling_type == "attention":
        attentions.append(base_model.pooler)

    def keep(projected: Projected, name: str, _: nn.Module, arguments: Any, output: torch.Tensor) -> None:
        setattr(projected, name, output)

    with ExitStack() as stack:
        # what was compiled before does not call hooks
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for attention, projected in zip(attentions, [*recorded.layers, recorded.pooler]):
            for name, projection in (("query", attention.q_proj), ("key", attention.k_proj)):
                hook = projection.register_forward_hook(partial(keep, projected, name))
                stack.callback(hook.remove)
        if config.gate_layer is not None:
            layer = layers[config.gate_layer]

            def keep_gate(*_: object) -> None:
                # while the layer runs: outside of its call an offloaded gate is not there
                recorded.gate = layer.gate.detach().clone()

            stack.callback(layer.mlp.register_forward_hook(keep_gate).remove)
        yield recorded


def start_weights(
    base_model: TubeViTModel, recorded: Recorded, hidden_states: torch.Tensor, layout: TokenLayout
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """How the pooling weighs the tokens at the end, `(batch, tokens)`, and for a grid pooling those that enter each of
    the layers that it reads, by their number."""
    batch_size, num_tokens = hidden_states.shape[:2]
    config, joined = base_model.config, layout.pool(base_model.config.joint_pooling)
    if config.pooling_type == "attention":
        return mean_weights(recorded.pooler, config.num_attention_heads)[:, 0], {}
    if config.pooling_type != "grid":
        # each token by itself tells its weight
        alone = torch.eye(num_tokens, device=hidden_states.device)[None]
        return base_model.pooler(alone, layout, None, {}).expand(batch_size, -1), {}
    of_layers = {}
    for number in config.layers_read:
        read = joined if number > config.joint_layer else layout
        in_moment = torch.ones(read.tokens_per_moment, device=hidden_states.device)
        in_moment[: read.num_prefix_tokens] = 0
        alike = in_moment.repeat(read.num_moments) / (read.num_moments * in_moment.sum())
        of_layers[number] = nn.functional.pad(
            alike, (0, read.num_tokens - read.num_moment_tokens if number > config.joint_layer else 0)
        ).expand(batch_size, -1) / len(config.layers_read)
    return torch.zeros(batch_size, num_tokens, device=hidden_states.device), of_layers


def separate(base_model: TubeViTModel, weights: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """From tokens that were joined at the joint layer to those of the embeddings, whose averages they are."""
    alone = torch.eye(layout.num_moment_tokens, device=weights.device)[None]
    averages = pool_moments(alone, layout, base_model.config.joint_pooling)[0]  # (tokens of moments, joined or not)
    of_moments, later = weights.split([len(averages), weights.shape[1] - len(averages)], dim=1)
    return torch.cat([of_moments @ averages, later], dim=1)


def through(of_attention: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """From what an attention gives to what it takes: `(batch * num_moments, tokens of a moment, same)`, `(batch,
    tokens) -> (batch, tokens)`."""
    queries = weights.unflatten(1, (-1, of_attention.shape[1])).flatten(0, 1)
    return (queries[:, None] @ of_attention)[:, 0].unflatten(0, (len(weights), -1)).flatten(1)
