# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 The tubevit_hf Authors
"""The configuration of a TubeViT: fields, presets, and the sizes that follow from the fields."""

import json
from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_checks_tubevit import (
    STATISTICS,
    agrees,
    check_before_use,
    check_heads,
    check_labels,
    check_layers,
    check_names,
    check_pretraining,
    check_sizes,
    check_tubes,
    complete_pretraining,
    count_about,
    invert,
    number_labels,
    number_names,
    refuse_foreign_code,
    settle_labels,
    warn_about_unknown,
)
from .moments_tubevit import TokenLayout, token_layout
from .tubes_tubevit import Size, Tube, as_size, resolve_tubes


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

# Every checkpoint names all classes, not only the one that saved it, so that each pipeline finds its own
AUTO_MAP = {
    "AutoConfig": "configuration_tubevit.TubeViTConfig",
    "AutoModel": "modeling_tubevit.TubeViTModel",
    "AutoModelForPreTraining": "pretraining_tubevit.TubeViTForPreTraining",
    "AutoModelForVideoClassification": "modeling_tubevit.TubeViTForVideoClassification",
    "AutoModelForImageClassification": "modeling_tubevit.TubeViTForImageClassification",
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
            Number of attention heads, in each layer and in the attention pooling.
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
            Whether to add a bias to queries, keys and values.
        image_size (`int` or `list[int]`, defaults to 224):
            Native size of a frame in pixels, one number or `[height, width]`. Other sizes work too.
        num_frames (`int`, defaults to 32):
            Native length of a clip in frames. Other lengths work too.
        num_channels (`int`, defaults to 3):
            Number of channels of a frame.
        use_cls_token (`bool`, defaults to `False`):
            Whether to put a learned classification token (CLS) before the tokens of the tubes.
        num_register_tokens (`int`, defaults to 0):
            Number of learned register tokens, placed after the CLS token.
        use_layer_scale (`bool`, defaults to `False`):
            Whether to scale each residual branch by a learned vector, as DINOv2 does.
        use_pre_layernorm (`bool`, defaults to `False`):
            Whether to apply a layer norm before the encoder, as CLIP does.
        pooling_type (`str`, defaults to `"attention"`):
            How the tokens become one vector.

            - `"attention"`: a learned query attends to all valid tokens.
            - `"cls"`: the CLS token; with a `joint_layer`, the mean of the CLS tokens of all moments.
            - `"mean"`: the mean of the tubes' valid tokens.
            - `"grid"`: concatenated statistics of the tubes' tokens in each region of `pooling_grid`: mean over time,
              mean absolute change, change relative to other regions, deviation per time step, and the maximum change
              of any patch. No weights. With a `joint_layer` it reads the tube that sees one frame. Made for training
              on few videos.
        pooling_grid (`list[int]`, defaults to `[8, 2, 4]`):
            Number of regions `[t, h, w]` into which `"grid"` divides a clip.
        pooling_layers (`list[int]`, *optional*):
            Layers after which `"grid"` reads the tokens: `[6, 9]` reads them after the first six and after the first
            nine layers. The final norm is applied to each. The last number must be `num_hidden_layers`, which alone
            is the default.
        pooling_statistics (`list[str]`, *optional*):
            Statistics that `"grid"` computes, in this order: `"means"`, `"changes"`, `"shares"`, `"differences"`,
            `"peaks"`, `"signed"`, see `TubeViTGridPooler`. By default all but the last.
        gate_layer (`int`, *optional*):
            0-based index of the layer that adds the embeddings back through a learned gate, `tanh(gate) * z0` (Eq. 8).
        freeze_before (`int`, *optional*):
            0-based index of the first layer that is trained; the embeddings and the layers before it are frozen, see
            [`TubeViTModel.freeze_before`].
        joint_layer (`int`, defaults to 0):
            0-based index of the first layer in which all tokens attend to each other. The layers before it encode each
            moment alone, like an image, with its own CLS and register tokens; a moment is a frame that tubes of one
            frame read. Tubes over several frames join at this layer. With `num_hidden_layers`, only the pooling
            sees all tokens together.
        joint_pooling (`list[int]`, defaults to `[1, 1]`):
            Number of patches `[h, w]` of a moment that are averaged into one at the `joint_layer`. A clip of a single
            moment, such as an image, keeps its patches.
        tubes (`list[dict]`, *optional*):
            The tubes, each `{"kernel_size", "stride", "offset" = 0, "space_to_depth" = 1, "out_channels" =
            hidden_size / prod(space_to_depth)}`, with sizes as `[t, h, w]` in frames and pixels, or one number for all
            three. Defaults to Table 12 of the paper.
        tube_kernels (`str`, defaults to `"separate"`):
            `"separate"`: each tube has its own kernel; `"interpolated"`: one kernel is resized tri-linearly to the
            size of every tube.
        base_kernel_size (`list[int]`, defaults to `[8, 8, 8]`):
            Size `[t, h, w]` of the kernel that `"interpolated"` resizes.
        position_embedding_type (`str`, defaults to `"tube_center"`):
            Position embeddings of the tokens.

            - `"tube_center"`: sine-cosine of the centre of the region that a token sees (Eq. 3 to 7).
            - `"tube_index"`: sine-cosine of the token's index in its tube's grid.
            - `"learned"`: a learned table for each tube.
            - `"pretrained"`: a learned table in space for each tube of kernel time 1, `"tube_center"` for the others.
            - `"spatial"`: a learned table in space for each tube, plus the sine-cosine of the centre's time.
            - `"none"`: no position embeddings.
        position_embedding_scale (`float`, defaults to 1.0):
            Factor on the sine-cosine embeddings.
        position_embedding_resize (`str`, defaults to `"bicubic"`):
            Interpolation that resizes learned tables in space: `"bicubic"`, `"bicubic_antialias"` (as in timm),
            `"bicubic_corners"` or `"bilinear_corners"` (both keep the corners in place, as in torchvision and Google's
            code).
        heads (`dict[str, dict]`, *optional*):
            Heads of [`TubeViTForJointClassification`], by dataset: `{"labels": [...], "problem_type": ...}`, where the
            problem type defaults to `"single_label_classification"`.
        recompute_activation (`bool`, defaults to `False`):
            Whether training stores only the input of each MLP's activation, and computes its output again in the
            backward pass. Autograd then stores a quarter less per layer, and no matrix product runs twice. The forward
            hooks of the activation and of `fc2` run again in the backward pass, and functions of `torch.func` need the
            model in evaluation mode. A compiler ignores this field, and chooses what it stores.
        pretraining (`dict`, *optional*):
            What [`TubeViTForPreTraining`] predicts, a dict of these keys. Keys that are left out get their defaults.

            - `"target"`, defaults to `"features"`: `"features"` that the caller gives, or the `"pixels"` of a clip.
            - `"layers"`, defaults to `[num_hidden_layers]`: numbers of layers after which tokens are read, in
              ascending order; each has a head.
            - `"target_size"`: number of features that each head predicts; required for `"features"`.
            - `"pixel_size"`, defaults to `[2, 8, 8]`: size `[t, h, w]` to which the pixels of each token are averaged;
              for `"pixels"` only.
            - `"decoder_layers"`, defaults to 0: number of layers after the encoder. They predict tokens that the
              encoder does not see, and allow a single number in `"layers"`.

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
    pooling_statistics: list[str] | None = None
    gate_layer: int | None = None
    freeze_before: int | None = None
    joint_layer: int = 0
    joint_pooling: list[int] | tuple[int, ...] = (1, 1)
    tubes: list[dict[str, Any]] | None = None
    tube_kernels: Literal["separate", "interpolated"] = "separate"
    base_kernel_size: list[int] | tuple[int, ...] = (8, 8, 8)
    position_embedding_type: Literal["tube_center", "tube_index", "learned", "pretrained", "spatial", "none"] = (
        "tube_center"
    )
    position_embedding_scale: float | int = 1.0
    position_embedding_resize: Literal["bicubic", "bicubic_antialias", "bicubic_corners", "bilinear_corners"] = (
        "bicubic"
    )
    heads: dict[str, dict[str, Any]] | None = None
    recompute_activation: bool = False
    pretraining: dict[str, Any] | None = None

    if TYPE_CHECKING:
        # a keyword too, though transformers keeps it in `id2label`
        num_labels: int = 2

        # without this, type checkers accept every misspelt name: transformers' method is untyped
        def __getattribute__(self, key: str) -> object: ...

    def __setattr__(self, key: str, value: Any) -> None:
        # JSON keys are strings, and Transformers' example scripts write numbers as strings
        if key == "label2id" and value is not None:
            value = number_names(value)
        # JSON has no tuples, and a loaded config must equal the saved one
        if isinstance(value, tuple) and key in self.__dataclass_fields__:
            value = list(value)
        # here, since a config is often given this field after it was made
        if key == "pretraining" and isinstance(value, dict):
            value = complete_pretraining(value, self.num_hidden_layers)
        if key != "id2label":
            super().__setattr__(key, value)
            return
        value = None if value is None else number_labels(value)
        before, names = self.__dict__.get("id2label"), self.__dict__.get("label2id")
        super().__setattr__(key, value)
        # a `label2id` that agreed with the old labels follows; any other was set by the user, maybe in advance
        if names is None or (before is not None and agrees(names, before)):
            self.label2id = None if value is None else invert(value)

    def __post_init__(self, **kwargs: Any) -> None:
        check_before_use(self, kwargs)
        if self.id2label is None and self.label2id:
            self.id2label = {int(number): label for label, number in self.label2id.items()}
        # without defaults: they depend on other fields, which may change, so that `resolved_tubes` fills them in
        self.tubes = deepcopy(TABLE_12_TUBES if self.tubes is None else self.tubes)

        if self.heads is not None:
            self.heads = {
                name: {"problem_type": "single_label_classification", **head} for name, head in self.heads.items()
            }

        warn_about_unknown(self, kwargs)
        # the caller decides if code is loaded, never the file
        kwargs.pop("trust_remote_code", None)
        kwargs["auto_map"] = {**(kwargs.get("auto_map") or {}), **AUTO_MAP}
        super().__post_init__(**kwargs)
        if self.label2id is None and self.id2label is not None:
            self.label2id = invert(self.id2label)
        self._check()

    def _check(self) -> None:
        # `@strict` wraps the errors of these methods, so they run before it: a user gets the plain ValueError
        self.validate_sizes()
        self.validate_layers()
        self.validate_pretraining()
        self.validate_tubes()
        self.validate_heads()
        self.validate_labels()
        # not a `validate_` method, which runs on saving: labels edited in place must not stop a model from being saved
        check_names(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        config_dict = settle_labels(config_dict, kwargs)
        refuse_foreign_code(config_dict)
        loaded = super().from_dict(config_dict, **kwargs)
        # transformers sets the call's overrides without checks
        (loaded[0] if isinstance(loaded, tuple) else loaded)._check()
        return loaded

    @classmethod
    def from_preset(cls, name: str, **kwargs: Any) -> "TubeViTConfig":
        """Makes the configuration of a named size.

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
        # as JSON holds them: tuples become lists, so that a loaded config equals the saved one
        return {**super().to_dict(), "tubes": json.loads(json.dumps(self.tubes))}

    def to_diff_dict(self) -> dict[str, Any]:
        settings = super().to_diff_dict()
        # left out of `config.json` where they are off: earlier versions would warn of unknown fields
        for name in ("recompute_activation", "pretraining", "pooling_statistics"):
            if not getattr(self, name):
                settings.pop(name, None)
        return settings

    @property
    def resolved_tubes(self) -> tuple[Tube, ...]:
        """The tubes as checked `Tube` objects, with defaults for keys that `tubes` leaves out."""
        return resolve_tubes(self.tubes, self.hidden_size)

    @property
    def native_size(self) -> Size:
        """Size of a clip, `(num_frames, height, width)`, in frames and pixels."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return (self.num_frames, height, width)

    def token_grids(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> list[Size]:
        """Token grid `(t, h, w)` of each tube for a clip of this size; `(0, 0, 0)` for a tube that does not fit.

        Args:
            num_frames, height, width: size of the clip in frames and pixels; `None` means the config's own.
        """
        size = self._clip_size(num_frames, height, width)
        return [tube.grid(size) for tube in self.resolved_tubes]

    def num_tokens(self, num_frames: int | None = None, height: int | None = None, width: int | None = None) -> int:
        """Number of tokens of a clip of this size in the embeddings, with CLS and registers."""
        return self.token_layout(num_frames, height, width).num_tokens

    def token_layout(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> TokenLayout:
        """Order of the tokens of a clip of this size in the embeddings. `.pool(config.joint_pooling)` of it is the
        order from `joint_layer` on.

        Args:
            num_frames, height, width: as in `token_grids`.
        """
        size = self._clip_size(num_frames, height, width)
        return token_layout(self.resolved_tubes, size, self.num_prefix_tokens, by_moment=self.joint_layer > 0)

    def _clip_size(self, *given: int | None) -> Size:
        return as_size(own if length is None else length for length, own in zip(given, self.native_size))

    @property
    def layers_read(self) -> list[int]:
        """Numbers of layers after which the pooling `"grid"` reads the tokens; empty for other poolings."""
        return (self.pooling_layers or [self.num_hidden_layers]) if self.pooling_type == "grid" else []

    @property
    def pooled_size(self) -> int:
        """Length of the pooled vector."""
        if self.pooling_type != "grid":
            return self.hidden_size
        return len(self.layers_read) * sum(self.pooling_parts.values())

    @property
    def pooling_tubes(self) -> list[int]:
        """Indices of the tubes that the pooling `"grid"` reads: all, or with a `joint_layer` the one of one frame."""
        tubes = enumerate(self.resolved_tubes)
        return [index for index, tube in tubes if self.joint_layer == 0 or tube.sees_one_frame]

    @property
    def pooling_parts(self) -> dict[str, int]:
        """Length of each statistic of the pooling `"grid"` per layer, in order, see `TubeViTGridPooler`."""
        steps, rows, columns = self.pooling_grid
        regions = rows * columns * self.hidden_size
        lengths = {
            "means": regions,
            "changes": regions,
            "shares": regions,
            "differences": steps * regions,
            "peaks": (steps - 1) * self.hidden_size,
            "signed": regions,
        }
        wanted = STATISTICS[:-1] if self.pooling_statistics is None else self.pooling_statistics
        return {name: length for name, length in lengths.items() if name in wanted}

    @property
    def pretraining_size(self) -> int:
        """Number of values that [`TubeViTForPreTraining`] predicts for a token after a layer; 0 without
        `pretraining`."""
        if self.pretraining is None:
            return 0
        if self.pretraining["target"] == "pixels":
            return self.num_channels * prod(self.pretraining["pixel_size"])
        return self.pretraining["target_size"]

    @property
    def num_prefix_tokens(self) -> int:
        """Number of CLS and register tokens; with a `joint_layer`, per moment."""
        return int(self.use_cls_token) + self.num_register_tokens

    def refine_strides(self, factors: Sequence[int]) -> None:
        """Divides the tubes' strides: the same weights make more tokens of a clip (Table 7d).

        A clip's former tokens keep their positions, and new ones come between them. Along axes with space-to-depth a
        tube keeps its stride.

        Args:
            factors (`Sequence[int]`): divisors of the strides in time, height and width.

        Raises:
            ValueError: there are not three factors of at least 1; one does not divide a stride; or the position
                embeddings depend on the stride: `"tube_index"`, and learned tables whose size would change.
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
                "model was trained with; 'tube_center' does not, nor do 'pretrained' and 'spatial' in time alone."
            )
        self.tubes = [{**given, "stride": list(tube.stride)} for given, tube in zip(self.tubes or [], finer)]

    # `@strict` runs every `validate_*` method when a config is made and when it is saved

    def validate_labels(self) -> None:
        check_labels(self)

    def count_about(self) -> int:
        """Estimates the number of parameters of a model of this configuration, without building it."""
        return count_about(self)

    def validate_sizes(self) -> None:
        check_sizes(self)

    def validate_layers(self) -> None:
        check_layers(self)

    # before the tubes, whose check counts the parameters of the heads too
    def validate_pretraining(self) -> None:
        check_pretraining(self)

    def validate_tubes(self) -> None:
        check_tubes(self)

    def validate_heads(self) -> None:
        check_heads(self)

    def position_table_shape(self, tube: Tube) -> tuple[int, ...] | None:
        """Shape of a tube's learned position table: `(1, t, h, w, hidden_size)` or, without a time axis, `(1, h, w,
        hidden_size)`. `None` for a tube without a table."""
        native_size = self._native_table_size(tube)
        if native_size is None:
            return None
        steps, rows, columns = tube.grid(native_size)
        if self.position_embedding_type != "learned":
            return (1, rows, columns, self.hidden_size)
        return (1, steps, rows, columns, self.hidden_size)

    def _native_table_size(self, tube: Tube) -> Size | None:
        """Clip size at which a tube's grid is that of its learned position table; `None` for a tube without one."""
        if self.position_embedding_type == "learned":
            return self.native_size
        kind = self.position_embedding_type
        if kind == "spatial" or (kind == "pretrained" and tube.kernel_size[0] == 1):
            # the table has no time axis, so that the shortest clip that fits will do
            return (tube.offset[0] + tube.extent[0], *self.native_size[1:])
        return None


__all__ = ["TubeViTConfig"]
