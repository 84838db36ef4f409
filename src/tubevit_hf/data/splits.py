# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Training and validation videos from where they lie, as a [`datasets.DatasetDict`]."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Image, List, Video, load_dataset, load_from_disk
from tqdm.auto import tqdm
from transformers.utils import logging

from ..video_decoding_tubevit import VideoDecodingError, VideoReader
from .annotations import AnnotationError, find_images, find_videos, is_image, read_annotations


logger = logging.get_logger(__name__)
SPLITS = ("train", "validation")


def load_folder(folder: str | Path) -> DatasetDict:
    """Videos or images in class folders: `FOLDER/train/LABEL/*.mp4` and `FOLDER/validation/LABEL/*.mp4`.

    An image is a video of one frame, in the column `video` too.

    Raises:
        AnnotationError: a split or what should be in a class folder is missing.
    """
    kind, names = None, {}
    for split in SPLITS:
        classes = sorted(path for path in Path(folder, split).glob("*") if path.is_dir())
        names[split] = [path.name for path in classes]
        if len(classes) < 2:
            raise AnnotationError(
                f"{Path(folder, split)}: it holds {len(classes)} folder(s) of classes; two are needed."
            )
        for path in classes:
            kind = kind or ("videofolder" if find_videos(path) else "imagefolder")
            if not (find_videos(path) if kind == "videofolder" else find_images(path)):
                what = kind.removesuffix("folder")
                raise AnnotationError(f"{path}: it holds no {what}s. Remove the folder if there is no such class.")
    check_names(str(folder), *names.values())
    splits = load_dataset(kind, data_dir=str(folder))
    if kind == "imagefolder":
        splits = splits.cast_column("image", Image(decode=False)).rename_column("image", "video")
    return check_splits(splits, str(folder))


def load_by_name(name: str) -> DatasetDict:
    """A dataset of the Hub, or one that `save_to_disk` wrote, with a column of videos and one of labels.

    Raises:
        AnnotationError: a split or a column is missing.
    """
    return check_splits(load_from_disk(name) if Path(name, "dataset_dict.json").exists() else load_dataset(name), name)


def load_annotated(format: str, train: str | Path, validation: str | Path, videos: str | Path) -> DatasetDict:
    """The annotation files of two splits, see `annotations`; the classes are those of training."""
    splits = {}
    for split, source in zip(SPLITS, (train, validation)):
        names = get_names(splits["train"]) if splits else None
        splits[split], missing = read_annotations(format, source, videos, train=split == "train", names=names)
        report_unusable(split, [(video, "there is no such file") for video in missing])
    return check_splits(DatasetDict(splits), str(train))


def check_splits(splits: DatasetDict, name: str) -> DatasetDict:
    """The two splits with the columns `video`, not decoded, and `label`, of the same classes."""
    for split in SPLITS:
        if split not in splits:
            raise AnnotationError(f"{name}: it has no split {split!r}, only {', '.join(splits)}.")
        for column in ("video", "label"):
            if column not in splits[split].features:
                has = ", ".join(splits[split].features)
                raise AnnotationError(f"{name}: its split {split!r} has no column {column!r}, only {has}.")
        if isinstance(splits[split].features["video"], Video):
            splits[split] = splits[split].cast_column("video", Video(decode=False))
    check_names(name, *(get_names(splits[split]) for split in SPLITS))
    return DatasetDict({split: splits[split] for split in SPLITS})


def check_names(name: str, train: list[str], validation: list[str]) -> None:
    if train != validation:
        only = ", ".join(sorted(set(validation) ^ set(train))) or "none"
        raise AnnotationError(
            f"{name}: the splits have other classes, or in another order. Only one of the two has: {only}."
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
    return isinstance(rows[0]["video"], dict) and is_image(rows[0]["video"]["path"])


def drop_unreadable(rows: Dataset, split: str) -> Dataset:
    """Passes over videos that cannot be opened, and reports them. Only their headers are read."""

    def find_fault(row: dict) -> str | None:
        try:
            with VideoReader(path_of(row)):
                return None
        except VideoDecodingError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        faults = list(
            tqdm(pool.map(find_fault, rows), total=len(rows), desc=f"Checking {split}", unit="video", disable=None)
        )
    report_unusable(split, [(str(path_of(row)), fault) for row, fault in zip(rows, faults) if fault])
    usable = [index for index, fault in enumerate(faults) if fault is None]
    if not usable:
        raise AnnotationError(f"none of the {len(rows)} videos of {split} can be read.")
    return rows.select(usable) if len(usable) < len(rows) else rows


def path_of(row: dict) -> str | bytes:
    """A row's video: its path, or the file itself where the dataset holds it."""
    video = row["video"]
    if isinstance(video, dict):
        return video["path"] if video["bytes"] is None else video["bytes"]
    return video


def report_unusable(split: str, faults: list[tuple[str, str]]) -> None:
    if faults:
        shown = "".join(f"\n  {video}: {fault}" for video, fault in faults[:10])
        rest = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        logger.warning(f"{len(faults)} video(s) of {split} are passed over:{shown}{rest}")
