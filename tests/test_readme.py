# SPDX-License-Identifier: Apache-2.0
"""The README in the built metadata, as a package index shows it."""

import re
import runpy
import shutil
import subprocess
import sys
from email import message_from_string
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REPOSITORY = "https://example.org/some/repository"
for_an_index = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]


@pytest.mark.parametrize(
    ("text", "expected", "without"),
    [
        ("[a](b.md#c)", f"[a]({REPOSITORY}/blob/main/b.md#c)", "a"),
        ("![a b](c.png)", f"![a b]({REPOSITORY}/raw/main/c.png)", "a b"),
        ("[![a](b.png)](c.md)", f"[![a]({REPOSITORY}/raw/main/b.png)]({REPOSITORY}/blob/main/c.md)", "a"),
        ("[a](https://b.org) [c](#d)", "[a](https://b.org) [c](#d)", "[a](https://b.org) [c](#d)"),
        ('<img src="a.png" alt="b">', f'<img src="{REPOSITORY}/raw/main/a.png" alt="b">', None),
        (
            '<picture>\n<source srcset="a.png">\n<img src="b.png" alt="c d">\n</picture>',
            f'<picture>\n<source srcset="{REPOSITORY}/raw/main/a.png">\n<img src="{REPOSITORY}/raw/main/b.png" '
            'alt="c d">\n</picture>',
            "c d",
        ),
        ("```python\nx = a[b](c)\n```", "```python\nx = a[b](c)\n```", "```python\nx = a[b](c)\n```"),
    ],
)
def test_addresses(text, expected, without):
    assert for_an_index(text, REPOSITORY) == expected
    if without is not None:
        assert for_an_index(text, None) == without


def test_readme_in_the_metadata(tmp_path):
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "src" / "tubevit_hf"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "src" / "tubevit_hf" / "__init__.py", package)
    project = tmp_path / "pyproject.toml"
    project.write_text(f'{project.read_text()}\n[project.urls]\nRepository = "{REPOSITORY}"\n')
    code = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('built')"
    (tmp_path / "built").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    [path] = tmp_path.glob("built/*.dist-info/METADATA")
    metadata = message_from_string(path.read_text(encoding="utf-8"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.startswith("# tubevit_hf")
    addresses = re.findall(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"', text)
    assert len(addresses) > 10
    assert all(re.match("https?:|#", link or attribute) for link, attribute in addresses)
    # and each of them is of something that is there
    prefix = re.compile(rf"{REPOSITORY}/(?:blob|raw)/main/([^#]*)")
    files = [match[1] for link, attribute in addresses if (match := prefix.match(link or attribute))]
    assert len(files) > 10
    assert all((ROOT / file).exists() for file in files)


def test_readme_has_a_picture():
    assert re.search(r"!\[[^\]]{20,}\]\(", README) or re.search(r'<img [^>]*alt="[^"]{20,}"', README)
