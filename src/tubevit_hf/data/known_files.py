# SPDX-License-Identifier: Apache-2.0
"""What was found out about files, kept for the next start, so that nothing is opened twice.

It lies in one file a user, in Hugging Face's folder of assets (`HF_ASSETS_CACHE`), which may be removed at any time.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import av
from huggingface_hub import cached_assets_path
from transformers.utils import logging

from ..model.video_decoding_tubevit import VideoLimits


if TYPE_CHECKING:
    from _typeshed import DataclassInstance

logger = logging.get_logger(__name__)
FactsT = TypeVar("FactsT", bound="DataclassInstance")
ResultT = TypeVar("ResultT")

# of the table and of what facts mean: another number is another file
FORMAT = 1
# what is found is written down so often, in seconds, and what is not yet is lost if the process is killed
WRITE_EVERY = 2.0
# how long another process is waited for that writes, in seconds
PATIENCE = 30.0
# SQLite allows at least 999 values in a statement
AT_ONCE = 900


class Stamp(NamedTuple):
    """A file that has the same is taken for unchanged: its size in bytes, and its time of change in nanoseconds."""

    size: int
    changed: int


def stamp_of(path: str | os.PathLike[str]) -> Stamp | None:
    """`None` for what is no file here, such as an address."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


class KnownFiles:
    """Facts about files by path, size and time of change.

    Facts are dataclasses that JSON can hold. They count for the versions of this package and of PyAV, and for the
    limits, that they were found with. Several processes and threads may use it at once. Where it cannot be read or
    written, a warning says so, and everything is new.

    Args:
        path: of an SQLite database; by default the user's.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.is_usable = True
        package = metadata.version("tubevit_hf")
        self.reader = f"tubevit_hf {package}, av {av.__version__}, {VideoLimits.from_environment()}"

    def find(self, stamps: Mapping[str, Stamp], kind: type[FactsT]) -> dict[str, FactsT]:
        """What is known of unchanged files, by their path as it is given."""
        wanted = {os.fsencode(os.path.abspath(path)): path for path in stamps}

        def read(connection: sqlite3.Connection) -> dict[str, FactsT]:
            found: dict[str, FactsT] = {}
            keys = iter(wanted)
            while batch := list(islice(keys, AT_ONCE)):
                rows = connection.execute(
                    "SELECT path, size, changed, facts FROM files WHERE kind = ? AND reader = ? "
                    f"AND path IN ({', '.join('?' * len(batch))})",
                    (kind.__name__, self.reader, *batch),
                )
                for key, size, changed, facts in rows:
                    path = wanted[key]
                    if stamps[path] == (size, changed):
                        # what cannot be understood is found out anew
                        with contextlib.suppress(ValueError, TypeError):
                            found[path] = kind(**json.loads(facts))
            return found

        return self.attempt(read) or {}

    def keep(self, facts: Iterable[tuple[str, Stamp, "DataclassInstance"]]) -> None:
        """Keeps what was found, in the place of what was known."""
        rows = [
            (os.fsencode(os.path.abspath(path)), type(each).__name__, *stamp, self.reader, json.dumps(asdict(each)))
            for path, stamp, each in facts
        ]
        if rows:
            statement = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)"
            self.attempt(lambda connection: connection.executemany(statement, rows))

    def attempt(self, action: Callable[[sqlite3.Connection], ResultT]) -> ResultT | None:
        """Does something in a transaction of its own; if it fails, there is a warning, and `None`."""
        if not self.is_usable:
            return None
        path = self.path
        try:
            if path is None:
                path = cached_assets_path("tubevit_hf", "known_files") / f"{FORMAT}.sqlite3"
            # a connection cannot be shared by threads, nor live through a fork
            with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS files (path BLOB, kind TEXT, size INTEGER, changed INTEGER, "
                    "reader TEXT, facts TEXT, PRIMARY KEY (path, kind)) WITHOUT ROWID"
                )
                return action(connection)
        except (sqlite3.Error, OSError) as error:
            self.tell(path, error)
            return None

    def tell(self, path: Path | None, error: Exception) -> None:
        """Warns, and moves a damaged database out of the way; another that fails is not asked again."""
        is_damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        what = "what is known of files cannot be read or kept, so all are opened"
        if is_damaged and path is not None:
            with contextlib.suppress(OSError):
                os.replace(path, path.with_suffix(".damaged"))
                logger.warning(f"{path}: {what}; it was damaged ({error}) and begins anew.")
                return
        self.is_usable = False
        logger.warning(f"{path or 'the folder of assets'}: {what} ({error}).")


def recall(
    paths: Sequence[str],
    kind: type[FactsT],
    find_out: Callable[[Sequence[str]], Iterator[FactsT]],
    store: KnownFiles | None = None,
) -> dict[str, FactsT]:
    """Facts about files: those that are known, and what is found out about the others, which is kept.

    Args:
        paths: of files; those that are none here, such as addresses, are never known.
        kind: of facts.
        find_out: gives the facts about files in order. What it gave is kept if it is stopped.
        store: of what is known; by default the user's.

    Returns:
        The facts by path.
    """
    store = KnownFiles() if store is None else store
    # before they are opened: what changes meanwhile is opened again next time
    stamps = {path: stamp for path in paths if (stamp := stamp_of(path)) is not None}
    found = store.find(stamps, kind)
    unknown = [path for path in dict.fromkeys(paths) if path not in found]
    fresh: list[tuple[str, Stamp, FactsT]] = []
    written = time.monotonic()
    try:
        for path, facts in zip(unknown, find_out(unknown)):
            found[path] = facts
            if path in stamps:
                fresh.append((path, stamps[path], facts))
            if time.monotonic() - written > WRITE_EVERY:
                store.keep(fresh)
                fresh.clear()
                written = time.monotonic()
    finally:
        store.keep(fresh)
    return found
