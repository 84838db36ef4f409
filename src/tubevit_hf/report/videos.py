# SPDX-License-Identifier: Apache-2.0
"""Which videos of a folder are measured: those that the model was not trained on, as far as anything tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..data.annotations import VideoFiles, read_csv
from ..data.dividing import COLUMNS, SPLITS_NAME
from ..data.groups import match_groups
from ..data.labelled import LABEL_SEPARATOR, split_text
from ..data.listing import SPLITS, ClassFolder, describe_passed_over, list_folder


class ReportError(ValueError):
    """A report cannot be made; the message tells why and what to do."""


@dataclass(frozen=True)
class LabelledVideo:
    """A video, what is right for it, and what it shares with others, such as who was filmed."""

    file: str
    labels: tuple[str, ...]
    group: str | None = None


@dataclass(frozen=True)
class Selection:
    """Videos to measure.

    Args:
        videos: in order.
        how: how they were chosen.
        warnings: why they may not be what they should.
    """

    videos: list[LabelledVideo]
    how: str
    warnings: list[str] = field(default_factory=list)

    def with_groups(self, pattern: str) -> "Selection":
        """With what a regular expression finds in the files' paths: its first group, or all of the match.

        Raises:
            ReportError: it is no regular expression, or a path does not match.
        """
        try:
            groups = match_groups([video.file for video in self.videos], pattern, "this path")
        except ValueError as error:
            raise ReportError(str(error)) from error
        return replace(self, videos=[replace(video, group=group) for video, group in zip(self.videos, groups)])


def choose_videos(model: str, folder: Path, labels: Sequence[str], several: bool = False) -> Selection:
    """The videos of a folder that the model was not trained on.

    What the model's own `splits.csv` says comes first; then folders `train` and `validation`; where nothing tells, all
    videos are taken, with a warning.

    Args:
        model: its folder, or a repo id.
        folder: with a folder for each class, or with `train` and `validation` that hold these.
        labels: the model's classes.
        several: whether a video may have several labels, which only `splits.csv` can tell.

    Raises:
        ReportError: there is no such folder, it holds no videos of the model's classes, or others as well, or only
            videos that were trained on.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder}: there is no such folder.")
    listed = Path(model, SPLITS_NAME)
    warnings: list[str] = []
    if listed.exists():
        selection = choose_listed(listed, folder, labels)
        if selection is not None:
            return selection
        warnings.append(
            f"{listed} names none of these videos, so all are measured. If they are copies of what the model was "
            "trained on, all numbers here are too good."
        )
    if several:
        raise ReportError(
            f"{model}: its videos may have several labels, which folders do not tell. Name them in {listed}, with the "
            f"columns {', '.join(COLUMNS)}, labels apart by {LABEL_SEPARATOR!r}."
        )
    listing = list_folder(folder)
    if listing.fault is not None:
        raise ReportError(listing.fault)
    if listing.kind == "images":
        raise ReportError(f"{folder}: its classes hold images, and only videos are measured.")
    if listing.others and SPLITS[1] not in listing.splits:
        raise ReportError(
            f"{folder}: beside the folder train it has {', '.join(listing.others)}, but not validation. Give the one "
            f"to measure, such as {folder / next(iter(listing.others))}."
        )
    root = folder.parent if folder.name == SPLITS[1] and (folder.parent / SPLITS[0]).is_dir() else folder
    if root != folder or SPLITS[1] in listing.splits:
        train, validation = (root / split for split in SPLITS)
        classes = [one for one in listing.classes if root != folder or one.split == SPLITS[1]]
        return Selection(
            label_videos(validation, classes, labels, listing.passed_over),
            f"All videos of {validation}. Those of {train}, beside it, are taken for what the model was trained on.",
            warnings,
        )
    if not warnings:
        warnings.append(
            f"Nothing tells which videos the model was trained on: there is no {listed}, and {folder} has no folders "
            f"{' and '.join(SPLITS)}. Were some of these among them, all numbers here are too good."
        )
    videos = label_videos(folder, listing.classes, labels, listing.passed_over)
    return Selection(videos, f"All videos of {folder}.", warnings)


def label_videos(
    folder: Path, classes: Sequence[ClassFolder], labels: Sequence[str], passed_over: Mapping[str, str]
) -> list[LabelledVideo]:
    """The videos of the class folders in a folder."""
    found = [one for one in classes if one.files]
    check_classes(str(folder), [one.label for one in found], labels)
    if not found:
        raise ReportError(
            f"{folder}: it holds no videos in folders of the model's classes; looked for {list_some(labels)}."
            f"{describe_passed_over(passed_over)}"
        )
    return [LabelledVideo(str(file), (one.label,)) for one in found for file in one.files]


def check_classes(place: str, found: Sequence[str], labels: Sequence[str]) -> None:
    """Raises a `ReportError` if some are none of the model's."""
    unknown = [name for name in found if name not in labels]
    if unknown:
        by_case = {label.lower(): label for label in labels}
        alike = [f"{name!r} (the model has {by_case[name.lower()]!r})" for name in unknown if name.lower() in by_case]
        hint = f" Only the case differs: {', '.join(alike)}." if alike else ""
        raise ReportError(
            f"{place}: the model does not know the classes {list_some(unknown)}; it knows {list_some(labels)}.{hint} "
            "Rename these, or leave them out."
        )


def choose_listed(listed: Path, folder: Path, labels: Sequence[str]) -> Selection | None:
    """The videos of a folder that `splits.csv` has in validation; `None` if it names none of them."""
    root = folder.resolve()
    files: dict[str, list[LabelledVideo]] = {}
    missing = 0
    listing = VideoFiles(folder)
    for _, row in read_csv(str(listed), COLUMNS):
        # a path is within the folder that was trained on, which this may be a part of, or as it was given
        places = [folder / row["file"], folder.parent / row["file"], Path(row["file"])]
        inside = [place for place in places if place.resolve().is_relative_to(root)]
        there = next((file for place in inside if (file := listing.at(place)) is not None), None)
        if there is None:
            missing += bool(inside) and row["split"] == SPLITS[1]
            continue
        names = tuple(split_text(row["label"], labels))
        files.setdefault(row["split"], []).append(LabelledVideo(str(there), names, row["group"] or None))
    if not files:
        return None
    videos = files.get(SPLITS[1], [])
    if not videos:
        raise ReportError(
            f"{folder}: by {listed} the model was trained on all videos of it that are named there. Measure it on "
            "videos that it has not seen."
        )
    check_classes(str(listed), sorted({name for video in videos for name in video.labels}), labels)
    known = {Path(video.file).resolve() for videos in files.values() for video in videos}
    others = sum(file.resolve() not in known for file in listing.videos)
    warnings = []
    if missing:
        warnings.append(f"{missing} validation videos that {listed} names are not there and were not measured.")
    if others:
        warnings.append(f"{others} videos of {folder} that {listed} does not name were not measured.")
    trained = len(files.get(SPLITS[0], []))
    return Selection(videos, f"The validation videos of {listed}; {trained} others were trained on.", warnings)


def list_some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
