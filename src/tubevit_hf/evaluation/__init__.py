# SPDX-License-Identifier: Apache-2.0
"""Views and metrics."""

from .metrics import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy
from .views import predict_views


__all__ = ["MeanAveragePrecision", "MeanClassAccuracy", "TopKAccuracy", "predict_views"]
