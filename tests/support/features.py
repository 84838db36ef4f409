# SPDX-License-Identifier: Apache-2.0
"""Folders of features as `tubevit embed` writes them, made by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, Features, List, Value


def write_features(
    folder: Path,
    files: Sequence[str],
    labels: Sequence[int | None] | None = None,
    names: Sequence[str] = ("fall", "jump", "roll"),
    features: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    **settings: str | int,
) -> Path:
    """A row a clip, each a second long: `features` `(clips, dim)`, or `tokens` `(clips, tokens, dim)`."""
    starts = [float(sum(other == file for other in files[:index])) for index, file in enumerate(files)]
    columns: dict[str, list] = {"file": list(files), "start": starts, "end": [start + 1 for start in starts]}
    types = {"file": Value("string"), "start": Value("float64"), "end": Value("float64")}
    if labels is not None:
        columns["label"], types["label"] = list(labels), ClassLabel(names=list(names))
    if features is not None:
        columns["features"], types["features"] = list(features), List(Value("float32"), length=features.shape[1])
    if tokens is not None:
        columns["tokens"], types["tokens"] = list(tokens), Array2D(tokens.shape[1:], "float32")
    Dataset.from_dict(columns, features=Features(types)).save_to_disk(folder)
    described = {"folder": "clips", "model": "tubevit", "weights": "0" * 64, **settings}
    (folder / "embedding.json").write_text(json.dumps(described))
    return folder
