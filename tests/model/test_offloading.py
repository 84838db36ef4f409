# SPDX-License-Identifier: Apache-2.0
"""Weights that Accelerate keeps on disk or aside, and fetches for each module's call: the answers stay."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from tubevit_hf import TubeViTForJointClassification
from tubevit_hf.explanation import explain_clips
from tubevit_hf.inference.passage import weigh_tokens
from tubevit_hf.visualization.positions import compare_positions

from ..support.modeling_cases import ALL_PARTS, PATCH, TUBES, build, mask_of, random_clip
from ..support.tolerances import assert_close


SINGLE_FRAMES = {**PATCH, "stride": [1, 6, 8]}
# each kind of position, kernel, pooling and extra token is there
MODELS = {
    "all parts": ALL_PARTS,
    "pretrained, interpolated, cls": {
        "position_embedding_type": "pretrained",
        "tube_kernels": "interpolated",
        "pooling_type": "cls",
        "use_cls_token": True,
        "num_register_tokens": 2,
    },
    "learned, interpolated, joint": {
        "position_embedding_type": "learned",
        "tube_kernels": "interpolated",
        "joint_layer": 1,
        "joint_pooling": [2, 1],
        "tubes": [TUBES["mixed"][0], SINGLE_FRAMES],
        "gate_layer": 1,
    },
    "index, mean": {"position_embedding_type": "tube_index", "pooling_type": "mean"},
    "pretrained, grid": {
        "position_embedding_type": "pretrained",
        "tubes": [SINGLE_FRAMES],
        "joint_layer": 2,
        "pooling_type": "grid",
        "pooling_grid": [2, 2, 2],
    },
    "none": {"position_embedding_type": "none"},
}
LABELS = torch.tensor([0, 2])


def offload(model, how: str, folder):
    cpu = torch.device("cpu")
    if how == "cpu_offload":
        return cpu_offload(copy.deepcopy(model), cpu)
    if how == "disk_offload":
        return disk_offload(copy.deepcopy(model), str(folder / "weights"), cpu)
    model.save_pretrained(folder)
    half = sum(parameter.nbytes for parameter in model.parameters()) // 2
    room = {"device_map": {"": "disk"}} if how == "disk" else {"device_map": "auto", "max_memory": {"cpu": half}}
    loaded = (
        type(model)
        .from_pretrained(
            folder, **room, offload_folder=str(folder / "weights"), dtype=torch.float64, use_safetensors=True
        )
        .eval()
    )
    assert any(parameter.device.type == "meta" for parameter in loaded.parameters())
    return loaded


@torch.no_grad()
@pytest.mark.parametrize("how", ["cpu_offload", "disk_offload", "disk", "auto"])
@pytest.mark.parametrize("kind", MODELS)
def test_offloaded_models_give_the_same(kind, how, tmp_path):
    model = build(**MODELS[kind])
    model.freeze_before(model.config.joint_layer)
    offloaded = offload(model, how, tmp_path)
    calls = {
        "padded": {"pixel_values": random_clip(), "frame_mask": mask_of([9, 6], 9), "labels": LABELS},
        "other size": {"pixel_values": random_clip(size=(10, 21, 25))},
        "image": {"pixel_values": random_clip()[:, 0]},
        "packed": {"pixel_values": [random_clip()[0], random_clip(size=(9, 20, 23))[1]]},
    }
    # weights in a file need not be aligned, and then sums may run in another order
    tolerance = "exact" if how.endswith("_offload") else "float64"
    for name, inputs in calls.items():
        assert_close(offloaded(**inputs).logits, model(**inputs).logits, tolerance, name)
    kept = model.base_model.encode_frozen(random_clip())
    assert_close(offloaded.base_model.encode_frozen(random_clip()), kept, tolerance, "frozen")
    assert_close(offloaded(frozen_output=kept).logits, model(frozen_output=kept).logits, tolerance, "from frozen")


@pytest.mark.parametrize("kind", MODELS)
def test_explanations_of_offloaded_models(kind, tmp_path):
    model = build(**MODELS[kind])
    offloaded = offload(model, "disk", tmp_path)
    methods = ["gradient", "rollout"]
    if model.config.pooling_type == "attention":
        methods.append("attention")
        weights = weigh_tokens(offloaded, random_clip())
        assert (weights is None) == (model.config.joint_layer > 0)
        assert weights is None or (weights == weigh_tokens(model, random_clip())).all()
    for method in methods:
        found = explain_clips(offloaded, random_clip(), method)
        assert_close(found, explain_clips(model, random_clip(), method), "exact", method)
    if model.config.position_embedding_type != "none":
        expected = compare_positions(model, (0, 1, 0, 1))
        found = compare_positions(offloaded, (0, 1, 0, 1))
        assert all((found[number] == expected[number]).all() for number in expected)


@torch.no_grad()
def test_an_offloaded_joint_model(tmp_path):
    heads = {"clips": {"labels": ["run", "fall"]}, "images": {"labels": ["cat", "dog", "cow"]}}
    model = build(cls=TubeViTForJointClassification, heads=heads, position_embedding_type="learned")
    offloaded = offload(model, "disk", tmp_path)
    for dataset in heads:
        found = offloaded(random_clip(), dataset=dataset).logits
        assert_close(found, model(random_clip(), dataset=dataset).logits, "exact", dataset)


def test_offloaded_models_give_gradients(tmp_path):
    """Of the pixels, as explanations need them; weights that are offloaded do not train."""
    model = build(**ALL_PARTS)
    offloaded = offload(model, "cpu_offload", tmp_path)
    gradients = []
    for network in (model, offloaded):
        clip = random_clip().requires_grad_()
        network(clip).logits.sum().backward()
        gradients.append(clip.grad)
    assert_close(*gradients, "exact")
