# SPDX-License-Identifier: Apache-2.0
"""The loss by kind of label, against plain formulas; accumulation; labels that are refused."""

import pytest
import torch

from tubevit_hf.model.loss_tubevit import classification_loss

from ..support.modeling_cases import (
    assert_all_close,
    build,
    random_clip,
)
from ..support.tolerances import assert_close


def cross_entropy(logits, labels):
    """Mean over the rows that have a class."""
    rows = [row for row, label in enumerate(labels.tolist()) if label != -100]
    return -sum(logits[row].log_softmax(-1)[labels[row]] for row in rows) / len(rows)


def soft_cross_entropy(logits, labels):
    """Mean over rows."""
    return -(labels * logits.log_softmax(-1)).sum() / len(logits)


def binary_cross_entropy(logits, labels):
    """Mean over entries."""
    losses = labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()
    return -losses.sum() / logits.numel()


def squared_error(logits, labels):
    """Mean over entries."""
    return ((logits - labels.view_as(logits)) ** 2).sum() / logits.numel()


SOFT = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5], [0.6, 0.1, 0.3], [0, 0, 1]])
SEVERAL = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]])
NUMBERS = torch.tensor([[1.5, -2, 0.3], [0, 4, 1], [-1, -1, 2], [0.5, 0, 0], [3, 2, 1], [2, -3, 1]])
LOSSES = {
    "classes": (None, 3, torch.tensor([2, 0, 1, 1, 0, 2]), cross_entropy),
    "classes_int32": (None, 3, torch.tensor([2, 0, 1, 1, 0, 2], dtype=torch.int32), cross_entropy),
    "classes_some_unknown": (None, 3, torch.tensor([2, -100, 1, -100, -100, 2]), cross_entropy),
    "soft": ("single_label_classification", 3, SOFT, soft_cross_entropy),
    "soft_float64": ("single_label_classification", 3, SOFT.double(), soft_cross_entropy),
    "several_inferred": (None, 3, SEVERAL.float(), binary_cross_entropy),
    "several_whole": ("multi_label_classification", 3, SEVERAL, binary_cross_entropy),
    "regression_of_one": (None, 1, NUMBERS[:, 0], squared_error),
    "regression_of_one_column": (None, 1, NUMBERS[:, :1], squared_error),
    "regression_of_many": ("regression", 3, NUMBERS, squared_error),
}
INFERRED = {
    cross_entropy: "single_label_classification",
    binary_cross_entropy: "multi_label_classification",
    squared_error: "regression",
}


@pytest.mark.parametrize("kind", LOSSES)
def test_loss(kind):
    problem_type, num_labels, labels, formula = LOSSES[kind]
    model = build(problem_type=problem_type, num_labels=num_labels)
    outputs = model(random_clip(batch=6), labels=labels)
    assert_close(outputs.loss, formula(outputs.logits, labels), "float64", kind)
    # what is inferred is noted, as everywhere in transformers
    assert model.config.problem_type == (problem_type or INFERRED[formula])
    assert outputs.loss.requires_grad
    assert model(random_clip(batch=6)).loss is None


@pytest.mark.parametrize("kind", LOSSES)
def test_accumulated_micro_batches_equal_the_full_batch(kind):
    """The Trainer passes the number of label entries other than -100 in all micro-batches together."""
    problem_type, num_labels, labels, _ = LOSSES[kind]
    model = build(problem_type=problem_type, num_labels=num_labels)
    clips = random_clip(batch=6)
    num_items = labels.ne(-100).sum()
    model(clips, labels=labels).loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    for items in (num_items, num_items.item()):
        model.zero_grad()
        loss = 0.0
        # of different length, one of them without a class in the third case
        for rows in (slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 6)):
            part = model(clips[rows], labels=labels[rows], num_items_in_batch=items).loss
            part.backward()
            loss += part.item()
        assert_close(torch.tensor(loss, dtype=torch.float64), model(clips, labels=labels).loss.item(), "float64")
        assert_all_close({name: parameter.grad for name, parameter in model.named_parameters()}, expected, "float64")


