# SPDX-License-Identifier: Apache-2.0
"""Explanations of files: read as predictions are, and what is told of them is what the numbers say."""

import json

import numpy as np
import pytest
import torch

from tubevit_hf import TubeViTVideoProcessor, read_video
from tubevit_hf.explanation import explain_clips, occlude_time
from tubevit_hf.inference import VideoExplanation, explain_video, load_model, predict_files
from tubevit_hf.inference.explaining import find_label, spread_repeats, to_pictures
from tubevit_hf.model.video_sampling_tubevit import uniform_frames

from ..support.tiny import LABELS


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(str(checkpoint))


def made(shares, drops=(), **changes) -> VideoExplanation:
    """One of 4 frames, half a second each, with so much in each of them."""
    parts = torch.zeros(4, 2, 3)
    parts[:, 0, 1] = torch.tensor(shares)
    parts[:, 1, 2] = -5.0
    settings = {
        "video": "folder/clip.mp4",
        "method": "gradient",
        "label": "fall",
        "score": 0.75,
        "predictions": [],
        "frames": torch.zeros(4, 3, 2, 3, dtype=torch.uint8),
        "seconds": np.array([0.0, 0.5, 1.0, 1.5, 2.0]),
        "parts": parts,
        "windows": np.array([(0.0, 1.0), (1.0, 2.0)])[: len(drops)],
        "drops": np.array(drops),
        "tubes": [(1, 8, 8), (4, 2, 6), (1, 8, 8)],
    }
    return VideoExplanation(**{**settings, **changes})


def test_it_is_of_the_clip_that_is_classified(model, videos):
    found = explain_video(model, videos[0], num_windows=3)
    (predicted,) = predict_files(model, [videos[0]], num_workers=0)
    assert found.predictions == predicted.predictions
    assert (found.label, found.score) == (found.predictions[0]["label"], pytest.approx(found.predictions[0]["score"]))
    clip = model.processor(videos[0], return_tensors="pt")["pixel_values"]
    best = torch.tensor([LABELS.index(found.label)])
    torch.testing.assert_close(found.parts, explain_clips(model.model, clip, labels=best)[0])
    torch.testing.assert_close(torch.tensor(found.drops), occlude_time(model.model, clip, 3, best)[0])
    _, metadata = read_video(videos[0], uniform_frames(20, 7))
    assert found.seconds[:-1].tolist() == metadata.timestamps
    # of 2, 2 and 3 frames
    assert found.windows.tolist() == found.seconds[[[0, 2], [2, 4], [4, 7]]].tolist()


def test_another_label_and_method(model, videos):
    found = explain_video(model, videos[1], method="rollout", label="spin")
    assert found.label == "spin"
    entry = next(entry for entry in found.predictions if entry["label"] == "spin")
    assert found.score == pytest.approx(entry["score"])
    assert found.shares.sum() == pytest.approx(1)
    assert len(found.drops) == 7
    assert "Its attention " in found.tell()[0]


def test_frames_are_those_that_the_model_saw(tmp_path):
    frames = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    size = {"height": 16, "width": 24}
    processor = TubeViTVideoProcessor(size=size, crop_size=size, image_mean=[0.3, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    clip = processor([frames], do_sample_frames=False, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(to_pictures(processor, clip), frames.permute(0, 2, 3, 1).float(), rtol=0, atol=1e-3)


def test_a_padded_clip_is_explained_without_its_padding(model, videos):
    processor = TubeViTVideoProcessor(**{**model.processor.to_dict(), "short_clips": "pad", "num_frames": 7})
    found = explain_video(model._replace(processor=processor), videos[2])
    assert found.frames.shape[0] == 5
    assert len(found.seconds) == 6


def test_repeated_frames_share_the_time_of_one():
    # the last one is shown for as long as they are in the middle
    assert spread_repeats(np.array([0.0, 0.2, 0.2, 0.6])).tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.9])
    assert spread_repeats(np.array([3.0, 3.0])).tolist() == [3, 3.5, 4]


def test_when_it_looked():
    assert made([0.0, 1.0, 3.0, 0.0]).find_most() == (1.0, 1.5)
    assert made([1.0, 1.0, 1.0, 1.0]).find_most() is None
    # two frames are half of the clip
    assert made([3.0, 3.0, 1.0, 1.0]).find_most() is None
    assert made([0.0, 0.0, 0.0, 0.0]).find_most() is None
    assert made([2.0, 1.0, 1.0, 0.0]).shares.tolist() == pytest.approx([0.5, 0.25, 0.25, 0])


def test_what_is_told():
    found = made([0.0, 0.0, 3.0, 1.0], drops=[-0.1, 0.5])
    assert found.tell() == [
        "What counts lies mostly at 1.0 to 1.5 s: half of it, in 25% of the time.",
        "Without 1.0 to 2.0 s, held still instead, fall would have 25.0% instead of 75.0%.",
    ]
    assert found.describe_tubes() == [
        "The model reads the clip in tubes; each token sees 1 frame of 8x8 pixels, or 4 frames of 2x6 pixels."
    ]
    assert found.alt_text.startswith("4 frames of clip.mp4, and over each what counts for the label fall")
    assert "No single stretch" in made([1.0, 1.0, 1.0, 1.0], drops=[0.001, -0.2]).tell()[1]
    assert len(made([1.0, 0.0, 0.0, 0.0]).tell()) == 1
    values = json.loads(json.dumps(found.to_dict()))
    assert (values["most"], values["drops"], values["label"]) == ([1.0, 1.5], [-0.1, 0.5], "fall")


def test_labels_by_name():
    names = ["push", "punch", "kick", "wave"]
    assert find_label("kick", names) == 2
    for name in ("pumch", "PUNCH"):
        with pytest.raises(ValueError, match=f"no label '{name}'; near are 'punch'"):
            find_label(name, names)
    with pytest.raises(ValueError, match="no label 'zzz'; near are 'push', 'punch', 'kick', 'wave'"):
        find_label("zzz", names)


def test_other_models_are_refused(model, videos):
    with pytest.raises(ValueError, match=r"only a TubeViT with a head.*got object"):
        explain_video(model._replace(model=object()), videos[0])
