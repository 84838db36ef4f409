# SPDX-License-Identifier: Apache-2.0
"""Integrated gradients, held against differences, and models whose answer is known."""

import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.explanation import explain_clips, to_heat
from tubevit_hf.explanation.gradient import integrated_gradients, mean_colour
from tubevit_hf.explanation.scores import log_odds

from ..support.tiny import randomize, tiny_config
from .test_attention import MODELS


def odds_of(model, clips, labels):
    """Plainly: a label's probability over that of all others."""
    probabilities = model(clips).logits.double().softmax(dim=-1)
    own = probabilities.gather(1, labels[:, None])[:, 0]
    return (own / (1 - own)).log()


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_parts_sum_to_what_the_clip_adds(settings):
    model = randomize(TubeViTForVideoClassification(tiny_config(**settings)), std=0.15).double()
    clips, labels = torch.randn(2, 7, 3, 40, 56, dtype=torch.float64), torch.tensor([3, 0])
    with torch.no_grad():
        added = odds_of(model, clips, labels) - odds_of(model, mean_colour(clips), labels)
    parts = integrated_gradients(model, clips, labels, num_steps=200)
    # grid pooling has a maximum, at whose kinks steps of any length miss by some 0.03; others do by less than 1e-4
    atol = 0.05 if model.config.pooling_type == "grid" else 1e-4
    torch.testing.assert_close(parts.sum(dim=(1, 2, 3)).double(), added, rtol=0.02, atol=atol)


def test_a_pixel_has_its_slope():
    """With a single step, each pixel's own slope in the middle of the way, by differences."""
    model = randomize(TubeViTForVideoClassification(tiny_config()), std=0.2).double()
    clip, labels = torch.randn(1, 7, 3, 40, 56, dtype=torch.float64), torch.tensor([2])
    parts = integrated_gradients(model, clip, labels, num_steps=1)[0]
    blank = mean_colour(clip)
    middle = (clip + blank) / 2
    for place in [(0, 3, 5), (3, 9, 17), (2, 30, 44)]:
        expected = 0.0
        for channel in range(3):
            at = (0, place[0], channel, *place[1:])
            odds = []
            for step in (-1e-5, 1e-5):
                moved = middle.clone()
                moved[at] += step
                with torch.no_grad():
                    odds.append(odds_of(model, moved, labels).item())
            expected += (odds[1] - odds[0]) / 2e-5 * (clip - blank)[at].item()
        assert parts[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_nothing_comes_from_where_no_tube_looks():
    tubes = [{"kernel_size": [2, 6, 4], "stride": [4, 20, 12], "offset": [1, 3, 5], "space_to_depth": [2, 1, 1]}]
    config = tiny_config(tubes=tubes, num_frames=6, image_size=[12, 10])
    model = randomize(TubeViTForVideoClassification(config))
    # the tokens of a model are normed: one alone still says something
    parts = explain_clips(model, torch.randn(1, 6, 3, 12, 10))[0]
    seen = torch.zeros(6, 12, 10, dtype=torch.bool)
    seen[1:5, 3:9, 5:9] = True
    assert (parts[seen] != 0).all()
    assert (parts[~seen] == 0).all()


def test_frozen_or_not_and_nothing_is_left_behind():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    clips = torch.randn(2, 7, 3, 40, 56)
    free = explain_clips(model, clips)
    model.freeze_before(3)
    model.requires_grad_(False)
    with torch.no_grad():
        frozen = explain_clips(model, clips)
    torch.testing.assert_close(frozen, free)
    assert not frozen.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_labels():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    clips = torch.randn(2, 7, 3, 40, 56)
    best = model(clips).logits.argmax(dim=-1)
    torch.testing.assert_close(explain_clips(model, clips), explain_clips(model, clips, labels=best))
    assert not torch.allclose(explain_clips(model, clips), explain_clips(model, clips, labels=(best + 1) % 5))
    for labels in ([0, 5], [-1, 0], [0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="`labels` must be"):
            explain_clips(model, clips, labels=torch.tensor(labels))


def test_log_odds_by_the_kind_of_labels():
    logits, labels = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([1])
    own = logits.softmax(dim=-1)[0, 1]
    torch.testing.assert_close(log_odds(logits, labels, None)[0], (own / (1 - own)).log())
    for problem_type in ("multi_label_classification", "regression"):
        assert log_odds(logits, labels, problem_type).tolist() == [2]
    assert log_odds(logits[:, :1], torch.tensor([0]), None).tolist() == [1]


def test_what_cannot_be_explained_is_refused():
    clips = torch.randn(1, 7, 3, 40, 56)
    with pytest.raises(ValueError, match="TubeViTModel has no labels"):
        explain_clips(TubeViTModel(tiny_config()), clips)
    with pytest.raises(ValueError, match="`method` must be one of 'gradient', 'rollout', 'attention', got 'cam'"):
        explain_clips(TubeViTForVideoClassification(tiny_config()), clips, "cam")


def test_heat_is_what_speaks_for_the_label():
    parts = torch.zeros(2, 40, 48)
    parts[0, 4, 7], parts[1, 30, 9] = 3.0, -8.0
    heat = to_heat(parts, smooth=False)
    assert heat[0, 4, 7] == 1
    assert heat.sum() == 1
    smooth = to_heat(torch.ones(2, 33, 64), smooth=True)
    torch.testing.assert_close(smooth, torch.ones_like(smooth))
    assert (to_heat(torch.zeros(1, 8, 8), smooth=True) == 0).all()
