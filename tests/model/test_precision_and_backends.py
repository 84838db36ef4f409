# SPDX-License-Identifier: Apache-2.0
"""Half precision, autocast, torch.compile, export, FlexAttention and GPUs, each against eager float32 or better."""

import contextlib
import copy
import importlib.util

import pytest
import torch
from packaging.version import Version
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental import _config as symbolic_shapes

from tubevit_hf import (
    TubeViTModel,
)

from ..support import naive
from ..support.modeling_cases import (
    ATTENTION,
    PATCH,
    POOLING,
    TUBES,
    assert_all_close,
    build,
    gradients,
    mask_of,
    random_clip,
)
from ..support.tolerances import assert_close


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


GRID = {"joint_layer": 2, "pooling_type": "grid", "pooling_grid": [2, 2, 1], "pooling_layers": [1, 2]}
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
    pytest.param(True, "sdpa", {"joint_layer": 1, "joint_pooling": [2, 2], **POOLING["cls"]}, id="joint"),
    pytest.param(True, "sdpa", {"tubes": [PATCH], **GRID}, id="grid"),
]


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


@pytest.mark.parametrize(
    ("masked", "settings"),
    [
        (False, {"gate_layer": 1}),
        (True, {"position_embedding_type": "pretrained", **POOLING["mean_with_prefix"]}),
        (True, {"joint_layer": 1, "joint_pooling": [2, 2], "position_embedding_type": "pretrained", **POOLING["cls"]}),
        (False, {"tubes": [PATCH], **GRID}),
    ],
    ids=["plain", "masked", "joint", "grid"],
)
def test_one_graph_serves_all_sizes(masked, settings, fresh_compiler):
    """Compiled once for symbolic sizes; a single clip among them, with torch's own switch for that."""
    model = build(dtype=torch.float32, **settings)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=counter)
    with torch.no_grad(), symbolic_shapes.patch(backed_size_oblivious=True):
        for batch, *size in ((5, 9, 43, 57), (3, 11, 44, 60), (2, 7, 40, 56), (1, 20, 64, 64), (4, 32, 100, 97)):
            clip = random_clip(tuple(size), batch=batch, dtype=torch.float32)
            frame_mask = mask_of([size[0], *[size[0] - 1] * (batch - 1)], size[0]) if masked else None
            expected = model(clip, frame_mask=frame_mask).logits
            assert_close(compiled(clip, frame_mask=frame_mask).logits, expected, "float32")
    # older ones compile a few sizes anew: 2 to 5 graphs with 2.11
    if Version(torch.__version__) >= Version("2.14"):
        assert counter.frame_count == 1


def test_compiled_by_inductor(fresh_compiler):
    model = build(dtype=torch.float32, gate_layer=1)
    inputs = {"pixel_values": random_clip(dtype=torch.float32), "frame_mask": mask_of([9, 6], 9)}
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(**inputs)
        assert_close(compiled.logits, model(**inputs).logits, "float32")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gate_layer": 1, **POOLING["mean_with_prefix"]},
        {"joint_layer": 1, "joint_pooling": [2, 2], **POOLING["cls"]},
        {"tubes": [PATCH], **GRID},
    ],
    ids=["attention", "mean", "joint", "grid"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_export_with_any_batch_size(masked, settings):
    model = build(**settings)
    # two moments at least where they are joined
    lengths = [9, 6, 7, 9, 8] if "joint_pooling" in settings else [9, 6, 4, 9, 1]

    def inputs(batch):
        clip = random_clip(batch=batch, seed=batch)
        return {"pixel_values": clip, **({"frame_mask": mask_of(lengths[:batch], 9)} if masked else {})}

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
    # wider layers add up more; with weights as large as elsewhere bfloat16 is off by 0.25 on a CPU too
    settings = {"hidden_size": 64, "std": 0.1, "gate_layer": 1, "use_cls_token": True, "tubes": TUBES["plain"]}
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
