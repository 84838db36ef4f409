# SPDX-License-Identifier: Apache-2.0
"""Tests of what a model looks at."""
