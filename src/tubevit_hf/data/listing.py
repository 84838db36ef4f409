# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are its videos, which class each belongs to, and what was passed over.

Every command lists a folder by [`list_folder`], so that all see the same videos.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import av
import PIL.Image
from av.stream import Disposition
from transformers.utils import logging

from ..model.video_sources_tubevit import VideoDecodingError, VideoLimits, open_container, open_source


logger = logging.get_logger(__name__)
SPLITS = ("train", "validation")
# Files with these suffixes are the videos of a folder; a file that is named itself may have any
VIDEO_SUFFIXES = (
    *(".264", ".265", ".3g2", ".3gp", ".3gp2", ".3gpp", ".3gpp2", ".asf", ".avc", ".avi", ".dif", ".divx", ".dv"),
    *(".dvr-ms", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".insv", ".ismv", ".ivf", ".m1v", ".m2p", ".m2t"),
    *(".m2ts", ".m2v", ".m4v", ".mk3d", ".mkv", ".mov", ".mp2v", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mpv"),
    *(".mqv", ".mts", ".mxf", ".ogg", ".ogm", ".ogv", ".ogx", ".qt", ".tod", ".tp", ".trp", ".ts", ".vob", ".vro"),
    *(".webm", ".wm", ".wmv", ".xvid", ".y4m"),
)
# of formats that are open with `TUBEVIT_ANY_FORMAT=1` only
OTHER_VIDEO_SUFFIXES = (
    *(".amv", ".av1", ".bik", ".cavs", ".drc", ".gxf", ".mjpeg", ".mjpg", ".nsv", ".nut", ".obu", ".rm", ".rmvb"),
    *(".roq", ".smk", ".swf", ".wtv"),
)
# of containers that often hold sound alone
SOUND_SUFFIXES = (".3g2", ".3gp", ".3gp2", ".3gpp", ".3gpp2", ".asf", ".ogg", ".ogm", ".ogx", ".wm")
# what browsers and downloaders append to the name of a file that is not complete
UNFINISHED = re.compile(
    r"\.(aria2|bc!|crdownload|download|filepart|opdownload|part|partial|temp|tmp|unfinished|ytdl|!qb|!ut)([-.].*)?",
    re.IGNORECASE,
)
# folders of systems and storage devices, in lower case
SYSTEM_FOLDERS = {
    *("#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "__macosx", "lost+found"),
    "system volume information",
}
# how folders of splits are called, in lower case, and the split that Datasets takes each for
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "validation"),
    **dict.fromkeys(("eval", "evaluation", "test", "testing"), "test"),
}


@dataclass(frozen=True)
class ClassFolder:
    """A folder of a class.

    Args:
        split: empty where the folder has none.
        label: name of the class.
        path: of the folder.
        files: its videos or images, at any depth; there may be none.
    """

    split: str
    label: str
    path: Path
    files: list[Path]


