# SPDX-License-Identifier: Apache-2.0
"""Annotation files of the usual video datasets, as their authors distribute them.

| format | annotations | classes | videos, anywhere under their folder |
|---|---|---|---|
| `kinetics` (400 to 700) | `train.csv`: label, youtube_id, time_start, time_end | sorted | `ID_START_END.*` |
| `ucf101` | `trainlist01.txt`, `testlist01.txt` | `classInd.txt` beside it | by name |
| `hmdb51` | `*_test_split1.txt`, a pattern for one file a class | the files' names | by name |
| `ssv2` | `something-something-v2-train.json` or `train.json` | `...labels.json` beside it | `ID.*` |
| `charades` | `Charades_v1_train.csv` | `Charades_v1_classes.txt` beside it | `ID.*` |
| `list` | `.csv`, `.json` or `.jsonl` with the columns video and label | sorted | by relative path |
| `numbered` | `PATH NUMBER`, as MMAction2, SlowFast and VideoMAE have it | `label_map*.txt` | by relative path |

Every reader gives a [`datasets.Dataset`] with the columns `video`, a path, and `label`, a `ClassLabel` or, where
videos have several, a list of them.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import PIL.Image
from datasets import ClassLabel, Dataset, Features, List, Value

from ..model.video_decoding_tubevit import VIDEO_SUFFIXES


LabelT = TypeVar("LabelT")


class AnnotationError(ValueError):
    """Annotations cannot be read; the message names the file and, where there is one, the line."""


@dataclass
class Annotations:
    """What a file of annotations says.

    Args:
        source: the file, or a pattern of several.
        rows: for each video where it stands (`"file, line 3"`), its name, and its label or labels.
        names: the classes in order, if the dataset has a list of them.
        by_path: whether a video's folder is part of its name; otherwise the file may lie in any.
    """

    source: str
    rows: Sequence[tuple[str, str, str | list[str]]] = field(default_factory=list)
    names: list[str] | None = None
    by_path: bool = False


def read_annotations(
    format: str, annotations: str | Path, videos: str | Path, train: bool = True, names: Sequence[str] | None = None
) -> tuple[Dataset, list[str]]:
    """Reads one split of a dataset.

    Args:
        format: a key of `FORMATS`.
        annotations: the file (for HMDB51 a pattern of files).
        videos: folder that holds the videos, at any depth.
        train: which of the two splits, where a file holds both (HMDB51).
        names: classes in order; by default those of the dataset.

    Returns:
        The dataset, without the videos whose file is missing, and the names of these.

    Raises:
        AnnotationError: the annotations cannot be read, name a class that is not in `names`, or no video is there.
    """
    if format not in FORMATS:
        raise AnnotationError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}.")
    found = FORMATS[format](str(annotations), train)
    if not found.rows:
        raise AnnotationError(f"{annotations}: it names no videos.")
    several = isinstance(found.rows[0][2], list)
    for place, video, labels in found.rows:
        check_row(place, video, labels, several)
    if names is None:
        names = found.names or sorted({label for *_, labels in found.rows for label in as_list(labels)})
    class_label, known = ClassLabel(names=list(names)), set(names)
    files = VideoFiles(videos)
    paths: list[str] = []
    numbers: list[int | Iterable[int]] = []
    missing: list[str] = []
    for place, video, labels in found.rows:
        path = files.find(place, video, found.by_path)
        if path is None:
            missing.append(video)
            continue
        for label in as_list(labels):
            if label not in known:
                raise AnnotationError(f"{place}: the class {label!r} is none of the {len(names)} known ones.")
        paths.append(path)
        numbers.append(class_label.str2int(labels))
    if not paths:
        raise AnnotationError(
            f"{annotations}: none of its {len(missing)} videos lies under {videos}; looked for {missing[0]} first."
        )
    features = Features({"video": Value("string"), "label": List(class_label) if several else class_label})
    return Dataset.from_dict({"video": paths, "label": numbers}, features=features), missing


def check_row(place: str, video: object, labels: object, several: bool) -> None:
    if not isinstance(video, str) or not video:
        raise AnnotationError(f"{place}: the video must be a name or a path, got {video!r}.")
    if isinstance(labels, list) != several:
        raise AnnotationError(f"{place}: either all videos have one label or all a list of them, got {labels!r}.")
    for label in as_list(labels):
        if not isinstance(label, str) or not label.strip():
            raise AnnotationError(f"{place}: a label must be a text that is not empty, got {label!r}.")


class VideoFiles:
    """The videos under a folder, at any depth."""

    def __init__(self, folder: str | Path):
        self.folder = folder
        self.by_name = defaultdict(list)
        for path in find_videos(folder):
            self.by_name[path.stem].append(path)

    def find(self, place: str, video: str, by_path: bool) -> str | None:
        """The file of a video that annotations name by a path or a bare name, with or without suffix.

        Raises:
            AnnotationError: there are several.
        """
        # an absolute path stays as it is
        path = Path(self.folder, video)
        if path.is_file():
            return str(path)
        name = PurePosixPath(video)
        found = self.by_name[name.stem] or self.by_name[name.name]
        in_folder = [path for path in found if path.parent.parts[-len(name.parts) + 1 :] == name.parent.parts]
        if name.parent.parts and (in_folder or by_path):
            found = in_folder
        # of files that differ in their suffix, the one that is named
        found = [path for path in found if path.name == name.name] or found
        if len(found) > 1:
            raise AnnotationError(f"{place}: {video} could be {found[0]} or {found[1]}; name it by its path.")
        return str(found[0]) if found else None


def find_videos(folder: str | Path) -> list[Path]:
    """All videos in a folder and the folders in it, sorted."""
    return find_files(folder, lambda name: Path(name).suffix.lower() in VIDEO_SUFFIXES)


def find_images(folder: str | Path) -> list[Path]:
    """All images that Pillow knows in a folder and the folders in it, sorted."""
    return find_files(folder, is_image)


def find_files(folder: str | Path, accept: Callable[[str], bool]) -> list[Path]:
    # datasets are often put together of links
    walk = os.walk(folder, followlinks=True)
    return sorted(Path(parent, name) for parent, _, names in walk for name in names if accept(name))


def is_image(path: str | Path) -> bool:
    """Whether Pillow knows files of this name as images, and FFmpeg not as videos."""
    suffix = Path(path).suffix.lower()
    return suffix in PIL.Image.registered_extensions() and suffix not in VIDEO_SUFFIXES


def as_list(labels: LabelT | list[LabelT]) -> list[LabelT]:
    return labels if isinstance(labels, list) else [labels]


def read_kinetics(source: str, train: bool) -> Annotations:
    rows = []
    for place, row in read_csv(source, ("label", "youtube_id", "time_start", "time_end")):
        try:
            start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
        except ValueError as error:
            raise AnnotationError(f"{place}: time_start and time_end must be seconds, got {row}.") from error
        rows.append((place, f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"]))
    return Annotations(source, rows)


def read_ucf101(source: str, train: bool) -> Annotations:
    rows = []
    # training lists add the number of the class: "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
    for place, line in read_lines(source):
        video = line.split()[0]
        if "/" not in video:
            raise AnnotationError(f"{place}: expected CLASS/VIDEO, got {line!r}.")
        rows.append((place, video, video.split("/")[0]))
    names = [line.split()[-1] for _, line in read_lines(str(Path(source).with_name("classInd.txt")))]
    return Annotations(source, rows, names)


def read_hmdb51(source: str, train: bool) -> Annotations:
    files = sorted(glob(source))
    if not files:
        raise AnnotationError(f"{source}: there is no such file; give a pattern such as FOLDER/*_test_split1.txt.")
    wanted = "1" if train else "2"  # 0: of neither
    rows: list[tuple[str, str, str]] = []
    names: list[str] = []
    for file in files:
        name = Path(file).name.partition("_test_split")[0]
        if name in names:
            raise AnnotationError(f"{source}: the pattern takes in several splits; name one, as *_test_split1.txt.")
        names.append(name)
        for place, line in read_lines(file):
            video, _, part = line.rpartition(" ")
            if part not in ("0", "1", "2"):
                raise AnnotationError(f"{place}: expected VIDEO and 0, 1 or 2, got {line!r}.")
            if part == wanted:
                rows.append((place, f"{name}/{video.strip()}", name))
    return Annotations(source, rows, names)


def read_something_something(source: str, train: bool) -> Annotations:
    # the file's name in the first distribution, and in today's
    first, now = (Path(source).with_name(name) for name in ("something-something-v2-labels.json", "labels.json"))
    labels_file = str(now if now.exists() and not first.exists() else first)
    labels = read_json(labels_file)
    if not isinstance(labels, dict) or not all(str(number).isdigit() for number in labels.values()):
        raise AnnotationError(f"{labels_file}: expected an object of classes with their numbers.")
    rows = []
    for place, row in read_entries(source, ("id", "template")):
        rows.append((place, str(row["id"]), str(row["template"]).replace("[", "").replace("]", "")))
    return Annotations(source, rows, sorted(labels, key=lambda label: int(labels[label])))


def read_charades(source: str, train: bool) -> Annotations:
    codes = {}
    for place, line in read_lines(str(Path(source).with_name("Charades_v1_classes.txt"))):
        code, _, name = line.partition(" ")
        if not name:
            raise AnnotationError(f"{place}: expected a code and a class, got {line!r}.")
        codes[code] = name
    rows = []
    for place, row in read_csv(source, ("id", "actions")):
        # "c092 11.90 21.20;c147 0.00 12.60": class, start and end in seconds
        labels = sorted({action.split()[0] for action in row["actions"].split(";") if action.strip()})
        for label in labels:
            if label not in codes:
                raise AnnotationError(f"{place}: there is no class {label!r} in Charades_v1_classes.txt.")
        rows.append((place, row["id"], [codes[label] for label in labels]))
    return Annotations(source, rows, list(codes.values()))


def read_list(source: str, train: bool) -> Annotations:
    columns = ("video", "label")
    if Path(source).suffix == ".csv":
        entries = read_csv(source, columns)
    elif Path(source).suffix == ".jsonl":
        entries = check_entries(((place, parse_json(place, line)) for place, line in read_lines(source)), columns)
    else:
        entries = read_entries(source, columns)
    return Annotations(source, [(place, row["video"], row["label"]) for place, row in entries], by_path=True)


def read_numbered(source: str, train: bool) -> Annotations:
    found = []
    for place, line in read_lines(source):
        match = re.fullmatch(r"(.+?)((?:[\s,]+\d+)+)", line)
        if match is None:
            raise AnnotationError(f"{place}: expected PATH NUMBER, got {line!r}.")
        video, numbers = match[1], [int(number) for number in re.findall(r"\d+", match[2])]
        if len(numbers) > 1 and Path(video).suffix.lower() not in VIDEO_SUFFIXES:
            raise AnnotationError(
                f"{place}: {line!r} seems to name a folder of frames and how many there are. Name video files, PATH "
                "NUMBER: frames that were written out are not read here."
            )
        found.append((place, video, numbers))
    names = read_label_map(source, 1 + max((max(numbers) for *_, numbers in found), default=0))
    # in a file of several labels a video, some may have one
    several = any(len(numbers) > 1 for *_, numbers in found)
    rows: list[tuple[str, str, str | list[str]]] = [
        (place, video, [names[number] for number in numbers] if several else names[numbers[0]])
        for place, video, numbers in found
    ]
    return Annotations(source, rows, names, by_path=True)


def read_label_map(source: str, least: int) -> list[str]:
    """The classes that stand line by line in `label_map*.txt` beside a list; without one, numbers from 0."""
    files = sorted(glob(str(Path(escape(str(Path(source).parent)), "label_map*.txt"))))
    if len(files) > 1:
        raise AnnotationError(
            f"{source}: there are several label maps beside it, {files[0]} and {files[1]}; leave one."
        )
    if not files:
        return [str(number) for number in range(least)]
    names = [line for _, line in read_lines(files[0])]
    if len(names) < least:
        raise AnnotationError(f"{source}: it has the class {least - 1}, and {files[0]} names {len(names)}, from 0 on.")
    return names


def read_text(source: str) -> str:
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{source}: it cannot be read ({error}).") from error


def read_lines(source: str) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not empty."""
    for number, line in enumerate(read_text(source).splitlines(), start=1):
        if line.strip():
            yield f"{source}, line {number}", line.strip()


