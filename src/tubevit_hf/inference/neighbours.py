# SPDX-License-Identifier: Apache-2.0
"""Which videos are like another or an image: the nearest features by the cosine of their angle, exactly."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoImageProcessor, AutoModel

from ..data.listing import is_image
from .feature_folders import FeaturesError
from .reading import make_load
from .running import LoadedModel, load_model


# clips that are compared at once
BLOCK_SIZE = 4096


class WeightsMismatch(FeaturesError):
    """A model is not the one that made the features; the message tells both."""


@dataclass(frozen=True)
class Neighbour:
    """A video, and its clip that is nearest.

    Args:
        file: path in the embedded folder.
        similarity: cosine, from -1 to 1.
        start, end: of the clip, in seconds; `None` where the video did not tell.
        label: name of the class, if the features have one.
    """

    file: str
    similarity: float
    start: float | None
    end: float | None
    label: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def search(
    rows: Dataset, query: torch.Tensor | np.ndarray, top_k: int = 10, exclude: str | None = None
) -> list[Neighbour]:
    """The nearest videos to the clips of a query: of each, the most similar clip to any of them.

    Args:
        rows: with `features`, as [`open_features`] gives them; they are read in blocks, and stay on the disk.
        query: features of one or several clips, `(dim,)` or `(clips, dim)`.
        top_k: videos, at most.
        exclude: a file that is passed over.

    Raises:
        FeaturesError: the rows have no pooled features, or of another width.
    """
    check_pooled(rows)
    if top_k < 1:
        raise FeaturesError(f"`top_k` must be at least 1, got {top_k}.")
    directions = normalise(np.atleast_2d(np.asarray(query, dtype=np.float32)))
    blocks = rows.with_format("numpy", columns=["features", "file"])
    # of each video the similarity and number of its best clip; the best `top_k` are kept
    best: dict[str, tuple[float, int]] = {}
    least = -np.inf
    for start in range(0, len(rows), BLOCK_SIZE):
        block = blocks[start : start + BLOCK_SIZE]
        if block["features"].shape[1] != directions.shape[1]:
            raise FeaturesError(
                f"The query has {directions.shape[1]} features, and the clips have {block['features'].shape[1]}: "
                "another model made them."
            )
        similarities = (normalise(block["features"]) @ directions.T).max(axis=1)
        for place in np.flatnonzero(similarities > least):
            file, similarity = str(block["file"][place]), float(similarities[place])
            if file != exclude and similarity > best.get(file, (-np.inf, 0))[0]:
                best[file] = (similarity, start + int(place))
        # of equals the first
        best = dict(sorted(best.items(), key=lambda item: (-item[1][0], item[1][1]))[:top_k])
        if len(best) == top_k:
            least = min(similarity for similarity, _ in best.values())
    return [describe(rows, similarity, number) for similarity, number in best.values()]


def normalise(features: np.ndarray) -> np.ndarray:
    """Each row of length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)


def describe(rows: Dataset, similarity: float, number: int) -> Neighbour:
    others = rows.select_columns([name for name in rows.features if name != "features"])
    # pyrefly: ignore[bad-assignment]  datasets' decorators say that it may be a DatasetDict
    row: dict[str, Any] = others[number]
    label, kind = row.get("label"), rows.features.get("label")
    if label is not None and isinstance(kind, ClassLabel):
        label = str(kind.int2str(label))
    return Neighbour(row["file"], similarity, row["start"], row["end"], label)


def check_pooled(rows: Dataset) -> None:
    if "features" not in rows.features:
        raise FeaturesError("The features are tokens, and a search needs pooled ones: embed without tokens.")


def find_rows(rows: Dataset, file: str) -> np.ndarray | None:
    """Features of the clips of a file that is in the rows, `(clips, dim)`; `None` if it is not."""
    check_pooled(rows)
    numbers: list[int] = []
    files = rows.select_columns(["file"])
    for start in range(0, len(rows), BLOCK_SIZE):
        block = files[start : start + BLOCK_SIZE]["file"]
        numbers += [start + place for place, other in enumerate(block) if other == file]
    return rows.with_format("numpy", columns=["features"])[numbers]["features"] if numbers else None


def load_embedder(settings: Mapping[str, Any], model: str | os.PathLike[str] | None = None) -> LoadedModel:
    """The model that made features, or another place of it.

    Args:
        settings: what is noted beside the features.
        model: folder or repo id; by default what is noted.

    Raises:
        WeightsMismatch: it has other weights.
        OSError, ValueError: there is no such model.
    """
    name = os.fspath(model or settings["model"])
    loaded = load_model(name, auto=AutoModel)
    if loaded.weights != settings["weights"]:
        raise WeightsMismatch(
            f"{name}: its weights have the SHA-256 {loaded.weights[:12]}…, and the features were made by "
            f"{settings['model']} with {settings['weights'][:12]}…. Give the model that made them, or embed the "
            "videos with this one."
        )
    return loaded


@torch.inference_mode()
def embed_query(
    query: str | os.PathLike[str], model: LoadedModel, name: str | os.PathLike[str], settings: Mapping[str, Any]
) -> torch.Tensor:
    """Features of a video or an image, `(clips, dim)`, made as those of the rows were.

    Args:
        query: path or URL.
        model: that [`load_embedder`] gave.
        name: where it is, and the processor of images.
        settings: what is noted beside the features.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    query = os.fspath(query)
    processor, num_clips = model.processor, settings.get("num_clips", 1)
    if is_image(query):
        processor, num_clips = AutoImageProcessor.from_pretrained(name), 1
    reading = make_load(processor, model.model.config.num_frames, (num_clips, 1))(query)
    return model.model(**reading.inputs).pooler_output
