# SPDX-License-Identifier: Apache-2.0
"""What does not depend on pixels is computed once, and is right whatever becomes of the model."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.model.store_tubevit import NUM_RESULTS, Store

from ..support.modeling_cases import PATCH, TUBES, build, random_clip
from ..support.tolerances import assert_close


LARGER = (11, 24, 30)
ONE_FRAME = {"tubes": [*TUBES["plain"][:1], PATCH], "joint_layer": 1, "joint_pooling": [2, 2]}
# settings with results that depend on sizes, and on weights too
CASES = {
    "tube_center": {},
    "tube_index": {"position_embedding_type": "tube_index", "use_cls_token": True},
    "pretrained": {"position_embedding_type": "pretrained", "num_register_tokens": 2},
    "learned": {"position_embedding_type": "learned"},
    "interpolated": {"tube_kernels": "interpolated"},
    "joint layer": {**ONE_FRAME, "num_hidden_layers": 3},
}
OF_WEIGHTS = ["pretrained", "learned", "interpolated"]


def as_new(model: TubeViTForVideoClassification) -> TubeViTForVideoClassification:
    """A model of the same weights that has not seen a clip."""
    fresh = TubeViTForVideoClassification(copy.deepcopy(model.config)).to(model.dtype).eval()
    fresh.load_state_dict(model.state_dict())
    return fresh


def assert_right(model: TubeViTForVideoClassification, clip: torch.Tensor) -> None:
    clip = clip.to(model.dtype)
    assert_close(model(clip).logits, as_new(model)(clip).logits, "exact")


def stores(model: nn.Module) -> list[Store]:
    return [module.store for module in model.modules() if hasattr(module, "store")]


@pytest.fixture(params=CASES)
def case(request) -> dict:
    return CASES[request.param]


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_later_passes_find_what_the_first_computed(case, frozen):
    model = build(**case, freeze_before=0 if frozen else None)
    for clip in (random_clip(), random_clip(LARGER), random_clip()[:, 0]):
        expected = model(clip).logits
        kept = [dict(store.results) for store in stores(model)]
        assert any(kept)
        assert_close(model(clip).logits, expected, "exact")
        for store, before in zip(stores(model), kept):
            assert store.results.keys() == before.keys()
            assert all(store.results[key] is before[key] for key in before)
        assert_right(model, clip)


def test_few_results_are_kept(case):
    model = build(**case)
    for length in range(9, 9 + 3 * NUM_RESULTS):
        model(random_clip((length, 17, 23 + length), 1))
    assert max(len(store.results) for store in stores(model)) == NUM_RESULTS
    assert_right(model, random_clip())


def test_results_are_no_part_of_the_state(case):
    model = build(**case)
    before = list(model.state_dict())
    model(random_clip())
    assert list(model.state_dict()) == before
    assert not list(model.buffers())


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "float": lambda model: model.float(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "there and back": lambda model: model.to(torch.bfloat16).double(),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_right(case, change):
    model = build(**case, freeze_before=0)
    for clip in (random_clip(), random_clip(LARGER)):
        model(clip)
    changed = CHANGES[change](model)
    # nor does it keep memory of another device or number type
    if change != "copy":
        assert not any(store.results for store in stores(changed))
    for clip in (random_clip(), random_clip(LARGER)):
        assert_right(changed, clip)


def test_a_model_that_was_loaded_is_right(case, tmp_path):
    model = build(**case, freeze_before=1)
    model.save_pretrained(tmp_path)
    loaded = TubeViTForVideoClassification.from_pretrained(tmp_path)
    for clip in (random_clip(), random_clip(LARGER)):
        assert_close(loaded(clip).logits, model(clip).logits, "float64")


def test_a_model_from_the_meta_device_is_right(case):
    source = build(**case, freeze_before=1)
    with torch.device("meta"):
        model = TubeViTForVideoClassification(source.config).double().eval()
    model(random_clip().to("meta"))
    model.to_empty(device="cpu").load_state_dict(source.state_dict())
    assert_close(model(random_clip()).logits, source(random_clip()).logits, "exact")


# Weights


def through_optimizer(parameter: nn.Parameter, values: torch.Tensor) -> None:
    parameter.grad = parameter.detach() - values
    torch.optim.SGD([parameter], lr=1.0).step()


EXCHANGES: dict[str, Callable[[nn.Parameter, torch.Tensor], object]] = {
    "copy_": lambda parameter, values: parameter.detach().copy_(values),
    "data.copy_": lambda parameter, values: parameter.data.copy_(values),
    "data": lambda parameter, values: setattr(parameter, "data", values.clone()),
    "set_": lambda parameter, values: parameter.requires_grad_(False).set_(values.clone()),
    "swap_tensors": lambda parameter, values: torch.utils.swap_tensors(
        parameter, nn.Parameter(values.clone(), requires_grad=parameter.requires_grad)
    ),
    "optimizer": through_optimizer,
}


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_exchanged_weights_count(name, exchange, frozen):
    model = build(**CASES[name], freeze_before=0 if frozen else None)
    for clip in (random_clip(LARGER), random_clip()):
        before = model(clip).logits
        for parameter in model.tubevit.embeddings.parameters():
            EXCHANGES[exchange](parameter, torch.randn_like(parameter))
        assert not model(clip).logits.equal(before)
        assert_right(model, clip)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_loaded_state_counts(name):
    model, other = build(**CASES[name], freeze_before=0), build(**CASES[name], freeze_before=0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    clip = random_clip(LARGER)
    before = model(clip).logits
    # and back, while the first weights are gone
    for source, assign in ((other, False), (as_new(model), False), (other, True)):
        expected = source(clip).logits
        model.load_state_dict(source.state_dict(), assign=assign)
        assert_close(model(clip).logits, expected, "exact")
    assert not model(clip).logits.equal(before)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_averaged_weights_count(name):
    """The teacher of a self-supervised method: it needs no gradient, and is written through `.data` in each step."""
    teacher = build(**CASES[name]).requires_grad_(False)
    clip = random_clip(LARGER)
    for _ in range(2):
        before = teacher(clip).logits
        for parameter in teacher.parameters():
            parameter.data.mul_(0.9).add_(torch.randn_like(parameter), alpha=0.1)
        assert not teacher(clip).logits.equal(before)
        assert_right(teacher, clip)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_thawed_weights_get_their_gradients(name):
    model = build(**CASES[name], freeze_before=0)
    clip = random_clip(LARGER)
    model(clip)
    model.freeze_before(None)
    model(clip).logits.square().sum().backward()
    expected = as_new(model)
    expected(clip).logits.square().sum().backward()
    for (key, parameter), other in zip(model.named_parameters(), expected.parameters()):
        assert_close(parameter.grad, other.grad, "exact", key)


EDITS = {
    "position_embedding_scale": 0.3,
    "position_embedding_type": "tube_index",
    "position_embedding_resize": "bilinear_corners",
    "joint_layer": 0,
}


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_config_counts(case, field):
    model = build(**case, freeze_before=0)
    if field == "position_embedding_type" and case.get(field) in ("pretrained", "learned"):
        pytest.skip("has tables")
    clip = random_clip(LARGER)
    model(clip)
    setattr(model.config, field, EDITS[field])
    if field == "joint_layer":
        model.config.joint_pooling = [1, 1]
    # the copy has the weights, the config, and no results
    assert_close(model(clip).logits, copy.deepcopy(model)(clip).logits, "exact")


# Modes of PyTorch


def test_forward_mode_derivatives(case):
    model = build(**case)
    clip, tangent = random_clip(), torch.randn_like(random_clip())
    model(clip)
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        found = forward_ad.unpack_dual(model(forward_ad.make_dual(clip, tangent)).logits).tangent
    pixels = clip.clone().requires_grad_()
    logits = model(pixels).logits
    for row, column in ((0, 0), (1, 2)):
        (gradient,) = torch.autograd.grad(logits[row, column], pixels, retain_graph=True)
        assert_close(found[row, column], (gradient * tangent).sum(), "float64")


def test_selective_checkpointing(case):
    """It watches the operations of a pass, and expects the same ones when the pass runs again."""
    model, clip = build(**case, freeze_before=0), random_clip(LARGER)
    model(clip).logits.sum().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    fresh = as_new(model)
    saved = [torch.ops.aten.add.Tensor, torch.ops.aten.cat.default, torch.ops.aten.bmm.default]
    logits = checkpoint(
        lambda pixels: fresh(pixels).logits,
        clip.requires_grad_(),
        use_reentrant=False,
        context_fn=partial(create_selective_checkpoint_contexts, saved),
    )
    logits.sum().backward()
    found = {name: parameter.grad for name, parameter in fresh.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, "float64", name)


def test_a_model_that_was_run_in_inference_mode_trains(case):
    model = build(**case)
    clip = random_clip()
    with torch.inference_mode():
        expected = model(clip).logits.clone()
    logits = model.train()(clip).logits
    assert_close(logits, expected, "exact")
    logits.sum().backward()


def test_autocast_changes_no_result(case):
    model = build(**case, dtype=torch.float32, freeze_before=0)
    clip = random_clip(LARGER, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        model(clip)
    assert_right(model, clip)


def test_traced_passes_leave_no_trace(case):
    model = build(**case, dtype=torch.float32)
    clip = random_clip(dtype=torch.float32)
    torch.func.vmap(lambda one: model(one[None]).logits)(clip)
    torch.func.grad(lambda one: model(one).logits.sum())(clip)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model(mode.from_tensor(clip))
    with torch.no_grad():
        torch.jit.trace(model.tubevit.embeddings, clip, check_trace=False)
    torch.export.export(model, (clip,), strict=False)
    assert not any(type(kept) is torch.Tensor for store in stores(model) for kept in store.results.values())
    assert_right(model, clip)


def test_replaced_parameters_count():
    model = build(tube_kernels="interpolated", freeze_before=0)
    clip = random_clip()
    before = model(clip).logits
    others = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    found = torch.func.functional_call(model, others, (clip,)).logits
    expected = as_new(model)
    expected.load_state_dict(others)
    assert_close(found, expected(clip).logits, "exact")
    assert_close(model(clip).logits, before, "exact")


# Errors


@pytest.mark.parametrize("size", [(9, 2, 3), (0, 17, 23)])
def test_a_clip_that_is_refused_leaves_nothing(case, size):
    model = build(**case)
    with pytest.raises(ValueError, match="fits"):
        model(random_clip(size))
    assert not any(store.results for store in stores(model))


def test_errors_are_not_kept():
    store = Store(TubeViTConfig())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            store.get("key", lambda: 1 / 0)
    assert store.get("key", lambda: 1.0) == 1.0
