# SPDX-License-Identifier: Apache-2.0
"""Pre-training against the naive oracle, values and gradients, and what it promises around them."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from tubevit_hf import TubeViTConfig, TubeViTForPreTraining, TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.model.pretraining_tubevit import pixel_targets

from ..support import naive
from ..support.modeling_cases import ALL_PARTS, NATIVE, TUBES, assert_all_close, build, gradients, random_clip
from ..support.tolerances import assert_close


FEATURES = {"target": "features", "target_size": 7}
PIXELS = {"target": "pixels", "pixel_size": [2, 3, 2]}
# of the 8, 4 and 18 tokens of the tubes "mixed", in no order; `MIXED` has visible and hidden ones
VISIBLE = torch.tensor([8, 1, 25, 0, 12])
AMONG_VISIBLE = torch.tensor([12, 0, 25])
MIXED = torch.tensor([3, 12, 29, 0, 10])
# learned tables, a gate, registers, layer scale and a norm before the encoder
PARTS = {**ALL_PARTS, "pooling_type": "mean"}


def pretraining_model(pretraining: dict, **settings) -> TubeViTForPreTraining:
    return build(cls=TubeViTForPreTraining, pretraining=pretraining, **settings)


def random_targets(predictions: torch.Tensor) -> torch.Tensor:
    return torch.randn(predictions.shape, generator=torch.Generator().manual_seed(3)).to(predictions.dtype)


@pytest.mark.parametrize(
    ("pretraining", "settings", "visible", "targets"),
    [
        (FEATURES, {}, None, None),
        ({**FEATURES, "layers": [1, 3]}, PARTS, VISIBLE, AMONG_VISIBLE),
        ({**FEATURES, "layers": [1]}, {"position_embedding_type": "pretrained"}, None, MIXED),
        ({**FEATURES, "layers": [2], "decoder_layers": 2}, PARTS, VISIBLE, MIXED),
        ({**FEATURES, "decoder_layers": 1}, {"position_embedding_type": "tube_center"}, VISIBLE, None),
        ({**FEATURES, "decoder_layers": 1}, {"position_embedding_type": "none"}, None, MIXED),
        (
            {**PIXELS, "decoder_layers": 1},
            {"tubes": TUBES["time_and_space"], "use_cls_token": True},
            torch.tensor([9, 0, 3]),
            torch.tensor([2, 15, 3]),
        ),
    ],
    ids=[
        "all",
        "visible-and-all-parts",
        "first-layer",
        "decoder-and-all-parts",
        "decoder",
        "nothing-missing",
        "pixels",
    ],
)
def test_values_and_gradients_are_those_of_the_oracle(pretraining, settings, visible, targets):
    model = pretraining_model(pretraining, **settings)
    pixels = random_clip().requires_grad_()
    outputs = model(pixels, visible_tokens=visible, target_tokens=targets)
    every = range(model.config.num_tokens(*NATIVE) - model.config.num_prefix_tokens)
    state = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    expected_pixels = random_clip().requires_grad_()
    expected = naive.naive_pretraining(
        state,
        model.config.to_dict(),
        expected_pixels,
        list(every) if visible is None else visible.tolist(),
        list(every) if targets is None else targets.tolist(),
    )
    assert_close(outputs.predictions, expected, "float64", "predictions")

    if pretraining["target"] == "pixels":
        loss = outputs.loss
        wanted = naive.naive_pixel_targets(model.config.to_dict(), random_clip())[:, targets][:, :, None]
    else:
        assert outputs.loss is None
        wanted = random_targets(expected)
        loss = model(pixels, wanted, visible, targets).loss
    expected_loss = (expected - wanted).square().mean()
    assert_close(loss, expected_loss, "float64", "loss")

    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    actual = gradients(loss, {"pixels": pixels, **named})
    expected_gradients = gradients(expected_loss, {"pixels": expected_pixels, **{name: state[name] for name in named}})
    assert_all_close(actual, expected_gradients, "float64")


@pytest.mark.parametrize(
    ("tubes", "pixel_size"),
    [("mixed", [2, 3, 2]), ("time_and_space", [3, 2, 4]), ("space", [1, 1, 1]), ("plain", [5, 7, 6])],
)
def test_pixels_are_averaged_over_what_a_token_sees(tubes, pixel_size):
    """Also where a token sees fewer frames or pixels than that."""
    model = pretraining_model({"target": "pixels", "pixel_size": pixel_size}, tubes=TUBES[tubes])
    clip = random_clip(batch=1)
    expected = naive.naive_pixel_targets(model.config.to_dict(), clip)
    actual = pixel_targets(clip, model.tubevit.embeddings.geometry, pixel_size)
    assert_close(actual, expected, "float64", "targets")
    outputs = model(clip)
    assert_close(outputs.loss, (outputs.predictions[:, :, 0] - expected).square().mean(), "float64", "loss")


def test_regions_of_one_value_give_no_nan():
    model = pretraining_model({**PIXELS, "decoder_layers": 1}, dtype=torch.float32)
    still = torch.full((2, 9, 2, 17, 23), 0.7)
    assert_close(pixel_targets(still, model.tubevit.embeddings.geometry, [2, 3, 2]), torch.zeros(2, 30, 24), "float32")
    loss = model(still, visible_tokens=VISIBLE, target_tokens=MIXED).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loss_is_computed_in_float32(dtype):
    model = pretraining_model({**FEATURES, "decoder_layers": 1}, dtype=dtype)
    clip = random_clip(dtype=torch.float32)
    predictions = model(clip, None, VISIBLE, MIXED).predictions
    assert predictions.dtype == dtype
    targets = torch.randn(predictions.shape)
    loss = model(clip, targets, VISIBLE, MIXED).loss
    assert loss.dtype == torch.float32
    assert_close(loss, (predictions.double() - targets).square().mean(), "float32", "loss")


def test_an_image_is_a_clip_of_one_frame():
    model = pretraining_model(PIXELS)
    image = random_clip(batch=3)[:, 0]
    outputs = model(image)
    # the 9 patches alone fit
    assert outputs.predictions.shape == (3, 9, 1, 24)
    assert torch.equal(outputs.loss, model(image[:, None]).loss)


def test_only_visible_tokens_and_needed_layers_run():
    model = pretraining_model({**FEATURES, "layers": [1, 2]}, **{**PARTS, "num_hidden_layers": 4})
    shapes = []
    for layer in model.tubevit.layers:
        layer.register_forward_hook(lambda *arguments: shapes.append(arguments[2].shape))
    model(random_clip(), visible_tokens=VISIBLE, target_tokens=AMONG_VISIBLE)
    # CLS, three registers and five tokens
    assert shapes == [(2, 9, 20)] * 2


@pytest.mark.parametrize("decoder_layers", [0, 2])
def test_what_runs_is_trained_and_nothing_else(decoder_layers):
    model = pretraining_model({**FEATURES, "layers": [2], "decoder_layers": decoder_layers}, **PARTS)

    def check(frozen: tuple[str, ...]) -> None:
        model.zero_grad()
        tokens = {"visible_tokens": VISIBLE, "target_tokens": MIXED if decoder_layers else AMONG_VISIBLE}
        model(random_clip(), random_targets(model(random_clip(), **tokens).predictions), **tokens).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad is not name.startswith(frozen), name
            assert (parameter.grad is None) is name.startswith(frozen), name

    unused = ("tubevit.layers.2.", "tubevit.pooler.")
    check(unused)
    model.freeze_before(1)
    check((*unused, "tubevit.embeddings.", "tubevit.layers.0."))
    model.freeze_before(None)
    check(unused)


def test_hidden_states_are_those_of_the_encoder():
    model = pretraining_model({**FEATURES, "layers": [2], "decoder_layers": 2}, attn="eager", **PARTS)
    outputs = model(random_clip(), None, VISIBLE, MIXED, output_hidden_states=True, output_attentions=True)
    assert [states.shape for states in outputs.hidden_states] == [(2, 9, 20)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(2, 2, 9, 9)] * 2
    assert torch.equal(outputs.hidden_states[0][:, 4:], model.tubevit.embeddings(random_clip())[:, 4:][:, VISIBLE])
    assert model(random_clip(), None, VISIBLE, MIXED).hidden_states is None


@pytest.mark.parametrize("attn", ["eager", "flex_attention"])
def test_every_attention_gives_the_same(attn):
    # flex attention on a CPU takes heads of at least 16
    settings = {"hidden_size": 40, "dtype": torch.float32, **PARTS}
    pretraining = {**FEATURES, "layers": [2], "decoder_layers": 1}
    expected = pretraining_model(pretraining, **settings)(random_clip(dtype=torch.float32), None, VISIBLE, MIXED)
    model = pretraining_model(pretraining, attn=attn, **settings)
    with torch.no_grad():
        outputs = model(random_clip(dtype=torch.float32), None, VISIBLE, MIXED)
    assert_close(outputs.predictions, expected.predictions.detach(), "float32", attn)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(use_reentrant):
    model = pretraining_model({**FEATURES, "layers": [2], "decoder_layers": 2}, **PARTS, hidden_dropout_prob=0.2)
    model.train()
    clip, targets = random_clip(), random_targets(torch.empty(2, 5, 1, 7, dtype=torch.float64))

    def train() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(5)
        model(clip, targets, VISIBLE, MIXED).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}

    expected = train()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_all_close(train(), expected, "float64")


def test_a_checkpoint_is_read_by_the_auto_classes(tmp_path):
    pretraining = {**FEATURES, "layers": [2], "decoder_layers": 1}
    model = pretraining_model(pretraining, dtype=torch.float32, **PARTS)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pretraining"] == pretraining
    clip = random_clip(dtype=torch.float32)

    loaded, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is TubeViTForPreTraining
    assert not any(info.values())
    assert torch.equal(loaded(clip, None, VISIBLE, MIXED).predictions, model(clip, None, VISIBLE, MIXED).predictions)
    # loaded parameters replace those that were frozen
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]

    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is TubeViTModel
    assert not info["missing_keys"]
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"heads", "decoder"}
    assert torch.equal(encoder(clip).pooler_output, model.tubevit(clip).pooler_output)
    assert all(parameter.requires_grad for parameter in encoder.parameters())

    classifier = TubeViTForVideoClassification.from_pretrained(tmp_path)
    assert torch.equal(classifier.tubevit(clip).last_hidden_state, encoder(clip).last_hidden_state)


def test_earlier_versions_read_a_config_without_pretraining(tmp_path):
    build().save_pretrained(tmp_path)
    assert "pretraining" not in json.loads((tmp_path / "config.json").read_text())
    assert TubeViTConfig.from_pretrained(tmp_path).pretraining is None
    given = TubeViTConfig.from_pretrained(tmp_path, pretraining={"target": "pixels"})
    assert given.pretraining == {"target": "pixels", "layers": [2], "decoder_layers": 0, "pixel_size": [2, 8, 8]}


def test_defaults_are_filled_in_however_the_field_is_set():
    complete = {"target": "features", "layers": [12], "decoder_layers": 0, "target_size": 5}
    given = {"target_size": 5}
    assert TubeViTConfig(pretraining=given).pretraining == complete
    config = TubeViTConfig()
    config.pretraining = given
    assert config.pretraining == complete
    assert given == {"target_size": 5}
    assert config.pretraining_size == 5
    config.pretraining = {"target": "pixels", "layers": (3,), "pixel_size": (1, 2, 4)}
    assert config.pretraining == {"target": "pixels", "layers": [3], "decoder_layers": 0, "pixel_size": [1, 2, 4]}
    assert config.pretraining_size == 3 * 8
    config.pretraining = None
    assert config.pretraining_size == 0


@pytest.mark.parametrize(
    ("pretraining", "settings", "message"),
    [
        ({"target": "words"}, {}, r"'target'.*'features' or 'pixels', got 'words'"),
        ({}, {}, "lacks 'target_size'"),
        ({"target_size": 5, "layer": [1]}, {}, r"unknown key 'layer'.*Did you mean 'layers'\?"),
        ({"target_size": 5, "pixel_size": [2, 8, 8]}, {}, "unknown key 'pixel_size' for the target 'features'"),
        ({"target": "pixels", "target_size": 5}, {}, "unknown key 'target_size' for the target 'pixels'"),
        ({"target_size": 0}, {}, r"'target_size'.*a whole number, at least 1, got 0"),
        ({"target_size": True}, {}, r"'target_size'.*got True"),
        ({"target_size": 2**21}, {}, r"'target_size'.*is refused"),
        ({"target": "pixels", "pixel_size": [2, 8]}, {}, r"'pixel_size'.*\[t, h, w\], each at least 1, got \[2, 8\]"),
        ({"target": "pixels", "pixel_size": [2, 8, 0]}, {}, r"'pixel_size'.*got \[2, 8, 0\]"),
        ({"target": "pixels", "pixel_size": [2, 8, 2**9]}, {}, r"'pixel_size'.*is refused"),
        ({"target_size": 5, "layers": []}, {}, r"'layers'.*from 1 to 2.*got \[\]"),
        ({"target_size": 5, "layers": [0, 1]}, {}, r"'layers'.*from 1 to 2.*got \[0, 1\]"),
        ({"target_size": 5, "layers": [2, 1]}, {}, r"'layers'.*ascending.*got \[2, 1\]"),
        ({"target_size": 5, "layers": [3]}, {}, r"'layers'.*from 1 to 2.*got \[3\]"),
        ({"target_size": 5, "layers": 2}, {}, r"'layers'.*got 2"),
        ({"target_size": 5, "layers": [1.0]}, {}, r"'layers'.*got \[1.0\]"),
        ({"target_size": 5, "decoder_layers": -1}, {}, r"'decoder_layers'.*at least 0, got -1"),
        ({"target_size": 5, "decoder_layers": 2**11}, {}, r"'decoder_layers'.*is refused"),
        ({"target_size": 5, "decoder_layers": 1, "layers": [1, 2]}, {}, r"'decoder_layers'.*single number.*\[1, 2\]"),
        ({"target_size": 5}, {"joint_layer": 1}, "`joint_layer` of 0.*got 1"),
    ],
)
def test_a_bad_pretraining_is_refused(pretraining, settings, message):
    with pytest.raises(ValueError, match=message):
        TubeViTConfig(num_hidden_layers=2, pretraining=pretraining, **settings)


def test_the_check_of_weights_counts_heads_and_decoder():
    config = TubeViTConfig.from_preset("Ti", num_labels=0, pretraining={"target": "pixels", "decoder_layers": 3})
    model = TubeViTForPreTraining(config)
    assert model.num_parameters() == pytest.approx(config.count_about(), rel=0.02)


def test_a_model_needs_the_field():
    with pytest.raises(ValueError, match="`pretraining` is None"):
        TubeViTForPreTraining(TubeViTConfig.from_preset("Ti"))


@pytest.mark.parametrize(
    ("pretraining", "arguments", "message"),
    [
        (FEATURES, {"visible_tokens": VISIBLE, "target_tokens": MIXED}, "3 of the `target_tokens` are not among"),
        (FEATURES, {"visible_tokens": VISIBLE}, "25 of the `target_tokens` are not among"),
        (FEATURES, {"visible_tokens": torch.tensor([0, 30])}, "`visible_tokens`.*from 0 to 29.*from 0 to 30"),
        (FEATURES, {"target_tokens": torch.tensor([-1, 3])}, "`target_tokens`.*from 0 to 29.*from -1 to 3"),
        (FEATURES, {"visible_tokens": torch.tensor([2, 3, 2])}, "`visible_tokens`.*different.*2 different ones"),
        (FEATURES, {"visible_tokens": torch.tensor([[2, 3]])}, r"`visible_tokens`.*one axis.*\(1, 2\)"),
        (FEATURES, {"target_tokens": torch.ones(30, dtype=torch.bool)}, "`target_tokens`.*torch.bool"),
        (FEATURES, {"target_tokens": torch.tensor([], dtype=torch.long)}, "`target_tokens`.*at least one"),
        (FEATURES, {"targets": torch.zeros(2, 30, 7)}, r"`targets`.*\(2, 30, 1, 7\), got \(2, 30, 7\)"),
        (PIXELS, {"targets": torch.zeros(2, 30, 1, 24)}, "`targets` are given.*'pixels'"),
        (FEATURES, {"frame_mask": torch.ones(2, 9, dtype=torch.bool)}, "`frame_mask` is not supported"),
    ],
)
def test_bad_inputs_are_refused(pretraining, arguments, message):
    with pytest.raises(ValueError, match=message):
        pretraining_model(pretraining)(random_clip(), **arguments)
