# SPDX-License-Identifier: Apache-2.0
"""Frames that are encoded by themselves up to `joint_layer`, and what pools them: against loops and images."""

import pytest
import torch

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTModel

from ..support import naive
from ..support.modeling_cases import ATTENTION, BASE, NATIVE, assert_all_close, build, gradients, mask_of, random_clip
from ..support.tolerances import assert_close


# five moments of 2 x 3 patches, a second tube of one frame, and one over several frames
MOMENT = {"kernel_size": [1, 5, 4], "stride": [2, 6, 8], "offset": [0, 1, 0]}
SECOND = {"kernel_size": [1, 3, 7], "stride": [2, 5, 5]}
MOTION = {"kernel_size": [3, 4, 5], "stride": [4, 8, 9], "offset": [1, 2, 0]}
PREFIX = {"use_cls_token": True, "num_register_tokens": 2}
CASES = {
    "attention": {"tubes": [MOTION, MOMENT], "joint_layer": 1, **PREFIX},
    "no_joint_layer": {"tubes": [MOTION, MOMENT], "joint_layer": 3},
    "pooled": {"tubes": [MOMENT, MOTION, SECOND], "joint_layer": 2, "joint_pooling": [2, 2], **PREFIX},
    "gate_after": {"tubes": [MOMENT, MOTION], "joint_layer": 1, "joint_pooling": [1, 2], "gate_layer": 2, **PREFIX},
    "gate_before": {"tubes": [MOMENT, MOTION], "joint_layer": 2, "joint_pooling": [2, 1], "gate_layer": 0},
    "cls": {"tubes": [MOTION, MOMENT], "joint_layer": 2, "joint_pooling": [2, 2], "pooling_type": "cls", **PREFIX},
    "mean": {"tubes": [MOMENT, SECOND], "joint_layer": 2, "pooling_type": "mean", **PREFIX},
    "norm": {
        "tubes": [MOMENT, MOTION],
        "joint_layer": 1,
        "use_pre_layernorm": True,
        "use_layer_scale": True,
        **PREFIX,
    },
    "grid": {"tubes": [MOMENT], "joint_layer": 3, "pooling_type": "grid", "pooling_grid": [2, 2, 2], **PREFIX},
    "grid_of_layers": {
        "tubes": [MOMENT],
        "joint_layer": 2,
        "joint_pooling": [2, 1],
        "pooling_type": "grid",
        "pooling_grid": [4, 1, 3],
        "pooling_layers": [0, 1, 2, 3],
    },
}


def build_case(case: str, attn: str = "eager", **settings) -> TubeViTForVideoClassification:
    return build(attn, num_hidden_layers=3, **{**CASES[case], **settings})


@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [NATIVE, (14, 19, 29)], ids=["native", "larger"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case, size, masked, attn):
    model = build_case(case, attn)
    frame_mask = mask_of([size[0], 5], size[0]) if masked else None
    state = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    clip = random_clip(size)
    expected_pixels, pixels = clip.clone().requires_grad_(), clip.clone().requires_grad_()
    expected, last = naive.naive_joint_forward(state, model.config.to_dict(), expected_pixels, frame_mask)
    outputs = model.tubevit(pixels, frame_mask=frame_mask)
    assert outputs.pooler_output.shape == (2, model.config.pooled_size)
    assert_close(outputs.pooler_output, expected, "float64", "pooler output")
    valid = torch.ones(outputs.last_hidden_state.shape[:2], dtype=torch.bool)
    if masked:
        valid = model.tubevit.embeddings.token_mask(clip, frame_mask)
        assert not valid.all()
    for row in range(2):
        assert_close(outputs.last_hidden_state[row][valid[row]], last[row], "float64", "last hidden state")

    weights = torch.linspace(-1, 2, expected.numel()).double().view_as(expected)
    names = {name: parameter for name, parameter in model.named_parameters() if not name.startswith("classifier")}
    found = gradients((outputs.pooler_output * weights).sum(), {**names, "pixel_values": pixels})
    wanted = gradients(
        (expected * weights).sum(), {**{name: state[name] for name in names}, "pixel_values": expected_pixels}
    )
    assert_all_close(found, wanted, "float64")


@pytest.mark.parametrize("case", [case for case in CASES if "grid" not in case])
def test_an_image_is_what_it_is_without_a_joint_layer(case):
    """One moment, whose patches are neither averaged nor given a time."""
    model = build_case(case)
    image = random_clip((1, 17, 23))
    plain = TubeViTForVideoClassification(
        TubeViTConfig(**{**model.config.to_dict(), "joint_layer": 0, "joint_pooling": [1, 1]})
    ).double()
    plain.load_state_dict(model.state_dict())
    outputs, expected = model.eval()(image), plain.eval()(image)
    assert_close(outputs.logits, expected.logits, "float64")


@pytest.mark.parametrize("attn", ATTENTION)
def test_frames_before_the_joint_layer_are_those_of_the_image_model(attn):
    """What comes of each frame does not depend on the others."""
    # whose positions are the same at every time
    model = build_case("no_joint_layer", attn, tubes=[MOMENT], position_embedding_type="pretrained", **PREFIX)
    clip = random_clip()
    states = model(clip, output_hidden_states=True).hidden_states
    assert len(states) == 4
    for moment, frame in enumerate(range(0, 9, 2)):
        of_frame = model(clip[:, frame], output_hidden_states=True).hidden_states
        per_moment = of_frame[0].shape[1]
        for number, expected in enumerate(of_frame):
            found = states[number][:, moment * per_moment : (moment + 1) * per_moment]
            assert_close(found, expected, "float64", f"frame {frame} behind {number} layers")