@dataclass
class FolderListing:
    """What lies in a folder.

    Args:
        folder: its path.
        videos, images: at any depth, sorted.
        kind: which of the two the classes are of.
        splits: folders of splits that are there; none if the folder's own folders are classes.
        classes: the folders of classes.
        loose: files in no folder of a class.
        others: files in folders that are no split, by the folder's name.
        labels: the class of each file that lies in the folder of one, those of `others` too.
        passed_over: why a file or folder that looks like videos is not among them, by its path in the folder.
        fault: why nobody can tell classes from splits.
    """

    folder: Path
    videos: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    kind: Literal["videos", "images"] = "videos"
    splits: list[str] = field(default_factory=list)
    classes: list[ClassFolder] = field(default_factory=list)
    loose: list[Path] = field(default_factory=list)
    others: dict[str, list[Path]] = field(default_factory=dict)
    labels: dict[Path, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    fault: str | None = None

    def tell(self) -> None:
        """Warns of what was passed over."""
        if self.passed_over:
            logger.warning(f"{self.folder}:{describe_passed_over(self.passed_over)}")


def describe_passed_over(passed_over: Mapping[str, str]) -> str:
    """A sentence of how many files were passed over for each reason, with an example; empty if there are none."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in passed_over.items():
        by_reason[reason].append(name)
    told = "; ".join(f"{len(names)} {reason}, such as {names[0]}" for reason, names in by_reason.items())
    return f" Passed over: {told}." if told else ""


class Found(NamedTuple):
    """A file, by the parts of its path in the folder; where it really is, and whether a link leads there."""

    parts: tuple[str, ...]
    real: str
    is_linked: bool
    is_video: bool


def find_videos(folder: str | Path) -> list[Path]:
    """All videos in a folder and the folders in it, sorted."""
    return list_folder(folder).videos


def list_folder(folder: str | Path, splits: Sequence[str] | None = None) -> FolderListing:
    """Lists the videos and images in a folder and the folders in it.

    Hidden files and folders, those of systems, unfinished downloads, links that lead nowhere, to a folder above or to
    a file that is in the class already, and files with sound alone are passed over. The folder itself may be hidden.

    Args:
        folder: its path; of one that does not exist, nothing is listed.
        splits: folders of splits, which hold the classes; none if the folder's own folders are the classes. By default
            names tell: folders are splits if all that hold videos are called like splits and hold folders.
    """
    listing = FolderListing(Path(folder))
    skipped: dict[tuple[str, ...], tuple[str, bool]] = {}
    found: list[Found] = []
    folders: list[tuple[str, ...]] = []
    for one in walk(listing.folder, folders, skipped):
        if one.is_video and one.parts[-1].lower().endswith(SOUND_SUFFIXES) and has_no_picture(one.real):
            skipped[one.parts] = ("with sound only", True)
        else:
            found.append(one)
    found.sort(key=lambda one: one.parts)
    # beside splits of videos may lie a folder of pictures
    of_videos = any(one.is_video and one.parts[0].casefold() in SPLIT_NAMES for one in found if len(one.parts) > 2)
    tops = sorted(
        {
            one.parts[0]
            for one in found
            if len(one.parts) > 1 and (one.is_video or not of_videos or one.parts[0].casefold() in SPLIT_NAMES)
        }
    )
    if splits is None:
        splits, listing.fault = tell_splits(listing.folder, found, tops)
    listing.splits = list(splits)
    depth = 2 if splits else 1

    # what is linked twice within a class counts once, as the file itself if that is among them
    firsts: dict[tuple[tuple[str, ...], str], Found] = {}
    for one in sorted(found, key=lambda one: one.is_linked):
        first = firsts.setdefault((one.parts[:-1][:depth], one.real), one)
        if first is not one:
            skipped[one.parts] = ("linked to a file that is listed already", one.is_video)
    kept = [one for one in found if one.parts not in skipped]
    listing.videos = [listing.folder.joinpath(*one.parts) for one in kept if one.is_video]
    listing.images = [listing.folder.joinpath(*one.parts) for one in kept if not one.is_video]

    in_classes = [one for one in kept if len(one.parts) > depth and (not splits or one.parts[0] in splits)]
    # the first class tells what all are of
    first = next((one.parts[:depth] for one in in_classes), None)
    of_first = [one.is_video for one in kept if first is None or one.parts[: len(first)] == first]
    listing.kind = "videos" if any(of_first) or not listing.images else "images"
    wanted = [one for one in kept if one.is_video == (listing.kind == "videos")]
    files: dict[tuple[str, ...], list[Path]] = {
        parts: [] for parts in sorted(folders) if len(parts) == depth and (not splits or parts[0] in splits)
    }
    listing.labels = {
        listing.folder.joinpath(*one.parts): one.parts[depth - 1]
        for one in kept
        if len(one.parts) > depth and (one.is_video or listing.kind == "images")
    }
    for one in wanted:
        path = listing.folder.joinpath(*one.parts)
        if splits and len(one.parts) > 1 and one.parts[0] not in splits:
            listing.others.setdefault(one.parts[0], []).append(path)
        elif len(one.parts) > depth:
            files[one.parts[:depth]].append(path)
        else:
            listing.loose.append(path)
    listing.classes = [
        ClassFolder(parts[0] if splits else "", parts[-1], listing.folder.joinpath(*parts), paths)
        for parts, paths in files.items()
    ]
    listing.passed_over = {
        "/".join(parts): reason
        for parts, (reason, is_video) in sorted(skipped.items())
        if is_video or listing.kind == "images"
    }
    return listing


def walk(
    folder: Path, folders: list[tuple[str, ...]], skipped: dict[tuple[str, ...], tuple[str, bool]]
) -> Iterator[Found]:
    """The files of a folder that are named like videos or images.

    Args:
        folder: its path.
        folders: gets the folders in it.
        skipped: gets why others are none, and whether they look like videos.
    """
    suffixes = video_suffixes()
    real = os.path.realpath(folder)
    # with a folder where it really is, and those above it
    waiting: list[tuple[tuple[str, ...], tuple[str, ...], bool]] = [((), (real,), False)]
    visited: set[tuple[tuple[str, ...], str]] = set()
    while waiting:
        place, above, is_linked = waiting.pop()
        try:
            with os.scandir(folder.joinpath(*place)) as entries:
                inside = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            if place or not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                skipped[place or (".",)] = (f"folder(s) that cannot be read ({error.strerror or error})", True)
            continue
        for entry in inside:
            parts, name = (*place, entry.name), entry.name
            is_link = entry.is_symlink()
            kind = kind_of(name, suffixes)
            if is_folder(entry):
                real = os.path.realpath(entry.path) if is_link else os.path.join(above[-1], name)
                through_link = is_linked or is_link
                if name.startswith("."):
                    if holds_videos(entry.path, suffixes):
                        skipped[parts] = ("hidden folder(s)", True)
                elif name.lower() in SYSTEM_FOLDERS:
                    skipped[parts] = ("folder(s) of a system", True)
                elif kind_of_unfinished(name, suffixes) is not None:
                    skipped[parts] = ("unfinished download(s)", True)
                elif real in above:
                    skipped[parts] = ("linked to a folder above", True)
                elif through_link and (parts[:2], real) in visited:
                    skipped[parts] = ("linked to a folder that is listed already", True)
                else:
                    visited.add((parts[:2], real))
                    folders.append(parts)
                    waiting.append((parts, (*above, real), through_link))
            elif kind is None:
                if (unfinished := kind_of_unfinished(name, suffixes)) is not None:
                    skipped[parts] = ("unfinished download(s)", unfinished)
                elif Path(name).suffix.lower() in OTHER_VIDEO_SUFFIXES and not name.startswith("."):
                    skipped[parts] = ("of a format that is read with TUBEVIT_ANY_FORMAT=1 only", True)
            elif name.startswith("."):
                skipped[parts] = ("hidden file(s)", kind)
            elif not os.path.exists(entry.path):
                skipped[parts] = ("link(s) that lead nowhere", kind)
            elif not os.path.isfile(entry.path):
                skipped[parts] = ("that are no files", kind)
            else:
                real = os.path.realpath(entry.path) if is_link else os.path.join(above[-1], name)
                yield Found(parts, real, is_linked or is_link, kind)


def video_suffixes() -> tuple[str, ...]:
    """The suffixes of videos, with those of all formats if these are open."""
    return VIDEO_SUFFIXES + OTHER_VIDEO_SUFFIXES * VideoLimits.from_environment().any_format


def kind_of(name: str, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> bool | None:
    """Whether a file of this name is a video, or an image, which Pillow knows; `None` if it is neither."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in suffixes:
        return True
    return False if suffix in PIL.Image.registered_extensions() else None


def is_image(path: str | Path) -> bool:
    """Whether Pillow knows files of this name as images, and FFmpeg not as videos."""
    return kind_of(os.path.basename(path)) is False


def fault_of_name(path: str | Path) -> str | None:
    """Why tables of data cannot hold a file, if they cannot: its name, or that of a folder above, is no UTF-8."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8, which tables of data need; rename it"
    return None


def kind_of_unfinished(name: str, suffixes: Sequence[str]) -> bool | None:
    """The kind of a file whose download is not complete; `None` if the name does not say so."""
    stem, suffix = os.path.splitext(name)
    return kind_of(stem, suffixes) if UNFINISHED.fullmatch(suffix) else None


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # links that go round in a circle
        return False


def holds_videos(folder: str, suffixes: Sequence[str]) -> bool:
    """Whether a folder itself holds videos; what lies deeper in one that is not read is not looked for."""
    try:
        with os.scandir(folder) as entries:
            return any(kind_of(entry.name, suffixes) for entry in entries)
    except OSError:
        return False


def has_no_picture(path: str) -> bool:
    """Whether a file can be opened and holds sound, but no video; a cover is none."""
    limits = VideoLimits.from_environment()
    if limits.isolated:
        # nothing is opened in this process; who reads it says so
        return False
    try:
        with ExitStack() as resources:
            container = resources.enter_context(open_container(open_source(path, resources, limits), limits))
            videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            return not videos and bool(container.streams.audio)
    except (VideoDecodingError, av.error.FFmpegError, OSError):
        return False


def tell_splits(folder: Path, found: Sequence[Found], tops: Sequence[str]) -> tuple[list[str], str | None]:
    """The folders of splits, if those in a folder are splits, and why that cannot be told.

    A class may be called `train`: only where all folders with videos are called like splits, and hold folders of
    classes, are they taken for splits.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for one in found:
        if len(one.parts) > 2:
            inside[one.parts[0]].add(one.parts[1])
    named = [top for top in tops if top.casefold() in SPLIT_NAMES]
    if named == list(tops) and any(inside[top] for top in named):
        if "train" not in named:
            return [], (
                f"{folder}: its folders are called like splits, {', '.join(named)}, but none is train. Rename the one "
                "whose videos are for training."
            )
        return [split for split in SPLITS if split in named], None
    if len(named) > 1 and named == list(tops):
        return [], (
            f"{folder}: its folders are called like splits, {', '.join(named)}, but hold no folders of classes. Move "
            "videos into train/LABEL and validation/LABEL, or name their classes in a CSV file by --labels."
        )
    shared = {top: inside[top] & set().union(*(inside[other] for other in named if other != top)) for top in named}
    if alike := [top for top in named if shared[top]]:
        other = next(top for top in tops if top not in named)
        return [], (
            f"{folder}: its folders {' and '.join(alike)} hold folders of the same names, as splits do, but {other} "
            "beside them is no split. Move it away, or, if all of them are classes, name these in a CSV file by "
            "--labels."
        )
    return [], None
