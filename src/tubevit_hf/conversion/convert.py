# SPDX-License-Identifier: Apache-2.0
"""An image ViT becomes a TubeViT."""

import os
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..evaluation.complexity import count_flops
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import (
    TubeViTForImageClassification,
    TubeViTModel,
    TubeViTPreTrainedModel,
)
from ..model.tubes_tubevit import Tube, resolve_tubes
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .report import ConversionReport
from .sources import ConversionError, SourceViT, first_line, read_preprocessing, read_source
from .tubes import default_tubes, find_patch, inflate_kernel, interleaved_tubes, patch_steps, renormalize, widen


Positions = Literal["pretrained", "spatial", "tube_center"]
NewTubes = Literal["inflated", "random"]
Layout = Literal["frames", "sparse", "interleaved"]
# of a clip whose frames are encoded by themselves
NUM_SINGLE_FRAMES = 8
# mean and standard deviation of each channel
Normalization = tuple[Sequence[float], Sequence[float]]


def convert_vit(
    source: str | os.PathLike[str],
    *,
    layout: Layout = "frames",
    positions: Positions | None = None,
    tubes: list[dict[str, Any]] | None = None,
    new_tubes: NewTubes = "inflated",
    tubes_from: str | os.PathLike[str] | None = None,
    num_frames: int | None = None,
    keep_classifier: bool = True,
    num_attention_heads: int | None = None,
    allow_pickle: bool = False,
) -> tuple[TubeViTPreTrainedModel, ConversionReport]:
    """Makes a TubeViT of an image ViT: its patch embedding becomes the tube that reads single frames, and its encoder,
    norms and prefix tokens come over, so that images give what they gave before, unless `tubes` read some of their
    patches only.

    Args:
        source: folder or repo id of a ViT of transformers or timm, or a file of timm, torchvision or Google (.npz).
        layout: how videos are read. `"frames"`: eight frames, each by itself through the first three quarters of the
            layers, as the source knows them; from there on all together, their patches averaged two by two.
            `"sparse"`: the paper's, Table 12's tubes without space-to-depth and all tokens together from the first
            layer on. `"interleaved"`: all together too, of tubes as high and wide as a patch, see
            [`interleaved_tubes`].
        positions: `"pretrained"`: the source's position table for the patches, sine-cosine at the amplitude of that
            table for the other tubes; `"spatial"`: the source's table for all tubes, read where the centre of each
            token lies; `"tube_center"`: the paper's sine-cosine for all. By default `"spatial"` for the layout
            `"interleaved"` and for `tubes_from` with such positions, else `"pretrained"`.
        tubes: as in [`TubeViTConfig`], instead of a layout's; one of them must be the source's patch, `[1, h, w]` at a
            stride of `[any, h, w]` and offset 0. All tokens are together from the first layer on. With a stride of
            multiples of `h` and `w`, an image has the tokens of as many patches fewer, each as the source embeds it,
            and what comes of them differs from what the source gives.
        new_tubes: how the other kernels begin: `"inflated"` from the patch kernel, or `"random"`.
        tubes_from: folder or repo id of a TubeViT whose tubes and kernels are taken instead of the two above. If it
            is narrower, more neighbours are concatenated by space-to-depth.
        num_frames: native length of a clip; by default that of `tubes_from`, 8 for `"frames"`, else 32.
        keep_classifier: whether the head comes along, if there is one.
        num_attention_heads: for files that do not tell; by default that of the usual ViT of their width.
        allow_pickle: whether a pickled file may be read.

    Returns:
        A [`TubeViTForImageClassification`] if a classifier came along, else a [`TubeViTModel`]; and the report.

    Raises:
        ConversionError: the source is no ViT, TubeViT cannot express it, or the tubes do not suit it.
    """
    return convert(
        read_source(source, keep_classifier, num_attention_heads, allow_pickle),
        layout=layout,
        positions=positions,
        tubes=tubes,
        new_tubes=new_tubes,
        tubes_from=tubes_from,
        num_frames=num_frames,
    )


