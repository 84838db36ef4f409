# SPDX-License-Identifier: Apache-2.0
"""What the pages' examples find in the folder in which they run."""

from pathlib import Path

import pytest

from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.data.moving_digits import MOTIONS, create_moving_digits

from ..support.tiny import randomize, tiny_config


@pytest.fixture(scope="session")
def after_make_demo(tmp_path_factory) -> Path:
    """A folder as `make demo` leaves it, with an untrained model of the demo's input and classes."""
    folder = tmp_path_factory.mktemp("after_make_demo")
    create_moving_digits(folder / "demo" / "moving_digits", {"train": 1, "validation": 2})
    config = tiny_config(
        image_size=64,
        num_frames=16,
        id2label=dict(enumerate(MOTIONS)),
        label2id={motion: index for index, motion in enumerate(MOTIONS)},
    )
    randomize(TubeViTForVideoClassification(config)).save_pretrained(folder / "demo" / "tubevit")
    size = {"height": 64, "width": 64}
    TubeViTVideoProcessor(size=size, crop_size=size, num_frames=16).save_pretrained(folder / "demo" / "tubevit")
    return folder
