# SPDX-License-Identifier: Apache-2.0
"""Which files are the videos of a folder: the same for every command, and what is not among them is told."""

import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModel
from typer.testing import CliRunner

from tubevit_hf import read_video
from tubevit_hf.cli import app
from tubevit_hf.data import AnnotationError, inspect_videos
from tubevit_hf.data.labelled import load_labelled
from tubevit_hf.data.listing import VIDEO_SUFFIXES, find_videos, list_folder
from tubevit_hf.folders import read_json
from tubevit_hf.inference import list_files
from tubevit_hf.inference.embedding import PLAN, Embedding
from tubevit_hf.inference.running import LoadedModel, load_model
from tubevit_hf.report import ReportError, choose_videos


# a format of FFmpeg, what its frames are coded by, and the suffixes that such files have
WRITTEN_AS = {
    "h264": ("libx264", [".264", ".h264", ".avc"]),
    "hevc": ("libx265", [".265", ".h265", ".hevc"]),
    "yuv4mpegpipe": ("wrapped_avframe", [".y4m"]),
    "asf": ("wmv2", [".asf", ".wmv", ".wm", ".dvr-ms"]),
    "mov": ("libx264", [".mov", ".qt", ".mqv"]),
    "mp4": ("libx264", [".mp4", ".m4v", ".f4v", ".mp4v", ".insv"]),
    "ismv": ("libx264", [".ismv"]),
    "3gp": ("libx264", [".3gp", ".3gpp"]),
    "3g2": ("libx264", [".3g2", ".3gp2", ".3gpp2"]),
    "mpegts": ("mpeg2video", [".ts", ".mts", ".m2ts", ".m2t", ".tp", ".trp", ".tod"]),
    "vob": ("mpeg2video", [".vob", ".vro", ".m2p"]),
    "mpeg": ("mpeg1video", [".mpg", ".mpeg", ".mpe"]),
    "mpeg2video": ("mpeg2video", [".m2v", ".mp2v", ".mpv"]),
    "mpeg1video": ("mpeg1video", [".m1v"]),
    "avi": ("mpeg4", [".avi", ".divx", ".xvid"]),
    "matroska": ("libx264", [".mkv", ".mk3d"]),
    "webm": ("libvpx", [".webm"]),
    "ivf": ("libvpx", [".ivf"]),
    "ogg": ("libvpx", [".ogg", ".ogv", ".ogm", ".ogx"]),
    "dv": ("dvvideo", [".dv", ".dif"]),
    "flv": ("flv", [".flv"]),
    "mxf": ("mpeg2video", [".mxf"]),
    "gif": ("gif", [".gif"]),
}
PIXELS = {"gif": "rgb8", "dv": "yuv411p"}


def write(path: Path, container: str, codec: str) -> None:
    """Six frames, each brighter than the one before."""
    # DV has one size and rate
    width, height, rate = (720, 480, Fraction(30000, 1001)) if container == "dv" else (64, 48, Fraction(25))
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS.get(container, "yuv420p")
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 40 * number, np.uint8), format="rgb24")
            file.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        file.mux(stream.encode())


def write_sound(path: Path, container: str, codec: str) -> None:
    """A fifth of a second of silence."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=48000, bit_rate=64000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def touch(folder: Path, *files: str) -> Path:
    """Files that only have to be there: nothing in them can be read."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"no video")
    return folder


