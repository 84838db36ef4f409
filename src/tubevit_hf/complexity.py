# SPDX-License-Identifier: Apache-2.0
"""Counts by the name that version 0.1.0 documented; they are in `tubevit_hf.evaluation`."""

from .evaluation.complexity import count_flops, count_parameters


__all__ = ["count_flops", "count_parameters"]
