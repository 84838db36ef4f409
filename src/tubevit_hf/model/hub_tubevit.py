# SPDX-License-Identifier: Apache-2.0
"""Loads and pushes models: checks weights before memory is allocated, and pushes a model card with them."""

import os
from typing import Any, TypeVar

import torch
from huggingface_hub import CommitInfo, ModelCard
from transformers import PreTrainedConfig, PreTrainedModel

from .checkpoint_files_tubevit import HUB_ARGUMENTS, check_weights, refuse_pickles
from .configuration_tubevit import TubeViTConfig
from .model_card_tubevit import create_model_card, is_generated_card, read_tags
from .number_types_tubevit import warn_of_emulation


ModelT = TypeVar("ModelT", bound="TubeViTHubModel")


class TubeViTHubModel(PreTrainedModel):
    """A `PreTrainedModel` that checks weights before it loads them, and pushes a model card with them."""

    # pyrefly: ignore[bad-override-mutable-attribute]  transformers reads this annotation: it names the class
    config: TubeViTConfig

    @classmethod
    def from_pretrained(
        cls: type[ModelT], pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> ModelT:
        if "use_safetensors" not in kwargs:
            kwargs["use_safetensors"] = True
            refuse_pickles(pretrained_model_name_or_path, kwargs.get("subfolder", ""))
        if pretrained_model_name_or_path is not None and kwargs["use_safetensors"] and "state_dict" not in kwargs:
            config = kwargs.get("config")
            # the config class of a checkpoint's own code has the same name, and is another class
            if not isinstance(config, PreTrainedConfig):
                known = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
                config = TubeViTConfig.from_pretrained(config or pretrained_model_name_or_path, **known)
            # pyrefly: ignore[bad-argument-type]  as above
            check_weights(pretrained_model_name_or_path, config, kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        # loaded weights replace the parameters that `__init__` froze: freeze the new ones
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # pyrefly: ignore[not-callable]  a method of the loaded class
        model.freeze_before(model.config.freeze_before)
        # with a GPU in the machine, the model may be moved there later
        if model.dtype == torch.bfloat16 and model.device.type == "cpu" and not torch.cuda.is_available():
            warn_of_emulation("The model is in bfloat16")
        # pyrefly: ignore[bad-return]  Python 3.10 has no `Self`, which `super()` gives
        return loaded

    def create_model_card(self, model_name: str, **kwargs: Any) -> ModelCard:
        """Makes a model card of this model, see [`create_model_card`]."""
        return create_model_card(self.config, model_name, num_parameters=self.num_parameters(), **kwargs)

    def _upload_modified_files(
        self, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **kwargs: Any
    ) -> CommitInfo:
        # `push_to_hub` and `save_pretrained(..., push_to_hub=True)` end here; the card is the repository's own, or
        # transformers' empty template
        card = os.path.join(working_dir, "README.md")
        if is_generated_card(card):
            # the template holds the tags that the user gave
            self.create_model_card(repo_id, tags=read_tags(card)).save(card)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)