def names(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_every_suffix_is_of_a_format_that_is_read(tmp_path):
    assert sorted(VIDEO_SUFFIXES) == sorted(suffix for _, suffixes in WRITTEN_AS.values() for suffix in suffixes)
    for container, (codec, [first, *others]) in WRITTEN_AS.items():
        path = tmp_path / f"{container}{first}"
        write(path, container, codec)
        for suffix in others:
            shutil.copy(path, path.with_suffix(suffix))
    found = find_videos(tmp_path)
    assert len(found) == len(VIDEO_SUFFIXES)
    for path in found:
        brightness = read_video(path)[0].float().mean((1, 2, 3)).tolist()
        assert brightness == sorted(brightness) and brightness[-1] - brightness[0] > 150, path


def test_capital_letters(tmp_path):
    touch(tmp_path, "a.MP4", "b.H264", "c.MkV", "d.PNG", "e.TXT")
    listing = list_folder(tmp_path)
    assert names(tmp_path, listing.videos) == ["a.MP4", "b.H264", "c.MkV"]
    assert names(tmp_path, listing.images) == ["d.PNG"]


def test_sound_alone_is_no_video(tmp_path):
    write_sound(tmp_path / "a.ogg", "ogg", "libopus")
    write_sound(tmp_path / "b.asf", "asf", "wmav2")
    write_sound(tmp_path / "c.3gp", "3gp", "aac")
    write(tmp_path / "d.ogg", "ogg", "libvpx")
    # what cannot be opened stays in the list: whoever reads it says why
    touch(tmp_path, "e.3gp")
    listing = list_folder(tmp_path)
    assert names(tmp_path, listing.videos) == ["d.ogg", "e.3gp"]
    assert listing.passed_over == dict.fromkeys(["a.ogg", "b.asf", "c.3gp"], "with sound only")


def hide(folder: Path) -> None:
    touch(folder, "walk/._0.mp4", "walk/.DS_Store", "walk/.ipynb_checkpoints/0-checkpoint.mp4", ".Trash/x.mp4")
    touch(folder, "walk/.git/config", "__MACOSX/walk/._0.mp4", "walk/@eaDir/0.mp4/thumb.jpg", "#recycle/y.mp4")


def leave_unfinished(folder: Path) -> None:
    touch(folder, "walk/1.mp4.part", "walk/2.mkv.crdownload", "walk/3.mp4.tmp", "walk/4.webm.part-Frag7")
    touch(folder, "walk/5.mp4.download/5.mp4", "walk/6.mp4.srt", "walk/7.mp4.json")


def link(folder: Path) -> None:
    for name, target in (
        ("run/up", ".."),
        ("walk/beside", "../run/.."),
        ("walk/nothing.mp4", "gone.mp4"),
        ("walk/self.mp4", "self.mp4"),
        # sorts before the file itself, which is kept
        ("walk/-again.mp4", "0.mp4"),
    ):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "walk" / "pipe.mp4")


def link_elsewhere(folder: Path) -> None:
    """Data sets are put together of links: these count, the same file in two classes as well."""
    (folder / "walk" / "0.mp4").rename(folder.parent / "kept.mp4")
    (folder / "walk" / "0.mp4").symlink_to(folder.parent / "kept.mp4")
    touch(folder.parent / "more", "8.mp4", "9.mp4")
    (folder / "walk" / "more").symlink_to(folder.parent / "more")
    (folder / "run" / "9.mp4").symlink_to(folder.parent / "more" / "9.mp4")


LABELS = {"run/0.mp4": "run", "run/1.mp4": "run", "walk/0.mp4": "walk", "walk/1.mp4": "walk"}
SPLIT = {f"{split}/{name}": label for split in ("train", "validation") for name, label in LABELS.items()}
VEHICLES = {"train/day1/0.mp4": "train", "train/day2/0.mp4": "train", "car/day1/0.mp4": "car", "test/0.mp4": "test"}
LAYOUTS: dict[str, tuple[dict[str, str], Callable[[Path], None] | None, dict[str, str]]] = {
    "hidden": (LABELS, hide, {}),
    "unfinished": (LABELS, leave_unfinished, {}),
    "links": (LABELS, link, {}),
    "links to other places": (
        LABELS,
        link_elsewhere,
        {"walk/more/8.mp4": "walk", "walk/more/9.mp4": "walk", "run/9.mp4": "run"},
    ),
    "vehicles": (VEHICLES, None, {}),
    "splits": (SPLIT, None, {}),
    "one split": ({name: label for name, label in SPLIT.items() if name.startswith("train")}, None, {}),
    "notes beside splits": (SPLIT, lambda folder: touch(folder, "notes/a.txt", "labels.csv"), {}),
    "notes of other programs": (
        LABELS,
        lambda folder: touch(folder, "state.json", "dataset_info.json", "dataset_dict.json", "walk/state.json"),
        {},
    ),
    "features beside": (
        LABELS,
        lambda folder: Dataset.from_dict({"feature": [1.0]}).to_parquet(folder / "features.parquet"),
        {},
    ),
    "separators": ({"a;b/0.mp4": "a;b", "c,d/0.mp4": "c,d", "e|f/0.mp4": "e|f"}, None, {}),
    "deeper": ({"walk/day1/a/0.mp4": "walk", "walk/day2/0.mp4": "walk", "run/0.mp4": "run"}, None, {}),
    "form of accents": ({"Café/0.mp4": "Café", "caf\u0065/e\u0301.mp4": "cafe"}, None, {}),
    "pictures beside": (LABELS, lambda folder: touch(folder, "walk/0.jpg", "run/0.webp"), {}),
    "a folder named as a video": ({**LABELS, "walk/day.mp4/0.mp4": "walk"}, None, {}),
}


