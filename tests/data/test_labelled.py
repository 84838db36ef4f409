# SPDX-License-Identifier: Apache-2.0
"""Datasets as they lie on the Hub: a table beside videos, Parquet files that hold them, labels that are no classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, Video

from tubevit_hf.data import AnnotationError, drop_unreadable, splits
from tubevit_hf.data.dividing import divide, read_division, write_division
from tubevit_hf.data.labelled import load_labelled
from tubevit_hf.data.moving_digits import write_video
from tubevit_hf.data.splits import load_by_name, path_of


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    """Three of each class: `run`, `fall` and `sit`, of three persons."""
    folder = tmp_path_factory.mktemp("videos")
    frames = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    for label in ("run", "fall", "sit"):
        (folder / label).mkdir()
        for number in range(3):
            write_video(folder / label / f"person{number}_{label}.mp4", frames + number, frames_per_second=4)
    return sorted(folder.rglob("*.mp4"))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A folder, beside what Datasets keeps of what it has read."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_table(folder: Path, videos: list[Path], labels: list[object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for path, label in zip(videos, labels):
        shutil.copy(path, folder / path.name)
        lines.append(json.dumps({"file_name": path.name, "label": label}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def write_parquet(path: Path, videos: list[Path], labels: list[object], feature: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"video": [{"bytes": file.read_bytes(), "path": file.name} for file in videos], "label": labels}
    Dataset.from_dict(rows, features=Features({"video": Video(), "label": feature})).to_parquet(path)


def test_videos_with_a_table(videos, data):
    lines = ["file_name,label"]
    for path in videos:
        shutil.copy(path, data / path.name)
        lines.append(f"{path.name},{path.parent.name}")
    (data / "metadata.csv").write_text("\n".join(lines))
    rows = load_labelled(data)
    names = rows.features["label"].names
    assert names == ["fall", "run", "sit"]
    found = {(file, names[label]) for file, label in zip(rows["file"], rows["label"])}
    assert found == {(path.name, path.parent.name) for path in videos}
    assert all(Path(path_of(row)).read_bytes() for row in rows)
    assert set(divide(rows).groups) == {"person0", "person1", "person2"}
    # a table of other kinds beside class folders means nothing
    classes = videos[0].parent.parent
    (classes / "metadata.csv").write_text("name,place\nx,kitchen\n")
    assert len(load_labelled(classes)) == 9
    (classes / "metadata.csv").unlink()


@pytest.mark.parametrize("line", ["3", "null", '["file_name", "label"]', "x" * 200_000, "\0\x01"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_other_files_of_the_same_name_are_no_tables(name, line, videos, tmp_path):
    folder = shutil.copytree(videos[0].parents[1], tmp_path / "classes")
    (folder / name).write_text(line)
    assert len(load_labelled(folder)) == 9


def test_a_class_may_be_called_like_a_table(videos, tmp_path):
    folder = shutil.copytree(videos[0].parents[1], tmp_path / "classes")
    (folder / "run").rename(folder / "metadata.csv")
    assert load_labelled(folder).features["label"].names == ["fall", "metadata.csv", "sit"]


@pytest.mark.parametrize("second", ["test", "val", "garden"])
def test_a_table_above_its_splits(second, videos, data, caplog):
    """Folders that are called like splits are, as Datasets has it; others are not."""
    lines = ["file_name,label"]
    for number, path in enumerate(videos):
        place = data / (second if number % 3 == 2 else "train")
        place.mkdir(exist_ok=True)
        shutil.copy(path, place)
        lines.append(f"{place.name}/{path.name},{path.parent.name}")
    (data / "metadata.csv").write_text("\n".join(lines[:-1]))
    rows = load_labelled(data)
    assert "1 video(s) that no table metadata names are left out" in caplog.text
    if second == "val":
        assert rows["split"][:] == ["train"] * 6 + ["validation"] * 2
    else:
        assert len(rows) == (6 if second == "test" else 8)
        assert ("test is not used" in caplog.text) == (second == "test")


def test_a_line_of_json_may_have_any_letters(videos, data):
    """Some end a line for Python, but not in JSON."""
    table = write_table(data, videos[:2], ["a\u2028b", "c\x85d"]) / "metadata.jsonl"
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert load_labelled(data).features["label"].names == ["a\u2028b", "c\x85d"]


def test_a_table_for_each_split_and_several_labels(videos, data):
    labels = [[path.parent.name] + ["odd"] * (path.stem[6] == "1") for path in videos]
    write_table(data / "train", videos[::2], labels[::2])
    write_table(data / "validation", videos[1::2], labels[1::2])
    rows = load_labelled(data)
    names = rows.features["label"].feature.names
    assert names == ["fall", "odd", "run", "sit"]
    # a name is a path where the folder has others too
    found = {file: [names[label] for label in row] for file, row in zip(rows["file"], rows["label"])}
    expected = {f"train/{path.name}": label for path, label in zip(videos[::2], labels[::2])}
    expected |= {f"validation/{path.name}": label for path, label in zip(videos[1::2], labels[1::2])}
    assert found == expected
    assert [file.split("/")[0] for file in rows["file"]] == rows["split"][:]
    assert load_by_name(str(data))["train"].features["label"].feature.names == names


@pytest.mark.parametrize(
    ("feature", "labels", "names"),
    [
        (Value("string"), ["run", "fall", "sit"], ["fall", "run", "sit"]),
        (Value("int64"), [2, 0, 1], ["0", "1", "2"]),
        (ClassLabel(names=["run", "fall", "sit"]), [0, 1, 2], ["run", "fall", "sit"]),
        (List(Value("int32")), [[0, 2], [0], []], ["0", "1", "2"]),
    ],
    ids=["texts", "numbers", "classes", "lists"],
)
def test_parquet_files_that_hold_videos(feature, labels, names, videos, data, caplog):
    write_parquet(data / "train-00000-of-00001.parquet", videos[:6], labels * 2, feature)
    write_parquet(data / "test-00000-of-00001.parquet", videos[6:], labels, feature)
    rows = load_labelled(data)
    assert "it has no split validation, so train is divided; test is not used" in caplog.text
    assert rows["file"][:] == [path.name for path in videos[:6]]
    assert [path_of(row) for row in rows] == [path.read_bytes() for path in videos[:6]]
    label = rows.features["label"]
    assert (label.feature if isinstance(label, List) else label).names == names
    expected = [names.index(label) if label in names else label for label in labels * 2]
    assert rows["label"][:] == expected


def test_videos_of_the_same_name_are_told_apart(videos, data):
    file = data / "train.parquet"
    write_parquet(file, videos, [path.parent.name for path in videos], Value("string"))
    rows = Dataset.from_parquet(str(file)).cast_column("video", Video(decode=False))
    short = rows.map(lambda row: {"video": {**row["video"], "path": row["video"]["path"].split("_")[0] + ".mp4"}})
    short.to_parquet(file)
    assert load_labelled(data)["file"][:] == [f"{path.parent.name}/{path.stem[:7]}.mp4" for path in videos]


def test_a_name_on_the_hub(videos, data, monkeypatch):
    write_parquet(data / "data.parquet", videos, [path.parent.name for path in videos], Value("string"))
    asked = []

    def load_dataset(name):
        asked.append(name)
        return splits.load_from_disk(data / "saved")

    Dataset.from_parquet(str(data / "data.parquet")).save_to_disk(data / "saved")
    monkeypatch.setattr(splits, "load_dataset", load_dataset)
    assert len(load_labelled("somebody/videos")) == 9
    assert asked == ["somebody/videos"]


def test_what_is_no_dataset_of_videos_is_one_line(videos, data):
    write_parquet(data / "test.parquet", videos, [None, *["run"] * 8], Value("string"))
    with pytest.raises(AnnotationError, match="of its splits test, none is called train"):
        load_labelled(data)
    (data / "test.parquet").rename(data / "train.parquet")
    with pytest.raises(AnnotationError, match="row 0 has the label None"):
        load_labelled(data)
    Dataset.from_dict({"text": ["a"]}).to_parquet(data / "train.parquet")
    with pytest.raises(AnnotationError, match="it has no column 'video', only text"):
        load_labelled(data)
    (data / "train.parquet").write_text("no table")
    with pytest.raises(AnnotationError, match="Datasets cannot load it"):
        load_labelled(data)
    Dataset.from_dict({"video": ["a"], "label": [0.5]}).to_parquet(data / "train.parquet")
    with pytest.raises(AnnotationError, match="must be a ClassLabel"):
        load_labelled(data)
    folder = write_table(data / "broken", videos, [path.parent.name for path in videos])
    (folder / videos[3].name).unlink()
    # passed over, as every video that cannot be opened
    found = drop_unreadable(load_labelled(folder), "the data")
    assert sorted(found["file"]) == sorted(path.name for path in videos if path != videos[3])


def write_labels(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["file,label", *lines]))
    return path


def labels_of(rows: Dataset) -> dict[str, object]:
    label = rows.features["label"]
    return dict(zip(rows["file"], map(getattr(label, "feature", label).int2str, rows["label"])))


@pytest.mark.parametrize("given", ["absolute", "relative", "through a link"])
def test_absolute_paths_in_a_table(given, videos, tmp_path, monkeypatch, caplog):
    folder = videos[0].parents[1]
    lines = [f"{path},{path.parent.name}" for path in videos]
    table = write_labels(tmp_path / "labels.csv", *lines)
    monkeypatch.chdir(folder.parent)
    (tmp_path / "link").symlink_to(folder)
    place = {"absolute": folder, "relative": Path(folder.name), "through a link": tmp_path / "link"}[given]
    rows = load_labelled(place, table)
    assert labels_of(rows) == {path.relative_to(folder).as_posix(): path.parent.name for path in videos}
    assert caplog.text == ""
    # those of another machine
    write_labels(table, *(line.replace(str(folder), r"D:\Anna\clips").replace("/", "\\") for line in lines[1:]))
    assert len(load_labelled(place, table)) == len(videos) - 1
    assert f"1 video(s) of {place} are not in {table} and are left out." in caplog.text


def test_a_table_says_on_purpose_that_videos_have_several_labels(videos, tmp_path):
    folder = videos[0].parents[1]
    table = tmp_path / "labels.csv"
    names = [path.relative_to(folder).as_posix() for path in videos]
    write_labels(table, f"{names[0]},a", f"{names[1]},b", f"{names[0]},b")
    assert labels_of(load_labelled(folder, table)) == {names[0]: ["a", "b"], names[1]: ["b"]}
    write_labels(table, f"{names[0]},a", f"{names[1]},b", f"{names[0].upper()},b")
    with pytest.raises(AnnotationError, match=rf"line 4: '{names[0].upper()}' means .*'{names[0]}' in .*line 2"):
        load_labelled(folder, table)
    write_labels(table, f"{names[0]},a", f"{names[1]},b", f"./{names[0]},a")
    assert labels_of(load_labelled(folder, table)) == {names[0]: "a", names[1]: "b"}
    missing = names[0].replace(".mp4", ".avi")
    write_labels(table, f"{names[0]},a", f"{names[1]},b", f"{missing},b")
    with pytest.raises(AnnotationError, match=rf"1 of its videos are not in .*: {missing} \(there is .*{names[0]}\)"):
        load_labelled(folder, table)
    write_labels(table, f"{names[0]},a", " ,b")
    with pytest.raises(AnnotationError, match="line 3: it names no file"):
        load_labelled(folder, table)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_names_and_labels_of_a_table_stay_texts(kind, videos, data):
    """Labels such as 007 are no numbers, and names may be written on Windows."""
    lines = ["file_name,label"]
    for number, path in enumerate(videos[:3]):
        (data / "a").mkdir(exist_ok=True)
        shutil.copy(path, data / "a" / f"00{number}.mp4")
        lines.append(f"a\\00{number}.mp4,00{number}")
    if kind == "jsonl":
        pairs = [line.split(",") for line in lines[1:]]
        lines = [json.dumps({"file_name": file, "label": label}) for file, label in pairs]
    (data / f"metadata.{kind}").write_text("\n".join(lines))
    expected = {f"a/00{number}.mp4": f"00{number}" for number in range(3)}
    assert labels_of(load_labelled(data)) == expected
    assert sorted(load_by_name_of_one(data)) == sorted(expected.values())
    if kind == "csv":
        (data / "metadata.csv").write_text("\n".join(line.replace(",00", ",1") for line in lines))
        # numbers are those of classes
        assert load_labelled(data).features["label"].names == [str(number) for number in range(13)]


def load_by_name_of_one(folder: Path) -> list[str]:
    return splits.open_dataset(str(folder))["train"].features["label"].names


def test_a_class_may_have_the_separator_in_its_name(videos, tmp_path):
    for number, path in enumerate(videos):
        label = ("a;b", "a", "b")[number % 3]
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / label / path.name)
    rows = load_labelled(tmp_path / "data")
    division = divide(rows)
    write_division(tmp_path / "splits.csv", rows, division)
    assert read_division(tmp_path / "splits.csv", rows).splits == division.splits
    text = (tmp_path / "splits.csv").read_text()
    (tmp_path / "splits.csv").write_text(text.replace(",a;b,", ",b;a,"))
    with pytest.raises(AnnotationError, match="3 have another label"):
        read_division(tmp_path / "splits.csv", rows)


def test_where_videos_have_several_labels_no_class_has_the_separator(videos, data):
    write_parquet(data / "train.parquet", videos[:2], [["a;b", "c"], ["c"]], List(Value("string")))
    with pytest.raises(AnnotationError, match="the class 'a;b' has a ';', which stands between the labels"):
        load_labelled(data)


def test_a_saved_dataset_is_told_by_what_is_in_its_files(videos, tmp_path):
    rows = load_labelled(videos[0].parents[1])
    rows.save_to_disk(tmp_path / "saved")
    assert splits.is_dataset(tmp_path / "saved")
    for text in ("", "{}", "[]", '{"_data_files": 1}', '{"step": 3}'):
        (tmp_path / "saved" / "state.json").write_text(text)
        assert not splits.is_dataset(tmp_path / "saved"), text
