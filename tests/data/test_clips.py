# SPDX-License-Identifier: Apache-2.0
"""What clips of training and of evaluation are made of."""

import copy
import pickle

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from datasets import ClassLabel, List
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Subset
from transformers.video_utils import VideoMetadata

from tubevit_hf import read_video
from tubevit_hf.data import (
    ClipDataset,
    EvaluationViews,
    TrainingClip,
    collate_clips,
    pack_clips,
)
from tubevit_hf.data.clips import FrameSampler, spatial_crops

from ..support.tiny import rows_of, tiny_video_processor


def augmented() -> TrainingClip:
    processor = tiny_video_processor()
    return TrainingClip(processor, 4, fps=5, random_crop=True, horizontal_flip=True, rand_augment=(2, 10))


def all_clips(dataset: ClipDataset, num_workers: int) -> torch.Tensor:
    loader = DataLoader(dataset, 2, collate_fn=collate_clips, num_workers=num_workers)
    return torch.cat([batch["pixel_values"] for batch in loader])


def test_clips_depend_on_seed_epoch_and_row_alone(videos):
    rows = rows_of(videos, [0, 2, 1])
    dataset = ClipDataset(rows, augmented(), seed=1)
    dataset.set_epoch(0)
    first = all_clips(dataset, num_workers=0)
    state = torch.get_rng_state()
    assert all_clips(dataset, num_workers=2).equal(first)
    torch.manual_seed(5)
    assert dataset[2]["pixel_values"].equal(first[2])
    # nor is the generator of whoever asks moved
    torch.set_rng_state(state)
    dataset[0]
    assert torch.get_rng_state().equal(state)

    dataset.set_epoch(1)
    second = all_clips(dataset, num_workers=0)
    assert not second.equal(first)
    other = ClipDataset(rows, augmented(), seed=2)
    other.set_epoch(0)
    assert not all_clips(other, num_workers=0).equal(first)
    with pytest.raises(ValueError, match="`epoch` must be at least 0, or None, got -1"):
        dataset.set_epoch(-1)


def read_epochs(dataset, num_workers: int = 0, **settings) -> list[torch.Tensor]:
    """The clips of the rows in order, `(rows, ...)`, in four passes of one loader."""
    loader = DataLoader(dataset, 2, collate_fn=collate_clips, num_workers=num_workers, **settings)
    return [torch.cat([batch["pixel_values"] for batch in loader]) for _ in range(4)]


def count_different(clips: list[torch.Tensor]) -> int:
    return len({clip.numpy().tobytes() for epoch in clips for clip in epoch})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("whole", {}),
        ("whole", {"num_workers": 2}),
        ("whole", {"num_workers": 2, "persistent_workers": True}),
        ("subset", {}),
        ("joined", {"num_workers": 2, "persistent_workers": True}),
    ],
)
def test_a_loop_that_sets_no_epoch_sees_other_clips_in_each(kind, settings, videos):
    """And with the same seed the same."""
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), augmented())
    if kind != "whole":
        dataset = Subset(dataset, [2, 0, 1]) if kind == "subset" else ConcatDataset([dataset, dataset])
    first = read_epochs(dataset, **settings)
    # of 3 or 6 rows; no row has the clip of another, nor the same twice
    assert count_different(first) == 4 * len(dataset)
    assert count_different([*first, *read_epochs(dataset, **settings)]) == 8 * len(dataset)
    torch.manual_seed(0)
    again = read_epochs(dataset, **settings)
    assert all(one.equal(other) for one, other in zip(first, again))


def test_an_epoch_that_was_set_can_be_given_back(videos):
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), augmented())
    dataset.set_epoch(3)
    assert count_different(read_epochs(dataset)) == 3
    dataset.set_epoch(None)
    assert count_different(read_epochs(dataset)) == 12


def test_two_processes_draw_different_clips(videos):
    """Of one seed, and with the same rows in both: as a plain Trainer's ranks read them."""
    dataset = ClipDataset(rows_of(videos * 2, [0, 2, 1] * 2), augmented())
    found = []
    for rank in range(2):
        torch.manual_seed(0)
        order = BatchSampler(SeedableRandomSampler(dataset, data_seed=5), 2, drop_last=False)
        loader = DataLoader(dataset, batch_sampler=BatchSamplerShard(order, 2, rank), collate_fn=collate_clips)
        found += [batch["pixel_values"] for _ in range(4) for batch in loader]
    # three batches of two in two processes are four: one comes twice, as another clip
    assert count_different(found) == 4 * 8


