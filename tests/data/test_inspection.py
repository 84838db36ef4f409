# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a folder of videos: each fault that is put in is named once, and a sound folder has none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from tubevit_hf.cli import app
from tubevit_hf.data import (
    AnnotationError,
    drop_unreadable,
    facts,
    inspect_videos,
    load_folder,
    read_leave_out,
)
from tubevit_hf.data.inspection import FolderReport, find_alike, group_alike, list_classes
from tubevit_hf.data.leaks import find_leaks
from tubevit_hf.data.leave_out import write_leave_out
from tubevit_hf.data.moving_digits import render_clip, write_video

from ..support.video_corpus import turn


MOTIONS = {"walk": "right", "run": "down", "jump": "turn_left"}
PEOPLE = {"train": range(1, 5), "validation": range(5, 8)}


def clip_of(label: str, seed: int) -> np.ndarray:
    digits = load_digits().images
    rng = np.random.default_rng(seed)
    return render_clip(digits[rng.integers(len(digits))], MOTIONS[label], rng)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Class folders of two splits, two clips of each of seven people."""
    folder = tmp_path_factory.mktemp("inspection") / "videos"
    seed = 0
    for split, people in PEOPLE.items():
        for label in MOTIONS:
            (folder / split / label).mkdir(parents=True)
            for person in people:
                for take in range(2):
                    write_video(
                        folder / split / label / f"person{person:02d}_{label}_{take}.mp4", clip_of(label, seed)
                    )
                    seed += 1
    return folder


@pytest.fixture
def folder(template, tmp_path) -> Path:
    return shutil.copytree(template, tmp_path / "videos")


def inspect(folder: Path) -> FolderReport:
    return inspect_videos(folder, num_workers=0)


def write_as(path: Path, frames: np.ndarray, rate: int = 16, options: dict[str, str] | None = None) -> None:
    """Any container, without frames that refer to later ones."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "4", "bf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def overwrite(path: Path) -> None:
    """A quarter of the frames' data, in the middle."""
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    length = len(data) - start
    data[start + length // 2 : start + length * 3 // 4] = bytes(length * 3 // 4 - length // 2)
    path.write_bytes(data)


def seed_faults(folder: Path) -> dict[str, str]:
    """Puts one fault of each kind into a folder; gives for each kind what has it."""
    train, validation = folder / "train", folder / "validation"
    (train / "walk" / "person01_walk_0.mp4").write_bytes(b"no video")
    (train / "walk" / "person01_walk_1.mp4").unlink()
    write_as(train / "walk" / "person01_walk_1.mkv", clip_of("walk", 100))
    cut(train / "walk" / "person01_walk_1.mkv")
    write_as(train / "walk" / "person02_walk_0.mp4", clip_of("walk", 101), options={"movflags": "faststart"})
    overwrite(train / "walk" / "person02_walk_0.mp4")
    write_video(train / "walk" / "person02_walk_1.mp4", np.zeros((16, 64, 64, 3), np.uint8))
    write_video(train / "run" / "person01_run_0.mp4", clip_of("run", 102)[:1])
    write_video(train / "run" / "person01_run_1.mp4", clip_of("run", 103)[[0] * 16])
    turned = train / "run" / "person02_run_0.mp4"
    turned.write_bytes(turn([0, 1, -1, 0])(turned.read_bytes()))
    write_video(train / "run" / "person02_run_1.mp4", np.concatenate([clip_of("run", n) for n in range(4)], axis=2))
    shutil.copy(train / "walk" / "person03_walk_0.mp4", train / "walk" / "person03_walk_2.mp4")
    # twice as large, and coded anew
    larger = clip_of("walk", 104).repeat(2, axis=1).repeat(2, axis=2)
    write_video(train / "walk" / "person03_walk_3.mp4", clip_of("walk", 104))
    write_as(train / "walk" / "person03_walk_4.mp4", larger)
    write_video(validation / "run" / "person06_run_2.mp4", clip_of("run", 105))
    write_as(train / "run" / "person04_run_2.mp4", clip_of("run", 105))
    shutil.copy(train / "walk" / "person04_walk_0.mp4", train / "run" / "person04_run_3.mp4")
    write_video(validation / "walk" / "person04_walk_5.mp4", clip_of("walk", 106))
    (train / "sleep").mkdir()
    for number, path in enumerate(folder.glob("*/jump/*")):
        # as long as the others, at another rate
        clip = clip_of("jump", 200 + number)
        write_video(path, np.concatenate([clip, clip[:8]]), frames_per_second=24)
    return {
        "unreadable": "train/walk/person01_walk_0.mp4",
        "truncated": "train/walk/person01_walk_1.mkv",
        "damaged": "train/walk/person02_walk_0.mp4",
        "black": "train/walk/person02_walk_1.mp4",
        "one frame": "train/run/person01_run_0.mp4",
        "frozen": "train/run/person01_run_1.mp4",
        "rotation": "train/run/person02_run_0.mp4",
        "extreme shape": "train/run/person02_run_1.mp4",
        "duplicate": "train/walk/person03_walk_2.mp4",
        "near duplicate": "train/walk/person03_walk_4.mp4",
        "same video in both splits": "train/run/person04_run_2.mp4",
        "same video in two classes": "train/walk/person04_walk_0.mp4",
        "group in both splits": "person04",
        "empty class": "train/sleep",
        "leak": "jump",
    }


def test_each_fault_is_named_in_one_line(folder, tmp_path, monkeypatch):
    faults = seed_faults(folder)
    listed = tmp_path / "leave_out.txt"
    result = CliRunner().invoke(app, ["doctor", str(folder), "--workers", "2", "--leave-out", str(listed)])
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.startswith(("│ grave", "│ warning"))]
    for kind, where in faults.items():
        [line] = [line for line in lines if f"│ {kind}: " in line]
        assert line.split("│")[2].strip() == where, line
    assert len(lines) == len(faults), result.output
    gravities = [line.split()[1] for line in lines]
    assert gravities == sorted(gravities)

    left_out = {path.relative_to(folder).as_posix() for path in read_leave_out(listed, folder)}
    kinds = set(faults) - {"rotation", "extreme shape", "group in both splits", "empty class", "leak"}
    # of a video in two classes nobody knows which is right
    assert left_out == {faults[kind] for kind in kinds} | {"train/run/person04_run_3.mp4"}
    assert "# frozen: nothing changes in its 16 frames\ntrain/run/person01_run_1.mp4\n" in listed.read_text()

    # nothing is opened again
    for name in ("open_video", "look_at"):
        monkeypatch.setattr(f"tubevit_hf.data.facts.{name}", None)
    result = CliRunner().invoke(app, ["doctor", str(folder), "--json"])
    report = json.loads(result.stdout)
    assert {finding["kind"]: finding["where"] for finding in report["findings"]} == faults
    assert report["leave_out"].keys() == left_out
    jump = next(summary for summary in report["classes"] if summary["label"] == "jump")
    assert jump["videos"] == {"train": 8, "validation": 6}
    assert jump["groups"] == 7 and jump["fps"] == {"24": 14} and jump["sizes"] == {"64x64": 14}
    for name in left_out:
        (folder / name).unlink()
    assert {finding.kind: finding.where for finding in inspect_videos(folder, num_workers=0).findings} == {
        kind: where for kind, where in faults.items() if kind not in kinds
    }


