# SPDX-License-Identifier: Apache-2.0
"""Recipes and the Trainer."""

from .recipes import RECIPES, Recipe
from .trainer import TrainingDiverged, VideoTrainer, check_weights, find_checkpoint


__all__ = ["RECIPES", "Recipe", "TrainingDiverged", "VideoTrainer", "check_weights", "find_checkpoint"]