@pytest.fixture(scope="module")
def loaded(checkpoint) -> LoadedModel:
    return load_model(str(checkpoint), auto=AutoModel)


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_commands_see_the_same_videos(name, tmp_path, loaded):
    files, change, more = LAYOUTS[name]
    folder = touch(tmp_path / "videos", *files)
    if change is not None:
        change(folder)
    expected = files | more

    rows = load_labelled(folder)
    label = rows.features["label"]
    trained_on = dict(zip(rows["file"], map(label.int2str, rows["label"])))
    assert trained_on == expected
    # nothing in the files can be read, so doctor names each
    report = inspect_videos(folder, num_workers=0)
    assert report.num_videos == len(expected)
    assert {found.where for found in report.findings if found.kind == "unreadable"} == set(expected)
    assert {summary.label for summary in report.classes} == set(expected.values())
    assert {Path(path).relative_to(folder).as_posix() for path in list_files([str(folder)])} == set(expected)
    embedding = Embedding(loaded, folder, tmp_path / "out", name="tiny")
    assert {file for shard in read_json(tmp_path / "out" / PLAN) for file in shard} == set(expected)
    assert embedding.has_labels and embedding.labels == expected
    measured = choose_videos(str(tmp_path), folder, sorted(set(expected.values()))).videos
    wanted = {name: label for name, label in expected.items() if "validation" in name or name not in SPLIT}
    if name != "one split":
        found = {Path(one.file).relative_to(folder).as_posix(): one.labels[0] for one in measured}
        assert found == wanted


def test_order_does_not_depend_on_the_disk(tmp_path):
    touch(tmp_path, "b/1.mp4", "b/0/2.mp4", "a.mp4", "b-c/0.mp4", "B/0.mp4")
    expected = ["B/0.mp4", "a.mp4", "b/0/2.mp4", "b/1.mp4", "b-c/0.mp4"]
    assert names(tmp_path, find_videos(tmp_path)) == expected


def test_a_hidden_folder_that_is_named_itself_is_read(tmp_path):
    folder = touch(tmp_path / ".videos" / "@eaDir", "a/0.mp4", "b/0.mp4")
    assert len(find_videos(folder)) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            hide,
            {
                ".Trash": "hidden folder(s)",
                "#recycle": "folder(s) of a system",
                "__MACOSX": "folder(s) of a system",
                "walk/._0.mp4": "hidden file(s)",
                "walk/.ipynb_checkpoints": "hidden folder(s)",
                "walk/@eaDir": "folder(s) of a system",
            },
        ),
        (
            leave_unfinished,
            dict.fromkeys(
                [
                    *("walk/1.mp4.part", "walk/2.mkv.crdownload", "walk/3.mp4.tmp", "walk/4.webm.part-Frag7"),
                    "walk/5.mp4.download",
                ],
                "unfinished download(s)",
            ),
        ),
        (
            link,
            {
                "run/up": "linked to a folder above",
                "walk/-again.mp4": "linked to a file that is listed already",
                "walk/beside": "linked to a folder above",
                "walk/nothing.mp4": "link(s) that lead nowhere",
                "walk/pipe.mp4": "that are no files",
                "walk/self.mp4": "link(s) that lead nowhere",
            },
        ),
        (
            lambda folder: touch(folder, "walk/a.rm", "walk/b.NUT"),
            dict.fromkeys(["walk/a.rm", "walk/b.NUT"], "of a format that is read with TUBEVIT_ANY_FORMAT=1 only"),
        ),
    ],
    ids=["hidden", "unfinished", "links", "formats"],
)
def test_what_is_passed_over_is_told(change, told, tmp_path, caplog):
    folder = touch(tmp_path / "videos", *LABELS)
    change(folder)
    assert list_folder(folder).passed_over == told
    list_files([str(folder)])
    load_labelled(folder)
    [first, second] = [record.message for record in caplog.records if "Passed over" in record.message]
    assert first == second and str(folder) in first
    assert inspect_videos(folder, num_workers=0).passed_over == told
    result = CliRunner().invoke(app, ["doctor", str(folder), "--workers", "0"])
    [line] = [line for line in result.output.splitlines() if line.startswith("Passed over: ")]
    assert all(reason in line for reason in told.values())