def test_a_sound_folder(folder, monkeypatch):
    report = inspect(folder)
    assert report.findings == [] and not report.is_grave and report.leave_out == {}
    assert report.num_videos == 42 and report.num_groups == 7
    assert [summary.label for summary in report.classes] == sorted(MOTIONS)
    result = CliRunner().invoke(app, ["doctor", str(folder), "--workers", "0"])
    assert result.exit_code == 0
    assert "42 videos of 3 classes, 7 groups by their names. Findings: 0 grave, 0 to look at." in result.output
    # nor does training open anything again
    monkeypatch.setattr("tubevit_hf.data.facts.open_video", None)
    assert len(drop_unreadable(load_folder(folder)["train"], "train")) == 24
    # without splits
    monkeypatch.undo()
    assert inspect(folder / "train").findings == []
    assert [one.split for one in list_classes(folder / "train").classes] == [""] * 3


def take_away(folder: Path, keep: int) -> None:
    for path in sorted(folder.glob("train/jump/*"))[keep:]:
        path.unlink()
    shutil.rmtree(folder / "validation" / "jump")
    shutil.rmtree(folder / "validation")


def rename(folder: Path, to: str) -> None:
    for split in PEOPLE:
        (folder / split / "jump").rename(folder / split / to)


def keep_one_class(folder: Path) -> None:
    for label in ("run", "jump"):
        for split in PEOPLE:
            shutil.rmtree(folder / split / label)


def lay_aside(folder: Path) -> None:
    (folder / "validation").rename(folder / "val")
    (folder / "train" / "jump" / "person01_jump_0.mp4").rename(folder / "train" / "person01_jump_0.mp4")


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (keep_one_class, {("one class", "walk")}),
        (lambda folder: rename(folder, "Walk"), {("same name", "Walk, walk")}),
        (lambda folder: shutil.rmtree(folder / "validation" / "run"), {("class in one split", "run")}),
        (lambda folder: take_away(folder, 3), {("too few groups", "jump")}),
        (lambda folder: take_away(folder, 1), {("too few groups", "jump"), ("imbalance", "jump")}),
        (lay_aside, {("passed over", "val"), ("passed over", "train")}),
    ],
)
def test_classes(change: Callable[[Path], None], findings, folder):
    change(folder)
    assert {(finding.kind, finding.where) for finding in inspect(folder).findings} == findings


