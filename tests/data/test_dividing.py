# SPDX-License-Identifier: Apache-2.0
"""Which videos train and which validate."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, List

from tubevit_hf.data.annotations import AnnotationError
from tubevit_hf.data.dividing import divide, read_division, stratified_folds, write_division

from ..support.tiny import rows_of


def rows(names: list[str], labels: list, classes: int = 3, several: bool = False):
    label = ClassLabel(names=[f"class{number}" for number in range(classes)])
    found = rows_of(names, labels, List(label) if several else label)
    return found.add_column("file", names)


def named(num_groups: int, per_group: int, classes: int = 3):
    """Clips of `person01` and others, of all classes."""
    names = [f"person{g:02d}_{n}.mp4" for g in range(num_groups) for n in range(per_group)]
    return rows(names, [number % classes for number in range(len(names))], classes)


def test_folds_keep_groups_together():
    labels, groups = np.arange(40) % 4, np.arange(40) // 4
    folds = stratified_folds(labels, groups, 5)
    assert sorted(set(folds)) == [0, 1, 2, 3, 4]
    for group in range(10):
        assert len(set(folds[groups == group])) == 1
    assert np.bincount(folds).tolist() == [8] * 5
    # the least that is allowed: two videos of a class, two groups
    assert sorted(set(stratified_folds(np.array([0, 0, 1, 1]), np.arange(4), 5))) == [0, 1]
    folds = stratified_folds(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1]), 5)
    assert sorted(np.bincount(folds)) == [2, 3]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_groups", "per_group"), [(4, 30), (10, 6), (25, 7)])
def test_groups_are_on_one_side_and_classes_alike(num_groups, per_group, seed):
    data = named(num_groups, per_group)
    division = divide(data, seed=seed)
    assert "by group (as the names tell)" in division.how
    sides = {group: set() for group in division.groups}
    for group, split in zip(division.groups, division.splits):
        sides[group].add(split)
    assert all(len(found) == 1 for found in sides.values())
    parts = division.select(data)
    wanted = len(data) / min(5, num_groups)
    assert abs(len(parts["validation"]) - wanted) <= per_group
    counts = Counter(parts["validation"]["label"])
    assert max(counts.values()) - min(counts.values()) <= max(2, 0.3 * wanted)
    # the same again, and another by another seed
    assert divide(data, seed=seed) == division
    if num_groups == 25:
        assert divide(data, seed=seed + 1).splits != division.splits


def test_every_class_is_trained():
    """The fold is one that leaves each class something to train on, and if it can something to validate with."""
    names = [f"person{g:02d}_{n}.mp4" for g in range(6) for n in range(10)]
    # of class 2 there are videos of two persons only
    labels = [2 if g < 2 and n < 3 else n % 2 for g in range(6) for n in range(10)]
    for seed in range(8):
        parts = divide(rows(names, labels), seed=seed).select(rows(names, labels))
        assert set(parts["train"]["label"]) == set(parts["validation"]["label"]) == {0, 1, 2}
    # of class 2 there are videos of one person only: they train
    labels = [2 if g < 1 and n < 3 else n % 2 for g in range(6) for n in range(10)]
    for seed in range(8):
        parts = divide(rows(names, labels), seed=seed).select(rows(names, labels))
        assert set(parts["train"]["label"]) == {0, 1, 2}


def test_where_nothing_tells_groups():
    names = [f"{number:04d}.mp4" for number in range(40)]
    division = divide(rows(names, [number % 3 for number in range(40)]))
    assert division.groups is None
    assert "by video, classes alike: nothing tells which videos belong together" in division.how
    assert division.splits.count("validation") == 8
    # a pattern or a column tells
    division = divide(rows(names, [number % 3 for number in range(40)]), pattern=r"^\d\d(\d)")
    assert sorted(set(division.groups)) == ["0", "1", "2", "3"]
    data = rows(names, [number % 3 for number in range(40)]).add_column("group", [f"g{n // 4}" for n in range(40)])
    assert set(divide(data).groups) == {f"g{number}" for number in range(10)}
    assert divide(data, by_group=False).groups is None


def test_several_labels():
    labels = [[n % 2, 2] if n % 10 < 4 else [n % 2] if n % 10 < 9 else [] for n in range(60)]
    data = rows([f"person{n // 6:02d}_{n}.mp4" for n in range(60)], labels, several=True)
    division = divide(data)
    parts = division.select(data)
    assert {label for labels in parts["validation"]["label"] for label in labels} == {0, 1, 2}
    assert not set(division.groups_of("train")) & set(division.groups_of("validation"))


def test_what_was_noted_is_read_again(tmp_path):
    data = named(10, 6)
    division = divide(data, seed=3)
    write_division(tmp_path / "splits.csv", data, division)
    found = read_division(tmp_path / "splits.csv", data)
    assert (found.splits, found.groups) == (division.splits, division.groups)
    # whatever letters names have
    odd = named(10, 6)
    odd = odd.remove_columns("file").add_column("file", [name.replace("_", "\r\n_\r") for name in odd["file"]])
    write_division(tmp_path / "odd.csv", odd, division)
    assert read_division(tmp_path / "odd.csv", odd).splits == division.splits
    # in any order
    turned = data.select(range(len(data) - 1, -1, -1))
    found = read_division(tmp_path / "splits.csv", turned)
    assert found.splits == division.splits[::-1]
    with pytest.raises(AnnotationError, match=r"1 are gone, person00_0\.mp4 the first"):
        read_division(tmp_path / "splits.csv", data.select(range(1, 60)))
    write_division(tmp_path / "splits.csv", data.select(range(1, 60)), divide(data.select(range(1, 60))))
    with pytest.raises(AnnotationError, match=r"1 are new, person00_0\.mp4 the first"):
        read_division(tmp_path / "splits.csv", data)
    write_division(tmp_path / "splits.csv", data, division)
    other = rows(list(data["file"]), [(label + 1) % 3 for label in data["label"]])
    with pytest.raises(AnnotationError, match="60 have another label"):
        read_division(tmp_path / "splits.csv", other)


@pytest.mark.parametrize(
    ("names", "labels", "arguments", "message"),
    [
        (["a.mp4", "b.mp4"], [0, 1], {}, "each class has one video"),
        (["a1.mp4", "a2.mp4", "a3.mp4"], [0, 1, 0], {"pattern": "a"}, r"all 3 video\(s\) are of one group"),
        (["a.mp4", "b.mp4"], [0, 1], {"share": 0.7}, "at most 0.5, got 0.7"),
    ],
)
def test_too_little_to_divide(names, labels, arguments, message):
    with pytest.raises(AnnotationError, match=message):
        divide(rows(names, labels, 2), **arguments)


def test_nothing_half_written(tmp_path: Path, monkeypatch):
    data = named(10, 6)
    write_division(tmp_path / "splits.csv", data, divide(data))
    before = (tmp_path / "splits.csv").read_bytes()
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_division(tmp_path / "splits.csv", data, divide(data, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["splits.csv"]
    assert (tmp_path / "splits.csv").read_bytes() == before
