# SPDX-License-Identifier: Apache-2.0
"""A list of clips of different lengths and sizes makes one row of tokens: against each clip alone."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification

from ..support.modeling_cases import (
    ALL_PARTS,
    ATTENTION,
    BASE,
    POOLING,
    TUBES,
    assert_all_close,
    build,
    gradients,
    mask_of,
    random_clip,
)
from ..support.tolerances import assert_close
from .test_joint_layers import CASES, build_case


LENGTHS = [11, 6, 1, 9, 4]
LABELS = torch.tensor([2, 0, 1, 1, 2])


def clips_of(lengths=LENGTHS, size=(17, 23), dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [random_clip((length, *size), 1, dtype, seed)[0] for seed, length in enumerate(lengths)]


def assert_equals_alone(model: TubeViTForVideoClassification, clips: list[torch.Tensor], tolerance: str = "float64"):
    """Tokens, logits and loss, and the gradients of each parameter and pixel."""
    labels = torch.arange(len(clips)) % model.config.num_labels
    together, alone = (
        [clip.clone().requires_grad_() for clip in clips],
        [clip.clone().requires_grad_() for clip in clips],
    )
    outputs = model(together, labels=labels)
    one_by_one = [model(clip[None], labels=label[None]) for clip, label in zip(alone, labels)]
    logits = torch.cat([output.logits for output in one_by_one])
    # clips that are alike would hide one that is mixed up with another
    assert torch.pdist(logits).min() > 1e-2
    assert_close(outputs.logits, logits, tolerance, "logits")
    loss = torch.stack([output.loss for output in one_by_one]).mean()
    assert_close(outputs.loss, loss, tolerance, "loss")
    tokens = torch.cat([model.tubevit(clip[None]).last_hidden_state for clip in alone], dim=1)
    assert_close(model.tubevit(together).last_hidden_state, tokens, tolerance, "tokens")

    def inputs(clips):
        return {**dict(model.named_parameters()), **{f"clip {index}": clip for index, clip in enumerate(clips)}}

    found, wanted = gradients(outputs.loss, inputs(together)), gradients(loss, inputs(alone))
    assert all(wanted[f"clip {index}"].any() for index in range(len(clips)))
    assert_all_close(found, wanted, tolerance)


@pytest.mark.parametrize("attn", ATTENTION)
@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize("kind", ["tube_center", "learned", "pretrained"])
def test_packed_clips_equal_each_alone(kind, pooling, attn):
    model = build(attn, position_embedding_type=kind, gate_layer=1, **POOLING[pooling])
    assert_equals_alone(model.train(), clips_of())


@pytest.mark.parametrize("pooling", POOLING)
def test_in_float32_to_1e5(pooling):
    torch.manual_seed(0)
    settings = {**BASE, "hidden_size": 48, "num_hidden_layers": 4, "intermediate_size": 100, "initializer_range": 0.1}
    config = TubeViTConfig(**settings, tubes=TUBES["mixed"], gate_layer=2, **POOLING[pooling])
    model = TubeViTForVideoClassification(config).train()
    with torch.no_grad():
        model.tubevit.layers[2].gate.fill_(0.3)
    assert_equals_alone(model, clips_of(dtype=torch.float32), "packed")


@pytest.mark.parametrize("case", CASES)
def test_layers_of_single_frames(case):
    """Before `joint_layer`; the grid pooling reads layers before and after it."""
    assert_equals_alone(build_case(case, "sdpa").train(), clips_of([11, 5, 9]))


def test_sizes_may_differ_and_images_come_with_videos():
    clips = [*clips_of([9, 4]), *clips_of([7], (21, 14)), random_clip((1, 25, 17))[0, 0]]
    model = build(**ALL_PARTS)
    assert_equals_alone(model, [clip if clip.ndim == 4 else clip[None] for clip in clips])
    expected = torch.cat([model(clip[None]).logits for clip in clips])
    assert_close(model(clips).logits, expected, "float64")
    assert_close(model(tuple(clips)).logits, expected, "float64")


def test_one_clip_is_a_batch_of_one():
    model = build()
    [clip] = clips_of([9])
    assert_close(model([clip]).logits, model(clip[None]).logits, "exact")


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("freeze_before", [None, 0, 2])
def test_freezing_and_checkpointing(freeze_before, use_reentrant):
    model = build(**ALL_PARTS).train()
    wanted = copy.deepcopy(model)
    wanted.freeze_before(freeze_before)
    torch.stack(
        [wanted(clip[None], labels=label[None]).loss for clip, label in zip(clips_of(), LABELS)]
    ).mean().backward()
    model.freeze_before(freeze_before)
    if use_reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model(clips_of(), labels=LABELS).loss.backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert_all_close(trained, {name: dict(wanted.named_parameters())[name].grad for name in trained}, "float64")
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)


def test_hidden_states_are_rows_and_attentions_of_each_clip():
    model = build("eager", gate_layer=0, **POOLING["cls_with_registers"])
    clips = clips_of()
    outputs = model(clips, output_hidden_states=True, output_attentions=True)
    alone = [model(clip[None], output_hidden_states=True, output_attentions=True) for clip in clips]
    for index, row in enumerate(outputs.hidden_states):
        assert_close(row, torch.cat([output.hidden_states[index] for output in alone], dim=1), "float64")
    assert len(outputs.attentions) == model.config.num_hidden_layers
    for index, of_clips in enumerate(outputs.attentions):
        for weights, output in zip(of_clips, alone, strict=True):
            assert_close(weights, output.attentions[index], "float64")


@pytest.fixture
def varlen(monkeypatch) -> list[torch.Tensor]:
    """Stands in for flash attention, with the arguments that transformers hands to its kernels for rows of sequences:
    here by loops over rows and columns. Gives what it was called with."""
    ends = []

    def attend(module, query, key, value, attention_mask, scaling, cu_seq_lens_q=None, cu_seq_lens_k=None, **kwargs):
        assert attention_mask is None
        scores = query @ key.transpose(-2, -1) * scaling
        if cu_seq_lens_q is not None:
            assert cu_seq_lens_q.dtype == torch.int32
            assert kwargs["max_length_q"] == kwargs["max_length_k"] == cu_seq_lens_q.diff().max()
            ends.append(cu_seq_lens_q)
            places = torch.arange(query.shape[2])
            rows, columns = (torch.searchsorted(at, places, right=True) for at in (cu_seq_lens_q, cu_seq_lens_k))
            scores = scores.masked_fill(rows[:, None] != columns, -torch.inf)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", attend)
    return ends


@pytest.mark.parametrize("settings", [{"gate_layer": 1}, {"gate_layer": 1, **POOLING["mean_with_prefix"]}])
def test_flash_attention_is_told_where_clips_end(settings, varlen):
    model, flash = build(**settings), build(**settings)
    flash.config._attn_implementation = "flash_attention_2"
    clips = clips_of()
    assert_close(flash(clips).logits, torch.cat([model(clip[None]).logits for clip in clips]), "float64")
    lengths = [model.config.num_tokens(*clip.shape[:1], *clip.shape[2:]) for clip in clips]
    assert len(varlen) == model.config.num_hidden_layers
    assert all(ends.diff().tolist() == lengths for ends in varlen)


def test_flex_attention():
    torch.compiler.reset()
    model, flex = (build(attn, torch.float32, gate_layer=1) for attn in ("eager", "flex_attention"))
    clips = clips_of(dtype=torch.float32)
    # flex has no backward on CPU
    with torch.no_grad():
        expected = torch.cat([model(clip[None]).logits for clip in clips])
        assert_close(flex(clips).logits, expected, "float32")
    torch.compiler.reset()


def count(model: TubeViTForVideoClassification, *args, **kwargs) -> int:
    with FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return counter.get_total_flops()


@pytest.mark.parametrize("case", [None, "pooled"])
def test_nothing_is_computed_of_padding(case):
    model = build("eager") if case is None else build_case(case)
    clips = clips_of()
    packed = count(model, clips)
    assert packed == sum(count(model, clip[None]) for clip in clips)
    padded = random_clip((11, 17, 23), len(clips))
    lengths = [max(length, 3) for length in LENGTHS]  # two moments at least
    assert packed < 0.7 * count(model, padded, frame_mask=mask_of(lengths, 11))


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "`pixel_values` is an empty list"),
        ([torch.rand(9, 2, 17, 23), torch.rand(2, 9, 2, 17, 23)], r"as a list must hold tensors.*\(2, 9, 2, 17, 23\)"),
        ([torch.rand(9, 2, 17, 23).numpy()], "must hold tensors.*got ndarray"),
        ([torch.zeros(9, 2, 17, 23, dtype=torch.uint8)], "must be floating point"),
        ([torch.rand(9, 2, 17, 23), torch.rand(9, 2, 2, 3)], "No tube fits a clip of 9 frame.* of 2x3 pixels"),
        ([torch.rand(9, 3, 17, 23)], "has 3 channels, but `num_channels` is 2"),
    ],
)
def test_wrong_clips_are_refused(clips, message):
    with pytest.raises(ValueError, match=message):
        build(dtype=torch.float32)(clips)


def test_what_does_not_go_with_packed_clips_is_refused():
    with pytest.raises(ValueError, match="`frame_mask` is for padded clips"):
        build()(clips_of([9, 4]), frame_mask=mask_of([9, 4], 9))
    with pytest.raises(ValueError, match=r"need a `joint_layer` of 0, got 1"):
        build_case("attention")(clips_of([9, 4]), output_hidden_states=True)
    model = build_case("attention")
    model.config.output_attentions = True
    with pytest.raises(ValueError, match=r"need a `joint_layer` of 0, got 1"):
        model(clips_of([9, 4]))
    with pytest.raises(ValueError, match=r"`labels`.*must have the shape \(2,\)"):
        build()(clips_of([9, 4]), labels=torch.tensor([0]))
