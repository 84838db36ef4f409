# SPDX-License-Identifier: Apache-2.0
"""Labelled videos, and measurements of which nothing was measured."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tubevit_hf.report.machine import Speed
from tubevit_hf.report.measurement import MeasuredVideo, Measurement, summarize

from ..support.tiny import LABELS, write_video


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory) -> Path:
    """Three videos of each of four of the tiny checkpoint's five classes, of two persons and different lengths, in
    folders of training and of validation."""
    folder = tmp_path_factory.mktemp("labelled")
    for split, first in (("train", 100), ("validation", 0)):
        for label, name in enumerate(LABELS[:4]):
            (folder / split / name).mkdir(parents=True)
            for number in range(3):
                seed = first + 3 * label + number
                path = folder / split / name / f"person{number % 2}_{name}_{number}.mp4"
                write_video(path, 8 + 2 * seed % 17, 48, 72, seed=seed)
    return folder


@pytest.fixture
def model_folder(checkpoint, tmp_path) -> Path:
    """The tiny checkpoint, to be written into."""
    return Path(shutil.copytree(checkpoint, tmp_path / "my_model"))


def make_measurement(
    num_videos: int = 60,
    num_labels: int = 5,
    several: bool = False,
    seed: int = 0,
    skill: float = 2.0,
    name: str = "class",
    **about: object,
) -> Measurement:
    """Scores by chance that lean towards what is right, more so with more skill; the last class has no videos."""
    generator = np.random.default_rng(seed)
    labels = [f"{name} {number}" for number in range(num_labels)]
    videos = []
    for index in range(num_videos):
        right = sorted(generator.choice(num_labels - 1, size=1 + several * generator.integers(3), replace=False))
        logits = generator.normal(size=num_labels)
        logits[right] += skill
        scores = 1 / (1 + np.exp(-logits)) if several else np.exp(logits) / np.exp(logits).sum()
        best = int(scores.argmax())
        videos.append(
            MeasuredVideo(
                file=f"videos/{name}_{right[0]}/person{index % 7}_{index}.mp4",
                labels=tuple(labels[label] for label in right),
                group=f"person{index % 7}",
                predicted=labels[best],
                confidence=float(scores[best]),
                right=best in right,
                length=float(generator.uniform(1, 9)),
                scores=tuple(scores.tolist()),
            )
        )
    facts = {
        "model": "models/my_model",
        "data": "videos",
        "how": "All videos of videos/validation.",
        "warnings": [],
        "views": (1, 1),
        "failed": [],
        "parameters": 1_234_567,
        "tokens": 539,
        "environment": {"CPU": "a CPU, 2 threads", "tubevit_hf": "0.1.0"},
        "speed": Speed(videos=9, reading_ms=12.5, model_ms=34.5, memory_mib=640.0, gpu_memory_mib=None),
    }
    return summarize(videos, labels, several, **{**facts, **about})


@pytest.fixture
def measurement() -> Callable[..., Measurement]:
    return make_measurement
