# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: the README as a package index shows it, where nothing of the repository lies beside.

Links and pictures of the repository get its address, the `Repository` of `[project.urls]`. As long as there is none,
a link is its text and a picture its description: better than a broken one.
"""

import re
from pathlib import Path

from setuptools import setup
from setuptools.compat.py310 import tomllib


ROOT = Path(__file__).parent
# `[text](address)` and `![text](address)`, the latter perhaps as the text of a link
LINK = re.compile(r"(!?)\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\(([^)\s]+)\)")
ADDRESS = re.compile(r'(src|srcset|href)="([^"]+)"')
PICTURE = re.compile(r'<picture>.*?<img [^>]*?alt="([^"]*)"[^>]*>.*?</picture>', re.DOTALL)


def for_an_index(text: str, repository: str | None) -> str:
    """Markdown whose relative addresses are absolute; outside code, where there are none."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else with_addresses(part, repository) for part in parts)


def with_addresses(text: str, repository: str | None) -> str:
    def link(match: re.Match[str]) -> str:
        mark, label, address = match.groups()
        label = LINK.sub(link, label)
        if not is_relative(address):
            return f"{mark}[{label}]({address})"
        return (
            label if repository is None else f"{mark}[{label}]({absolute(address, repository, is_picture=bool(mark))})"
        )

    def attribute(match: re.Match[str]) -> str:
        name, address = match.groups()
        if is_relative(address) and repository is not None:
            address = absolute(address, repository, is_picture=name != "href")
        return f'{name}="{address}"'

    if repository is None:
        text = PICTURE.sub(r"\1", text)
    return ADDRESS.sub(attribute, LINK.sub(link, text))


def is_relative(address: str) -> bool:
    return not re.match(r"[a-z]+:|#", address)


def absolute(address: str, repository: str, is_picture: bool) -> str:
    return f"{repository.rstrip('/')}/{'raw' if is_picture else 'blob'}/main/{address}"


if __name__ == "__main__":
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setup(
        long_description=for_an_index(
            (ROOT / "README.md").read_text(encoding="utf-8"),
            settings["project"].get("urls", {}).get("Repository"),
        ),
        long_description_content_type="text/markdown",
    )
