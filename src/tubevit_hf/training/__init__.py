# SPDX-License-Identifier: Apache-2.0
"""Recipes, the Trainer, frozen layers that are run once, and joint training on images and videos."""

from .few_videos import FEW_VIDEOS, FewVideosRecipe, FewVideosReport, check_videos, fit_few_videos
from .frozen import FrozenCacheMismatch, FrozenClips, cache_frozen, frozen_size
from .losses import inverse_frequencies
from .modeling_joint import TubeViTForJointClassification
from .recipes import RECIPES, Recipe
from .trainer import TrainingDiverged, VideoTrainer, check_weights, find_checkpoint


__all__ = [
    "FEW_VIDEOS",
    "RECIPES",
    "FewVideosRecipe",
    "FewVideosReport",
    "FrozenCacheMismatch",
    "FrozenClips",
    "Recipe",
    "TrainingDiverged",
    "TubeViTForJointClassification",
    "VideoTrainer",
    "cache_frozen",
    "check_videos",
    "check_weights",
    "find_checkpoint",
    "fit_few_videos",
    "frozen_size",
    "inverse_frequencies",
]
