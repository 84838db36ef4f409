# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention, shared by the layers and the attention pooling, on transformers' attention interface."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_tubevit import TubeViTConfig


# a tuple has the weights of each packed clip
AttentionWeights = torch.Tensor | tuple[torch.Tensor, ...] | None


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
    """Attention that returns its weights, in plain PyTorch.

    Queries `(batch, heads, queries, head_dim)`, keys and values `(batch, heads, tokens, head_dim) -> (batch, queries,
    heads, head_dim)` and weights `(batch, heads, queries, tokens)`.
    """
    attn_weights = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    exact = torch.promote_types(query.dtype, torch.float32)
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=exact).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    attn_output = (attn_weights @ value).transpose(1, 2).contiguous()
    return attn_output, attn_weights


def make_mask(
    config: TubeViTConfig,
    queries: torch.Tensor,
    token_mask: torch.Tensor | None,
    hidden_states: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Makes the mask of an attention, in the form that its kind takes.

    Args:
        queries: `(batch, queries, hidden_size)`.
        token_mask: `(batch, tokens)`, bool, or a mask that has its form.
        hidden_states: keys and values, `(batch, tokens, hidden_size)`; by default the queries.
    """
    # before version 2.14 PyTorch has transformers make one of nothing but True in compiled graphs, which no fused
    # kernel of a GPU takes. Kinds of attention that users register may have a mask of their own
    if token_mask is None and config._attn_implementation in ("eager", "sdpa"):
        return None
    return create_bidirectional_mask(
        config=config, inputs_embeds=queries, attention_mask=token_mask, encoder_hidden_states=hidden_states
    )


class TubeViTMultiHeadAttention(nn.Module):
    """Multi-head attention of queries over keys and values.

    `(batch, queries, hidden_size)`, `(batch, tokens, hidden_size) -> (batch, queries, hidden_size)` and weights.
    """

    def __init__(self, config: TubeViTConfig):
        super().__init__()
        self.config = config
        # read once: each attribute of a config takes the host some time
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.num_heads
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
        """Attends over all tokens; with `clip_tokens`, the number of tokens of each packed clip, over each clip alone.

        Args:
            queries: `(batch, queries, hidden_size)`.
            hidden_states: keys and values, `(batch, tokens, hidden_size)`.
        """
        # (batch, queries or tokens, hidden_size) -> (batch, heads, queries or tokens, head_dim)
        of_queries = (*queries.shape[:2], self.num_heads, self.head_dim)
        of_tokens = (*hidden_states.shape[:2], self.num_heads, self.head_dim)
        query = self.q_proj(queries).view(of_queries).transpose(1, 2)
        key = self.k_proj(hidden_states).view(of_tokens).transpose(1, 2)
        value = self.v_proj(hidden_states).view(of_tokens).transpose(1, 2)
        attention: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            # pyrefly: ignore[bad-argument-type]  it takes None, which a module without a model has
            self.config._attn_implementation,
            eager_attention_forward,
        )
        settings = {"dropout": self.attention_dropout if self.training else 0.0, "scaling": self.scaling, **kwargs}
        attn_weights: AttentionWeights
        if clip_tokens is None:
            attn_output, attn_weights = attention(self, query, key, value, attention_mask, **settings)
        else:
            # clip by clip: with a mask over the row, the pairs that it hides would be computed too
            of_clips = zip(*(states.split(list(clip_tokens), dim=2) for states in (query, key, value)))
            outputs, weights = zip(*(attention(self, *of_clip, None, **settings) for of_clip in of_clips))
            attn_output, attn_weights = torch.cat(outputs, dim=1), None if weights[0] is None else weights
        # (batch, queries, heads, head_dim) -> (batch, queries, hidden_size)
        return self.o_proj(attn_output.flatten(-2)), attn_weights
