# SPDX-License-Identifier: Apache-2.0
"""Folders and files that appear when all that belongs in them is complete, or not at all."""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# marks a folder that `export_model` wrote
MODEL_INFO = "model_info.json"


class FolderError(ValueError):
    """A folder may not or cannot be written; the message names it and the reason."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises a `FolderError` if a folder may not be written."""
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder}: it is a file, not a folder.")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise FolderError(f"{folder}: it exists. Choose another folder, or replace it with `--overwrite`.")


@contextmanager
def written_whole(folder: Path, overwrite: bool) -> Generator[Path, None, None]:
    """Gives a folder to write into, which becomes `folder` at the end; if anything fails, nothing is left.

    Raises:
        FolderError: `folder` exists and is not to be overwritten, or it cannot be written.
    """
    check_folder(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # beside it, so that a rename moves it into place
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
            finished = Path(unfinished, folder.name)
            finished.mkdir()
            yield finished
            if folder.exists():
                shutil.rmtree(folder)
            finished.rename(folder)
    except OSError as error:
        raise FolderError(f"{folder}: it cannot be written ({error.strerror or error}).") from error


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """The file is there in full, or as it was."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines of CSV that end in a line feed; line breaks of any kind within a cell are in quotes."""
    lines = []
    for row in rows:
        line = io.StringIO()
        # Python before 3.13 quotes a carriage return only if lines end in one
        csv.writer(line, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """The file is there in full, or as it was. `errors` is what becomes of what is no text, as `open` has it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8", errors=errors)
        os.replace(unfinished, path)
    except OSError:
        # such as of a full disk
        unfinished.unlink(missing_ok=True)
        raise
