# SPDX-License-Identifier: Apache-2.0
"""How each library names the parameters of its ViTs: one small key map a family.

A map takes regular expressions of source keys to common names, which are TubeViT's own except for these:

| name | what |
|---|---|
| `patch.weight`, `patch.bias` | patch embedding, `(hidden_size, channels, h, w)` and `(hidden_size)` |
| `positions` | position table `([1,] rows, hidden_size)`; rows of prefix tokens come first if there are any |
| `cls_token`, `dist_token`, `register_tokens` | prefix tokens `([..., ]n, hidden_size)`, without their positions |
| `pre_layernorm.*` | norm before the encoder |
| `layers.{i}.attention.qkv.*` | queries, keys and values in one, `(3 * hidden_size, ...)` |

What a map drops it names with the reason; what it refuses cannot be expressed. Any other key is an error.
"""

from dataclasses import dataclass, field
from typing import Literal


OWN_POOLING = "the source's own pooling; TubeViT has another"
PRETRAINING = "needed in pre-training only"


@dataclass(frozen=True)
class Family:
    """A family of image ViTs.

    Args:
        name: what the report calls it.
        keys: regular expression of a whole source key -> common name, with its groups.
        dropped: regular expression -> why the key is not needed.
        refused: regular expression -> why such a model cannot become a TubeViT.
        other_heads: regular expressions of a head that is more than a linear layer on TubeViT's pooled token, with the
            reason. It can be left behind, but not taken along.
        position_resize: how the family resizes its position table, see `TubeViTConfig.position_embedding_resize`.
    """

    name: str
    keys: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    other_heads: dict[str, str] = field(default_factory=dict)
    position_resize: Literal["bicubic", "bicubic_antialias", "bicubic_corners", "bilinear_corners"] = "bicubic"


# ViT of transformers v5, and the families that share its names
_VIT_KEYS = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.distillation_token": "dist_token",
    r"embeddings\.position_embeddings": "positions",
    r"embeddings\.patch_embeddings\.projection\.(weight|bias)": r"patch.\1",
    r"layers\.(\d+)\.(attention\.[qkvo]_proj|layernorm_before|layernorm_after|mlp\.fc[12])\.(weight|bias)": (
        r"layers.\1.\2.\3"
    ),
    r"layernorm\.(weight|bias)": r"layernorm.\1",
    r"classifier\.(weight|bias)": r"classifier.\1",
}
_DINOV2_KEYS = {
    r"embeddings\.(cls_token|register_tokens)": r"\1",
    r"embeddings\.position_embeddings": "positions",
    r"embeddings\.patch_embeddings\.projection\.(weight|bias)": r"patch.\1",
    r"encoder\.layer\.(\d+)\.norm1\.(weight|bias)": r"layers.\1.layernorm_before.\2",
    r"encoder\.layer\.(\d+)\.norm2\.(weight|bias)": r"layers.\1.layernorm_after.\2",
    r"encoder\.layer\.(\d+)\.(attention\.[qkvo]_proj|mlp\.fc[12])\.(weight|bias)": r"layers.\1.\2.\3",
    r"encoder\.layer\.(\d+)\.(layer_scale[12]\.lambda1)": r"layers.\1.\2",
    r"layernorm\.(weight|bias)": r"layernorm.\1",
}
_DINOV2_REST = {
    "dropped": {r"embeddings\.mask_token": PRETRAINING},
    "refused": {r"encoder\.layer\.\d+\.mlp\.(?!fc[12]\.).*": "its MLP is a SwiGLU, TubeViT's a plain one"},
    "other_heads": {r"classifier\..*": "it reads the CLS token and the mean of the patches side by side"},
}
_CLIP_KEYS = {
    r"embeddings\.class_embedding": "cls_token",
    r"embeddings\.position_embedding\.weight": "positions",
    r"embeddings\.patch_embedding\.(weight|bias)": r"patch.\1",
    r"pre_layrnorm\.(weight|bias)": r"pre_layernorm.\1",
    r"encoder\.layers\.(\d+)\.self_attn\.([qkv]_proj)\.(weight|bias)": r"layers.\1.attention.\2.\3",
    r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)": r"layers.\1.attention.o_proj.\2",
    r"encoder\.layers\.(\d+)\.layer_norm1\.(weight|bias)": r"layers.\1.layernorm_before.\2",
    r"encoder\.layers\.(\d+)\.layer_norm2\.(weight|bias)": r"layers.\1.layernorm_after.\2",
    r"encoder\.layers\.(\d+)\.(mlp\.fc[12])\.(weight|bias)": r"layers.\1.\2.\3",
    r"post_layernorm\.(weight|bias)": r"layernorm.\1",
}

# by `model_type` of a transformers config
TRANSFORMERS = {
    "vit": Family("ViT", _VIT_KEYS, dropped={r"pooler\..*": OWN_POOLING, r"embeddings\.mask_token": PRETRAINING}),
    "deit": Family(
        "DeiT",
        _VIT_KEYS,
        dropped={r"pooler\..*": OWN_POOLING, r"embeddings\.mask_token": PRETRAINING},
        other_heads={
            r"(cls|distillation)_classifier\..*": "it averages two heads, on the CLS and the distillation token"
        },
    ),
    "vit_mae": Family("ViT-MAE", _VIT_KEYS, dropped={r"(decoder|mask_token).*": PRETRAINING}),
    "dinov2": Family("DINOv2", _DINOV2_KEYS, **_DINOV2_REST),
    "dinov2_with_registers": Family(
        "DINOv2 with registers", _DINOV2_KEYS, **_DINOV2_REST, position_resize="bicubic_antialias"
    ),
    "clip_vision_model": Family("CLIP vision", _CLIP_KEYS, dropped={r"visual_projection\..*": OWN_POOLING}),
    "siglip_vision_model": Family("SigLIP vision", _CLIP_KEYS, dropped={r"head\..*": OWN_POOLING}),
}

