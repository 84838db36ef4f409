# SPDX-License-Identifier: Apache-2.0
"""Tests of trained models at work: timelines, streams, files."""
