# SPDX-License-Identifier: Apache-2.0
"""Scores of several views, and metrics against loops."""

import numpy as np
import pytest
import torch

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.evaluation import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy, predict_views

from ..support.tiny import randomize, tiny_config
from ..support.tolerances import assert_close


def test_scores_are_averaged_over_views():
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    views = torch.randn(2, 3, 7, 3, 40, 56)
    with torch.no_grad():
        logits = torch.stack([model(views[:, index]).logits for index in range(3)])
    assert_close(predict_views(model, views), logits.softmax(dim=-1).mean(dim=0), "float32")
    assert_close(predict_views(model, views, multi_label=True), logits.sigmoid().mean(dim=0), "float32")


def test_views_of_padded_clips():
    """Scores are those of the views of each video without padding."""
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    views, lengths = torch.randn(2, 3, 7, 3, 40, 56), [5, 7]
    frame_mask = (torch.arange(7) < torch.tensor(lengths)[:, None])[:, None].expand(-1, 3, -1)
    found = predict_views(model, views, frame_mask=frame_mask)
    alone = [predict_views(model, video[None, :, :length]) for video, length in zip(views, lengths)]
    assert_close(found, torch.cat(alone), "float32")
    assert not torch.allclose(found[:1], predict_views(model, views[:1]), atol=1e-3)


def test_a_clip_and_an_image_are_one_view():
    """By the number of axes, with the mask of a clip."""
    model = randomize(TubeViTForVideoClassification(tiny_config()))
    clips, images = torch.randn(2, 7, 3, 40, 56), torch.randn(2, 3, 40, 56)
    frame_mask = torch.arange(7) < torch.tensor([[5], [7]])
    with torch.no_grad():
        assert_close(predict_views(model, clips), model(clips).logits.softmax(dim=-1), "float32")
        assert_close(predict_views(model, images), model(images).logits.softmax(dim=-1), "float32")
        masked = model(clips, frame_mask=frame_mask).logits.sigmoid()
        assert_close(predict_views(model, clips, True, frame_mask), masked, "float32")
    assert_close(predict_views(model, clips), predict_views(model, clips[:, None]), "float32")


def test_metrics_against_loops():
    rng = np.random.default_rng(0)
    scores, classes = rng.random((50, 7)).astype(np.float32), rng.integers(0, 5, size=50)
    for k in (1, 3, 5):
        hits = [label in sorted(range(7), key=lambda index: -row[index])[:k] for row, label in zip(scores, classes)]
        found = TopKAccuracy(k).compute(predictions=scores, references=classes)
        assert found == {f"top_{k}_accuracy": pytest.approx(np.mean(hits))}
    by_class = {}
    for row, label in zip(scores, classes):
        by_class.setdefault(label, []).append(row.argmax() == label)
    found = MeanClassAccuracy().compute(predictions=scores, references=classes)["mean_class_accuracy"]
    assert found == pytest.approx(np.mean([np.mean(hits) for hits in by_class.values()]))

    present = (rng.random((50, 7)) < 0.3).astype(int)
    present[:, 4] = 0  # a class that does not occur counts for nothing
    precisions = []
    for label in (0, 1, 2, 3, 5, 6):
        # videos without any label count for nothing either
        order = [row for row in np.argsort(-scores[:, label]) if present[row].any()]
        ranks = [rank for rank, row in enumerate(order, start=1) if present[row, label]]
        precisions.append(np.mean([hits / rank for hits, rank in enumerate(ranks, start=1)]))
    found = MeanAveragePrecision().compute(predictions=scores, references=present)["mean_average_precision"]
    assert found == pytest.approx(np.mean(precisions))
    assert not present.any(axis=1).all()


def test_metrics_of_nothing():
    with pytest.raises(ValueError, match="scores must be finite; those of 1 videos are not"):
        TopKAccuracy(1).compute(predictions=[[0.1, 0.2], [float("nan"), 0.2]], references=[0, 1])
    with pytest.raises(ValueError, match="no video has a label"):
        MeanAveragePrecision().compute(predictions=[[0.1, 0.2]], references=[[0, 0]])
