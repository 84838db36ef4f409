# SPDX-License-Identifier: Apache-2.0
"""Checks a configuration: limits, sizes, layers, tubes, heads, pre-training, labels, and files of strangers.

Each check is a function of a config, or of plain values, and raises an error that names the field. `TubeViTConfig`
calls the checks when it is made, loaded and saved.
"""

import math
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from transformers.activations import ACT2FN
from transformers.utils import logging

from .tubes_tubevit import Tube


if TYPE_CHECKING:
    from .configuration_tubevit import TubeViTConfig


logger = logging.get_logger(__name__)

# Largest values of a config: far above any trained model, and small enough for a machine's memory. A stranger's file
# is refused before memory is allocated. `TUBEVIT_ANY_CONFIG=1` in the environment lifts all limits
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
    "target_size": 2**20,
    "pixel_size": 2**8,
    "decoder_layers": 2**10,
    "number of heads": 2**10,
    "number of tubes": 2**8,
    "number in a tube": 2**16,
    "number of parameters": 2**36,
}

# of the pooling "grid"
STATISTICS = ("means", "changes", "shares", "differences", "peaks", "signed")
# A file may not set these fields to a repository, whose code transformers would run
ATTENTION_KEYS = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
)

# Transformers passes these keywords beside the declared fields when it loads a `config.json` or builds a model
TRANSFORMERS_KEYS = {
    *("_attn_implementation_internal", "_commit_hash", "_experts_implementation_internal", "_name_or_path"),
    *("attn_implementation", "auto_map", "distributed_config", "experts_implementation", "model_type", "name_or_path"),
    *("num_labels", "output_attentions", "per_layer_config", "quantization_config", "tie_last_hidden_states"),
    *("tie_word_embeddings", "torch_dtype", "trust_remote_code", "use_cache"),
}


def check_limit(name: str, value: float, limit: str | None = None) -> None:
    """Raises a `ValueError` if a value exceeds `LIMITS[limit]`, or `LIMITS[name]` if no `limit` is given."""
    largest = LIMITS[limit or name]
    if value > largest and os.environ.get("TUBEVIT_ANY_CONFIG", "0") in ("", "0"):
        raise ValueError(
            f"`{name}` is {value:.6g}, and more than {largest} is refused: a stranger's file could take all memory. "
            "If it is meant, set the environment variable TUBEVIT_ANY_CONFIG=1."
        )


# Sizes


def check_sizes(config: "TubeViTConfig") -> None:
    """Checks limits and ranges of numbers, and that `num_attention_heads` divides `hidden_size`."""
    for name in [name for name in LIMITS if name in config.__dataclass_fields__]:
        value = getattr(config, name)
        for number in value if isinstance(value, list) else (value,):
            check_limit(name, number)
    for name in ("layer_norm_eps", "initializer_range", "position_embedding_scale"):
        if not math.isfinite(getattr(config, name)):
            raise ValueError(f"`{name}` must be a finite number, got {getattr(config, name)}.")
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels"):
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(config, name)}.")
    if config.num_register_tokens < 0:
        raise ValueError(f"`num_register_tokens` must not be negative, got {config.num_register_tokens}.")
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 0 and below 1, got {getattr(config, name)}.")
    if config.layer_norm_eps <= 0 or config.initializer_range < 0:
        raise ValueError(
            "`layer_norm_eps` must be above 0 and `initializer_range` not below, got "
            f"{config.layer_norm_eps} and {config.initializer_range}."
        )
    if isinstance(config.image_size, list) and len(config.image_size) != 2:
        raise ValueError(f"`image_size` must be one number or [height, width], got {config.image_size}.")
    if min(config.native_size) < 1:
        raise ValueError(
            f"`num_frames` and `image_size` must be at least 1, got {config.num_frames} and {config.image_size}."
        )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"`num_attention_heads` must divide `hidden_size`, got {config.num_attention_heads} and "
            f"{config.hidden_size}."
        )


# Layers


