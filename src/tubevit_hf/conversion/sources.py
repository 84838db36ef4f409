# SPDX-License-Identifier: Apache-2.0
"""Reads an image ViT from wherever it lies, and brings its parameters to common names."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.utils import cached_file

from .families import GOOGLE, TIMM, TORCHVISION, TRANSFORMERS, Family


# heads of the usual ViTs by width, for files that do not tell
STANDARD_HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
# the classes that hold no more than the encoder and its head; other checkpoints of the family are read by the first
MODEL_CLASSES = {
    "vit": ("ViTModel", "ViTForImageClassification"),
    "deit": ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
    "vit_mae": ("ViTMAEModel",),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification"),
    "clip_vision_model": ("CLIPVisionModel",),
    "siglip_vision_model": ("SiglipVisionModel",),
}
# of an image processor's settings, those that TubeViT's processors share
PREPROCESSING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_convert_rgb"),
)


class ConversionError(ValueError):
    """A source cannot become a TubeViT; the message names the source and the reason."""


@dataclass
class SourceViT:
    """An image ViT under common names, see `families`.

    Args:
        name: path or repo id.
        family: how its library names things.
        settings: fields of `TubeViTConfig` that the source decides.
        tensors: common name -> parameter.
        origins: common name -> key in the source.
        dropped: key in the source -> why it is not needed.
        preprocessing: how its images are prepared, as arguments of an image processor.
    """

    name: str
    family: Family
    settings: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    origins: dict[str, str]
    dropped: dict[str, str]
    preprocessing: dict[str, Any] = field(default_factory=dict)

    @property
    def patch_size(self) -> tuple[int, int]:
        """`(height, width)` in pixels."""
        height, width = self.tensors["patch.weight"].shape[-2:]
        return height, width


def read_source(
    source: str | os.PathLike[str],
    keep_classifier: bool = True,
    num_attention_heads: int | None = None,
    allow_pickle: bool = False,
) -> SourceViT:
    """Reads a ViT of transformers or timm (folder or repo id), or a file of timm, torchvision or Google.

    Args:
        source: folder, repo id, or path of a `.safetensors`, `.npz` or, if allowed, pickled file.
        keep_classifier: whether the head comes along.
        num_attention_heads: for files of timm and torchvision, which do not tell; by default the usual number.
        allow_pickle: whether a pickled file may be read (by PyTorch's restricted reader).

    Raises:
        ConversionError: it cannot be read, is no ViT, or one that TubeViT cannot express.
    """
    name = os.fspath(source)
    preprocessing: dict[str, Any] = {}
    if Path(name).is_file():
        family, tensors, settings = read_file(Path(name), allow_pickle)
    else:
        try:
            config, _ = PreTrainedConfig.get_config_dict(name)
        except (OSError, ValueError) as error:
            raise ConversionError(f"{name}: it cannot be read ({first_line(error)}).") from error
        if "architecture" in config:
            family, tensors, settings, preprocessing = read_timm(name, config)
        else:
            family, tensors, settings, preprocessing = read_transformers(name, config, keep_classifier, allow_pickle)
    if num_attention_heads is not None:
        settings["num_attention_heads"] = num_attention_heads
    common, origins, dropped = rename(name, family, tensors, keep_classifier)
    settings = {**infer_settings(name, common, settings), **settings}
    return SourceViT(name, family, settings, common, origins, dropped, preprocessing)


def read_file(path: Path, allow_pickle: bool) -> tuple[Family, dict[str, torch.Tensor], dict[str, Any]]:
    if path.suffix not in (".npz", ".safetensors") and not allow_pickle:
        raise ConversionError(
            f"{path}: it is no .safetensors or .npz file. If it is a pickle that you trust, allow it with "
            "`allow_pickle=True` (`--allow-pickle`)."
        )
    try:
        if path.suffix == ".npz":
            return GOOGLE, *read_npz(path)
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            # tensors only: no code of the file runs
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        raise ConversionError(f"{path}: it cannot be read ({first_line(error)}).") from error
    for family, mark in ((TIMM, "patch_embed.proj.weight"), (TORCHVISION, "conv_proj.weight")):
        if mark in tensors:
            return family, tensors, {}
    raise ConversionError(
        f"{path}: it is no plain ViT of timm or torchvision; it holds {', '.join(sorted(tensors)[:5]) or 'nothing'}."
    )


def read_npz(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Google's arrays in PyTorch's layout: kernels `(in, out)` are transposed, and heads are joined."""
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            array = arrays[key]
            if key == "embedding/kernel":
                array = array.transpose(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
            elif "MultiHeadDotProductAttention" in key:
                if key.endswith("out/kernel"):
                    array = array.reshape(-1, array.shape[-1]).T  # (heads, head_dim, out) -> (out, in)
                elif key.endswith("kernel"):
                    settings["num_attention_heads"] = array.shape[1]
                    array = array.reshape(array.shape[0], -1).T  # (in, heads, head_dim) -> (out, in)
                else:
                    array = array.reshape(-1)
            elif key.endswith("kernel"):
                array = array.T
            tensors[key] = torch.from_numpy(np.ascontiguousarray(array))
    return tensors, settings


def read_timm(
    name: str, config: dict[str, Any]
) -> tuple[Family, dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """A folder or repository as timm writes it: `config.json` names the architecture, not its numbers."""
    architecture = config["architecture"]
    if not re.match(r"(vit|deit)_", architecture):
        raise ConversionError(f"{name}: {architecture} is no plain ViT of timm (vit_* or deit_*).")
    settings: dict[str, Any] = {}
    arguments, pretrained = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
    if "num_heads" in arguments:
        settings["num_attention_heads"] = arguments["num_heads"]
    if "quickgelu" in architecture:
        settings["hidden_act"] = "quick_gelu"
    if "_clip" in architecture:
        settings["layer_norm_eps"] = 1e-5
    if "input_size" in pretrained:
        settings["image_size"] = list(pretrained["input_size"][1:])
    if config.get("label_names"):
        settings["id2label"] = dict(enumerate(config["label_names"]))
    preprocessing: dict[str, Any] = {}
    if "mean" in pretrained and "std" in pretrained:
        preprocessing = {"image_mean": list(pretrained["mean"]), "image_std": list(pretrained["std"])}
    try:
        file = cached_file(name, "model.safetensors")
        assert file is not None  # a missing one is an error
        return TIMM, load_file(file), settings, preprocessing
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{name}: its model.safetensors cannot be read ({first_line(error)}).") from error


def read_transformers(
    name: str, config: dict[str, Any], keep_classifier: bool, allow_pickle: bool
) -> tuple[Family, dict[str, torch.Tensor | None], dict[str, Any], dict[str, Any]]:
    """A folder or repository of transformers, read by its own class: its loader knows the names of all versions."""
    model_type = config.get("model_type")
    if model_type is None:
        raise ConversionError(
            f"{name}: it holds no config.json of Transformers or timm. A file of weights is given itself."
        )
    # the text half of CLIP and SigLIP is left where it is
    model_type = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}.get(model_type, model_type)
    if model_type not in TRANSFORMERS:
        raise ConversionError(
            f"{name}: its `model_type` is {model_type!r}; TubeViT can be made of {', '.join(TRANSFORMERS)}, and of "
            "ViTs of timm, torchvision and Google's .npz files."
        )
    [architecture] = config.get("architectures") or [None]
    headless, *classifiers = MODEL_CLASSES[model_type]
    if keep_classifier and str(architecture).endswith("ForImageClassification") and architecture not in classifiers:
        raise ConversionError(
            f"{name}: its classifier cannot come along: it does not read a CLS token. Leave it behind with "
            "`keep_classifier=False` (`--no-classifier`)."
        )
    model_class = getattr(transformers, architecture if architecture in classifiers else headless)
    try:
        model, info = model_class.from_pretrained(
            name, dtype="auto", output_loading_info=True, use_safetensors=None if allow_pickle else True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ConversionError(f"{name}: it cannot be read ({first_line(error)}).") from error
    prefix = f"{model.base_model_prefix}."
    tensors = {key.removeprefix(prefix): tensor for key, tensor in model.state_dict().items()}
    missing = {key.removeprefix(prefix) for key in info["missing_keys"]}
    family = TRANSFORMERS[model_type]
    for key in sorted(missing):
        if not matches(family.dropped, key):
            raise ConversionError(f"{name}: the checkpoint lacks {key}; it is truncated or of another model.")
        # what the class made up in its place
        tensors.pop(key)
    # what the class did not ask for, such as a decoder or a text model
    tensors.update(dict.fromkeys(info["unexpected_keys"]))

    source_config = model.config
    settings = {
        setting: getattr(source_config, setting)
        for setting in ("num_attention_heads", "hidden_act", "layer_norm_eps", "hidden_dropout_prob")
        if hasattr(source_config, setting)
    }
    for setting in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(source_config, setting):
            settings["attention_probs_dropout_prob"] = getattr(source_config, setting)
    size = source_config.image_size
    settings["image_size"] = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if "classifier.weight" in tensors:
        settings["id2label"] = source_config.id2label
        if source_config.problem_type:
            settings["problem_type"] = source_config.problem_type
    return family, tensors, settings, read_preprocessing(name)


def read_preprocessing(name: str) -> dict[str, Any]:
    """Settings of the image processor that lies with a checkpoint, if one does."""
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return {}
    found = processor.to_dict()
    return {setting: found[setting] for setting in PREPROCESSING if found.get(setting) is not None}


def rename(
    name: str, family: Family, tensors: Mapping[str, torch.Tensor | None], keep_classifier: bool
) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, str]]:
    """Brings parameters to common names; also gives the source key of each, and why others are dropped."""
    common: dict[str, torch.Tensor] = {}
    origins: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key, tensor in tensors.items():
        if tensor is None:
            dropped[key] = matches(family.dropped, key) or "no part of the image encoder"
        elif reason := matches(family.refused, key):
            raise ConversionError(f"{name}: TubeViT cannot express it: {reason} ({key}).")
        elif reason := matches(family.other_heads, key):
            if keep_classifier:
                raise ConversionError(
                    f"{name}: its classifier cannot come along: {reason} ({key}). Leave it behind with "
                    "`keep_classifier=False` (`--no-classifier`)."
                )
            dropped[key] = f"left behind as asked; {reason}"
        elif target := matches(family.keys, key, key):
            target = re.sub(r"\.(kernel|scale)$", ".weight", target)  # JAX's names of a weight
            if target.startswith("classifier.") and not keep_classifier:
                dropped[key] = "left behind as asked"
            else:
                common[target], origins[target] = tensor, key
        elif reason := matches(family.dropped, key):
            dropped[key] = reason
        else:
            raise ConversionError(f"{name}: {key} is no parameter of a {family.name} that TubeViT knows.")
    return common, origins, dropped


def matches(rules: dict[str, str], key: str, expand: str | None = None) -> str | None:
    """What the first rule says whose expression is the whole key; with the expression's groups filled in if asked."""
    for expression, says in rules.items():
        if match := re.fullmatch(expression, key):
            return match.expand(says) if expand else says
    return None


def infer_settings(name: str, tensors: dict[str, torch.Tensor], known: dict[str, Any]) -> dict[str, Any]:
    """What the shapes tell of a configuration.

    Raises:
        ConversionError: parameters are missing, or the number of heads is unknown.
    """
    if "patch.weight" not in tensors or "positions" not in tensors or "layernorm.weight" not in tensors:
        raise ConversionError(f"{name}: it lacks a patch embedding, a position table or a final norm.")
    hidden_size, num_channels, *patch_size = tensors["patch.weight"].shape
    layers = {int(key.split(".")[1]) for key in tensors if key.startswith("layers.")}
    if layers != set(range(len(layers))) or not layers:
        raise ConversionError(f"{name}: it has the layers {sorted(layers)}, so some are missing.")
    settings: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "intermediate_size": len(tensors["layers.0.mlp.fc1.weight"]),
        "num_channels": num_channels,
        "qkv_bias": any(key.endswith(("q_proj.bias", "qkv.bias")) for key in tensors),
        "use_layer_scale": "layers.0.layer_scale1.lambda1" in tensors,
        "use_pre_layernorm": "pre_layernorm.weight" in tensors,
        "use_cls_token": "cls_token" in tensors,
        "num_register_tokens": sum(
            tensors[key].numel() // hidden_size for key in ("dist_token", "register_tokens") if key in tensors
        ),
    }
    if "num_attention_heads" not in known:
        if hidden_size not in STANDARD_HEADS:
            raise ConversionError(
                f"{name}: the file does not tell the number of attention heads, and a width of {hidden_size} is "
                "unusual; give `num_attention_heads` (`--num-attention-heads`)."
            )
        settings["num_attention_heads"] = STANDARD_HEADS[hidden_size]
    if "image_size" not in known:
        rows = tensors["positions"].shape[-2]
        num_prefix = int(settings["use_cls_token"]) + settings["num_register_tokens"]
        # the table has rows for the tokens before the patches, or it has none
        sides = [isqrt(count) for count in (rows - num_prefix, rows) if count > 0 and isqrt(count) ** 2 == count]
        if not sides:
            raise ConversionError(f"{name}: a position table of {rows} rows is of no square image.")
        settings["image_size"] = [sides[0] * side for side in patch_size]
    return settings


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
