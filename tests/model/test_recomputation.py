# SPDX-License-Identifier: Apache-2.0
"""`recompute_activation`: in training, the activations of the MLPs are not kept for the backward pass but computed
again, with the same random numbers. Without it nothing runs twice."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification

from ..support.modeling_cases import ALL_PARTS, build, kept_for_backward, random_clip
from ..support.tolerances import assert_close


LABELS = torch.tensor([0, 2])


def train(model: nn.Module) -> tuple[list[torch.Tensor], int, int]:
    """Gradients, bytes kept for the backward pass beside parameters, and operations of a step."""
    model.zero_grad()
    torch.manual_seed(5)
    with FlopCounterMode(display=False) as counter:
        with kept_for_backward(model) as kept:
            loss = model(random_clip(), labels=LABELS).loss
        # what is computed again must not depend on what was drawn since
        torch.rand(7)
        loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return gradients, sum(storage.nbytes() for storage in kept.values()), counter.get_total_flops()


def assert_same_gradients(model: nn.Module, expected: list[torch.Tensor]) -> None:
    gradients, _, _ = train(model)
    for found, wanted in zip(gradients, expected, strict=True):
        # re-entrant checkpointing sums what comes to z0 in another order
        assert_close(found, wanted, "float64")


def test_less_is_kept_and_no_product_is_repeated():
    model = build().train()
    config = model.config
    all_gradients, all_kept, all_flops = train(model)
    config.recompute_activation = True
    gradients, kept, flops = train(model)
    assert all(torch.equal(*pair) for pair in zip(gradients, all_gradients, strict=True))
    tokens = model.tubevit.embeddings(random_clip()).shape[:2].numel()
    activations = config.num_hidden_layers * tokens * config.intermediate_size
    assert all_kept - kept == activations * gradients[0].element_size()
    assert flops == all_flops


@pytest.mark.parametrize("use_reentrant", [False, True, None])
@pytest.mark.parametrize("recompute", [False, True])
def test_dropout_draws_the_same_mask(recompute, use_reentrant):
    """Dropout everywhere, behind the activation too, and checkpointing of whole layers around it."""
    dropouts = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
    model = build(**ALL_PARTS, **dropouts).train()
    for layer in model.tubevit.layers:
        layer.mlp.activation_fn = nn.Sequential(layer.mlp.activation_fn, nn.Dropout(0.5))
    expected, _, _ = train(model)
    model.config.recompute_activation = recompute
    if use_reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_same_gradients(model, expected)


def test_gradients_are_those_of_differences():
    model = build(num_hidden_layers=1, recompute_activation=True).train()
    mlp = model.tubevit.layers[0].mlp
    mlp.activation_fn = nn.Sequential(mlp.activation_fn, nn.Dropout(0.5))
    train(model)

    def loss_with(change: float, place: tuple[int, int]) -> float:
        with torch.no_grad():
            mlp.fc2.weight[place] += change
            torch.manual_seed(5)
            loss = model(random_clip(), labels=LABELS).loss.item()
            mlp.fc2.weight[place] -= change
        return loss

    for place in ((0, 0), (3, 5), (10, 12)):
        by_differences = (loss_with(1e-6, place) - loss_with(-1e-6, place)) / 2e-6
        assert mlp.fc2.weight.grad[place].item() == pytest.approx(by_differences, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("recompute", [False, True])
def test_lora_behind_the_activation(recompute):
    """Its dropout draws, and its layer is not the one that the model was built with."""
    settings = LoraConfig(r=2, target_modules=["fc2"], lora_dropout=0.4, init_lora_weights=False)
    model = get_peft_model(build(), settings).double().train()
    expected, _, _ = train(model)
    model.config.recompute_activation = recompute
    assert_same_gradients(model, expected)


def test_hooks_are_called_once():
    model = build().train()
    calls = []
    for layer in model.tubevit.layers:
        layer.mlp.activation_fn.register_forward_hook(lambda *_: calls.append("activation"))
        layer.mlp.fc2.register_forward_pre_hook(lambda *_: calls.append("fc2"))
    train(model)
    assert calls == ["activation", "fc2"] * model.config.num_hidden_layers


@pytest.mark.parametrize("is_own_loss", [False, True])
def test_gradients_of_each_clip_by_torch_func(is_own_loss):
    model = build(**ALL_PARTS).train()
    parameters = dict(model.named_parameters())

    def loss(parameters, clip, label):
        labels = {"labels": label[None]} if is_own_loss else {}
        outputs = functional_call(model, parameters, (clip[None],), labels)
        return outputs.loss if is_own_loss else nn.functional.cross_entropy(outputs.logits, label[None])

    of_clips = vmap(grad(loss), (None, 0, 0), randomness="different")(parameters, random_clip(), LABELS)
    for index in range(2):
        model.zero_grad()
        model(random_clip()[index : index + 1], labels=LABELS[index : index + 1]).loss.backward()
        for name, parameter in parameters.items():
            assert_close(of_clips[name][index], parameter.grad, "float64", name)


def test_the_switch_is_saved_where_it_is_on(tmp_path):
    build().save_pretrained(tmp_path / "off")
    assert "recompute_activation" not in json.loads((tmp_path / "off" / "config.json").read_text())
    assert TubeViTConfig.from_pretrained(tmp_path / "off").recompute_activation is False
    build(recompute_activation=True).save_pretrained(tmp_path / "on")
    loaded = TubeViTForVideoClassification.from_pretrained(tmp_path / "on")
    assert loaded.config.recompute_activation is True
    again = TubeViTForVideoClassification.from_pretrained(tmp_path / "off", recompute_activation=True)
    assert again.config.recompute_activation is True
