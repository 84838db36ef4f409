# SPDX-License-Identifier: Apache-2.0
"""The demo's videos: the label is the motion, and nothing but the motion."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tubevit_hf import read_video
from tubevit_hf.data import moving_digits
from tubevit_hf.data.moving_digits import (
    DIRECTIONS,
    FRAME_SIZE,
    MOTIONS,
    NUM_FRAMES,
    create_moving_digits,
    render_clip,
)


DIGIT = load_digits().images[7]


def centre_of_mass(frame: np.ndarray) -> complex:
    """Position on the torus as a pair of angles: the phases of the first Fourier coefficients along y and x."""
    brightness = frame.astype(float).sum(axis=-1)
    brightness -= brightness.min()
    wave = np.exp(2j * np.pi * np.arange(FRAME_SIZE) / FRAME_SIZE)
    return np.angle([brightness.sum(axis=1) @ wave, brightness.sum(axis=0) @ wave])


def mean_step(clip: np.ndarray) -> np.ndarray:
    """Mean motion in pixels a frame, `(down, right)`."""
    positions = np.array([centre_of_mass(frame) for frame in clip])
    steps = np.angle(np.exp(1j * np.diff(positions, axis=0)))
    return steps.mean(axis=0) * FRAME_SIZE / (2 * np.pi)


@pytest.mark.parametrize("motion", DIRECTIONS)
def test_digit_moves_where_the_label_says(motion):
    down, right = mean_step(render_clip(DIGIT, motion, np.random.default_rng(3)))
    speed = np.hypot(down, right)
    assert moving_digits.SPEED[0] - 0.2 < speed < moving_digits.SPEED[1] + 0.2
    # rows grow downwards: what goes up loses rows
    assert np.dot((down, right), DIRECTIONS[motion]) / speed > 0.97
    assert ("up" in motion) == (down < -0.5)
    assert ("left" in motion) == (right < -0.5)


def test_a_resting_digit_rests():
    clip = render_clip(DIGIT, "rest", np.random.default_rng(3))
    assert (clip == clip[:1]).all()


@pytest.mark.parametrize(("motion", "sign"), [("turn_left", 1), ("turn_right", -1)])
def test_a_turning_digit_turns_in_place(motion, sign):
    clip = render_clip(DIGIT, motion, np.random.default_rng(3))
    assert np.abs(mean_step(clip)).max() < 0.3
    # the axis of largest spread turns; rows grow downwards, so that counter-clockwise is a negative angle of (x, y)
    angles = np.array([principal_angle(frame) for frame in clip])
    steps = np.angle(np.exp(2j * np.diff(angles))) / 2
    low, high = np.radians(moving_digits.TURN_SPEED)
    assert low - 0.05 < -sign * np.median(steps) < high + 0.05


def principal_angle(frame: np.ndarray) -> float:
    """Direction of largest spread, after the digit was brought to the middle of the torus."""
    brightness = frame.astype(float).sum(axis=-1)
    brightness -= brightness.min()
    row, column = (round(angle * FRAME_SIZE / (2 * np.pi)) for angle in centre_of_mass(frame))
    brightness = np.roll(brightness, (FRAME_SIZE // 2 - row, FRAME_SIZE // 2 - column), axis=(0, 1))
    y, x = np.mgrid[:FRAME_SIZE, :FRAME_SIZE] - FRAME_SIZE // 2
    covariance = np.array([[(brightness * a * b).sum() for a in (x, y)] for b in (x, y)])
    direction = np.linalg.eigh(covariance)[1][:, -1]
    return np.arctan2(direction[1], direction[0])


def test_files_hold_what_was_drawn_and_splits_share_no_digit(tmp_path, monkeypatch):
    drawn = {"train": set(), "validation": set()}
    split_of_call = iter(["train"] * 2 * len(MOTIONS) + ["validation"] * len(MOTIONS))

    def remember(digit, motion, rng):
        drawn[next(split_of_call)].add(digit.tobytes())
        return render_clip(digit, motion, rng)

    monkeypatch.setattr(moving_digits, "render_clip", remember)
    create_moving_digits(tmp_path / "digits", {"train": 2, "validation": 1})
    assert not drawn["train"] & drawn["validation"]
    for split, count in (("train", 2), ("validation", 1)):
        assert sorted(path.name for path in (tmp_path / "digits" / split).iterdir()) == sorted(MOTIONS)
        for motion in MOTIONS:
            files = sorted((tmp_path / "digits" / split / motion).iterdir())
            assert [file.name for file in files] == [f"{index:04d}.mp4" for index in range(count)]
            assert read_video(files[0])[0].shape == (NUM_FRAMES, 3, FRAME_SIZE, FRAME_SIZE)


def test_finished_folder_is_kept_and_unfinished_one_made_anew(tmp_path, monkeypatch):
    folder = tmp_path / "digits"
    counts = {"train": 1, "validation": 1}

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moving_digits, "write_video", fail)
        with pytest.raises(KeyboardInterrupt):
            create_moving_digits(folder, counts)
    assert not folder.exists()

    create_moving_digits(folder, counts)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    create_moving_digits(folder, counts)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == before
    assert json.loads((folder / "settings.json").read_text())["clips_per_motion"] == counts
    with pytest.raises(FileExistsError, match="remove it"):
        create_moving_digits(folder, {"train": 2, "validation": 1})


def test_same_seed_same_clips():
    clips = [render_clip(DIGIT, "up_left", np.random.default_rng(5)) for _ in range(2)]
    assert (clips[0] == clips[1]).all()
    assert (clips[0] != render_clip(DIGIT, "up_left", np.random.default_rng(6))).any()
