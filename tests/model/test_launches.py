# SPDX-License-Identifier: Apache-2.0
"""How many operations a forward pass launches, and that the host does not wait for the device in one."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification

from ..support.modeling_cases import BASE, PATCH, POOLING, build, random_clip
from .test_joint_layers import CASES as JOINT_CASES


# a benchmark runs by itself, and so imports nothing of the tests; the counter of both is there
COUNTER = Path(__file__).parents[2] / "benchmarks" / "launch_counter.py"
LaunchCounter, describe = (runpy.run_path(str(COUNTER))[name] for name in ("LaunchCounter", "describe"))

# the least clip that all tubes of Table 12 fit in
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 12,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "num_labels": 5,
}
# 152 are the layers' (12 each), the final norm, the pooling (6) and the head. Each of four tubes is a copy and a
# product; one operation joins them, and one adds the positions: 162. The rest is room.
MOST_LAUNCHES = 165
JOINT_TUBES = [
    {"kernel_size": [8, 8, 8], "stride": [16, 32, 32]},
    {"kernel_size": [1, 16, 16], "stride": [4, 16, 16]},
]
LAUNCHES = {
    "plain": {},
    # joined with the tubes' tokens by the same operation
    "prefix": {"use_cls_token": True, "num_register_tokens": 4},
    # resized once
    "frozen_kernels": {"tube_kernels": "interpolated", "freeze_before": 0},
    # a table that is trained is read anew, and brought to the order of the tokens
    "pretrained_positions": {"position_embedding_type": "pretrained"},
    # two tubes only, but moments and tubes are joined apart, and get their positions in time in between
    "joint_layer": {"joint_layer": 6, "tubes": JOINT_TUBES},
}


@pytest.mark.parametrize("case", LAUNCHES)
def test_a_forward_pass_launches_few_operations(case):
    model = TubeViTForVideoClassification(TubeViTConfig(**TINY, **LAUNCHES[case])).eval().to(torch.bfloat16)
    clip = torch.randn(1, 32, 3, 32, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        # the first one may compute what does not depend on the pixels
        model(clip)
        with LaunchCounter() as counter:
            model(clip)
    assert len(counter.launches) <= MOST_LAUNCHES, describe(counter.launches)


def test_the_counter_tells_launches_from_views():
    states, weight = torch.ones(2, 3, 4), torch.ones(5, 4)
    with LaunchCounter() as counter:
        buffer = torch.empty(2, 3, 5)
        buffer.copy_(torch.nn.functional.linear(states.detach(), weight))
        torch.cat([buffer[:, :1], buffer.narrow(1, 1, 2)], dim=1).flatten(1)[None].mul_(2)
    assert [name.removeprefix("aten::") for name in counter.launches] == ["mm", "copy_", "cat", "mul_"]
    assert counter.waits == []


@pytest.mark.parametrize(
    "wait",
    [
        lambda states: states.sum().item(),
        lambda states: bool((states > 0).any()),
        lambda states: states.nonzero(),
        lambda states: states[states > 0],
        lambda states: states.unique(),
        lambda states: torch.equal(states, states + 1),
    ],
    ids=["item", "bool", "nonzero", "index", "unique", "equal"],
)
def test_the_counter_finds_waits(wait):
    with LaunchCounter() as counter:
        wait(torch.ones(3))
    assert len(counter.waits) == 1
    assert_waits_on_meta(wait)


@pytest.mark.parametrize("wait", [lambda states: states.tolist(), lambda states: states.cpu()], ids=["tolist", "copy"])
def test_the_counter_finds_copies_to_the_host(wait):
    """Where there is another device than the host."""
    assert_waits_on_meta(wait)


def assert_waits_on_meta(wait: Callable[[torch.Tensor], object]) -> None:
    states = torch.ones(3, device="meta")
    with LaunchCounter("meta") as counter:
        try:
            wait(states)
        # no value is there: some operations say so in one way, some in the other
        except (NotImplementedError, RuntimeError):
            return
    assert counter.waits


IMAGE = (17, 23)
LARGER = (11, 24, 26)
# settings of the model and what is given to it: a size of clips, "image" or "packed"
WITHOUT_WAITS = {
    "attention": ({}, None),
    "attention with prefix": (POOLING["attention_with_prefix"], None),
    "cls": (POOLING["cls_with_registers"], None),
    "mean": (POOLING["mean_with_prefix"], LARGER),
    "gate": ({"gate_layer": 1}, None),
    "no positions": ({"position_embedding_type": "none"}, None),
    "tube_index": ({"position_embedding_type": "tube_index"}, LARGER),
    "learned": ({"position_embedding_type": "learned"}, LARGER),
    "pretrained": ({"position_embedding_type": "pretrained"}, None),
    "pretrained, larger": ({"position_embedding_type": "pretrained"}, LARGER),
    "interpolated": ({"tube_kernels": "interpolated"}, None),
    "interpolated, frozen": ({"tube_kernels": "interpolated", "freeze_before": 1}, LARGER),
    "layer scale": ({"use_layer_scale": True, "use_pre_layernorm": True}, None),
    "image": ({}, "image"),
    "image, pretrained": ({"position_embedding_type": "pretrained", **POOLING["mean"]}, "image"),
    "packed": ({"gate_layer": 1, **POOLING["attention_with_prefix"]}, "packed"),
    "packed, mean": (POOLING["mean_with_prefix"], "packed"),
    **{f"joint layer: {case}": ({"num_hidden_layers": 3, **settings}, None) for case, settings in JOINT_CASES.items()},
    "joint layer, larger": ({"num_hidden_layers": 3, **JOINT_CASES["pooled"]}, LARGER),
    "joint layer, image": ({"num_hidden_layers": 3, **JOINT_CASES["pooled"]}, "image"),
    "joint layer, packed": ({"num_hidden_layers": 3, **JOINT_CASES["pooled"]}, "packed"),
    "grid, packed": ({"num_hidden_layers": 3, **JOINT_CASES["grid"]}, "packed"),
    "recompute_activation": ({"recompute_activation": True, "hidden_dropout_prob": 0.1}, None),
}


@pytest.fixture(params=["cpu", "meta"])
def device(request) -> str:
    """A CPU, where every operation has its result, and the meta device, which has no values that a host could read."""
    return request.param


def inputs_of(kind: str | tuple[int, int, int] | None, device: str) -> torch.Tensor | list[torch.Tensor]:
    # as a processor gives them
    dtype = torch.float32
    if kind == "packed":
        return [random_clip((length, *IMAGE), 1, dtype)[0].to(device) for length in (9, 1, 6)]
    if kind == "image":
        return random_clip((1, *IMAGE), dtype=dtype)[:, 0].to(device)
    return random_clip(kind or (BASE["num_frames"], *IMAGE), dtype=dtype).to(device)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", WITHOUT_WAITS)
def test_a_forward_pass_does_not_wait_for_the_device(case, training, device):
    settings, kind = WITHOUT_WAITS[case]
    model = build(dtype=torch.bfloat16, **settings).to(device).train(training)
    inputs = inputs_of(kind, device)
    for _ in range(2):
        with LaunchCounter(device) as counter:
            model(inputs)
        assert counter.launches
        assert counter.waits == []


@pytest.mark.parametrize("labels", [torch.tensor([1, 0]), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])])
def test_a_training_step_does_not_wait_for_the_device(labels):
    model = build(dtype=torch.bfloat16, num_labels=3).to("meta").train()
    clips = random_clip((BASE["num_frames"], *IMAGE)).to("meta")
    with LaunchCounter("meta") as counter:
        model(clips, labels=labels.to("meta")).loss.backward()
    assert counter.launches
    assert counter.waits == []


@pytest.mark.parametrize("settings", [{}, {"gate_layer": 1}, {"tubes": [PATCH], **POOLING["mean"]}])
def test_frozen_output_does_not_wait_for_the_device(settings, device):
    model = build(dtype=torch.bfloat16, **settings).to(device)
    model.freeze_before(1)
    with LaunchCounter(device) as counter:
        frozen_output = model.tubevit.encode_frozen(inputs_of(None, device))
        model(frozen_output=frozen_output)
    assert counter.launches
    assert counter.waits == []
