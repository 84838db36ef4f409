# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The model against the naive oracle, values and gradients, and what it promises around them.

Clips have an odd length and differ in height and width, kernels and strides differ along each axis, and all parameters
are drawn at random: a swapped axis, a missing bias or a transposed weight changes the numbers.
"""

import contextlib
import copy
import importlib.util
import os

import pytest
import torch
from torch import nn

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
)
from tubevit_hf.loss_tubevit import classification_loss

from . import naive
from .conftest import randomize
from .tolerances import assert_close


# A width of 20 leaves two channels without positions; MLP, labels and channels are odd or differ from all else
BASE = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 13,
    "image_size": [17, 23],
    "num_frames": 9,
    "num_channels": 2,
    "base_kernel_size": [2, 3, 4],
    "num_labels": 3,
}
NATIVE = (9, 17, 23)
PATCH = {"kernel_size": [1, 5, 4], "stride": [5, 6, 8]}
TUBES = {
    "plain": [{"kernel_size": [3, 4, 5], "stride": [4, 8, 9], "offset": [1, 2, 0]}, PATCH],
    "overlapping": [{"kernel_size": [4, 6, 7], "stride": [2, 9, 5], "offset": [0, 1, 3]}],
    "time": [{"kernel_size": [2, 3, 4], "stride": [4, 9, 10], "space_to_depth": [2, 1, 1]}, PATCH],
    # six neighbours of four channels: 24, cut to 20
    "space": [
        {
            "kernel_size": [2, 3, 2],
            "stride": [3, 8, 9],
            "offset": [1, 0, 2],
            "space_to_depth": [1, 2, 3],
            "out_channels": 4,
        }
    ],
    # eight neighbours of three channels, with gaps between them: 24, cut to 20
    "time_and_space": [
        {
            "kernel_size": [1, 2, 3],
            "stride": [4, 8, 10],
            "offset": [0, 3, 1],
            "space_to_depth": [2, 2, 2],
            "out_channels": 3,
        },
        {"kernel_size": [2, 7, 5], "stride": [5, 9, 11], "space_to_depth": [1, 1, 1]},
    ],
    # all of it at once, in the manner of Table 12
    "mixed": [
        {"kernel_size": [2, 4, 3], "stride": [4, 9, 12], "space_to_depth": [2, 1, 1]},
        {"kernel_size": [4, 2, 3], "stride": [3, 10, 9], "offset": [1, 2, 3], "space_to_depth": [1, 2, 1]},
        PATCH,
    ],
}
ATTENTION = ["eager", "sdpa"]
# tokens that a clip can be pooled from, and what else it may carry
POOLING = {
    "attention": {"pooling_type": "attention"},
    "attention_with_prefix": {"pooling_type": "attention", "use_cls_token": True, "num_register_tokens": 3},
    "mean": {"pooling_type": "mean"},
    "mean_with_prefix": {"pooling_type": "mean", "use_cls_token": True, "num_register_tokens": 2},
    "mean_with_registers": {"pooling_type": "mean", "num_register_tokens": 1},
    "cls": {"pooling_type": "cls", "use_cls_token": True},
    "cls_with_registers": {"pooling_type": "cls", "use_cls_token": True, "num_register_tokens": 2},
}


def build(
    attn: str = "sdpa", dtype: torch.dtype = torch.float64, cls: type = TubeViTForVideoClassification, **settings
):
    """A model in evaluation mode, all of its parameters random."""
    config = TubeViTConfig(**{**BASE, "tubes": TUBES["mixed"], **settings})
    return randomize(cls._from_config(config, attn_implementation=attn), std=0.3).to(dtype)


def random_clip(size=NATIVE, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    """`(batch, frames, channels, height, width)` for a `size` of `(frames, height, width)`."""
    frames, height, width = size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, BASE["num_channels"], height, width, generator=generator).to(dtype)


def mask_of(lengths, num_frames: int) -> torch.Tensor:
    """`(batch, num_frames)`: the first `lengths[i]` frames of clip `i` are real."""
    return torch.arange(num_frames) < torch.tensor(lengths)[:, None]


def gradients(output: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By name; zero where `output` does not depend on it, as on a tube that does not fit."""
    found = torch.autograd.grad(output, list(inputs.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(inputs.items(), found)
    }


def backward(model: nn.Module, *args, **kwargs) -> dict[str, torch.Tensor]:
    """Gradients of a random direction of the logits, by the parameter's name."""
    logits = model(*args, **kwargs).logits
    direction = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)
    model.zero_grad()
    (logits * direction).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_all_close(actual: dict, expected: dict, tolerance: str):
    assert actual.keys() == expected.keys()
    for name in actual:
        assert_close(actual[name], expected[name], tolerance, name)


