# SPDX-License-Identifier: Apache-2.0
"""Labelled videos as people have them: class folders, a table or a dataset, with splits and groups or without."""

import unicodedata
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from transformers.utils import logging

from ..model.video_sources_tubevit import hide_secrets
from ..model.video_sources_tubevit import name_of as name_of_source
from .annotations import AnnotationError, VideoFiles, read_csv
from .listing import SPLITS, describe_passed_over, fault_of_name, list_folder
from .splits import (
    check_labels,
    check_splits,
    get_names,
    is_dataset,
    is_multi_label,
    load_classes,
    load_splits,
    name_of,
    not_decoded,
    open_dataset,
    tell_left_out,
)


logger = logging.get_logger(__name__)
# between several labels of a video, in tables
LABEL_SEPARATOR = ";"


def load_labelled(source: str | Path, labels: str | Path | None = None) -> Dataset:
    """All videos of a folder or dataset, with what is known of each.

    Args:
        source: a folder with `LABEL/*.mp4`, or with `train/LABEL/*.mp4` and `validation/LABEL/*.mp4`; or a dataset by
            name or folder (Parquet files, a table `metadata.csv` of videos, one saved to disk), with the columns
            `video` and `label`, with or without these splits.
        labels: a CSV file with the columns `file`, relative to the folder, and `label`, and if there are any `group`
            and `split`. Several labels of a video are separated by `;` or have a row each.

    Returns:
        The columns `video`; `label`, a `ClassLabel` or a list of them; `file`, relative to the folder where it lies in
        one; and, where told, `split` and `group`.

    Raises:
        AnnotationError: there are no videos, fewer than two classes, classes that differ only in case, or what is told
            of videos is not understood or contradicts itself.
    """
    if labels is not None:
        rows = read_labels(labels, source)
    elif Path(source).is_dir() and not is_dataset(source):
        rows = load_class_folders(Path(source))
    else:
        rows = load_dataset_rows(str(source))
    check_classes(str(source if labels is None else labels), get_names(rows), is_multi_label(rows))
    files = name_files(rows, source)
    return rows.add_column("file", files)  # pyrefly: ignore[bad-return]  datasets' decorators


def load_class_folders(folder: Path) -> Dataset:
    listing = list_folder(folder)
    if listing.fault is not None:
        raise AnnotationError(listing.fault)
    if set(listing.splits) >= set(SPLITS):
        return join(load_splits(listing))
    if listing.splits and listing.others:
        raise AnnotationError(
            f"{folder}: beside the folder train it has {', '.join(listing.others)}, but not validation. Rename the "
            f"one whose videos are for validation, or give {folder / 'train'} to have it split."
        )
    if not listing.videos and not listing.images:
        raise AnnotationError(
            f"{folder}: it holds no videos. They belong into a folder for each class, LABEL/*.mp4."
            f"{describe_passed_over(listing.passed_over)}"
        )
    if not listing.classes:
        raise AnnotationError(
            f"{folder}: its videos lie in no folder of a class. Move them into LABEL/*.mp4, or name their classes in "
            "a CSV file by --labels."
        )
    tell_left_out(listing)
    return load_classes(listing.classes, listing)


def load_dataset_rows(name: str) -> Dataset:
    path = PurePath(name)
    is_name = len(path.parts) == 2 and not path.is_absolute() and path.parts[0] not in (".", "..")
    if not Path(name).is_dir() and not is_name:
        raise AnnotationError(f"{name}: there is no such folder.")
    found = open_dataset(name)
    if isinstance(found, DatasetDict):
        if set(found) >= set(SPLITS):
            return join(check_splits(found, name))
        if "train" not in found:
            raise AnnotationError(f"{name}: of its splits {', '.join(map(str, found))}, none is called train.")
        if other := [str(split) for split in found if split != "train"]:
            logger.warning(f"{name}: it has no split validation, so train is divided; {', '.join(other)} is not used.")
        found = found["train"]
    for column in ("video", "label"):
        if column not in found.features:
            raise AnnotationError(f"{name}: it has no column {column!r}, only {', '.join(found.features)}.")
    found = not_decoded(found)
    check_labels(name, found)
    return only_known(found)


def only_known(rows: Dataset) -> Dataset:
    # pyrefly: ignore[bad-return]  datasets' decorators say that it may be a DatasetDict
    return rows.select_columns([name for name in ("video", "label", "group") if name in rows.features])


def join(splits: DatasetDict) -> Dataset:
    """The two splits as one dataset, with a column that tells them apart."""
    parts: list[Dataset] = []
    for split in SPLITS:
        rows = only_known(splits[split])
        # pyrefly: ignore[bad-argument-type]  as above
        parts.append(rows.add_column("split", [split] * len(rows)))
    return concatenate_datasets(parts)