def test_all_formats_are_listed_where_all_are_open(tmp_path, monkeypatch):
    touch(tmp_path, "a.rm", "b.mp4")
    monkeypatch.setenv("TUBEVIT_ANY_FORMAT", "1")
    assert names(tmp_path, find_videos(tmp_path)) == ["a.rm", "b.mp4"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    folder = touch(tmp_path, "walk/0.mp4", "run/0.mp4", "run/closed/1.mp4")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_folder(folder)
    assert len(listing.videos) == 2
    assert listing.passed_over == {"run/closed": "folder(s) that cannot be read (Permission denied)"}


def test_folders_that_are_linked_crosswise(tmp_path):
    """Each of ten folders links to all others: there is an end, and each file is read once a class."""
    letters = "abcdefghij"
    for one in letters:
        touch(tmp_path, f"x/{one}/{one}.mp4")
        for other in letters.replace(one, ""):
            (tmp_path / "x" / one / other).symlink_to(f"../{other}")
    assert {path.name for path in find_videos(tmp_path)} == {f"{one}.mp4" for one in letters}
    assert len(find_videos(tmp_path)) == len(letters)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/0.mp4", "validation/0.mp4"], "called like splits, train, validation, but hold no folders of classes"),
        (["Train/a/0.mp4", "Test/a/0.mp4"], "called like splits, Test, Train, but none is train"),
        (["test/a/0.mp4", "test/b/0.mp4"], "called like splits, test, but none is train"),
        (
            ["train/a/0.mp4", "validation/a/0.mp4", "rest/0.mp4"],
            "train and validation hold folders of the same names, as splits do, but rest beside them is no split",
        ),
    ],
)
def test_what_may_be_splits_or_classes_is_refused_by_all(files, message, tmp_path):
    folder = touch(tmp_path, *files)
    with pytest.raises(AnnotationError, match=message):
        load_labelled(folder)
    with pytest.raises(AnnotationError, match=message):
        inspect_videos(folder, num_workers=0)
    with pytest.raises(ValueError, match=message):
        choose_videos(str(tmp_path / "model"), folder, ["a"])
    # nobody needs classes to predict
    assert len(list_files([str(folder)])) == len(files)


def test_videos_in_no_folder_of_a_class_are_told(tmp_path, caplog):
    folder = touch(tmp_path, *LABELS, "2.mp4", "3.mp4")
    assert len(load_labelled(folder)) == 4
    assert "2 videos in no folder of a class, such as 2.mp4, are left out" in caplog.text
    [finding] = [one for one in inspect_videos(folder, num_workers=0).findings if one.kind == "passed over"]
    assert finding.message == "2 videos are in no folder of a class, such as 2.mp4"
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="empty: it holds no videos"):
        load_labelled(folder)


def test_classes_that_look_alike_are_refused(tmp_path):
    """A letter with an accent has two forms: one class came from a Mac."""
    folder = touch(tmp_path, "caf\u00e9/0.mp4", "cafe\u0301/0.mp4")
    with pytest.raises(AnnotationError, match="differ only in case, blanks or the form of accents"):
        load_labelled(folder)
    assert "same name" in {finding.kind for finding in inspect_videos(folder, num_workers=0).findings}


def test_images_are_no_videos_of_a_folder(tmp_path, caplog):
    folder = touch(tmp_path, "cat/0.png", "dog/0.webp", "dog/.1.png", "dog/1.mp4")
    rows = load_labelled(folder)
    assert rows["file"][:] == ["cat/0.png", "dog/0.webp"]
    assert "1 videos among images are left out" in caplog.text
    # who reads videos has this one, with its class
    listing = list_folder(folder)
    assert listing.passed_over == {"dog/.1.png": "hidden file(s)"}
    assert listing.labels[folder / "dog" / "1.mp4"] == "dog"
    assert [Path(file).name for file in list_files([str(folder)])] == ["1.mp4"]
    with pytest.raises(ReportError, match="its classes hold images, and only videos are measured"):
        choose_videos("none", folder, ["cat", "dog"])


def test_pictures_beside_splits_change_nothing(tmp_path):
    splits = [f"{split}/{label}/0.mp4" for split in ("train", "validation") for label in ("cat", "dog")]
    folder = touch(tmp_path, *splits, "curves/loss.png", "train/cat/0.png")
    assert load_labelled(folder)["file"][:] == splits
    assert names(folder, [Path(video.file) for video in choose_videos("none", folder, ["cat", "dog"]).videos]) == [
        "validation/cat/0.mp4",
        "validation/dog/0.mp4",
    ]


def test_a_report_measures_no_training_videos_while_others_are_there(tmp_path):
    folder = touch(tmp_path, "train/cat/0.mp4", "train/dog/0.mp4", "test/cat/1.mp4", "test/dog/1.mp4")
    with pytest.raises(ReportError, match=r"beside the folder train it has test, but not validation. .*/test\."):
        choose_videos("none", folder, ["cat", "dog"])
    assert len(choose_videos("none", folder / "test", ["cat", "dog"]).videos) == 2


def test_where_there_is_nothing_what_was_passed_over_is_in_the_error(tmp_path):
    folder = touch(tmp_path, "a/._0.mp4", "b/1.mp4.part")
    for see in (load_labelled, inspect_videos, lambda folder: list_files([str(folder)])):
        with pytest.raises(ValueError, match=r"Passed over: 1 hidden file\(s\), such as a/\._0\.mp4; 1 unfinished"):
            see(folder)
