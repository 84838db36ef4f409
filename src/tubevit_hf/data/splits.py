# SPDX-License-Identifier: Apache-2.0
"""Training and validation videos from where they lie, as a [`datasets.DatasetDict`]."""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    LargeList,
    List,
    Value,
    Video,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

from ..model.video_sources_tubevit import hide_secrets, printable
from .annotations import (
    AnnotationError,
    VideoFiles,
    as_list,
    names_of,
    read_annotations,
    read_csv,
    read_json_lines,
    split_name,
)
from .facts import open_all, open_video, recall_opened
from .groups import match_groups
from .listing import SPLIT_NAMES, SPLITS, ClassFolder, FolderListing, fault_of_name, is_image, list_folder


logger = logging.get_logger(__name__)


def load_folder(folder: str | Path) -> DatasetDict:
    """Videos or images in class folders: `FOLDER/train/LABEL/*.mp4` and `FOLDER/validation/LABEL/*.mp4`.

    An image is a video of one frame, in the column `video` too. Files may lie deeper in a class folder. A warning says
    what is passed over.

    Raises:
        AnnotationError: a split or what should be in a class folder is missing.
    """
    return load_splits(list_folder(folder, SPLITS))


def load_splits(listing: FolderListing) -> DatasetDict:
    """The two splits of a folder that has them."""
    tell_left_out(listing)
    splits = DatasetDict()
    for split in SPLITS:
        splits[split] = load_classes([one for one in listing.classes if one.split == split], listing, split)
    return check_splits(splits, str(listing.folder))


def load_classes(classes: Sequence[ClassFolder], listing: FolderListing, split: str = "") -> Dataset:
    """The videos or images in folders of classes.

    Raises:
        AnnotationError: there are fewer than two classes, or one holds nothing.
    """
    if len(classes) < 2:
        where = listing.folder / split
        raise AnnotationError(f"{where}: it holds {len(classes)} folder(s) of classes; two are needed.")
    for one in classes:
        if not one.files:
            raise AnnotationError(
                f"{one.path}: it holds no {listing.kind}. Remove the folder if there is no such class."
            )
        if fault := fault_of_name(one.path):
            raise AnnotationError(f"{printable(str(one.path))}: {fault}.")
    files = [(label, str(path)) for label, one in enumerate(classes) for path in one.files]
    faults = {path: fault for _, path in files if (fault := fault_of_name(path))}
    report_unusable(split or str(listing.folder), list(faults.items()))
    kept = [(label, path) for label, path in files if path not in faults]
    names = ClassLabel(names=[one.label for one in classes])
    features = Features({"video": Value("string"), "label": names})
    columns = {"video": [path for _, path in kept], "label": [label for label, _ in kept]}
    return Dataset.from_dict(columns, features=features)


def tell_left_out(listing: FolderListing) -> None:
    """Warns of what is in no class, and of what was passed over."""
    if listing.kind == "images" and listing.videos:
        logger.warning(f"{listing.folder}: {len(listing.videos)} videos among images are left out.")
    for name, files in listing.others.items():
        logger.warning(f"{listing.folder}: {len(files)} {listing.kind} of {name}, which is no split, are left out.")
    if listing.loose:
        logger.warning(
            f"{listing.folder}: {len(listing.loose)} {listing.kind} in no folder of a class, such as "
            f"{listing.loose[0].name}, are left out."
        )
    listing.tell()


def load_by_name(name: str) -> DatasetDict:
    """A dataset of the Hub, or one that `save_to_disk` wrote, with a column of videos and one of labels.

    Raises:
        AnnotationError: a split or a column is missing.
    """
    splits = open_dataset(name)
    if not isinstance(splits, DatasetDict):
        raise AnnotationError(
            f"{name}: it is one dataset without splits; save a DatasetDict with {' and '.join(SPLITS)}."
        )
    return check_splits(splits, name)


def open_dataset(name: str) -> Dataset | DatasetDict:
    """A dataset of the Hub, or of a folder that [`is_dataset`]. Labels that are texts or numbers become classes.

    Raises:
        AnnotationError: it cannot be loaded.
    """
    with bars_for_people():
        if is_saved_dataset(name):
            return name_labels(load_from_disk(name))
        try:
            # videos in archives, which only Datasets opens, are not found
            return name_labels(read_tables(Path(name)) or load_dataset(name))
        except (DatasetGenerationError, pa.ArrowInvalid) as error:
            raise AnnotationError(f"{name}: Datasets cannot load it ({error.__cause__ or error}).") from error


