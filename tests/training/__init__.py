# SPDX-License-Identifier: Apache-2.0
"""Tests of training, its parts and whole runs."""
