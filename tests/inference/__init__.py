# SPDX-License-Identifier: Apache-2.0
"""Tests of `tubevit_hf.inference`."""
