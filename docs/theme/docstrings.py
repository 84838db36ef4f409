# SPDX-License-Identifier: Apache-2.0
"""Makes the docstrings, which are in Transformers' form, readable for mkdocstrings.

[`TubeViTModel`] becomes a link to the name's place in the API's pages, and in `size (`int`, *optional*):` the marks
go, which would be shown.
"""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object


NAME = re.compile(r"\[`~?(?P<name>[\w.]+)`\](?![(\[])")
ARGUMENT = re.compile(r"(?m)^(?P<name> *[\w*]+ \()(?P<type>.*)(?P<end>\):)")
DIRECTIVE = re.compile(r"^::: (?P<path>[\w.]+)", re.M)
API = Path(__file__).parents[1] / "api"


def public_names() -> dict[str, str]:
    """Where the API's pages have each name."""
    text = "\n".join(page.read_text("utf-8") for page in sorted(API.glob("*.md")))
    return {match["path"].rsplit(".", 1)[1]: match["path"] for match in DIRECTIVE.finditer(text)}


class TransformersDocstrings(Extension):
    def __init__(self) -> None:
        super().__init__()
        self.public = public_names()

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = NAME.sub(self.link, obj.docstring.value)
            obj.docstring.value = ARGUMENT.sub(strip_marks, text)

    def link(self, match: re.Match) -> str:
        """A name that has no place in the pages stays a name; a member leads to its class."""
        path = self.public.get(match["name"].partition(".")[0])
        return f"`{match['name']}`" if path is None else f"[`{match['name']}`][{path}]"


def strip_marks(match: re.Match) -> str:
    return match["name"] + re.sub("[`*]", "", match["type"]) + match["end"]
