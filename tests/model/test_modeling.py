# SPDX-License-Identifier: Apache-2.0
"""The model against the naive oracle, values and gradients, and what it promises around them.

Clips have an odd length and differ in height and width, kernels and strides differ along each axis, and all parameters
are drawn at random: a swapped axis, a missing bias or a transposed weight changes the numbers.
"""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
)
from tubevit_hf.model.attention_tubevit import eager_attention_forward

from ..support import naive
from ..support.modeling_cases import (
    ALL_PARTS,
    ATTENTION,
    BASE,
    NATIVE,
    PATCH,
    POOLING,
    TUBES,
    assert_all_close,
    backward,
    build,
    gradients,
    mask_of,
    random_clip,
)
from ..support.tolerances import assert_close


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
@pytest.mark.parametrize("kind", ["tube_center", "tube_index", "learned", "pretrained", "spatial", "none"])
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
    ("kind", "tube_kernels"),
    [("learned", "separate"), ("pretrained", "interpolated"), ("spatial", "separate"), ("tube_index", "separate")],
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


@pytest.mark.parametrize("kind", ["tube_center", "learned", "pretrained", "spatial"])
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
    settings = {**ALL_PARTS, "num_hidden_layers": 2, "position_embedding_type": "pretrained"}

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


def test_finer_strides_keep_the_tokens_that_were_there():
    """Kernels, positions and all, at every other row."""
    parts = {"kernel_size": [2, 3, 4], "stride": [4, 8, 10], "space_to_depth": [2, 1, 1]}
    native = build(cls=TubeViTModel, tubes=[*TUBES["plain"], parts])
    config = copy.deepcopy(native.config)
    config.refine_strides((1, 2, 1))
    finer = TubeViTModel(config).double().eval()
    finer.load_state_dict(native.state_dict())
    clip = random_clip()
    tokens = []
    for model in (native, finer):
        embeddings = model(clip, output_hidden_states=True).hidden_states[0]
        grids = model.config.token_grids(clip.shape[1], *clip.shape[-2:])
        parts = embeddings.split([math.prod(grid) for grid in grids], dim=1)
        tokens.append([part.unflatten(1, grid) for part, grid in zip(parts, grids)])
    for before, after in zip(*tokens):
        rows = before.shape[2]
        assert after.shape[2] >= 2 * rows - 1
        assert_close(after[:, :, ::2][:, :, :rows], before, "float64", "tokens")


def test_a_gate_of_zero_is_no_gate():
    gated = build(gate_layer=1, use_layer_scale=True)
    plain = build(use_layer_scale=True)
    with torch.no_grad():
        gated.tubevit.layers[1].gate.zero_()
    ungated = gated.state_dict()
    assert not ungated.pop("tubevit.layers.1.gate")
    plain.load_state_dict(ungated)
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