def assert_equals_oracle(model, pixel_values: torch.Tensor, frame_mask: torch.Tensor | None = None):
    """Every intermediate, and the gradients of every parameter and of the pixels."""
    state = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    # fixed positions are not stored
    assert model.state_dict().keys() == state.keys()
    expected_pixels = pixel_values.clone().requires_grad_()
    expected = naive.naive_forward(state, model.config.to_dict(), expected_pixels, frame_mask)

    pixels = pixel_values.clone().requires_grad_()
    heads = model(pixels, frame_mask=frame_mask, output_hidden_states=True)
    base = model.tubevit(pixels, frame_mask=frame_mask, output_hidden_states=True)
    valid = expected.valid
    assert base.last_hidden_state.shape[:2] == valid.shape
    assert_close(base.hidden_states[0], expected.embedding_output, "float64", "embedding output")
    assert len(base.hidden_states) == len(heads.hidden_states) == len(expected.hidden_states)
    for index, hidden_state in enumerate(expected.hidden_states):
        for outputs in (base, heads):
            assert_close(outputs.hidden_states[index][valid], hidden_state[valid], "float64", f"hidden state {index}")
    assert_close(base.last_hidden_state[valid], expected.last_hidden_state[valid], "float64", "last hidden state")
    assert_close(base.pooler_output, expected.pooler_output, "float64", "pooler output")
    assert_close(heads.logits, expected.logits, "float64", "logits")

    def objective(logits, last_hidden_state):
        tokens = last_hidden_state[valid]
        weights = [torch.linspace(-1, 2, part.numel()).double().view_as(part) for part in (logits, tokens)]
        return (logits * weights[0]).sum() + (tokens * weights[1]).sum()

    found = gradients(
        objective(heads.logits, base.last_hidden_state), {**dict(model.named_parameters()), "pixel_values": pixels}
    )
    wanted = gradients(
        objective(expected.logits, expected.last_hidden_state), {**state, "pixel_values": expected_pixels}
    )
    assert_all_close(found, wanted, "float64")
    return wanted


@pytest.mark.parametrize("tube_kernels", ["separate", "interpolated"])
@pytest.mark.parametrize("tubes", TUBES)
def test_tubes_equal_the_oracle(tubes, tube_kernels):
    model = build(tubes=TUBES[tubes], tube_kernels=tube_kernels)
    found = assert_equals_oracle(model, random_clip())
    # the comparison says something about each parameter only if it matters; a bias of the keys shifts all scores of a
    # query alike, and softmax does not see it
    idle = [name for name, gradient in found.items() if gradient.abs().max() < 1e-6]
    assert all(name.endswith("k_proj.bias") for name in idle)


@pytest.mark.parametrize(
    "size", [NATIVE, (6, 14, 19), (14, 29, 21), (1, 25, 17)], ids=["native", "smaller", "larger", "image"]
)
@pytest.mark.parametrize("kind", ["tube_center", "tube_index", "learned", "pretrained", "none"])
def test_positions_equal_the_oracle(kind, size):
    # two tubes of kernel time 1: each has a table of its own
    tubes = [*TUBES["mixed"], {"kernel_size": [1, 3, 6], "stride": [3, 9, 7], "offset": [0, 1, 2]}]
    model = build(tubes=tubes, position_embedding_type=kind, position_embedding_scale=0.3, num_hidden_layers=1)
    assert_equals_oracle(model, random_clip(size))


@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("pooling", POOLING)
def test_pooling_equals_the_oracle(pooling, attn):
    assert_equals_oracle(build(attn, **POOLING[pooling]), random_clip())


