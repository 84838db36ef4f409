# SPDX-License-Identifier: Apache-2.0
"""In which order clips are read, and what a batch holds."""

from collections import Counter

import pytest
import torch

from tubevit_hf.data import BalancedBatches, ClipDataset, JointBatches, ShuffledBatches, TrainingClip

from ..support.tiny import rows_of, tiny_video_processor


@pytest.mark.parametrize("num_rows", [1, 5, 12, 13, 14, 15, 24])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_every_row_comes_once_on_any_number_of_processes(num_rows, num_processes):
    if num_rows < num_processes:
        with pytest.raises(ValueError, match="too few for"):
            ShuffledBatches(num_rows, 4, 0, 0, num_processes)
        return
    processes = [list(ShuffledBatches(num_rows, 4, 7, index, num_processes)) for index in range(num_processes)]
    assert Counter(row for batches in processes for batch in batches for row in batch) == Counter(range(num_rows))
    # all take part in each step
    assert len({len(batches) for batches in processes}) == 1
    assert all(batch for batches in processes for batch in batches)
    assert len(processes[0]) == len(ShuffledBatches(num_rows, 4, 7, 0, num_processes))
    # together they are the larger batches of one process
    if num_rows % (4 * num_processes) == 0:
        [single] = [list(ShuffledBatches(num_rows, 4 * num_processes, 7))]
        assert [set().union(*step) for step in zip(*processes)] == [set(batch) for batch in single]


def test_epochs_have_orders_of_their_own():
    batches = ShuffledBatches(40, 4)
    first = list(batches)
    batches.set_epoch(0)
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first
    assert list(ShuffledBatches(40, 4, seed=1)) != first


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShuffledBatches(40, 4),
        lambda: BalancedBatches(LABELS, 4),
        lambda: JointBatches({"clips": 30, "pictures": 370}, {"clips": 3.0, "pictures": 1.0}, 4),
    ],
    ids=["shuffled", "balanced", "joint"],
)
def test_a_loop_that_sets_no_epoch_has_them_in_turn(make):
    """Also where a pass is broken off; whoever sets the epoch has that one."""
    batches, told = make(), make()
    for epoch in range(4):
        told.set_epoch(epoch)
        expected = list(told)
        if epoch == 1:
            assert next(iter(batches)) == expected[0]
        else:
            assert list(batches) == expected
    batches.set_epoch(2)
    told.set_epoch(2)
    assert list(batches) == list(told)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_joint_batches_are_of_one_dataset_by_weight(num_processes):
    lengths, weights = {"clips": 30, "pictures": 370}, {"clips": 3.0, "pictures": 1.0}
    batches = [
        batch for index in range(num_processes) for batch in JointBatches(lengths, weights, 2, 0, index, num_processes)
    ]
    assert len(batches) == 200
    names = Counter()
    rows = Counter()
    for batch in batches:
        [name] = {name for name, _ in batch}
        names[name] += 1
        rows.update(batch)
    # 150 expected, six standard deviations of sqrt(200 * 3/16)
    assert abs(names["clips"] - 150) < 37
    # a dataset that is gone through several times is gone through evenly
    seen = [rows["clips", index] for index in range(30)]
    assert max(seen) - min(seen) <= 1
    with pytest.raises(ValueError, match="`weights` must give each of clips, pictures a share above 0"):
        JointBatches(lengths, {"clips": 1.0}, 2)


def test_joint_batches_of_two_processes_are_a_batch_of_one():
    """And so of the same dataset: sharded models have to train the same parameters at each step."""
    lengths, weights = {"clips": 30, "pictures": 70}, {"clips": 3.0, "pictures": 1.0}
    whole = list(JointBatches(lengths, weights, 4, 5))
    parts = zip(*(list(JointBatches(lengths, weights, 2, 5, index, 2)) for index in range(2)))
    assert [sorted(first + second) for first, second in parts] == [sorted(batch) for batch in whole]


