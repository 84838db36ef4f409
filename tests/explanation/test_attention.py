# SPDX-License-Identifier: Apache-2.0
"""Attention of the pooling and through all layers, held against the model and loops."""

from itertools import product

import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.explanation import attention_rollout, explain_clips, pooling_attention
from tubevit_hf.explanation.attention import pooling_weights
from tubevit_hf.explanation.regions import share_out, token_regions

from ..support.naive import read_tube, seen, tokens_of
from ..support.tiny import randomize, tiny_config


# tubes of one frame, of different grids but the same moments, and one over several frames that comes in later
JOINT = {
    "tubes": [
        {"kernel_size": [1, 8, 8], "stride": [3, 8, 9]},
        {"kernel_size": [1, 10, 6], "stride": [3, 15, 22], "offset": [0, 3, 1]},
        {"kernel_size": [3, 4, 6], "stride": [2, 22, 20], "offset": [1, 2, 4]},
    ],
    "joint_layer": 2,
}
ONE_TUBE = {"tubes": JOINT["tubes"][::2], "joint_layer": 2}
MODELS = {
    "attention": {},
    "attention, prefix": {"use_cls_token": True, "num_register_tokens": 2},
    "cls, gate": {"use_cls_token": True, "pooling_type": "cls", "gate_layer": 1},
    "mean, register": {"pooling_type": "mean", "num_register_tokens": 1},
    "joint, attention": JOINT,
    "joint pooling, mean, cls, gate before": {
        **JOINT,
        "pooling_type": "mean",
        "use_cls_token": True,
        "joint_pooling": [2, 3],
        "gate_layer": 0,
    },
    "joint pooling, cls, gate behind": {
        **JOINT,
        "pooling_type": "cls",
        "use_cls_token": True,
        "joint_pooling": [3, 2],
        "gate_layer": 2,
    },
    "grid": {**ONE_TUBE, "pooling_type": "grid", "pooling_grid": [2, 2, 2], "joint_layer": 3},
    "grid of tubes": {
        "pooling_type": "grid",
        "pooling_grid": [2, 2, 2],
        "pooling_layers": [2, 3],
        "use_cls_token": True,
    },
    "grid of layers, joint pooling": {
        **ONE_TUBE,
        "pooling_type": "grid",
        "pooling_grid": [2, 2, 2],
        "pooling_layers": [1, 2, 3],
        "joint_pooling": [2, 2],
        "num_register_tokens": 1,
        "gate_layer": 2,
    },
}


def naive_share_out(shares, config, size):
    """Token by token, and pixel by pixel of what its kernel and the gaps between its neighbours cover."""
    pixels = torch.zeros(len(shares), *size)
    for token, region in enumerate(naive_regions(config, size)):
        for place in region:
            pixels[(slice(None), *place)] += shares[:, token] / len(region)
    return pixels


def naive_regions(config, size):
    """The pixels of each token as the embeddings order them, from the first to the last of each axis."""
    prefix = [[] for _ in range(config.num_prefix_tokens)]
    of_tubes = []
    for settings in config.to_dict()["tubes"]:
        tube = read_tube(settings, config.hidden_size)
        for index, starts in tokens_of(tube, size):
            ranges = [seen(tube, axis, starts[axis]) for axis in range(3)]
            of_tubes.append((index[0], len(ranges[0]) == 1, list(product(*ranges))))
    if config.joint_layer == 0:
        return prefix + [region for *_, region in of_tubes]
    moments = sorted({moment for moment, single, _ in of_tubes if single})
    tokens = []
    for moment in moments:
        tokens += prefix + [region for number, single, region in of_tubes if single and number == moment]
    return tokens + [region for _, single, region in of_tubes if not single]


def naive_rollout(model, pixel_values):
    """The matrix of each layer in full, from the first to the last: what each token holds of those at the start."""
    config, base_model = model.config, model.base_model
    base_model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = base_model(pixel_values, output_attentions=True)
    size = (pixel_values.shape[1], *pixel_values.shape[3:])
    layout = config.token_layout(*size)
    of_clips = []
    for clip in range(len(pixel_values)):
        start = torch.eye(layout.num_tokens)
        held, read = start[: layout.num_moment_tokens] if config.joint_layer else start, {0: start}
        read[0] = held
        for number, weights in enumerate(outputs.attentions):
            if number == config.joint_layer > 0:
                held, start = (naive_join(part, config, layout, size) for part in (held, start))
            weights = weights.unflatten(0, (len(pixel_values), -1))[clip].mean(dim=1)
            attention = torch.block_diag(*weights)
            held = (held + attention @ held) / 2
            if number == config.gate_layer:
                strength = abs(torch.tanh(base_model.layers[number].gate)).item()
                held = (held + strength * start[: len(held)]) / (1 + strength)
            read[number + 1] = held
        if config.joint_layer == config.num_hidden_layers:
            held = naive_join(held, config, layout, size)
        of_clips.append(naive_pool(base_model, held, read, outputs.last_hidden_state[clip], layout))
    return naive_share_out(torch.stack(of_clips), config, size)


def naive_join(held, config, layout, size):
    """Rows of patches averaged over regions of patches; what comes in later is put behind."""
    if layout.num_moments == 1:
        return held
    rows, first = [], 0
    for _ in range(layout.num_moments):
        rows += list(held[first : first + layout.num_prefix_tokens])
        first += layout.num_prefix_tokens
        for _, height, width in layout.moment_grids:
            regions = {}
            for row, column in product(range(height), range(width)):
                place = row // config.joint_pooling[0], column // config.joint_pooling[1]
                regions.setdefault(place, []).append(held[first])
                first += 1
            rows += [sum(inside) / len(inside) for inside in regions.values()]
    return torch.cat([torch.stack(rows), torch.eye(layout.num_tokens)[layout.num_moment_tokens :]])


