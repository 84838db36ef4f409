# SPDX-License-Identifier: Apache-2.0
"""transformers' shared tests of a configuration."""

import unittest

import pytest

from tubevit_hf import TubeViTConfig

from ..support.transformers_mixins import ConfigTester


# Some keys left out: what goes in must come out
TUBES = [
    {"kernel_size": [2, 8, 6], "stride": [4, 16, 12], "space_to_depth": [2, 1, 1]},
    {"kernel_size": [1, 8, 10], "stride": [5, 8, 10], "out_channels": 36},
]
SETTINGS = {
    "defaults": {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3},
    "all_options": {
        "hidden_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 41,
        "hidden_act": "quick_gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.2,
        "initializer_range": 0.03,
        "layer_norm_eps": 1e-5,
        "qkv_bias": False,
        "image_size": [40, 52],
        "num_frames": 7,
        "num_channels": 2,
        "use_cls_token": True,
        "num_register_tokens": 3,
        "use_layer_scale": True,
        "use_pre_layernorm": True,
        "pooling_type": "cls",
        "gate_layer": 1,
        "freeze_before": 1,
        "joint_layer": 1,
        "joint_pooling": [2, 1],
        "pooling_grid": [3, 2, 1],
        "pooling_layers": [1, 2],
        "pooling_statistics": ["changes", "signed"],
        "tubes": TUBES,
        "tube_kernels": "interpolated",
        "base_kernel_size": [3, 5, 4],
        "position_embedding_type": "pretrained",
        "position_embedding_scale": 0.2,
        "position_embedding_resize": "bilinear_corners",
        "recompute_activation": True,
        "heads": {"clips": {"labels": ["run", "fall"], "problem_type": "multi_label_classification"}},
    },
    "pretraining": {"pretraining": {"target": "pixels", "pixel_size": [3, 4, 5], "layers": [7], "decoder_layers": 2}},
}


def test_all_options_are_covered():
    fields = {name for name in TubeViTConfig.__annotations__ if name != "model_type"}
    # which goes without a `joint_layer` only
    assert set(SETTINGS["all_options"]) | set(SETTINGS["pretraining"]) == fields
    defaults = TubeViTConfig().to_dict()
    assert not [name for name, value in SETTINGS["all_options"].items() if value == defaults[name]]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_config(settings):
    ConfigTester(
        unittest.TestCase(), config_class=TubeViTConfig, has_text_modality=False, **settings
    ).run_common_tests()
