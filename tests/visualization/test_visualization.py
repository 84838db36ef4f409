# SPDX-License-Identifier: Apache-2.0
"""What the pictures show, held against the model and the geometry."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tubevit_hf.explanation import lay_over
from tubevit_hf.visualization import animate_explanation, draw_curves, draw_explanation, draw_timeline


def test_curves_show_what_was_logged():
    history = [
        {"step": 5, "loss": 2.5, "learning_rate": 1e-3},
        {"step": 10, "loss": 1.5, "learning_rate": 0.0},
        {"step": 10, "eval_loss": 2.0, "eval_top_1_accuracy": 0.25},
    ]
    axes = draw_curves(history).axes
    assert [panel.get_title() for panel in axes] == ["loss", "accuracy", "learning rate"]
    assert [line.get_xydata().tolist() for line in axes[0].lines] == [[[5, 2.5], [10, 1.5]], [[10, 2.0]]]
    assert all(panel.get_ylim()[0] == 0 for panel in axes)


def test_a_timeline_shows_what_is_likely_and_what_was_found():
    times = np.stack((np.arange(5) * 0.5, np.arange(5) * 0.5 + 2), axis=1)
    scores = np.array([[0.1, 0.2, 0.7], [0.05, 0.15, 0.8], [np.nan] * 3, [0.3, 0.1, 0.6], [0.4, 0.1, 0.5]])
    found = [(0.0, 1.75, "c", 0.7), (2.25, 4.0, "b", 0.5)]
    axes = draw_timeline(times, scores, ["a", "b", "c"], found, num_labels=2).axes[0]
    # the two that are the most likely anywhere, in their own order
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "c"]
    mesh = axes.collections[0]
    shown = np.ma.filled(mesh.get_array(), np.nan)
    np.testing.assert_array_equal(shown, scores[:, [0, 2]].T)
    assert mesh.get_coordinates()[0, :, 0].tolist() == [0, 1.25, 1.75, 2.25, 2.75, 4]
    # the segment of a class that is shown is framed in its row
    assert len(axes.collections) == 2
    corners = axes.collections[1].get_paths()[0].vertices
    np.testing.assert_allclose([corners.min(axis=0), corners.max(axis=0)], [[0, 0.55], [1.75, 1.45]])


def made_explanation(num_frames: int, size: tuple[int, int]) -> dict:
    """What the pictures of a made-up clip take, with one pixel that counts in each frame."""
    heat = torch.zeros(num_frames, *size)
    heat[:, 2, 3] = 1.0
    seconds = np.cumsum([0.0, *np.linspace(0.1, 0.3, num_frames)])
    windows = np.array([(seconds[0], seconds[1]), (seconds[1], seconds[-1])]) if num_frames > 1 else np.zeros((0, 2))
    return {
        "frames": torch.randint(0, 256, (num_frames, 3, *size), dtype=torch.uint8),
        "heat": heat,
        "seconds": seconds,
        "windows": windows,
        "drops": np.array([0.4, -0.1])[: len(windows)],
    }


def test_what_counts_is_laid_over():
    made = made_explanation(2, (10, 12))
    covered = lay_over(made["frames"], made["heat"]).numpy()
    assert covered.shape == (2, 10, 12, 3)
    # grey but where it counts
    colourful = np.ptp(covered.astype(int), axis=-1)
    assert (colourful.reshape(2, -1).argmax(axis=1) == 2 * 12 + 3).all()


def test_a_sheet_has_no_panel_of_drops_that_nobody_would_see():
    made = made_explanation(5, (20, 30))
    settings = {"shares": np.full(5, 0.2), "title": "jump 90%", "num_columns": 4}
    panels = len(draw_explanation(**made, **settings).axes)
    made["drops"] = np.full_like(made["drops"], 1e-4)
    assert len(draw_explanation(**made, **settings).axes) == panels - 1


@pytest.mark.parametrize("num_frames", [1, 5, 12])
def test_a_sheet_shows_what_it_is_given(num_frames, tmp_path):
    made = made_explanation(num_frames, (20, 30))
    shares = np.full(num_frames, 1 / num_frames)
    figure = draw_explanation(**made, shares=shares, title="jump 90%", notes=["a note"], num_columns=4)
    pictures = [axes for axes in figure.axes if axes.images]
    shown = min(4, num_frames)
    assert len(pictures) == 2 * shown
    assert [axes.get_title() for axes in pictures[::2]] == [
        f"{made['seconds'][column * num_frames // shown]:.2f} s" for column in range(shown)
    ]
    bars = [axes for axes in figure.axes if len(axes.patches) > 0]
    heights = [[bar.get_height() for bar in axes.patches] for axes in bars]
    assert heights[0] == pytest.approx(list(100 * shares))
    if num_frames > 1:
        # a score that falls is below the line
        assert heights[1] == pytest.approx([-40, 10])
    figure.savefig(tmp_path / "sheet.png")


@pytest.mark.parametrize(("num_frames", "size"), [(1, (16, 16)), (6, (24, 40)), (3, (50, 20))])
def test_an_animation_keeps_the_time_of_frames(num_frames, size):
    made = made_explanation(num_frames, size)
    with Image.open(io.BytesIO(animate_explanation(**made, title="jump " * 40))) as animation:
        assert getattr(animation, "n_frames", 1) == num_frames
        if num_frames > 1:
            durations = []
            for number in range(num_frames):
                animation.seek(number)
                durations.append(animation.info["duration"])
            wanted = 1000 * np.diff(made["seconds"])
            assert durations[:-1] == pytest.approx(wanted[:-1], abs=10)


def test_a_large_animation_is_made_smaller(monkeypatch):
    """Noise cannot be compressed."""
    made = made_explanation(3, (64, 64))
    whole = len(animate_explanation(**made, title="noise"))
    monkeypatch.setattr("tubevit_hf.visualization.explanation.MAX_BYTES", whole // 3)
    assert whole // 20 < len(animate_explanation(**made, title="noise")) <= whole // 3
