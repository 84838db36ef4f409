# SPDX-License-Identifier: Apache-2.0
"""Files are read alike in any process: forked, spawned or none."""

import pickle

import pytest
import torch
from transformers import VideoMAEImageProcessor, VideoMAEVideoProcessor

from tubevit_hf.data.facts import FilesToLookAt
from tubevit_hf.inference.reading import FilesToRead, make_load, read_files

from ..support.tiny import tiny_video_processor


@pytest.mark.parametrize(
    ("processor", "views"),
    [
        (tiny_video_processor(), (1, 1)),
        (tiny_video_processor(), (2, 2)),
        (tiny_video_processor(frame_sampling="random", num_clips=2), (1, 1)),
        # Transformers reads a single view itself, by TorchCodec
        (VideoMAEVideoProcessor(size={"shortest_edge": 44}, crop_size={"height": 40, "width": 40}), (2, 2)),
    ],
    ids=["uniform", "views", "random", "videomae"],
)
def test_what_reads_files_pickles(processor, views, videos):
    dataset = FilesToRead(videos, make_load(processor, 4, views), seed=3)
    expected, found = (each[0] for each in (dataset, pickle.loads(pickle.dumps(dataset))))
    assert found.error is None
    assert found.inputs["pixel_values"].equal(expected.inputs["pixel_values"])
    assert (found.seconds, found.length) == (expected.seconds, expected.length)


def test_what_reads_images_and_looks_at_videos_pickles(videos, images):
    images_read = FilesToRead(images, make_load(VideoMAEImageProcessor(), 1, (1, 1)))
    assert pickle.loads(pickle.dumps(images_read)).files.tolist() == images
    looked_at = FilesToLookAt(videos)
    assert pickle.loads(pickle.dumps(looked_at))[1] == looked_at[1]


def read(files: list[str], processor, num_workers: int) -> list[torch.Tensor]:
    readings = read_files(files, make_load(processor, 4, (1, 1)), num_workers)
    return [reading.inputs["pixel_values"] for reading in readings]


def all_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(one.equal(other) for one, other in zip(first, second, strict=True))


def test_random_clips_are_those_of_the_seed_with_any_number_of_workers(videos):
    processor = tiny_video_processor(frame_sampling="random", fps=None)
    calls = [read(videos, processor, 0) for _ in range(10)]
    # of ten places or more; the last video has too few frames to choose from
    assert [len({clip.numpy().tobytes() for clip in clips}) > 1 for clips in zip(*calls)] == [True, True, False]
    first = calls[0]
    torch.manual_seed(0)
    assert all_equal(read(videos, processor, 2), first)
    # nor do they depend on what is read beside them: a run that is resumed reads the rest
    torch.manual_seed(0)
    assert all_equal(read(videos[1:], processor, 0), first[1:])


def test_reading_draws_nothing_where_nothing_is_random(videos):
    state = torch.get_rng_state()
    for num_workers in (0, 1):
        read(videos, tiny_video_processor(), num_workers)
    assert torch.get_rng_state().equal(state)
