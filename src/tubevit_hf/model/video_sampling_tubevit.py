# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video make a clip.

Frames are named by index, from 0. `seconds` says when each frame of a video is shown, `(total_num_frames,)`, ascending
from 0; to count in frames instead of seconds, let it be 0, 1, 2, ... and the rate 1.
"""

import numpy as np
import torch
from transformers.video_utils import VideoMetadata


# Matroska, FLV and others round times to milliseconds: that much before its time, a frame counts as shown
ROUNDING = 1e-3


def uniform_frames(total_num_frames: int, num_frames: int) -> np.ndarray:
    """`num_frames` evenly over the video, `(num_frames,)`; where it has fewer, frames repeat evenly."""
    return np.arange(num_frames) * total_num_frames // num_frames


def frames_at_rate(seconds: np.ndarray, fps: float) -> np.ndarray:
    """The frames shown at 0, 1 / `fps`, 2 / `fps`, ... seconds, to the end of the video; at least one."""
    num_frames = max(1, int(duration(seconds) * fps + ROUNDING))
    return frames_shown_at(seconds, np.arange(num_frames) / fps)


def fits(seconds: np.ndarray, num_frames: int, fps: float) -> bool:
    """Whether the video is long enough for a window of `num_frames` at `fps`."""
    return len(frames_at_rate(seconds, fps)) >= num_frames


def window_frames(seconds: np.ndarray, num_frames: int, fps: float, starts: np.ndarray) -> np.ndarray:
    """Windows of `num_frames` at `fps`, one after another, `(len(starts) * num_frames,)`.

    Args:
        starts: where each window lies, from 0 (at the beginning of the video) to 1 (at its end).
    """
    spare = max(0, duration(seconds) - num_frames / fps)
    times = starts[:, None] * spare + np.arange(num_frames) / fps
    return frames_shown_at(seconds, times.flatten())


def frames_shown_at(seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The frame on the screen at each time."""
    return (np.searchsorted(seconds, times + ROUNDING, side="right") - 1).clip(0)


def duration(seconds: np.ndarray) -> float:
    """Seconds from the first frame to the end of the last, which is taken to last as long as the others on average."""
    return seconds[-1] * len(seconds) / max(1, len(seconds) - 1)


def random_starts(num_clips: int) -> np.ndarray:
    """Places from 0 to 1, by PyTorch's generator: `set_seed` seeds it, and DataLoader workers differ."""
    return torch.rand(num_clips, dtype=torch.float64).numpy()


def spaced_starts(num_clips: int) -> np.ndarray:
    """Evenly spaced places from 0 to 1; of a single clip, the middle."""
    return np.linspace(0, 1, num_clips) if num_clips > 1 else np.array([0.5])


def frame_seconds(metadata: VideoMetadata) -> np.ndarray:
    """When each frame of a video is shown: as its file says, or at the constant rate of an array's metadata.

    Raises:
        ValueError: neither is known.
    """
    if getattr(metadata, "all_frame_seconds", None) is not None:
        return metadata.all_frame_seconds()
    if not metadata.fps:
        raise ValueError(
            "`fps` needs to know the video's own frame rate. Give it as "
            "`video_metadata={'fps': ..., 'total_num_frames': ...}`, or use `num_frames` instead."
        )
    return np.arange(metadata.total_num_frames) / metadata.fps


__all__ = [
    "fits",
    "frame_seconds",
    "frames_at_rate",
    "random_starts",
    "spaced_starts",
    "uniform_frames",
    "window_frames",
]