LABELS = [0] * 60 + [1] * 3 + [2] * 20


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_balanced_batches_have_as_many_rows_of_each_class(num_processes):
    processes = [BalancedBatches(LABELS, 4, 7, index, num_processes) for index in range(num_processes)]
    seen = Counter()
    for epoch in range(6):
        for batches in processes:
            batches.set_epoch(epoch)
        drawn = [pair for batches in processes for batch in batches for pair in batch]
        # as many rows as there are, and no clip of a row twice
        assert len(drawn) == len(set(drawn)) == len(LABELS)
        counts = Counter(LABELS[row] for row, _ in drawn)
        assert sorted(counts.values()) == [27, 28, 28]
        rows = Counter(row for row, _ in drawn)
        for label in range(3):
            # within a class every row comes as often as others, or once more
            often = [rows[row] for row in range(len(LABELS)) if LABELS[row] == label]
            assert max(often) - min(often) <= 1
        for row, count in rows.items():
            assert {(row, repeat) for repeat in range(count)} <= set(drawn)
        seen += rows
    # of a large class an epoch has some rows, and all have come after some epochs
    assert len(seen) == len(LABELS)
    assert len({len(batches) for batches in processes}) == 1


def test_balanced_batches_depend_on_seed_and_epoch_alone():
    first = list(BalancedBatches(LABELS, 8, 3))
    assert list(BalancedBatches(LABELS, 8, 3)) == first
    assert list(BalancedBatches(LABELS, 8, 4)) != first
    batches = BalancedBatches(LABELS, 8, 3)
    batches.set_epoch(1)
    assert list(batches) != first
    # two processes have what one has
    parts = zip(*(list(BalancedBatches(LABELS, 4, 3, index, 2)) for index in range(2)))
    assert [sorted(one + other) for one, other in parts] == [sorted(batch) for batch in first]


def test_a_row_that_comes_again_is_another_clip(videos):
    rows, load = rows_of(videos, [0, 1, 2]), TrainingClip(tiny_video_processor(), 4, random_crop=True)
    clips = ClipDataset(rows, load)
    # without an epoch each is another
    drawn = {clips[index]["pixel_values"].numpy().tobytes() for index in (1, (1, 0), (1, 1), (1, 2))}
    assert len(drawn) == 4
    clips.set_epoch(0)
    pixels = [clips[index]["pixel_values"] for index in (1, (1, 0), (1, 1), (1, 2))]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
    assert not torch.equal(pixels[2], pixels[3])
    assert clips[1, 2]["labels"] == 1
    clips.set_epoch(1)
    assert not any(torch.equal(clips[1, 0]["pixel_values"], other) for other in pixels)
    # of a number of copies it is one, and all of them in turn
    copied = ClipDataset(rows, load, copies=3)
    copied.set_epoch(0)
    kept = [copied.get_clip(1, copy)["pixel_values"] for copy in range(3)]
    found = [copied[1, repeat]["pixel_values"] for repeat in range(3)]
    assert torch.equal(found[0], kept[0])
    places = [next(place for place, clip in enumerate(kept) if torch.equal(clip, again)) for again in found]
    assert sorted(places) == [0, 1, 2]


@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["shuffled", "balanced"])
def test_what_fills_no_batch_is_dropped(kind, num_processes):
    """Of 83 rows in batches of 4 on each process; other ones in each epoch."""
    together = 4 * num_processes
    left, dropped = 83 - 83 % together, []
    for epoch in range(2):
        processes = [
            ShuffledBatches(83, 4, 7, index, num_processes, drop_last=True)
            if kind == "shuffled"
            else BalancedBatches(LABELS, 4, 7, index, num_processes, drop_last=True)
            for index in range(num_processes)
        ]
        for batches in processes:
            batches.set_epoch(epoch)
        drawn = [list(batches) for batches in processes]
        assert all(len(batches) == len(sampler) == left // together for batches, sampler in zip(drawn, processes))
        assert all(len(batch) == 4 for batches in drawn for batch in batches)
        rows = [row for batches in drawn for batch in batches for row in batch]
        assert len(set(rows)) == left
        dropped.append(set(range(83)) - set(rows) if kind == "shuffled" else frozenset(rows))
    assert dropped[0] != dropped[1]
    with pytest.raises(ValueError, match=r"3 row\(s\) are too few for a batch of 4, and `drop_last`"):
        ShuffledBatches(3, 4, drop_last=True)


def test_joint_batches_that_are_not_full_are_dropped():
    lengths = {"clips": 30, "pictures": 7}
    assert (len(JointBatches(lengths, lengths, 4)), len(JointBatches(lengths, lengths, 4, drop_last=True))) == (10, 9)
    assert [len(batch) for batch in JointBatches(lengths, lengths, 4, drop_last=True)] == [4] * 9
    with pytest.raises(ValueError, match="`dataloader_drop_last`"):
        JointBatches(lengths, lengths, 38, drop_last=True)
