# SPDX-License-Identifier: Apache-2.0
"""How much can be read off features that are there already: small classifiers, cross-validated over groups.

Each fold holds out whole groups: clips of a video, or videos of a person or a scene, are never on both sides. What a
classifier can be set to is chosen by further folds of what it may see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from ..data.dividing import stratified_folds
from ..extras import of_extra
from .feature_folders import FeaturesError, read_groups, read_labels


METHODS = ("linear", "knn", "attentive")
# inverse strengths of the regularisation, numbers of neighbours
STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
NEIGHBOURS = (1, 3, 5, 10, 20)
INNER_FOLDS = 3

# of the attentive probe
HEADS = 4
EPOCHS = 60
TRAINING_BATCH_SIZE = 32
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.5
# clips that are read at once
BATCH_SIZE = 64

# rows of features by number, `(n, dim)` or `(n, tokens, dim)`
ReadRows = Callable[[np.ndarray], np.ndarray]


class Classifier(Protocol):
    def fit(self, features: Any, labels: Any, /) -> Any: ...

    def predict(self, features: Any, /) -> Any: ...


@dataclass(frozen=True)
class ProbeReport:
    """How a probe did on clips that it had not seen.

    Args:
        method: `"linear"`, `"knn"` or `"attentive"`.
        names: of the classes.
        labels: of each clip.
        predictions: of each clip, by the probe that did not see its group.
        folds: which fold held out each clip.
        chosen: what was chosen in each fold: the inverse strength of the regularisation, or the number of neighbours.
    """

    method: str
    names: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    folds: np.ndarray
    chosen: list[float]

    @property
    def accuracies(self) -> list[float]:
        """Of each fold: the share of its clips that are right."""
        right = self.labels == self.predictions
        return [float(right[self.folds == fold].mean()) for fold in np.unique(self.folds)]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation over the folds."""
        return float(np.std(self.accuracies))

    @property
    def confusion(self) -> np.ndarray:
        """How many clips of each class are taken for which: `(classes, predicted classes)`."""
        counts = np.zeros((len(self.names), len(self.names)), dtype=int)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "accuracy": self.mean,
            "spread": self.spread,
            "folds": self.accuracies,
            "chosen": self.chosen,
            "confusion": self.confusion.tolist(),
        }