@pytest.mark.parametrize(
    "settings",
    [
        {"gate_layer": 0},
        {"gate_layer": 1},
        {"use_layer_scale": True},
        {"use_pre_layernorm": True, "gate_layer": 1},
        {"qkv_bias": False},
        {"num_attention_heads": 1},
        {"num_attention_heads": 5, "num_hidden_layers": 3},
        {"layer_norm_eps": 0.5},
        {
            "gate_layer": 1,
            "use_layer_scale": True,
            "use_pre_layernorm": True,
            "tube_kernels": "interpolated",
            "position_embedding_type": "pretrained",
            **POOLING["cls_with_registers"],
        },
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("attn", ATTENTION)
def test_encoder_equals_the_oracle(settings, attn):
    assert_equals_oracle(build(attn, **settings), random_clip())


@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("pooling", POOLING)
def test_frame_mask_equals_the_oracle(pooling, attn):
    """The oracle leaves masked tokens out of the sequence, so that they can't leak in anywhere."""
    model = build(attn, gate_layer=0, **POOLING[pooling])
    assert_equals_oracle(model, random_clip(batch=3), mask_of([9, 6, 1], num_frames=9))


@pytest.mark.parametrize(
    ("kind", "tube_kernels"), [("learned", "separate"), ("pretrained", "interpolated"), ("tube_index", "separate")]
)
def test_frame_mask_with_positions_equals_the_oracle(kind, tube_kernels):
    model = build(position_embedding_type=kind, tube_kernels=tube_kernels)
    assert_equals_oracle(model, random_clip((13, 20, 25), batch=3), mask_of([5, 13, 8], num_frames=13))


def test_the_oracle_leaves_out_what_a_mask_names():
    """Masks that mask nothing would let every comparison above pass."""
    model = build()
    state = dict(model.named_parameters())
    found = naive.naive_forward(state, model.config.to_dict(), random_clip(batch=3), mask_of([9, 6, 1], 9))
    assert [row.sum().item() for row in found.valid] == [30, 24, 9]
    assert found.last_hidden_state[2].isnan().any(dim=-1).tolist() == (~found.valid[2]).tolist()


@pytest.mark.parametrize("kind", ["tube_center", "learned", "pretrained"])
@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("pooling", POOLING)
def test_padded_clips_equal_unpadded_ones(pooling, attn, kind):
    """Clips of 1, 4, 6, 9 and 11 frames in one batch, padded with noise, against each one alone."""
    model = build(attn, position_embedding_type=kind, gate_layer=1, **POOLING[pooling])
    lengths = [11, 6, 1, 9, 4]
    padded = random_clip((11, 17, 23), batch=len(lengths))
    frame_mask = mask_of(lengths, 11)
    padded[~frame_mask] *= 100
    alone = [clip[None, :length] for clip, length in zip(padded, lengths)]
    padded.requires_grad_()

    together = model(padded, frame_mask=frame_mask).logits
    one_by_one = torch.cat([model(clip).logits for clip in alone])
    assert_close(together, one_by_one, "float64", "logits")
    # rows that are alike would hide a mask that is shifted by a row
    assert torch.pdist(one_by_one).min() > 1e-2

    direction = torch.linspace(-1, 2, together.numel()).double().view_as(together)
    inputs = {**dict(model.named_parameters()), "pixel_values": padded}
    found = gradients((together * direction).sum(), inputs)
    assert not found.pop("pixel_values")[~frame_mask].any()
    assert_all_close(found, gradients((one_by_one * direction).sum(), dict(model.named_parameters())), "float64")


@pytest.mark.parametrize("pooling", POOLING)
def test_a_mask_of_ones_changes_nothing(pooling):
    model = build(**POOLING[pooling])
    clip = random_clip()
    for frame_mask in (torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 9, dtype=torch.int64)):
        assert_close(model(clip, frame_mask=frame_mask).logits, model(clip).logits, "float64")


@pytest.mark.parametrize("cls", [TubeViTForVideoClassification, TubeViTForImageClassification, TubeViTModel])
def test_an_image_is_a_clip_of_one_frame(cls):
    model = build(cls=cls)
    clip = random_clip((1, 21, 14))
    as_clip, as_image = model(clip)[0], model(clip[:, 0])[0]
    assert_close(as_image, as_clip, "exact")
    assert as_image.isfinite().all()


def test_one_set_of_weights_serves_videos_and_images():
    video_model = build()
    image_model = TubeViTForImageClassification._from_config(copy.deepcopy(video_model.config)).double().eval()
    image_model.load_state_dict(video_model.state_dict())
    bare_model = TubeViTModel._from_config(copy.deepcopy(video_model.config)).double().eval()
    bare_model.load_state_dict(video_model.tubevit.state_dict())
    for clip in (random_clip(), random_clip()[:, 0]):
        assert_close(image_model(clip).logits, video_model(clip).logits, "exact")
        pooled = bare_model(clip).pooler_output
        assert_close(video_model.classifier(pooled), video_model(clip).logits, "exact")


def test_names_and_shapes_of_the_state_dict():
    """The contract with every saved checkpoint."""
    tubes = TUBES["mixed"]
    settings = {**FREEZE_SETTINGS, "num_hidden_layers": 2, "position_embedding_type": "pretrained"}

    def linear(name, inputs, outputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name):
        return {f"{name}.weight": (20,), f"{name}.bias": (20,)}

    def attention(name):
        names = [f"{name}.{projection}_proj" for projection in "qkvo"]
        return {key: shape for projection in names for key, shape in linear(projection, 20, 20).items()}

    expected = {
        "embeddings.cls_token": (1, 1, 20),
        "embeddings.register_tokens": (1, 3, 20),
        # the patch, and no other tube, has one of its own; 3x3 patches fit 17x23
        "embeddings.position_embeddings.2": (1, 3, 3, 20),
        **norm("embeddings.layernorm"),
        **norm("layernorm"),
        "layers.1.gate": (1,),
        "pooler.query": (1, 1, 20),
        **attention("pooler"),
    }
    for layer in ("layers.0", "layers.1"):
        expected |= attention(f"{layer}.attention") | norm(f"{layer}.layernorm_before")
        expected |= norm(f"{layer}.layernorm_after")
        expected |= linear(f"{layer}.mlp.fc1", 20, 13) | linear(f"{layer}.mlp.fc2", 13, 20)
        expected |= {f"{layer}.layer_scale1.lambda1": (20,), f"{layer}.layer_scale2.lambda1": (20,)}
    for index, out_channels in enumerate([10, 10, 20]):
        expected[f"embeddings.tubes.{index}.bias"] = (out_channels,)

    separate, interpolated = dict(expected), dict(expected)
    for index, out_channels in enumerate([10, 10, 20]):
        separate[f"embeddings.tubes.{index}.weight"] = (out_channels, 2, *tubes[index]["kernel_size"])
    interpolated["embeddings.base_kernel"] = (20, 2, 2, 3, 4)
    for tube_kernels, wanted in (("separate", separate), ("interpolated", interpolated)):
        bare = build(cls=TubeViTModel, tube_kernels=tube_kernels, **settings)
        assert {name: tuple(tensor.shape) for name, tensor in bare.state_dict().items()} == wanted
        heads = build(tube_kernels=tube_kernels, **settings)
        assert {name: tuple(tensor.shape) for name, tensor in heads.state_dict().items()} == {
            **{f"tubevit.{name}": shape for name, shape in wanted.items()},
            "classifier.weight": (3, 20),
            "classifier.bias": (3,),
        }


@pytest.mark.parametrize("settings", [{}, {"position_embedding_type": "learned", **POOLING["attention_with_prefix"]}])
@pytest.mark.parametrize("size", [NATIVE, (5, 33, 19), (1, 12, 40)])
def test_num_tokens_is_the_length_of_the_sequence(size, settings):
    model = build(cls=TubeViTModel, **settings)
    assert model(random_clip(size)).last_hidden_state.shape == (2, model.config.num_tokens(*size), 20)


def test_a_gate_of_zero_is_no_gate():
    gated = build(gate_layer=1, use_layer_scale=True)
    plain = build(use_layer_scale=True)
    with torch.no_grad():
        gated.tubevit.layers[1].gate.zero_()
    missing, unexpected = plain.load_state_dict(gated.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["tubevit.layers.1.gate"])
    outputs = [model(random_clip(), output_hidden_states=True) for model in (gated, plain)]
    for of_gated, of_plain in zip(outputs[0].hidden_states, outputs[1].hidden_states, strict=True):
        assert_close(of_gated, of_plain, "exact")
    assert_close(outputs[0].logits, outputs[1].logits, "exact")


def test_a_new_gate_is_zero_and_learns():
    model = TubeViTForVideoClassification(TubeViTConfig(**BASE, tubes=TUBES["mixed"], gate_layer=1))
    gates = {name: parameter for name, parameter in model.named_parameters() if name.endswith("gate")}
    assert list(gates) == ["tubevit.layers.1.gate"]
    gate = gates["tubevit.layers.1.gate"]
    # sharded training refuses parameters without dimensions
    assert gate.shape == (1,)
    assert not gate.any()
    assert backward(model, random_clip(dtype=torch.float32))["tubevit.layers.1.gate"].abs() > 1e-6


@pytest.mark.parametrize("prefix", [{}, {"use_cls_token": True, "num_register_tokens": 2}])
def test_the_gate_adds_what_enters_the_encoder(prefix):
    """With layers that add nothing, the gated one multiplies by `1 + tanh(gate)`, the embeddings' dropout included."""
    model = build(gate_layer=0, num_hidden_layers=1, hidden_dropout_prob=0.4, use_pre_layernorm=True, **prefix).train()
    layer = model.tubevit.layers[0]
    with torch.no_grad():
        for module in (layer.attention.o_proj, layer.mlp.fc2):
            module.weight.zero_()
            module.bias.zero_()
        layer.gate.fill_(0.5493061443340549)  # atanh(0.5)
    z0, z1 = model(random_clip(), output_hidden_states=True).hidden_states
    dropped = (z0 == 0).double().mean()
    assert 0.3 < dropped < 0.5
    assert_close(z1, 1.5 * z0, "float64")


@pytest.mark.parametrize("settings", [{}, {"use_pre_layernorm": True, **POOLING["cls_with_registers"]}])
def test_first_hidden_state_is_the_embedding_output(settings):
    model = build(gate_layer=1, **settings)
    clip = random_clip()
    hidden_states = model(clip, output_hidden_states=True).hidden_states
    assert_close(hidden_states[0], model.tubevit.embeddings(clip), "exact")


@pytest.mark.parametrize("probability", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_acts_in_training_only(probability):
    model, plain = build(**{probability: 0.5}), build()
    clip = random_clip()
    assert_close(model(clip).logits, plain(clip).logits, "exact")
    model.train()
    assert (model(clip).logits - model(clip).logits).abs().max() > 1e-2


@pytest.mark.parametrize("pooling", ["attention", "mean", "cls_with_registers"])
def test_hidden_states_and_attentions(pooling):
    model = build("eager", num_hidden_layers=3, num_attention_heads=5, **POOLING[pooling])
    num_tokens = model.config.num_tokens()
    clip = random_clip()
    outputs = model(clip, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, num_tokens, 20)] * 4
    # those of the layers; the pooler's single query is not among them
    assert [weights.shape for weights in outputs.attentions] == [(2, 5, num_tokens, num_tokens)] * 3
    for weights in outputs.attentions:
        assert_close(weights.sum(dim=-1), torch.ones(2, 5, num_tokens).double(), "float64")

    plain = model(clip)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert_close(plain.logits, outputs.logits, "exact")
    as_tuple = model(clip, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert [type(item) for item in as_tuple] == [torch.Tensor, tuple, tuple]
    assert_close(as_tuple[0], outputs.logits, "exact")


def test_masked_tokens_get_no_attention():
    model = build("eager", use_cls_token=True)
    frame_mask = mask_of([9, 5], 9)
    attentions = model(random_clip(), frame_mask=frame_mask, output_attentions=True).attentions
    valid = naive.naive_forward(
        dict(model.named_parameters()), model.config.to_dict(), random_clip(), frame_mask
    ).valid
    assert 0 < (~valid[1]).sum() < valid.shape[1]
    for weights in attentions:
        assert not weights[1][:, :, ~valid[1]].any()
        assert weights[1][:, :, valid[1]].all()
        assert weights[0].all()


def test_attentions_need_eager_attention():
    model = build("sdpa")
    assert not model(random_clip(), output_attentions=True).attentions
    with pytest.raises(ValueError, match=r"output_attentions.*sdpa"):
        model.config.output_attentions = True


def cross_entropy(logits, labels):
    """Mean over the rows that have a class."""
    rows = [row for row, label in enumerate(labels.tolist()) if label != -100]
    return -sum(logits[row].log_softmax(-1)[labels[row]] for row in rows) / len(rows)


def soft_cross_entropy(logits, labels):
    """Mean over rows."""
    return -(labels * logits.log_softmax(-1)).sum() / len(logits)


def binary_cross_entropy(logits, labels):
    """Mean over entries."""
    losses = labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()
    return -losses.sum() / logits.numel()


def squared_error(logits, labels):
    """Mean over entries."""
    return ((logits - labels.view_as(logits)) ** 2).sum() / logits.numel()


SOFT = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5], [0.6, 0.1, 0.3], [0, 0, 1]])
SEVERAL = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
NUMBERS = torch.tensor([[1.5, -2, 0.3], [0, 4, 1], [-1, -1, 2], [0.5, 0, 0], [3, 2, 1], [2, -3, 1]])
LOSSES = {
    "classes": (None, 3, torch.tensor([2, 0, 1, 1, 0, 2]), cross_entropy),
    "classes_int32": (None, 3, torch.tensor([2, 0, 1, 1, 0, 2], dtype=torch.int32), cross_entropy),
    "classes_some_unknown": (None, 3, torch.tensor([2, -100, 1, -100, -100, 2]), cross_entropy),
    "soft": ("single_label_classification", 3, SOFT, soft_cross_entropy),
    "soft_float64": ("single_label_classification", 3, SOFT.double(), soft_cross_entropy),
    "several_inferred": (None, 3, SEVERAL.float(), binary_cross_entropy),
    "several_whole": ("multi_label_classification", 3, SEVERAL, binary_cross_entropy),
    "regression_of_one": (None, 1, NUMBERS[:, 0], squared_error),
    "regression_of_one_column": (None, 1, NUMBERS[:, :1], squared_error),
    "regression_of_many": ("regression", 3, NUMBERS, squared_error),
}
INFERRED = {
    cross_entropy: "single_label_classification",
    binary_cross_entropy: "multi_label_classification",
    squared_error: "regression",
}


