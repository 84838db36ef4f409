# SPDX-License-Identifier: Apache-2.0
"""Graphs for other runtimes: at every size they give what the model gives, or an error."""

import itertools

import pytest
import torch

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.export.graph import check_batches, check_graph, make_inputs, trace, with_own_kernels
from tubevit_hf.export.sizes import SizeRange

from ..support.tiny import randomize, tiny_config
from ..support.tolerances import EXPORT_TOLERANCE, assert_close


RUNTIMES = ["onnx", "openvino", "torch"]
PATCH = {"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}
TUBE = {"kernel_size": [3, 4, 6], "stride": [2, 12, 10], "offset": [1, 2, 4]}
# settings, and whether clips are padded
CASES = {
    "gate, table, frozen": (
        {"gate_layer": 1, "freeze_before": 1, "position_embedding_type": "pretrained", "use_cls_token": True},
        True,
    ),
    "shared kernel, learned": (
        {
            "tube_kernels": "interpolated",
            "base_kernel_size": [3, 5, 5],
            "position_embedding_type": "learned",
            "position_embedding_resize": "bicubic_antialias",
            "num_register_tokens": 2,
            "use_layer_scale": True,
            "pooling_type": "mean",
        },
        False,
    ),
    "joined frames": (
        {
            "tubes": [PATCH, TUBE],
            "joint_layer": 1,
            "joint_pooling": [2, 2],
            "use_cls_token": True,
            "pooling_type": "cls",
            "position_embedding_type": "pretrained",
            "position_embedding_resize": "bicubic_corners",
        },
        True,
    ),
    "grid": (
        {
            "tubes": [PATCH],
            "joint_layer": 3,
            "pooling_type": "grid",
            "pooling_grid": [2, 2, 1],
            "pooling_layers": [1, 3],
            "position_embedding_type": "pretrained",
            "position_embedding_resize": "bilinear_corners",
        },
        False,
    ),
    "grid of tubes": (
        {
            "tubes": [PATCH, TUBE],
            "pooling_type": "grid",
            "pooling_grid": [3, 2, 1],
            "pooling_layers": [1, 3],
            "use_cls_token": True,
            "position_embedding_type": "pretrained",
        },
        True,
    ),
}
# frames, height, width and batch: one frame more than the least, odd, not square, long, wide, high
LENGTHS = [4, 5, 7, 8, 13, 40, 64]
SIDES = [(40, 56), (56, 40), (33, 47), (41, 57), (64, 64), (28, 90), (97, 32)]
SHAPES = [
    ((frames, *sides), 1 + number % 3) for number, (frames, sides) in enumerate(itertools.product(LENGTHS, SIDES))
]


def build(**settings) -> TubeViTForVideoClassification:
    return randomize(TubeViTForVideoClassification(tiny_config(**settings)))


def assert_same(model, graph, inputs) -> None:
    with torch.no_grad():
        expected = model(**inputs).logits
    actual = graph(**inputs).logits
    scale = expected.abs().max()
    assert (actual - expected).abs().max() <= EXPORT_TOLERANCE * scale, tuple(inputs["pixel_values"].shape)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("case", CASES)
def test_thirty_sizes(case, runtime):
    settings, masked = CASES[case]
    model = build(**settings)
    sizes = SizeRange.of_config(model.config, model.config.native_size)
    graph = trace(model, runtime, sizes, image=False, frame_mask=masked)
    own = [(model.config.native_size, batch) for batch in range(1, 6)]
    for seed, (size, batch) in enumerate([*SHAPES[::2], *own]):
        inputs = make_inputs(model, size, batch, image=False, frame_mask=masked, seed=seed)
        if masked and batch > 1:
            inputs["frame_mask"][-1, max(sizes.least_real_frames, size[0] - 1 - seed % 3) :] = False
        assert_same(model, graph, inputs)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_longer_clips_of_the_papers_tubes(runtime):
    """At 40 and 64 frames graphs were wrong, silently, that took their token grids for constants."""
    model = TubeViTForVideoClassification(
        TubeViTConfig.from_preset("Ti", num_hidden_layers=1, hidden_size=48, num_labels=5, intermediate_size=64)
    )
    randomize(model, std=0.2)
    graph = trace(model, runtime, SizeRange.of_config(model.config, (32, 224, 224)), image=False, frame_mask=False)
    for size in ((32, 224, 224), (40, 224, 224), (64, 224, 224), (48, 160, 288)):
        assert_same(model, graph, make_inputs(model, size, 1, image=False, frame_mask=False))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_images_have_a_graph_of_their_own(runtime):
    model = build(position_embedding_type="pretrained")
    sizes = SizeRange.of_config(model.config, (1, 40, 56))
    graph = trace(model, runtime, sizes, image=True, frame_mask=False)
    for seed, (height, width) in enumerate([*SIDES, (16, 16)]):
        inputs = make_inputs(model, (1, height, width), 1 + seed % 2, image=True, frame_mask=False, seed=seed)
        assert inputs["pixel_values"].ndim == 4
        assert_same(model, graph, inputs)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("num_frames", [7, 3])
def test_the_bare_graph_fails_outside_of_its_sizes(runtime, num_frames):
    """Without the package's own checks: as a user of the runtime calls it. At 7 frames there is a least number of
    them, at 3 a most, as other tubes fit longer clips."""
    model = build(num_frames=num_frames)
    sizes = SizeRange.of_config(model.config, model.config.native_size)
    graph = trace(model, runtime, sizes, image=False, frame_mask=False)
    outside = [(4, 40, 56), (9, 40, 56)] if num_frames == 3 else [(3, 40, 56), (2, 40, 56), (1, 40, 56)]
    outside += [(num_frames, sizes.minimum[1] - less, 56) for less in (1, 2, 3)]
    outside += [(num_frames, 40, sizes.minimum[2] - less) for less in (1, 2, 3)]
    for size in outside:
        with pytest.raises((RuntimeError, AssertionError)):
            graph(**make_inputs(model, size, 1, image=False, frame_mask=False))


def test_a_model_without_a_head():
    model = randomize(TubeViTModel(tiny_config()))
    sizes = SizeRange.of_config(model.config, model.config.native_size)
    graph = trace(model, "openvino", sizes, image=False, frame_mask=False)
    inputs = make_inputs(model, (9, 48, 60), 2, image=False, frame_mask=False)
    with torch.no_grad():
        expected = model(**inputs)
    outputs = graph(**inputs)
    for name in ("last_hidden_state", "pooler_output"):
        assert_close(outputs[name], expected[name], "float32")


def test_the_check_sees_a_wrong_graph():
    """Another model stands for a graph that is wrong at one size only."""
    model, other = build(), build(position_embedding_scale=1.01)
    sizes = SizeRange.of_config(model.config, model.config.native_size)
    batches = list(check_batches(model, sizes, image=False, frame_mask=True))
    assert len({tuple(batch["pixel_values"].shape) for batch in batches}) >= 7
    assert any(not batch["frame_mask"].all() for batch in batches)
    assert all(check.agrees for check in check_graph(model, model, batches))

    def run(**inputs):
        return (other if inputs["pixel_values"].shape[1] == 14 else model)(**inputs)

    wrong = [check.shape for check in check_graph(model, run, batches) if not check.agrees]
    assert wrong == [[1, 14, 3, 40, 56]]

    def give_nan(**inputs):
        return (model(**inputs).logits * float("nan"),)

    assert not any(check.agrees for check in check_graph(model, give_nan, batches))


def test_shared_kernels_are_resized_before():
    model = build(tube_kernels="interpolated", base_kernel_size=[3, 5, 5])
    separate = with_own_kernels(model)
    assert separate.config.tube_kernels == "separate"
    assert model.config.tube_kernels == "interpolated"
    inputs = make_inputs(model, (9, 45, 61), 2, image=False, frame_mask=False)
    assert_close(separate(**inputs).logits, model(**inputs).logits, "float32")
    assert with_own_kernels(separate) is separate


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (7, 40, 56)),
        ({}, (1, 40, 56)),
        ({"num_frames": 3}, (3, 40, 56)),
        ({"tubes": [PATCH, TUBE], "joint_layer": 1, "joint_pooling": [1, 2]}, (7, 40, 56)),
        ({"tubes": [PATCH, TUBE], "joint_layer": 1}, (1, 40, 56)),
        ({"tubes": [{**TUBE, "kernel_size": [3, 30, 6]}, {**PATCH, "stride": [1, 8, 60]}]}, (7, 30, 56)),
    ],
)
def test_ranges_hold_the_same_tubes(settings, size):
    """Every size in the range has the tubes that the model's own has, and one moment or several alike; each end is
    where that, or the number of rows or columns, changes."""
    config = tiny_config(**settings)
    sizes = SizeRange.of_config(config, size)
    sizes.check(size)

    def kind(size) -> list:
        grids = [tube.grid(size) for tube in config.resolved_tubes]
        single = [[length > 1 for length in grid[1:]] for grid in grids]
        pooled = [grids[0][axis] > config.joint_pooling[axis - 1] for axis in (1, 2)]
        return [[any(grid) for grid in grids], single, pooled, config.joint_layer > 0 and grids[0][0] > 1]

    def allows(size) -> bool:
        try:
            sizes.check(size)
        except ValueError:
            return False
        return True

    found = {size: kind(size) for size in itertools.product(range(1, 12), range(4, 90, 3), range(4, 90, 3))}
    assert all(found[other] == kind(size) for other in found if allows(other))
    for axis, (least, most) in enumerate(zip(sizes.minimum, sizes.maximum)):
        for end, beyond in ((least, -1), (most, 1)):
            if end not in (None, 0) and end + beyond > 0:
                inside = [*size[:axis], end, *size[axis + 1 :]]
                outside = [*size[:axis], end + beyond, *size[axis + 1 :]]
                assert kind(tuple(inside)) == kind(size) != kind(tuple(outside)), (axis, end)


def test_a_size_outside_is_named():
    sizes = SizeRange((4, 24, 32), (9, None, None), 2)
    with pytest.raises(ValueError, match="takes clips of from 4 to 9 frames, got 3"):
        sizes.check((3, 40, 56))
    with pytest.raises(ValueError, match="from 4 to 9 frames, got 10"):
        sizes.check((10, 40, 56))
    with pytest.raises(ValueError, match="32 or more pixels of width, got 31"):
        sizes.check((5, 40, 31))
    assert SizeRange.from_dict(sizes.to_dict()) == sizes
    assert sizes.clamp((99, 1, 40)) == (9, 24, 40)
