# SPDX-License-Identifier: Apache-2.0
"""Packing: clips of different lengths and sizes become one row of tokens, of batch 1, without padding.

Each token attends to the tokens of its clip only.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.masking_utils import create_bidirectional_mask, packed_sequence_mask_function
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import is_flash_attention_requested

from .configuration_tubevit import TubeViTConfig
from .inputs_tubevit import as_videos
from .stages_tubevit import Encoded


if TYPE_CHECKING:
    from .modeling_tubevit import TubeViTModel


def encode_packed(
    model: "TubeViTModel",
    clips: Sequence[torch.Tensor],
    frame_mask: torch.Tensor | None,
    **kwargs: Unpack[TransformersKwargs],
) -> BaseModelOutputWithPooling:
    """Runs a list of clips through the model; see [`TubeViTModel.forward`].

    Raises:
        ValueError: the list is empty; a `frame_mask` is given; hidden states or attentions are requested from a model
            with a `joint_layer`; or the model is a replica of `DataParallel`.
    """
    config = model.config
    if frame_mask is not None:
        raise ValueError("`frame_mask` is for padded clips, and a list of clips has no padding: leave it out.")
    recorded = ("output_hidden_states", "output_attentions")
    if config.joint_layer > 0 and any(kwargs.get(name, getattr(config, name, False)) for name in recorded):
        raise ValueError(
            "`output_hidden_states` and `output_attentions` of a list of clips need a `joint_layer` of 0, got "
            f"{config.joint_layer}: give the clips one by one."
        )
    if getattr(model, "_is_replica", False):
        raise ValueError(
            "a list of clips does not go with `DataParallel`, which cuts each clip into pieces, one for each device: "
            "use one device, or `DistributedDataParallel` (torchrun)."
        )
    videos = as_videos(clips)
    layouts = [model.embeddings.layout(video) for video in videos]
    # the embeddings, and the layers before `joint_layer`, run clip by clip
    alone = [model.encode_moments(video, layout, **kwargs) for video, layout in zip(videos, layouts)]
    row = Encoded.pack(alone)
    mask, arguments = keep_apart(config, row.hidden_states, [encoded.hidden_states.shape[1] for encoded in alone])
    row = model.joint_stage(model.layers, row, mask, None, **arguments, **kwargs)
    outputs = [model.finish(encoded, layout, None, **kwargs) for encoded, layout in zip(row.unpack(alone), layouts)]
    return BaseModelOutputWithPooling(
        last_hidden_state=torch.cat([output["last_hidden_state"] for output in outputs], dim=1),
        pooler_output=torch.cat([output["pooler_output"] for output in outputs]),
    )


def keep_apart(
    config: TubeViTConfig, row: torch.Tensor, lengths: list[int]
) -> tuple[torch.Tensor | None, dict[str, Any]]:
    """Returns the attention mask and the arguments of the layers that keep the clips in a row apart.

    They depend on the attention implementation.

    Args:
        row: the tokens of all clips, `(1, tokens, hidden_size)`.
        lengths: number of tokens of each clip.
    """
    if is_flash_attention_requested(config):
        ends = torch.tensor([0, *lengths]).cumsum(0).to(row.device, torch.int32)
        longest = max(lengths)
        return None, {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    if config._attn_implementation == "flex_attention":
        clip_of = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None].to(row.device)
        same_clip = packed_sequence_mask_function(clip_of)
        # flex attention skips blocks that hold no pair of tokens of one clip
        return create_bidirectional_mask(config, row, None, and_mask_function=same_clip), {}
    return None, {"clip_tokens": lengths}
