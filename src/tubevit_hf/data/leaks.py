# SPDX-License-Identifier: Apache-2.0
"""What a video's length, shape, rate and codec alone tell about its class.

If classes were filmed or cut in different ways, a model can tell them apart without a look at what happens, and what
it learns is worth nothing elsewhere. Decision trees that see these few numbers only show how far that goes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..extras import of_extra


# folds of the cross-validation, if each class has as many videos
NUM_FOLDS = 5
NUM_TREES = 100
# classes with fewer videos are not judged
MIN_VIDEOS = 5
# videos that are drawn of larger data: the accuracy is known to a hundredth then
MAX_VIDEOS = 10_000
# a difference from chance counts from so many standard errors on
SIGNIFICANT = 3.0
# how much of what chance leaves open is told: from this on it is a finding, and from that on a grave one
TELLING, GRAVE = 0.3, 0.6
# mean of the shares that are right within a class and outside it, from which on that class is a finding
CLASS_TELLING, CLASS_GRAVE = 0.85, 0.95


@dataclass(frozen=True)
class Leak:
    """What one trait of files alone tells about their classes, cross-validated.

    Args:
        trait: `length`, `shape`, `rate`, `codec`, or `all` of them.
        accuracy: mean over the classes of the share of their videos that is told right.
        chance: the same of a guess.
        is_significant: whether the difference is more than accidental.
        by_class: for each class the mean of the shares that are told right within it and outside it, 0.5 by chance;
            only where it is more than accidental.
    """

    trait: str
    accuracy: float
    chance: float
    is_significant: bool
    by_class: dict[str, float]

    @property
    def told(self) -> float:
        """How much is told of what chance leaves open, 0 to 1."""
        return max(0.0, (self.accuracy - self.chance) / (1 - self.chance)) if self.is_significant else 0.0


def find_leaks(
    traits: dict[str, np.ndarray], labels: Sequence[str], groups: Sequence[str] | None = None
) -> list[Leak]:
    """How well classes are told by each trait alone and by all, in folds that share no group.

    Args:
        traits: by name the numbers of each video, `(num_videos, numbers)`.
        labels: the class of each.
        groups: the group of each; by default each video by itself.

    Returns:
        A leak for each trait that differs between videos, and one of `all`; none where fewer than two classes have
        `MIN_VIDEOS` videos.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    with of_extra("demo"):
        from sklearn.model_selection import StratifiedGroupKFold

    counts = Counter(labels)
    judged = np.array([index for index, label in enumerate(labels) if counts[label] >= MIN_VIDEOS])
    rng = np.random.default_rng(0)
    if len(judged) > MAX_VIDEOS:
        judged = np.sort(rng.choice(judged, MAX_VIDEOS, replace=False))
    classes = np.array(labels)[judged] if len(judged) else np.array([])
    names = np.unique(classes)
    parts = np.array(groups)[judged] if groups is not None and len(judged) else np.arange(len(judged))
    num_folds = min(NUM_FOLDS, len(np.unique(parts)))
    if len(names) < 2 or num_folds < 2:
        return []
    folds = list(StratifiedGroupKFold(num_folds, shuffle=True, random_state=0).split(classes, classes, groups=parts))
    differing = {name: values[judged] for name, values in traits.items() if len(np.unique(values[judged], axis=0)) > 1}
    leaks = [judge(name, values, classes, names, folds) for name, values in differing.items()]
    if differing:
        leaks.append(judge("all", np.concatenate(list(differing.values()), axis=1), classes, names, folds))
    return leaks


def judge(
    trait: str, values: np.ndarray, classes: np.ndarray, names: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> Leak:
    with of_extra("demo"):
        from sklearn.ensemble import RandomForestClassifier

    predicted = np.empty_like(classes)
    for train, test in folds:
        # a leaf of one video would know it by heart
        forest = RandomForestClassifier(NUM_TREES, min_samples_leaf=2, class_weight="balanced", random_state=0)
        predicted[test] = forest.fit(values[train], classes[train]).predict(values[test])
    is_right = predicted == classes
    accuracy = float(np.mean([is_right[classes == name].mean() for name in names]))
    chance = 1 / len(names)
    error = np.sqrt(np.mean([chance * (1 - chance) / (classes == name).sum() for name in names]) / len(names))
    by_class: dict[str, float] = {}
    for name in names:
        inside = classes == name
        value = ((predicted[inside] == name).mean() + (predicted[~inside] != name).mean()) / 2
        of_chance = np.sqrt(0.25 / inside.sum() + 0.25 / (~inside).sum()) / 2
        if value > 0.5 + SIGNIFICANT * of_chance:
            by_class[str(name)] = float(value)
    return Leak(trait, accuracy, chance, bool(accuracy > chance + SIGNIFICANT * error), by_class)
