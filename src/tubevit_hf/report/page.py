# SPDX-License-Identifier: Apache-2.0
"""A measurement as one page of HTML that needs nothing but itself."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from .filmstrips import Strip
from .measurement import Measurement
from .statistics import Share


# classes beyond which a matrix is no longer read, and what is shown instead: that many confusions
MAX_MATRIX = 30
MAX_CONFUSIONS = 15
# cross-validated choices that are shown
MAX_CHOICES = 6
NUM_SHADES = 5
# of a plot: units that are about the pixels of a phone
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 340, 200, 44, 28, 10


@dataclass(frozen=True)
class Line:
    """A line of a plot, by its points `x,y x,y`."""

    name: str
    points: str


@dataclass(frozen=True)
class Plot:
    """Lines over the steps of a training, in units of the picture."""

    title: str
    lines: list[Line]
    steps: tuple[float, float]
    highest: float
    last: dict[str, float]


def render_page(
    measurement: Measurement, mistakes: Sequence[Strip] = (), uncertain: Sequence[Strip] = (), num_most: int = 0
) -> str:
    """The page.

    Args:
        measurement: all numbers.
        mistakes: the most confident ones, in pictures.
        uncertain: the least certain clips, in pictures.
        num_most: clips of each kind that were asked for.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tubevit_hf.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: dict[str, Any] = environment.filters
    filters |= {"percent": percent, "interval": interval, "labels": name_labels, "file_name": short_name}
    filters |= {"shade": shade, "points": points, "code": mark_code}
    history = measurement.history
    return environment.get_template("page.html").render(
        has_history=bool(history.curves or history.choices or history.source),
        measurement=measurement,
        name=last_part(measurement.model),
        mistakes=mistakes,
        uncertain=uncertain,
        num_wrong=len(measurement.mistakes),
        plots=[make_plot(title, lines) for title, lines in measurement.history.curves.items()],
        choices=measurement.history.choices[:MAX_CHOICES],
        still=max((one.accuracy for one in measurement.history.choices if one.still), default=None),
        confusions=list_confusions(measurement),
        show_matrix=measurement.confusion is not None and len(measurement.labels) <= MAX_MATRIX,
        commands=list_commands(measurement),
    )


def percent(value: float, decimals: int = 1) -> str:
    return f"{100 * value:.{decimals}f}%"


def interval(share: Share) -> str:
    return f"{100 * share.low:.1f} to {percent(share.high)}"


def last_part(place: str) -> str:
    """The name of a folder, also of `.`, or of a repository."""
    return Path(place).resolve().name or place


def points(drop: float) -> str:
    """How many points a score changes, with its sign."""
    change = round(-100 * drop)
    return f"{change:+d}".replace("-", "\N{MINUS SIGN}") if change else "0"


def name_labels(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "nothing"


def short_name(file: str) -> Markup:
    """The folder and the name of a file, which may be broken at its joints on a narrow screen."""
    text = str(Path(*Path(file).parts[-2:]))
    escaped = Markup.escape(text)
    return Markup(escaped.replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>")))


def mark_code(text: str) -> Markup:
    """What stands between backticks as code."""
    # as a plain string: what is put into a Markup is escaped
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(Markup.escape(text))))


def shade(count: int, of: int) -> int:
    """From 0, for nothing, to `NUM_SHADES - 1`, for nearly all of a row."""
    return min(NUM_SHADES - 1, 1 + int((NUM_SHADES - 1) * count / of)) if count else 0


def make_plot(title: str, lines: dict[str, list[tuple[float, float]]]) -> Plot:
    steps = [step for points in lines.values() for step, _ in points]
    highest = 1.0
    if title != "accuracy":
        highest = max(value for points in lines.values() for _, value in points) * 1.05 or 1.0
    first, last = min(steps), max(steps)
    drawn = []
    for name, values in lines.items():
        places = []
        for step, value in values:
            x = LEFT + (WIDTH - LEFT - MARGIN) * (step - first) / max(1, last - first)
            y = MARGIN + (HEIGHT - BOTTOM - MARGIN) * (1 - value / highest)
            places.append(f"{x:.1f},{y:.1f}")
        drawn.append(Line(name, " ".join(places)))
    return Plot(title, drawn, (first, last), highest, {name: points[-1][1] for name, points in lines.items()})


def list_confusions(measurement: Measurement) -> list[tuple[int, str, str]]:
    """How often which class was taken for which, the most frequent first."""
    if measurement.confusion is None:
        return []
    found = [
        (count, measurement.labels[row], measurement.labels[column])
        for row, counts in enumerate(measurement.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(found, key=lambda confusion: -confusion[0])[:MAX_CONFUSIONS]


def list_commands(measurement: Measurement) -> list[tuple[str, str]]:
    """What to do next, and how."""
    model = shlex.quote(measurement.model)
    example = shlex.quote(measurement.videos[0].file)
    commands: list[tuple[str, str]] = [
        ("Classify a folder of videos", f"tubevit predict FOLDER --model {model} --out labels.csv"),
        ("Find what happens when in a long video", f"tubevit timeline VIDEO --model {model}"),
        ("See what it looks at", f"tubevit explain {example} --model {model} --out explanation"),
        ("Features, to search and to sort by", f"tubevit embed FOLDER --model {model} --out features"),
        ("A faster model for this kind of machine", f"tubevit export {model} --to openvino --out exported"),
    ]
    return commands
