# SPDX-License-Identifier: Apache-2.0
"""Parts that something wraps or replaces (PEFT, `torch.compile`): the model computes what it computed before."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tubevit_hf import TubeViTForJointClassification, TubeViTForVideoClassification
from tubevit_hf.explanation import explain_clips, occlude_time
from tubevit_hf.inference.passage import follow_clip, weigh_tokens
from tubevit_hf.inference.running import LoadedModel
from tubevit_hf.inference.windows import SingleFrames

from ..support.modeling_cases import ALL_PARTS, PATCH, TUBES, build, mask_of, random_clip
from ..support.tiny import randomize, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close


LABELS = torch.tensor([0, 2])
PADDED = mask_of([9, 6], 9)
JOINT = {"joint_layer": 1, "joint_pooling": [2, 1], "tubes": [TUBES["mixed"][0], {**PATCH, "stride": [1, 6, 8]}]}
GRID = {
    "tubes": [{**PATCH, "stride": [1, 6, 8]}],
    "joint_layer": 2,
    "pooling_type": "grid",
    "pooling_grid": [2, 2, 2],
    "pooling_layers": [1, 2],
    "joint_pooling": [2, 2],
}
KINDS = {
    "attention": {},
    "attention, joint": JOINT,
    "cls": {"pooling_type": "cls", "use_cls_token": True},
    "cls, joint": {**JOINT, "pooling_type": "cls", "use_cls_token": True},
    "mean": {"pooling_type": "mean", "num_register_tokens": 1},
    "mean, joint": {**JOINT, "pooling_type": "mean"},
    "grid": GRID,
}
# of a model that has every part
PARTS = [
    "tubevit",
    "tubevit.embeddings",
    "tubevit.embeddings.tubes.1",
    "tubevit.embeddings.position_embeddings",
    "tubevit.layers.0",
    "tubevit.layers.1",
    "tubevit.layers.1.attention.q_proj",
    "tubevit.layers.1.mlp",
    "tubevit.layers.1.mlp.fc2",
    "tubevit.layers.1.layer_scale1",
    "tubevit.layernorm",
    "tubevit.pooler",
    "tubevit.pooler.k_proj",
    "classifier",
]


def compile_parts(model: nn.Module, *parts: str) -> nn.Module:
    """A copy in which parts are what `torch.compile` returns."""
    model = copy.deepcopy(model)
    for part in parts:
        parent, _, name = part.rpartition(".")
        setattr(model.get_submodule(parent), name, torch.compile(model.get_submodule(part), backend="eager"))
    return model


def add_lora(model: nn.Module, *modules_to_save: str) -> nn.Module:
    settings = LoraConfig(r=2, target_modules=r".*layers.*(q_proj|fc1)", modules_to_save=list(modules_to_save))
    with warnings.catch_warnings():
        # a gate is no Linear, which PEFT says
        warnings.simplefilter("ignore")
        return get_peft_model(copy.deepcopy(model), settings).eval()


@pytest.mark.parametrize("part", PARTS)
def test_a_compiled_part_changes_no_bit(part):
    model = build(**ALL_PARTS, freeze_before=1)
    compiled = compile_parts(model, part)
    inputs = {"pixel_values": random_clip(), "frame_mask": PADDED, "labels": LABELS}
    expected, found = model(**inputs), compiled(**inputs)
    assert_close(found.logits, expected.logits, "exact")
    assert_close(found.loss, expected.loss, "exact")
    kept = model.base_model.encode_frozen(random_clip())
    assert_close(compiled.base_model.encode_frozen(random_clip()), kept, "exact")
    assert_close(compiled(frozen_output=kept).logits, model(random_clip()).logits, "exact")


@pytest.mark.parametrize(
    ("positions", "tube_kernels"), [("tube_center", "interpolated"), ("pretrained", "separate"), ("none", "separate")]
)
def test_compiled_embeddings_change_no_bit(positions, tube_kernels):
    model = build(position_embedding_type=positions, tube_kernels=tube_kernels, num_hidden_layers=1)
    embeddings = model.tubevit.embeddings
    compiled = compile_parts(embeddings, "position_embeddings", "tubes.0")
    for clip in (random_clip(), random_clip(size=(9, 20, 26))):
        assert_close(compiled(clip), embeddings(clip), "exact")


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_pooler_changes_no_bit(kind):
    model = build(**KINDS[kind])
    compiled = compile_parts(model, "tubevit.pooler")
    for inputs in ({"pixel_values": random_clip()}, {"pixel_values": random_clip(), "frame_mask": PADDED}):
        assert_close(compiled(**inputs).logits, model(**inputs).logits, "exact")
    packed = [random_clip()[0], random_clip(size=(4, 17, 23))[1]]
    assert_close(compiled(packed).logits, model(packed).logits, "exact")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pooler_trained_beside_lora(kind):
    model = build(**KINDS[kind])
    adapted = add_lora(model, "classifier", "pooler")
    assert_close(adapted(random_clip()).logits, model(random_clip()).logits, "exact")
    adapted.train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(random_clip(), labels=LABELS).loss.backward()
        optimizer.step()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert any("pooler" in name for name in trained) == (model.config.pooling_type == "attention")
    assert all(p.grad is not None for p in trained.values())
    adapted.eval()
    logits = adapted(random_clip()).logits
    assert (logits - model(random_clip()).logits).abs().max() > 1e-3
    merged = adapted.merge_and_unload().eval()
    assert_close(merged(random_clip()).logits, logits, "float64")
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    "parts", [["tubevit.embeddings"], ["position_embeddings", "tubes.0"], ["layernorm", "pooler"]]
)
def test_whatever_peft_copies_is_what_runs(parts):
    """The copy is changed: nothing of the original is read."""
    model = build(**ALL_PARTS)
    adapted = add_lora(model, *parts)
    assert_close(adapted(random_clip()).logits, model(random_clip()).logits, "exact")
    copies = {
        name.replace(".modules_to_save.default", ""): p
        for name, p in adapted.named_parameters()
        if "modules_to_save" in name
    }
    assert copies
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in copies.items():
            parameter.mul_(1.5)
            parameters[name.removeprefix("base_model.model.")].mul_(1.5)
    assert_close(adapted(random_clip()).logits, model(random_clip()).logits, "exact")


def test_the_joint_model_with_wrapped_parts():
    heads = {"clips": {"labels": ["run", "fall"]}, "images": {"labels": ["cat", "dog", "cow"]}}
    model = build(cls=TubeViTForJointClassification, heads=heads)
    for wrapped in (add_lora(model, "pooler"), compile_parts(model, "tubevit.pooler", "classifiers.clips")):
        found = wrapped(random_clip(), dataset="clips", labels=torch.tensor([0, 1]))
        expected = model(random_clip(), dataset="clips", labels=torch.tensor([0, 1]))
        assert_close(found.logits, expected.logits, "exact")
        assert_close(found.loss, expected.loss, "exact")


def wrap(model: TubeViTForVideoClassification, how: str) -> nn.Module:
    if how == "parts compiled and run":
        compiled = compile_parts(model, *(f"tubevit.{part}" for part in ("layers.0", "layers.1.attention", "pooler")))
        compiled(torch.randn(1, 7, 3, 40, 56))
        return compiled
    if how == "compiled":
        return torch.compile(copy.deepcopy(model), backend="eager")
    return add_lora(model, "classifier", "pooler")


@pytest.mark.parametrize("how", ["parts compiled and run", "compiled", "PEFT"])
@pytest.mark.parametrize("settings", [{"gate_layer": 1}, {"pooling_type": "mean"}], ids=["attention, gate", "mean"])
def test_explanations_see_what_runs(settings, how):
    model = randomize(TubeViTForVideoClassification(tiny_config(**settings)))
    wrapped = wrap(model, how)
    clips = torch.randn(2, 7, 3, 40, 56)
    methods = ("gradient", "rollout", "attention") if "gate_layer" in settings else ("gradient", "rollout")
    for method in methods:
        assert_close(explain_clips(wrapped, clips, method), explain_clips(model, clips, method), "exact", method)
    assert_close(occlude_time(wrapped, clips, 3), occlude_time(model, clips, 3), "exact")
    assert not any(module._forward_hooks for module in model.modules())


def test_explanations_of_trained_adapters_are_those_of_the_merged_model():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    adapted = randomize(add_lora(model, "pooler"))
    clips = torch.randn(2, 7, 3, 40, 56)
    found = [explain_clips(adapted, clips, method) for method in ("rollout", "attention")]
    weights = weigh_tokens(adapted.get_base_model(), clips)
    assert not torch.allclose(found[1], explain_clips(model, clips, "attention"), rtol=0.1)
    merged = adapted.merge_and_unload().eval()
    for one, method in zip(found, ("rollout", "attention")):
        assert_close(one, explain_clips(merged, clips, method), "float32")
    assert_close(torch.from_numpy(weights), torch.from_numpy(weigh_tokens(merged, clips)), "float32")


@pytest.mark.parametrize("how", ["parts compiled and run", "PEFT"])
def test_a_clip_is_followed_through_wrapped_parts(how):
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    clip = torch.randn(7, 3, 40, 56)
    expected = follow_clip(LoadedModel(model, tiny_video_processor(), ""), clip)
    found = follow_clip(LoadedModel(wrap(model, how), tiny_video_processor(), ""), clip)
    assert found.labels == expected.labels
    for name in ("scores", "weights"):
        assert_close(torch.from_numpy(getattr(found, name)), torch.from_numpy(getattr(expected, name)), "exact", name)
    assert_close(found.heat, expected.heat, "exact")


@pytest.mark.parametrize("kind", ["attention", "grid"])
def test_windows_of_wrapped_parts(kind):
    settings = {**GRID, "pooling_type": kind, "position_embedding_type": "none"}
    model = build(**settings)
    frames = random_clip()[0]
    expected = SingleFrames(model)
    parts = [part[None] for part in expected.encode(frames)]
    expected = expected.classify(parts)
    assert_close(expected, model(frames[None]).logits, "float64")
    wrapped = SingleFrames(compile_parts(model, "tubevit.embeddings", "tubevit.layers.1", "tubevit.pooler"))
    parts = [part[None] for part in wrapped.encode(frames)]
    assert_close(wrapped.classify(parts), expected, "exact")
    # frames that no tube fits are refused, and leave no trace
    with pytest.raises(ValueError, match="fits"):
        wrapped.encode(frames[..., :2, :2])
    assert_close(wrapped.classify(parts), expected, "exact")
