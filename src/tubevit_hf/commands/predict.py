# SPDX-License-Identifier: Apache-2.0
"""`tubevit predict`: what a model sees in videos."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole, PlainTable
from .common import (
    BatchSizeOption,
    DeviceOption,
    TrustOption,
    VideoModelOption,
    Watched,
    WorkersOption,
    one_line_errors,
    share_cores,
)


if TYPE_CHECKING:
    from ..inference.prediction import Prediction


def predict(
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO_OR_FOLDER", help="Videos (files or URLs), or folders of videos.")
    ],
    model: VideoModelOption,
    top_k: Annotated[int, typer.Option(help="Labels to print for each video.", min=1)] = 5,
    views: Annotated[
        str, typer.Option(help="Clips in time x crops of each, whose scores are averaged, such as 4x3.")
    ] = "1x1",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, .jsonl or .csv. If it exists, videos in it are not classified again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a line of JSON for each video.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Classify videos, on one machine or, by `accelerate launch -m tubevit_hf.cli predict`, on many. A video that
    cannot be read is reported and passed over, and the exit code is then 1."""
    formats = [name for name, wanted in {"json": as_json, "jsonl": as_jsonl, "csv": as_csv}.items() if wanted]
    if len(formats) + (out is not None) > 1:
        raise typer.BadParameter("choose one of --json, --jsonl, --csv and --out.")
    share_cores()
    with one_line_errors():
        from ..inference.prediction import PredictionFile, predict_files
        from ..inference.reading import list_files
        from ..inference.running import get_processes, load_model

        files, seen_in = list_files(videos), parse_views(views)
        file = None if out is None else PredictionFile(out, files)
        state = get_processes()
        if file is None and state.num_processes > 1:
            raise ValueError(f"{state.num_processes} processes print to one place; give them a file by `--out`.")
        try:
            loaded = load_model(model, device=device or state.device, trust_remote_code=trust_remote_code)
        except (ImportError, OSError, ValueError) as error:
            raise typer.BadParameter(str(error).splitlines()[0], param_hint="--model") from error
        if file is not None:
            made_with = {"weights": loaded.weights, "views": views, "top_k": top_k}
            files = file.start({**made_with, "processor": loaded.processor.to_dict()})
        predictions: Iterable[Prediction] = predict_files(
            loaded, files, top_k=top_k, views=seen_in, batch_size=batch_size, num_workers=workers
        )

    if file is not None:
        predictions = file.write(predictions)
    watched = Watched(predictions, len(files))
    with watched.until_stopped("" if out is None else f" {out} keeps them, and the same command goes on."):
        show(watched, "nothing" if file is not None else formats[0] if formats else "table")
    if file is not None:
        file.finish()
    if watched.failed:
        raise typer.Exit(1)


def parse_views(views: str) -> tuple[int, int]:
    """Raises a `ValueError` if the text is not two numbers above 0 with an x between them."""
    found = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", views)
    if found is None:
        raise ValueError(f"--views must be clips x crops, such as 4x3, got {views!r}.")
    return int(found[1]), int(found[2])


def show(predictions: Iterable[Prediction], format: str) -> None:
    """Prints predictions as they come; a table at the end."""
    from ..inference.prediction import TEXT, csv_header, format_prediction

    if format == "json":
        print_list(predictions)
    elif format == "table":
        PlainConsole().print(prediction_table(predictions))
    elif format == "nothing":
        for _ in predictions:
            pass
    else:
        if format == "csv" and isinstance(sys.stdout, io.TextIOWrapper):
            # as in a file
            sys.stdout.reconfigure(**TEXT)
        print(csv_header() if format == "csv" else "", end="")
        for prediction in predictions:
            print(format_prediction(prediction, format), end="", flush=True)


def print_list(predictions: Iterable[Prediction]) -> None:
    """A JSON list that is whole also if it ends early."""
    before = "["
    try:
        for prediction in predictions:
            print(before, json.dumps(prediction.to_dict(), indent=2), sep="\n", end="", flush=True)
            before = ","
    finally:
        print("[]" if before == "[" else "\n]")


def prediction_table(predictions: Iterable[Prediction]) -> PlainTable:
    table = PlainTable("video", "label", "score")
    for prediction in predictions:
        for place, entry in enumerate(prediction.predictions or []):
            table.add_row("" if place else prediction.video, entry["label"], f"{entry['score']:.3f}")
        if prediction.error is not None:
            table.add_row(prediction.video, "failed", "")
        table.add_section()
    return table