@pytest.mark.parametrize("case", CASES)
def test_padded_equals_unpadded(case):
    model = build_case(case)
    clip = random_clip((6, 17, 23))
    padded = torch.cat([clip, torch.full_like(clip[:, :4], 7.0)], dim=1)
    assert_close(model(padded, frame_mask=mask_of([6, 6], 10)).logits, model(clip).logits, "float64")


def test_nothing_changes_in_a_still_clip():
    model = build_case("grid", position_embedding_type="pretrained")
    still = random_clip((1, 17, 23)).expand(-1, 9, -1, -1, -1).requires_grad_()
    features = model.tubevit(still).pooler_output
    means, changes, shares, differences, peaks = features.split(list(model.config.pooling_parts.values()), dim=1)
    assert means.abs().min() > 0
    assert_close(differences, torch.zeros_like(differences), "float64")
    # a root has no slope at 0, so that these are those of a millionth
    for nothing in (changes, shares, peaks):
        assert_close(nothing, torch.full_like(nothing, 1e-3), "float64")
    features.sum().backward()
    assert still.grad.isfinite().all()


@pytest.mark.parametrize("case", ["pooled", "gate_after", "cls", "grid", "no_joint_layer"])
def test_the_frozen_part_can_be_kept(case):
    """Forward and gradients of what trains, from clips and from what the frozen layers gave of them."""
    before = 3 if case in ("grid", "no_joint_layer") else 2
    model = build_case(case, freeze_before=before).train()
    clip, labels = random_clip(), torch.tensor([0, 2])
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    expected = model(clip, labels=labels)
    wanted = gradients(expected.loss, trained)
    outputs = model(frozen_output=model.tubevit.encode_frozen(clip), labels=labels)
    assert_close(outputs.logits, expected.logits, "float64")
    assert_all_close(gradients(outputs.loss, trained), wanted, "float64")


def test_what_cannot_be_kept_is_refused():
    model = build_case("pooled")
    clip = random_clip()
    with pytest.raises(ValueError, match="nothing is frozen"):
        model.tubevit.encode_frozen(clip)
    model.freeze_before(1)
    with pytest.raises(ValueError, match="`freeze_before` is 1, below `joint_layer` 2"):
        model.tubevit.encode_frozen(clip)
    model.freeze_before(2)
    with pytest.raises(ValueError, match=r"`frozen_output` must be \(batch, 1 or 2, tokens, 20\)"):
        model(frozen_output=model.tubevit.encode_frozen(clip)[:, 0])
    # attention pools tokens of any clip, others must know which is which
    larger = random_clip((10, 21, 29))
    assert_close(model(frozen_output=model.tubevit.encode_frozen(larger)).logits, model(larger).logits, "float64")
    by_cls = build_case("cls", freeze_before=2)
    with pytest.raises(ValueError, match="a clip of the config's own size, 9x17x23, "):
        by_cls(frozen_output=by_cls.tubevit.encode_frozen(larger))
    grid = build_case("grid_of_layers", freeze_before=2)
    with pytest.raises(ValueError, match="freeze all layers"):
        grid.tubevit.encode_frozen(clip)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"joint_layer": 4}, "`joint_layer` must be from 0 to 3"),
        ({"joint_layer": -1}, "`joint_layer` must be from 0 to 3"),
        ({"joint_pooling": [2, 2]}, "needs a `joint_layer` above 0"),
        ({"joint_layer": 1, "joint_pooling": [2]}, r"`joint_pooling` must be \[h, w\]"),
        ({"joint_layer": 1, "tubes": [MOTION]}, "needs a tube that sees one frame"),
        ({"joint_layer": 1, "tubes": [MOMENT, {**SECOND, "stride": [3, 5, 5]}]}, r"\(0, 2\), \(0, 3\)"),
        ({"joint_layer": 3, "pooling_type": "grid", "tubes": [MOMENT, SECOND]}, "one must see a single frame"),
        ({"joint_layer": 3, "pooling_type": "grid", "pooling_layers": [1, 2]}, "end with all 3"),
        ({"joint_layer": 3, "pooling_type": "grid", "pooling_layers": [2, 1, 3]}, "ascending"),
        ({"joint_layer": 3, "pooling_type": "grid", "pooling_grid": [8, 0, 4]}, r"`pooling_grid` must be \[t, h, w\]"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        TubeViTConfig(**{**BASE, "num_hidden_layers": 3, "tubes": [MOMENT], **settings})


def test_clips_that_a_joint_layer_cannot_take():
    model = build_case("pooled")
    with pytest.raises(ValueError, match="None of the tubes that see one frame fits"):
        TubeViTModel(
            TubeViTConfig(
                **{**BASE, "joint_layer": 1, "tubes": [{**MOMENT, "offset": [5, 0, 0]}, {**MOTION, "offset": 0}]}
            )
        ).double()(random_clip((4, 17, 23)))
    with pytest.raises(ValueError, match=r"leaves clip\(s\) \[1\] a single moment"):
        model(random_clip(), frame_mask=mask_of([9, 2], 9))
