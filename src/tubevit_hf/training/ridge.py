# SPDX-License-Identifier: Apache-2.0
"""A linear classifier in closed form: ridge regression onto the classes, whose strength is chosen by cross-validation
over groups, brought to probabilities by a temperature.

Samples are few and features many, so all is done with the products of samples with each other (the dual form).
What each sample counts, `importance`, is 1 in the mean of all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..data.dividing import stratified_folds


# of the mean square of a sample
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TEMPERATURES = torch.logspace(-2.5, 0.5, 61).double()
NUM_FOLDS = 5
# rows of features at once
CHUNK = 512

# rows of features `(n, features)` of samples
ReadFeatures = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Standardization:
    """Mean of each feature, and what it is divided by: its standard deviation, less the more it weighs."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / self.scale


def standardize(read: ReadFeatures, importance: torch.Tensor, weights: torch.Tensor) -> Standardization:
    """
    Args:
        importance: of each sample, `(n,)`.
        weights: of the features: what each adds to the product of a sample with itself, in the mean of the samples.
    """
    total = square = torch.zeros((), dtype=torch.float64)
    importance = importance.double()
    for rows in torch.arange(len(importance)).split(CHUNK):
        features, counts = read(rows).double(), importance[rows]
        total, square = total + counts @ features, square + counts @ features.square()
    mean = total / importance.sum()
    std = (square / importance.sum() - mean.square()).clamp_min(0).sqrt()
    # a feature that never changes says nothing, whatever it is divided by
    std = std.clamp_min(1e-4 * std.mean().clamp_min(1e-12))
    return Standardization(mean.float(), (std / weights.sqrt()).float())


def products(
    read: ReadFeatures, num_samples: int, standardization: Standardization, parts: Sequence[Sequence[slice]]
) -> list[torch.Tensor]:
    """For each part, some columns of the features, the products of all samples with each other: `(n, n)` each."""
    found = [torch.zeros(num_samples, num_samples) for _ in parts]
    chunks = torch.arange(num_samples).split(CHUNK)
    for i, rows in enumerate(chunks):
        left = standardization(read(rows))
        for j, columns in enumerate(chunks[: i + 1]):
            right = left if i == j else standardization(read(columns))
            for product, part in zip(found, parts):
                block = torch.stack([left[:, which] @ right[:, which].T for which in part]).sum(dim=0)
                product[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = block
                product[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1] = block.T
    return found


def solve(product: torch.Tensor, targets: torch.Tensor, importance: torch.Tensor, strength: float) -> torch.Tensor:
    """What each sample weighs in the classifier: `(n, n)`, `(n, classes)`, `(n,) -> (n, classes)`."""
    # an error that counts twice is that of two equal samples
    root = importance.to(product.dtype).sqrt()[:, None]
    penalty = strength * (root[:, 0].square() * product.diagonal()).mean()
    regular = root * product * root.T + penalty * torch.eye(len(product), dtype=product.dtype)
    return root * torch.cholesky_solve(root * targets.to(product.dtype), torch.linalg.cholesky(regular))


def make_targets(labels: torch.Tensor, importance: torch.Tensor, num_labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One for the right class and zero for others, less the mean; and that mean."""
    targets = torch.nn.functional.one_hot(labels, num_labels).double()
    mean = importance.double() @ targets / importance.sum()
    return targets - mean, mean


@dataclass
class Validation:
    """How a choice of parts and strength did on held-out groups.

    Args:
        accuracy: share of held-out videos that are right, each by the mean of its copies and as much as it counts.
        strength: of the ridge, the best of `STRENGTHS`.
        temperature: that makes probabilities of the scores of single copies.
        loss: log loss of held-out copies with that temperature, which is what decides.
    """

    accuracy: float
    strength: float
    temperature: float
    loss: float


def cross_validate(
    product: torch.Tensor,
    videos: torch.Tensor,
    labels: torch.Tensor,
    groups: torch.Tensor,
    importance: torch.Tensor,
    num_labels: int,
) -> Validation:
    """The best strength, by the log loss of held-out groups.

    Args:
        product: `(n, n)` of all samples.
        videos: which video each sample is a copy of, `(n,)`.
        labels, groups, importance: of each video.
    """
    folds = torch.from_numpy(stratified_folds(labels.numpy(), groups.numpy(), NUM_FOLDS))
    counts, truth = importance[videos], labels[videos]
    scores = torch.zeros(len(STRENGTHS), len(videos), num_labels, dtype=torch.float64)
    for fold in folds.unique():
        test = folds[videos] == fold
        train = ~test
        targets, mean = make_targets(truth[train], counts[train], num_labels)
        among, across = product[train][:, train], product[test][:, train]
        for number, strength in enumerate(STRENGTHS):
            weights = solve(among, targets, counts[train], strength)
            scores[number, test] = (across @ weights).double() + mean
    best: Validation | None = None
    for strength, of_strength in zip(STRENGTHS, scores):
        losses = log_losses(of_strength / TEMPERATURES[:, None, None], truth, counts)
        loss, temperature = float(losses.min()), float(TEMPERATURES[losses.argmin()])
        if best is None or loss < best.loss:
            probabilities = (of_strength / temperature).softmax(dim=1)
            of_videos = torch.zeros(len(labels), num_labels, dtype=torch.float64).index_add(0, videos, probabilities)
            right = (of_videos.argmax(dim=1) == labels).double()
            accuracy = float(importance.double() @ right / importance.sum())
            best = Validation(accuracy, strength, temperature, loss)
    assert best is not None
    return best


def log_losses(logits: torch.Tensor, labels: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """Mean log loss for each of several logits: `(k, n, classes)`, `(n,)`, `(n,) -> (k,)`."""
    losses = -logits.log_softmax(dim=-1)[:, torch.arange(len(labels)), labels]
    return losses @ importance.double() / importance.sum()


def fit(
    read: ReadFeatures,
    product: torch.Tensor,
    standardization: Standardization,
    labels: torch.Tensor,
    importance: torch.Tensor,
    num_labels: int,
    validation: Validation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(classes, features)` and bias of the classifier; takes raw features, and gives logits.

    Args:
        read: gives all features of the chosen parts.
        product, labels, importance: of all samples.
        standardization: of the chosen parts.
    """
    targets, mean = make_targets(labels, importance, num_labels)
    shares = solve(product, targets, importance, validation.strength)
    weight = sum(
        shares[rows].float().T @ standardization(read(rows)) for rows in torch.arange(len(labels)).split(CHUNK)
    )
    assert isinstance(weight, torch.Tensor)
    # the standardisation goes into the weights
    weight = weight / standardization.scale
    bias = mean.float() - weight @ standardization.mean
    return weight / validation.temperature, bias / validation.temperature