TIMM = Family(
    "timm",
    {
        r"cls_token": "cls_token",
        r"dist_token": "dist_token",
        r"reg_token": "register_tokens",
        r"pos_embed": "positions",
        r"patch_embed\.proj\.(weight|bias)": r"patch.\1",
        r"norm_pre\.(weight|bias)": r"pre_layernorm.\1",
        r"blocks\.(\d+)\.norm1\.(weight|bias)": r"layers.\1.layernorm_before.\2",
        r"blocks\.(\d+)\.norm2\.(weight|bias)": r"layers.\1.layernorm_after.\2",
        r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)": r"layers.\1.attention.qkv.\2",
        r"blocks\.(\d+)\.attn\.proj\.(weight|bias)": r"layers.\1.attention.o_proj.\2",
        r"blocks\.(\d+)\.ls([12])\.gamma": r"layers.\1.layer_scale\2.lambda1",
        r"blocks\.(\d+)\.(mlp\.fc[12])\.(weight|bias)": r"layers.\1.\2.\3",
        r"norm\.(weight|bias)": r"layernorm.\1",
        r"head\.(weight|bias)": r"classifier.\1",
    },
    dropped={r"attn_pool\..*": OWN_POOLING},
    refused={
        r"blocks\.\d+\.attn\.[qk]_norm\..*": "its attention normalises queries and keys",
        r"blocks\.\d+\.mlp\.(norm|fc1_g|fc1_x|w12).*": "its MLP is gated or normalised, TubeViT's a plain one",
        r"fc_norm\..*": "it normalises after averaging the tokens, TubeViT before",
    },
    other_heads={r"head_dist\..*": "it averages two heads, on the CLS and the distillation token"},
    position_resize="bicubic_antialias",
)

TORCHVISION = Family(
    "torchvision",
    {
        r"class_token": "cls_token",
        r"encoder\.pos_embedding": "positions",
        r"conv_proj\.(weight|bias)": r"patch.\1",
        r"encoder\.layers\.encoder_layer_(\d+)\.ln_1\.(weight|bias)": r"layers.\1.layernorm_before.\2",
        r"encoder\.layers\.encoder_layer_(\d+)\.ln_2\.(weight|bias)": r"layers.\1.layernorm_after.\2",
        r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(weight|bias)": r"layers.\1.attention.qkv.\2",
        r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(weight|bias)": (
            r"layers.\1.attention.o_proj.\2"
        ),
        # files written before torchvision 0.13 say linear_1 and linear_2
        r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(weight|bias)": r"layers.\1.mlp.fc1.\2",
        r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(weight|bias)": r"layers.\1.mlp.fc2.\2",
        r"encoder\.ln\.(weight|bias)": r"layernorm.\1",
        r"heads\.head\.(weight|bias)": r"classifier.\1",
    },
    refused={r"conv_proj\.\d+\..*": "its patches come from several convolutions"},
    other_heads={r"heads\.pre_logits\..*": "it has a hidden layer"},
    # torchvision.models.vision_transformer.interpolate_embeddings
    position_resize="bicubic_corners",
)

# JAX calls a weight `kernel` or `scale`; its arrays are brought to PyTorch's layout by `sources.read_npz`
GOOGLE = Family(
    "Google npz",
    {
        r"cls": "cls_token",
        r"Transformer/posembed_input/pos_embedding": "positions",
        r"embedding/(kernel|scale|bias)": r"patch.\1",
        r"Transformer/encoderblock_(\d+)/LayerNorm_0/(kernel|scale|bias)": r"layers.\1.layernorm_before.\2",
        r"Transformer/encoderblock_(\d+)/LayerNorm_2/(kernel|scale|bias)": r"layers.\1.layernorm_after.\2",
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/query/(kernel|scale|bias)": (
            r"layers.\1.attention.q_proj.\2"
        ),
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/key/(kernel|scale|bias)": (
            r"layers.\1.attention.k_proj.\2"
        ),
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/value/(kernel|scale|bias)": (
            r"layers.\1.attention.v_proj.\2"
        ),
        r"Transformer/encoderblock_(\d+)/MultiHeadDotProductAttention_1/out/(kernel|scale|bias)": (
            r"layers.\1.attention.o_proj.\2"
        ),
        r"Transformer/encoderblock_(\d+)/MlpBlock_3/Dense_0/(kernel|scale|bias)": r"layers.\1.mlp.fc1.\2",
        r"Transformer/encoderblock_(\d+)/MlpBlock_3/Dense_1/(kernel|scale|bias)": r"layers.\1.mlp.fc2.\2",
        r"Transformer/encoder_norm/(kernel|scale|bias)": r"layernorm.\1",
        r"head/(kernel|scale|bias)": r"classifier.\1",
    },
    refused={r"conv_root/.*|block\d+/.*": "it is a hybrid whose patches come from a ResNet"},
    other_heads={r"pre_logits/.*": "it has a hidden layer"},
    # the authors' `scipy.ndimage.zoom(..., order=1)`
    position_resize="bilinear_corners",
)
