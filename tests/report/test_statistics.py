# SPDX-License-Identifier: Apache-2.0
"""Numbers of a report against loops that count one by one."""

from math import sqrt

import numpy as np
import pytest

from tubevit_hf.report.measurement import split_by_length
from tubevit_hf.report.statistics import (
    average_precisions,
    bootstrap_mean_precision,
    bootstrap_share,
    calibrate,
    wilson_share,
)

from .conftest import make_measurement


# of the standard normal distribution, at 97.5%
QUANTILE = 1.959963984540054


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 24), (23, 24), (24, 24), (422, 440), (7, 13)])
def test_wilson_interval(count, of):
    # Wilson, 1927: where the normal distribution of the true share just reaches what was counted
    share = count / of
    centre = (share + QUANTILE**2 / (2 * of)) / (1 + QUANTILE**2 / of)
    radius = QUANTILE * sqrt(share * (1 - share) / of + QUANTILE**2 / (4 * of**2)) / (1 + QUANTILE**2 / of)
    found = wilson_share(count, of)
    assert (found.count, found.of, found.value) == (count, of, share)
    assert found.low == pytest.approx(max(0, centre - radius), abs=1e-12)
    assert found.high == pytest.approx(min(1, centre + radius), abs=1e-12)


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one video"):
        wilson_share(0, 0)


def test_bootstrap_draws_whole_groups():
    generator = np.random.default_rng(1)
    groups = [f"g{index % 9}" for index in range(90)]
    # videos of a group are right together
    right = np.array([hash_of(group) % 3 > 0 for group in groups]) ^ (generator.random(90) < 0.1)
    found = bootstrap_share(right, groups, seed=5)
    draws = []
    for drawn in np.random.default_rng(5).integers(9, size=(2_000, 9)):
        rights = [right[row] for group in drawn for row in range(90) if groups[row] == f"g{group}"]
        draws.append(sum(rights) / len(rights))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert found == bootstrap_share(right, groups, seed=5)
    # wider than of videos by themselves, which they are not
    assert found.width > wilson_share(int(right.sum()), 90).width


def hash_of(group: str) -> int:
    return int(group[1:]) * 7 + 1


def test_groups_that_are_all_alike_count_as_one_video_each():
    groups = [f"g{index % 4}" for index in range(24)]
    found = bootstrap_share(np.ones(24, dtype=bool), groups)
    assert (found.value, found.high) == (1, 1)
    assert found.low == wilson_share(4, 4).low
    half = bootstrap_share(np.array([True, False] * 12), [f"g{index // 2}" for index in range(24)])
    assert (half.value, half.low, half.high) == (0.5, wilson_share(6, 12).low, wilson_share(6, 12).high)


def test_the_wider_interval_is_the_one_to_go_by():
    found = make_measurement()
    assert found.num_groups == 7
    both = (found.accuracy, found.accuracy_by_groups)
    assert found.best_interval is max(both, key=lambda share: share.width)


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_classes(several, seed):
    found = make_measurement(several=several, seed=seed, skill=1.0)
    for index, one in enumerate(found.classes):
        said = [(video.scores[index] >= 0.5) if several else (video.predicted == one.label) for video in found.videos]
        is_one = [one.label in video.labels for video in found.videos]
        hits = sum(a and b for a, b in zip(said, is_one))
        assert (one.number, one.predicted) == (sum(is_one), sum(said))
        assert one.precision == (pytest.approx(hits / sum(said)) if sum(said) else None)
        assert (one.recall.value if one.recall else None) == (hits / sum(is_one) if sum(is_one) else None)
        assert one.f1 == pytest.approx(2 * hits / (sum(said) + sum(is_one)) if hits else 0)
    # of the last class there are no videos
    assert found.classes[-1].recall is None
    recalls = [one.recall.value for one in found.classes if one.recall]
    assert found.mean_recall == pytest.approx(sum(recalls) / 4)
    assert found.majority_share == max(one.number for one in found.classes) / 60