@pytest.mark.parametrize("kind", LOSSES)
def test_loss(kind):
    problem_type, num_labels, labels, formula = LOSSES[kind]
    model = build(problem_type=problem_type, num_labels=num_labels)
    outputs = model(random_clip(batch=6), labels=labels)
    assert_close(outputs.loss, formula(outputs.logits, labels), "float64", kind)
    # what is inferred is noted, as everywhere in transformers
    assert model.config.problem_type == (problem_type or INFERRED[formula])
    assert outputs.loss.requires_grad
    assert model(random_clip(batch=6)).loss is None


@pytest.mark.parametrize("kind", LOSSES)
def test_accumulated_micro_batches_equal_the_full_batch(kind):
    """The Trainer passes the number of label entries other than -100 in all micro-batches together."""
    problem_type, num_labels, labels, _ = LOSSES[kind]
    model = build(problem_type=problem_type, num_labels=num_labels)
    clips = random_clip(batch=6)
    num_items = labels.ne(-100).sum()
    model(clips, labels=labels).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    for items in (num_items, num_items.item()):
        model.zero_grad()
        loss = 0.0
        # of different length, one of them without a class in the third case
        for rows in (slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 6)):
            part = model(clips[rows], labels=labels[rows], num_items_in_batch=items).loss
            part.backward()
            loss += part.item()
        assert_close(torch.tensor(loss, dtype=torch.float64), model(clips, labels=labels).loss.item(), "float64")
        assert_all_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected, "float64")


