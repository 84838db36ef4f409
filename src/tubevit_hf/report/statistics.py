# SPDX-License-Identifier: Apache-2.0
"""Shares with their intervals, scores of each class, and how far a model's confidence can be believed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation import accuracy_interval
from ..extras import of_extra


LEVEL = 0.95
NUM_BINS = 10
# draws of what chance alone does
NUM_DRAWS = 2_000


@dataclass(frozen=True)
class Share:
    """How many of how many, as a share, and between which bounds it lies with 95% confidence."""

    count: int
    of: int
    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class ClassScores:
    """How a model does on one class.

    Args:
        label: its name.
        number: videos of it.
        predicted: videos that were taken for it.
        recall: how many of its videos were recognised; `None` where there are none.
        precision: share of right ones among those that were taken for it; `None` where there are none.
        f1: harmonic mean of the two; 0 if either is 0 or `None`.
        average_precision: of its scores, if videos may have several labels and one has this.
    """

    label: str
    number: int
    predicted: int
    recall: Share | None
    precision: float | None
    f1: float
    average_precision: float | None = None


@dataclass(frozen=True)
class Bin:
    """Videos whose highest score is above `low` and at most `high`."""

    low: float
    high: float
    number: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

    Args:
        error: expected calibration error, the mean distance of the two over bins of equal width, weighted by their
            videos.
        by_chance: the error that a perfectly calibrated model with these scores exceeds in one of twenty such sets of
            videos; few videos alone make a large one.
        confidence: mean highest score.
        bins: those that hold videos.
    """

    error: float
    by_chance: float
    confidence: float
    bins: list[Bin]


def wilson_share(count: int, of: int) -> Share:
    """A share with Wilson's interval, which holds for few videos and for shares of 0 and 1 too.

    Raises:
        ValueError: it is of nothing.
    """
    if of < 1:
        raise ValueError(f"a share needs at least one video, got {of}.")
    return Share(count, of, count / of, *accuracy_interval(count, of, LEVEL))


def bootstrap_share(right: np.ndarray, groups: Sequence[str], seed: int = 0) -> Share:
    """A share with an interval over groups, which are drawn anew with all of their videos (percentile bootstrap).

    Where every group has the same share, draws tell nothing; then each group counts as a single video, which Wilson's
    interval is taken of.

    Args:
        right: whether each video counts, `(videos,)`.
        groups: of each video.
    """
    names, numbers = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(numbers, weights=right)
    sizes = np.bincount(numbers)
    value = float(np.mean(right))
    if np.ptp(counts / sizes) == 0:
        whole = wilson_share(round(value * len(names)), len(names))
        return Share(int(right.sum()), len(right), value, min(value, whole.low), max(value, whole.high))
    drawn = np.random.default_rng(seed).integers(len(names), size=(NUM_DRAWS, len(names)))
    shares = counts[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Share(int(right.sum()), len(right), value, low, high)


def bootstrap_mean_precision(
    scores: np.ndarray, present: np.ndarray, groups: Sequence[str], seed: int = 0, num_draws: int = 200
) -> tuple[float, float]:
    """Interval of the mean average precision over groups that are drawn anew, see [`average_precisions`]."""
    names, numbers = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(numbers == number) for number in range(len(names))]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(num_draws):
        rows = np.concatenate([members[group] for group in generator.integers(len(names), size=len(names))])
        values = [value for value in average_precisions(scores[rows], present[rows]) if value is not None]
        if values:
            found.append(float(np.mean(values)))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def average_precisions(scores: np.ndarray, present: np.ndarray) -> list[float | None]:
    """Average precision of each class, `None` for one that no video has.

    Args:
        scores: `(videos, labels)`.
        present: which labels each video has, of the same shape.
    """
    with of_extra("demo"):
        from sklearn.metrics import average_precision_score

    return [
        float(average_precision_score(present[:, label], scores[:, label])) if present[:, label].any() else None
        for label in range(scores.shape[1])
    ]


def score_classes(scores: np.ndarray, present: np.ndarray, labels: Sequence[str], several: bool) -> list[ClassScores]:
    """Precision, recall and F1 of each class.

    Args:
        scores: `(videos, labels)`.
        present: which labels each video has, of the same shape.
        labels: their names.
        several: whether a video may have several; then those with a score of at least one half are predicted, and
            not the highest one.
    """
    with of_extra("demo"):
        from sklearn.metrics import precision_recall_fscore_support

    if several:
        predicted = scores >= 0.5
        of_scores = average_precisions(scores, present)
    else:
        predicted = np.arange(len(labels)) == scores.argmax(axis=1)[:, None]
        of_scores = [None] * len(labels)
    found = precision_recall_fscore_support(present, predicted, average=None, zero_division=0)
    precision, _, f1, number = map(np.asarray, found)
    hits, taken = (present & predicted).sum(axis=0), predicted.sum(axis=0)
    return [
        ClassScores(
            label,
            int(number[index]),
            int(taken[index]),
            wilson_share(int(hits[index]), int(number[index])) if number[index] else None,
            float(precision[index]) if taken[index] else None,
            float(f1[index]),
            of_scores[index],
        )
        for index, label in enumerate(labels)
    ]


def count_confusions(truth: np.ndarray, predicted: np.ndarray, num_labels: int) -> list[list[int]]:
    """How many videos of a class, the row, were taken for which, the column."""
    with of_extra("demo"):
        from sklearn.metrics import confusion_matrix

    return confusion_matrix(truth, predicted, labels=range(num_labels)).tolist()


def calibrate(confidence: np.ndarray, right: np.ndarray, seed: int = 0) -> Calibration:
    """Compares how sure a model is with how often it is right.

    Args:
        confidence: highest score of each video, `(videos,)`.
        right: whether that label is right, `(videos,)`.
    """
    # a bin takes its upper bound in, and the first one 0 as well
    numbers = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    sizes = np.bincount(numbers, minlength=NUM_BINS)
    confidences = np.bincount(numbers, weights=confidence, minlength=NUM_BINS)
    rights = np.bincount(numbers, weights=right, minlength=NUM_BINS)
    bins = [
        Bin(
            index / NUM_BINS,
            (index + 1) / NUM_BINS,
            int(sizes[index]),
            float(confidences[index] / sizes[index]),
            float(rights[index] / sizes[index]),
        )
        for index in np.flatnonzero(sizes).tolist()
    ]
    generator = np.random.default_rng(seed)
    # (bins, videos): what falls where
    membership = (np.arange(NUM_BINS)[:, None] == numbers).astype(float)
    errors = []
    for _ in range(NUM_DRAWS // 4):
        drawn = generator.random(len(confidence)) < confidence
        errors.append(np.abs(membership @ drawn - confidences).sum() / len(confidence))
    return Calibration(
        float(np.abs(rights - confidences).sum() / len(confidence)),
        float(np.quantile(errors, LEVEL)),
        float(confidence.mean()),
        bins,
    )
