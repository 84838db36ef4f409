# SPDX-License-Identifier: Apache-2.0
"""TubeViT (Sparse Video Tubes) for Hugging Face Transformers.

Importing this package registers its classes with the Auto classes, so that `AutoModel.from_pretrained(...)` and
`pipeline("video-classification", ...)` know them.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

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
from .model.video_decoding_tubevit import VideoDecodingError, VideoFileMetadata, VideoReader, read_video
from .model.video_processing_tubevit import TubeViTVideoProcessor
from .training.modeling_joint import TubeViTForJointClassification


__version__ = "0.1.0"

AutoConfig.register("tubevit", TubeViTConfig, exist_ok=True)
AutoModel.register(TubeViTConfig, TubeViTModel, exist_ok=True)
AutoModelForVideoClassification.register(TubeViTConfig, TubeViTForVideoClassification, exist_ok=True)
AutoModelForImageClassification.register(TubeViTConfig, TubeViTForImageClassification, exist_ok=True)
AutoImageProcessor.register(
    TubeViTConfig,
    image_processor_classes={"torchvision": TubeViTImageProcessor, "pil": TubeViTImageProcessorPil},
    exist_ok=True,
)
AutoVideoProcessor.register(TubeViTConfig, TubeViTVideoProcessor, exist_ok=True)

# what is saved carries the code that loads it, for `trust_remote_code=True` where this package is not installed
TubeViTConfig.register_for_auto_class()
TubeViTModel.register_for_auto_class("AutoModel")
TubeViTForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
TubeViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
TubeViTImageProcessor.register_for_auto_class("AutoImageProcessor")
TubeViTImageProcessorPil.register_for_auto_class("AutoImageProcessor")
TubeViTVideoProcessor.register_for_auto_class("AutoVideoProcessor")

__all__ = [
    "ConversionError",
    "ConversionReport",
    "TubeViTConfig",
    "TubeViTForImageClassification",
    "TubeViTForJointClassification",
    "TubeViTForVideoClassification",
    "TubeViTImageProcessor",
    "TubeViTImageProcessorPil",
    "TubeViTModel",
    "TubeViTPreTrainedModel",
    "TubeViTVideoProcessor",
    "VideoDecodingError",
    "VideoFileMetadata",
    "VideoReader",
    "convert_vit",
    "create_model_card",
    "read_video",
    "save_converted",
    "scale_up",
]
