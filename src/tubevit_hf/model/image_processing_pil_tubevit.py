# SPDX-License-Identifier: Apache-2.0
"""Images become what TubeViT reads, by Pillow and NumPy."""

from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack

from .processing_limits_tubevit import check_settings


class TubeViTImageProcessorPil(PilBackend):
    r"""
    The same as [`TubeViTImageProcessor`] with Pillow and NumPy:
    `AutoImageProcessor.from_pretrained(..., backend="pil")`.
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

    def __init__(self, **kwargs: Unpack[ImagesKwargs]) -> None:
        super().__init__(**kwargs)
        check_settings(self)


__all__ = ["TubeViTImageProcessorPil"]
