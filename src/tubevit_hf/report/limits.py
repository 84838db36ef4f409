# SPDX-License-Identifier: Apache-2.0
"""What the numbers do not show, or show to be bad, in plain words."""

from collections.abc import Iterator

from ..evaluation.limits import MOST, limit_of_absent, limit_of_groups, name_some
from .measurement import Measurement
from .statistics import ClassScores


# an interval that is wider leaves open whether a model is good
WIDE = 0.1
FEW_VIDEOS = 5
LOW_RECALL = 0.5


def list_limits(measurement: Measurement) -> list[str]:
    """Sentences for people who do not read intervals, the gravest first."""
    return [
        *measurement.warnings,
        *of_size(measurement),
        *of_groups(measurement),
        *of_classes(measurement),
        *of_confidence(measurement),
        *of_lengths(measurement),
        *of_training(measurement),
        *of_files(measurement),
        *of_kind(measurement),
    ]


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def of_size(measurement: Measurement) -> Iterator[str]:
    share = measurement.best_interval
    if share.low <= measurement.majority_share:
        yield (
            f"It is not shown to be better than always saying {measurement.majority!r}, which is right for "
            f"{percent(measurement.majority_share)} of these videos."
        )
    if share.width <= WIDE:
        return
    anywhere = f"may be anywhere from {percent(share.low)} to {percent(share.high)}"
    if share is measurement.accuracy_by_groups:
        yield (
            f"The videos are of {measurement.num_groups} groups, and those of one are alike: the accuracy on new "
            f"groups {anywhere}. To know it better, measure more groups rather than more videos of these."
        )
    else:
        # widths shrink with the root of the number
        wanted = share.of * (share.width / WIDE) ** 2
        yield (
            f"{share.of} videos are few: the accuracy on many more like them {anywhere}. To know it within 5 points, "
            f"measure about {10 * round(wanted / 10):,}."
        )


def of_groups(measurement: Measurement) -> Iterator[str]:
    limit = limit_of_groups(measurement.num_groups, "`--groups` finds them in the names")
    # an interval over groups says it already
    if limit is not None and (measurement.num_groups is None or measurement.best_interval is measurement.accuracy):
        yield limit


def of_classes(measurement: Measurement) -> Iterator[str]:
    found = [(one, one.recall) for one in measurement.classes if one.recall is not None]
    # where it is low, or lower than that of all without a doubt
    low = [
        (one, recall)
        for one, recall in found
        if recall.value < LOW_RECALL or (recall.of >= FEW_VIDEOS and recall.high < measurement.accuracy.value)
    ]
    for one, recall in sorted(low, key=lambda pair: pair[1].value)[:MOST]:
        yield (
            f"Of {recall.of} videos of {one.label!r} {recall.count} were recognised ({percent(recall.value)})"
            f"{taken_for(measurement, one)}."
        )
    if len(low) > MOST:
        yield f"{len(low) - MOST} more classes are recognised as seldom; the table of classes has them."
    if absent := limit_of_absent([one.label for one in measurement.classes if one.recall is None]):
        yield absent
    few = [one.label for one, recall in found if recall.of < FEW_VIDEOS]
    if few:
        yield f"Fewer than {FEW_VIDEOS} videos, too few to judge the class by itself: {name_some(few)}."


def taken_for(measurement: Measurement, one: ClassScores) -> str:
    """For which other class most videos of one were taken."""
    if measurement.confusion is None:
        return ""
    index = measurement.labels.index(one.label)
    counts = [0 if other == index else count for other, count in enumerate(measurement.confusion[index])]
    return (
        f"; most of the others were taken for {measurement.labels[counts.index(max(counts))]!r}" if max(counts) else ""
    )


def of_confidence(measurement: Measurement) -> Iterator[str]:
    found = measurement.calibration
    if found.error > found.by_chance:
        accuracy = measurement.accuracy.value
        how = "too sure of itself" if found.confidence > accuracy else "surer than it says"
        yield (
            f"Its scores are no probabilities: it is {how}, with a mean highest score of {percent(found.confidence)} "
            f"where {percent(accuracy)} are right."
        )


def of_lengths(measurement: Measurement) -> Iterator[str]:
    parts = measurement.lengths
    if parts:
        worst = min(parts, key=lambda part: part.accuracy.value)
        best = max(parts, key=lambda part: part.accuracy.value)
        if worst.accuracy.high < best.accuracy.low:
            yield (
                f"Length matters: of videos of {worst.shortest:.1f} to {worst.longest:.1f} s "
                f"{percent(worst.accuracy.value)} are right, of those of {best.shortest:.1f} to {best.longest:.1f} s "
                f"{percent(best.accuracy.value)}."
            )


def of_training(measurement: Measurement) -> Iterator[str]:
    found = measurement.history.still_does_as_well
    if found is not None:
        yield (
            f"In cross-validation what stands still did as well ({percent(found[0])}) as what moves "
            f"({percent(found[1])}): it may go by the place or the people and not by what they do."
        )


def of_files(measurement: Measurement) -> Iterator[str]:
    if measurement.failed:
        yield f"{len(measurement.failed)} files could not be read and are not in any number: {measurement.failed[0]}"


def of_kind(measurement: Measurement) -> Iterator[str]:
    if not measurement.several:
        yield (
            f"It always answers with one of its {len(measurement.labels)} classes, also for a video that shows none "
            "of them."
        )