@pytest.mark.parametrize(
    ("settings", "labels", "fragments"),
    [
        ({}, torch.tensor([0, 3]), ["`labels`", "from 0 to 2", "`num_labels` is 3", "[3]"]),
        ({}, torch.tensor([-1, 2]), ["`labels`", "from 0 to 2", "[-1]"]),
        ({}, torch.tensor([-100, -99]), ["`labels`", "from 0 to 2", "[-99]"]),
        ({}, torch.tensor([0, 1, 2]), ["`labels`", "(2,)", "(3,)", "'single_label_classification'"]),
        ({}, torch.tensor([[0], [1]]), ["`labels`", "(2,)", "(2, 1)", "int64"]),
        ({}, torch.tensor([0.0, 1.0]), ["`labels`", "(2, 3)", "(2,)", "float32"]),
        ({}, torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]]), ["`labels`", "between 0 and 1", "[2.0]"]),
        (
            {"problem_type": "multi_label_classification"},
            torch.tensor([[0, 1, 0], [1, 0, -100]]),
            ["`labels`", "between 0 and 1", "-100"],
        ),
        (
            {"problem_type": "multi_label_classification"},
            torch.tensor([0, 2]),
            ["`labels`", "(2, 3)", "(2,)", "'multi_label_classification'"],
        ),
        (
            {"problem_type": "single_label_classification"},
            torch.tensor([[0.5, 0.7, -0.2], [1.0, 0.0, 0.0]]),
            ["`labels`", "between 0 and 1", "-0.2"],
        ),
        (
            {"problem_type": "single_label_classification"},
            torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
            ["`labels`", "(2, 3)", "(2, 2)"],
        ),
        ({"problem_type": "regression"}, torch.tensor([0.5, 1.0]), ["`labels`", "(2, 3)", "(2,)", "'regression'"]),
        ({"num_labels": 1}, torch.tensor([0.5, 1.0, 2.0]), ["`labels`", "(2, 1)", "(3, 1)", "'regression'"]),
    ],
)
def test_bad_labels_are_refused(settings, labels, fragments):
    model = build(**settings)
    with pytest.raises(ValueError) as caught:
        model(random_clip(), labels=labels)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("clip", "frame_mask", "fragments"),
    [
        pytest.param(None, None, ["`pixel_values`", "missing"], id="none"),
        # the patch sees the least: 1x5x4
        pytest.param(
            random_clip((9, 3, 23)), None, ["9 frame(s) of 3x23", "1x5x4", "offset [0, 0, 0]"], id="no-tube-fits"
        ),
        pytest.param(random_clip((0, 17, 23)), None, ["0 frame(s) of 17x23", "1x5x4"], id="no-frames"),
        pytest.param(
            random_clip()[:, :, :1], None, ["`pixel_values`", "1 channels", "`num_channels` is 2"], id="channels"
        ),
        pytest.param(
            random_clip().transpose(1, 2), None, ["9 channels", "`num_channels` is 2", "(2, 2, 9, 17, 23)"], id="order"
        ),
        pytest.param(
            random_clip()[:, 0, :1], None, ["1 channels", "`num_channels` is 2", "image"], id="image-channels"
        ),
        pytest.param(random_clip()[0, 0], None, ["`pixel_values`", "(2, 17, 23)", "batch"], id="three-axes"),
        pytest.param(random_clip()[None], None, ["`pixel_values`", "(1, 2, 9, 2, 17, 23)"], id="six-axes"),
        pytest.param(
            random_clip().to(torch.uint8), None, ["`pixel_values`", "floating point", "torch.uint8"], id="uint8"
        ),
        pytest.param(
            random_clip(), torch.ones(2, 8) > 0, ["`frame_mask`", "(2, 9)", "(2, 8)"], id="mask-of-other-length"
        ),
        pytest.param(random_clip(), torch.ones(1, 9) > 0, ["`frame_mask`", "(2, 9)", "(1, 9)"], id="mask-of-one-row"),
        pytest.param(random_clip(), torch.ones(9) > 0, ["`frame_mask`", "(2, 9)", "(9,)"], id="mask-without-batch"),
        pytest.param(random_clip(), torch.ones(2, 9), ["`frame_mask`", "bool", "torch.float32"], id="mask-of-floats"),
        pytest.param(
            random_clip(batch=3),
            mask_of([9, 0, 0], 9),
            ["`frame_mask`", "clip(s) [1, 2]", "without a valid token", "[0, 0]"],
            id="row-without-token",
        ),
    ],
)
@pytest.mark.parametrize("attn", ATTENTION)
def test_bad_clips_are_refused(clip, frame_mask, fragments, attn):
    # CLS and registers are always there, and no excuse for a clip without a token of its own
    model = build(attn, use_cls_token=True, num_register_tokens=1)
    with pytest.raises(ValueError) as caught:
        model(clip, frame_mask=frame_mask)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_clip_that_no_tube_fits_names_the_tube_of_smallest_volume():
    tubes = [
        {"kernel_size": [4, 4, 4], "stride": 8, "offset": [0, 1, 2]},  # 64 pixels
        {"kernel_size": [1, 2, 2], "stride": 32, "space_to_depth": [1, 2, 2]},  # 1x18x18: 324 pixels
    ]
    with pytest.raises(ValueError, match=r"3 frame\(s\) of 17x23.*4x4x4.*offset \[0, 1, 2\]"):
        build(tubes=tubes)(random_clip((3, 17, 23)))