def test_confusions():
    found = make_measurement(skill=0.5)
    expected = [[0] * 5 for _ in range(5)]
    for video in found.videos:
        expected[found.labels.index(video.labels[0])][found.labels.index(video.predicted)] += 1
    assert found.confusion == expected
    assert sum(expected[index][index] for index in range(5)) == found.accuracy.count
    assert make_measurement(several=True).confusion is None


@pytest.mark.parametrize("seed", range(3))
def test_average_precision(seed):
    generator = np.random.default_rng(seed)
    scores, present = generator.random((30, 4)), generator.random((30, 4)) < 0.3
    present[:, 3] = False
    expected = []
    for label in range(4):
        order = sorted(range(30), key=lambda row: -scores[row, label])
        hits, total = 0, 0.0
        for rank, row in enumerate(order, start=1):
            if present[row, label]:
                hits += 1
                total += hits / rank
        expected.append(pytest.approx(total / hits) if hits else None)
    assert average_precisions(scores, present) == expected


def test_mean_average_precision_and_its_interval():
    found = make_measurement(several=True)
    value, low, high = found.mean_average_precision
    assert value == pytest.approx(np.mean([one.average_precision for one in found.classes[:4]]))
    assert low < value < high
    # of videos that are all one group there is nothing to draw
    scores = np.array([video.scores for video in found.videos])
    present = np.array([[label in video.labels for label in found.labels] for video in found.videos])
    assert bootstrap_mean_precision(scores, present, ["one"] * 60) == pytest.approx((value, value))
    assert make_measurement().mean_average_precision is None


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error(seed):
    generator = np.random.default_rng(seed)
    confidence = generator.beta(3, 1.5, size=50)
    confidence[:3] = (0.0, 1.0, 0.5)
    right = generator.random(50) < confidence**2
    expected = 0.0
    for number in range(10):
        low, high = number / 10, (number + 1) / 10
        rows = [row for row in range(50) if low < confidence[row] <= high or (number == 0 and confidence[row] == 0)]
        if rows:
            sure = sum(confidence[row] for row in rows) / len(rows)
            hits = sum(right[row] for row in rows) / len(rows)
            expected += len(rows) / 50 * abs(sure - hits)
    found = calibrate(confidence, right)
    assert found.error == pytest.approx(expected)
    assert sum(one.number for one in found.bins) == 50
    assert found.confidence == pytest.approx(confidence.mean())


def test_chance_alone_makes_a_calibration_error():
    generator = np.random.default_rng(0)
    # in how many of 200 sets does a perfectly calibrated model exceed what it should in one of twenty?
    above = 0
    for _ in range(200):
        confidence = generator.uniform(0.4, 1, size=24)
        found = calibrate(confidence, generator.random(24) < confidence)
        above += found.error > found.by_chance
    assert 1 <= above <= 24
    # and one that is always sure and half of the time wrong exceeds it by far
    found = calibrate(np.full(24, 0.99), np.arange(24) % 2 == 0)
    assert found.error > 2 * found.by_chance


def test_parts_by_length():
    found = make_measurement(num_videos=61)
    parts = found.lengths
    assert len(parts) == 3
    assert sum(part.accuracy.of for part in parts) == 61
    assert max(part.accuracy.of for part in parts) - min(part.accuracy.of for part in parts) <= 1
    for part in parts:
        inside = [video.right for video in found.videos if part.shortest <= video.length <= part.longest]
        assert (part.accuracy.count, part.accuracy.of) == (sum(inside), len(inside))


def test_videos_of_one_length_have_no_parts():
    videos = make_measurement().videos
    assert split_by_length([replaced(video, 2.0) for video in videos]) == []
    assert split_by_length([replaced(video, None) for video in videos]) == []
    # those of a length are together
    halves = split_by_length([replaced(video, 1.0 + index % 2) for index, video in enumerate(videos)])
    assert [(part.shortest, part.longest, part.accuracy.of) for part in halves] == [(1, 1, 30), (2, 2, 30)]


def replaced(video, length):
    return type(video)(**{**vars(video), "length": length})
