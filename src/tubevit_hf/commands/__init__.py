# SPDX-License-Identifier: Apache-2.0
"""The commands of `tubevit`, one file each.

A file imports what its `--help` needs at the top, and PyTorch, Transformers and the package's own rooms where the
command runs: help comes at once.
"""
