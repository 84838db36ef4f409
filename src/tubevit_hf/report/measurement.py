# SPDX-License-Identifier: Apache-2.0
"""What was measured of a model, as numbers: all that the page, the JSON and the model card say."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .history import History
from .machine import Speed
from .statistics import (
    Calibration,
    ClassScores,
    Share,
    bootstrap_mean_precision,
    bootstrap_share,
    calibrate,
    count_confusions,
    score_classes,
    wilson_share,
)


# lengths of videos are compared in three parts of as many videos each
NUM_PARTS = 3


@dataclass(frozen=True)
class MeasuredVideo:
    """A video and what the model says of it.

    Args:
        file: its path.
        labels: what is right: one, or several.
        group: what it shares with others, if that is known.
        predicted: the label with the highest score.
        confidence: that score.
        right: whether that label is right.
        length: in seconds; `None` where the file does not tell.
        scores: of all labels, in the model's order.
        mark: size and time of change of the file, by which it is known again.
    """

    file: str
    labels: tuple[str, ...]
    group: str | None
    predicted: str
    confidence: float
    right: bool
    length: float | None
    scores: tuple[float, ...]
    mark: tuple[int, ...] = ()


@dataclass(frozen=True)
class LengthPart:
    """Videos from `shortest` to `longest`, in seconds, and the share of them that is classified right."""

    shortest: float
    longest: float
    accuracy: Share


@dataclass(frozen=True)
class Measurement:
    """A model on videos that it was not trained on, as far as is known.

    Args:
        model: its folder or repo id.
        data: the folder of the videos.
        how: how the videos were chosen.
        warnings: why they may not be what they should.
        labels: the model's classes, in its order.
        several: whether a video may have several; then `accuracy` is the share of videos whose highest score is of
            one that they have.
        views: clips in time and crops of each, whose scores are averaged.
        videos: each with what the model says of it.
        failed: files that could not be read, with the reason.
        accuracy: with Wilson's interval, as if each video were by itself.
        accuracy_by_groups: the same with an interval over groups, where these are known.
        num_groups: how many there are.
        chance: accuracy of a label that is drawn at random.
        majority: the most frequent class of the videos.
        majority_share: accuracy of always saying that.
        mean_recall: recall averaged over the classes that occur.
        mean_average_precision: with its interval over groups or videos, where a video may have several labels.
        classes: scores of each class.
        confusion: how many of a class, the row, were taken for which, the column; where a video has one label.
        calibration: how far scores can be believed.
        lengths: accuracy by length of the video.
        made_with: all that the scores depend on besides the files.
        parameters: of the model.
        tokens: of a clip, where the model is a TubeViT.
        environment: what it was measured on and with, by name.
        speed: of a clip on this machine.
        history: how it was trained, as far as its folder tells.
        limits: what follows from the numbers, in plain words.
    """

    model: str
    data: str
    how: str
    warnings: list[str]
    labels: list[str]
    several: bool
    views: tuple[int, int]
    videos: list[MeasuredVideo]
    failed: list[str]
    accuracy: Share
    accuracy_by_groups: Share | None
    num_groups: int | None
    chance: float
    majority: str
    majority_share: float
    mean_recall: float
    mean_average_precision: tuple[float, float, float] | None
    classes: list[ClassScores]
    confusion: list[list[int]] | None
    calibration: Calibration
    lengths: list[LengthPart]
    made_with: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    tokens: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    speed: Speed | None = None
    history: History = field(default_factory=History)
    limits: list[str] = field(default_factory=list)

    @property
    def best_interval(self) -> Share:
        """The accuracy with the wider interval: videos of a group are alike, which an interval of videos by themselves
        does not know; and draws of a few groups are too much alike."""
        if self.accuracy_by_groups is None or self.accuracy_by_groups.width < self.accuracy.width:
            return self.accuracy
        return self.accuracy_by_groups

    @property
    def interval_over(self) -> str:
        """What that interval is over."""
        if self.best_interval is self.accuracy_by_groups:
            return f"over {self.num_groups} groups"
        return "each video by itself"

    @property
    def mistakes(self) -> list[MeasuredVideo]:
        """The wrong ones, the most confident first."""
        return sorted((video for video in self.videos if not video.right), key=lambda video: -video.confidence)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def summarize(
    videos: Sequence[MeasuredVideo],
    labels: Sequence[str],
    several: bool = False,
    **about: Any,
) -> Measurement:
    """Works out all numbers.

    Args:
        videos: at least one.
        labels: the model's classes, in the order of the scores.
        several: whether a video may have several.
        about: the other fields of [`Measurement`].
    """
    numbers = {label: number for number, label in enumerate(labels)}
    scores = np.array([video.scores for video in videos], dtype=np.float64)
    present = np.zeros(scores.shape, dtype=bool)
    for row, video in enumerate(videos):
        present[row, [numbers[label] for label in video.labels]] = True
    right = np.array([video.right for video in videos])
    groups = [video.group for video in videos]
    known = [group for group in groups if group is not None]
    of_groups = known if len(known) == len(groups) and len(set(known)) > 1 else None
    classes = score_classes(scores, present, labels, several)
    recalls = [found.recall.value for found in classes if found.recall is not None]
    precisions = [found.average_precision for found in classes if found.average_precision is not None]
    frequent = int(present.sum(axis=0).argmax())
    mean_average_precision = None
    if precisions:
        by = of_groups or [video.file for video in videos]
        mean_average_precision = (float(np.mean(precisions)), *bootstrap_mean_precision(scores, present, by))
    return Measurement(
        labels=list(labels),
        several=several,
        videos=list(videos),
        accuracy=wilson_share(int(right.sum()), len(right)),
        accuracy_by_groups=None if of_groups is None else bootstrap_share(right, of_groups),
        num_groups=None if of_groups is None else len(set(of_groups)),
        chance=float(present.mean()) if several else 1 / len(labels),
        majority=labels[frequent],
        majority_share=float(present[:, frequent].mean()),
        mean_recall=float(np.mean(recalls)) if recalls else 0.0,
        mean_average_precision=mean_average_precision,
        classes=classes,
        confusion=None if several else count_confusions(present.argmax(axis=1), scores.argmax(axis=1), len(labels)),
        calibration=calibrate(np.array([video.confidence for video in videos]), right),
        lengths=split_by_length(videos),
        **about,
    )


def split_by_length(videos: Sequence[MeasuredVideo]) -> list[LengthPart]:
    """Parts of as many videos each, from the shortest to the longest; none where all are of one length, and videos of
    one length are in one part."""
    timed = sorted((video.length, video.right) for video in videos if video.length is not None)
    if not timed:
        return []
    lengths = np.array([length for length, _ in timed])
    right = np.array([right for _, right in timed])
    bounds = [lengths[len(timed) * part // NUM_PARTS] for part in range(1, NUM_PARTS)]
    parts = np.searchsorted(bounds, lengths, side="right")
    if len(np.unique(parts)) < 2:
        return []
    return [
        LengthPart(
            float(lengths[parts == part].min()),
            float(lengths[parts == part].max()),
            wilson_share(int(right[parts == part].sum()), int((parts == part).sum())),
        )
        for part in np.unique(parts)
    ]
