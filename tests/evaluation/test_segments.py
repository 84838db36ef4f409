# SPDX-License-Identifier: Apache-2.0
"""Mean average precision of segments, against a count by hand and a loop."""

import numpy as np
import pytest

from tubevit_hf.evaluation import segment_mean_average_precision


def naive(found, actual, overlap: float) -> float:
    """Recall by recall: the best precision of all cuts of the list that reach it."""
    precisions = []
    for label in {segment[2] for segments in actual for segment in segments}:
        guesses = sorted(
            ([*guess, video] for video, segments in enumerate(found) for guess in segments if guess[2] == label),
            key=lambda guess: guess[3],
            reverse=True,
        )
        total = sum(segment[2] == label for segments in actual for segment in segments)
        taken, right = set(), []
        for start, end, _, _, video in guesses:
            best, chosen = 0.0, None
            for number, (begin, stop, name) in enumerate(actual[video]):
                shared = max(0.0, min(end, stop) - max(start, begin))
                share = shared / (max(end, stop) - min(start, begin)) if shared else 0.0
                if name == label and (video, number) not in taken and share > best:
                    best, chosen = share, (video, number)
            right.append(best >= overlap)
            if right[-1]:
                taken.add(chosen)
        cuts = [(sum(right[:count]), sum(right[:count]) / count) for count in range(1, len(right) + 1)]
        reached = [max((p for hits, p in cuts if hits >= wanted), default=0.0) for wanted in range(1, total + 1)]
        precisions.append(sum(reached) / total)
    return sum(precisions) / len(precisions)


def test_by_hand():
    actual = [[(0.0, 2.0, "a"), (2.0, 4.0, "b")], [(0.0, 1.0, "a")]]
    found = [
        # half of it; the same again, which is too much; of another class
        [(0.0, 1.0, "a", 0.9), (0.0, 2.0, "a", 0.8), (2.0, 4.0, "c", 0.9)],
        # two of the three seconds are wrong
        [(0.0, 3.0, "a", 0.7), (0.25, 1.0, "a", 0.6)],
    ]
    # a: right, wrong, wrong, right of two; b: none
    assert segment_mean_average_precision(found, actual) == pytest.approx((1 / 2 + 2 / 4 / 2) / 2)
    # the first is now wrong, the second right
    assert segment_mean_average_precision(found, actual, 0.7) == pytest.approx((1 / 2 + 2 / 4) / 2 / 2)


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.75])
def test_against_a_loop(overlap):
    rng = np.random.default_rng(0)

    def draw(number: int, *scores):
        starts = rng.uniform(0, 20, number)
        return [
            (start, start + rng.uniform(0.5, 6), str(rng.choice(list("abc"))), *(rng.random() for _ in scores))
            for start in starts
        ]

    actual = [draw(9), draw(0), draw(14)]
    # some are near what is there
    near = [[(s + rng.normal() / 2, e + rng.normal() / 2, n, rng.random()) for s, e, n in part] for part in actual]
    found = [part + draw(7, "score") for part in near]
    result = segment_mean_average_precision(found, actual, overlap)
    assert result == pytest.approx(naive(found, actual, overlap))
    assert 0.02 < result < 0.98
    perfect = [[(*segment, 0.5) for segment in part] for part in actual]
    assert segment_mean_average_precision(perfect, actual, 1.0) == pytest.approx(1)
    assert segment_mean_average_precision([[], [], []], actual, overlap) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="segments of 1 videos were found, and 2 have actual ones"):
        segment_mean_average_precision([[]], [[], []])
    with pytest.raises(ValueError, match="no video has a segment"):
        segment_mean_average_precision([[(0.0, 1.0, "a", 0.5)]], [[]])
    with pytest.raises(ValueError, match="`overlap` must be above 0 and at most 1, got 0"):
        segment_mean_average_precision([[]], [[(0.0, 1.0, "a")]], 0)
