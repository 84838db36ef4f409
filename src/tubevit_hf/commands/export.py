# SPDX-License-Identifier: Apache-2.0
"""`tubevit export`: a model becomes a graph for another runtime, checked."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole
from .common import OutOption, OverwriteOption, one_line_errors


if TYPE_CHECKING:
    from ..export import Clip, ModelInfo
    from ..model.modeling_tubevit import TubeViTPreTrainedModel
    from ..model.video_processing_tubevit import TubeViTVideoProcessor


class Runtime(str, Enum):
    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"


def export(
    model: Annotated[str, typer.Argument(help="Folder or repo id of a TubeViT.")],
    out: OutOption,
    to: Annotated[Runtime, typer.Option(help="What runs the graph; torch is torch.export.")] = Runtime.ONNX,
    videos: Annotated[
        Path | None,
        typer.Option(
            help="Folder of videos to check with; int8 needs it. Folders named as classes tell the accuracy."
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Round weights and activations to 8 bits.")] = False,
    max_loss: Annotated[
        float, typer.Option(help="Points of accuracy (without classes: of agreement) that int8 may lose.", min=0)
    ] = 0.5,
    images: Annotated[bool, typer.Option("--images", help="A graph for images, which have other tubes.")] = False,
    frame_mask: Annotated[
        bool, typer.Option("--frame-mask", help="The graph takes a frame_mask, for clips that are padded.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a graph for another runtime, with its processor, for clips of any batch and size that the tubes fit. It is
    held against the model first; `tubevit predict --model OUT` runs it."""
    with one_line_errors():
        from ..export import export_model
        from ..folders import check_folder
        from ..model.video_processing_tubevit import TubeViTVideoProcessor

        check_folder(out, overwrite)
        if Path(model).resolve() == out.resolve():
            raise ValueError(f"{out}: it holds the model itself. Choose another folder.")
        loaded = load(model)
        processor = TubeViTVideoProcessor.from_pretrained(model)
        info = export_model(
            loaded,
            processor,
            out,
            to.value,
            image=images,
            frame_mask=frame_mask,
            int8=int8,
            clips=[] if videos is None else read_clips(videos, loaded, processor, images),
            max_loss=max_loss,
            overwrite=overwrite,
        )
    report(info, out)


def load(model: str) -> TubeViTPreTrainedModel:
    """A classifier or, as the config says, a model without a head; in float32.

    Raises:
        ValueError: it is another, whose head would be made up.
    """
    import torch

    from ..model.configuration_tubevit import TubeViTConfig
    from ..model.modeling_tubevit import TubeViTForImageClassification, TubeViTForVideoClassification, TubeViTModel

    known = {
        each.__name__: each for each in (TubeViTForVideoClassification, TubeViTForImageClassification, TubeViTModel)
    }
    architectures = TubeViTConfig.from_pretrained(model).architectures or [TubeViTForVideoClassification.__name__]
    if architectures[0] not in known:
        raise ValueError(
            f"{model}: it is a {architectures[0]}, and only {', '.join(known)} are exported. Of a model with several "
            "heads save one: `model.export(dataset).save_pretrained(...)`."
        )
    return known[architectures[0]].from_pretrained(model, dtype=torch.float32)


def read_clips(
    folder: Path, model: TubeViTPreTrainedModel, processor: TubeViTVideoProcessor, images: bool
) -> list[Clip]:
    """The videos as the pipeline would read them, or the middle frame of each; a video's class is the name of its
    folder, if the model knows it."""
    from tqdm import tqdm

    from ..data.listing import list_folder
    from ..export import Clip
    from ..inference.reading import list_files

    files = list_files([str(folder)])
    labels = list_folder(folder).labels
    classes = model.config.label2id or {}
    clips = []
    for file in tqdm(files, desc="reading", unit="video", disable=not sys.stderr.isatty()):
        inputs = dict(processor(file, num_frames=model.config.num_frames, return_tensors="pt"))
        if images:
            inputs = {"pixel_values": inputs["pixel_values"][:, model.config.num_frames // 2]}
        label = classes.get(labels.get(Path(file), folder.name))
        clips.append(Clip(inputs, None if label is None else int(label)))
    return clips


def report(info: ModelInfo, out: Path) -> None:
    from ..export.folder import describe

    console = PlainConsole(soft_wrap=True)
    worst = max(info.checks, key=lambda check: check.difference / check.allowed)
    shapes = len({tuple(check.shape) for check in info.checks})
    console.print(
        f"Agrees with the model on {len(info.checks)} batches of {shapes} shapes: off by {worst.difference:.1e} at "
        f"most, where rounding explains {worst.allowed:.1e}."
    )
    if info.int8 is not None:
        console.print(f"int8, on {info.int8.num_clips} clips that calibrated nothing: {describe(info.int8)}.")
    limits = []
    names = ("frames", "high", "wide")
    for name, least, most in zip(names, info.sizes.minimum, info.sizes.maximum):
        if not (info.image and name == "frames"):
            limits.append(f"{least} or more {name}" if most is None else f"{least} to {most} {name}")
    console.print(f"Takes {'images' if info.image else 'clips'} of any batch, {', '.join(limits)} (pixels).")
    console.print(f"Written to {out}. Try it: tubevit predict VIDEO --model {out}")
