# SPDX-License-Identifier: Apache-2.0
"""Recipes, the Trainer, and joint training on images and videos."""

from .modeling_joint import TubeViTForJointClassification
from .recipes import RECIPES, Recipe
from .trainer import TrainingDiverged, VideoTrainer, check_weights, find_checkpoint


__all__ = [
    "RECIPES",
    "Recipe",
    "TrainingDiverged",
    "TubeViTForJointClassification",
    "VideoTrainer",
    "check_weights",
    "find_checkpoint",
]