def test_where_nothing_is_random_nothing_is_drawn(videos):
    rows, processor = rows_of(videos, [0, 2, 1]), tiny_video_processor()
    state = torch.get_rng_state()
    for load in (EvaluationViews(processor, 4, fps=5, num_clips=2), TrainingClip(processor, 4)):
        for copies in (None, 1, 3):
            ClipDataset(rows, load, copies=copies)[1]
    assert torch.get_rng_state().equal(state)
    ClipDataset(rows, augmented())[1]
    assert not torch.get_rng_state().equal(state)


def test_copies_are_drawn_where_nobody_sets_the_epoch(videos):
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), augmented(), copies=3)
    copies = [dataset.get_clip(1, epoch)["pixel_values"] for epoch in range(3)]
    drawn = [dataset[1]["pixel_values"] for _ in range(30)]
    assert {next(place for place, one in enumerate(copies) if one.equal(clip)) for clip in drawn} == {0, 1, 2}


def loads() -> list:
    processor = tiny_video_processor()
    return [
        augmented(),
        TrainingClip(processor, 4, random_crop=True, time_scale=0.5, color_jitter=0.4),
        TrainingClip(processor, 7, fps=5, short_clips="pad"),
        EvaluationViews(processor, 4, fps=5, num_clips=2, num_crops=3, mirror=True),
        EvaluationViews(processor, 7, num_clips=2, short_clips="pad"),
    ]


@pytest.mark.parametrize("load", loads(), ids=["windows", "span", "pad", "views", "views of all"])
def test_clips_pickle(load, videos):
    """For workers that are spawned, as on macOS, Windows and, by a server, on Linux from Python 3.14 on."""
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), load, seed=3)
    dataset.set_epoch(2)
    for other in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        assert all(one[name].equal(dataset[0][name]) for one in [other[0]] for name in one)
        # its own epoch, which its own workers see
        other.set_epoch(1)
        assert (dataset.get_epoch(), other.get_epoch(), other.epoch.is_shared()) == (2, 1, True)


def test_spawned_workers_that_stay_learn_of_the_epoch(videos):
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), augmented())
    settings = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"}
    loader = DataLoader(dataset, 3, collate_fn=collate_clips, **settings)
    drawn = [next(iter(loader))["pixel_values"] for _ in range(2)]
    assert count_different(drawn) == 6
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        [batch] = loader
        assert batch["pixel_values"].equal(all_clips(dataset, num_workers=0))


def test_rows_without_labels(videos):
    clip = TrainingClip(tiny_video_processor(), 7, fps=5, short_clips="pad")
    rows = rows_of(videos, [0, None, None])
    several = rows_of(videos, [None, None, None], List(ClassLabel(names=["a", "b"])))
    for unlabelled in (rows.remove_columns("label"), rows.select([1, 2]), several):
        dataset = ClipDataset(unlabelled, clip, name="motions")
        assert list(dataset[0]) == ["pixel_values", "dataset"]
        clips = [dataset[index] for index in range(2)]
        assert list(collate_clips(clips)) == ["pixel_values", "frame_mask", "dataset"]
        assert list(pack_clips(clips)) == ["pixel_values", "dataset"]
    mixed = ClipDataset(rows, clip)
    for batch in ([0, 1], [1, 0]):
        with pytest.raises(ValueError, match="some clips of the batch have labels and others have none"):
            collate_clips([mixed[index] for index in batch])


def test_workers_that_stay_learn_of_the_epoch(videos):
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), augmented())
    loader = DataLoader(dataset, 3, collate_fn=collate_clips, num_workers=1, persistent_workers=True)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        [batch] = loader
        assert batch["pixel_values"].equal(all_clips(dataset, num_workers=0))


