# SPDX-License-Identifier: Apache-2.0
"""`tubevit probe`: how much a small classifier reads off features."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole, PlainTable
from .common import one_line_errors


if TYPE_CHECKING:
    from ..inference.probes import ProbeReport

# more classes make no table
MAX_CLASSES = 20


class Method(str, Enum):
    LINEAR = "linear"
    ATTENTIVE = "attentive"
    KNN = "knn"


def probe(
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="Folder that `tubevit embed` wrote.")],
    method: Annotated[
        list[Method] | None,
        typer.Option(help="Logistic regression, attention over tokens, or nearest neighbours; may be given again."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2)] = 5,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose first group finds in a video's path who or where it was filmed: such "
            "videos are held out together. Default: each video by itself."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Cross-validate small classifiers on features, without decoding any video again."""
    with one_line_errors():
        from ..inference.feature_folders import open_features, read_groups
        from ..inference.probes import probe_features

        rows = open_features(features)
        methods = [each.value for each in method or [Method.LINEAR]]
        reports = probe_features(rows, methods, folds, groups)
        counts = {
            "clips": len(rows),
            "videos": len(set(read_groups(rows))),
            "groups": len(set(read_groups(rows, groups))),
        }
    if as_json:
        print(
            json.dumps(
                {
                    "features": str(features),
                    **counts,
                    "classes": reports[0].names,
                    "largest_class": largest_class(reports[0]),
                    "probes": [report.to_dict() for report in reports],
                },
                indent=2,
            )
        )
        return
    console = PlainConsole(soft_wrap=True)
    console.print(
        f"{counts['clips']} clips of {counts['videos']} videos in {counts['groups']} groups; the largest class has "
        f"{largest_class(reports[0]):.1%} of the clips."
    )
    console.print(accuracy_table(reports))
    for report in reports:
        console.print(confusion_table(report))


def largest_class(report: ProbeReport) -> float:
    """The share of clips that are right by always saying the same."""
    return float(report.confusion.sum(axis=1).max() / len(report.labels))


def accuracy_table(reports: list[ProbeReport]) -> PlainTable:
    table = PlainTable("probe", "accuracy", "spread", "folds", "chosen")
    for report in reports:
        folds = " ".join(f"{accuracy:.1%}" for accuracy in report.accuracies)
        chosen = " ".join(f"{value:g}" for value in report.chosen)
        table.add_row(report.method, f"{report.mean:.1%}", f"{report.spread:.1%}", folds, chosen)
    return table


def confusion_table(report: ProbeReport) -> PlainTable:
    """Clips of each class by what they were taken for; of many classes the most frequent mistakes."""
    names, confusion = report.names, report.confusion
    if len(names) <= MAX_CLASSES:
        table = PlainTable(f"{report.method}: class", *names, title="clips by what they were taken for")
        for name, counts in zip(names, confusion):
            table.add_row(name, *(str(count) if count else "" for count in counts))
        return table
    mistakes = confusion.copy()
    mistakes[range(len(names)), range(len(names))] = 0
    table = PlainTable(f"{report.method}: class", "taken for", "clips", title="most frequent mistakes")
    for place in mistakes.ravel().argsort(kind="stable")[::-1][:MAX_CLASSES]:
        label, predicted = divmod(int(place), len(names))
        if mistakes[label, predicted]:
            table.add_row(names[label], names[predicted], str(mistakes[label, predicted]))
    return table
