# SPDX-License-Identifier: Apache-2.0
"""Which frames make a clip, against loops that follow the definitions word by word."""

import numpy as np
import pytest
import torch
from transformers.video_utils import VideoMetadata

from tubevit_hf import TubeViTVideoProcessor
from tubevit_hf.model.video_decoding_tubevit import VideoFileMetadata


# frames that are shown for 1, 2, 3, 1, 2, 3, ... hundredths of a second, and at last for any time
UNEVEN = np.cumsum([0] + [1 + index % 3 for index in range(60)]) / 100


def file_metadata(seconds: np.ndarray) -> VideoFileMetadata:
    return VideoFileMetadata(len(seconds), video_backend="pyav", all_frame_seconds=lambda: np.asarray(seconds))


def array_metadata(total_num_frames: int, fps: float | None = None) -> VideoMetadata:
    return VideoMetadata(total_num_frames, fps=fps)


def sample(metadata: VideoMetadata, **arguments) -> list[int]:
    return TubeViTVideoProcessor().sample_frames(metadata, **arguments).tolist()


def shown_at(seconds: np.ndarray, time: float) -> int:
    """The last frame that has come up; one that is due within a millisecond has, as files round their times."""
    return max(index for index, start in enumerate(seconds) if start <= time + 1e-3 or index == 0)


@pytest.mark.parametrize("total", [1, 2, 7, 32, 33, 300, 9999])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 32, 64])
def test_uniform(total, num_frames):
    indices = sample(file_metadata(np.arange(total)), num_frames=num_frames)
    assert indices == [int(index * total / num_frames + 1e-9) for index in range(num_frames)]
    # a video of fewer frames gives each of them, and none much oftener than another
    times = np.bincount(indices, minlength=total)
    if total <= num_frames:
        assert times.max() - times.min() <= 1
    else:
        assert times.max() == 1


@pytest.mark.parametrize("fps", [1, 7.5, 24, 30, 50])
@pytest.mark.parametrize(
    "seconds",
    [np.arange(90) / 30, np.arange(75) * 1001 / 24000, np.round(np.arange(90) / 30, 3), UNEVEN],
    ids=["constant", "ntsc", "milliseconds", "uneven"],
)
def test_all_of_a_video_at_a_rate(seconds, fps):
    indices = sample(file_metadata(seconds), fps=fps)
    end = seconds[-1] + seconds[-1] / (len(seconds) - 1)
    assert indices == [shown_at(seconds, count / fps) for count in range(int(end * fps + 1e-3))]


def test_rounded_times_do_not_slip():
    # of 30 frames a second, every other: 0.067 s in the file is the 0.0667 s that 15 a second ask for
    assert sample(file_metadata(np.round(np.arange(90) / 30, 3)), fps=15) == list(range(0, 90, 2))


def test_rate_of_an_array_comes_from_its_metadata():
    assert sample(array_metadata(8, fps=4), fps=2) == [0, 2, 4, 6]
    assert sample(array_metadata(8, fps=4), fps=8) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    assert sample(array_metadata(8, fps=4), fps=0.1) == [0]
    with pytest.raises(ValueError, match="frame rate"):
        sample(array_metadata(8), fps=2)


@pytest.mark.parametrize("num_clips", [1, 2, 4, 7])
def test_spaced_windows(num_clips):
    # 64 frames at 15 a second last 4.27 of the 10 seconds
    seconds = np.arange(300) / 30
    indices = sample(file_metadata(seconds), num_frames=64, fps=15, frame_sampling="spaced", num_clips=num_clips)
    spare = 10 - 64 / 15
    starts = [spare / 2] if num_clips == 1 else [spare * clip / (num_clips - 1) for clip in range(num_clips)]
    assert indices == [shown_at(seconds, start + count / 15) for start in starts for count in range(64)]
    if num_clips > 1:
        assert indices[0] == 0
        assert indices[-1] == 298  # the last window ends where the video ends


