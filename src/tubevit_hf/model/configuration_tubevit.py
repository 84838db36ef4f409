# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The tubevit_hf Authors
"""What a TubeViT is made of: sizes, tubes and options, checked against each other."""

import json
import math
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging

from .moments_tubevit import TokenLayout, token_layout
from .tubes_tubevit import Size, Tube, as_size, resolve_tubes


logger = logging.get_logger(__name__)


# Table 12 of the paper; together 539 tokens for 32x224x224
TABLE_12_TUBES = [
    {"kernel_size": [8, 8, 8], "stride": [16, 32, 32], "offset": [0, 0, 0], "space_to_depth": [2, 1, 1]},
    {"kernel_size": [16, 4, 4], "stride": [6, 32, 32], "offset": [4, 8, 8], "space_to_depth": [1, 2, 2]},
    {"kernel_size": [4, 12, 12], "stride": [16, 32, 32], "offset": [0, 16, 16], "space_to_depth": [1, 1, 1]},
    {"kernel_size": [1, 16, 16], "stride": [32, 16, 16], "offset": [0, 0, 0], "space_to_depth": [1, 1, 1]},
]

# B, L and H are Table 11's; Ti and S are the usual small ViTs
PRESETS = {
    "Ti": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "S": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "H": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120},
}

# What a config may ask for: far above any model that was trained, far below what a machine could not hold. A
# stranger's file is refused before anything is allocated; `TUBEVIT_ANY_CONFIG=1` in the environment lifts all of them
LIMITS = {
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "intermediate_size": 2**18,
    "num_channels": 2**10,
    "num_frames": 2**16,
    "image_size": 2**15,
    "num_register_tokens": 2**12,
    "pooling_grid": 2**8,
    "joint_pooling": 2**8,
    "base_kernel_size": 2**8,
    "num_labels": 2**20,
    "number of heads": 2**10,
    "number of tubes": 2**8,
    "number in a tube": 2**16,
    "number of parameters": 2**36,
}


def check_limit(name: str, value: float, limit: str | None = None) -> None:
    """Raises a `ValueError` for more than `LIMITS` allow."""
    largest = LIMITS[limit or name]
    if value > largest and os.environ.get("TUBEVIT_ANY_CONFIG", "0") in ("", "0"):
        raise ValueError(
            f"`{name}` is {value:.6g}, and more than {largest} is refused: a stranger's file could take all memory. "
            "If it is meant, set the environment variable TUBEVIT_ANY_CONFIG=1."
        )


def as_class_number(field: str, value: object) -> int:
    """The number of a class, which may be a text as in JSON; raises a `ValueError` for anything else."""
    if not re.fullmatch("-?[0-9]{1,9}", str(value)):
        raise ValueError(
            f"`{field}` must have the numbers of the classes as {'keys' if field == 'id2label' else 'values'}, got "
            f"{reprlib.repr(value)}."
        )
    return int(str(value))


def number_labels(id2label: object) -> dict[int, str]:
    """`id2label` with whole numbers as keys.

    Raises:
        TypeError: it is no dict, or has other names than texts.
        ValueError: a key is no number or there twice, or the numbers are not those from 0 on.
    """
    if not isinstance(id2label, dict):
        raise TypeError(f"`id2label` must be a dict of numbers and names, got {reprlib.repr(id2label)}.")
    check_limit("num_labels", len(id2label))
    labels: dict[int, str] = {}
    for key, label in id2label.items():
        number = as_class_number("id2label", key)
        if not isinstance(label, str):
            raise TypeError(f"`id2label` must have texts as names of classes, got {reprlib.repr(label)}.")
        if number in labels:
            raise ValueError(f"`id2label` names class {number} twice, {labels[number]!r} and {label!r}.")
        labels[number] = label
    if set(labels) != set(range(len(labels))):
        raise ValueError(
            f"`id2label` must number {len(labels)} classes from 0 to {len(labels) - 1}, without gaps; got "
            f"{reprlib.repr(sorted(labels))}."
        )
    return labels


