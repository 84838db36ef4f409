# SPDX-License-Identifier: Apache-2.0
"""Replicas as `nn.DataParallel` makes them of a model for several GPUs of one process: without parameters."""

import importlib

import pytest
import torch

from tubevit_hf import TubeViTForJointClassification
from tubevit_hf.explanation import explain_clips

from ..support.modeling_cases import ALL_PARTS, PATCH, TUBES, build, mask_of, random_clip
from ..support.tolerances import assert_close


LABELS = torch.tensor([0, 2])
SINGLE_FRAMES = {**PATCH, "stride": [1, 6, 8]}
GRID = {"tubes": [SINGLE_FRAMES], "joint_layer": 2, "pooling_type": "grid", "pooling_grid": [2, 2, 2]}
MODELS = {
    "all parts": ALL_PARTS,
    "pretrained, interpolated, mean": {
        "position_embedding_type": "pretrained",
        "tube_kernels": "interpolated",
        "pooling_type": "mean",
    },
    "joint, cls": {
        "joint_layer": 1,
        "joint_pooling": [2, 1],
        "tubes": [TUBES["mixed"][0], SINGLE_FRAMES],
        "pooling_type": "cls",
        "use_cls_token": True,
    },
    "grid": {**GRID, "position_embedding_type": "learned"},
}


@pytest.fixture
def replicate(monkeypatch):
    """Makes replicas without the copies between devices, of which there is one."""
    module = importlib.import_module("torch.nn.parallel.replicate")

    def copy_tensors(tensors, devices, detach=False):
        return [[tensor * 1.0 for tensor in tensors] for _ in devices]

    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copy_tensors)
    monkeypatch.setattr(module, "_get_device_index", lambda *args, **kwargs: 0)

    def make(model):
        replica = module.replicate(model, [0, 0])[1]
        assert not list(replica.parameters())
        return replica

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_replicas_give_the_same(kind, replicate):
    model = build(**MODELS[kind])
    model.freeze_before(model.config.num_hidden_layers if kind == "grid" else model.config.joint_layer)
    replica = replicate(model)
    kept = model.base_model.encode_frozen(random_clip())
    calls = {
        "video": {"pixel_values": random_clip()},
        "padded": {"pixel_values": random_clip(), "frame_mask": mask_of([9, 6], 9)},
        "image": {"pixel_values": random_clip()[:, 0]},
        "frozen": {"frozen_output": kept.float()},
    }
    for name, inputs in calls.items():
        found, expected = replica(**inputs, labels=LABELS), model(**inputs, labels=LABELS)
        assert_close(found.logits, expected.logits, "exact", name)
        assert_close(found.loss, expected.loss, "exact", name)
    assert_close(replica.base_model.encode_frozen(random_clip()), kept, "exact")
    assert_close(
        explain_clips(replica, random_clip(), "rollout"), explain_clips(model, random_clip(), "rollout"), "exact"
    )


@pytest.mark.parametrize("settings", [{"recompute_activation": True}, {}], ids=["recompute", "checkpointing"])
def test_replicas_train(settings, replicate):
    model = build(**ALL_PARTS, **settings).train()
    if not settings:
        model.gradient_checkpointing_enable()
    gradients = []
    for network in (model, replicate(model)):
        model.zero_grad()
        network(random_clip(), labels=LABELS).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected, "exact")


def test_replicas_of_the_joint_model(replicate):
    heads = {"clips": {"labels": ["run", "fall"]}, "images": {"labels": ["cat", "dog", "cow"]}}
    model = build(cls=TubeViTForJointClassification, heads=heads)
    model.freeze_before(1)
    replica = replicate(model)
    kept = model.base_model.encode_frozen(random_clip())
    for inputs in ({"pixel_values": random_clip()}, {"frozen_output": kept}):
        found = replica(**inputs, dataset="images", labels=LABELS)
        expected = model(**inputs, dataset="images", labels=LABELS)
        assert_close(found.logits, expected.logits, "exact")
        assert_close(found.loss, expected.loss, "exact")


def test_packed_clips_are_refused(replicate):
    """`DataParallel` cuts tensors in a list along their first axis, which is a clip's time."""
    replica = replicate(build())
    with pytest.raises(ValueError, match="list of clips does not go with `DataParallel`"):
        replica([random_clip()[0], random_clip()[1]])
