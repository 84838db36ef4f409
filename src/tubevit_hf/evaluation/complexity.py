# SPDX-License-Identifier: Apache-2.0
"""Parameters and floating-point operations of a TubeViT, by part."""

from math import prod

import torch

from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForVideoClassification


PARTS = ("encoder", "tubes", "pooling", "head")


def count_parameters(config: TubeViTConfig) -> dict[str, int]:
    """Parameters of a classifier with this configuration, by part.

    `"encoder"`: the layers and the final norm; `"tubes"`: kernels with all else that the embeddings hold; `"pooling"`;
    `"head"`. Nothing is allocated.
    """
    with torch.device("meta"):
        model = TubeViTForVideoClassification(config)
    parts = {
        "encoder": (model.tubevit.layers, model.tubevit.layernorm),
        "tubes": (model.tubevit.embeddings,),
        "pooling": (model.tubevit.pooler,),
        "head": (model.classifier,),
    }
    return {part: sum(p.numel() for module in parts[part] for p in module.parameters()) for part in PARTS}


def count_flops(config: TubeViTConfig, size: tuple[int, int, int] | None = None) -> dict[str, int]:
    """Floating-point operations of one clip's forward pass, by part: its matrix products, a multiply-add as two.

    Args:
        config: the configuration.
        size: `(num_frames, height, width)` of the clip; the config's native one by default.
    """
    size = config.native_size if size is None else size
    width = config.hidden_size
    tubes = sum(
        prod(grid) * prod(tube.space_to_depth) * tube.out_channels * config.num_channels * prod(tube.kernel_size)
        for tube, grid in zip(config.resolved_tubes, config.token_grids(*size))
    )
    layout = config.token_layout(*size)
    by_themselves = layout.num_moments * count_layer(config, layout.tokens_per_moment)
    num_tokens = layout.pool(config.joint_pooling).num_tokens
    together = count_layer(config, num_tokens)
    pooling = 0
    if config.pooling_type == "attention":
        # keys and values of all tokens, query and output of one
        pooling = 2 * (num_tokens + 1) * width**2 + 2 * num_tokens * width
    multiply_adds = {
        "encoder": config.joint_layer * by_themselves + (config.num_hidden_layers - config.joint_layer) * together,
        "tubes": tubes,
        "pooling": pooling,
        "head": config.pooled_size * config.num_labels,
    }
    return {part: 2 * multiply_adds[part] for part in PARTS}


def count_layer(config: TubeViTConfig, num_tokens: int) -> int:
    """Multiply-adds of a layer whose tokens all attend to each other."""
    projections = num_tokens * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    return projections + 2 * num_tokens**2 * config.hidden_size