def test_checks_of_values_are_left_out_of_compiled_models():
    model = build(use_cls_token=True)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    bad_mask = mask_of([9, 0], 9)
    assert compiled(random_clip(), frame_mask=bad_mask).logits.isfinite().all()
    with pytest.raises(ValueError, match="without a valid token"):
        model(random_clip(), frame_mask=bad_mask)
    labels = torch.tensor([[0.5, 0.5, 3.0], [0.0, 1.0, 0.0]])
    assert compiled(random_clip(), labels=labels).loss.isfinite()
    with pytest.raises(ValueError, match=r"between 0 and 1.*3\.0"):
        model(random_clip(), labels=labels)


FREEZE_SETTINGS = {
    "num_hidden_layers": 3,
    "gate_layer": 1,
    "use_layer_scale": True,
    "use_pre_layernorm": True,
    "position_embedding_type": "learned",
    **POOLING["attention_with_prefix"],
}


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
    model = build(
        tube_kernels=tube_kernels, **FREEZE_SETTINGS, freeze_before=before if where == "config" else None
    ).train()
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


def test_freezing_can_be_changed_and_undone():
    model = build(**FREEZE_SETTINGS)
    for before in (3, 1, 0, 2, None, 1, None):
        model.freeze_before(before)
        assert model.config.freeze_before == before
        assert model.tubevit.config.freeze_before == before
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != is_frozen(name, before), (name, before)
    for before in (4, -1):
        with pytest.raises(ValueError, match=rf"`layer`.*0 to 3.*{before}"):
            model.freeze_before(before)


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
    model = build(**FREEZE_SETTINGS)
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
    settings = {**FREEZE_SETTINGS, "gate_layer": gate_layer, "freeze_before": before}
    model = build(**settings).train()
    inputs = {"pixel_values": random_clip(), "frame_mask": mask_of([9, 6], 9)}
    expected = backward(model, **inputs)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert model.is_activation_checkpointing
    assert_all_close(backward(model, **inputs), expected, "float64")
    assert {name for name in expected if is_frozen(name, before)} == set()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_recomputes_the_same_dropout(use_reentrant):
    model = build(gate_layer=1, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3).train()
    torch.manual_seed(3)
    expected = backward(model, random_clip())
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})
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
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert_all_close(backward(model, random_clip()), expected, "float64")


