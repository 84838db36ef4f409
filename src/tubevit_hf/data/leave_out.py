# SPDX-License-Identifier: Apache-2.0
"""Lists of files to leave out: a path a line, relative to the folder of videos, with comments that say why."""

from collections.abc import Mapping
from pathlib import Path, PurePath

from transformers.utils import logging

from ..folders import write_text
from .annotations import AnnotationError, VideoFiles


logger = logging.get_logger(__name__)


def write_leave_out(path: str | Path, folder: str | Path, reasons: Mapping[str, str]) -> None:
    """Writes a list of files; it is there in full, or as it was.

    Args:
        path: of the list.
        folder: that the files are in.
        reasons: why each is left out, by its path relative to the folder.

    Raises:
        AnnotationError: the list cannot be written, or the name of a file has a line break.
    """
    lines = [f"# {len(reasons)} videos of {folder} to leave out; remove a line to keep its video."]
    for name, reason in reasons.items():
        if name.splitlines() != [name]:
            raise AnnotationError(f"{name!r}: a list cannot hold a name with a line break; rename the file.")
        # a name may begin like a comment
        lines += [f"# {reason}", f"./{name}" if name.startswith("#") else name]
    try:
        # names of files need not be text
        write_text(Path(path), "\n".join(lines) + "\n", errors="surrogateescape")
    except OSError as error:
        raise AnnotationError(f"{path}: it cannot be written ({error.strerror or error}).") from error


def read_leave_out(path: str | Path, folder: str | Path) -> set[Path]:
    """The files of a list, each as `Path(folder, name)`. A warning names one of those that are gone.

    Raises:
        AnnotationError: the list cannot be read, names something outside of the folder, or nothing that is in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise AnnotationError(f"{path}: it cannot be read ({error.strerror or error}).") from error
    files: dict[Path, str] = {}
    listed: VideoFiles | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name = PurePath(line)
        if name.is_absolute() or ".." in name.parts:
            raise AnnotationError(f"{path}, line {number}: the path must be relative to {folder}, got {line!r}.")
        place = f"{path}, line {number}"
        file = Path(folder, name)
        if not file.exists():
            # blanks, slashes and accents may be written otherwise
            listed = listed or VideoFiles(folder)
            file = listed.at(file) or file
        files[file] = place
    gone = [file for file in files if not file.exists()]
    if gone and len(gone) == len(files):
        raise AnnotationError(
            f"{files[gone[0]]}: there is no file {gone[0]}, nor any other of the {len(gone)} that the list names. It "
            "may be of another folder."
        )
    if gone:
        logger.warning(f"{len(gone)} of the {len(files)} files that {path} names are not there, such as {gone[0]}.")
    return set(files)