def test_groups_that_only_other_classes_share(folder):
    """Some data sets number the groups of each class, and a number says little then."""
    shutil.rmtree(folder / "validation" / "walk")
    (folder / "validation" / "walk").mkdir()
    for person in (5, 8):
        write_video(folder / "train" / "walk" / f"person{person:02d}_walk_0.mp4", clip_of("walk", 300 + person))
        write_video(folder / "validation" / "walk" / f"person{person + 5}_walk_0.mp4", clip_of("walk", 310 + person))
    [finding] = inspect(folder).findings
    assert (finding.kind, finding.where, finding.gravity) == ("group in both splits", "person05", "warning")
    assert finding.message.endswith("such as validation/jump/person05_jump_0.mp4, of other classes")


def test_what_was_seen_is_kept_when_it_is_stopped(folder, monkeypatch):
    look_at, seen = facts.look_at, []

    def stop_at_third(path: str, isolated: bool = False) -> facts.Looked:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(path)
        return look_at(path, isolated)

    monkeypatch.setattr(facts, "look_at", stop_at_third)
    result = CliRunner().invoke(app, ["doctor", str(folder), "--workers", "0"])
    assert result.exit_code == 130
    assert result.stderr == "Stopped. What was seen is kept: the same command goes on from there.\n"
    monkeypatch.setattr(facts, "look_at", lambda path, isolated=False: seen.append(path) or look_at(path))
    assert CliRunner().invoke(app, ["doctor", str(folder), "--workers", "0"]).exit_code == 0
    assert len(seen) == len(set(seen)) == 42


def test_a_class_that_stands_still_is_named_once(folder):
    for number, path in enumerate(sorted(folder.glob("*/jump/*"))):
        write_video(path, clip_of("jump", number)[[0] * 16])
    [finding] = inspect(folder).findings
    assert (finding.kind, finding.where) == ("frozen", "jump")
    assert finding.message.startswith("14 of 14 videos are like train/jump/person01_jump_0.mp4")