@contextmanager
def bars_for_people() -> Generator[None, None, None]:
    """Bars of Datasets only where there is a terminal."""
    shown = are_progress_bars_disabled() or sys.stderr.isatty()
    if not shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            enable_progress_bars()


def is_dataset(folder: str | Path) -> bool:
    """Whether a folder is one that Datasets opens, not one of class folders: saved to disk, in Parquet files, or
    videos with a table `metadata` of their names and labels, as they lie on the Hub."""
    if is_saved_dataset(folder) or find_tables(folder):
        return True
    # such as features that somebody keeps beside videos
    tables = [path for path in Path(folder).rglob("*.parquet") if is_visible(path, folder)]
    return any(map(holds_rows_of_videos, tables)) or (bool(tables) and not list_folder(folder).videos)


def find_tables(folder: str | Path) -> dict[Path, str]:
    """Tables `metadata` in a folder or one of its folders that name files and their labels, and the column of the
    names; other tables may be notes about something else."""
    found: dict[Path, str] = {}
    for name in ("metadata.csv", "metadata.jsonl"):
        for table in sorted(path for depth in ("", "*/") for path in Path(folder).glob(f"{depth}{name}")):
            columns = read_columns(table)
            file = next((column for column in ("file_name", "video_file_name") if column in columns), None)
            if file is not None and "label" in columns and is_visible(table, folder):
                found[table] = file
    return found