def check_layers(config: "TubeViTConfig") -> None:
    """Checks that the activation exists, that indices of layers are in range, and the pooling (`check_pooling`)."""
    num_layers = config.num_hidden_layers
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"`hidden_act` must be one of {', '.join(sorted(ACT2FN))}, got {config.hidden_act!r}.")
    if config.gate_layer is not None and not 0 <= config.gate_layer < num_layers:
        raise ValueError(
            f"`gate_layer` must be from 0 to {num_layers - 1} (`num_hidden_layers` is {num_layers}), got "
            f"{config.gate_layer}."
        )
    for name in ("freeze_before", "joint_layer"):
        layer = getattr(config, name)
        if layer is not None and not 0 <= layer <= num_layers:
            raise ValueError(f"`{name}` must be from 0 to {num_layers} (`num_hidden_layers`), got {layer}.")
    check_pooling(config)


def check_pooling(config: "TubeViTConfig") -> None:
    """Checks that the tokens and layers exist that the pooling reads."""
    if len(config.joint_pooling) != 2 or min(config.joint_pooling) < 1:
        raise ValueError(f"`joint_pooling` must be [h, w], each at least 1, got {config.joint_pooling}.")
    if config.joint_layer == 0 and config.joint_pooling != [1, 1]:
        raise ValueError(f"`joint_pooling` {config.joint_pooling} needs a `joint_layer` above 0, where it happens.")
    if len(config.pooling_grid) != 3 or min(config.pooling_grid) < 1:
        raise ValueError(f"`pooling_grid` must be [t, h, w], each at least 1, got {config.pooling_grid}.")
    statistics = config.pooling_statistics
    if statistics is not None and statistics != [name for name in STATISTICS if name in statistics]:
        raise ValueError(
            f"`pooling_statistics` must be some of {', '.join(STATISTICS)}, in this order, got {statistics}."
        )
    if statistics == []:
        raise ValueError("`pooling_statistics` must name at least one; leave it out for the usual ones.")
    layers = config.pooling_layers
    if layers is not None and (
        sorted(set(layers)) != layers or layers[-1:] != [config.num_hidden_layers] or layers[0] < 0
    ):
        raise ValueError(
            "`pooling_layers` must be ascending numbers of layers from 0 that end with all "
            f"{config.num_hidden_layers} (`num_hidden_layers`), got {layers}."
        )
    if config.pooling_type == "cls" and not config.use_cls_token:
        raise ValueError("`pooling_type` 'cls' needs `use_cls_token=True`; without one choose 'attention' or 'mean'.")


# Tubes


def check_tubes(config: "TubeViTConfig") -> None:
    """Checks that the tubes suit the kernels, the position embeddings, `joint_layer` and the pooling."""
    tubes = config.resolved_tubes
    check_limit("number of parameters", count_about(config))
    if len(config.base_kernel_size) != 3 or min(config.base_kernel_size) < 1:
        raise ValueError(f"`base_kernel_size` must be [t, h, w], each at least 1, got {config.base_kernel_size}.")
    for index, tube in enumerate(tubes):
        check_tube(config, tube, f"tubes[{index}]")
    if config.joint_layer > 0:
        moments = {(tube.offset[0], tube.stride[0]) for tube in tubes if tube.sees_one_frame}
        if len(moments) != 1:
            raise ValueError(
                f"`joint_layer` {config.joint_layer} needs a tube that sees one frame, such as {{'kernel_size': "
                "[1, 16, 16], 'stride': [4, 16, 16]}, and of several the same offset and stride in time; got "
                f"(offset, stride) {sorted(moments) or 'of none'}."
            )
    if config.pooling_type == "grid" and len(config.pooling_tubes) > 1 and config.joint_layer > 0:
        raise ValueError(
            "`pooling_type` 'grid' reads one tube where there is a `joint_layer`: of `tubes`, one must see a single "
            "frame, no more. Without a `joint_layer` it reads all tubes."
        )
    if config.position_embedding_type == "pretrained" and all(tube.kernel_size[0] > 1 for tube in tubes):
        raise ValueError(
            "`position_embedding_type` 'pretrained' needs a tube of kernel time 1, such as "
            "{'kernel_size': [1, 16, 16], 'stride': [32, 16, 16]}."
        )


