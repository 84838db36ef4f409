# SPDX-License-Identifier: Apache-2.0
"""Views, metrics of clips and of segments, and counts of parameters and operations."""

from .complexity import count_flops, count_parameters
from .metrics import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy, accuracy_interval
from .segments import segment_mean_average_precision
from .views import predict_views


__all__ = [
    "MeanAveragePrecision",
    "MeanClassAccuracy",
    "TopKAccuracy",
    "accuracy_interval",
    "count_flops",
    "count_parameters",
    "predict_views",
    "segment_mean_average_precision",
]
