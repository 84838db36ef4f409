# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Data for training and demonstration. Nothing here imports the model."""

from .annotations import FORMATS, AnnotationError, read_annotations
from .batches import JointBatches, JointDataset, ShuffledBatches
from .clips import ClipDataset, EvaluationViews, TrainingClip, collate_clips
from .splits import drop_unreadable, get_names, holds_images, is_multi_label, load_annotated, load_by_name, load_folder


__all__ = [
    "FORMATS",
    "AnnotationError",
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
    "read_annotations",
]