def check_tube(config: "TubeViTConfig", tube: Tube, name: str) -> None:
    """Checks one tube against the interpolated kernel and its learned position table; errors call it `name`."""
    if config.tube_kernels == "interpolated" and tube.out_channels > config.hidden_size:
        raise ValueError(
            f"`{name}.out_channels` is {tube.out_channels}, but an interpolated kernel has only "
            f"{config.hidden_size} rows (`hidden_size`) to take them from."
        )
    table_size = config._native_table_size(tube)
    if table_size is not None and not all(tube.grid(table_size)):
        raise ValueError(
            f"`{name}` sees {'x'.join(map(str, tube.extent))} at {list(tube.offset)}, which does not "
            f"fit {'x'.join(map(str, table_size))} (`num_frames` and `image_size`), but "
            f"`position_embedding_type` {config.position_embedding_type!r} needs its native grid."
        )


def count_about(config: "TubeViTConfig") -> int:
    """Estimates the number of parameters of a model, without building it."""
    tubes, width = config.resolved_tubes, config.hidden_size
    tables = sum(prod(config.position_table_shape(tube) or (0,)) for tube in tubes)
    outputs = sum(prod(tube.kernel_size) * tube.out_channels for tube in tubes)
    if config.tube_kernels == "interpolated":
        outputs = prod(config.base_kernel_size) * width
    kernels = config.num_channels * outputs
    num_layers, heads = config.num_hidden_layers, config.pooled_size * (config.num_labels or 0)
    if config.pretraining is not None:
        num_layers += config.pretraining["decoder_layers"]
        heads += width * config.pretraining_size * len(config.pretraining["layers"])
    layers = num_layers * (4 * width**2 + 2 * width * config.intermediate_size)
    prefix = config.num_prefix_tokens * width
    pooling = 4 * width**2 if config.pooling_type == "attention" else 0
    return kernels + tables + layers + prefix + pooling + heads


# Heads


def check_heads(config: "TubeViTConfig") -> None:
    """Checks that each head has classes, and a name that a module can have."""
    for name, head in (config.heads or {}).items():
        labels = head.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise TypeError(f"`heads[{name!r}]` must have a list of texts as 'labels', got {reprlib.repr(head)}.")
        check_limit(f"heads[{name!r}]['labels']", len(labels), "num_labels")
        if hasattr(torch.nn.ModuleDict, name):
            raise ValueError(f"`heads` must not have the name {name!r}, which a module needs for itself.")
        if "." in name or head.keys() != {"labels", "problem_type"} or not labels:
            raise ValueError(
                f'`heads[{name!r}]` must be {{"labels": [...], "problem_type": ...}} with one label or more, and '
                f"its name have no dot, got {head}."
            )


# Pre-training


def complete_pretraining(pretraining: Mapping[str, Any], num_hidden_layers: int) -> dict[str, Any]:
    """Returns the field `pretraining` with the defaults of keys that are left out, and with lists for tuples."""
    defaults: dict[str, Any] = {"target": "features", "layers": [num_hidden_layers], "decoder_layers": 0}
    if pretraining.get("target") == "pixels":
        defaults["pixel_size"] = [2, 8, 8]
    complete = {**defaults, **pretraining}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in complete.items()}


def check_pretraining(config: "TubeViTConfig") -> None:
    """Checks the keys of `pretraining` and their values, and that the encoder has one stage."""
    settings = config.pretraining
    if settings is None:
        return
    target = settings.get("target")
    if target not in ("features", "pixels"):
        raise ValueError(f"`pretraining['target']` must be 'features' or 'pixels', got {reprlib.repr(target)}.")
    size = "target_size" if target == "features" else "pixel_size"
    allowed = ["target", "layers", "decoder_layers", size]
    for key in settings:
        if key not in allowed:
            suggestion = "".join(f" Did you mean {close!r}?" for close in get_close_matches(str(key), allowed, 1))
            raise ValueError(
                f"`pretraining` has an unknown key {reprlib.repr(key)} for the target {target!r}; allowed are "
                f"{allowed}.{suggestion}"
            )
    if size not in settings:
        raise ValueError(
            "`pretraining` lacks 'target_size': give the number of features that are predicted for a token after a "
            "layer."
        )
    check_whole(settings, size, minimum=1, length=1 if target == "features" else 3)
    check_whole(settings, "decoder_layers", minimum=0)
    check_layers_read(settings["layers"], settings["decoder_layers"], config.num_hidden_layers)
    if config.joint_layer > 0:
        raise ValueError(
            f"`pretraining` needs a `joint_layer` of 0, where all tokens are encoded together; got "
            f"{config.joint_layer}."
        )


