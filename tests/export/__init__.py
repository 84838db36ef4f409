# SPDX-License-Identifier: Apache-2.0
"""Tests of graphs for other runtimes."""
