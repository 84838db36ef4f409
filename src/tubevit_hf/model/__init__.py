# SPDX-License-Identifier: Apache-2.0
"""What ships to the Hub with every checkpoint: these files import libraries and each other only.

To import any of them registers them all with Transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
)

from .configuration_tubevit import TubeViTConfig
from .image_processing_pil_tubevit import TubeViTImageProcessorPil
from .image_processing_tubevit import TubeViTImageProcessor
from .modeling_tubevit import TubeViTForImageClassification, TubeViTForVideoClassification, TubeViTModel
from .pretraining_tubevit import TubeViTForPreTraining
from .video_processing_tubevit import TubeViTVideoProcessor


AutoConfig.register("tubevit", TubeViTConfig, exist_ok=True)
AutoModel.register(TubeViTConfig, TubeViTModel, exist_ok=True)
AutoModelForVideoClassification.register(TubeViTConfig, TubeViTForVideoClassification, exist_ok=True)
AutoModelForImageClassification.register(TubeViTConfig, TubeViTForImageClassification, exist_ok=True)
AutoModelForPreTraining.register(TubeViTConfig, TubeViTForPreTraining, exist_ok=True)
AutoImageProcessor.register(
    TubeViTConfig,
    image_processor_classes={"torchvision": TubeViTImageProcessor, "pil": TubeViTImageProcessorPil},
    exist_ok=True,
)
AutoVideoProcessor.register(TubeViTConfig, TubeViTVideoProcessor, exist_ok=True)
# or transformers would take the image processor, to which the frames of a video are so many images
AutoProcessor.register(TubeViTConfig, TubeViTVideoProcessor, exist_ok=True)

# what is saved carries the code that loads it, for `trust_remote_code=True` where this package is not installed
TubeViTConfig.register_for_auto_class()
TubeViTModel.register_for_auto_class("AutoModel")
TubeViTForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
TubeViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
TubeViTForPreTraining.register_for_auto_class("AutoModelForPreTraining")
TubeViTImageProcessor.register_for_auto_class("AutoImageProcessor")
TubeViTImageProcessorPil.register_for_auto_class("AutoImageProcessor")
TubeViTVideoProcessor.register_for_auto_class("AutoVideoProcessor")