def check_layers_read(layers: Any, decoder_layers: int, num_layers: int) -> None:
    """Checks the layers after which tokens are read, and that a decoder reads after one."""
    is_list = isinstance(layers, list) and all(type(number) is int for number in layers)
    if not is_list or sorted(set(layers)) != layers or not 1 <= min(layers, default=0) <= layers[-1] <= num_layers:
        raise ValueError(
            f"`pretraining['layers']` must be ascending numbers of layers from 1 to {num_layers} "
            f"(`num_hidden_layers`), at least one; got {reprlib.repr(layers)}."
        )
    if decoder_layers > 0 and len(layers) > 1:
        raise ValueError(
            f"`pretraining['decoder_layers']` is {decoder_layers}, and a decoder reads the tokens after one layer: "
            f"give a single number in `pretraining['layers']`, or no decoder; got {layers}."
        )


def check_whole(settings: Mapping[str, Any], key: str, minimum: int, length: int = 1) -> None:
    """Checks that a value of `pretraining` is a whole number or, with a `length` of 3, `[t, h, w]`."""
    value = settings[key]
    numbers = value if isinstance(value, list) and length > 1 else [value]
    if len(numbers) != length or any(type(number) is not int or number < minimum for number in numbers):
        form = "[t, h, w], each" if length > 1 else "a whole number,"
        raise ValueError(f"`pretraining[{key!r}]` must be {form} at least {minimum}, got {reprlib.repr(value)}.")
    for number in numbers:
        check_limit(f"pretraining[{key!r}]", number, key)


# Labels


def check_labels(config: "TubeViTConfig") -> None:
    """Checks that classes are numbered from 0, each with a name; two may share one, as ImageNet's cranes do."""
    if config.id2label is not None:
        # again, since the dict may have been changed in place
        number_labels(config.id2label)


def check_names(config: "TubeViTConfig") -> None:
    """Checks that `label2id` describes the same classes as `id2label`."""
    names, labels = config.label2id, config.id2label
    if names is not None and labels is not None and not agrees(names, labels):
        raise ValueError(
            f"`label2id` must give each name of `id2label` its number; got {reprlib.repr(names)} beside "
            f"{reprlib.repr(labels)}. Set both, or leave out `label2id`, which follows."
        )


def number_labels(id2label: object) -> dict[int, str]:
    """Returns `id2label` with whole numbers as keys.

    Raises:
        TypeError: `id2label` is no dict, or a name is no string.
        ValueError: a key is no number, a number is there twice, or the numbers do not count from 0 without gaps.
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
    """Returns `label2id` with whole numbers as values; raises as `number_labels` does."""
    if not isinstance(label2id, dict):
        raise TypeError(f"`label2id` must be a dict of names and numbers, got {reprlib.repr(label2id)}.")
    check_limit("num_labels", len(label2id))
    names = {label: as_class_number("label2id", number) for label, number in label2id.items()}
    if len(set(names.values())) < len(names):
        raise ValueError(f"`label2id` must give each name a number of its own, got {reprlib.repr(names)}.")
    return names


def as_class_number(field: str, value: object) -> int:
    """Reads the number of a class, which may be a string in JSON; raises a `ValueError` for other values."""
    if not re.fullmatch("-?[0-9]{1,9}", str(value)):
        raise ValueError(
            f"`{field}` must have the numbers of the classes as {'keys' if field == 'id2label' else 'values'}, got "
            f"{reprlib.repr(value)}."
        )
    return int(str(value))


def invert(id2label: Mapping[Any, str]) -> dict[str, int]:
    """Makes a `label2id` from an `id2label`; a name that several classes share gets the number of the last."""
    return {label: number for number, label in id2label.items()}


def agrees(label2id: Mapping[str, Any], id2label: Mapping[Any, str]) -> bool:
    """Returns True if both describe the same classes."""
    return label2id.keys() == set(id2label.values()) and all(
        id2label.get(number) == label for label, number in label2id.items()
    )


def settle_labels(config_dict: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Moves labels from `kwargs` to the fields of a file, and returns the fields.

    A `label2id` in the file that contradicts its `id2label` is dropped with a warning.
    """
    # before transformers loops over all labels
    check_limit("num_labels", len(config_dict.get("id2label") or ()))
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
            # a call that replaced `id2label` alone has written such files
            logger.warning("`label2id` of the configuration does not say what its `id2label` says, which counts.")
            del config_dict["label2id"]
    return config_dict