def number_names(label2id: object) -> dict[str, int]:
    """`label2id` with whole numbers as values; raises as `number_labels`."""
    if not isinstance(label2id, dict):
        raise TypeError(f"`label2id` must be a dict of names and numbers, got {reprlib.repr(label2id)}.")
    check_limit("num_labels", len(label2id))
    names = {label: as_class_number("label2id", number) for label, number in label2id.items()}
    if len(set(names.values())) < len(names):
        raise ValueError(f"`label2id` must give each name a number of its own, got {reprlib.repr(names)}.")
    return names


def invert(id2label: Mapping[Any, str]) -> dict[str, int]:
    """`label2id`; where classes share a name, as ImageNet's two cranes do, the last has it."""
    return {label: number for number, label in id2label.items()}


def agrees(label2id: Mapping[str, Any], id2label: Mapping[Any, str]) -> bool:
    """Whether both say the same."""
    return label2id.keys() == set(id2label.values()) and all(
        id2label.get(number) == label for label, number in label2id.items()
    )


# Every checkpoint names all its classes, whichever of them saved it, so that each pipeline finds its own
AUTO_MAP = {
    "AutoConfig": "configuration_tubevit.TubeViTConfig",
    "AutoModel": "modeling_tubevit.TubeViTModel",
    "AutoModelForVideoClassification": "modeling_tubevit.TubeViTForVideoClassification",
    "AutoModelForImageClassification": "modeling_tubevit.TubeViTForImageClassification",
}

# Which a file may not set to a repository: transformers would run its code
ATTENTION_KEYS = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)

# What transformers itself passes beside the declared fields, when it loads a `config.json` or builds a model
_TRANSFORMERS_KEYS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "distributed_config",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "tie_last_hidden_states",
    "tie_word_embeddings",
    "torch_dtype",
    "trust_remote_code",
    "use_cache",
}


