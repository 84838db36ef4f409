# SPDX-License-Identifier: Apache-2.0
"""What is printed for people. Names, labels and messages are texts, never Rich's markup, emoji or colours."""

from typing import IO, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


class PlainConsole(Console):
    """A console that prints texts as they are."""

    def __init__(self, **settings: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable_lines(text), **settings)


class PlainTable(Table):
    """A table whose texts are printed as they are, on any console; control characters are escaped."""

    def __init__(self, *headers: str, title: str | None = None):
        super().__init__(*headers, title=None if title is None else as_text(title, style="table.title"))

    def add_column(self, header: RenderableType = "", *arguments: Any, **settings: Any) -> None:
        super().add_column(as_text(header), *arguments, **settings)

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        super().add_row(*map(as_text, cells), **settings)


def say(text: object, file: IO[str] | None = None) -> None:
    """As `print`, with control characters escaped."""
    print(printable_lines(str(text)), file=file)


def printable_lines(text: str) -> str:
    # it imports PyTorch, and this file comes with a command's help
    from .model.video_sources_tubevit import printable

    return "\n".join(map(printable, text.split("\n")))


def as_text(cell: Any, style: str = "") -> Any:
    from .model.video_sources_tubevit import printable

    return Text(printable(cell), style) if isinstance(cell, str) else cell