# Files of strangers: these checks run first


def check_before_use(config: "TubeViTConfig", kwargs: Mapping[str, Any]) -> None:
    """Checks values with which the other checks would take long, or fail without naming a field.

    Args:
        config: a config whose fields are set, without any check.
        kwargs: keywords that are no fields.
    """
    if config.tubes is not None:
        check_numbers(config.tubes)
    if config.heads is not None:
        check_limit("heads", len(config.heads), "number of heads")
    check_keywords(config, kwargs)
    if isinstance(config.dtype, str) and not isinstance(getattr(torch, config.dtype, None), torch.dtype):
        raise ValueError(f"`dtype` must be a type of torch, such as 'float32', got {reprlib.repr(config.dtype)}.")


def check_numbers(tubes: Sequence[Any]) -> None:
    """Checks that tubes are few, without huge numbers and nested lists; `Tube.from_dict` checks the rest."""
    check_limit("tubes", len(tubes), "number of tubes")
    for index, tube in enumerate(tubes):
        for key, value in tube.items() if isinstance(tube, dict) else ():
            for number in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(number, (list, tuple, dict)):
                    raise TypeError(f"`tubes[{index}]` has {key!r}, which must hold numbers, not lists in lists.")
                if isinstance(number, int):
                    check_limit(f"tubes[{index}][{key!r}]", number, "number in a tube")


def check_keywords(config: "TubeViTConfig", kwargs: Mapping[str, Any]) -> None:
    """Checks the keywords `num_labels` and `auto_map`, which `@strict` does not check, since they are no fields."""
    for name, kind in (("num_labels", int), ("auto_map", dict)):
        value = kwargs.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise TypeError(f"`{name}` must be of the type {kind.__name__}, got {reprlib.repr(value)}.")
    num_labels = kwargs.get("num_labels") or 0
    if num_labels < 0:
        raise ValueError(f"`num_labels` must not be negative, got {num_labels}.")
    check_limit("num_labels", num_labels)
    named = config.id2label if config.id2label is not None else config.label2id
    if kwargs.get("num_labels") is not None and named is not None and len(named) != num_labels:
        raise ValueError(
            f"`num_labels` is {num_labels}, but {len(named)} classes have names: leave out one of the two, or "
            "give each class a name."
        )


def refuse_foreign_code(config_dict: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if a file names a repository as its attention: transformers would run its code."""
    for key, value in config_dict.items():
        if key in ATTENTION_KEYS and isinstance(value, str) and "/" in value:
            raise ValueError(
                f"the configuration has `{key}` {value!r}, which would load code of that repository. If you trust "
                f"it, remove the field and name it yourself: `attn_implementation={value!r}`."
            )


def warn_about_unknown(config: "TubeViTConfig", kwargs: Mapping[str, Any]) -> None:
    """Warns of each keyword that is no field, and suggests a field with a similar name."""
    known = sorted(config.__dataclass_fields__)
    for key in sorted(kwargs.keys() - TRANSFORMERS_KEYS):
        suggestion = "".join(f" Did you mean `{close}`?" for close in get_close_matches(key, known, 1))
        logger.warning(f"`{key}` is not a field of {type(config).__name__} and has no effect.{suggestion}")
