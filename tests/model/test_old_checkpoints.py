# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as version 0.1.0 wrote it, with the logits that it gave then: names, shapes and config keys hold."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification, AutoModelForVideoClassification

from ..support.tolerances import assert_close


FOLDER = Path(__file__).with_name("checkpoint_0.1.0")


def test_answers_are_those_of_then():
    answers = json.loads((FOLDER / "answers.json").read_text())
    # no random numbers: they may differ from one PyTorch to the next
    clip = torch.arange(7 * 3 * 40 * 56).reshape(1, 7, 3, 40, 56).mul(0.37).sin()
    for auto_class, name, pixel_values in (
        (AutoModelForVideoClassification, "video", clip),
        (AutoModelForImageClassification, "image", clip[:, 3]),
    ):
        model, loading = auto_class.from_pretrained(FOLDER, output_loading_info=True)
        assert not any(loading.values()), loading
        with torch.no_grad():
            assert_close(model(pixel_values).logits[0], torch.tensor(answers[name]), "float32")


def test_tubes_with_every_key_are_kept():
    model = AutoModelForVideoClassification.from_pretrained(FOLDER)
    assert model.config.tubes == json.loads((FOLDER / "config.json").read_text())["tubes"]
    assert [tube["out_channels"] for tube in model.config.tubes] == [12, 24, 24]