def test_what_cannot_be_inspected(tmp_path):
    with pytest.raises(AnnotationError, match="there is no such folder"):
        inspect(tmp_path / "nothing")
    (tmp_path / "a").mkdir()
    with pytest.raises(AnnotationError, match="holds no videos in folders of classes"):
        inspect(tmp_path)
    for arguments in (["doctor", str(tmp_path)], ["doctor", "--json"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1 and result.stdout == ""


def test_names_are_shown_as_they_are(folder):
    strange = folder / "train" / "walk" / "[red]a\x1b[31m.mp4"
    strange.write_bytes(b"no video")
    result = CliRunner().invoke(app, ["doctor", str(folder), "--workers", "0"])
    assert "train/walk/[red]a\\x1b[31m.mp4" in result.output and "\x1b" not in result.output


def correlations(signatures: np.ndarray) -> np.ndarray:
    return np.corrcoef(signatures.reshape(len(signatures), -1))


def test_alike_is_what_correlates_as_a_whole_and_in_what_changes(monkeypatch):
    rng = np.random.default_rng(0)
    scene = rng.uniform(0, 255, (1, 1, 8, 8))
    signatures = scene + rng.normal(0, 20, (8, 8, 8, 8))
    signatures[3] = 0.8 * signatures[1] + 20 + rng.normal(0, 1, (8, 8, 8))
    signatures[6] = signatures[3]
    # one scene with little motion, which differs
    signatures[4] = scene + rng.normal(0, 1, (8, 8, 8))
    signatures[5] = scene + rng.normal(0, 1, (8, 8, 8))
    # the motion of another scene
    signatures[7] = signatures[0] - scene + rng.uniform(0, 255, (1, 8, 8))
    changes = signatures - signatures.mean(1, keepdims=True)
    expected = [
        (first, second)
        for first in range(8)
        for second in range(first + 1, 8)
        if correlations(signatures)[first, second] > 0.985 and correlations(changes)[first, second] > 0.85
    ]
    assert expected == [(1, 3), (1, 6), (3, 6)]
    assert correlations(signatures)[4, 5] > 0.985 and correlations(changes)[0, 7] > 0.85
    for block in (1, 2, 100):
        monkeypatch.setattr("tubevit_hf.data.inspection.BLOCK", block)
        assert sorted(find_alike(signatures)) == expected
    # what never changes is like nothing
    assert list(find_alike(np.repeat(scene[None, 0], 2, 0) * np.ones((2, 8, 8, 8)))) == []
    assert group_alike([]) == []


def test_leaks_are_what_a_trait_tells_of_videos_that_were_not_seen():
    labels = [label for label in "abcd" for _ in range(25)]
    groups = [str(number % 25) for number in range(100)]
    rng = np.random.default_rng(0)
    told = np.array([[ord(label) + rng.uniform(-0.3, 0.3)] for label in labels])
    one_class = np.array([[float(label == "b")] for label in labels])
    traits = {"length": told, "shape": rng.normal(size=(100, 2)), "rate": one_class, "codec": np.zeros((100, 1))}
    leaks = {leak.trait: leak for leak in find_leaks(traits, labels, groups)}
    assert list(leaks) == ["length", "shape", "rate", "all"]
    assert leaks["length"].accuracy == 1 and leaks["length"].told == 1 and leaks["length"].chance == 0.25
    assert set(leaks["length"].by_class) == set("abcd")
    assert leaks["shape"].told == 0 and leaks["shape"].by_class == {}
    assert leaks["rate"].by_class["b"] == 1 and leaks["rate"].told > 0
    assert leaks["all"].accuracy > 0.9
    # names that are numbers, and classes of which hardly anything is there
    numbers = [str(ord(label)) for label in labels]
    assert find_leaks({"length": told}, numbers, groups)[0].by_class == dict.fromkeys(set(numbers), 1.0)
    rare = ["rare" if number < 4 else label for number, label in enumerate(labels)]
    assert find_leaks({"length": told}, rare, groups)[0].chance == 0.25
    assert find_leaks({"length": told}, ["a"] * 100) == []
    assert find_leaks({"length": told[:4]}, list("aabb")) == []


def test_folds_share_no_group():
    """Clips of a group have a value of their own, which tells their class to those that have seen the group."""
    labels = [label for label in "abcd" for _ in range(25)] * 4
    groups = [str(number) for number in range(100)] * 4
    values = np.tile(np.random.default_rng(0).uniform(size=(100, 1)), (4, 1))
    assert find_leaks({"shape": values}, labels, groups)[0].told < 0.2
    assert find_leaks({"shape": values}, labels)[0].told > 0.8


def test_leaks_of_a_part_of_many_videos(monkeypatch, recwarn):
    """Of each of many classes hardly any video is drawn."""
    monkeypatch.setattr("tubevit_hf.data.leaks.MAX_VIDEOS", 60)
    labels = [str(number % 30) for number in range(300)]
    values = np.array([[float(label)] for label in labels])
    for groups in (None, [str(number % 7) for number in range(300)]):
        leak = find_leaks({"length": values}, labels, groups)[0]
        assert leak.is_significant and 1 / 30 < leak.accuracy < 1
    assert not recwarn


def test_lists_of_files_to_leave_out(tmp_path, caplog):
    folder = tmp_path / "videos"
    (folder / "a").mkdir(parents=True)
    names = ["a/b c.mp4", "#d.mp4", "a/é.mp4"]
    for name in names:
        (folder / name).touch()
    listed = tmp_path / "list.txt"
    write_leave_out(listed, folder, dict.fromkeys(names, "black: it is black"))
    assert read_leave_out(listed, folder) == {folder / name for name in names}
    assert list(tmp_path.glob("*unfinished*")) == []
    listed.write_text("a\\b c.mp4 \na/e\u0301.mp4\n")
    assert read_leave_out(listed, folder) == {folder / name for name in names[::2]}
    write_leave_out(listed, folder, dict.fromkeys(names, "black: it is black"))
    (folder / "#d.mp4").unlink()
    assert len(read_leave_out(listed, folder)) == 3
    assert "1 of the 3 files" in caplog.text
    for text, message in (
        ("a/x.mp4\n", "line 1: there is no file .*x.mp4"),
        ("\n../y.mp4\n", r"line 2: the path must be relative to .*, got '\.\./y\.mp4'"),
        ("/y.mp4\n", "line 1: the path must be relative"),
    ):
        listed.write_text(text)
        with pytest.raises(AnnotationError, match=message):
            read_leave_out(listed, folder)
    listed.write_text("# nothing\n")
    assert read_leave_out(listed, folder) == set()
    with pytest.raises(AnnotationError, match=r"nothing\.txt: it cannot be read"):
        read_leave_out(tmp_path / "nothing.txt", folder)
    with pytest.raises(AnnotationError, match="it cannot be written"):
        write_leave_out(tmp_path / "nothing" / "list.txt", folder, {})
    with pytest.raises(AnnotationError, match="line break"):
        write_leave_out(listed, folder, {"a\nb.mp4": "black"})
