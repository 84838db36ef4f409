# SPDX-License-Identifier: Apache-2.0
"""Which videos train and which validate: those of one group on one side, and on the same side in a second start."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from ..extras import of_extra
from ..folders import csv_lines, write_text
from .annotations import AnnotationError, read_csv
from .groups import find_groups
from .labelled import split_text, texts_of
from .listing import SPLITS
from .splits import get_names, is_multi_label, read_groups


SPLITS_NAME = "splits.csv"
COLUMNS = ("file", "label", "group", "split")


@dataclass(frozen=True)
class Division:
    """Which videos train and which validate.

    Args:
        splits: `"train"` or `"validation"`, of each video.
        groups: of each video, or `None` where nothing tells.
        how: it came about, for a user to read.
    """

    splits: list[str]
    groups: list[str] | None
    how: str

    def select(self, rows: Dataset) -> DatasetDict:
        splits = DatasetDict()
        for split in SPLITS:
            # pyrefly: ignore[unsupported-operation]  datasets' decorators say that it may be a DatasetDict
            splits[split] = rows.select([index for index, found in enumerate(self.splits) if found == split])
        return splits

    def groups_of(self, split: str) -> list[str] | None:
        """Of the videos of a split, in their order."""
        if self.groups is None:
            return None
        return [group for group, found in zip(self.groups, self.splits) if found == split]


def divide(
    rows: Dataset, pattern: str | None = None, by_group: bool = True, share: float = 0.2, seed: int = 0
) -> Division:
    """Divides videos by their group, and as alike in their classes as groups allow; or checks what was divided before.

    Args:
        rows: as [`load_labelled`] gives them.
        pattern: a regular expression that finds the group in a file's name; by default the column `group` tells, or
            else the names, see [`find_groups`].
        by_group: whether there are groups at all.
        share: of the videos that validate.
        seed: of the choice.

    Raises:
        AnnotationError: a group is on both sides of splits that are there already, or videos are too few to divide.
    """
    groups, told_by = tell_groups(rows, pattern) if by_group else (None, "")
    if "split" in rows.features:
        splits = list(rows["split"])
        check_apart(groups, splits)
        check_both(splits)
        how = "as the data has it" + ("" if groups is None else f", no group ({told_by}) on both sides")
        return Division(splits, groups, how)
    splits = choose_validation(rows, groups, share, seed)
    if groups is None:
        how = "by video, classes alike: nothing tells which videos belong together"
    else:
        how = f"by group ({told_by}), classes as alike as groups allow"
    return Division(splits, groups, how)


def tell_groups(rows: Dataset, pattern: str | None) -> tuple[list[str] | None, str]:
    """The group of each video, if anything tells, and what does."""
    if pattern is not None:
        return read_groups(rows, pattern), f"as {pattern!r} finds it in the names"
    if "group" in rows.features:
        return list(map(str, rows["group"])), "as the data names it"
    labels = None if is_multi_label(rows) else list(rows["label"])
    return find_groups(rows["file"], labels), "as the names tell"


def choose_validation(rows: Dataset, groups: Sequence[str] | None, share: float, seed: int) -> list[str]:
    if not 0 < share <= 0.5:
        raise AnnotationError(f"the share for validation must be above 0 and at most 0.5, got {share}.")
    classes = leading_labels(rows)
    names = list(range(len(rows))) if groups is None else [sorted(set(groups)).index(group) for group in groups]
    if len(set(names)) < 2:
        raise AnnotationError(
            f"all {len(rows)} video(s) are of one group, and none is left to validate with. Film more, or say by "
            "--no-groups that there are none."
        )
    if max(Counter(classes).values()) < 2:
        raise AnnotationError("each class has one video, and none is left to validate with. Film more.")
    folds = stratified_folds(np.array(classes), np.array(names), round(1 / share), seed)
    wanted = share * len(rows)

    def rate(fold: int) -> tuple[int, int, float]:
        """The fewer, the better: classes that training lacks, that validation lacks, and how far off the share is."""
        held_out = folds == fold
        kinds = set(classes)
        trained, validated = ({classes[i] for i in np.flatnonzero(side)} for side in (~held_out, held_out))
        return len(kinds - trained), len(kinds - validated), abs(int(held_out.sum()) - wanted)

    best = min(sorted(set(folds.tolist())), key=rate)
    splits = [SPLITS[int(fold == best)] for fold in folds]
    trained = {label for label, split in zip(classes, splits) if split == SPLITS[0]}
    if lacking := sorted(set(classes) - trained):
        label = get_names(rows)[lacking[0]]
        where = next(names[index] for index, found in enumerate(classes) if found == lacking[0])
        group = "one video" if groups is None else f"one group, {sorted(set(groups))[where]!r}"
        raise AnnotationError(
            f"the class {label!r} has only {group}: it cannot be trained and validated. Film more, remove the "
            "class, or give splits."
        )
    return splits


def leading_labels(rows: Dataset) -> list[int]:
    """The class of each video; of several labels the rarest, and -1 where there is none."""
    if not is_multi_label(rows):
        return list(rows["label"])
    counts = Counter(label for labels in rows["label"] for label in labels)
    return [min(labels, key=lambda label: (counts[label], label), default=-1) for labels in rows["label"]]


def stratified_folds(labels: np.ndarray, groups: np.ndarray, num_folds: int, seed: int = 0) -> np.ndarray:
    """Number of the fold of each video: a group is in one fold, and folds are alike in their classes.

    There are fewer folds where groups or the videos of the largest class are fewer.
    """
    with of_extra("demo"):
        from sklearn.model_selection import StratifiedGroupKFold

    largest = int(np.unique(labels, return_counts=True)[1].max())
    num_folds = max(2, min(num_folds, len(np.unique(groups)), largest))
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = np.zeros(len(labels), dtype=int)
    with warnings.catch_warnings():
        # that a class has fewer videos than there are folds
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, test) in enumerate(splitter.split(labels, labels, groups)):
            folds[test] = number
    return folds


def check_apart(groups: Sequence[str] | None, splits: Sequence[str]) -> None:
    """Raises an `AnnotationError` with the groups that are on both sides."""
    sides: dict[str, Counter[str]] = defaultdict(Counter)
    for group, split in zip(groups or (), splits):
        sides[group][split] += 1
    both = {group: counts for group, counts in sides.items() if len(counts) > 1}
    if both:
        shown = ", ".join(
            f"{group} ({' and '.join(f'{counts[split]} in {split}' for split in SPLITS)})"
            for group, counts in sorted(both.items())[:5]
        )
        more = f" and {len(both) - 5} more" if len(both) > 5 else ""
        raise AnnotationError(
            f"{len(both)} group(s) are in both splits, and the validation would say little about others: {shown}"
            f"{more}. Move their videos to one side, name groups otherwise by --group-pattern, or say by --no-groups "
            "that there are none."
        )


def check_both(splits: Sequence[str]) -> None:
    for split in SPLITS:
        if split not in splits:
            raise AnnotationError(f"none of the {len(splits)} videos is in the split {split!r}.")


def write_division(path: Path, rows: Dataset, division: Division) -> None:
    """A table that [`read_division`] reads again. It is there in full, or as it was."""
    groups = division.groups or [""] * len(rows)
    write_text(path, csv_lines([COLUMNS, *zip(rows["file"], texts_of(rows), groups, division.splits)]))


def differs(text: str, other: str, classes: Collection[str]) -> bool:
    """Whether two texts name other labels; their order says nothing."""
    return sorted(split_text(text, classes)) != sorted(split_text(other, classes))


def read_division(path: Path, rows: Dataset) -> Division:
    """What was divided in an earlier start; a user may have changed it.

    Raises:
        AnnotationError: it is of other videos or labels, or a group is on both sides.
    """
    noted = {row["file"]: row for _, row in read_csv(str(path), COLUMNS)}
    files, classes = list(rows["file"]), get_names(rows)
    changed = [
        file
        for file, label in zip(files, texts_of(rows))
        if file in noted and differs(noted[file]["label"], label, classes)
    ]
    for what, found in (
        ("are new", sorted(set(files) - set(noted))),
        ("are gone", sorted(set(noted) - set(files))),
        ("have another label", changed),
    ):
        if found:
            raise AnnotationError(
                f"{path} was written for other videos: {len(found)} {what}, {found[0]} the first. Choose "
                "another folder by --out, or remove this one to begin anew."
            )
    splits = [noted[file]["split"] for file in files]
    if wrong := set(splits) - set(SPLITS):
        raise AnnotationError(f"{path}: a split must be train or validation, got {sorted(wrong)[0]!r}.")
    groups = [noted[file]["group"] for file in files]
    division = Division(splits, groups if any(groups) else None, f"as {path} has it")
    check_apart(division.groups, splits)
    check_both(splits)
    return division