def scale_up(
    image_model: str | os.PathLike[str],
    tubes_from: str | os.PathLike[str],
    *,
    gate_layer: int,
    positions: Positions | None = None,
    num_frames: int | None = None,
    keep_classifier: bool = True,
    num_attention_heads: int | None = None,
    allow_pickle: bool = False,
) -> tuple[TubeViTPreTrainedModel, ConversionReport]:
    """Image-to-video scaling (Section 3.6): a large image ViT gets the tubes of a small trained TubeViT. Everything
    before `gate_layer` is frozen, and there the tokens come in again through a gate that begins at zero (Eq. 8).

    Args:
        image_model: the image ViT, as in [`convert_vit`].
        tubes_from: folder or repo id of the TubeViT whose tubes are taken.
        gate_layer: 0-based; 26 of ViT-H's 32 layers in the paper.
        positions, num_frames, keep_classifier, num_attention_heads, allow_pickle: as in [`convert_vit`].

    Returns, raises: as [`convert_vit`].
    """
    vit = read_source(image_model, keep_classifier, num_attention_heads, allow_pickle)
    num_layers = vit.settings["num_hidden_layers"]
    if not 0 <= gate_layer < num_layers:
        raise ConversionError(
            f"`gate_layer` must be from 0 to {num_layers - 1}, the layers of {vit.name}, got {gate_layer}."
        )
    vit.settings |= {"gate_layer": gate_layer, "freeze_before": gate_layer}
    return convert(vit, positions=positions, tubes_from=tubes_from, num_frames=num_frames)