def naive_pool(base_model, held, read, last_hidden_state, layout):
    """What is pooled holds of the tokens at the start: `(tokens,)`."""
    config = base_model.config
    joined = layout.pool(config.joint_pooling)
    prefix = joined.num_prefix_tokens
    firsts = [moment * joined.tokens_per_moment for moment in range(joined.num_moments)]
    if config.pooling_type == "cls":
        return held[firsts].mean(dim=0)
    if config.pooling_type == "mean":
        left_out = {first + number for first in firsts for number in range(prefix)}
        return torch.stack([row for number, row in enumerate(held) if number not in left_out]).mean(dim=0)
    if config.pooling_type == "grid":
        means = []
        for number in config.layers_read:
            of_moment = joined if number > config.joint_layer else layout
            patches = [
                read[number][moment * of_moment.tokens_per_moment + place]
                for moment in range(of_moment.num_moments)
                for place in range(prefix, of_moment.tokens_per_moment)
            ]
            means.append(torch.stack(patches).mean(dim=0))
        return torch.stack(means).mean(dim=0)
    pooler = base_model.pooler
    heads = config.num_attention_heads
    query, keys = pooler.q_proj(pooler.query)[0, 0], pooler.k_proj(last_hidden_state)
    weights = 0
    for head in range(heads):
        inside = slice(head * len(query) // heads, (head + 1) * len(query) // heads)
        weights += (keys[:, inside] @ query[inside] * (len(query) // heads) ** -0.5).softmax(dim=0) / heads
    return (weights.detach()[:, None] * held).sum(dim=0)


@pytest.mark.parametrize("num_frames", [7, 1])
@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_rollout_is_that_of_full_matrices(settings, num_frames):
    model = randomize(TubeViTForVideoClassification(tiny_config(**settings)))
    clips = torch.randn(2, num_frames, 3, 41, 53)
    rollout = attention_rollout(model, clips)
    torch.testing.assert_close(rollout, naive_rollout(model, clips))
    # the clips differ, and so does where it looks
    assert not torch.allclose(rollout[0], rollout[1], rtol=0.01)


@pytest.mark.parametrize("settings", [{}, JOINT, {"use_cls_token": True, "num_register_tokens": 1}])
def test_tokens_are_shared_out_over_what_they_see(settings):
    config, size = tiny_config(**settings), (9, 41, 53)
    shares = torch.randn(2, config.num_tokens(*size))
    shared = share_out(shares, token_regions(config, size, joined=False), size)
    torch.testing.assert_close(shared, naive_share_out(shares, config, size))
    assert (shared == 0).any()
    prefix = config.num_prefix_tokens
    torch.testing.assert_close(shared.sum(dim=(1, 2, 3)), shares[:, prefix:].sum(dim=1))


def test_an_image_is_a_clip_of_one_frame():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    images = torch.randn(2, 3, 40, 56)
    for method in ("gradient", "rollout", "attention"):
        torch.testing.assert_close(explain_clips(model, images, method), explain_clips(model, images[:, None], method))


def test_what_computes_attention_makes_no_difference():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    clips = torch.randn(2, 7, 3, 40, 56)
    by_sdpa = attention_rollout(model, clips)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(attention_rollout(model, clips), by_sdpa)
    assert not any(module._forward_hooks for module in model.modules())


def test_attention_sums_to_one_over_the_tubes():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    attention = pooling_attention(model, torch.randn(2, 7, 3, 40, 56))
    assert attention.shape == (2, 7, 40, 56)
    torch.testing.assert_close(attention.sum(dim=(1, 2, 3)), torch.ones(2))


def test_weights_are_those_of_the_pooler():
    model = randomize(TubeViTModel(tiny_config()))
    clips = torch.randn(2, 7, 3, 40, 56)
    weights = []
    model.set_attn_implementation("eager")
    attend = model.pooler.attend
    model.pooler.attend = lambda *args, **kwargs: weights.append(attend(*args, **kwargs)[1]) or attend(*args, **kwargs)
    model(clips)
    torch.testing.assert_close(pooling_weights(model, clips), weights[0].mean(dim=1)[:, 0])


def test_attention_lies_where_its_token_looks():
    """With one token only, its whole extent and nothing else has attention."""
    tubes = [{"kernel_size": [2, 6, 4], "stride": [4, 20, 12], "offset": [1, 3, 5], "space_to_depth": [2, 1, 1]}]
    model = randomize(TubeViTModel(tiny_config(tubes=tubes, num_frames=6, image_size=[12, 10])))
    expected = torch.zeros(6, 12, 10)
    expected[1:5, 3:9, 5:9] = 1 / (4 * 6 * 4)
    for method in ("attention", "rollout"):
        torch.testing.assert_close(explain_clips(model, torch.randn(1, 6, 3, 12, 10), method)[0], expected)


def test_other_pooling_is_refused():
    model = TubeViTModel(tiny_config(pooling_type="mean"))
    with pytest.raises(ValueError, match=r"`pooling_type` is 'mean'.*choose the method \"gradient\" or \"rollout\""):
        explain_clips(model, torch.randn(1, 7, 3, 40, 56), "attention")
