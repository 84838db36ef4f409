# SPDX-License-Identifier: Apache-2.0
"""The public names and their signatures are those that are pinned: a change is a decision.

That each has its place in the docs is tested in `tests/docs/test_site.py`.
"""

import difflib

import pytest

from .support import public_api


def test_names_and_signatures():
    pinned, found = public_api.PINNED.read_text(encoding="utf-8"), public_api.describe()
    if pinned != found:
        change = "\n".join(
            difflib.unified_diff(pinned.splitlines(), found.splitlines(), "pinned", "found", lineterm="")
        )
        pytest.fail(
            f"the public API has changed:\n{change}\nIf that is wanted, run `python -m tests.support.public_api` and "
            "say so in CHANGELOG.md.",
            pytrace=False,
        )
