# SPDX-License-Identifier: Apache-2.0
"""Attention of the pooling and through all layers, held against the model and loops."""

import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.explanation import pooling_attention
from tubevit_hf.explanation.attention import pooler_weights

from ..support.tiny import randomize, tiny_config


def test_attention_sums_to_one_over_the_tubes():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    attention = pooling_attention(model, torch.randn(2, 7, 3, 40, 56))
    assert attention.shape == (2, 7, 40, 56)
    torch.testing.assert_close(attention.sum(dim=(1, 2, 3)), torch.ones(2))


def test_weights_are_those_of_the_pooler():
    model = randomize(TubeViTModel(tiny_config()))
    hidden_states = torch.randn(2, 11, 24)
    weights = []
    model.set_attn_implementation("eager")
    attend = model.pooler.attend
    model.pooler.attend = lambda *args, **kwargs: weights.append(attend(*args, **kwargs)[1]) or attend(*args, **kwargs)
    model.pooler(hidden_states)
    torch.testing.assert_close(pooler_weights(model.pooler, hidden_states), weights[0].mean(dim=1)[:, 0])


def test_attention_lies_where_its_token_looks():
    """With one token only, its whole extent and nothing else has attention."""
    tubes = [{"kernel_size": [2, 6, 4], "stride": [4, 20, 12], "offset": [1, 3, 5], "space_to_depth": [2, 1, 1]}]
    model = randomize(TubeViTModel(tiny_config(tubes=tubes, num_frames=6, image_size=[12, 10])))
    attention = pooling_attention(model, torch.randn(1, 6, 3, 12, 10))[0]
    expected = torch.zeros(6, 12, 10)
    expected[1:5, 3:9, 5:9] = 1 / (4 * 6 * 4)
    torch.testing.assert_close(attention, expected)


def test_other_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling_type"):
        pooling_attention(TubeViTModel(tiny_config(pooling_type="mean")), torch.randn(1, 7, 3, 40, 56))
