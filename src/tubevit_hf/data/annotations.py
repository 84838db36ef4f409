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
import io
import json
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape, glob
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from datasets import ClassLabel, Dataset, Features, List, Value

from .listing import OTHER_VIDEO_SUFFIXES, VIDEO_SUFFIXES, kind_of, list_folder


LabelT = TypeVar("LabelT")
# a path from the root, of any system
ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


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
    files = VideoFiles(videos, [video for _, video, _ in found.rows])
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
        # a published list may have a clip in two classes; one's own has a mistake then
        files.claim(path, place, video, as_list(labels), once=found.by_path)
        paths.append(str(path))
        numbers.append(class_label.str2int(labels))
    if not paths:
        raise AnnotationError(
            f"{annotations}: none of its {len(missing)} videos lies under {videos}; looked for "
            f"{files.suggest(missing[0])} first."
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
    """The videos and images of a folder, to be found by the names that a table has for them.

    Args:
        folder: that holds them, at any depth.
        names: all names of the table; what its absolute paths have in common is where the folder was on the machine
            that it was written on.
    """

    def __init__(self, folder: str | Path, names: Iterable[str] = ()):
        self.folder = folder
        listing = list_folder(folder)
        self.videos = listing.videos
        self.files = [*listing.videos, *listing.images]
        self.own_depth = len(split_name(os.path.abspath(folder)))
        # the folders of absolute paths
        folders = [split_name(name)[:-1] for name in names if ABSOLUTE.match(name.strip())]
        self.root_depth = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders)))
        self.named: dict[Path, tuple[str, str, set[str]]] = {}

    def find(self, place: str, name: str, by_path: bool = True) -> Path | None:
        """The file that a name means: the one of exactly this path; or else the one whose path ends like it, whatever
        the slashes and the form of accents; or else, whatever the case. A name without the suffix of a video is that
        of the file without its suffix.

        Args:
            place: of the name in the table.
            name: path relative to the folder, absolute path here or on another machine, or bare name.
            by_path: whether all folders of the name must be those of the file; otherwise the file may lie in any.

        Raises:
            AnnotationError: it may be one of several.
        """
        exact = os.path.join(self.folder, name)
        if os.path.isfile(exact):
            return self.as_listed(Path(exact))
        parts = split_name(name)
        if not parts:
            return None
        is_absolute = ABSOLUTE.match(name.strip()) is not None
        least = (len(parts) - self.root_depth if is_absolute else len(parts)) if by_path else 1
        for by_name in (self.by_name, self.by_folded_name):
            wanted = parts if by_name is self.by_name else [part.casefold() for part in parts]
            found: dict[int, list[Path]] = defaultdict(list)
            for path, own in by_name.get(wanted[-1], {}).items():
                shared = count_shared(own, wanted)
                if shared >= least or (is_absolute and shared >= len(own) - self.own_depth):
                    found[shared].append(path)
            best = found[max(found, default=0)]
            if len(best) > 1:
                shown = " or ".join(map(str, best[:5])) + (" or others" if len(best) > 5 else "")
                raise AnnotationError(f"{place}: {name} could be {shown}; name it by its path, with its suffix.")
            if best:
                return best[0]
        return None

    def at(self, path: Path) -> Path | None:
        """The file at exactly this path, whatever the slashes and the form of accents."""
        if path.is_file():
            return path
        parts = split_name(os.path.abspath(path))
        return next((file for file, own in self.by_name.get(parts[-1], {}).items() if own == parts), None)

    @cached_property
    def by_name(self) -> dict[str, dict[Path, list[str]]]:
        """The files by each name that means them, with the parts of their path that end in it."""
        names: dict[str, dict[Path, list[str]]] = defaultdict(dict)
        for path in self.files:
            parts = split_name(os.path.abspath(path))
            names[parts[-1]][path] = parts
        stems: dict[str, dict[Path, list[str]]] = defaultdict(dict)
        # where a video has a picture beside it, the video is meant
        for path in self.videos or self.files:
            parts = split_name(os.path.abspath(path))
            stem = os.path.splitext(parts[-1])[0]
            if stem not in names and not kind_of(stem, VIDEO_SUFFIXES + OTHER_VIDEO_SUFFIXES):
                stems[stem][path] = [*parts[:-1], stem]
        return {**names, **stems}

    @cached_property
    def by_folded_name(self) -> dict[str, dict[Path, list[str]]]:
        """The same, whatever the case."""
        folded: dict[str, dict[Path, list[str]]] = defaultdict(dict)
        for name, files in self.by_name.items():
            folded[name.casefold()] |= {path: [part.casefold() for part in parts] for path, parts in files.items()}
        return folded

    def as_listed(self, path: Path) -> Path:
        """A file by the path that the folder's list has for it, if it has."""
        return path if path in self.listed else self.by_real_path.get(os.path.realpath(path), path)

    @cached_property
    def listed(self) -> set[Path]:
        return set(self.files)

    @cached_property
    def by_real_path(self) -> dict[str, Path]:
        return {os.path.realpath(path): path for path in self.files}

    def suggest(self, name: str) -> str:
        """A name that no file was found for, with one that may be meant."""
        stem = os.path.splitext(split_name(name)[-1])[0] if split_name(name) else ""
        alike = self.by_folded_name.get(stem.casefold(), {})
        return f"{name} (there is {next(iter(alike))})" if alike else name

    def claim(self, path: Path, place: str, name: str, labels: Iterable[str], once: bool = True) -> None:
        """Notes what a row says of a file.

        Args:
            path: of the file.
            place, name, labels: of the row.
            once: whether another row may not have other labels; else one that has the same name may.

        Raises:
            AnnotationError: a row before it has other labels for the file.
        """
        labels = set(labels)
        earlier, other, others = self.named.setdefault(path, (place, name, labels))
        if (once or other.strip() != name.strip()) and labels != others:
            raise AnnotationError(
                f"{place}: {name!r} means {path}, and so does {other!r} in {earlier}, with other labels: "
                f"{', '.join(sorted(labels))}, not {', '.join(sorted(others))}. Correct one of the two rows."
            )