def test_all_frames_of_a_clip_are_augmented_alike(videos):
    """A still clip stays one."""
    still = TrainingClip(tiny_video_processor(), 4, random_crop=True, horizontal_flip=True, rand_augment=(2, 10))
    frames, _ = read_video(videos[0], [3, 3, 3, 3])
    for seed in range(20):
        torch.manual_seed(seed)
        clip = still.augment(frames)
        assert clip.equal(clip[:1].expand_as(clip))


def test_labels(videos):
    clip = TrainingClip(tiny_video_processor(), 4)
    assert ClipDataset(rows_of(videos, [0, 2, 1]), clip)[1]["labels"].equal(torch.tensor(2))
    several = rows_of(videos, [[0, 2], [], [1]], List(ClassLabel(names=["a", "b", "c"])))
    batch = collate_clips([ClipDataset(several, clip)[index] for index in range(3)])
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert batch["pixel_values"].shape == (3, 4, 3, 40, 56)


def test_views_are_crops_of_spaced_clips(videos):
    processor = tiny_video_processor()
    views = EvaluationViews(processor, 4, fps=5, num_clips=2, num_crops=3)(videos[0])
    assert views.shape == (6, 4, 3, 40, 56)
    arguments = {"num_frames": 4, "fps": 5, "frame_sampling": "spaced", "num_clips": 2}
    uncropped = processor(videos[0], **arguments, do_center_crop=False, return_tensors="pt")["pixel_values"]
    _, _, _, height, width = uncropped.shape
    assert width > 56
    number = 0
    for left in (0, round((width - 56) / 2), width - 56):
        for clip in uncropped:
            top = round((height - 40) / 2)
            assert views[number].equal(clip[:, :, top : top + 40, left : left + 56])
            number += 1


