# SPDX-License-Identifier: Apache-2.0
"""Data for training and demonstration. Nothing here imports the model."""

from .annotations import FORMATS, AnnotationError, read_annotations
from .batches import BalancedBatches, JointBatches, JointDataset, ShuffledBatches
from .clips import ClipDataset, EvaluationViews, TrainingClip, collate_clips, pack_clips
from .groups import find_groups
from .inspection import ClassSummary, Finding, FolderReport, inspect_videos
from .leaks import Leak
from .leave_out import read_leave_out
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
    "ClassSummary",
    "ClipDataset",
    "EvaluationViews",
    "Finding",
    "FolderReport",
    "JointBatches",
    "JointDataset",
    "Leak",
    "ShuffledBatches",
    "TrainingClip",
    "collate_clips",
    "drop_unreadable",
    "find_groups",
    "get_names",
    "holds_images",
    "inspect_videos",
    "is_multi_label",
    "load_annotated",
    "load_by_name",
    "load_folder",
    "pack_clips",
    "read_annotations",
    "read_groups",
    "read_leave_out",
]