def split_name(name: str) -> list[str]:
    """The parts of a path of any system, accents as one letter each."""
    path = unicodedata.normalize("NFC", name.strip().replace("\\", "/"))
    return [part for part in posixpath.normpath(path).split("/") if part not in ("", ".")]


def count_shared(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many parts two paths share at their end."""
    shared = 0
    for part, other in zip(reversed(parts), reversed(others)):
        if part != other:
            break
        shared += 1
    return shared


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
        entries = ((place, {**row, "label": row["label"].strip()}) for place, row in read_csv(source, columns))
    elif Path(source).suffix == ".jsonl":
        entries = read_json_lines(source, columns)
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
        if len(numbers) > 1 and not kind_of(video):
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
    """The text of a file, its ends of lines as they are."""
    try:
        return Path(source).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AnnotationError(f"{source}: it cannot be read ({error}).") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{source}: it cannot be read ({error}). Save it as UTF-8.") from error


def read_lines(source: str) -> Iterator[tuple[str, str]]:
    """Place and text of each line that is not empty."""
    for number, line in enumerate(io.StringIO(read_text(source), newline=None), start=1):
        if line.strip():
            yield f"{source}, line {number}", line.strip()


def read_csv(source: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and columns of each row; they are separated by commas, or by semicolons or tabs where the header is so.
    Empty rows are passed over, and comments, which begin with `#` and have fewer columns."""
    text = read_text(source)
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    split_by = {separator: names_of(first, separator) for separator in ",;\t"}
    separator = next((found for found, names in split_by.items() if set(columns) <= set(names)), ",")
    check_columns(source, split_by[separator], columns)
    if twice := [column for column in columns if split_by[separator].count(column) > 1]:
        raise AnnotationError(f"{source}: it has several columns {', '.join(twice)}. Leave one of each.")
    header: list[str] = []
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for row in rows:
            place = f"{source}, line {rows.line_num}"
            is_comment = row[:1] and row[0].startswith("#") and (not header or len(row) < len(header))
            if is_comment or not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [name.strip() for name in row]
                continue
            if any(header.index(column) >= len(row) for column in columns):
                raise AnnotationError(f"{place}: it has fewer columns than the header.")
            if any(cell.strip() for cell in row[len(header) :]):
                raise AnnotationError(
                    f"{place}: it has more columns than the header. A name with {separator!r} belongs in quotes."
                )
            yield place, dict(zip(header, row))
    except csv.Error as error:
        raise AnnotationError(f"{source}: it cannot be read ({error}).") from error


def names_of(header: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]


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


def read_json_lines(source: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and entry of each line, an object."""
    return check_entries(((place, parse_json(place, line)) for place, line in read_lines(source)), columns)


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
