# SPDX-License-Identifier: Apache-2.0
"""The lower bounds in pyproject.toml are those that the tests have run with (`make lowest`)."""

import re

from packaging.version import Version

from .support.lowest_versions import RECORD, bounds


def test_bounds_are_those_of_the_last_run():
    ending, *lines = RECORD.read_text(encoding="utf-8").splitlines()
    # what failed and was mended ran again
    ending = ending.rsplit("; again, ", 1)[-1].replace("what had failed", "")
    assert re.search(r"\d+ passed", ending)
    assert "failed" not in ending
    assert "error" not in ending
    run = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    expected = {name: Version(version) for name, version in bounds().items()}
    assert run.keys() == expected.keys()
    # 1.2 and 1.2.1: a first patch may be the lowest that other requirements allow
    assert {name: version.release[:2] for name, version in run.items()} == {
        name: (*version.release, 0)[:2] for name, version in expected.items()
    }
