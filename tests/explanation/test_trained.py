# SPDX-License-Identifier: Apache-2.0
"""A model that is trained in seconds: explanations lie on what its label is about, and name what it needs."""

import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.explanation import deletion_curve, explain_clips, occlude_time
from tubevit_hf.explanation.regions import share_out, token_regions

from ..support.tiny import tiny_config


SIZE = (8, 16, 24)
TUBES = [
    {"kernel_size": [2, 8, 8], "stride": [2, 8, 8]},
    {"kernel_size": [1, 4, 4], "stride": [4, 4, 4]},
]


def draw(num_clips: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, and in two frames of a clip one patch of a colour, which is the label, or none; and where that is."""
    clips = 0.3 * torch.randn(num_clips, *SIZE[:1], 3, *SIZE[1:], generator=generator)
    labels = torch.randint(3, (num_clips,), generator=generator)
    places = torch.zeros(num_clips, *SIZE, dtype=torch.bool)
    for number, label in enumerate(labels.tolist()):
        if label == 0:
            continue
        frame, row, column = (int(torch.randint(n, (), generator=generator)) for n in (4, 2, 3))
        places[number, 2 * frame : 2 * frame + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
        clips[number].movedim(1, -1)[places[number]] += torch.tensor([2.0, 0.0, -2.0]) * (1 if label == 1 else -1)
    return clips, labels, places


@pytest.fixture(scope="module", params=["attention", "mean", "grid"])
def trained(request):
    """A model, and clips that it has not seen with where the patch is."""
    torch.manual_seed(0)
    settings = {
        "grid": {
            "tubes": [{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}],
            "joint_layer": 2,
            "pooling_grid": [4, 2, 3],
        }
    }.get(request.param, {"tubes": TUBES})
    config = tiny_config(
        **settings,
        pooling_type=request.param,
        num_hidden_layers=2,
        num_frames=SIZE[0],
        image_size=list(SIZE[1:]),
        id2label={0: "none", 1: "red", 2: "blue"},
        label2id={"none": 0, "red": 1, "blue": 2},
    )
    model = TubeViTForVideoClassification(config)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        clips, labels, _ = draw(16, generator)
        model(clips, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    clips, labels, places = draw(48, generator)
    clips, labels, places = clips[labels > 0], labels[labels > 0], places[labels > 0]
    with torch.no_grad():
        assert (model(clips).logits.argmax(dim=-1) == labels).double().mean() > 0.9
    return model, clips, labels, places


def test_the_peak_lies_on_the_patch(trained):
    model, clips, _, places = trained
    highest = explain_clips(model, clips).flatten(1).argmax(dim=1)
    assert places.flatten(1)[torch.arange(len(clips)), highest].double().mean() >= 0.9


def test_deletion_beats_chance(trained):
    model, clips, labels, _ = trained
    num_tokens = model.config.num_tokens()
    shares = torch.rand(len(clips), num_tokens)
    of_chance = share_out(shares, token_regions(model.config, SIZE, joined=False), SIZE)
    areas = [
        torch.trapezoid(deletion_curve(model, clips, explanation, labels), dim=1).mean() / 16
        for explanation in (explain_clips(model, clips, labels=labels), of_chance)
    ]
    assert areas[0] < areas[1] - 0.05


@pytest.mark.parametrize("fill", ["hold", "mean"])
def test_without_the_patch_the_label_is_gone(trained, fill):
    """Held still, the frame before the patch is there in its place, unless it begins the clip."""
    model, clips, labels, places = trained
    begins = places.flatten(2).any(dim=2).int().argmax(dim=1) // 2
    most = occlude_time(model, clips, 4, labels, fill).argmax(dim=1)
    assert (most == begins).double().mean() >= 0.9
