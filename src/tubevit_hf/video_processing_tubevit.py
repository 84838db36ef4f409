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
"""Video processor class for TubeViT."""

import os
from pathlib import Path

import numpy as np
from transformers import BatchFeature
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoInput, VideoMetadata

from .image_processing_tubevit import TubeViTImageProcessor
from .video_decoding_tubevit import read_video


# this file saves an image processor too, also where it runs as remote code
TubeViTImageProcessor.register_for_auto_class("AutoImageProcessor")


class TubeViTVideoProcessor(BaseVideoProcessor):
    r"""
    Prepares videos for TubeViT: samples frames, resizes the shorter side to 224 pixels, crops the centre, brings
    values to [-1, 1], and returns `pixel_values` `(batch, num_frames, channels, height, width)`. Files are decoded
    with PyAV.

    A file with fewer frames than `num_frames` is covered by repeating frames evenly; an array with fewer is an error.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    num_frames = 32
    do_sample_frames = True
    model_input_names = ["pixel_values"]

    def preprocess(self, videos: VideoInput, **kwargs: Unpack[VideosKwargs]) -> BatchFeature:
        batch = super().preprocess(videos, **kwargs)
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: int | float | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Indices of the frames to take: `num_frames` evenly over the clip, or `fps` frames a second.

        Raises:
            ValueError: an array has fewer frames than `num_frames`, or `fps` is asked of a video of unknown rate.
        """
        # the class' own `num_frames` must not stand in the way of a caller's `fps`
        if fps is not None:
            if not metadata.fps:
                raise ValueError(
                    f"`fps` is {fps}, but the video's own frame rate is unknown. Give it as "
                    "`video_metadata={'fps': ..., 'total_num_frames': ...}`, or use `num_frames` instead."
                )
            num_frames = max(1, int(metadata.total_num_frames / metadata.fps * fps))
        if num_frames is None:
            return np.arange(metadata.total_num_frames)
        is_file = metadata.video_backend is not None
        if num_frames > metadata.total_num_frames and not is_file:
            raise ValueError(
                f"The video has {metadata.total_num_frames} frames, but `num_frames` is {num_frames}. Lower "
                "`num_frames`, repeat frames, or set `do_sample_frames=False`."
            )
        return np.arange(num_frames) * metadata.total_num_frames // num_frames

    def fetch_videos(self, video_url_or_urls: str | Path | list, sample_indices_fn=None):
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]))
        return read_video(video_url_or_urls, sample_indices_fn)

    def to_image_processor(self) -> TubeViTImageProcessor:
        """The image processor with the same settings."""
        names = TubeViTImageProcessor.valid_kwargs.__annotations__
        return TubeViTImageProcessor(**{name: value for name, value in self.to_dict().items() if name in names})

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Saves this processor and, with the same settings, the image processor: one folder then serves the video and
        the image pipelines. To have images processed otherwise, save an image processor of your own afterwards."""
        save_directory = os.fspath(save_directory)  # transformers itself takes no Path when it pushes
        self.to_image_processor().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


__all__ = ["TubeViTVideoProcessor"]
