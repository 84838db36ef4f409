# SPDX-License-Identifier: Apache-2.0
"""A clip followed through models: what is said of it on the way, and what cannot be said."""

import numpy as np
import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.explanation import explain_clips, scores_so_far, to_heat
from tubevit_hf.inference.passage import follow_clip, is_image, read_frames
from tubevit_hf.inference.running import LoadedModel

from ..support.tiny import LABELS, randomize, tiny_config, tiny_video_processor


def loaded(auto=TubeViTForVideoClassification, **overrides) -> LoadedModel:
    return LoadedModel(randomize(auto(tiny_config(**overrides))), tiny_video_processor(), "")


def test_a_clip_is_followed(videos):
    model = loaded(use_cls_token=True, num_register_tokens=2)
    clip = read_frames(model, videos[0])
    passage = follow_clip(model, clip)
    assert passage.frames.shape == (7, 3, 40, 56)
    assert passage.labels == LABELS
    np.testing.assert_array_equal(passage.scores, scores_so_far(model.model, clip[None])[0].numpy())
    assert passage.heat.equal(to_heat(explain_clips(model.model, clip[None])[0], smooth=True))
    # of the tubes' tokens, without CLS and registers, which have the rest
    assert passage.weights.shape == (9 + 30 + 35,)
    assert 0 < passage.weights.sum() < 1


@pytest.mark.parametrize(
    "overrides",
    [
        {"pooling_type": "mean"},
        {
            "pooling_type": "grid",
            "joint_layer": 2,
            "pooling_grid": [2, 2, 2],
            "tubes": [{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}],
        },
        {"joint_layer": 1, "tubes": [{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}]},
    ],
)
def test_tokens_have_no_weights_where_no_attention_pools_them_one_by_one(overrides):
    passage = follow_clip(loaded(**overrides), torch.randn(7, 3, 40, 56))
    assert passage.weights is None
    assert passage.scores.shape == (7, 5)


def test_a_model_without_a_head_has_attention_alone():
    model = loaded(TubeViTModel)
    clip = torch.randn(7, 3, 40, 56)
    passage = follow_clip(model, clip)
    assert (passage.labels, passage.scores) == ([], None)
    assert passage.heat.equal(to_heat(explain_clips(model.model, clip[None], "rollout")[0], smooth=False))


def test_images_are_told_from_videos(images, videos, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    assert all(is_image(image) for image in images)
    assert not any(map(is_image, [*videos, str(tmp_path), str(tmp_path / "a.mp4"), "https://example.org/a.png"]))
