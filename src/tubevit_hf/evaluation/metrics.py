# SPDX-License-Identifier: Apache-2.0
"""Metrics of video classification as modules of `evaluate` that need no network.

```python
>>> from tubevit_hf.evaluation import TopKAccuracy
>>> TopKAccuracy(k=2).compute(predictions=[[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], references=[2, 0])
{'top_2_accuracy': 1.0}

```
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from ..extras import of_extra


SCORES = datasets.List(datasets.Value("float32"))
CITATION = "https://arxiv.org/abs/2212.03229"


class ScoreMetric(evaluate.Metric):
    """A metric of scores `(videos, num_labels)`, higher for more likely, and of what is right."""

    references: datasets.Value | datasets.List = datasets.Value("int64")

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation=CITATION,
            features=datasets.Features({"predictions": SCORES, "references": self.references}),
        )


def read_scores(predictions: list[list[float]]) -> np.ndarray:
    """Raises a `ValueError` for scores that are not finite, which have no order."""
    scores = np.asarray(predictions)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"scores must be finite; those of {(~np.isfinite(scores)).any(axis=-1).sum()} videos are not."
        )
    return scores


class TopKAccuracy(ScoreMetric):
    """Share of videos whose class is among the `k` most likely. Equal scores count for the lower classes first."""

    def __init__(self, k: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.k = k

    # pyrefly: ignore[bad-override]  evaluate hands over what `_info` names, no more and no less
    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        scores, classes = read_scores(predictions), np.asarray(references)
        best = np.argsort(-scores, axis=-1, kind="stable")[:, : self.k]
        return {f"top_{self.k}_accuracy": float((best == classes[:, None]).any(axis=-1).mean())}


def accuracy_interval(right: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of an accuracy, which holds for few videos and for none or all of them right too.

    Args:
        right: videos of `total` that were right.
        level: share of such intervals that hold the accuracy on all videos of this kind, if videos are independent.
    """
    with of_extra("demo"):
        from scipy.stats import binomtest

    interval = binomtest(right, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


class MeanClassAccuracy(ScoreMetric):
    """Accuracy within each class that occurs, averaged over these."""

    # pyrefly: ignore[bad-override]  as above
    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        right = read_scores(predictions).argmax(axis=-1) == np.asarray(references)
        classes = np.asarray(references)
        return {
            "mean_class_accuracy": float(np.mean([right[classes == label].mean() for label in np.unique(classes)]))
        }


class MeanAveragePrecision(ScoreMetric):
    """Average precision of each class that occurs, averaged over these (scikit-learn's, without interpolation).

    As in Charades' own evaluation, videos without any label are left out.
    """

    references = datasets.List(datasets.Value("int8"))

    # pyrefly: ignore[bad-override]  as above
    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, float]:
        with of_extra("demo"):
            from sklearn.metrics import average_precision_score

        scores, present = read_scores(predictions), np.asarray(references)
        if not present.any():
            raise ValueError("no video has a label, and so no class a precision.")
        labelled, occurs = present.any(axis=1), present.any(axis=0)
        scores, present = scores[labelled], present[labelled]
        return {"mean_average_precision": float(average_precision_score(present[:, occurs], scores[:, occurs]))}