def test_spaced_windows_of_following_frames():
    indices = sample(array_metadata(20), num_frames=5, frame_sampling="spaced", num_clips=3)
    assert indices == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 15, 16, 17, 18, 19]
    assert sample(array_metadata(20), num_frames=5, frame_sampling="spaced") == [7, 8, 9, 10, 11]
    assert sample(array_metadata(5), num_frames=5, frame_sampling="spaced") == [0, 1, 2, 3, 4]


def test_random_windows():
    seconds = np.arange(300) / 30
    starts = set()
    for _ in range(200):
        indices = np.array(sample(file_metadata(seconds), num_frames=64, fps=15, frame_sampling="random"))
        assert (np.diff(indices) == 2).all()
        assert indices[0] >= 0
        assert indices[-1] < 300
        starts.add(int(indices[0]))
    # 5.73 seconds are to spare, so the first frame is one of 0 to 172
    assert min(starts) < 10
    assert max(starts) > 160
    assert max(starts) <= 172


def test_random_windows_obey_the_seed():
    def draw(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return sample(array_metadata(1000), num_frames=4, frame_sampling="random", num_clips=3)

    assert draw(0) == draw(0) != draw(1)
    first, second, third = np.array(draw(0)).reshape(3, 4)
    assert len({first[0], second[0], third[0]}) == 3


@pytest.mark.parametrize("frame_sampling", ["uniform", "random", "spaced"])
def test_short_videos(frame_sampling):
    num_clips = 1 if frame_sampling == "uniform" else 2
    arguments = {"num_frames": 7, "frame_sampling": frame_sampling, "num_clips": num_clips}
    repeated = [0, 0, 0, 1, 1, 2, 2] * num_clips
    assert sample(file_metadata(np.arange(3) / 10), **arguments) == repeated
    assert sample(array_metadata(3), short_clips="repeat", **arguments) == repeated
    for metadata in (array_metadata(3), file_metadata(np.arange(3))):
        assert sample(metadata, short_clips="pad", **arguments) == [0, 1, 2] * num_clips
        with pytest.raises(ValueError, match="has 3 frames, but `num_frames` is 7"):
            sample(metadata, short_clips="error", **arguments)
    with pytest.raises(ValueError, match="has 3 frames, but `num_frames` is 7"):
        sample(array_metadata(3), **arguments)
    # a video that is just long enough is none
    assert sample(array_metadata(7), **arguments) == list(range(7)) * num_clips


def test_short_in_seconds():
    # 12 frames, but only 4 at the rate that is asked for
    metadata = file_metadata(np.arange(12) / 30)
    arguments = {"num_frames": 6, "fps": 10, "frame_sampling": "random"}
    assert sample(metadata, **arguments) == [0, 2, 4, 6, 8, 10]
    assert sample(metadata, short_clips="pad", **arguments) == [0, 3, 6, 9]
    with pytest.raises(ValueError, match="has 4 frames at 10 a second, but `num_frames` is 6"):
        sample(metadata, short_clips="error", **arguments)


def test_one_frame_is_enough_for_one():
    for frame_sampling in ("uniform", "random", "spaced"):
        assert sample(array_metadata(1), num_frames=1, frame_sampling=frame_sampling) == [0]


def test_all_frames():
    assert sample(array_metadata(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 4, "fps": 2}, "`num_frames` is 4 and `fps` is 2"),
        ({"num_frames": 4, "num_clips": 2}, "`num_clips` is 2"),
        ({"frame_sampling": "random"}, "needs `num_frames`"),
        ({"frame_sampling": "spaced", "fps": 5}, "needs `num_frames`"),
        ({"num_frames": 0}, "`num_frames` must be above 0, got 0"),
        ({"num_frames": 4, "fps": 0, "frame_sampling": "random"}, "`fps` must be above 0, got 0"),
        ({"num_frames": 4, "num_clips": 0, "frame_sampling": "random"}, "`num_clips` must be above 0, got 0"),
    ],
)
def test_what_does_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(array_metadata(8, fps=4), **arguments)


def test_video_without_frames():
    with pytest.raises(ValueError, match="no frames"):
        sample(array_metadata(0), num_frames=4)
