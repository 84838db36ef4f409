# SPDX-License-Identifier: Apache-2.0
"""From scores over time to segments: what happens from when to when."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..model.video_sources_tubevit import printable


# seconds: lengths that are equal but for so much are equal
ROUNDING = 1e-6
# players take for tags and commands what stands in some brackets or behind a backslash
IN_SUBTITLES = str.maketrans(
    "<>{}\\", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}()/"
)


class Segment(NamedTuple):
    """What happens from when to when.

    Args:
        start, end: in seconds after the first frame.
        label: name of the class.
        score: its mean probability there.
    """

    start: float
    end: float
    label: str
    score: float


def find_segments(
    times: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    threshold: float = 0.3,
    smoothing: float | None = None,
    min_length: float | None = None,
) -> list[Segment]:
    """Segments in which a class is likely. Those of two classes may overlap if `threshold` is below one half.

    A window tells of the time around its middle: up to halfway to the middles of its neighbours, and to the ends of
    the timeline.

    Args:
        times: start and end of each window, `(windows, 2)`, in seconds, ascending.
        scores: probabilities of the classes in each, `(windows, labels)`. A window of NaN is as its neighbours are.
        labels: names of the classes.
        threshold: least probability. Where everything is one of the classes, 0.5 finds less and is seldom wrong
            (benchmarks/timeline.py).
        smoothing: each window gets the mean of those whose middles lie within a span of so many seconds around its
            own; by default the length of a window, 0 for none.
        min_length: gaps of a class that are shorter are closed, and then segments that are shorter dropped, in
            seconds; by default a quarter of the length of a window, 0 for none.

    Returns:
        By their starts.

    Raises:
        ValueError: an argument is out of range, or shapes do not go together.
    """
    if times.ndim != 2 or scores.ndim != 2 or times.shape != (len(scores), 2) or scores.shape[1] != len(labels):
        raise ValueError(
            f"`times` must be (windows, 2) and `scores` (windows, {len(labels)} labels), got {times.shape} and "
            f"{scores.shape}."
        )
    if len(times) == 0:
        return []
    length = float(times[0, 1] - times[0, 0])
    smoothing = length if smoothing is None else smoothing
    min_length = length / 4 if min_length is None else min_length
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` must be above 0 and at most 1, got {threshold}.")
    for name, seconds in {"smoothing": smoothing, "min_length": min_length}.items():
        if not 0 <= seconds < np.inf:
            raise ValueError(f"`{name}` must be 0 seconds or more, got {seconds}.")

    middles = times.mean(axis=1)
    # where the time that a window tells of begins, and the end of all
    bounds = np.concatenate((times[:1, 0], (middles[1:] + middles[:-1]) / 2, times[-1:, 1]))
    smooth = average_over_time(middles, scores, smoothing)
    segments = []
    for column, label in enumerate(labels):
        runs = list(find_runs(smooth[:, column] >= threshold))
        for first, stop in close_gaps(runs, bounds, min_length):
            start, end = float(bounds[first]), float(bounds[stop])
            if end - start >= min_length - ROUNDING:
                mean = np.average(smooth[first:stop, column], weights=np.diff(bounds[first : stop + 1]))
                segments.append(Segment(start, end, label, float(mean)))
    return sorted(segments, key=lambda segment: (segment.start, segment.end))


def average_over_time(middles: np.ndarray, scores: np.ndarray, span: float) -> np.ndarray:
    """Means over the windows within `span` around each, those of NaN left out: `(windows, labels)`, float64. Where
    there are no others, 0."""
    is_there = ~np.isnan(scores)
    first = np.searchsorted(middles, middles - span / 2 - ROUNDING)
    stop = np.searchsorted(middles, middles + span / 2 + ROUNDING, side="right")

    def sum_up(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate((np.zeros((1, values.shape[1])), values.cumsum(axis=0, dtype=np.float64)))
        return sums[stop] - sums[first]

    return sum_up(np.where(is_there, scores, 0)) / sum_up(is_there).clip(min=1)


def find_runs(is_likely: np.ndarray) -> Iterator[tuple[int, int]]:
    """First window and one past the last of each run of windows that are."""
    edges = np.flatnonzero(np.diff(is_likely.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist())


def close_gaps(runs: list[tuple[int, int]], bounds: np.ndarray, min_length: float) -> list[tuple[int, int]]:
    """Joins runs between which lies less than `min_length`."""
    closed: list[tuple[int, int]] = []
    for first, stop in runs:
        if closed and bounds[first] - bounds[closed[-1][1]] < min_length - ROUNDING:
            closed[-1] = (closed[-1][0], stop)
        else:
            closed.append((first, stop))
    return closed


def format_srt(segments: Sequence[Segment], start_seconds: float = 0.0) -> str:
    """Segments as subtitles, which players show over the video.

    Args:
        segments: in seconds after the first frame.
        start_seconds: when players show that frame, see [`Timeline`].
    """
    entries = []
    for number, segment in enumerate(segments, start=1):
        span = f"{format_time(start_seconds + segment.start)} --> {format_time(start_seconds + segment.end)}"
        # an empty line would end the entry
        label = " ".join(segment.label.split()).translate(IN_SUBTITLES)
        entries.append(f"{number}\n{span}\n{printable(label)} ({segment.score:.0%})\n")
    return "\n".join(entries)


def format_time(seconds: float) -> str:
    """As subtitles write it: hours, minutes, seconds, milliseconds."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
