# SPDX-License-Identifier: Apache-2.0
"""What `tubevit embed` leaves in a folder: a row a clip, memory-mapped, and how it was made."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value, load_from_disk

from ..data.groups import match_groups


# beside the rows: with which model and settings they were made
EMBEDDING_NAME = "embedding.json"


class FeaturesError(ValueError):
    """A folder of features cannot be read, or lacks what is asked of it; the message says what to do."""


def open_features(folder: str | os.PathLike[str]) -> Dataset:
    """The rows of a folder of features, memory-mapped: `file`, `start`, `end`, and `features` or `tokens`.

    Raises:
        FeaturesError: it holds no such rows.
    """
    try:
        rows = load_from_disk(os.fspath(folder))
    except (OSError, ValueError, LookupError) as error:
        raise FeaturesError(f"{folder}: it holds no features; `tubevit embed` writes such folders.") from error
    if not isinstance(rows, Dataset) or "file" not in rows.features:
        raise FeaturesError(f"{folder}: it holds a data set, but no features; `tubevit embed` writes such folders.")
    if not {"features", "tokens"} & set(rows.features):
        has = ", ".join(rows.features)
        raise FeaturesError(f"{folder}: it has neither a column `features` nor `tokens`, only {has}.")
    if not len(rows):
        raise FeaturesError(f"{folder}: it holds no clips.")
    return rows


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """With which model and settings features were made; raises a `FeaturesError` if that is not known."""
    path = Path(folder, EMBEDDING_NAME)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not {"model", "weights"} <= set(settings):
            raise ValueError("it names no model and weights")
    except (OSError, ValueError) as error:
        raise FeaturesError(f"{path}: it cannot be read ({error}). `tubevit embed` writes it.") from error
    return settings


def read_labels(rows: Dataset) -> tuple[np.ndarray, list[str]]:
    """The class of each clip, `(clips,)`, and the names of classes: of a ClassLabel, or all that a column of strings
    has, sorted.

    Raises:
        FeaturesError: there are no labels, or of one class only.
    """
    label = rows.features.get("label")
    if isinstance(label, ClassLabel):
        names = label.names
        labels = np.array([-1 if value is None else value for value in rows["label"]])
    elif label == Value("string"):
        names = sorted({value for value in rows["label"] if value is not None})
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers.get(value, -1) for value in rows["label"]])
    else:
        raise FeaturesError(
            "The features have no labels. Embed a folder that has a folder for each class, or add a column `label`, a "
            "ClassLabel or strings."
        )
    if unlabelled := int((labels < 0).sum()):
        raise FeaturesError(f"{unlabelled} of {len(labels)} clips have no label. Remove them, or label them.")
    if len(present := np.unique(labels)) < 2:
        raise FeaturesError(
            f"All {len(labels)} clips are of one class, {names[present[0]]!r}, and nothing can be told apart."
        )
    return labels, names


def read_groups(rows: Dataset, pattern: str | None = None) -> np.ndarray:
    """The group of each clip as a number, `(clips,)`: its video or, with a regular expression, what that finds in the
    video's path: its first group, or all of the match.

    Raises:
        FeaturesError: it is no regular expression, or a path does not match.
    """
    files = list(rows["file"])
    if pattern is None:
        return np.unique(files, return_inverse=True)[1]
    try:
        names = match_groups(files, pattern, "the path of this video")
    except ValueError as error:
        raise FeaturesError(str(error)) from error
    return np.unique(names, return_inverse=True)[1]
