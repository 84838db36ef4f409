# SPDX-License-Identifier: Apache-2.0
"""Groups of clips, as the names of files tell them: of one person, scene or source video.

Clips of one group resemble each other in more than their label. If some are trained on and others evaluated on, the
accuracy tells how well a model knows the room, not what happens in it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import PurePath


# words that number who is seen, wherever they stand in a name: `walking_person01`
SUBJECTS = {"actor", "animal", "mouse", "participant", "patient", "person", "player", "sub", "subj", "subject", "user"}
# words that number what a clip is cut from, if a number of the clip comes after: `set1_seq03_5`
SOURCES = {
    *("ep", "episode", "film", "group", "movie", "rec", "recording", "scene", "seq", "sequence", "session"),
    *("source", "src", "vid", "video"),
}
# names of data sets, whose group is what the pattern holds
CONVENTIONS = [
    # UCF101: v_Archery_g01_c02
    re.compile(r"_(g\d+)_c\d+$"),
    # NTU RGB+D, set-up, camera, person, repetition, action: S001C002P003R002A013
    re.compile(r"^S\d{3}C\d{3}(P\d{3})R\d{3}A\d{3}(?!\d)"),
]
# Kinetics: what was cut, and from which second to which
CUTS = re.compile(r"^(.+)_\d{6}_\d{6}$")
# HMDB51: behind the name of the film and the class what is visible, how the camera moves, from where, how good
HMDB51 = re.compile(r"^(.+)_[fhlu]_(?:cm|nm)_np\d_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+$")


def find_groups(names: Sequence[str], labels: Sequence[int] | None = None) -> list[str] | None:
    """What the names of files tell about who or what their clips are taken from.

    Names of known data sets are known, others are cut into words. `person01` counts anywhere, `seq03` before the
    clip's number, with what tells sequences of the same number apart. A part without such a word counts if it comes
    back within classes and the clip's number follows, as in `shooting_07_02`. Nothing is said where it could as well
    be a number of the clip: most groups must have several clips and most classes several groups.

    Args:
        names: of the files, or their paths, of which the last part counts.
        labels: the class of each; without, the words without a digit stand for it.

    Returns:
        A group for each name, such as `set1_seq03` for `set1_seq03_5.avi`, `g01` for `v_Archery_g01_c02.avi` and
        `person01` for `person01_walking_d1.avi`; `None` where the names tell nothing, as `0001.mp4`.

    Raises:
        ValueError: there are not as many labels as names.
    """
    if labels is not None and len(labels) != len(names):
        raise ValueError(f"{len(names)} names need as many labels, got {len(labels)}.")
    stems = [PurePath(name).stem for name in names]
    words = [split_words(stem) for stem in stems]
    classes: list[Hashable] = list(labels) if labels is not None else [no_digits(parts) for parts in words]
    for groups in find_known(stems, words, classes):
        if are_groups(groups, classes, least=2):
            return groups
    groups = find_cuts(stems)
    if groups is not None:
        return groups
    for parts in (without_constant(words, classes), [[word for word in parts if has_digit(word)] for parts in words]):
        groups = find_numbered(parts)
        if groups is not None and are_groups(groups, classes, least=4) and come_back(groups, classes):
            return groups
    return None


def match_groups(names: Sequence[str], pattern: str, where: str) -> list[str]:
    """For each name what a regular expression finds in it: its first group, or all of the match.

    Args:
        names: of files, or their paths.
        pattern: the regular expression.
        where: what the names are, for the error.

    Raises:
        ValueError: it is no regular expression, or finds nothing in a name.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error}).") from error
    groups: list[str] = []
    for name in names:
        match = regex.search(name)
        found = match and (match[1] if regex.groups else match[0])
        if found is None:
            raise ValueError(f"{name}: {pattern!r} finds no group in {where}.")
        groups.append(found)
    return groups


def split_words(stem: str) -> list[str]:
    """`Subject_01-walk_2` -> `["subject01", "walk", "2"]`."""
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", stem.casefold()):
        if words and word.isdigit() and words[-1] in SUBJECTS | SOURCES:
            words[-1] += word
        else:
            words.append(word)
    return words


def has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def no_digits(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if not has_digit(word))


