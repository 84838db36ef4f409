# SPDX-License-Identifier: Apache-2.0
"""Is a folder of videos fit to train on? Broken and repeated files, what both splits share, and what tells classes
apart without being what happens in them."""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from .annotations import AnnotationError
from .facts import Looked, Opened, decode_signature, recall_looked, recall_opened
from .groups import find_groups
from .known_files import KnownFiles
from .labelled import fold_name
from .leaks import CLASS_GRAVE, CLASS_TELLING, GRAVE, TELLING, Leak, find_leaks
from .listing import SPLITS, FolderListing, describe_passed_over, fault_of_name, list_folder


Gravity = Literal["grave", "warning"]
# of frames that cannot be decoded, from which on a file is damaged
MAX_MISSING = 0.02
# grey of the brightest cell of a black video, span of one that shows nothing, change in one that stands still; coding
# adds a little to each
BLACK, ONE_COLOR, FROZEN = 32.0, 8.0, 8.0
# in less time, in seconds, things may stand still
MIN_SECONDS = 0.5
# longer side of a frame over the shorter one, and pixels of the shorter one
MAX_RATIO, MIN_SIDE = 3.0, 32
# correlations of signatures, and of what changes in them, from which on two files show the same: re-encoded ones are
# above, other clips of the same scene below the second, other clips of the same motion below the first
SAME, SAME_CHANGE = 0.985, 0.85
# grey that a cell of a signature differs by where nothing is to be seen
NOISE = 0.5
# videos of a class that have another rotation than most
MAX_TURNED = 0.25
# largest class over the smallest one
IMBALANCE = 5
# groups, or videos where no groups are known
MIN_GROUPS = 3
# what to do where a trait tells classes apart
EVEN_OUT = {
    "length": "cut clips of all classes to similar lengths",
    "shape": "cut frames of all classes to similar shapes",
    "rate": "convert all videos to one rate",
    "codec": "convert all videos in the same way",
}
# rows of signatures that are compared with all others at once
BLOCK = 1024


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or looks so.

    Args:
        kind: what it is, in a word, such as `"truncated"`.
        gravity: `"grave"` if training would fail or its accuracy mean something else, else `"warning"`.
        where: a file relative to the folder, a class, a group, or the folder itself.
        message: what was found.
        advice: what to do.
        leave_out: files, relative to the folder, that are better left out.
    """

    kind: str
    gravity: Gravity
    where: str
    message: str
    advice: str
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class InspectedVideo:
    """A video of a folder, and what is known of it.

    Args:
        name: relative to the folder, with slashes.
        split: empty where the folder has none.
        label: name of its class.
        opened, looked: what was found.
        group: whom or what it is of, if names tell, see [`find_groups`].
    """

    name: str
    split: str
    label: str
    opened: Opened
    looked: Looked
    group: str | None

    @property
    def fault(self) -> str | None:
        """Why there is nothing to see."""
        return self.opened.fault or self.looked.fault


@dataclass(frozen=True)
class ClassSummary:
    """The videos of a class that can be opened, in numbers.

    Args:
        label: its name.
        videos: how many there are, by split.
        groups: how many there are, if groups are known.
        seconds: shortest, median and longest.
        fps: frames a second, and how many videos have it.
        sizes: `WIDTHxHEIGHT` as shown, and how many videos have it.
        codecs: the same.
    """

    label: str
    videos: dict[str, int]
    groups: int | None
    seconds: tuple[float, float, float] | None
    fps: dict[str, int]
    sizes: dict[str, int]
    codecs: dict[str, int]


@dataclass
class FolderReport:
    """What was found in a folder of videos.

    Args:
        folder: its path.
        num_videos: of all splits and classes.
        num_groups: if names tell groups.
        findings: the grave ones first.
        classes: a summary of each.
        leaks: what traits alone tell about classes; `None` where that was not found out.
        passed_over: why a file or folder that looks like videos is not among them, by its path in the folder.
    """

    folder: str
    num_videos: int
    num_groups: int | None
    findings: list[Finding] = field(default_factory=list)
    classes: list[ClassSummary] = field(default_factory=list)
    leaks: list[Leak] | None = None
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def is_grave(self) -> bool:
        return any(finding.gravity == "grave" for finding in self.findings)

    @property
    def leave_out(self) -> dict[str, str]:
        """Why each file is better left out, by its path relative to the folder."""
        reasons: dict[str, str] = {}
        for finding in self.findings:
            for name in finding.leave_out:
                where = "" if finding.where == name else f"{finding.where}: "
                reasons.setdefault(name, f"{finding.kind}: {where}{finding.message}")
        return dict(sorted(reasons.items()))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "is_grave": self.is_grave, "leave_out": self.leave_out}


def inspect_videos(
    folder: str | Path, num_workers: int | None = None, store: KnownFiles | None = None
) -> FolderReport:
    """Opens and looks at all videos in class folders, and tells what is wrong with them.

    Args:
        folder: with `LABEL/*.mp4`, or `train/LABEL/*.mp4` and `validation/LABEL/*.mp4`; files may lie deeper.
        num_workers: processes that decode; 0 for none. By default one for each CPU, four at most.
        store: of what is known, so that no file is decoded twice; by default the user's.

    Raises:
        AnnotationError: the folder is missing, or has no videos in class folders.
    """
    folder = Path(folder)
    listing = list_classes(folder)
    places = [(one.split, one.label, one.files) for one in listing.classes]
    files = [(split, label, path) for split, label, paths in places for path in paths]
    if not files:
        raise AnnotationError(
            f"{folder}: it holds no videos in folders of classes, which are FOLDER/LABEL/*.mp4, or "
            "FOLDER/train/LABEL/*.mp4 and FOLDER/validation/LABEL/*.mp4."
            f"{describe_passed_over(listing.passed_over)}"
        )
    paths = [str(path) for *_, path in files]
    opened = recall_opened(paths, "Opening videos", store=store)
    # what cannot be opened has nothing to look at
    looked = recall_looked([path for path in paths if opened[path].fault is None], num_workers, store)
    labels = sorted({label for _, label, _ in places})
    groups = find_groups(paths, [labels.index(label) for _, label, _ in files])
    videos = [
        InspectedVideo(
            path.relative_to(folder).as_posix(),
            split,
            label,
            opened[str(path)],
            looked.get(str(path), Looked()),
            None if groups is None else groups[index],
        )
        for index, (split, label, path) in enumerate(files)
    ]
    usable = [video for video in videos if video.fault is None]
    broken = list(find_common(list(find_broken(usable)), usable))
    sound = without(usable, broken)
    repeated = list(find_repeated(sound))
    # a copy in another fold would tell the class of its like
    leaks = find_trait_leaks(without(sound, repeated))
    findings = [
        *(
            Finding("unreadable", "grave", video.name, video.fault, "mend it, or leave it out", (video.name,))
            for video in videos
            if video.fault is not None
        ),
        *(
            Finding("name", "warning", video.name, fault, "rename it, or training and features pass it over")
            for video in videos
            if (fault := fault_of_name(folder / video.name))
        ),
        *broken,
        *repeated,
        *find_odd_shapes(sound),
        *find_odd_rotations(sound),
        *find_shared_groups(videos),
        *find_odd_classes(places, videos),
        *find_left_out(listing),
        *describe_leaks(leaks or []),
    ]
    findings.sort(key=lambda finding: finding.gravity != "grave")
    num_groups = None if groups is None else len(set(groups))
    summaries = [summarize(label, [video for video in usable if video.label == label]) for label in labels]
    return FolderReport(str(folder), len(videos), num_groups, findings, summaries, leaks, listing.passed_over)


def without(videos: Sequence[InspectedVideo], findings: Sequence[Finding]) -> list[InspectedVideo]:
    """The videos that no finding names."""
    named = {finding.where for finding in findings}
    return [video for video in videos if video.name not in named]


def list_classes(folder: Path) -> FolderListing:
    """What lies in the folders of classes, the empty ones too, as training sees it."""
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: there is no such folder.")
    listing = list_folder(folder)
    if listing.fault is not None:
        raise AnnotationError(listing.fault)
    if listing.kind == "images":
        raise AnnotationError(f"{folder}: its classes hold images, which are not looked at; only videos are.")
    return listing


def find_broken(videos: Sequence[InspectedVideo]) -> Iterator[Finding]:
    """Of each video the worst that is wrong with what it shows."""
    for video in videos:
        opened, looked, name = video.opened, video.looked, (video.name,)
        again = "download or convert it again, or leave it out"
        if looked.missing_seconds:
            message = (
                f"the header promises {looked.missing_seconds:.1f} s more than the {opened.seconds or 0:.1f} s that "
                "are there"
            )
            yield Finding("truncated", "grave", video.name, message, again, name)
        elif looked.num_missing > MAX_MISSING * looked.num_frames:
            message = f"{looked.num_missing} of {looked.num_frames} frames cannot be decoded"
            yield Finding("damaged", "grave", video.name, message, again, name)
        elif looked.brightest < BLACK:
            yield Finding("black", "grave", video.name, "all frames are black", "leave it out", name)
        elif looked.brightest - looked.darkest < ONE_COLOR:
            message = "all frames are of one colour"
            yield Finding("black", "grave", video.name, message, "leave it out", name)
        elif opened.num_frames == 1:
            message = "it has one frame, and no motion"
            yield Finding("one frame", "warning", video.name, message, "leave it out", name)
        elif looked.change < FROZEN and (opened.seconds or MIN_SECONDS) >= MIN_SECONDS:
            message = f"nothing changes in its {opened.num_frames} frames"
            yield Finding("frozen", "warning", video.name, message, "leave it out, unless that is its class", name)


def find_common(findings: Sequence[Finding], videos: Sequence[InspectedVideo]) -> Iterator[Finding]:
    """The same findings, but one for a class that is like that: a class may be called `rest`."""
    label_of = {video.name: video.label for video in videos}
    sizes = Counter(label_of.values())
    counts = Counter((finding.kind, label_of[finding.where]) for finding in findings)
    told: set[tuple[str, str]] = set()
    for finding in findings:
        key = kind, label = finding.kind, label_of[finding.where]
        if finding.gravity == "grave" or counts[key] < MIN_GROUPS or 2 * counts[key] < sizes[label]:
            yield finding
        elif key not in told:
            told.add(key)
            message = f"{counts[key]} of {sizes[label]} videos are like {finding.where}: {finding.message}"
            yield Finding(kind, "warning", label, message, "see whether that is what the class means")


def find_repeated(videos: Sequence[InspectedVideo]) -> Iterator[Finding]:
    """Each video that repeats another. Of copies one of validation is kept, if there is any: it stays comparable."""
    for alike in group_alike(videos):
        kept = min(alike, key=lambda video: (video.split == "train", video.name))
        for video in alike:
            if video is kept:
                continue
            is_exact = video.looked.sha256 == kept.looked.sha256
            message = f"{'the same bytes' if is_exact else 'nearly the same frames'} as {kept.name}"
            if video.label != kept.label:
                advice = "decide which class it is of, or leave out both"
                names = (video.name, kept.name)
                yield Finding("same video in two classes", "grave", video.name, message, advice, names)
            elif video.split != kept.split:
                advice = "leave it out: what is trained on tells nothing in validation"
                yield Finding("same video in both splits", "grave", video.name, message, advice, (video.name,))
            else:
                kind = "duplicate" if is_exact else "near duplicate"
                yield Finding(kind, "warning", video.name, message, "leave one out", (video.name,))


def group_alike(videos: Sequence[InspectedVideo]) -> list[list[InspectedVideo]]:
    """Videos that show the same, several each; files of the same bytes among them."""
    if not videos:
        return []
    leaders = list(range(len(videos)))

    def lead(index: int) -> int:
        while leaders[index] != index:
            index = leaders[index]
        return index

    first_of: dict[str, int] = {}
    for index, video in enumerate(videos):
        leaders[index] = first_of.setdefault(video.looked.sha256, index)
    different = list(first_of.values())
    signatures = np.stack([decode_signature(videos[index].looked.signature) for index in different])
    for first, second in find_alike(signatures):
        ends = sorted((lead(different[first]), lead(different[second])))
        leaders[ends[1]] = ends[0]
    groups: dict[int, list[InspectedVideo]] = defaultdict(list)
    for index, video in enumerate(videos):
        groups[lead(index)].append(video)
    return [group for group in groups.values() if len(group) > 1]


def find_alike(signatures: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs whose frames and whose changes correlate: `(num_videos, times, 8, 8)`.

    Clips of a fixed camera share their background, clips of one motion what changes: only a copy shares both.
    """
    num_videos = len(signatures)
    frames = signatures.reshape(num_videos, signatures.shape[1], -1)
    whole = to_unit(frames.reshape(num_videos, -1))
    changes = to_unit((frames - frames.mean(1, keepdims=True)).reshape(num_videos, -1))
    starts = range(0, num_videos, BLOCK)
    for start in tqdm(starts, desc="Comparing videos", disable=None if len(starts) > 1 else True):
        block = slice(start, start + BLOCK)
        is_alike = (whole[block] @ whole[start:].T > SAME) & (changes[block] @ changes[start:].T > SAME_CHANGE)
        for first, second in np.argwhere(is_alike).tolist():
            if first < second:
                yield start + first, start + second


