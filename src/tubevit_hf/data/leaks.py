# SPDX-License-Identifier: Apache-2.0
"""What a video's length, shape, rate and codec alone tell about its class.

If classes were filmed or cut in different ways, a model can tell them apart without a look at what happens, and what
it learns is worth nothing elsewhere. Decision trees that see these few numbers only show how far that goes.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ..extras import of_extra


# folds of the cross-validation, if each class has as many videos
NUM_FOLDS = 5
NUM_TREES = 50
# classes with fewer videos are not judged
MIN_VIDEOS = 5
# videos that are drawn of larger data: the accuracy is known to a hundredth then
MAX_VIDEOS = 4_000
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
        from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = Counter(labels)
    judged = np.array([index for index, label in enumerate(labels) if counts[label] >= MIN_VIDEOS], dtype=np.int64)
    if len(judged) > MAX_VIDEOS:
        judged = np.sort(np.random.default_rng(0).choice(judged, MAX_VIDEOS, replace=False))
    # numbers: scikit-learn would take names that consist of digits for such
    names, classes = np.unique(np.array(labels)[judged], return_inverse=True)
    parts = None if groups is None else np.array(groups)[judged]
    if len(names) < 2 or (parts is not None and len(np.unique(parts)) < 2):
        return []
    num_folds = min(NUM_FOLDS, np.bincount(classes).max(), len(judged if parts is None else np.unique(parts)))
    splitter = (StratifiedKFold if parts is None else StratifiedGroupKFold)(num_folds, shuffle=True, random_state=0)
    differing = {name: values[judged] for name, values in traits.items() if len(np.unique(values[judged], axis=0)) > 1}
    if differing:
        differing["all"] = np.concatenate(list(differing.values()), axis=1)
    with warnings.catch_warnings():
        # of classes that have few videos, not every fold has one
        warnings.simplefilter("ignore")
        folds = list(splitter.split(classes, classes, groups=parts))
        bar = tqdm(differing.items(), desc="Telling classes by traits", unit="trait", disable=None)
        return [judge(name, values, classes, names, folds) for name, values in bar]


def judge(
    trait: str, values: np.ndarray, classes: np.ndarray, names: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> Leak:
    """What a forest tells of the videos that it has not seen; `classes` are places in `names`."""
    with of_extra("demo"):
        from sklearn.ensemble import RandomForestClassifier

    predicted = np.empty_like(classes)
    for train, test in folds:
        # a leaf of one video would know it by heart
        forest = RandomForestClassifier(NUM_TREES, min_samples_leaf=2, class_weight="balanced", random_state=0)
        predicted[test] = forest.fit(values[train], classes[train]).predict(values[test])
    counts = np.bincount(classes)
    rights = np.bincount(classes[predicted == classes], minlength=len(names)) / counts
    # of those of other classes
    wrongs = np.bincount(predicted[predicted != classes], minlength=len(names)) / (len(classes) - counts)
    accuracy, chance = float(rights.mean()), 1 / len(names)
    error = np.sqrt((chance * (1 - chance) / counts).mean() / len(names))
    told = (rights + 1 - wrongs) / 2
    of_chance = np.sqrt(0.25 / counts + 0.25 / (len(classes) - counts)) / 2
    by_class = {
        str(names[place]): float(told[place]) for place in np.flatnonzero(told > 0.5 + SIGNIFICANT * of_chance)
    }
    return Leak(trait, accuracy, chance, bool(accuracy > chance + SIGNIFICANT * error), by_class)
