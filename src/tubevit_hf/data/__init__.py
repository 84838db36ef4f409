# SPDX-License-Identifier: Apache-2.0
"""Data for training and demonstration. Nothing here imports the model."""

from .annotations import FORMATS, AnnotationError, read_annotations
from .batches import BalancedBatches, JointBatches, JointDataset, ShuffledBatches
from .clips import ClipDataset, EvaluationViews, TrainingClip, collate_clips, pack_clips
from .splits import (
    drop_unreadable,
    get_names,
    holds_images,
    is_multi_label,
    load_annotated,
    load_by_name,
    load_folder,
    read_groups,
)


__all__ = [
    "FORMATS",
    "AnnotationError",
    "BalancedBatches",
    "ClipDataset",
    "EvaluationViews",
    "JointBatches",
    "JointDataset",
    "ShuffledBatches",
    "TrainingClip",
    "collate_clips",
    "drop_unreadable",
    "get_names",
    "holds_images",
    "is_multi_label",
    "load_annotated",
    "load_by_name",
    "load_folder",
    "pack_clips",
    "read_annotations",
    "read_groups",
]
