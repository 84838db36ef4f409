# SPDX-License-Identifier: Apache-2.0
"""`tubevit report`: how good a model is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole, PlainTable
from .common import (
    BatchSizeOption,
    DeviceOption,
    TrustOption,
    Watched,
    WorkersOption,
    one_line_errors,
    share_cores,
)


if TYPE_CHECKING:
    from ..report import Measurement


def report(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder or repo id of a model that classifies videos.")
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Videos in class folders, or in train and validation folders of these. Measured is what MODEL was "
            "not trained on: what its splits.csv says, or else validation, or else all.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Page to write. Default: MODEL/report.html.")] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="File for the numbers, which spare a second run the work. Default: beside the page."
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="Model card to write. Default: MODEL/README.md, unless you have written it yourself."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that finds in a path who or where was filmed, such as 'person(\\d+)'. Default: "
            "what splits.csv or the names tell."
        ),
    ] = None,
    views: Annotated[
        str, typer.Option(help="Clips in time x crops of each, whose scores are averaged, such as 4x3.")
    ] = "1x1",
    batch_size: BatchSizeOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure a model on videos that it was not trained on, and write a page that tells whether it is good enough. If
    a video cannot be read, the exit code is 1."""
    share_cores()
    with one_line_errors():
        from ..inference.running import get_processes, load_model
        from ..report import make_report
        from .predict import parse_views

        seen_in = parse_views(views)
        try:
            loaded = load_model(model, device=device or get_processes().device, trust_remote_code=trust_remote_code)
        except (ImportError, OSError, ValueError) as error:
            raise typer.BadParameter(str(error).splitlines()[0], param_hint="MODEL") from error

        try:
            written = make_report(
                model,
                loaded,
                folder,
                out,
                numbers=json_file,
                card=card,
                views=seen_in,
                groups=groups,
                batch_size=batch_size,
                num_workers=workers,
                watch=Watched,
            )
        except KeyboardInterrupt:
            print("Stopped. No page was written.", file=sys.stderr)
            raise typer.Exit(130) from None

    console = PlainConsole(soft_wrap=True)
    measurement = written.measurement
    console.print(summarize(measurement))
    PlainConsole().print(class_table(measurement))
    for limit in measurement.limits:
        console.print(f"- {limit}")
    console.print()
    console.print(f"page     {written.page} ({written.page.stat().st_size / 1e6:.1f} MB)")
    console.print(f"numbers  {written.numbers}")
    if written.card is not None:
        console.print(f"card     {written.card}")
    elif written.kept_card is not None:
        console.print(
            f"card     {written.kept_card} was written or changed by somebody and stays; `--card FILE` writes another"
        )
    if measurement.failed:
        raise typer.Exit(1)


def summarize(measurement: Measurement) -> str:
    share, calibration = measurement.best_interval, measurement.calibration
    lines = [
        measurement.how,
        f"accuracy    {share.value:.1%} of {share.of} videos, 95% interval {share.low:.1%} to {share.high:.1%}, "
        f"{measurement.interval_over}",
        f"to compare  {measurement.chance:.1%} by chance, {measurement.majority_share:.1%} by always saying "
        f"{measurement.majority!r}",
        f"scores      off by {calibration.error:.1%} on average; by chance up to {calibration.by_chance:.1%}",
    ]
    if measurement.speed is not None:
        speed = measurement.speed
        lines.append(f"a video     {speed.reading_ms:.1f} ms to read, {speed.model_ms:.1f} ms for the model")
    return "\n".join(lines)


def class_table(measurement: Measurement) -> PlainTable:
    table = PlainTable("class", "videos", "recall", "precision", "F1")
    for one in measurement.classes:
        table.add_row(
            one.label,
            str(one.number),
            "" if one.recall is None else f"{one.recall.value:.1%}",
            "" if one.precision is None else f"{one.precision:.1%}",
            f"{one.f1:.1%}",
        )
    return table