def read_labels(file: str | Path, folder: str | Path) -> Dataset:
    """Videos by a table of labels; those of the folder that are not in it are left out."""
    if not Path(folder).is_dir():
        raise AnnotationError(f"{folder}: there is no such folder.")
    table = list(read_csv(str(file), ("file", "label")))
    files = VideoFiles(folder, [row["file"] for _, row in table])
    found: dict[Path, dict[str, Any]] = {}
    missing: list[str] = []
    several = False
    for place, row in table:
        name = row["file"]
        labels = [label.strip() for label in row["label"].split(LABEL_SEPARATOR) if label.strip()]
        if not name.strip():
            raise AnnotationError(f"{place}: it names no file.")
        if not labels:
            raise AnnotationError(f"{place}: it names no label.")
        path = files.find(place, name)
        if path is None:
            missing.append(name)
            continue
        if fault := fault_of_name(path):
            raise AnnotationError(f"{place}: {name_of_source(path)}: {fault}.")
        # several rows of the same name mean several labels
        files.claim(path, place, name, labels, once=False)
        facts = {name: (row.get(name) or "").strip() for name in ("group", "split")}
        if facts["split"] not in ("", *SPLITS):
            raise AnnotationError(f"{place}: the split must be train or validation, got {facts['split']!r}.")
        video = found.setdefault(path, {"labels": [], **facts})
        for fact, value in facts.items():
            if video[fact] != value:
                raise AnnotationError(f"{place}: {name} has the {fact} {video[fact]!r} in an earlier row.")
        video["labels"] += [label for label in labels if label not in video["labels"]]
        several = several or len(video["labels"]) > 1
    if missing:
        shown = ", ".join(map(files.suggest, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise AnnotationError(
            f"{file}: {len(missing)} of its videos are not in {folder}: {shown}. Names are relative to that folder; "
            "remove the rows, or put the videos there."
        )
    if not found:
        raise AnnotationError(f"{file}: it names no videos.")
    if unnamed := len(set(files.videos) - set(found)):
        logger.warning(f"{unnamed} video(s) of {folder} are not in {file} and are left out.")
    names = ClassLabel(names=sorted({label for video in found.values() for label in video["labels"]}))
    numbers = [[names.names.index(label) for label in video["labels"]] for video in found.values()]
    columns: dict[str, Sequence[Any]] = {
        "video": list(map(str, found)),
        "label": numbers if several else [number for [number] in numbers],
    }
    features = {"video": Value("string"), "label": List(names) if several else names}
    for name in ("group", "split"):
        values = [video[name] for video in found.values()]
        if any(values):
            if not all(values):
                without = relative(next(str(path) for path, video in found.items() if not video[name]), folder)
                raise AnnotationError(f"{file}: either all videos have a {name} or none; {without} has none.")
            columns[name], features[name] = values, Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def check_classes(name: str, classes: Sequence[str], several: bool) -> None:
    """Two classes or more, that nobody would take for one another, nor for several where videos have several."""
    if len(classes) < 2:
        raise AnnotationError(f"{name}: it has {len(classes)} class(es), and two are needed.")
    alike: dict[str, str] = {}
    for label in classes:
        other = alike.setdefault(fold_name(label), label)
        if other != label:
            raise AnnotationError(
                f"{name}: the classes {other!r} and {label!r} differ only in case, blanks or the form of accents. "
                "Rename one, or put their videos together."
            )
        if several and LABEL_SEPARATOR in label:
            raise AnnotationError(
                f"{name}: the class {label!r} has a {LABEL_SEPARATOR!r}, which stands between the labels of a video "
                "in tables. Rename it."
            )


def fold_name(label: str) -> str:
    """The same for names that nobody would tell apart."""
    return unicodedata.normalize("NFC", label).strip().casefold()


def leave_out(rows: Dataset, paths: set[Path]) -> Dataset:
    """The videos without those at some paths."""
    unwanted = {path.resolve() for path in paths}

    def is_wanted(index: int) -> bool:
        return Path(name_of(index, rows[index])).resolve() not in unwanted

    # pyrefly: ignore[bad-return]  datasets' decorators say that it may be a DatasetDict
    return rows.select([index for index in range(len(rows)) if is_wanted(index)])


def name_files(rows: Dataset, folder: str | Path) -> list[str]:
    """What to call each video: its path in the folder, or the name that a dataset keeps beside the file itself, behind
    that of its class where several are called so."""
    videos = [rows[index]["video"] for index in range(len(rows))]
    paths = [video["path"] if isinstance(video, dict) else video for video in videos]
    if all(paths):
        names = [relative(path, folder) for path in paths]
        for found in (names, [f"{text}/{name}" for text, name in zip(texts_of(rows), names)]):
            if len(set(found)) == len(found):
                return found
    return [relative(name_of(index, {"video": video}), folder) for index, video in enumerate(videos)]


def relative(path: str, folder: str | Path) -> str:
    for place in (folder, Path(folder).absolute()):
        with suppress(ValueError):
            return PurePath(path).relative_to(place).as_posix()
    return hide_secrets(path)


def texts_of(rows: Dataset) -> list[str]:
    """The label of each video, several separated by `;`."""
    names = get_names(rows)
    if is_multi_label(rows):
        return [LABEL_SEPARATOR.join(names[label] for label in sorted(labels)) for labels in rows["label"]]
    return [names[label] for label in rows["label"]]


def split_text(text: str, classes: Collection[str]) -> list[str]:
    """The labels in a text of [`texts_of`]; the name of a class may have the separator in it."""
    return [text] if text in classes else [label for label in text.split(LABEL_SEPARATOR) if label]
