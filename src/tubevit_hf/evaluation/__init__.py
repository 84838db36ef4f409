# SPDX-License-Identifier: Apache-2.0
"""Views, metrics, and counts of parameters and operations."""

from .complexity import count_flops, count_parameters
from .metrics import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy
from .views import predict_views


__all__ = [
    "MeanAveragePrecision",
    "MeanClassAccuracy",
    "TopKAccuracy",
    "count_flops",
    "count_parameters",
    "predict_views",
]
