# SPDX-License-Identifier: Apache-2.0
"""Freezing, activation checkpointing and adapters: what trains, what does not, and with which gradients."""

import pytest
import torch

from tubevit_hf import (
    TubeViTForVideoClassification,
    TubeViTModel,
)

from ..support.modeling_cases import (
    ALL_PARTS,
    assert_all_close,
    backward,
    build,
    kept_for_backward,
    mask_of,
    random_clip,
)
from ..support.tolerances import assert_close


def is_frozen(name: str, before: int | None) -> bool:
    """Embeddings, and the layers before `before`."""
    parts = name.removeprefix("tubevit.").split(".")
    if before is None or parts[0] not in ("embeddings", "layers"):
        return False
    return parts[0] == "embeddings" or int(parts[1]) < before


@pytest.mark.parametrize("where", ["method", "config", "base_model"])
@pytest.mark.parametrize("tube_kernels", ["separate", "interpolated"])
@pytest.mark.parametrize("before", [0, 1, 3, None])
def test_frozen_parameters_stay_and_all_others_move(before, tube_kernels, where):
    model = build(tube_kernels=tube_kernels, **ALL_PARTS, freeze_before=before if where == "config" else None).train()
    if where != "config":
        (model if where == "method" else model.tubevit).freeze_before(before)
    assert model.config.freeze_before == before
    names = [name for name, _ in model.named_parameters()]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in names if is_frozen(name, before)}

    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(random_clip(), labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if (parameter - old[name]).abs().max() > 1e-9}
    # softmax does not see a bias of the keys
    assert moved == {name for name in names if name not in frozen and not name.endswith("k_proj.bias")}


def bytes_kept_for_backward(num_hidden_layers: int, gate_layer: int, before: int | None) -> int:
    """What autograd stores in a forward pass, parameters aside."""
    model = build(num_hidden_layers=num_hidden_layers, gate_layer=gate_layer, freeze_before=before).train()
    with kept_for_backward(model) as kept:
        outputs = model(random_clip(), labels=torch.tensor([0, 2]), output_hidden_states=True)
    for index, hidden_state in enumerate(outputs.hidden_states):
        # no graph, so no backward pass either
        assert hidden_state.requires_grad == (before is None or index > before)
    return sum(storage.nbytes() for storage in kept.values())


def test_frozen_layers_store_nothing():
    """However many there are; as a control, layers that train store something each."""
    frozen = [bytes_kept_for_backward(num_layers, num_layers - 1, num_layers - 1) for num_layers in (2, 3, 6)]
    assert frozen[0] == frozen[1] == frozen[2] > 0
    thawed = [bytes_kept_for_backward(num_layers, num_layers - 1, None) for num_layers in (2, 3, 6)]
    assert frozen[0] < thawed[0] < thawed[1] < thawed[2]
    assert thawed[2] - thawed[1] == 3 * (thawed[1] - thawed[0])


def test_freezing_can_be_changed_and_undone():
    model = build(**ALL_PARTS)
    for before in (3, 1, 0, 2, None, 1, None):
        model.freeze_before(before)
        assert model.config.freeze_before == before
        assert model.tubevit.config.freeze_before == before
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != is_frozen(name, before), (name, before)
    for before in (4, -1, 1.5, "2"):
        with pytest.raises(ValueError, match=rf"`layer`.*0 to 3.*{before}"):
            model.freeze_before(before)
        # what was refused leaves no trace
        assert model.config.freeze_before is None
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_nothing_leaves_what_the_user_froze():
    model = build()
    model.classifier.requires_grad_(False)
    model.tubevit.layers[1].requires_grad_(False)
    model.freeze_before(None)
    assert not model.classifier.weight.requires_grad
    assert not model.tubevit.layers[1].mlp.fc1.weight.requires_grad
    # the head is never touched
    model.freeze_before(1)
    assert not model.classifier.weight.requires_grad


def test_freezing_survives_saving_and_loading(tmp_path):
    model = build(**ALL_PARTS)
    model.freeze_before(2)
    model.save_pretrained(tmp_path)
    loaded = TubeViTForVideoClassification.from_pretrained(tmp_path)
    assert loaded.config.freeze_before == 2
    assert [parameter.requires_grad for parameter in loaded.parameters()] == [
        parameter.requires_grad for parameter in model.parameters()
    ]
    thawed = TubeViTForVideoClassification.from_pretrained(tmp_path, freeze_before=None)
    assert all(parameter.requires_grad for parameter in thawed.parameters())


@pytest.mark.parametrize("before", [None, 0, 1, 2])
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("gate_layer", [None, 1])
def test_checkpointing_leaves_the_gradients(gate_layer, use_reentrant, before):
    """The gated layer's second input, z0, gets its part too; layers behind frozen ones must train."""
    settings = {**ALL_PARTS, "gate_layer": gate_layer, "freeze_before": before}
    model = build(**settings).train()
    inputs = {"pixel_values": random_clip(), "frame_mask": mask_of([9, 6], 9)}
    expected = backward(model, **inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    assert_all_close(backward(model, **inputs), expected, "float64")
    assert {name for name in expected if is_frozen(name, before)} == set()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_recomputes_the_same_dropout(use_reentrant):
    model = build(gate_layer=1, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
    torch.manual_seed(3)
    expected = backward(model, random_clip())
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    torch.manual_seed(3)
    assert_all_close(backward(model, random_clip()), expected, "float64")


@pytest.mark.parametrize("cls", [TubeViTForVideoClassification, TubeViTModel])
def test_input_embeddings_are_called_and_return_what_enters_the_encoder(cls):
    model = build(cls=cls, use_pre_layernorm=True)
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: seen.append(output))
    outputs = model(random_clip(), output_hidden_states=True)
    assert len(seen) == 1
    assert_close(seen[0], outputs.hidden_states[0], "exact")


@pytest.mark.parametrize("before", [None, 0, 1])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_an_adapter_trains_under_checkpointing(use_reentrant, before):
    """All is frozen but a few weights inside the layers, as with LoRA, frozen layers included; the input hook is what
    lets them train."""
    model = build(gate_layer=1, freeze_before=before).train().requires_grad_(False)
    for layer in model.tubevit.layers:
        layer.attention.q_proj.weight.requires_grad_()
        layer.attention.v_proj.weight.requires_grad_()
    expected = backward(model, random_clip())
    assert len(expected) == 4
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert_all_close(backward(model, random_clip()), expected, "float64")