def probe_features(
    rows: Dataset, methods: Sequence[str] = ("linear",), num_folds: int = 5, groups: str | None = None
) -> list[ProbeReport]:
    """Probes the rows that [`open_features`] gives.

    Args:
        rows: with labels.
        methods: of `METHODS`; `"attentive"` needs a column `tokens`, the others `features` or, of tokens, the mean.
        num_folds: of the cross-validation.
        groups: a regular expression that finds in a video's path who or where it was filmed, see `read_groups`; by
            default each video is a group.

    Raises:
        FeaturesError: labels or tokens are missing, or there are fewer groups than folds.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    labels, names = read_labels(rows)
    numbers = read_groups(rows, groups)
    videos = read_groups(rows)
    for method in methods:
        if method == "attentive" and "tokens" not in rows.features:
            raise FeaturesError(
                'The method "attentive" needs a column `tokens`, and these features are pooled: embed with tokens, or '
                'choose "linear" or "knn".'
            )
    reports = []
    for method in methods:
        read = read_tokens(rows) if method == "attentive" else read_pooled(rows).__getitem__
        reports.append(probe(read, labels, names, numbers, videos, method, num_folds))
    return reports


def probe(
    read: ReadRows,
    labels: np.ndarray,
    names: Sequence[str],
    groups: np.ndarray,
    videos: np.ndarray,
    method: str = "linear",
    num_folds: int = 5,
) -> ProbeReport:
    """Cross-validates a probe.

    Args:
        read: gives features of clips by number.
        labels: of each clip, `(clips,)`.
        names: of the classes.
        groups: of each clip, as numbers: clips of one group are held out together.
        videos: of each clip, as numbers: where the seen groups are too few for folds of their own, its videos are.
        method: of `METHODS`.
        num_folds: of the cross-validation.

    Raises:
        FeaturesError: there is no such method, or there are too few groups or clips for the folds.
    """
    if method not in METHODS:
        raise FeaturesError(f"The method must be one of {', '.join(METHODS)}, got {method!r}.")
    folds = make_folds(labels, groups, num_folds)
    predictions = np.empty_like(labels)
    chosen: list[float] = []
    for fold in np.unique(folds):
        seen, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(np.unique(labels[seen])) < 2:
            raise FeaturesError(
                f"Without the groups of fold {fold + 1} of {num_folds} there are clips of one class only. Choose "
                "other groups, or more folds."
            )
        if method == "attentive":
            model = fit_attentive(read, seen, labels, len(names))
            predictions[held_out] = predict_attentive(model, read, held_out)
            continue
        inner = groups if len(np.unique(groups[seen])) > 1 else videos
        estimator, value = fit_chosen(method, read(seen), labels[seen], inner[seen])
        predictions[held_out] = estimator.predict(read(held_out))
        chosen.append(value)
    return ProbeReport(method, list(names), labels, predictions, folds, chosen)


def make_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int) -> np.ndarray:
    """Number of the fold of each clip: a group is in one fold, and folds are alike in their classes; raises as
    [`probe`]."""
    if num_folds < 2:
        raise FeaturesError(f"There must be at least 2 folds, got {num_folds}.")
    if (num_groups := len(np.unique(groups))) < num_folds:
        raise FeaturesError(
            f"There are {num_groups} groups for {num_folds} folds, and each fold holds out one at least. Choose fewer "
            "folds, or other groups."
        )
    if (most := int(np.bincount(labels).max())) < num_folds:
        raise FeaturesError(f"No class has more than {most} clips, which are too few for {num_folds} folds.")
    return stratified_folds(labels, groups, num_folds)


def fit_chosen(method: str, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[Classifier, float]:
    """A linear or nearest-neighbour classifier, and how it is set: the best in folds of its own, fitted to all.

    Ties go to the stronger regularisation and the fewer neighbours. Where there are too few groups or clips to hold
    any out, it is set to the middle.
    """
    with of_extra("demo"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    def make(value: float) -> Classifier:
        if method == "linear":
            return make_pipeline(StandardScaler(), LogisticRegression(C=value, max_iter=2000))
        return KNeighborsClassifier(int(value), metric="cosine", algorithm="brute")

    num_folds = min(INNER_FOLDS, len(np.unique(groups)), int(np.bincount(labels).max()))
    folds = make_folds(labels, groups, num_folds) if num_folds > 1 else None
    values: Sequence[float] = STRENGTHS
    if method == "knn":
        least = len(labels) if folds is None else min(int((folds != fold).sum()) for fold in range(num_folds))
        values = [number for number in NEIGHBOURS if number <= least]
    if folds is None:
        value = values[len(values) // 2]
    else:
        value = max(values, key=lambda value: count_right(lambda: make(value), features, labels, folds))
    estimator = make(value)
    estimator.fit(features, labels)
    return estimator, value


def count_right(make: Callable[[], Classifier], features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> int:
    """How many clips are right when their fold is held out; those of a fold without which one class is left count as
    wrong."""
    right = 0
    for fold in np.unique(folds):
        seen = folds != fold
        if len(np.unique(labels[seen])) > 1:
            estimator = make()
            estimator.fit(features[seen], labels[seen])
            right += int((estimator.predict(features[~seen]) == labels[~seen]).sum())
    return right


class AttentiveProbe(nn.Module):
    """Learned queries attend to all tokens, each softmax a mean of them, and a linear layer reads the means:
    `(batch, tokens, dim) -> (batch, classes)`.

    The queries are in the space of the tokens: keys and values of their own would be linear maps of frozen tokens,
    which the queries and the linear layer hold already.
    """

    def __init__(self, dim: int, num_labels: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.zeros(HEADS, dim))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.classifier = nn.Linear(HEADS * dim, num_labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(tokens)
        # (batch, tokens, dim) -> (batch, heads, tokens)
        attention = (self.queries @ tokens.transpose(1, 2)).softmax(dim=-1)
        return self.classifier((attention @ tokens).flatten(1))


def fit_attentive(read: ReadRows, seen: np.ndarray, labels: np.ndarray, num_labels: int) -> AttentiveProbe:
    """An attentive probe, trained on some clips; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AttentiveProbe(read(seen[:1]).shape[-1], num_labels)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        num_steps = EPOCHS * -(-len(seen) // TRAINING_BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
        for _ in range(EPOCHS):
            for batch in torch.from_numpy(seen)[torch.randperm(len(seen))].split(TRAINING_BATCH_SIZE):
                logits = model(torch.from_numpy(read(batch.numpy())))
                loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels[batch.numpy()]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


@torch.inference_mode()
def predict_attentive(model: AttentiveProbe, read: ReadRows, clips: np.ndarray) -> np.ndarray:
    parts = np.split(clips, range(BATCH_SIZE, len(clips), BATCH_SIZE))
    return np.concatenate([model(torch.from_numpy(read(part))).argmax(dim=1).numpy() for part in parts])


def read_pooled(rows: Dataset) -> np.ndarray:
    """Pooled features of all clips, or the mean of their tokens: `(clips, dim)`, float32."""
    column = "features" if "features" in rows.features else "tokens"
    columns = rows.with_format("numpy", columns=[column])
    parts = []
    for start in range(0, len(rows), BATCH_SIZE):
        values = columns[start : start + BATCH_SIZE][column]
        parts.append(values if column == "features" else values.mean(axis=1))
    return np.concatenate(parts)


def read_tokens(rows: Dataset) -> ReadRows:
    """Reads tokens of clips as they are asked for, which stay on the disk: `(n, tokens, dim)`, float32."""
    columns = rows.with_format("numpy", columns=["tokens"])

    def read(clips: np.ndarray) -> np.ndarray:
        return columns[clips]["tokens"]

    return read