def to_unit(rows: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1, whose products are correlations; what hardly varies is shorter, like nothing."""
    rows = rows - rows.mean(1, keepdims=True)
    shortest = NOISE * rows.shape[1] ** 0.5
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), shortest)


def find_odd_shapes(videos: Sequence[InspectedVideo]) -> Iterator[Finding]:
    found: list[Finding] = []
    for video in videos:
        width, height = video.looked.width, video.looked.height
        if max(width, height) > MAX_RATIO * min(width, height):
            message = f"{width}x{height} pixels: a square crop loses most of it"
            found.append(Finding("extreme shape", "warning", video.name, message, "crop it, or leave it out"))
        elif min(width, height) < MIN_SIDE:
            message = f"{width}x{height} pixels are few"
            found.append(Finding("extreme shape", "warning", video.name, message, "leave it out if others are larger"))
    yield from find_common(found, videos)


def find_odd_rotations(videos: Sequence[InspectedVideo]) -> Iterator[Finding]:
    """Videos that their file turns in another way than most of their class."""
    of_class: dict[str, Counter[int]] = defaultdict(Counter)
    for video in videos:
        if video.looked.rotation is not None:
            of_class[video.label][video.looked.rotation] += 1
    for video in videos:
        counts, rotation = of_class[video.label], video.looked.rotation
        if rotation is None or counts[rotation] > MAX_TURNED * counts.total():
            continue
        usual = counts.most_common(1)[0][0]
        message = f"its metadata turns it by {rotation} degrees, most of its class by {usual}"
        advice = "see whether it stands upright; else mend its metadata"
        yield Finding("rotation", "warning", video.name, message, advice)


def find_shared_groups(videos: Sequence[InspectedVideo]) -> Iterator[Finding]:
    by_group: dict[str, dict[str, list[InspectedVideo]]] = defaultdict(lambda: defaultdict(list))
    for video in videos:
        if video.group is not None:
            by_group[video.group][video.split].append(video)
    for group, by_split in sorted(by_group.items()):
        if len(by_split) > 1:
            classes = [{video.label for video in by_split[split]} for split in SPLITS]
            counts = " and ".join(f"{len(by_split[split])} of {split}" for split in SPLITS)
            message = f"both splits have clips of it, {counts}, such as {by_split['validation'][0].name}"
            # some data sets number the groups of each class
            gravity = "grave" if classes[0] & classes[1] else "warning"
            message += "" if gravity == "grave" else ", of other classes"
            yield Finding("group in both splits", gravity, group, message, "move all its clips to one split")


def find_odd_classes(
    places: Sequence[tuple[str, str, list[Path]]], videos: Sequence[InspectedVideo]
) -> Iterator[Finding]:
    """Folders of classes that are empty, missing or called alike, and classes of very different size."""
    splits = list(dict.fromkeys(split for split, *_ in places))
    for split, label, paths in places:
        if not paths:
            where = f"{split}/{label}" if split else label
            yield Finding("empty class", "grave", where, "the folder holds no videos", "fill or remove the folder")
    labels = sorted({label for _, label, _ in places})
    there = {(split, label) for split, label, _ in places}
    for label in labels:
        lacking = [split for split in splits if (split, label) not in there]
        if lacking and label in {video.label for video in videos}:
            advice = "move some of its videos there, or remove it"
            yield Finding("class in one split", "grave", label, f"{lacking[0]} has no such class", advice)
    for _, alike in itertools.groupby(sorted(labels, key=fold_name), key=fold_name):
        names = list(alike)
        if len(names) > 1:
            message = "the names of these classes differ only in case, blanks or the form of accents"
            yield Finding("same name", "grave", ", ".join(names), message, "put their videos into one folder")
    counts = Counter(video.label for video in videos if video.fault is None)
    if len(labels) == 1:
        message = "there is one class only, so there is nothing to tell apart"
        yield Finding("one class", "grave", labels[0], message, "add a folder of videos of another class")
    if len(counts) > 1:
        (largest, most), (smallest, least) = counts.most_common(1)[0], counts.most_common()[-1]
        if most >= IMBALANCE * least:
            message = f"{least} videos, where {largest} has {most}"
            advice = "collect more, or train with --class_weights"
            yield Finding("imbalance", "warning", smallest, message, advice)
    for label in labels:
        groups = {video.group or video.name for video in videos if video.label == label}
        if 0 < len(groups) < MIN_GROUPS:
            what = "group(s)" if videos[0].group is not None else "video(s)"
            message = f"{len(groups)} {what}: too few to train on some and evaluate on others"
            yield Finding("too few groups", "warning", label, message, "collect clips of more people or scenes")


def find_left_out(listing: FolderListing) -> Iterator[Finding]:
    """Videos beside the folders of classes, and folders beside those of splits."""
    for name, files in listing.others.items():
        message = f"its {len(files)} videos are passed over: it is neither {' nor '.join(SPLITS)}"
        yield Finding("passed over", "warning", name, message, "rename it if it is one of them")
    by_parent: dict[Path, list[Path]] = defaultdict(list)
    for path in listing.loose:
        by_parent[path.parent].append(path)
    for parent, files in by_parent.items():
        where = parent.relative_to(listing.folder).as_posix()
        message = f"{len(files)} videos are in no folder of a class, such as {files[0].name}"
        yield Finding("passed over", "warning", where, message, "move each into the folder of its class")


def find_trait_leaks(videos: Sequence[InspectedVideo]) -> list[Leak] | None:
    """What length, shape, rate and codec tell about classes; `None` without scikit-learn."""
    if not videos:
        return []
    containers = [f"{video.opened.codec} in {os.path.splitext(video.name)[1].lower()}" for video in videos]
    kinds = sorted(set(containers))
    traits = {
        "length": [[video.opened.seconds or 0.0] for video in videos],
        "shape": [
            [video.looked.width, video.looked.height, video.looked.width / max(1, video.looked.height)]
            for video in videos
        ],
        "rate": [[round(video.opened.fps or 0.0, 2)] for video in videos],
        "codec": [[kinds.index(container)] for container in containers],
    }
    groups = None if videos[0].group is None else [video.group or "" for video in videos]
    numbers = {name: np.array(values) for name, values in traits.items()}
    try:
        return find_leaks(numbers, [video.label for video in videos], groups)
    except ModuleNotFoundError:
        return None


def describe_leaks(leaks: Sequence[Leak]) -> Iterator[Finding]:
    """A finding for each trait that tells all classes apart, or else for each class that it tells."""
    for leak in leaks:
        if leak.trait == "all":
            continue
        advice = f"{EVEN_OUT[leak.trait]}, or a model may learn that instead of what happens"
        if leak.told >= GRAVE:
            message = f"it alone tells classes with an accuracy of {leak.accuracy:.0%}; by chance {leak.chance:.0%}"
            yield Finding("leak", "grave", f"the {leak.trait}", message, advice)
            continue
        singled_out = {label: value for label, value in leak.by_class.items() if value >= CLASS_TELLING}
        for label, value in singled_out.items():
            message = f"its {leak.trait} alone tells it from all others with an accuracy of {value:.0%}; by chance 50%"
            yield Finding("leak", "grave" if value >= CLASS_GRAVE else "warning", label, message, advice)
        if not singled_out and leak.told >= TELLING:
            message = f"it alone tells classes with an accuracy of {leak.accuracy:.0%}; by chance {leak.chance:.0%}"
            yield Finding("leak", "warning", f"the {leak.trait}", message, advice)


def summarize(label: str, videos: Sequence[InspectedVideo]) -> ClassSummary:
    seconds = [video.opened.seconds for video in videos if video.opened.seconds is not None]
    return ClassSummary(
        label,
        dict(Counter(video.split for video in videos)),
        None if not videos or videos[0].group is None else len({video.group for video in videos}),
        (min(seconds), float(np.median(seconds)), max(seconds)) if seconds else None,
        count(f"{video.opened.fps:.4g}" for video in videos if video.opened.fps is not None),
        count(f"{video.looked.width}x{video.looked.height}" for video in videos),
        count(video.opened.codec for video in videos),
    )


def count(values: Iterator[str]) -> dict[str, int]:
    """The most frequent first."""
    return dict(Counter(values).most_common())
