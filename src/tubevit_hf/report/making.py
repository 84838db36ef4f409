# SPDX-License-Identifier: Apache-2.0
"""From a model and a folder of videos to a page, its numbers and a model card."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.groups import find_groups
from ..evaluation.views import list_labels
from ..folders import MODEL_INFO, write_json, write_text
from ..inference.running import LoadedModel
from ..model.model_card_tubevit import may_be_replaced
from ..model.modeling_tubevit import TubeViTPreTrainedModel
from ..model.video_sources_tubevit import printable
from .filmstrips import choose_clips, draw_strips
from .measurement import Measurement
from .measuring import Watch, check_model, measure, takes_several
from .page import last_part, render_page
from .videos import ReportError, Selection, choose_videos


PAGE = "report.html"
CARD = "README.md"


@dataclass(frozen=True)
class WrittenReport:
    """What was measured, and where it was written.

    Args:
        measurement: all numbers.
        page: the page.
        numbers: the same as JSON.
        card: the model card; `None` where there is none of ours.
        kept_card: a card of the user's own that stays as it is.
    """

    measurement: Measurement
    page: Path
    numbers: Path
    card: Path | None
    kept_card: Path | None


def make_report(
    model: str,
    loaded: LoadedModel,
    folder: Path,
    out: Path | None = None,
    *,
    numbers: Path | None = None,
    card: Path | None = None,
    views: tuple[int, int] = (1, 1),
    groups: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    watch: Watch | None = None,
) -> WrittenReport:
    """Measures a model on the videos of a folder that it was not trained on, and writes page, numbers and card.

    Args:
        model: its folder or repo id.
        loaded: the same, as `load_model` gives it.
        folder: of the videos, see [`choose_videos`].
        out: the page; by default `report.html` in the model's folder.
        numbers: a JSON file; by default beside the page. What it holds of an earlier report is not computed again.
        card: the model card; by default `README.md` in the model's folder, unless the user has written one.
        views: clips in time and crops of each, whose scores are averaged.
        groups: a regular expression that finds in a file's path who or where it was filmed; by default what
            `splits.csv` says, or else the names of the files.
        batch_size, num_workers: as of [`predict_files`].
        watch: shows how far it is.

    Raises:
        ReportError: see [`choose_videos`] and [`measure`]; or a file cannot be written.
    """
    check_model(model, loaded)
    # what lies beside an exported graph is part of what it is known by
    in_folder = Path(model).is_dir() and not Path(model, MODEL_INFO).exists()
    if out is None and not in_folder:
        raise ReportError(f"{model}: it is no folder of a checkpoint, to write a page into. Name one with `--out`.")
    page = Path(model, PAGE) if out is None else out
    numbers = page.with_suffix(".json") if numbers is None else numbers
    if card is not None and not may_be_replaced(card):
        raise ReportError(f"{card}: somebody wrote this card. Choose another file, or remove it.")
    if len({path.absolute() for path in (page, numbers, card) if path is not None}) < (2 if card is None else 3):
        raise ReportError(f"{page}: page, JSON and card need a file each.")
    for path in filter(None, (page, numbers, card)):
        check_writable(path)
    labels = list_labels(loaded.model.config)
    selection = choose_videos(model, folder, labels, takes_several(loaded))
    selection = selection.with_groups(groups) if groups is not None else name_groups(selection)
    measurement = measure(
        model,
        loaded,
        str(folder),
        selection,
        views=views,
        batch_size=batch_size,
        num_workers=num_workers,
        kept=numbers,
        watch=watch,
    )
    write_json(numbers, measurement.to_dict())
    mistakes, uncertain = choose_clips(measurement)
    strips: Iterable[Any] = draw_strips(loaded, [*mistakes, *uncertain])
    drawn = list(strips if watch is None else watch(strips, len(mistakes) + len(uncertain)))
    # names that are no UTF-8
    write_text(page, render_page(measurement, drawn[: len(mistakes)], drawn[len(mistakes) :]), "backslashreplace")
    kept_card = None
    if card is None and in_folder:
        card = Path(model, CARD)
        if not may_be_replaced(card):
            card, kept_card = None, card
    if card is not None and not write_card(measurement, loaded, card):
        card = None
    return WrittenReport(measurement, page, numbers, card, kept_card)


def name_groups(selection: Selection) -> Selection:
    """With the groups that the names of the files tell, where nothing else does."""
    if any(video.group is not None for video in selection.videos):
        return selection
    classes = [hash(video.labels) for video in selection.videos]
    found = find_groups([video.file for video in selection.videos], classes)
    if found is None:
        return selection
    return replace(selection, videos=[replace(video, group=group) for video, group in zip(selection.videos, found)])


def check_writable(path: Path) -> None:
    """Raises a `ReportError` before work that would be lost."""
    if path.is_dir():
        raise ReportError(f"{path}: it is a folder; name a file.")
    trial = path.with_name(f"{path.name}.unfinished")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise ReportError(f"{path}: it cannot be written ({os.strerror(error.errno or 0)}).") from error


def describe_training(measurement: Measurement) -> str:
    """Sections of the model card, if it is known how the model was trained."""
    history = measurement.history
    if history.source is None:
        return ""
    local = Path(history.source).is_absolute() or Path(history.source).exists()
    source = Path(history.source).name if local else history.source
    numbers = ", ".join(f"{count} {split}" for split, count in history.videos.items())
    divided = f", divided {history.division}" if history.division else ""
    lines = ["## Training", "", f"From `{source}`. Videos: {numbers or 'not counted'}{divided}."]
    if history.classes:
        splits = list(history.classes)
        lines += ["", f"| class | {' | '.join(splits)} |", "|---" * (1 + len(splits)) + "|"]
        for name in measurement.labels:
            counts = (str(history.classes[split].get(name, 0)) for split in splits)
            lines.append(f"| {in_markdown(name)} | {' | '.join(counts)} |")
    for note in history.notes:
        lines += ["", note]
    return "\n".join(lines)


def in_markdown(text: str) -> str:
    """A text, such as the name of a class, that Markdown shows as it is, in a cell of a table too."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", printable(text))


def write_card(measurement: Measurement, loaded: LoadedModel, path: Path) -> bool:
    """Writes the card of a model that has one; whether it has."""
    if not isinstance(loaded.model, TubeViTPreTrainedModel):
        return False
    names = {place: last_part(place) for place in (measurement.data, measurement.model)}

    def without_paths(text: str) -> str:
        # what others need not know of this machine
        for place in sorted(names, key=len, reverse=True):
            text = text.replace(place, names[place])
        return text

    share = measurement.best_interval
    metrics = {"accuracy": share.value, "mean_class_accuracy": measurement.mean_recall}
    intervals = {"accuracy": (share.low, share.high)}
    if measurement.mean_average_precision is not None:
        value, low, high = measurement.mean_average_precision
        metrics["mean_average_precision"], intervals["mean_average_precision"] = value, (low, high)
    metrics["expected_calibration_error"] = measurement.calibration.error
    card = loaded.model.create_model_card(
        names[measurement.model],
        metrics=metrics,
        dataset=names[measurement.data],
        intervals=intervals,
        split=f"{share.of} videos, interval {measurement.interval_over}. {without_paths(measurement.how)}",
        # what stands between backticks is code there too
        limits=[printable(without_paths(limit)).replace("<", "\\<") for limit in measurement.limits],
        environment=measurement.environment,
        details=describe_training(measurement),
    )
    write_text(path, str(card), "backslashreplace")
    return True
