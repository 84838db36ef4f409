# SPDX-License-Identifier: Apache-2.0
"""Tests of where videos lie, clips and batches."""