@strict
class TubeViTConfig(PreTrainedConfig):
    r"""
    This is the configuration class to store the configuration of a [`TubeViTModel`]. The defaults give TubeViT-B of
    [Rethinking Video ViTs: Sparse Video Tubes for Joint Image and Video Learning](https://arxiv.org/abs/2212.03229)
    for clips of 32 frames of 224x224 pixels.

    Args:
        hidden_size (`int`, defaults to 768):
            Width of the encoder and of every token.
        num_hidden_layers (`int`, defaults to 12):
            Number of encoder layers.
        num_attention_heads (`int`, defaults to 12):
            Number of attention heads of a layer and of the attention pooling.
        intermediate_size (`int`, defaults to 3072):
            Width of the MLP's hidden layer.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the MLP.
        hidden_dropout_prob (`float`, defaults to 0.0):
            Dropout after the embeddings, the attention and the MLP.
        attention_probs_dropout_prob (`float`, defaults to 0.0):
            Dropout of the attention probabilities.
        initializer_range (`float`, defaults to 0.02):
            Scale of the initial weights, see `TubeViTPreTrainedModel._init_weights`.
        layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the layer norms.
        qkv_bias (`bool`, defaults to `True`):
            Whether queries, keys and values have a bias.
        image_size (`int` or `list[int]`, defaults to 224):
            Native size of a frame in pixels, one number or `[height, width]`. Other sizes work too.
        num_frames (`int`, defaults to 32):
            Native length of a clip in frames. Other lengths work too.
        num_channels (`int`, defaults to 3):
            Channels of a frame.
        use_cls_token (`bool`, defaults to `False`):
            Whether a learned classification token precedes the tubes' tokens.
        num_register_tokens (`int`, defaults to 0):
            Number of learned register tokens, placed after the CLS token.
        use_layer_scale (`bool`, defaults to `False`):
            Whether each residual branch is scaled by a learned vector, as in DINOv2.
        use_pre_layernorm (`bool`, defaults to `False`):
            Whether a layer norm precedes the encoder, as in CLIP.
        pooling_type (`str`, defaults to `"attention"`):
            `"attention"`: one learned query attends to all valid tokens; `"cls"`: the CLS token, with a `joint_layer`
            the mean of the moments'; `"mean"`: the mean of the tubes' valid tokens; `"grid"`: the means of
            `pooling_grid` regions one after another, each as its mean over time, how much its patches change, in all
            and beside other regions, and the differences of each step in time from the mean, and then the greatest
            changes anywhere. The last is for few videos: it needs a `joint_layer`, and has no weights.
        pooling_grid (`list[int]`, defaults to `[8, 2, 4]`):
            Regions `[t, h, w]` of `"grid"`.
        pooling_layers (`list[int]`, *optional*):
            Which tokens `"grid"` reads: `[6, 9]` those behind six and behind nine layers, each brought through the
            final norm. Defaults to all layers; must end with them.
        gate_layer (`int`, *optional*):
            0-based layer that adds the embeddings back through a learned gate, `tanh(gate) * z0` (Eq. 8).
        freeze_before (`int`, *optional*):
            Embeddings and the layers before this one are frozen, see [`TubeViTModel.freeze_before`].
        joint_layer (`int`, defaults to 0):
            0-based layer from which on all tokens attend to each other. Before it each moment of a clip, a frame that
            is read by tubes of one frame, is encoded by itself, with CLS and registers of its own, as if it were an
            image; tubes over several frames come in at this layer. `num_hidden_layers`: only the pooling sees all.
        joint_pooling (`list[int]`, defaults to `[1, 1]`):
            With a `joint_layer`: the patches of a moment are averaged there over regions of `[h, w]` patches. A clip
            of a single moment, such as an image, keeps its patches.
        tubes (`list[dict]`, *optional*):
            The tubes, each `{"kernel_size", "stride", "offset" = 0, "space_to_depth" = 1, "out_channels" =
            hidden_size / prod(space_to_depth)}`, sizes as `[t, h, w]` in frames and pixels, or one number for all
            three. Defaults to Table 12 of the paper.
        tube_kernels (`str`, defaults to `"separate"`):
            `"separate"`: a kernel for each tube; `"interpolated"`: one kernel, resized tri-linearly to every tube.
        base_kernel_size (`list[int]`, defaults to `[8, 8, 8]`):
            Size `[t, h, w]` of that one kernel.
        position_embedding_type (`str`, defaults to `"tube_center"`):
            `"tube_center"`: sine-cosine of the centre of what a token sees (Eq. 3 to 7); `"tube_index"`: sine-cosine
            of the token's index in its tube's grid; `"learned"`: a learned table for each tube; `"pretrained"`: a
            learned table in space for each tube of kernel time 1, `"tube_center"` for the others; `"none"`.
        position_embedding_scale (`float`, defaults to 1.0):
            Factor on the sine-cosine embeddings.
        position_embedding_resize (`str`, defaults to `"bicubic"`):
            How learned tables are brought to other sizes in space: `"bicubic"`, `"bicubic_antialias"` (as timm does),
            `"bicubic_corners"` or `"bilinear_corners"` (which keep the corners in place, as torchvision and Google's
            code do).
        heads (`dict[str, dict]`, *optional*):
            Of [`TubeViTForJointClassification`]: for each dataset its classes, `"labels"`, and its `"problem_type"`,
            by default a single label.
        recompute_activation (`bool`, defaults to `False`):
            Whether training keeps only the input of each MLP's activation for the backward pass, and computes its
            output again there. Autograd then keeps a quarter less for each layer, and no matrix product runs twice.
            Forward hooks of the activation and of `fc2` are called again in the backward pass, and functions of
            `torch.func` need the model in evaluation mode. Compiled models choose by themselves what they keep.

    Example:

    ```python
    >>> from tubevit_hf import TubeViTConfig, TubeViTModel

    >>> config = TubeViTConfig.from_preset("Ti", num_frames=16)
    >>> config.num_tokens()
    294
    >>> model = TubeViTModel(config)
    ```"""

    model_type = "tubevit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-6
    qkv_bias: bool = True
    image_size: int | list[int] | tuple[int, ...] = 224
    num_frames: int = 32
    num_channels: int = 3
    use_cls_token: bool = False
    num_register_tokens: int = 0
    use_layer_scale: bool = False
    use_pre_layernorm: bool = False
    pooling_type: Literal["attention", "cls", "mean", "grid"] = "attention"
    pooling_grid: list[int] | tuple[int, ...] = (8, 2, 4)
    pooling_layers: list[int] | None = None
    gate_layer: int | None = None
    freeze_before: int | None = None
    joint_layer: int = 0
    joint_pooling: list[int] | tuple[int, ...] = (1, 1)
    tubes: list[dict[str, Any]] | None = None
    tube_kernels: Literal["separate", "interpolated"] = "separate"
    base_kernel_size: list[int] | tuple[int, ...] = (8, 8, 8)
    position_embedding_type: Literal["tube_center", "tube_index", "learned", "pretrained", "none"] = "tube_center"
    position_embedding_scale: float | int = 1.0
    position_embedding_resize: Literal["bicubic", "bicubic_antialias", "bicubic_corners", "bilinear_corners"] = (
        "bicubic"
    )
    heads: dict[str, dict[str, Any]] | None = None
    recompute_activation: bool = False

    if TYPE_CHECKING:
        # a keyword too, though transformers keeps it in `id2label`
        num_labels: int = 2

        # transformers' own is untyped, so that every misspelt name would pass
        def __getattribute__(self, key: str) -> object: ...

    def __setattr__(self, key: str, value: Any) -> None:
        # whoever sets them: JSON has texts as keys, and Transformers' example scripts write texts as numbers
        if key == "label2id" and value is not None:
            value = number_names(value)
        if key != "id2label":
            super().__setattr__(key, value)
            return
        value = None if value is None else number_labels(value)
        before, names = self.__dict__.get("id2label"), self.__dict__.get("label2id")
        super().__setattr__(key, value)
        # names that said the same follow; others were set by the user, maybe ahead of these
        if names is None or (before is not None and agrees(names, before)):
            self.label2id = None if value is None else invert(value)

    def __post_init__(self, **kwargs: Any) -> None:
        self._check_before_use(kwargs)
        if self.id2label is None and self.label2id:
            self.id2label = {int(number): label for label, number in self.label2id.items()}
        # JSON knows lists only: what is saved and what is loaded must be the same
        if isinstance(self.image_size, tuple):
            self.image_size = list(self.image_size)
        self.base_kernel_size = list(self.base_kernel_size)
        self.joint_pooling = list(self.joint_pooling)
        self.pooling_grid = list(self.pooling_grid)
        # as given, so that what follows from other fields follows those; only `resolved_tubes` fills in defaults
        self.tubes = deepcopy(TABLE_12_TUBES if self.tubes is None else self.tubes)

        if self.heads is not None:
            self.heads = {
                name: {"problem_type": "single_label_classification", **head} for name, head in self.heads.items()
            }

        self._warn_about_unknown(kwargs)
        # what a file says of code that is to be loaded is transformers' to judge, and none of ours
        kwargs.pop("trust_remote_code", None)
        kwargs["auto_map"] = {**(kwargs.get("auto_map") or {}), **AUTO_MAP}
        super().__post_init__(**kwargs)
        if self.label2id is None and self.id2label is not None:
            self.label2id = invert(self.id2label)
        self._check()

    def _check(self) -> None:
        # `@strict` runs them again, here and when saving, but wraps what they raise: a user gets the plain ValueError
        self.validate_sizes()
        self.validate_layers()
        self.validate_tubes()
        self.validate_heads()
        self.validate_labels()
        # not when saving: names that were changed in place must not lose a trained model
        if self.id2label is not None and self.label2id is not None and not agrees(self.label2id, self.id2label):
            raise ValueError(
                f"`label2id` must give each name of `id2label` its number; got {reprlib.repr(self.label2id)} beside "
                f"{reprlib.repr(self.id2label)}. Set both, or leave out `label2id`, which follows."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        # before transformers looks at each of them
        check_limit("num_labels", len(config_dict.get("id2label") or ()))
        config_dict = cls._take_labels(config_dict, kwargs)
        for key, value in config_dict.items():
            if key in ATTENTION_KEYS and isinstance(value, str) and "/" in value:
                raise ValueError(
                    f"the configuration has `{key}` {value!r}, which would load code of that repository. If you trust "
                    f"it, remove the field and name it yourself: `attn_implementation={value!r}`."
                )
        loaded = super().from_dict(config_dict, **kwargs)
        # transformers sets what a call overrides without a further look
        (loaded[0] if isinstance(loaded, tuple) else loaded)._check()
        return loaded

    @staticmethod
    def _take_labels(config_dict: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """A file's fields, with the classes that a call has instead of the file's."""
        given = {name: kwargs.pop(name) for name in ("num_labels", "id2label", "label2id") if name in kwargs}
        known = config_dict.get("id2label")
        if given.get("id2label") is not None or given.get("num_labels") not in (None, len(known or ())):
            replaced = ("num_labels", "id2label", "label2id")
            config_dict = {name: value for name, value in config_dict.items() if name not in replaced}
        config_dict = {**config_dict, **{name: value for name, value in given.items() if value is not None}}
        labels, names = config_dict.get("id2label"), config_dict.get("label2id")
        if isinstance(labels, dict) and names is not None and given.get("label2id") is None:
            try:
                is_sound = agrees(number_names(names), number_labels(labels))
            except (TypeError, ValueError):
                is_sound = False
            if not is_sound:
                # such files were written where a call had replaced `id2label` alone
                logger.warning("`label2id` of the configuration does not say what its `id2label` says, which counts.")
                del config_dict["label2id"]
        return config_dict

    @classmethod
    def from_preset(cls, name: str, **kwargs: Any) -> "TubeViTConfig":
        """Configuration of a named size.

        Args:
            name (`str`): `"Ti"`, `"S"`, `"B"`, `"L"` or `"H"`, in any case; B, L and H are those of Table 11.
            kwargs: any other field of the configuration; overrides the preset.

        Raises:
            ValueError: the name is unknown.
        """
        presets = {preset.lower(): values for preset, values in PRESETS.items()}
        if str(name).lower() not in presets:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        settings: dict[str, Any] = {**presets[str(name).lower()], **kwargs}
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        # JSON knows lists only: what is saved and what is loaded must be the same
        return {**super().to_dict(), "tubes": json.loads(json.dumps(self.tubes))}

    def to_diff_dict(self) -> dict[str, Any]:
        settings = super().to_diff_dict()
        if not self.recompute_activation:
            # not in `config.json`: earlier versions would warn of a field that they do not know
            settings.pop("recompute_activation", None)
        return settings

    @property
    def resolved_tubes(self) -> tuple[Tube, ...]:
        """The tubes as checked objects that know their geometry, with what `tubes` leaves out filled in."""
        return resolve_tubes(self.tubes, self.hidden_size)

    @property
    def native_size(self) -> Size:
        """`(num_frames, height, width)`, in frames and pixels."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return (self.num_frames, height, width)

    def token_grids(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> list[Size]:
        """Token grid `(t, h, w)` of each tube for a clip of this size; `(0, 0, 0)` where a tube does not fit.

        Args:
            num_frames, height, width: size of the clip in frames and pixels; `None` means the config's own.
        """
        size = as_size(
            native if given is None else given for given, native in zip((num_frames, height, width), self.native_size)
        )
        return [tube.grid(size) for tube in self.resolved_tubes]

    def num_tokens(self, num_frames: int | None = None, height: int | None = None, width: int | None = None) -> int:
        """Number of tokens of a clip of this size before any are pooled, CLS and register tokens included."""
        return self.token_layout(num_frames, height, width).num_tokens

    def token_layout(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> TokenLayout:
        """Order of the tokens of a clip of this size, in the embeddings; `.pool(config.joint_pooling)` gives that from
        `joint_layer` on.

        Args:
            num_frames, height, width: as of `token_grids`.
        """
        size = as_size(
            native if given is None else given for given, native in zip((num_frames, height, width), self.native_size)
        )
        return token_layout(self.resolved_tubes, size, self.num_prefix_tokens, by_moment=self.joint_layer > 0)

    @property
    def layers_read(self) -> list[int]:
        """Numbers of layers after which the pooling reads the tokens, beside those at the end: for `"grid"` only."""
        return (self.pooling_layers or [self.num_hidden_layers]) if self.pooling_type == "grid" else []

    @property
    def pooled_size(self) -> int:
        """Length of the vector that the pooling gives."""
        if self.pooling_type != "grid":
            return self.hidden_size
        return len(self.layers_read) * sum(self.pooling_parts.values())

    @property
    def pooling_parts(self) -> dict[str, int]:
        """Lengths of what `"grid"` gives of each layer it reads, in order, see `pooling_type`."""
        steps, rows, columns = self.pooling_grid
        regions = rows * columns * self.hidden_size
        return {
            "means": regions,
            "changes": regions,
            "shares": regions,
            "differences": steps * regions,
            "peaks": (steps - 1) * self.hidden_size,
        }

    @property
    def num_prefix_tokens(self) -> int:
        """Number of CLS and register tokens; with a `joint_layer` each moment has as many."""
        return int(self.use_cls_token) + self.num_register_tokens

    def refine_strides(self, factors: Sequence[int]) -> None:
        """Divides the tubes' strides, so that the same weights see a clip in more tokens (Table 7d).

        Each token that there was is there still, with its position. Along axes with space-to-depth a tube keeps its
        stride.

        Args:
            factors (`Sequence[int]`): of time, height and width.

        Raises:
            ValueError: there are not three factors of at least 1, one does not divide a stride, or the positions do
                not allow it: those by index, and learned tables that would need other sizes.
        """
        if len(factors) != 3 or any(factor < 1 for factor in factors):
            raise ValueError(f"the factors must be three, of time, height and width, at least 1 each; got {factors}.")
        tubes = self.resolved_tubes
        finer = [tube.refine_stride(as_size(factors)) for tube in tubes]
        tables_change = any(
            self.position_table_shape(tube) != self.position_table_shape(new) for tube, new in zip(tubes, finer)
        )
        if tables_change or (self.position_embedding_type == "tube_index" and list(tubes) != finer):
            raise ValueError(
                f"`position_embedding_type` {self.position_embedding_type!r} ties positions to the strides that the "
                "model was trained with; 'tube_center' does not, nor does 'pretrained' if only time gets finer."
            )
        self.tubes = [{**given, "stride": list(tube.stride)} for given, tube in zip(self.tubes or [], finer)]

    def _check_before_use(self, kwargs: dict[str, Any]) -> None:
        """What would take long, or fail without naming a field, before any of the rest can be checked."""
        if self.tubes is not None:
            check_limit("tubes", len(self.tubes), "number of tubes")
            for index, tube in enumerate(self.tubes):
                for key, value in tube.items() if isinstance(tube, dict) else ():
                    for number in value if isinstance(value, (list, tuple)) else (value,):
                        if isinstance(number, (list, tuple, dict)):
                            raise TypeError(
                                f"`tubes[{index}]` has {key!r}, which must hold numbers, not lists in lists."
                            )
                        if isinstance(number, int):
                            check_limit(f"tubes[{index}][{key!r}]", number, "number in a tube")
        if self.heads is not None:
            check_limit("heads", len(self.heads), "number of heads")
        for name in ("num_labels", "auto_map"):
            kind = {"num_labels": int, "auto_map": dict}[name]
            value = kwargs.get(name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise TypeError(f"`{name}` must be of the type {kind.__name__}, got {reprlib.repr(value)}.")
        num_labels = kwargs.get("num_labels") or 0
        if num_labels < 0:
            raise ValueError(f"`num_labels` must not be negative, got {num_labels}.")
        check_limit("num_labels", num_labels)
        named = self.id2label if self.id2label is not None else self.label2id
        if kwargs.get("num_labels") is not None and named is not None and len(named) != num_labels:
            raise ValueError(
                f"`num_labels` is {num_labels}, but {len(named)} classes have names: leave out one of the two, or "
                "give each class a name."
            )
        if isinstance(self.dtype, str) and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"`dtype` must be a type of torch, such as 'float32', got {reprlib.repr(self.dtype)}.")

    def validate_labels(self) -> None:
        """Classes must be numbered from 0, each with a name; ImageNet has two of the name 'crane'."""
        if self.id2label is not None:
            # again, as they may have been changed in place
            number_labels(self.id2label)

    def count_about(self) -> int:
        """About how many parameters a model of this configuration has, without building it."""
        tubes = self.resolved_tubes
        tables = sum(prod(self.position_table_shape(tube) or (0,)) for tube in tubes)
        outputs = sum(prod(tube.kernel_size) * tube.out_channels for tube in tubes)
        if self.tube_kernels == "interpolated":
            outputs = prod(self.base_kernel_size) * self.hidden_size
        kernels = self.num_channels * outputs
        layers = self.num_hidden_layers * (4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size)
        prefix = self.num_prefix_tokens * self.hidden_size
        pooling = 4 * self.hidden_size**2 if self.pooling_type == "attention" else 0
        return kernels + tables + layers + prefix + pooling + self.pooled_size * (self.num_labels or 0)

    def validate_sizes(self) -> None:
        """Numbers that must be positive, fractions that must be fractions, and what must divide what."""
        for name in LIMITS.keys() & self.__dataclass_fields__.keys():
            value = getattr(self, name)
            for number in value if isinstance(value, list) else (value,):
                check_limit(name, number)
        for name in ("layer_norm_eps", "initializer_range", "position_embedding_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"`{name}` must be a finite number, got {getattr(self, name)}.")
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.num_register_tokens < 0:
            raise ValueError(f"`num_register_tokens` must not be negative, got {self.num_register_tokens}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.layer_norm_eps <= 0 or self.initializer_range < 0:
            raise ValueError(
                "`layer_norm_eps` must be above 0 and `initializer_range` not below, got "
                f"{self.layer_norm_eps} and {self.initializer_range}."
            )
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError(f"`image_size` must be one number or [height, width], got {self.image_size}.")
        if min(self.native_size) < 1:
            raise ValueError(
                f"`num_frames` and `image_size` must be at least 1, got {self.num_frames} and {self.image_size}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide `hidden_size`, got {self.num_attention_heads} and "
                f"{self.hidden_size}."
            )

    def validate_layers(self) -> None:
        """Layers that are named by their index must exist, and so must the activation and the token that is pooled."""
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` must be one of {', '.join(sorted(ACT2FN))}, got {self.hidden_act!r}.")
        if self.gate_layer is not None and not 0 <= self.gate_layer < self.num_hidden_layers:
            raise ValueError(
                f"`gate_layer` must be from 0 to {self.num_hidden_layers - 1} (`num_hidden_layers` is "
                f"{self.num_hidden_layers}), got {self.gate_layer}."
            )
        if self.freeze_before is not None and not 0 <= self.freeze_before <= self.num_hidden_layers:
            raise ValueError(
                f"`freeze_before` must be from 0 to {self.num_hidden_layers} (`num_hidden_layers`), got "
                f"{self.freeze_before}."
            )
        if not 0 <= self.joint_layer <= self.num_hidden_layers:
            raise ValueError(
                f"`joint_layer` must be from 0 to {self.num_hidden_layers} (`num_hidden_layers`), got "
                f"{self.joint_layer}."
            )
        if len(self.joint_pooling) != 2 or min(self.joint_pooling) < 1:
            raise ValueError(f"`joint_pooling` must be [h, w], each at least 1, got {self.joint_pooling}.")
        if self.joint_layer == 0 and self.joint_pooling != [1, 1]:
            raise ValueError(f"`joint_pooling` {self.joint_pooling} needs a `joint_layer` above 0, where it happens.")
        if len(self.pooling_grid) != 3 or min(self.pooling_grid) < 1:
            raise ValueError(f"`pooling_grid` must be [t, h, w], each at least 1, got {self.pooling_grid}.")
        layers = self.pooling_layers
        if layers is not None and (
            sorted(set(layers)) != layers or layers[-1:] != [self.num_hidden_layers] or layers[0] < 0
        ):
            raise ValueError(
                "`pooling_layers` must be ascending numbers of layers from 0 that end with all "
                f"{self.num_hidden_layers} (`num_hidden_layers`), got {layers}."
            )
        if self.pooling_type == "grid" and self.joint_layer == 0:
            raise ValueError(
                "`pooling_type` 'grid' reads single frames: it needs a `joint_layer` above 0, such as "
                f"{self.num_hidden_layers}, so that no layer mixes them."
            )
        if self.pooling_type == "cls" and not self.use_cls_token:
            raise ValueError(
                "`pooling_type` 'cls' needs `use_cls_token=True`; without one choose 'attention' or 'mean'."
            )

    def validate_tubes(self) -> None:
        """Tubes must suit the kind of kernel and of position embedding."""
        tubes = self.resolved_tubes
        check_limit("number of parameters", self.count_about())
        if len(self.base_kernel_size) != 3 or min(self.base_kernel_size) < 1:
            raise ValueError(f"`base_kernel_size` must be [t, h, w], each at least 1, got {self.base_kernel_size}.")
        for index, tube in enumerate(tubes):
            if self.tube_kernels == "interpolated" and tube.out_channels > self.hidden_size:
                raise ValueError(
                    f"`tubes[{index}].out_channels` is {tube.out_channels}, but an interpolated kernel has only "
                    f"{self.hidden_size} rows (`hidden_size`) to take them from."
                )
            native_size = self._native_table_size(tube)
            if native_size is not None and not all(tube.grid(native_size)):
                raise ValueError(
                    f"`tubes[{index}]` sees {'x'.join(map(str, tube.extent))} at {list(tube.offset)}, which does not "
                    f"fit {'x'.join(map(str, native_size))} (`num_frames` and `image_size`), but "
                    f"`position_embedding_type` {self.position_embedding_type!r} needs its native grid."
                )
        if self.joint_layer > 0:
            moments = {(tube.offset[0], tube.stride[0]) for tube in tubes if tube.sees_one_frame}
            if len(moments) != 1:
                raise ValueError(
                    f"`joint_layer` {self.joint_layer} needs a tube that sees one frame, such as {{'kernel_size': "
                    "[1, 16, 16], 'stride': [4, 16, 16]}, and of several the same offset and stride in time; got "
                    f"(offset, stride) {sorted(moments) or 'of none'}."
                )
        if self.pooling_type == "grid" and sum(tube.sees_one_frame for tube in tubes) != 1:
            raise ValueError("`pooling_type` 'grid' reads one tube: of `tubes`, one must see a single frame, no more.")
        if self.position_embedding_type == "pretrained" and all(tube.kernel_size[0] > 1 for tube in tubes):
            raise ValueError(
                "`position_embedding_type` 'pretrained' needs a tube of kernel time 1, such as "
                "{'kernel_size': [1, 16, 16], 'stride': [32, 16, 16]}."
            )

    def validate_heads(self) -> None:
        """Heads must have classes, and names that parameters can have."""
        for name, head in (self.heads or {}).items():
            if not isinstance(head.get("labels", []), list) or any(
                not isinstance(label, str) for label in head.get("labels", [])
            ):
                raise TypeError(f"`heads[{name!r}]` must have a list of texts as 'labels', got {reprlib.repr(head)}.")
            check_limit(f"heads[{name!r}]['labels']", len(head.get("labels", [])), "num_labels")
            if hasattr(torch.nn.ModuleDict, name):
                raise ValueError(f"`heads` must not have the name {name!r}, which a module needs for itself.")
            if "." in name or head.keys() != {"labels", "problem_type"} or not head["labels"]:
                raise ValueError(
                    f'`heads[{name!r}]` must be {{"labels": [...], "problem_type": ...}} with one label or more, and '
                    f"its name have no dot, got {head}."
                )

    def position_table_shape(self, tube: Tube) -> tuple[int, ...] | None:
        """Shape of the learned position table of a tube, `None` where it has none: `(1, t, h, w, hidden_size)` or, for
        `"pretrained"`, `(1, h, w, hidden_size)`."""
        native_size = self._native_table_size(tube)
        if native_size is None:
            return None
        steps, rows, columns = tube.grid(native_size)
        if self.position_embedding_type == "pretrained":
            return (1, rows, columns, self.hidden_size)
        return (1, steps, rows, columns, self.hidden_size)

    def _native_table_size(self, tube: Tube) -> Size | None:
        """Clip size at which a tube's learned position table is laid out."""
        if self.position_embedding_type == "learned":
            return self.native_size
        if self.position_embedding_type == "pretrained" and tube.kernel_size[0] == 1:
            # a table in space only: any clip that is long enough gives the same one
            return (tube.offset[0] + tube.extent[0], *self.native_size[1:])
        return None

    def _warn_about_unknown(self, kwargs: dict[str, Any]) -> None:
        known = sorted(self.__dataclass_fields__)
        for key in kwargs.keys() - _TRANSFORMERS_KEYS:
            suggestion = "".join(f" Did you mean `{close}`?" for close in get_close_matches(key, known, 1))
            logger.warning(f"`{key}` is not a field of {type(self).__name__} and has no effect.{suggestion}")


__all__ = ["TubeViTConfig"]
