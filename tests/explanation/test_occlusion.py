# SPDX-License-Identifier: Apache-2.0
"""What taking out a stretch of time does, on clips and models whose answer is known; and deletion."""

import pytest
import torch
from torch import nn

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.explanation import deletion_curve, equal_windows, occlude_time, scores_so_far
from tubevit_hf.explanation.occlusion import take_out

from ..support.tiny import randomize, tiny_config


@pytest.fixture
def brightness():
    """A model of two labels, "dark" and "bright", that sees a token a frame and 8x8 pixels, and averages them."""
    config = tiny_config(
        hidden_size=6,
        num_hidden_layers=1,
        num_attention_heads=1,
        tubes=[{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}],
        position_embedding_type="none",
        pooling_type="mean",
        image_size=[16, 24],
        num_frames=8,
        id2label={0: "dark", 1: "bright"},
        label2id={"dark": 0, "bright": 1},
    )
    model = TubeViTForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.tubevit.embeddings.tubes[0].weight[0].fill_(1 / (3 * 8 * 8))
        model.classifier.weight[1, 0] = 4.0
    # the residual passes the layer by, and the norm would undo the brightness
    model.tubevit.layernorm = nn.Identity()
    return model


def flash(frames, num_frames=8) -> torch.Tensor:
    """A dark clip with one bright patch in some of its frames."""
    clip = torch.zeros(1, num_frames, 3, 16, 24)
    for frame in frames:
        clip[:, frame, :, 8:16, 0:8] = 12.0
    return clip


@pytest.mark.parametrize("fill", ["hold", "mean"])
def test_the_window_with_the_flash_counts(brightness, fill):
    drops = occlude_time(brightness, flash([4, 5]), 4, fill=fill)
    assert drops.shape == (1, 4)
    assert drops[0].argmax() == 2
    # by hand: 2 of 8 * 6 patches are 12 bright, and without them nothing is
    before = torch.tensor(4 * 12 * 2 / 48).sigmoid()
    assert drops[0, 2].item() == pytest.approx(before.item() - 0.5, abs=1e-6)


def test_other_windows_are_as_they_were(brightness):
    drops = occlude_time(brightness, flash([4, 5]), 4)
    # frames that stand still there do so in any case; behind the flash it is held
    assert drops[0, [0, 1]].tolist() == [0, 0]
    assert drops[0, 3] < 0


def test_a_window_may_speak_against_a_label(brightness):
    drops = occlude_time(brightness, flash([0]), [(0, 1), (6, 8)], labels=torch.tensor([0]))
    assert drops[0, 0] < -0.2
    assert drops[0, 1] == 0


@pytest.mark.parametrize(("start", "stop", "source"), [(0, 2, 2), (3, 5, 2), (6, 7, 5)])
def test_what_is_held(start, stop, source):
    clip = torch.randn(2, 7, 3, 4, 5)
    held = take_out(clip, (start, stop), "hold")
    for frame in range(7):
        expected = clip[:, source] if start <= frame < stop else clip[:, frame]
        assert torch.equal(held[:, frame], expected)
    mean = take_out(clip, (start, stop), "mean")
    others = [frame for frame in range(7) if not start <= frame < stop]
    torch.testing.assert_close(mean[:, start], sum(clip[:, frame] for frame in others) / len(others))
    assert torch.equal(mean[:, others], clip[:, others])


def test_windows_are_even():
    assert equal_windows(8, 4) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert equal_windows(7, 3) == [(0, 2), (2, 4), (4, 7)]


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (1, "`windows` must be from 2 to 8"),
        (9, "`windows` must be from 2 to 8"),
        ([(0, 8)], "leave some of them, got 0 to 8"),
        ([(3, 3)], "must lie within the 8 frame"),
        ([(5, 9)], "must lie within the 8 frame"),
        ([(-1, 2)], "must lie within the 8 frame"),
    ],
)
def test_bad_windows(brightness, windows, message):
    with pytest.raises(ValueError, match=message):
        occlude_time(brightness, flash([1]), windows)


def test_an_unknown_filling(brightness):
    with pytest.raises(ValueError, match='`fill` must be "hold" or "mean", got \'black\''):
        occlude_time(brightness, flash([1]), 4, fill="black")


def test_occlusion_of_several_labels():
    model = randomize(TubeViTForVideoClassification(tiny_config(problem_type="multi_label_classification")))
    clips = torch.randn(2, 7, 3, 40, 56)
    drops = occlude_time(model, clips, [(2, 5)], labels=torch.tensor([1, 4]))
    with torch.no_grad():
        before, after = (model(part).logits.sigmoid() for part in (clips, take_out(clips, (2, 5), "hold")))
    torch.testing.assert_close(drops[:, 0], (before - after)[[0, 1], [1, 4]])


def test_deletion_by_hand(brightness):
    """The bright patch goes first, and at once nothing is left of it."""
    clip = flash([4])
    wanted = (clip[:, :, 0] > 0).float()
    curve = deletion_curve(brightness, clip, wanted, num_steps=48)[0]
    ground = clip.mean().item()
    odds = torch.tensor([12 / 48, ground / 48]) * 4
    # what is left is the colour of the clip in place of the patch
    assert curve[0].item() == pytest.approx(odds[0].sigmoid().item())
    assert curve[1].item() == pytest.approx(odds[1].sigmoid().item())
    assert curve[-1].item() == pytest.approx((4 * clip.mean()).sigmoid().item())
    last = deletion_curve(brightness, clip, -wanted, num_steps=48)[0]
    assert last.sum() > curve.sum()


def test_scores_so_far_hold_each_frame(brightness):
    """By hand: what is bright in a frame stays bright to the end, and what was bright before it stays as it was."""
    clip = flash([2, 3, 5])
    scores = scores_so_far(brightness, clip)
    assert scores.shape == (1, 8, 2)
    bright = [0, 0, 6, 6, 2, 5, 3, 3]
    for frame, patches in enumerate(bright):
        expected = torch.tensor(4 * 12 * patches / 48).sigmoid().item()
        assert scores[0, frame, 1].item() == pytest.approx(expected, abs=1e-6)
    seen = []

    def watch(steps):
        for step in steps:
            seen.append(step)
            yield step

    assert scores_so_far(brightness, clip, watch).equal(scores)
    assert seen == list(range(8))


def test_scores_so_far_end_with_those_of_the_clip():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    clips = torch.randn(2, 7, 3, 40, 56)
    with torch.no_grad():
        expected = model(clips).logits.softmax(dim=-1)
    torch.testing.assert_close(scores_so_far(model, clips)[:, -1], expected)
