# SPDX-License-Identifier: Apache-2.0
"""The house: what ships alone, and how every file begins. Who leans on whom is import-linter's, in pyproject.toml."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
MODEL = ROOT / "src" / "tubevit_hf" / "model"
PYTHON_FILES = sorted(
    path for folder in ("src", "tests", "examples", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
)


def test_model_holds_nothing_but_what_ships():
    others = {path.name for path in MODEL.iterdir() if not path.match("*_tubevit.py")}
    assert others - {"__pycache__"} == {"__init__.py"}


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_begin_with_licence_and_purpose(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    purpose = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert len(purpose) > 15, purpose
