# SPDX-License-Identifier: Apache-2.0
"""A trained model at work: on many files, on long videos, and on what it makes of them."""
