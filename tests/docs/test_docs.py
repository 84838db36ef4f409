# SPDX-License-Identifier: Apache-2.0
"""Every fenced Python block of README and docs runs, and prints what the block of text after it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
PYTHON_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\s*^```text\n(?P<output>.*?)^```$)?", re.M | re.S)


def blocks() -> list:
    return [
        pytest.param(match["code"], match["output"], id=f"{page.name}-{index}")
        for page in PAGES
        for index, match in enumerate(PYTHON_BLOCK.finditer(page.read_text()))
    ]


@pytest.mark.parametrize(("code", "output"), blocks())
def test_python_block_runs_and_prints_what_the_page_says(code, output, after_make_demo):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=after_make_demo)
    assert result.returncode == 0, result.stderr
    if output is not None:
        assert result.stdout == output


def test_there_are_blocks_with_and_without_output():
    outputs = [block.values[1] for block in blocks()]
    assert len(outputs) >= 8
    assert sum(output is not None for output in outputs) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
