# SPDX-License-Identifier: Apache-2.0
"""What names of files tell about where clips are from."""

import itertools
from collections.abc import Callable
from hashlib import sha256

import pytest

from tubevit_hf.data.groups import find_groups


CLASSES = ["brush_hair", "walk", "Archery"]


def name_all(name: Callable[[str, int, int], str], groups: int = 5, clips: int = 3) -> tuple[list[str], list[int]]:
    """Names of some clips of some groups in each class, and their labels."""
    triples = list(itertools.product(range(len(CLASSES)), range(groups), range(clips)))
    return [name(CLASSES[label], group, clip) for label, group, clip in triples], [label for label, *_ in triples]


def film(group: int) -> str:
    return ["April_09", "Lord_of_the_Rings", "jump", "Prelinger_2", "x"][group]


NAMES = {
    "UCF101": (lambda c, g, k: f"v_{c}_g{g:02d}_c{k:02d}.avi", lambda g: f"g{g:02d}"),
    "KTH": (lambda c, g, k: f"person{g:02d}_{c}_d{k}_uncomp.avi", lambda g: f"person{g:02d}"),
    "UT-Interaction": (lambda c, g, k: f"set{g % 2}_seq{g // 2}_{7 * g + k}.avi", lambda g: f"set{g % 2}_seq{g // 2}"),
    "Kinetics": (lambda c, g, k: f"-a_B{g}-xyz_Q_{k:06d}_{k + 10:06d}.mp4", lambda g: f"-a_B{g}-xyz_Q"),
    "YouTube": (lambda c, g, k: f"-aB{g}-xyz_Qr_{k:05d}.mp4", lambda g: f"-aB{g}-xyz_Qr"),
    "NTU RGB+D": (lambda c, g, k: f"S001C00{k}P00{g}R001A0{len(c):02d}_rgb.avi", lambda g: f"P00{g}"),
    "words": (lambda c, g, k: f"{c}/Subject_{g}-take-{k}.mov", lambda g: f"subject{g}"),
    "last": (lambda c, g, k: f"{k}_{c}_person{g}.mp4", lambda g: f"person{g}"),
    "UCF11": (lambda c, g, k: f"v_{c}_{g:02d}_{k:02d}.mpg", lambda g: f"{g:02d}"),
    "MSR Action": (lambda c, g, k: f"a{len(c)}_s{g:02d}_e{k:02d}_rgb.avi", lambda g: f"s{g:02d}"),
}


@pytest.mark.parametrize("dataset", NAMES)
def test_groups_in_names(dataset):
    name, group = NAMES[dataset]
    names, labels = name_all(name)
    expected = [group(g) for _, g, _ in itertools.product(CLASSES, range(5), range(3))]
    assert find_groups(names, labels) == expected
    # whatever order they come in
    assert find_groups(names[::-1], labels[::-1]) == expected[::-1]


def test_groups_that_need_labels():
    names, labels = name_all(lambda c, g, k: f"{film(g)}_{c}_u_nm_np1_ba_goo_{k}.avi")
    films = [film(g).casefold() for _, g, _ in itertools.product(CLASSES, range(5), range(3))]
    assert find_groups(names, labels) == films
    people = ["ann", "bob", "cleo", "dan", "eve"]
    names, labels = name_all(lambda c, g, k: f"{people[g]}_{c}_{k}.mp4")
    assert find_groups(names, labels) == [people[g] for _, g, _ in itertools.product(CLASSES, range(5), range(3))]
    assert find_groups(names) is None


@pytest.mark.parametrize("dataset", ["UCF101", "KTH", "UT-Interaction", "Kinetics", "YouTube", "NTU RGB+D", "last"])
def test_without_labels(dataset):
    name, group = NAMES[dataset]
    assert find_groups(name_all(name)[0]) == [group(g) for _, g, _ in itertools.product(CLASSES, range(5), range(3))]


NOTHING = {
    "numbers": lambda c, g, k: f"{3 * g + k:04d}.mp4",
    "the class and a number": lambda c, g, k: f"{c}_{3 * g + k:02d}.mp4",
    "a class with a digit": lambda c, g, k: f"class{len(c)}_{3 * g + k}.mp4",
    "a number and its date": lambda c, g, k: f"{c}_{3 * g + k}_2024010{len(c) % 10}.mp4",
    "conditions": lambda c, g, k: f"{'slow' if g % 2 else 'fast'}_{c}_{3 * g + k}.mp4",
    "numbered videos": lambda c, g, k: f"{c}_video{3 * g + k:02d}.mp4",
    "hashes": lambda c, g, k: f"{sha256(f'{c}{g}{k}'.encode()).hexdigest()}.mp4",
    "no two of a source": lambda c, g, k: f"-aB{g}{k}{len(c):x}xyz_Qr_000001_000011.mp4",
    "people who are seen once": lambda c, g, k: f"{c}_person{len(c) * 100 + 3 * g + k}.mp4",
    "nothing but the class": lambda c, g, k: f"{c}.mp4",
}


@pytest.mark.parametrize("case", NOTHING)
def test_names_that_tell_nothing(case):
    names, labels = name_all(NOTHING[case])
    assert find_groups(names, labels) is None
    assert find_groups(names) is None


@pytest.mark.parametrize("word", ["person", "group"])
def test_classes_that_are_called_like_groups(word):
    """Folds of such groups would be folds of classes."""
    names, labels = name_all(lambda c, g, k: f"{word}{len(c)}_{3 * g + k}.mp4")
    assert find_groups(names, labels) is None


def test_few_names():
    assert find_groups([]) is None
    assert find_groups(["person01_a.mp4"], [0]) is None
    with pytest.raises(ValueError, match=r"2 names need as many labels, got 1"):
        find_groups(["a.mp4", "b.mp4"], [0])