def convert(
    vit: SourceViT,
    *,
    layout: Layout = "sparse",
    positions: Positions | None,
    tubes: list[dict[str, Any]] | None = None,
    new_tubes: NewTubes = "inflated",
    tubes_from: str | os.PathLike[str] | None = None,
    num_frames: int | None,
) -> tuple[TubeViTPreTrainedModel, ConversionReport]:
    if layout not in get_args(Layout):
        raise ConversionError(f"`layout` must be one of {', '.join(get_args(Layout))}, got {layout!r}.")
    if positions is not None and positions not in get_args(Positions):
        raise ConversionError(f"`positions` must be one of {', '.join(get_args(Positions))}, got {positions!r}.")
    if new_tubes not in ("inflated", "random"):
        raise ConversionError(f'`new_tubes` must be "inflated" or "random", got {new_tubes!r}.')
    if tubes_from is not None and tubes is not None:
        raise ConversionError("`tubes_from` brings its own tubes; give it or `tubes`, not both.")

    if "classifier.weight" in vit.tensors and "cls_token" not in vit.tensors:
        raise ConversionError(
            f"{vit.name}: its classifier does not read a CLS token. Leave it behind with `keep_classifier=False` "
            "(`--no-classifier`)."
        )
    report = ConversionReport(
        vit.name, vit.family.name, dropped=dict(vit.dropped), preprocessing=make_preprocessing(vit)
    )
    kernels: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    # of the times that taken tubes were trained with
    time_scale: float | None = None
    if tubes_from is not None:
        small = load_tubevit(tubes_from, vit)
        if small.config.position_embedding_type == "spatial":
            positions = "spatial" if positions is None else positions
            time_scale = small.config.position_embedding_scale
        num_frames = small.config.num_frames if num_frames is None else num_frames
        tubes, kernels = take_tubes(os.fspath(tubes_from), small, vit, num_frames, report)
    if tubes is None and layout == "frames":
        tubes = [{"kernel_size": [1, *vit.patch_size], "stride": [1, *vit.patch_size]}]
        num_frames = NUM_SINGLE_FRAMES if num_frames is None else num_frames
        vit.settings |= {"joint_layer": max(1, vit.settings["num_hidden_layers"] * 3 // 4), "joint_pooling": [2, 2]}
    if positions is None:
        positions = "spatial" if layout == "interleaved" else "pretrained"
    if tubes is None and layout == "interleaved":
        rows, columns = (size // patch for size, patch in zip(vit.settings["image_size"], vit.patch_size))
        if min(rows, columns) < 2:
            raise ConversionError(
                f"{vit.name}: its images have {rows}x{columns} patches, and interleaved tubes need two rows and two "
                'columns at least. Choose another layout, such as `layout="frames"` (`--layout frames`).'
            )
        tubes = interleaved_tubes(vit.patch_size)
    if tubes is None:
        tubes = default_tubes(vit.patch_size)
    config = make_config(vit, positions, tubes, num_frames)
    if positions == "spatial" and time_scale is not None:
        config.position_embedding_scale = time_scale

    tensors = gather_tensors(vit, config, report)
    patch = find_patch(config.resolved_tubes, vit.patch_size)
    for index, tube in enumerate(config.resolved_tubes):
        key = f"embeddings.tubes.{index}"
        if index in kernels:
            tensors[f"{key}.weight"], tensors[f"{key}.bias"] = kernels[index]
            report.made |= dict.fromkeys((f"{key}.weight", f"{key}.bias"), f"the same kernel as in {tubes_from}")
        elif index != patch and new_tubes == "inflated":
            if tube.out_channels != config.hidden_size:
                raise ConversionError(
                    f"`tubes[{index}]` has space-to-depth: its kernel makes part of a token, the patch kernel a whole "
                    'one. Use `new_tubes="random"` (`--new-tubes random`) or `tubes_from`.'
                )
            tensors[f"{key}.weight"] = inflate_kernel(vit.tensors["patch.weight"], tube.kernel_size)
            tensors[f"{key}.bias"] = tensors[f"embeddings.tubes.{patch}.bias"].clone()
            report.made |= dict.fromkeys((f"{key}.weight", f"{key}.bias"), "inflated from the patch embedding")
    model_class = TubeViTForImageClassification if "classifier.weight" in tensors else TubeViTModel
    model = build_model(model_class, config, tensors, report)
    finish_report(report, vit, model)
    rows, columns = patch_steps(config.resolved_tubes[patch], vit.patch_size)
    if (rows, columns) != (1, 1):
        report.notes.append(
            f"The patch tube reads one patch of every {rows}x{columns}: an image has "
            f"{report.tokens['image, after']} tokens instead of {report.tokens['image, before']}, and gives other "
            "outputs than the source."
        )
    for tube, grid in zip(config.resolved_tubes, config.token_grids()):
        if not all(grid):
            report.notes.append(
                f"The tube {list(tube.kernel_size)} does not fit a clip of {config.num_frames} frames of "
                f"{'x'.join(map(str, config.native_size[1:]))} pixels, and gives it no tokens."
            )
    if not {"image_mean", "image_std"} <= vit.preprocessing.keys():
        report.notes.append(
            "The source does not tell how its images are normalised; to [-1, 1] is assumed. If it was otherwise, set "
            "`image_mean` and `image_std` in preprocessor_config.json and video_preprocessor_config.json."
        )
    return model, report


def make_config(
    vit: SourceViT, positions: Positions, tubes: list[dict[str, Any]], num_frames: int | None
) -> TubeViTConfig:
    settings: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, **vit.settings}
    if num_frames is not None:
        settings["num_frames"] = num_frames
    if "classifier.weight" in vit.tensors:
        settings.setdefault("num_labels", len(vit.tensors["classifier.weight"]))
    if "id2label" in settings:
        settings.pop("num_labels", None)
        settings["label2id"] = {label: index for index, label in settings["id2label"].items()}
    find_patch(resolve_tubes(tubes, settings["hidden_size"]), vit.patch_size)
    # a sine has an rms of 1 / sqrt(2), many times that of a trained table, and would drown what the tokens carry
    table = patch_positions(vit)[1]
    scale = float(table.float().square().mean().sqrt()) * 2**0.5
    if positions == "spatial":
        # an image ViT has never met a time: without training, it reads clips better without
        scale = 0.0
    return TubeViTConfig(
        **settings,
        tubes=tubes,
        pooling_type="cls" if settings["use_cls_token"] else "attention",
        position_embedding_type=positions,
        position_embedding_scale=scale,
        position_embedding_resize=vit.family.position_resize,
    )


def make_preprocessing(vit: SourceViT) -> dict[str, Any]:
    """The source's own preprocessing; where it is unknown, the shorter side is resized and the centre is cropped."""
    height, width = vit.settings["image_size"]
    crop_size = {"height": height, "width": width}
    if "size" in vit.preprocessing:
        return {"do_center_crop": False, "crop_size": crop_size, **vit.preprocessing}
    return {"size": {"shortest_edge": min(height, width)}, "crop_size": crop_size, **vit.preprocessing}


def patch_positions(vit: SourceViT) -> tuple[torch.Tensor, torch.Tensor]:
    """The position table, split into the rows of the prefix tokens and `(1, h, w, hidden_size)` of the patches."""
    table = vit.tensors["positions"].reshape(-1, vit.settings["hidden_size"])
    rows, columns = (size // patch for size, patch in zip(vit.settings["image_size"], vit.patch_size))
    num_prefix = len(table) - rows * columns
    num_tokens = int(vit.settings["use_cls_token"]) + vit.settings["num_register_tokens"]
    # registers often have no positions
    if num_prefix not in (0, int(vit.settings["use_cls_token"]), num_tokens):
        raise ConversionError(
            f"{vit.name}: a position table of {len(table)} rows does not fit {rows}x{columns} patches and "
            f"{num_tokens} other token(s)."
        )
    return table[:num_prefix], table[num_prefix:].reshape(1, rows, columns, -1)


def gather_tensors(vit: SourceViT, config: TubeViTConfig, report: ConversionReport) -> dict[str, torch.Tensor]:
    """All that comes from the source, by key of a `TubeViTModel` (and of the classifier), noted in the report."""
    tensors = {}

    def add(target: str, tensor: torch.Tensor, *origins: str, how: str | None = None) -> None:
        tensors[target] = tensor
        for origin in origins:
            report.used.setdefault(vit.origins[origin], []).append(target)
        if how is None:
            report.copied[target] = vit.origins[origins[0]]
        else:
            report.made[target] = how

    patch = find_patch(config.resolved_tubes, vit.patch_size)
    for name, tensor in vit.tensors.items():
        layer, _, kind = name.rpartition(".qkv.")
        if layer:
            for part, projection in zip(tensor.chunk(3), ("q_proj", "k_proj", "v_proj")):
                add(f"{layer}.{projection}.{kind}", part, name, how="a third of the source's projection")
        elif name == "patch.weight":
            # (hidden_size, channels, h, w) -> (hidden_size, channels, 1, h, w)
            add(f"embeddings.tubes.{patch}.weight", tensor[:, :, None], name)
        elif name == "patch.bias":
            add(f"embeddings.tubes.{patch}.bias", tensor, name)
        elif name.startswith("pre_layernorm."):
            add(f"embeddings.{name.removeprefix('pre_')}", tensor, name)
        elif name.startswith(("layers.", "layernorm.", "classifier.")):
            add(name, tensor, name)
    if "patch.bias" not in vit.tensors:
        bias = tensors["layernorm.weight"].new_zeros(config.hidden_size)
        add(f"embeddings.tubes.{patch}.bias", bias, how="zero, as the source has none")

    of_prefix, of_patches = patch_positions(vit)
    names = [name for name in ("cls_token", "dist_token", "register_tokens") if name in vit.tensors]
    if names:
        prefix = torch.cat([vit.tensors[name].reshape(-1, config.hidden_size) for name in names])
        prefix = prefix + nn.functional.pad(of_prefix, (0, 0, 0, len(prefix) - len(of_prefix)))
        num_cls = int(config.use_cls_token)
        origins = (*names, "positions") if len(of_prefix) else names
        if num_cls:
            add("embeddings.cls_token", prefix[None, :1], "cls_token", *origins[-1:], how="the token and its position")
        if len(prefix) > num_cls:
            how = "the source's distillation and register tokens, with their positions"
            add("embeddings.register_tokens", prefix[None, num_cls:], *origins[num_cls:], how=how)
    if config.position_embedding_type == "tube_center":
        if "positions" in vit.tensors:
            report.dropped[vit.origins["positions"]] = "its patches' rows make way for sine-cosine positions"
    else:
        for index, tube in enumerate(config.resolved_tubes):
            shape = config.position_table_shape(tube)
            if shape is None:
                continue
            key = f"embeddings.position_embeddings.{index}"
            table = sample_positions(of_patches, tube, shape[1:3], vit.patch_size)
            if index == patch:
                add(key, table, "positions", how="the patches' rows of the position table")
            else:
                add(key, table, "positions", how="the position table, read at the centres of the tubes")
    return tensors


def sample_positions(
    table: torch.Tensor, tube: Tube, grid: Sequence[int], patch_size: tuple[int, int]
) -> torch.Tensor:
    """Reads a position table of patches, `(1, rows, columns, hidden_size)`, at the centres of a tube's tokens: `(1, h,
    w, hidden_size)` for a grid `(h, w)`. Between the centres of patches it is interpolated linearly; beyond the last
    ones it stays as it is."""
    for axis, (length, patch_length) in enumerate(zip(grid, patch_size), start=1):
        # in patches, from the centre of the first one
        places = (tube.centers(axis, length, torch.float32) / patch_length - 0.5).clamp(0, table.shape[axis] - 1)
        before = places.floor().long()
        after = (before + 1).clamp(max=table.shape[axis] - 1)
        weight = (places - before).to(table.dtype).view(-1, *[1] * (3 - axis))
        table = torch.lerp(table.index_select(axis, before), table.index_select(axis, after), weight)
    return table


def load_tubevit(tubes_from: str | os.PathLike[str], vit: SourceViT) -> TubeViTModel:
    """The model whose tubes are taken.

    Raises:
        ConversionError: it is no TubeViT, has another number of channels, or is wider than the source.
    """
    name = os.fspath(tubes_from)
    try:
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        if model_type != TubeViTConfig.model_type:
            raise ValueError(f"its `model_type` is {model_type!r}")
        small = TubeViTModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{name}: it is no TubeViT that can be read ({first_line(error)}).") from error
    width, num_channels = vit.settings["hidden_size"], vit.settings["num_channels"]
    if small.config.num_channels != num_channels:
        raise ConversionError(
            f"{name}: its tubes have {small.config.num_channels} channels, the source {num_channels}."
        )
    if small.config.hidden_size > width:
        raise ConversionError(
            f"{name}: its width is {small.config.hidden_size}, the source's {width}; tubes can be made wider, not "
            "narrower."
        )
    return small


def take_tubes(
    name: str, small: TubeViTModel, vit: SourceViT, num_frames: int, report: ConversionReport
) -> tuple[list[dict[str, Any]], dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Tubes of another TubeViT for the source's width, with kernel and bias of each but the patch."""
    width = vit.settings["hidden_size"]
    of_images = default_tubes(vit.patch_size)[-1]
    normalizations = find_normalizations(name, vit)
    if normalizations:
        old, new = normalizations
        report.notes.append(
            f"The tubes of {name} saw pixels normalised by mean {old[0]} and standard deviation {old[1]}, here by "
            f"{new[0]} and {new[1]}: weights and biases are adapted, so that they give the same."
        )
    tubes: list[dict[str, Any]] = []
    kernels: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for tube, embedding in zip(small.config.resolved_tubes, small.embeddings.tubes):
        if tube.kernel_size[0] == 1:
            report.notes.append(f"The tube {list(tube.kernel_size)} of {name} makes way for the source's patches.")
            steps = patch_steps(tube, tube.kernel_size[1:])
            of_images["stride"] = [tube.stride[0], *(step * length for step, length in zip(steps, vit.patch_size))]
            continue
        wide = widen(tube, width, (num_frames, *vit.settings["image_size"]))
        base_kernel = small.embeddings.base_kernel
        weight = embedding.weight if base_kernel is None else embedding.resize_kernel(base_kernel)
        kernel = weight.detach(), embedding.bias.detach()
        kernels[len(tubes)] = renormalize(*kernel, *normalizations) if normalizations else kernel
        tubes.append(wide.to_dict())
        num_neighbours = prod(wide.space_to_depth)
        concatenated = num_neighbours * tube.out_channels
        report.notes.append(
            f"The tube {list(tube.kernel_size)} of {name} concatenates {num_neighbours} neighbours "
            f"({'x'.join(map(str, wide.space_to_depth))}) of {tube.out_channels} channels"
            + (f", cut from {concatenated} to {width}." if concatenated > width else ".")
        )
    return [*tubes, of_images], kernels


def find_normalizations(name: str, vit: SourceViT) -> tuple[Normalization, Normalization] | None:
    """Mean and standard deviation of the pixels that another TubeViT saw, and of those that the source sees, if they
    are known and differ."""
    # what the processors do when nothing else is asked
    usual = {"image_mean": TubeViTVideoProcessor.image_mean, "image_std": TubeViTVideoProcessor.image_std}
    theirs, ours = read_preprocessing(name), {**usual, **vit.preprocessing}
    if not usual.keys() <= theirs.keys() or not (theirs.get("do_normalize", True) and ours.get("do_normalize", True)):
        return None
    old, new = ((settings["image_mean"], settings["image_std"]) for settings in (theirs, ours))
    return None if old == new else (old, new)


def build_model(
    model_class: type[TubeViTPreTrainedModel],
    config: TubeViTConfig,
    tensors: dict[str, torch.Tensor],
    report: ConversionReport,
) -> TubeViTPreTrainedModel:
    """A model that holds the given tensors themselves, without a copy, and initial weights for the rest."""
    with torch.device("meta"):
        model = model_class(config)
    prefix = "" if model_class is TubeViTModel else f"{model.base_model_prefix}."
    tensors = {key if key.startswith("classifier.") else prefix + key: tensor for key, tensor in tensors.items()}
    dtype = tensors[f"{prefix}layernorm.weight"].dtype
    for key, parameter in model.state_dict().items():
        if key not in tensors:
            tensors[key] = torch.empty_like(parameter, device="cpu")
            report.new[key.removeprefix(prefix)] = "zero" if key.endswith(".gate") else "random"
    new = {prefix + key for key in report.new}
    model.load_state_dict(
        {key: tensor.detach().to(dtype).contiguous() for key, tensor in tensors.items()}, assign=True
    )
    for key, parameter in model.named_parameters():
        # what transformers' own loader notes, so that the initialisation passes over it
        parameter._is_hf_initialized = key not in new  # pyrefly: ignore[missing-attribute]
    model.initialize_weights()
    return model.eval()


def finish_report(report: ConversionReport, vit: SourceViT, model: TubeViTPreTrainedModel) -> None:
    """Adds the numbers, and makes sure that nothing is unaccounted for."""
    config = model.config
    prefix = "" if isinstance(model, TubeViTModel) else f"{model.base_model_prefix}."
    targets = [key.removeprefix(prefix) for key in model.state_dict()]
    accounted = [*report.copied, *report.made, *report.new]
    if sorted(targets) != sorted(accounted):
        raise RuntimeError(f"parameters without an account: {set(targets) ^ set(accounted)}")
    unused = set(vit.origins.values()) - report.used.keys() - report.dropped.keys()
    if unused:
        raise RuntimeError(f"source parameters without an account: {unused}")
    report.parameters = {
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "frozen": sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad),
    }
    # the source is a TubeViT of nothing but its patches, whose pooling costs nothing
    settings = config.to_dict()
    settings |= {
        "tubes": [{"kernel_size": [1, *vit.patch_size], "stride": [1, *vit.patch_size]}],
        "pooling_type": "mean",
        "joint_layer": 0,
        "joint_pooling": [1, 1],
    }
    before = TubeViTConfig(**settings)
    image = (1, *config.native_size[1:])
    for name, its_config, size in (
        ("image, before", before, image),
        ("image, after", config, image),
        ("video, after", config, config.native_size),
    ):
        flops = count_flops(its_config, size)
        if isinstance(model, TubeViTModel):
            flops.pop("head")
        report.tokens[name] = its_config.num_tokens(*size)
        report.flops[name] = sum(flops.values())