@pytest.mark.parametrize("tube_kernels", ["separate", "interpolated"])
@pytest.mark.parametrize("kind", ["tube_center", "learned", "pretrained"])
@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_the_pixels_of_a_processor(dtype, attn, kind, tube_kernels):
    """Against the same rounded weights in float32, at a size that is not native."""
    model = build(attn, dtype, position_embedding_type=kind, tube_kernels=tube_kernels, gate_layer=1)
    exact = copy.deepcopy(model).float()
    clip = random_clip((7, 20, 19), dtype=torch.float32)
    for frame_mask in (None, mask_of([7, 5], 7)):
        logits = model(clip, frame_mask=frame_mask).logits
        assert logits.dtype == dtype
        assert_close(logits.float(), exact(clip, frame_mask=frame_mask).logits, str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_computed_in_float32(dtype):
    """bfloat16 holds whole numbers up to 256 only, and float16 halves up to 1,024: far centres would be rounded."""
    tubes = [{"kernel_size": [1, 3, 3], "stride": [1, 1, 63], "offset": [500, 300, 5]}]
    model = build(dtype=dtype, cls=TubeViTModel, tubes=tubes, num_channels=1)
    with torch.no_grad():
        model.embeddings.tubes[0].weight.zero_()
        model.embeddings.tubes[0].bias.zero_()
    embedded = model.embeddings(torch.zeros(1, 501, 1, 303, 700))[0]
    expected = torch.stack([naive.sincos(500.5, 301.5, 6.5 + 63 * index, 20) for index in range(11)])
    assert_close(embedded, expected, "rounded_to_bfloat16")


@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("pooling", ["attention_with_prefix", "mean", "cls"])
def test_autocast(attn, pooling):
    model = build(attn, torch.float32, gate_layer=1, **POOLING[pooling])
    clip, frame_mask = random_clip(dtype=torch.float32), mask_of([9, 6], 9)
    expected = model(clip, frame_mask=frame_mask, labels=torch.tensor([0, 2]))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(clip, frame_mask=frame_mask, labels=torch.tensor([0, 2]), output_hidden_states=True)
    assert_close(outputs.logits.float(), expected.logits, "bfloat16")
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    # as in every other model: what the layers add is rounded, the sum that they add to is not
    assert {state.dtype for state in outputs.hidden_states} == {torch.float32}


COMPILED = [
    pytest.param(False, "sdpa", {}, id="sdpa"),
    pytest.param(True, "sdpa", {}, id="sdpa-masked"),
    pytest.param(True, "eager", {"use_pre_layernorm": True, "position_embedding_type": "pretrained"}, id="pretrained"),
    pytest.param(
        True, "sdpa", {"gate_layer": 1, "tube_kernels": "interpolated", **POOLING["mean_with_prefix"]}, id="mean"
    ),
    pytest.param(
        False, "eager", {"use_layer_scale": True, "position_embedding_type": "learned", **POOLING["cls"]}, id="cls"
    ),
]


@pytest.fixture
def fresh_compiler():
    """What one test compiled must not count against the recompile limit of the next."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(("masked", "attn", "settings"), COMPILED)
def test_compiled_model_equals_eager(masked, attn, settings, fresh_compiler):
    model = build(attn, **settings).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    labels = torch.tensor([0, 2])
    frame_mask = mask_of([9, 6], 9) if masked else None
    inputs = {"pixel_values": random_clip(), "frame_mask": frame_mask, "labels": labels}
    expected = model(**inputs)
    outputs = compiled(**inputs)
    assert_close(outputs.logits, expected.logits, "float64")
    assert_close(outputs.loss, expected.loss, "float64")
    parameters = dict(model.named_parameters())
    assert_all_close(gradients(outputs.loss, parameters), gradients(expected.loss, parameters), "float64")
    # an image is another size and another number of tubes
    image = random_clip((1, 12, 19), batch=3)[:, 0]
    assert_close(compiled(image).logits, model(image).logits, "float64")


def test_compiled_by_inductor(fresh_compiler):
    model = build(dtype=torch.float32, gate_layer=1)
    inputs = {"pixel_values": random_clip(dtype=torch.float32), "frame_mask": mask_of([9, 6], 9)}
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(**inputs)
        assert_close(compiled.logits, model(**inputs).logits, "float32")


@pytest.mark.parametrize("settings", [{}, {"gate_layer": 1, **POOLING["mean_with_prefix"]}], ids=["attention", "mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_export_with_any_batch_size(masked, settings):
    model = build(**settings)

    def inputs(batch):
        clip = random_clip(batch=batch, seed=batch)
        return {"pixel_values": clip, **({"frame_mask": mask_of([9, 6, 4, 9, 1][:batch], 9)} if masked else {})}

    batch = torch.export.Dim("batch", min=1, max=16)
    dynamic_shapes = {name: {0: batch} for name in inputs(2)}
    program = torch.export.export(model, (), kwargs=inputs(2), dynamic_shapes=dynamic_shapes).module()
    for size in (1, 2, 5):
        assert_close(program(**inputs(size)).logits, model(**inputs(size)).logits, "float64")


def test_flex_attention_equals_eager(fresh_compiler):
    """Padded and unpadded clips; the pooler has one query only."""
    model = build("flex_attention", torch.float32, gate_layer=1, use_cls_token=True)
    eager = build("eager", torch.float32, gate_layer=1, use_cls_token=True)
    inputs = {"pixel_values": random_clip(batch=3, dtype=torch.float32), "frame_mask": mask_of([9, 6, 1], 9)}
    # flex has no backward on CPU
    with torch.no_grad():
        assert_close(model(**inputs).logits, eager(**inputs).logits, "float32")


def test_loss_function_is_the_packages_own():
    """transformers picks a loss by class name, which knows no soft labels."""
    assert build().loss_function is classification_loss


@pytest.fixture
def cuda():
    """Skips where there is no GPU, unless `FAIL_WITHOUT_CUDA=1` says that there must be one."""
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            pytest.fail("FAIL_WITHOUT_CUDA=1, but torch finds no CUDA device")
        pytest.skip("needs a GPU")
    return torch.device("cuda")


@contextlib.contextmanager
def exact_products():
    """float32 products on a GPU without rounding to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_a_gpu(cuda, attn, masked, fresh_compiler):
    """Every kind in bfloat16, forward and backward, against float32 on the CPU; heads as wide as kernels want them."""
    if attn == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("needs flash_attn")
    settings = {"hidden_size": 64, "gate_layer": 1, "use_cls_token": True, "tubes": TUBES["plain"]}
    model = build(attn, torch.bfloat16, **settings)
    exact = build("eager", torch.bfloat16, **settings).float()
    inputs = {"pixel_values": random_clip(dtype=torch.float32), "frame_mask": mask_of([9, 6], 9) if masked else None}
    expected = exact(**inputs).logits
    model.to(cuda)
    logits = model(**{name: None if value is None else value.to(cuda) for name, value in inputs.items()}).logits
    assert_close(logits.float().cpu(), expected, "bfloat16")
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["tube_center", "pretrained"])
def test_gpu_equals_cpu(cuda, kind):
    model = build(dtype=torch.float32, position_embedding_type=kind, gate_layer=1)
    clip, frame_mask = random_clip((11, 20, 25), dtype=torch.float32), mask_of([11, 6], 11)
    expected = model(clip, frame_mask=frame_mask, labels=torch.tensor([0, 2]))
    model.to(cuda)
    with exact_products():
        # labels and mask may still be on the CPU
        outputs = model(clip.to(cuda), frame_mask=frame_mask, labels=torch.tensor([0, 2]))
    assert_close(outputs.logits.cpu(), expected.logits, "float32")
    assert_close(outputs.loss.cpu(), expected.loss, "float32")
