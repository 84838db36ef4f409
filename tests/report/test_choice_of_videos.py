# SPDX-License-Identifier: Apache-2.0
"""Which videos of a folder are measured, and what is refused."""

import csv
import shutil
from pathlib import Path

import pytest

from tubevit_hf.report import ReportError, choose_videos

from ..support.tiny import LABELS


def names(selection) -> list[str]:
    return [Path(video.file).name for video in selection.videos]


def write_splits(model: Path, rows: list[tuple[str, str, str, str]]) -> None:
    with (model / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "group", "split"), *rows])


def all_rows(folder: Path, validation: str) -> list[tuple[str, str, str, str]]:
    """Videos of one person in validation, of the others in training."""
    return [
        (str(path), path.parent.name, path.name[:7], "validation" if path.name.startswith(validation) else "train")
        for path in sorted(folder.rglob("*.mp4"))
    ]


@pytest.fixture
def empty_model(tmp_path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("given", ["", "validation"])
def test_validation_is_measured(class_folders, empty_model, given):
    selection = choose_videos(str(empty_model), class_folders / given, LABELS)
    assert len(selection.videos) == 12
    assert all(
        "validation" in video.file and (Path(video.file).parent.name,) == video.labels for video in selection.videos
    )
    assert str(class_folders / "train") in selection.how
    assert selection.warnings == []


def test_where_nothing_tells_all_is_measured_with_a_warning(class_folders, empty_model):
    selection = choose_videos(str(empty_model), class_folders / "train", LABELS)
    assert len(selection.videos) == 12
    [warning] = selection.warnings
    assert "Nothing tells" in warning and "too good" in warning


def test_splits_of_the_training_come_first(class_folders, empty_model):
    folder = class_folders / "train"
    write_splits(empty_model, all_rows(folder, "person1"))
    selection = choose_videos(str(empty_model), folder, LABELS)
    assert names(selection) == [f"person1_{label}_1.mp4" for label in LABELS[:4]]
    assert {video.group for video in selection.videos} == {"person1"}
    assert "8 others were trained on" in selection.how
    assert selection.warnings == []


def test_paths_of_splits_may_be_relative_to_the_folder(class_folders, empty_model, monkeypatch):
    folder = class_folders / "train"
    rows = [(str(Path(file).relative_to(folder)), *rest) for file, *rest in all_rows(folder, "person1")]
    write_splits(empty_model, rows)
    assert len(choose_videos(str(empty_model), folder, LABELS).videos) == 4
    monkeypatch.chdir(folder.parent)
    write_splits(empty_model, [(f"train/{file}", *rest) for file, *rest in rows])
    assert len(choose_videos(str(empty_model), Path("train"), LABELS).videos) == 4


def test_what_splits_do_not_name_is_told(class_folders, empty_model, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(class_folders / "train", folder)
    rows = all_rows(folder, "person1")
    # a new one, one that is gone
    write_splits(empty_model, rows[1:])
    Path(next(file for file, *_, split in rows if split == "validation")).unlink()
    selection = choose_videos(str(empty_model), folder, LABELS)
    assert len(selection.videos) == 3
    assert selection.warnings[0].startswith("1 validation videos that")
    assert selection.warnings[1].startswith("1 videos of")


def test_splits_of_other_videos_give_a_warning(class_folders, empty_model):
    write_splits(empty_model, [("elsewhere/a.mp4", "fall", "", "train")])
    selection = choose_videos(str(empty_model), class_folders, LABELS)
    assert len(selection.videos) == 12
    assert "names none of these videos" in selection.warnings[0]


def test_several_labels_come_from_splits(class_folders, empty_model):
    folder = class_folders / "train"
    with pytest.raises(ReportError, match=r"several labels, which folders do not tell.*splits\.csv"):
        choose_videos(str(empty_model), folder, LABELS, several=True)
    rows = [(file, f"{label};wave", group, split) for file, label, group, split in all_rows(folder, "person1")]
    write_splits(empty_model, rows)
    selection = choose_videos(str(empty_model), folder, LABELS, several=True)
    assert [video.labels for video in selection.videos] == [(label, "wave") for label in LABELS[:4]]


def test_classes_with_a_separator_and_folders_in_them(empty_model, tmp_path):
    for name in ("train;bus/day1/a.mp4", "car/b.mp4", "car/._b.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    labels = ["car", "train;bus"]
    found = [
        (Path(video.file).name, video.labels)
        for video in choose_videos(str(empty_model), tmp_path / "videos", labels).videos
    ]
    assert found == [("b.mp4", ("car",)), ("a.mp4", ("train;bus",))]
    write_splits(
        empty_model, [("train;bus/day1/a.mp4", "train;bus", "", "validation"), ("car/b.mp4", "car", "", "train")]
    )
    selection = choose_videos(str(empty_model), tmp_path / "videos", labels)
    assert [video.labels for video in selection.videos] == [("train;bus",)] and selection.warnings == []


def test_splits_of_a_mac_are_found_elsewhere(empty_model, tmp_path):
    """A letter with an accent has two forms; names of other classes are none of this folder's."""
    (tmp_path / "fall").mkdir()
    (tmp_path / "fall" / "\u00e9.mp4").touch()
    (tmp_path / "fall" / "o.mp4").touch()
    rows = [("fall/e\u0301.mp4", "fall", "", "validation"), ("jump/o.mp4", "jump", "", "validation")]
    write_splits(empty_model, rows)
    for folder in (tmp_path, tmp_path / "fall"):
        assert names(choose_videos(str(empty_model), folder, LABELS)) == ["\u00e9.mp4"]


def test_groups_by_a_pattern(class_folders, empty_model):
    selection = choose_videos(str(empty_model), class_folders, LABELS)
    assert {video.group for video in selection.with_groups(r"person(\d)").videos} == {"0", "1"}
    assert {video.group for video in selection.with_groups(r"person\d").videos} == {"person0", "person1"}
    with pytest.raises(ReportError, match="finds no group"):
        selection.with_groups("actor")
    with pytest.raises(ReportError, match="no regular expression"):
        selection.with_groups("(")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["fall", "jump"], r"does not know the classes 'roll', 'spin'; it knows 'fall', 'jump'\."),
        (["Fall", "jump", "roll", "spin"], r"Only the case differs: 'fall' \(the model has 'Fall'\)\."),
    ],
)
def test_unknown_classes_are_refused_by_name(class_folders, empty_model, labels, message):
    with pytest.raises(ReportError, match=message):
        choose_videos(str(empty_model), class_folders, labels)
    write_splits(empty_model, all_rows(class_folders / "train", "person1"))
    with pytest.raises(ReportError, match=message):
        choose_videos(str(empty_model), class_folders / "train", labels)


def test_refusals(class_folders, empty_model, tmp_path):
    with pytest.raises(ReportError, match="there is no such folder"):
        choose_videos(str(empty_model), tmp_path / "missing", LABELS)
    (tmp_path / "empty" / "fall").mkdir(parents=True)
    with pytest.raises(
        ReportError, match="holds no videos in folders of the model's classes; looked for 'fall', 'jump'"
    ):
        choose_videos(str(empty_model), tmp_path / "empty", LABELS)
    folder = class_folders / "train"
    write_splits(empty_model, [(*row[:3], "train") for row in all_rows(folder, "person1")])
    with pytest.raises(ReportError, match="trained on all videos of it that are named there"):
        choose_videos(str(empty_model), folder, LABELS)
