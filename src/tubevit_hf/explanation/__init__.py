# SPDX-License-Identifier: Apache-2.0
"""What a model looks at, exact to its tubes, and what becomes of a label without a stretch of time."""

from .attention import attention_rollout, pooling_attention
from .explain import METHODS, explain_clips
from .occlusion import equal_windows, occlude_time


__all__ = ["METHODS", "attention_rollout", "equal_windows", "explain_clips", "occlude_time", "pooling_attention"]
