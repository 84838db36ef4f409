# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Video decoding with PyAV, whose wheels carry FFmpeg: nothing else has to be installed."""

import os
from collections.abc import Callable, Sequence

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from transformers.video_utils import VideoMetadata


class VideoDecodingError(ValueError):
    """A video cannot be decoded; the message names the file and the cause."""


def read_video(
    source: str | os.PathLike, sample_indices_fn: Callable[[VideoMetadata], Sequence[int]] | None = None
) -> tuple[torch.Tensor, VideoMetadata]:
    """Decodes the sampled frames of a video file.

    The best video stream is taken, and frames are rotated as the file's metadata says.

    Args:
        source: path or URL of a video.
        sample_indices_fn: gives the 0-based indices of the wanted frames for a file's metadata, in ascending order and
            possibly repeated; `None` wants all frames.

    Returns:
        `(num_frames, 3, height, width)`, uint8 RGB, and the metadata with `frames_indices` set.

    Raises:
        VideoDecodingError: the file is missing, is no video, or ends before the last wanted frame.
    """
    source = os.fspath(source)
    try:
        with av.open(source) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoDecodingError(f"{source}: the file holds no video stream.")
            # FFmpeg uses one slice thread by default; whole frames in parallel are what helps H.264
            stream.thread_type = "AUTO"
            metadata = VideoMetadata(
                total_num_frames=count_frames(container, stream),
                fps=float(stream.average_rate) if stream.average_rate else None,
                width=stream.width,
                height=stream.height,
                duration=float(stream.duration * stream.time_base) if stream.duration else None,
                video_backend="pyav",
            )
            if metadata.total_num_frames == 0:
                raise VideoDecodingError(f"{source}: the video stream holds no frames.")
            indices = range(metadata.total_num_frames) if sample_indices_fn is None else sample_indices_fn(metadata)
            metadata.frames_indices = [int(index) for index in indices]
            frames = decode_frames(container, stream, metadata.frames_indices, source)
    except av.error.FFmpegError as error:
        raise VideoDecodingError(f"{source}: FFmpeg cannot read it ({error.strerror}).") from error
    return frames, metadata


def count_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Number of frames of a stream: from the header or, where it is silent (Matroska, WebM), by counting packets."""
    if stream.frames:
        return stream.frames
    count = sum(packet.size > 0 for packet in container.demux(stream))
    container.seek(0)
    return count


def decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream, indices: Sequence[int], source: str
) -> torch.Tensor:
    """Decodes from the start up to the last wanted index: `(len(indices), 3, height, width)`, uint8."""
    wanted = set(indices)
    last = max(indices)
    frames = {}
    # one converter for all: `frame.to_ndarray(format=...)` sets up its own each time, which costs more than decoding
    reformatter = VideoReformatter()
    index = -1
    for index, frame in enumerate(container.decode(stream)):
        if index in wanted:
            # rotation is in degrees, counter-clockwise, as np.rot90 turns
            image = reformatter.reformat(frame, format="rgb24").to_ndarray()
            frames[index] = np.rot90(image, k=round(frame.rotation / 90))
        if index >= last:
            break
    if last not in frames:
        raise VideoDecodingError(f"{source}: frame {last} was asked for, but only {index + 1} could be decoded.")
    video = np.stack([frames[index] for index in indices])
    return torch.from_numpy(video).permute(0, 3, 1, 2)


__all__ = ["VideoDecodingError", "read_video"]
