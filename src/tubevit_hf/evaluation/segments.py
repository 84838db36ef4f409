# SPDX-License-Identifier: Apache-2.0
"""How well segments of long videos are found: mean average precision at an overlap in time.

As ActivityNet's and THUMOS' evaluations count: <https://github.com/activitynet/ActivityNet>.
"""

from collections.abc import Sequence

import numpy as np


# start and end in seconds, label, and of what was found its score
Found = tuple[float, float, str, float]
Actual = tuple[float, float, str]


def segment_mean_average_precision(
    found: Sequence[Sequence[Found]], actual: Sequence[Sequence[Actual]], overlap: float = 0.5
) -> float:
    """Average precision of each class that occurs, averaged over these.

    A found segment is right if it overlaps an actual one of its class by `overlap` or more, and none with a higher
    score did; of several, it takes the one that it overlaps most. Precision is interpolated: at each recall the best
    that is reached at that recall or a higher one.

    Args:
        found: of each video its segments, `(start, end, label, score)`.
        actual: the same without scores.
        overlap: least quotient of the time that two segments share and the time that either has (tIoU).

    Raises:
        ValueError: there are no actual segments, other numbers of videos, or `overlap` is out of range.
    """
    if len(found) != len(actual):
        raise ValueError(f"segments of {len(found)} videos were found, and {len(actual)} have actual ones.")
    if not 0 < overlap <= 1:
        raise ValueError(f"`overlap` must be above 0 and at most 1, got {overlap}.")
    labels = sorted({label for segments in actual for _, _, label in segments})
    if not labels:
        raise ValueError("no video has a segment, and so no class a precision.")
    return float(np.mean([average_precision(found, actual, label, overlap) for label in labels]))


def average_precision(
    found: Sequence[Sequence[Found]], actual: Sequence[Sequence[Actual]], label: str, overlap: float
) -> float:
    """Of one class."""
    wanted = [np.array([segment[:2] for segment in segments if segment[2] == label]) for segments in actual]
    is_taken = [np.zeros(len(segments), dtype=bool) for segments in wanted]
    guesses = [
        (score, video, start, end)
        for video, segments in enumerate(found)
        for start, end, name, score in segments
        if name == label
    ]
    guesses.sort(key=lambda guess: -guess[0])
    is_right = np.zeros(len(guesses))
    for rank, (_, video, start, end) in enumerate(guesses):
        if len(wanted[video]) == 0:
            continue
        overlaps = np.where(is_taken[video], 0, overlaps_in_time(start, end, wanted[video]))
        best = overlaps.argmax()
        if overlaps[best] >= overlap:
            is_taken[video][best] = is_right[rank] = True
    num_right = is_right.cumsum()
    precision = num_right / np.arange(1, len(guesses) + 1)
    # at each rank the best from there on
    best_precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_precision * is_right).sum() / sum(map(len, wanted)))


def overlaps_in_time(start: float, end: float, segments: np.ndarray) -> np.ndarray:
    """What a segment shares with others, of what either has: `(segments, 2) -> (segments,)`."""
    shared = (np.minimum(end, segments[:, 1]) - np.maximum(start, segments[:, 0])).clip(min=0)
    either = (end - start) + (segments[:, 1] - segments[:, 0]) - shared
    return shared / np.where(either > 0, either, 1)
