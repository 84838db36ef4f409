# SPDX-License-Identifier: Apache-2.0
"""What a model looks at, exact to its tubes, and what becomes of a label without a stretch of time."""

from .attention import attention_rollout, pooling_attention
from .deletion import deletion_curve
from .explain import METHODS, Method, explain_clips
from .gradient import integrated_gradients
from .heat import lay_over, to_heat
from .occlusion import equal_windows, occlude_time, scores_so_far


__all__ = [
    "METHODS",
    "Method",
    "attention_rollout",
    "deletion_curve",
    "equal_windows",
    "explain_clips",
    "integrated_gradients",
    "lay_over",
    "occlude_time",
    "pooling_attention",
    "scores_so_far",
    "to_heat",
]