@pytest.mark.parametrize(("total", "num_clips"), [(300, 4), (29, 2), (7, 3), (5, 4), (1, 2)])
def test_views_of_all_of_a_video_lie_between_each_other(total, num_clips):
    """Frames as far apart as those that the model is trained on."""
    metadata = VideoMetadata(total_num_frames=total, fps=25, video_backend="pyav")
    clips = FrameSampler(7, None, "spaced", num_clips)(metadata).reshape(num_clips, 7)
    training = FrameSampler(7, None, "random")(metadata)
    assert clips[0].tolist() == training.tolist()
    in_between = clips.T.reshape(-1)
    assert (np.diff(in_between) >= 0).all()
    assert (np.diff(in_between) <= np.ceil(total / (7 * num_clips))).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrainingClip(tiny_video_processor(), 0), "`num_frames` must be at least 1.*got 0"),
        (lambda: TrainingClip(tiny_video_processor(), 4, fps=-3.0), "`fps` above 0, got 4 and -3.0"),
        (lambda: TrainingClip(tiny_video_processor(), 4, rand_augment=[2]), r"two numbers.*got \[2\]"),
        (lambda: TrainingClip(tiny_video_processor(), 4, short_clips="drop"), "one of 'repeat', 'pad', got 'drop'"),
        (
            lambda: TrainingClip(tiny_video_processor(), 4, time_scale=0.5, short_clips="pad"),
            "'pad' needs a `time_scale` of 1, got 0.5",
        ),
        (lambda: EvaluationViews(tiny_video_processor(), 4, short_clips="drop"), "one of 'repeat', 'pad', got 'drop'"),
        (lambda: EvaluationViews(tiny_video_processor(), 4, num_clips=0), "at least 1, got 0 and 1"),
        (lambda: EvaluationViews(tiny_video_processor(), 4, num_crops=-1), "at least 1, got 1 and -1"),
    ],
)
def test_impossible_clips(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_single_view_is_what_the_pipeline_sees(videos):
    processor = tiny_video_processor()
    [view] = EvaluationViews(processor, 7)(videos[1])
    assert view.equal(processor(videos[1], num_frames=7, return_tensors="pt")["pixel_values"][0])


@pytest.mark.parametrize("size", [(44, 90), (90, 44), (44, 44)])
def test_crops_lie_along_the_axis_with_more_to_spare(size):
    """Of a video that is narrower than a crop too: then as the processor crops and pads it."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    frames = torch.from_numpy(np.stack((rows, columns, rows + columns))).to(torch.uint8).expand(4, -1, -1, -1)
    processor = tiny_video_processor(do_normalize=False, do_rescale=False)
    crops = spatial_crops(frames, (40, 56), 3)
    height, width = size
    if width - 56 >= height - 40:
        expected = [frames[..., left : left + 56] for left in (0, round(max(0, width - 56) / 2), max(0, width - 56))]
    else:
        expected = [frames[..., top : top + 40, :] for top in (0, round((height - 40) / 2), height - 40)]
    for crop, ours in zip(crops, expected):
        assert crop.equal(ours)
    middle = processor(crops[1], do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    whole = processor(frames, do_resize=False, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    assert middle.equal(whole)


# of the videos, with 20, 13 and 5 frames at 10 a second
@pytest.mark.parametrize(
    ("num_frames", "fps", "lengths"),
    [(7, None, [7, 7, 5]), (7, 5, [7, 6, 2]), (30, 10, [20, 13, 5]), (3, 2, [3, 2, 1])],
)
def test_short_clips_have_the_frames_that_there_are(num_frames, fps, lengths, videos):
    processor = tiny_video_processor()
    clip = TrainingClip(processor, num_frames, fps, short_clips="pad")
    views = EvaluationViews(processor, num_frames, fps, num_clips=2, num_crops=3, short_clips="pad")
    for video, length in zip(videos, lengths):
        pixel_values = clip(video)
        assert pixel_values.shape == (length, 3, 40, 56)
        assert views(video).shape == (6, length, 3, 40, 56)
        if length < num_frames:
            # each once, at the rate that was asked for
            wanted = np.arange(length) * (1 if fps is None else 10 // fps)
            frames, _ = read_video(video, wanted)
            assert pixel_values.equal(
                processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values"][0]
            )
            assert views(video)[::2].equal(views(video)[1::2])


def test_long_clips_are_as_without_padding(videos):
    """Where there are frames enough for each clip, and none or too few to have others in each of the views."""
    for video in videos[:2]:
        for fps in (None, 10):
            clips = [
                EvaluationViews(tiny_video_processor(), 7, fps, num_clips=3, short_clips=short_clips)(video)
                for short_clips in ("repeat", "pad")
            ]
            assert clips[0].equal(clips[1])


def test_batches_of_short_clips(videos):
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), TrainingClip(tiny_video_processor(), 7, 5, short_clips="pad"))
    clips = [dataset[index] for index in range(3)]
    batch = collate_clips(clips)
    assert batch["pixel_values"].shape == (3, 7, 3, 40, 56)
    assert batch["frame_mask"].dtype == torch.bool
    assert batch["frame_mask"].tolist() == [[True] * length + [False] * (7 - length) for length in (7, 6, 2)]
    for padded, mask, clip in zip(batch["pixel_values"], batch["frame_mask"], clips):
        assert padded[mask].equal(clip["pixel_values"])
        assert not padded[~mask].any()
    # to the longest of the batch, and no mask where none is needed
    assert collate_clips(clips[1:])["pixel_values"].shape == (2, 6, 3, 40, 56)
    assert list(collate_clips([clips[1], clips[1]])) == ["pixel_values", "labels"]

    packed = pack_clips(clips)
    assert [clip.shape[0] for clip in packed["pixel_values"]] == [7, 6, 2]
    assert all(ours is clip["pixel_values"] for ours, clip in zip(packed["pixel_values"], clips))
    assert packed["labels"].equal(batch["labels"])
    assert pack_clips([{**clip, "dataset": "motions"} for clip in clips])["dataset"] == "motions"


def test_batches_of_short_views(videos):
    views = EvaluationViews(tiny_video_processor(), 7, 5, num_clips=2, mirror=True, short_clips="pad")
    dataset = ClipDataset(rows_of(videos, [0, 2, 1]), views)
    batch = collate_clips([dataset[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 4, 7, 3, 40, 56)
    for padded, mask, video, length in zip(batch["pixel_values"], batch["frame_mask"], videos, (7, 6, 2)):
        assert mask.equal((torch.arange(7) < length).expand(4, -1))
        assert padded[:, :length].equal(views(video))
        assert not padded[:, length:].any()
