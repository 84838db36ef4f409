# SPDX-License-Identifier: Apache-2.0
"""The public names and their signatures are those that are pinned: a change is a decision."""

import difflib
import importlib
import re
from pathlib import Path

import pytest

from .support import public_api


ROOT = Path(__file__).parents[1]


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


def test_every_name_that_the_docs_give_can_be_imported():
    table = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("\n## ")[0]
    names = [name for row in re.findall(r"^\| (`[^|]+) \|", table, re.M) for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 15
    for name in names:
        if name.startswith("tubevit_hf."):
            importlib.import_module(name)
        else:
            assert hasattr(importlib.import_module("tubevit_hf"), name), name
