# SPDX-License-Identifier: Apache-2.0
"""`tubevit search`: which videos are like another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole, PlainTable
from .common import one_line_errors


if TYPE_CHECKING:
    from ..inference.neighbours import Neighbour


def search(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="A video or an image (file or URL), or a file of the features.")
    ],
    features: Annotated[Path, typer.Option(help="Folder that `tubevit embed` wrote.")],
    model: Annotated[
        str | None, typer.Option(help="Where the model that made the features is now, if it is not where it was.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Videos to print.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find the videos that are most like a video or an image: by the cosine of their features, exactly."""
    with one_line_errors():
        neighbours = find(query, features, model, top_k)
    if as_json:
        print(json.dumps([neighbour.to_dict() for neighbour in neighbours], indent=2))
    else:
        PlainConsole().print(neighbour_table(neighbours))


def find(query: str, features: Path, model: str | None, top_k: int) -> list[Neighbour]:
    """A query that is a file of the features needs no model, and is not found itself."""
    from ..inference import neighbours
    from ..inference.feature_folders import open_features, read_settings

    rows = open_features(features)
    stored = neighbours.find_rows(rows, query)
    if stored is not None:
        return neighbours.search(rows, stored, top_k, exclude=query)
    if "://" not in query and not Path(query).exists():
        raise ValueError(f"{query}: there is no such file, neither on the disk nor among the features.")
    settings = read_settings(features)
    embedder = neighbours.load_embedder(settings, model)
    embedded = neighbours.embed_query(query, embedder, model or settings["model"], settings)
    return neighbours.search(rows, embedded, top_k)


def neighbour_table(neighbours: list[Neighbour]) -> PlainTable:
    table = PlainTable("video", "similarity", "seconds", "label")
    for neighbour in neighbours:
        known = neighbour.start is not None and neighbour.end is not None
        seconds = f"{neighbour.start:.1f} to {neighbour.end:.1f}" if known else ""
        table.add_row(neighbour.file, f"{neighbour.similarity:.4f}", seconds, neighbour.label or "")
    return table
