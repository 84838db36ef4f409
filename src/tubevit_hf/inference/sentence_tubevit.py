# SPDX-License-Identifier: Apache-2.0
"""A module of Sentence Transformers that embeds videos and images.

It lies beside the checkpoint in the folders that `to_sentence_transformer` writes, and is loaded from there: it needs
no package but Sentence Transformers, and so imports nothing of this one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules import InputModule
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoVideoProcessor,
    BaseImageProcessor,
    BaseVideoProcessor,
    PreTrainedModel,
)
from transformers.image_utils import load_image


class TubeViTSentenceModule(InputModule):
    """Videos or images in, what the model pools out: `(batch, features)`.

    A video is anything that the video processor takes, alone or as `{"video": ...}`; an image a path, a URL, a PIL
    image or an array, alone or as `{"image": ...}`. A batch has videos or images.

    Args:
        model: without a head.
        video_processor, image_processor: that belong to it.
    """

    save_in_root = True

    def __init__(
        self, model: PreTrainedModel, video_processor: BaseVideoProcessor, image_processor: BaseImageProcessor
    ):
        super().__init__()
        self.model, self.video_processor, self.image_processor = model, video_processor, image_processor

    @property
    # pyrefly: ignore[bad-override]  a list of names, which have a type of their own there
    def modalities(self) -> list[str]:
        return ["video", "image"]

    @property
    def max_seq_length(self) -> None:
        """There is no text, and so no length of it."""
        return None

    def get_embedding_dimension(self) -> int:
        return self.model.config.pooled_size

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Pixels of a batch.

        Raises:
            ValueError: there is a prompt, or a video or an image cannot be read.
        """
        if prompt:
            raise ValueError(f"A prompt is for text, and videos and images have none; got {prompt!r}.")
        images = [is_image(entry) for entry in inputs]
        entries = [unwrap(entry) for entry in inputs]
        if all(images):
            pictures = [load_image(entry) if isinstance(entry, str) else entry for entry in entries]
            return dict(self.image_processor(pictures, return_tensors="pt"))
        if any(images):
            raise ValueError("There are videos and images in a batch; embed them in separate calls.")
        processed = self.video_processor(
            entries,
            num_frames=self.model.config.num_frames,
            do_sample_frames=True,
            # also of arrays, which may be the same videos decoded
            short_clips=getattr(self.video_processor, "short_clips", None) or "repeat",
            return_tensors="pt",
        )
        return dict(processed)

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        # Sentence Transformers may have added its own
        inputs = {name: features[name] for name in ("pixel_values", "frame_mask") if name in features}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        features["sentence_embedding"] = self.model(**inputs).pooler_output
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.model.save_pretrained(output_path, safe_serialization=safe_serialization)
        # a video processor saves one for images too, which need not be this one
        self.video_processor.save_pretrained(output_path)
        self.image_processor.save_pretrained(output_path)

    @classmethod
    # pyrefly: ignore[bad-override]  what is given to a module by name differs from kind to kind
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "TubeViTSentenceModule":
        where = {
            "subfolder": subfolder,
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        settings = {**where, **(processor_kwargs or {})}
        return cls(
            AutoModel.from_pretrained(model_name_or_path, **where, **(model_kwargs or {})),
            AutoVideoProcessor.from_pretrained(model_name_or_path, **settings),
            AutoImageProcessor.from_pretrained(model_name_or_path, **settings),
        )


def is_image(entry: Any) -> bool:
    return infer_modality(entry) == "image"


def unwrap(entry: Any) -> Any:
    """What is in `{"video": ...}`, `{"image": ...}` and `{"array": ..., "video_metadata": ...}`."""
    for name in ("video", "image", "array"):
        if isinstance(entry, dict) and name in entry:
            entry = entry[name]
    return entry
