# SPDX-License-Identifier: Apache-2.0
from .conversion import ConversionError, ConversionReport, convert_vit, save_converted, scale_up
from .model.configuration_tubevit import TubeViTConfig
from .model.image_processing_pil_tubevit import TubeViTImageProcessorPil
from .model.image_processing_tubevit import TubeViTImageProcessor
from .model.model_card_tubevit import create_model_card
from .model.modeling_tubevit import (
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTPreTrainedModel,
)
from .model.pretraining_tubevit import TubeViTForPreTraining
from .model.video_decoding_tubevit import VideoFileMetadata, VideoReader, read_video
from .model.video_processing_tubevit import TubeViTVideoProcessor
from .model.video_sources_tubevit import VideoDecodingError, VideoLimits
from .training.modeling_joint import TubeViTForJointClassification

__version__: str

__all__ = [
    "ConversionError",
    "ConversionReport",
    "TubeViTConfig",
    "TubeViTForImageClassification",
    "TubeViTForJointClassification",
    "TubeViTForPreTraining",
    "TubeViTForVideoClassification",
    "TubeViTImageProcessor",
    "TubeViTImageProcessorPil",
    "TubeViTModel",
    "TubeViTPreTrainedModel",
    "TubeViTVideoProcessor",
    "VideoDecodingError",
    "VideoFileMetadata",
    "VideoLimits",
    "VideoReader",
    "convert_vit",
    "create_model_card",
    "read_video",
    "save_converted",
    "scale_up",
]
