# SPDX-License-Identifier: Apache-2.0
"""Tests, a folder for each room of the package and of the repository."""
