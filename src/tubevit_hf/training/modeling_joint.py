# SPDX-License-Identifier: Apache-2.0
"""TubeViT for joint training on several datasets of images and videos (Section 3.5): one encoder, a head a dataset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple

from ..model.configuration_tubevit import TubeViTConfig
from ..model.loss_tubevit import classification_loss
from ..model.modeling_tubevit import (
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTPreTrainedModel,
)


@auto_docstring(custom_intro="TubeViT with a linear classifier for each of the datasets that `config.heads` names.")
class TubeViTForJointClassification(TubeViTPreTrainedModel):
    def __init__(self, config: TubeViTConfig):
        super().__init__(config)
        if not config.heads:
            raise ValueError(
                "`heads` is empty: name each dataset with its classes, such as "
                '{"my_videos": {"labels": ["run", "fall"]}, "my_images": {"labels": ["cat", "dog"]}}.'
            )
        self.tubevit = TubeViTModel(config)
        self.classifiers = nn.ModuleDict(
            {name: nn.Linear(config.pooled_size, len(head["labels"])) for name, head in config.heads.items()}
        )
        self.post_init()

    if TYPE_CHECKING:
        # see `TubeViTModel`
        def __call__(
            self,
            pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
            dataset: str | None = None,
            frame_mask: torch.Tensor | None = None,
            labels: torch.Tensor | None = None,
            frozen_output: torch.Tensor | None = None,
            **kwargs: Unpack[TransformersKwargs],
        ) -> ImageClassifierOutput: ...

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor] | None = None,
        dataset: str | None = None,
        frame_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frozen_output: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        r"""
        pixel_values (`torch.Tensor` or a list of them):
            A video `(batch, num_frames, channels, height, width)` or an image `(batch, channels, height, width)`, of
            one dataset; a list of clips of different lengths and sizes is packed, see [`TubeViTModel`].
        dataset (`str`):
            Which of `config.heads` classifies them.
        frame_mask (`torch.BoolTensor` of shape `(batch, num_frames)`, *optional*):
            True where a frame is real, False where it pads a shorter clip.
        labels (`torch.Tensor`, *optional*):
            As in [`TubeViTForVideoClassification`], by the dataset's own classes and problem type.
        frozen_output (`torch.Tensor`, *optional*):
            What [`TubeViTModel.encode_frozen`] gave of clips, instead of these.
        """
        dataset = self.check_dataset(dataset)
        outputs = self.tubevit(pixel_values, frame_mask=frame_mask, frozen_output=frozen_output, **kwargs)
        logits = self.classifiers[dataset](outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = classification_loss(labels, logits, self.head_config(dataset), **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def check_dataset(self, dataset: str | None) -> str:
        """The name itself; raises a `ValueError` for a dataset without a head."""
        if dataset is None or dataset not in self.classifiers:
            raise ValueError(
                f"`dataset` must be one of {', '.join(self.classifiers)} (`config.heads`), got {dataset!r}."
            )
        return dataset

    def head_config(self, dataset: str) -> TubeViTConfig:
        """Configuration of a model with the head of one dataset."""
        head = (self.config.heads or {})[dataset]
        settings = self.config.to_dict()
        settings["heads"] = None
        config = type(self.config)(**settings)
        config.id2label = dict(enumerate(head["labels"]))
        config.label2id = {label: index for index, label in enumerate(head["labels"])}
        config.problem_type = head["problem_type"]
        return config

    def export(
        self, dataset: str, images: bool = False
    ) -> TubeViTForVideoClassification | TubeViTForImageClassification:
        """A model with the head of one dataset, for the pipelines; its weights are copies.

        Args:
            dataset: one of `config.heads`.
            images: whether it is to be a [`TubeViTForImageClassification`]. Either class takes both.

        Raises:
            ValueError: there is no such head.
        """
        self.check_dataset(dataset)
        model_class = TubeViTForImageClassification if images else TubeViTForVideoClassification
        model = model_class(self.head_config(dataset)).to(device=self.device, dtype=self.dtype)
        model.tubevit.load_state_dict(self.tubevit.state_dict())
        model.classifier.load_state_dict(self.classifiers[dataset].state_dict())
        return model.eval()


__all__ = ["TubeViTForJointClassification"]
