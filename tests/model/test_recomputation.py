# SPDX-License-Identifier: Apache-2.0
"""In training, the activations of the MLPs are not kept for the backward pass but computed again."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tubevit_hf import TubeViTForVideoClassification

from ..support.modeling_cases import build, kept_for_backward, random_clip


LABELS = torch.tensor([0, 2])


class Replaced(nn.Linear):
    """As LoRA and quantization replace layers."""


@pytest.fixture
def keep_everything(monkeypatch):
    """As the model does where a compiler chooses."""

    def switch() -> None:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)

    return switch


def train(model: TubeViTForVideoClassification) -> tuple[list[torch.Tensor], int, int]:
    """Gradients, bytes kept for the backward pass beside parameters, and operations of a step."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        with kept_for_backward(model) as kept:
            loss = model(random_clip(), labels=LABELS).loss
        loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return gradients, sum(storage.nbytes() for storage in kept.values()), counter.get_total_flops()


def test_less_is_kept_and_no_product_is_repeated(keep_everything):
    model = build().train()
    config = model.config
    gradients, kept, flops = train(model)
    keep_everything()
    all_gradients, all_kept, all_flops = train(model)
    assert all(torch.equal(*pair) for pair in zip(gradients, all_gradients, strict=True))
    tokens = model.tubevit.embeddings(random_clip()).shape[:2].numel()
    activations = config.num_hidden_layers * tokens * config.intermediate_size
    assert all_kept - kept == activations * gradients[0].element_size()
    assert flops == all_flops


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_around_it(use_reentrant):
    model = build().train()
    gradients, _, _ = train(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    again, _, _ = train(model)
    assert all(torch.equal(*pair) for pair in zip(gradients, again, strict=True))


def test_replaced_layers_run_once():
    model = build().train()
    calls = []
    for layer in model.tubevit.layers:
        layer.mlp.fc2.__class__ = Replaced
        layer.mlp.activation_fn.register_forward_hook(lambda *_: calls.append(1))
    train(model)
    assert len(calls) == model.config.num_hidden_layers