def test_layers_that_a_user_takes_away_or_adds():
    model = build(num_hidden_layers=3)
    ran = []
    for index, layer in enumerate(model.tubevit.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    layers = model.tubevit.layers
    for chosen in (layers[:2], layers[1:], nn.ModuleList([*layers, layers[0]])):
        model.tubevit.layers = chosen
        model(random_clip())
    assert ran == [0, 1, 1, 2, 0, 1, 2, 0]


def test_a_mask_of_a_users_own_attention_is_asked():
    """Also where no clip is padded."""
    asked = []

    def mask(*args, **kwargs):
        asked.append(kwargs["q_length"])

    def attention(module, query, key, value, attention_mask, **kwargs):
        return eager_attention_forward(module, query, key, value, attention_mask, kwargs["scaling"])

    AttentionInterface.register("of_a_user", attention)
    AttentionMaskInterface.register("of_a_user", mask)
    model = build()
    expected = model(random_clip()).logits
    model.set_attn_implementation("of_a_user")
    assert_close(model(random_clip()).logits, expected, "float64")
    # for the layers, and for the one query of the pooling
    assert len(asked) == 2 and asked[1] == 1


def test_a_projection_whose_output_is_not_contiguous():
    model = build(num_hidden_layers=2, joint_layer=1, tubes=[PATCH])
    clip = random_clip()
    expected = model(clip).logits
    for layer in model.tubevit.layers:
        layer.attention.o_proj.register_forward_hook(lambda _, args, output: output.mT.contiguous().mT)
        layer.attention.q_proj.register_forward_hook(lambda _, args, output: output.mT.contiguous().mT)
    assert_close(model(clip).logits, expected, "float64")


def test_pixels_that_are_negated_lazily():
    model, clip = build(), random_clip()
    assert_close(model(torch._neg_view(clip)).logits, model(-clip).logits, "exact")


# the grid pooling of tubes of any kind

GRID = {"pooling_type": "grid", "pooling_grid": [3, 2, 2], "pooling_layers": [0, 1, 2]}
STATISTICS = ["means", "changes", "shares", "differences", "peaks", "signed"]


@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("tubes", TUBES)
def test_the_grid_pooling_reads_all_tubes(tubes, attn):
    model = build(attn, tubes=TUBES[tubes], gate_layer=1, use_cls_token=True, num_register_tokens=2, **GRID)
    assert model.config.pooled_size == 3 * 20 * (3 * 4 + 3 * 4 + 2)
    for size in (NATIVE, (14, 19, 29)):
        assert_equals_oracle(model, random_clip(size))


@pytest.mark.parametrize("tubes", ["plain", "mixed"])
def test_the_grid_pooling_of_padded_clips_and_images(tubes):
    """A tube that sees no real frames, or does not fit, is left out."""
    model = build(tubes=TUBES[tubes], **GRID)
    clip = random_clip()
    assert_equals_oracle(model, clip, mask_of([9, 1], 9))
    assert_equals_oracle(model, clip, mask_of([6, 9], 9))
    assert_equals_oracle(model, clip[:, :1])
    padded = model.tubevit(clip, frame_mask=mask_of([1, 6], 9)).pooler_output
    for row, length in enumerate((1, 6)):
        alone = model.tubevit(clip[row : row + 1, :length]).pooler_output[0]
        assert_close(padded[row], alone, "float64")
    packed = model.tubevit([clip[0, :6], clip[1, 0]]).pooler_output
    assert_close(packed[0], model.tubevit(clip[:1, :6]).pooler_output[0], "float64")
    assert_close(packed[1], model.tubevit(clip[1:, 0]).pooler_output[0], "float64")


@pytest.mark.parametrize("statistics", [STATISTICS, ["changes", "signed"], ["peaks"]], ids="-".join)
def test_statistics_of_the_grid_pooling(statistics):
    model = build(tubes=TUBES["mixed"], pooling_statistics=statistics, **GRID)
    assert_equals_oracle(model, random_clip(), mask_of([9, 6], 9))


def test_a_clip_that_runs_backwards():
    """Tubes of one frame, next to each other, see it as its mirror image in time."""
    tubes = [{"kernel_size": [1, 5, 6], "stride": [1, 5, 6]}]
    model = build(tubes=tubes, position_embedding_type="none", pooling_statistics=STATISTICS, **GRID)
    clip = random_clip((9, 17, 23))
    lengths = [*model.config.pooling_parts.values()] * 3
    forwards, backwards = (model.tubevit(each).pooler_output.split(lengths, dim=1) for each in (clip, clip.flip(1)))
    for name, before, after in zip(STATISTICS * 3, forwards, backwards):
        if name in ("means", "changes", "shares"):
            assert_close(after, before, "float64", name)
        elif name == "signed":
            assert_close(after, -before, "float64", name)
            assert before.abs().min() > 1e-6
        else:
            assert (after - before).abs().max() > 1e-3


def test_tubes_are_read_where_they_lie():
    """Tubes of the left and of the right half, and of earlier and later frames, are told apart."""
    tubes = [
        {"kernel_size": [2, 8, 8], "stride": [2, 8, 8]},
        {"kernel_size": [2, 8, 8], "stride": [2, 8, 8], "offset": [4, 0, 16]},
    ]
    model = build(tubes=tubes, **{**GRID, "pooling_grid": [4, 1, 4]})
    model.config.pooling_type = "grid"
    layout = model.config.token_layout(8, 8, 32)
    assert layout.grids == ((4, 1, 4), (2, 1, 2))
    states = torch.zeros(1, layout.num_tokens, 20, dtype=torch.float64)
    # the second tube alone has something: in the later half of time, and the right half of space
    states[:, -4:] = 1
    pooled = model.tubevit.pooler(states, layout, None, {2: states})
    means = pooled[0, : 4 * 20].unflatten(0, (4, 20)).mean(1)
    assert_close(means, torch.tensor([0, 0, 0.5, 0.5], dtype=torch.float64), "float64")