def find_known(
    stems: Sequence[str], words: Sequence[Sequence[str]], classes: Sequence[Hashable]
) -> Iterator[list[str]]:
    """What known words and data sets say, if all names have it."""
    for pattern in CONVENTIONS:
        found = [pattern.search(stem) for stem in stems]
        groups = [match[1] for match in found if match]
        if len(groups) == len(stems):
            yield groups
    found = [HMDB51.search(stem) for stem in stems]
    films = [split_words(match[1]) for match in found if match]
    if len(films) == len(stems):
        yield ["_".join(parts) for parts in without_common_end(films, classes)]
    constant = find_constant(words, classes)
    for kind in (SUBJECTS, SOURCES):
        numbered = re.compile(rf"(?:{'|'.join(kind)})\d+")
        groups = []
        for parts, same in zip(words, constant):
            place = next((place for place, word in enumerate(parts) if numbered.fullmatch(word)), None)
            if place is None:
                break
            if kind is SUBJECTS:
                groups.append(parts[place])
            elif any(has_digit(word) for word in parts[place + 1 :]):
                # the third sequence of a set is another than that of the next set
                before = [word for word in parts[:place] if has_digit(word) and word not in same]
                groups.append("_".join([*before, parts[place]]))
        if len(groups) == len(words):
            yield groups


def find_cuts(stems: Sequence[str]) -> list[str] | None:
    """The source video by its identifier, where at least one has several clips: identifiers need no other proof."""
    found = [CUTS.search(stem) for stem in stems]
    groups = [match[1] for match in found if match]
    if len(groups) != len(stems):
        found = [re.fullmatch(r"([\w-]{11})_\d+", stem) for stem in stems]
        groups = [match[1] for match in found if match]
        # identifiers of YouTube mix their letters, where words do not
        num_mixed = sum(group != group.lower() and group != group.upper() for group in groups)
        if len(groups) != len(stems) or num_mixed < 0.9 * len(groups):
            return None
    return groups if 1 < len(set(groups)) < len(groups) else None


def find_numbered(words: Sequence[Sequence[str]]) -> list[str] | None:
    """All words but the last, which tells the clip, if all names have as many words, and any before it."""
    if not words or len({len(parts) for parts in words}) != 1 or len(words[0]) < 2:
        return None
    varying = [place for place in range(len(words[0])) if len({parts[place] for parts in words}) > 1]
    return ["_".join(parts[place] for place in varying[:-1]) for parts in words] if len(varying) > 1 else None


def find_constant(words: Sequence[Sequence[str]], classes: Sequence[Hashable]) -> list[set[str]]:
    """For each name the words that all of its class have."""
    common: dict[Hashable, set[str]] = {}
    for parts, label in zip(words, classes):
        common[label] = common[label] & set(parts) if label in common else set(parts)
    return [common[label] for label in classes]


def without_constant(words: Sequence[Sequence[str]], classes: Sequence[Hashable]) -> list[list[str]]:
    """The words without those that all of a class have, its own name among them."""
    constant = find_constant(words, classes)
    return [[word for word in parts if word not in same] for parts, same in zip(words, constant)]


def without_common_end(words: Sequence[list[str]], classes: Sequence[Hashable]) -> list[list[str]]:
    """The words without the last ones that all of a class share: `april_09_brush_hair` -> `april_09`."""
    of_class: dict[Hashable, list[list[str]]] = defaultdict(list)
    for parts, label in zip(words, classes):
        of_class[label].append(parts[::-1])
    lengths = {}
    for label, several in of_class.items():
        lengths[label] = next(
            (place for place, column in enumerate(zip(*several)) if len(set(column)) > 1),
            min(len(parts) for parts in several) - 1,
        )
    return [parts[: len(parts) - lengths[label]] for parts, label in zip(words, classes)]


def are_groups(groups: Sequence[str], classes: Sequence[Hashable], least: int) -> bool:
    """Whether they are enough, most have several clips, and most classes several of them."""
    sizes = Counter(groups)
    of_class: dict[Hashable, set[str]] = defaultdict(set)
    for group, label in zip(groups, classes):
        of_class[label].add(group)
    have_clips = 2 * sum(size > 1 for size in sizes.values()) > len(sizes)
    have_groups = 2 * sum(len(found) > 1 for found in of_class.values()) > len(of_class)
    return len(sizes) >= least and have_clips and have_groups


def come_back(groups: Sequence[str], classes: Sequence[Hashable]) -> bool:
    """Whether most groups have several clips of one class, so that they do not just count a class' clips."""
    sizes = Counter(zip(groups, classes))
    return 2 * sum(size > 1 for size in sizes.values()) > len(sizes)
