# SPDX-License-Identifier: Apache-2.0
"""`tubevit convert`: an image ViT becomes a TubeViT."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    ClassifierOption,
    FramesOption,
    HeadsOption,
    OutOption,
    OverwriteOption,
    PickleOption,
    PositionsOption,
    SourceArgument,
    one_line_errors,
)


class Layout(str, Enum):
    FRAMES = "frames"
    SPARSE = "sparse"
    INTERLEAVED = "interleaved"


class NewTubes(str, Enum):
    INFLATED = "inflated"
    RANDOM = "random"


def convert(
    source: SourceArgument,
    out: OutOption,
    layout: Annotated[
        Layout,
        typer.Option(
            help="How videos are read. frames: by themselves up to the last quarter of the layers. sparse: the "
            "paper's tubes, together from the first layer on. interleaved: tubes of one and four frames, as large as "
            "a patch, together from the first layer on; they read filmed videos better without training."
        ),
    ] = Layout.FRAMES,
    positions: PositionsOption = None,
    new_tubes: Annotated[NewTubes, typer.Option(help="How the kernels of the tubes for videos begin.")] = (
        NewTubes.INFLATED
    ),
    tubes: Annotated[Path | None, typer.Option(help="JSON file with a list of tubes, instead of a layout's.")] = (
        None
    ),
    tubes_from: Annotated[str | None, typer.Option(help="TubeViT whose tubes and kernels are taken instead.")] = None,
    num_frames: FramesOption = None,
    classifier: ClassifierOption = True,
    num_attention_heads: HeadsOption = None,
    allow_pickle: PickleOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a TubeViT of an image ViT; images give what they gave before."""
    from ..conversion import convert_vit, save_converted
    from ..folders import check_folder

    with one_line_errors():
        check_folder(out, overwrite)
        model, report = convert_vit(
            source,
            layout=layout.value,
            positions=None if positions is None else positions.value,
            tubes=None if tubes is None else read_tubes(tubes),
            new_tubes=new_tubes.value,
            tubes_from=tubes_from,
            num_frames=num_frames,
            keep_classifier=classifier,
            num_attention_heads=num_attention_heads,
            allow_pickle=allow_pickle,
        )
        save_converted(model, report, out, overwrite)
    report.print()


def read_tubes(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: it is no JSON ({error}).") from error