def is_visible(path: Path, folder: str | Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_columns(table: Path) -> list[str]:
    with suppress(OSError, ValueError, csv.Error):
        with open(table, encoding="utf-8-sig", errors="replace") as file:
            line = file.readline()
        if table.suffix == ".csv":
            return names_of(line, ",")
        entry = json.loads(line)
        return list(entry) if isinstance(entry, dict) else []
    return []


def read_tables(folder: Path) -> DatasetDict | None:
    """The videos that tables `metadata` name, in the splits that their folders are called like; `None` if there are no
    tables, or none of the videos."""
    columns: dict[str, dict[str, list[Any]]] = {}
    found: set[Path] = set()
    for table, name in find_tables(folder).items() if folder.is_dir() else ():
        entries = list((read_csv if table.suffix == ".csv" else read_json_lines)(str(table), (name, "label")))
        files = VideoFiles(table.parent, [str(row[name]) for _, row in entries])
        places = find_splits(table.parent.name, [str(row[name]) for _, row in entries])
        for (place, row), split in zip(entries, places):
            rows = columns.setdefault(split, defaultdict(list))
            video, label = str(row[name]), row["label"]
            path = files.find(place, video)
            if path is not None:
                found.add(path)
                files.claim(path, place, video, map(str, as_list(label)))
            # one that is missing is passed over as those that cannot be opened
            rows["video"].append(str(path or table.parent / video))
            rows["label"].append(label.strip() or None if isinstance(label, str) else label)
            rows["group"].append(str(row.get("group") or ""))
    if not found:
        return None
    if unnamed := len(set(list_folder(folder).videos) - found):
        logger.warning(f"{folder}: {unnamed} video(s) that no table metadata names are left out.")
    for rows in columns.values():
        if not all(rows["group"]):
            del rows["group"]
    if is_numbered([label for rows in columns.values() for label in rows["label"]]):
        for rows in columns.values():
            rows["label"] = list(map(int, rows["label"]))
    splits = DatasetDict()
    for split, rows in columns.items():
        splits[split] = Dataset.from_dict(rows)
    return splits


def find_splits(folder: str, names: Sequence[str]) -> list[str]:
    """The split of each video that a table names: as the table's folder is called or, if all of them lie in folders
    that are called like splits, these; else train."""
    if (split := SPLIT_NAMES.get(folder.casefold())) is not None:
        return [split] * len(names)
    splits = [SPLIT_NAMES.get(split_name(name)[0].casefold()) if split_name(name)[1:] else None for name in names]
    found = [split for split in splits if split is not None]
    return found if len(found) == len(names) else ["train"] * len(names)


def is_numbered(labels: Sequence[Any]) -> bool:
    """Whether texts are the numbers of classes, and not names such as `007`."""
    return all(isinstance(label, str) and label.isdecimal() and str(int(label)) == label for label in labels)


def holds_rows_of_videos(table: Path) -> bool:
    try:
        return "video" in pq.read_schema(table).names
    except (pa.ArrowException, OSError):
        return False


def is_saved_dataset(name: str | Path) -> bool:
    """Whether `save_to_disk` wrote a folder; other programs write a `state.json` too."""
    splits = read_object(Path(name, "dataset_dict.json")).get("splits")
    folders = [Path(name, str(split)) for split in splits] if isinstance(splits, list) else [Path(name)]
    return any(
        isinstance(read_object(folder / "state.json").get("_data_files"), list)
        and (folder / "dataset_info.json").exists()
        for folder in folders
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no such file, or it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def name_labels(found: Dataset | DatasetDict) -> Dataset | DatasetDict:
    """With classes for labels that are texts or whole numbers, or lists of such: the same in all splits, in order."""
    parts = list(found.values()) if isinstance(found, DatasetDict) else [found]
    if not all("label" in part.features for part in parts):
        return found
    label = parts[0].features["label"]
    several = isinstance(label, (List, LargeList))
    kind = label.feature if several else label
    if not isinstance(kind, Value):
        return found
    values: set[Any] = set()
    for part in parts:
        for one in part["label"]:
            values.update((one or []) if several else [one])
    values.discard(None)
    if pa.types.is_integer(kind.pa_type):
        names = ClassLabel(names=[str(number) for number in range(max(values, default=0) + 1)])
    elif pa.types.is_string(kind.pa_type) or pa.types.is_large_string(kind.pa_type):
        names = ClassLabel(names=sorted(values))
    else:
        return found
    return found.cast_column("label", List(names) if several else names)


def load_annotated(format: str, train: str | Path, validation: str | Path, videos: str | Path) -> DatasetDict:
    """The annotation files of two splits, see `annotations`; the classes are those of training."""
    splits = DatasetDict()
    for split, source in zip(SPLITS, (train, validation)):
        names = get_names(splits["train"]) if splits else None
        splits[split], missing = read_annotations(format, source, videos, train=split == "train", names=names)
        report_unusable(split, [(video, "there is no such file") for video in missing])
    return check_splits(splits, str(train))


def check_splits(splits: DatasetDict, name: str) -> DatasetDict:
    """The two splits with the columns `video`, not decoded, and `label`, of the same classes."""
    for split in SPLITS:
        if split not in splits:
            raise AnnotationError(f"{name}: it has no split {split!r}, only {', '.join(map(str, splits))}.")
        for column in ("video", "label"):
            if column not in splits[split].features:
                has = ", ".join(splits[split].features)
                raise AnnotationError(f"{name}: its split {split!r} has no column {column!r}, only {has}.")
        splits[split] = not_decoded(splits[split])
    if len({is_multi_label(splits[split]) for split in SPLITS}) > 1:
        raise AnnotationError(f"{name}: the videos of one split have a label each, those of the other several.")
    check_names(name, *(get_names(splits[split]) for split in SPLITS))
    for split in SPLITS:
        check_labels(f"{name}, {split}", splits[split])
    return DatasetDict((split, splits[split]) for split in SPLITS)


def not_decoded(rows: Dataset) -> Dataset:
    """Rows whose videos are files, where Datasets would give TorchCodec's decoders, which need an FFmpeg of their
    own."""
    is_decoded = isinstance(rows.features["video"], Video) and rows.features["video"].decode
    return rows.cast_column("video", Video(decode=False)) if is_decoded else rows


def check_names(name: str, train: list[str], validation: list[str]) -> None:
    if train != validation:
        only = ", ".join(sorted(set(validation) ^ set(train))) or "none"
        raise AnnotationError(
            f"{name}: the splits have other classes, or in another order. Only one of the two has: {only}."
        )


def check_labels(name: str, rows: Dataset) -> None:
    """Every video has a label or a list of them, each one of the classes."""
    num_labels = len(get_names(rows))
    for index, labels in enumerate(rows["label"]):
        for label in labels if isinstance(labels, list) else [labels]:
            if label is None or not 0 <= label < num_labels:
                raise AnnotationError(
                    f"{name}: row {index} has the label {label}; allowed are 0 to {num_labels - 1}. Remove the row if "
                    "it has none."
                )


def get_names(rows: Dataset) -> list[str]:
    """The classes of a dataset, in order."""
    label = rows.features["label"]
    label = label.feature if is_multi_label(rows) else label
    if not isinstance(label, ClassLabel):
        raise AnnotationError(f"the column `label` must be a ClassLabel or a list of them, got {label}.")
    return label.names


def is_multi_label(rows: Dataset) -> bool:
    """Whether a video of the dataset may have several labels."""
    return isinstance(rows.features["label"], List)


def holds_images(rows: Dataset) -> bool:
    """Whether the videos of a dataset are images, each of one frame."""
    path = path_of(rows[0])
    return isinstance(path, str) and is_image(path)


def drop_unreadable(rows: Dataset, split: str) -> Dataset:
    """Passes over videos that cannot be opened and images that cannot be read, and reports them.

    Each of several processes looks at its share, and all pass over the same. Of most files only the header is read,
    and those that an earlier start opened are not opened again, see [`KnownFiles`].

    Raises:
        AnnotationError: nothing is left.
    """
    several = torch.distributed.is_initialized()
    rank, num_processes = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if several else (0, 1)
    faults = find_faults(rows, range(rank, len(rows), num_processes), f"Checking {split}", show=rank == 0)
    if several:
        parts: list[dict[int, str]] = [{}] * num_processes
        torch.distributed.all_gather_object(parts, faults)
        faults = {index: fault for part in parts for index, fault in part.items()}
    report_unusable(split, [(name_of(index, rows[index]), faults[index]) for index in sorted(faults)])
    if len(faults) == len(rows):
        raise AnnotationError(f"none of the {len(rows)} videos of {split} can be read.")
    # pyrefly: ignore[bad-return]  datasets' decorators say that it may be a DatasetDict
    return rows.select([index for index in range(len(rows)) if index not in faults]) if faults else rows


def find_faults(rows: Dataset, indices: Sequence[int], description: str, show: bool) -> dict[int, str]:
    """Why the videos of some rows cannot be used, by row; those that can are not among them."""
    paths: dict[int, str] = {}
    # what lies in the dataset itself has no path: it is read once, when it is opened
    if indices and isinstance(path_of(rows[indices[0]]), str):
        paths = {index: path for index in indices if isinstance(path := path_of(rows[index]), str)}
    known = recall_opened(list(paths.values()), description, show)
    opened = {index: known[path] for index, path in paths.items()}
    others = [index for index in indices if index not in paths]
    opened |= zip(others, open_all(others, lambda index: open_video(path_of(rows[index])), description, show))
    return {index: found.fault for index, found in opened.items() if found.fault is not None}


def name_of(index: int, row: dict[str, Any]) -> str:
    path = path_of(row)
    return f"row {index}" if isinstance(path, bytes) else path


def path_of(row: dict[str, Any]) -> str | bytes:
    """A row's video: its path, or the file itself where the dataset holds it."""
    video = row["video"]
    if isinstance(video, dict):
        return video["path"] if video["bytes"] is None else video["bytes"]
    return video


def read_groups(rows: Dataset, pattern: str) -> list[str]:
    """For each video what a regular expression finds in its file's name: its first group, or all of the match.

    Raises:
        AnnotationError: it is no regular expression, or a name does not match.
    """
    names = [Path(name_of(index, rows[index])).name for index in range(len(rows))]
    try:
        return match_groups(names, pattern, "the name of this video")
    except ValueError as error:
        raise AnnotationError(str(error)) from error


def report_unusable(split: str, faults: list[tuple[str, str]]) -> None:
    if faults:
        shown = "".join(f"\n  {printable(hide_secrets(video))}: {fault}" for video, fault in faults[:10])
        rest = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        logger.warning(f"{len(faults)} video(s) of {split} are passed over:{shown}{rest}")
