# SPDX-License-Identifier: Apache-2.0
"""Tests of what ships with a checkpoint."""
