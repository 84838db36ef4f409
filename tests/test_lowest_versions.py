# SPDX-License-Identifier: Apache-2.0
"""The lower bounds in pyproject.toml are those that the tests have run with (`make lowest`)."""

import re

from packaging.version import Version

from .support.lowest_versions import RECORD, bounds


def test_bounds_are_those_of_the_last_run():
    ending, *lines = RECORD.read_text(encoding="utf-8").splitlines()
    assert re.search(r"\d+ passed", ending)
    assert "failed" not in ending
    assert "error" not in ending
    run = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    expected = {name: Version(version) for name, version in bounds().items()}
    assert run.keys() == expected.keys()
    # the wheel of a bound may be missing for a Python, or another requirement may ask for more
    assert all(expected[name] <= run[name] for name in expected)
    assert sum(run[name].release[:2] == expected[name].release[:2] for name in expected) >= len(expected) - 3