@pytest.mark.parametrize(
    ("settings", "labels", "fragments"),
    [
        ({}, torch.tensor([0, 3]), ["`labels`", "from 0 to 2", "`num_labels` is 3", "[3]"]),
        ({}, torch.tensor([-1, 2]), ["`labels`", "from 0 to 2", "[-1]"]),
        ({}, torch.tensor([-100, -99]), ["`labels`", "from 0 to 2", "[-99]"]),
        ({}, torch.tensor([0, 1, 2]), ["`labels`", "(2,)", "(3,)", "'single_label_classification'"]),
        ({}, torch.tensor([[0], [1]]), ["`labels`", "(2,)", "(2, 1)", "int64"]),
        ({}, torch.tensor([0.0, 1.0]), ["`labels`", "(2, 3)", "(2,)", "float32"]),
        ({}, torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]]), ["`labels`", "between 0 and 1", "[2.0]"]),
        (
            {"problem_type": "multi_label_classification"},
            torch.tensor([[0, 1, 0], [1, 0, -100]]),
            ["`labels`", "between 0 and 1", "-100"],
        ),
        (
            {"problem_type": "multi_label_classification"},
            torch.tensor([0, 2]),
            ["`labels`", "(2, 3)", "(2,)", "'multi_label_classification'"],
        ),
        (
            {"problem_type": "single_label_classification"},
            torch.tensor([[0.5, 0.7, -0.2], [1.0, 0.0, 0.0]]),
            ["`labels`", "between 0 and 1", "-0.2"],
        ),
        (
            {"problem_type": "single_label_classification"},
            torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
            ["`labels`", "(2, 3)", "(2, 2)"],
        ),
        ({"problem_type": "regression"}, torch.tensor([0.5, 1.0]), ["`labels`", "(2, 3)", "(2,)", "'regression'"]),
        ({"num_labels": 1}, torch.tensor([0.5, 1.0, 2.0]), ["`labels`", "(2, 1)", "(3, 1)", "'regression'"]),
    ],
)
def test_bad_labels_are_refused(settings, labels, fragments):
    model = build(**settings)
    with pytest.raises(ValueError) as caught:
        model(random_clip(), labels=labels)
    for fragment in fragments:
        assert fragment in str(caught.value)
    # nothing is noted of labels that were refused
    assert model.config.problem_type == settings.get("problem_type")


@pytest.mark.parametrize(
    ("num_labels", "refused", "labels", "formula"),
    [
        (
            3,
            torch.tensor([[1, 0, 1], [0, 1, 1]]),
            torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]),
            binary_cross_entropy,
        ),
        (3, torch.tensor([2.0, 1.0]), torch.tensor([2, 1]), cross_entropy),
        (3, torch.tensor([2, 3]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), binary_cross_entropy),
        (3, torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([2, 1]), cross_entropy),
        (1, torch.tensor([[0.5, 1.0], [2.0, 0.0]]), torch.tensor([0.5, -1.0]), squared_error),
        (1, torch.tensor([0.5]), torch.tensor([[0.5], [-1.0]]), squared_error),
    ],
)
def test_labels_that_were_refused_leave_no_trace(num_labels, refused, labels, formula):
    """The corrected call trains as in a model that never saw the wrong ones."""
    model = build(num_labels=num_labels)
    with pytest.raises(ValueError, match="`labels`"):
        model(random_clip(), labels=refused)
    assert model.config.problem_type is None
    outputs = model(random_clip(), labels=labels)
    assert_close(outputs.loss, formula(outputs.logits, labels), "float64")
    assert model.config.problem_type == INFERRED[formula]


def test_refused_labels_are_told_how_they_were_understood():
    model = build()
    with pytest.raises(
        ValueError, match=r"inferred.*floats are zeros and ones of several labels.*`config.problem_type`"
    ):
        model(random_clip(), labels=torch.tensor([[1, 0, 1], [0, 1, 1]]))
    model.config.problem_type = "single_label_classification"
    with pytest.raises(ValueError, match="`labels`") as caught:
        model(random_clip(), labels=torch.tensor([[1, 0, 1], [0, 1, 1]]))
    assert "inferred" not in str(caught.value)


def test_loss_function_is_the_packages_own():
    """transformers picks a loss by class name, which knows no soft labels."""
    assert build().loss_function is classification_loss