def read_csv(source: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and columns of each row."""
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            check_columns(source, rows.fieldnames or (), columns)
            for row in rows:
                place = f"{source}, line {rows.line_num}"
                if any(row[column] is None for column in columns):
                    raise AnnotationError(f"{place}: it has fewer columns than the header.")
                yield place, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{source}: it cannot be read ({error}).") from error


def read_json(source: str) -> dict[str, Any] | list[Any]:
    return parse_json(source, read_text(source))


def parse_json(place: str, text: str) -> dict[str, Any] | list[Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise AnnotationError(f"{place}: it is no JSON ({error}).") from error


def read_entries(source: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and entry of each object in a JSON list."""
    entries = read_json(source)
    if not isinstance(entries, list):
        raise AnnotationError(f"{source}: expected a list of objects with {', '.join(columns)}.")
    numbered = ((f"{source}, entry {number}", entry) for number, entry in enumerate(entries, start=1))
    return check_entries(numbered, columns)


def check_entries(
    entries: Iterable[tuple[str, object]], columns: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same places and entries, which must be objects with these columns."""
    for place, entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        check_columns(place, fields, columns)
        yield place, fields


def check_columns(place: str, found: Iterable[str], columns: Sequence[str]) -> None:
    lacking = [column for column in columns if column not in found]
    if lacking:
        raise AnnotationError(f"{place}: it lacks {', '.join(lacking)}; it has {', '.join(found) or 'nothing'}.")


# reader by name of the format
FORMATS: dict[str, Callable[[str, bool], Annotations]] = {
    "kinetics": read_kinetics,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "ssv2": read_something_something,
    "charades": read_charades,
    "list": read_list,
    "numbered": read_numbered,
}
