# SPDX-License-Identifier: Apache-2.0
"""Heads of several data sets on one encoder."""

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from tubevit_hf import TubeViTConfig, TubeViTForJointClassification

from ..support.tiny import randomize, tiny_config
from ..support.tolerances import assert_close


def joint_config() -> TubeViTConfig:
    heads = {
        "clips": {"labels": ["run", "fall"]},
        "tags": {"labels": ["x", "y", "z"], "problem_type": "multi_label_classification"},
    }
    return tiny_config(heads=heads)


def test_joint_heads_and_exports(tmp_path):
    model = randomize(TubeViTForJointClassification(joint_config()))
    model.save_pretrained(tmp_path)
    loaded = TubeViTForJointClassification.from_pretrained(tmp_path)
    clip, image = torch.randn(2, 7, 3, 40, 56), torch.randn(2, 3, 40, 56)
    for name, pixel_values in (("clips", clip), ("tags", image)):
        outputs = loaded(pixel_values, dataset=name)
        assert isinstance(outputs, ImageClassifierOutput)
        assert outputs.logits.equal(model(pixel_values, dataset=name).logits)
        exported = loaded.export(name, images=name == "tags")
        assert exported(pixel_values).logits.equal(outputs.logits)
        assert list(exported.config.id2label.values()) == model.config.heads[name]["labels"]
        assert exported.config.heads is None
    loss = loaded(image, dataset="tags", labels=torch.tensor([[1.0, 0, 1], [0, 0, 0]])).loss
    expected = nn.functional.binary_cross_entropy_with_logits(
        loaded(image, dataset="tags").logits, torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    )
    assert_close(loss, expected, "float32")
    with pytest.raises(ValueError, match=r"`dataset` must be one of clips, tags .*got None"):
        loaded(clip)


def test_heads_need_classes():
    with pytest.raises(ValueError, match="`heads` is empty"):
        TubeViTForJointClassification(tiny_config())
    for heads in ({"a.b": {"labels": ["x"]}}, {"a": {"labels": []}}, {"a": {"names": ["x"]}}):
        with pytest.raises(ValueError, match=r"`heads\[.*must be"):
            tiny_config(heads=heads)
