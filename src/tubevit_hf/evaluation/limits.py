# SPDX-License-Identifier: Apache-2.0
"""What numbers of few videos do not show, as sentences: the same after a training and in a report."""

from collections.abc import Sequence


FEW_GROUPS = 10
# classes, lengths and the like that are named one by one
MOST = 5


def limit_of_groups(number: int | None, hint: str) -> str | None:
    """What follows from how many groups the videos are of, if anything does.

    Args:
        number: of groups; `None` where nothing tells.
        hint: how to tell them.
    """
    if number is None:
        return (
            "Nothing tells which videos show the same person, place or take. If such are among both the training "
            f"videos and these, the accuracy on new ones is lower; {hint}."
        )
    if number < FEW_GROUPS:
        return (
            f"The videos are of {number} groups only, and videos of one are alike: new groups may do better or worse "
            "than the interval says."
        )
    return None


def limit_of_absent(labels: Sequence[str]) -> str | None:
    """Of classes without a video, if there are any."""
    return f"Not measured, for want of videos: {name_some(labels)}." if labels else None


def name_some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST])
    return shown if len(names) <= MOST else f"{shown} and {len(names) - MOST} more"
