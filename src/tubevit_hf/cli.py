# SPDX-License-Identifier: Apache-2.0
"""The `tubevit` command."""

from .commands.convert import app, main


__all__ = ["app", "main"]
