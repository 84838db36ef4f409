# SPDX-License-Identifier: Apache-2.0
"""`tubevit scale-up`: a large image ViT gets the tubes of a small TubeViT, and a gate."""

from typing import Annotated

import typer

from .common import (
    ClassifierOption,
    FramesOption,
    HeadsOption,
    OutOption,
    OverwriteOption,
    PickleOption,
    PositionsOption,
    one_line_errors,
)


def scale_up(
    image_model: Annotated[str, typer.Option(help="The large image ViT: folder, repo id or file of weights.")],
    tubes_from: Annotated[str, typer.Option(help="The small trained TubeViT: folder or repo id.")],
    gate_layer: Annotated[int, typer.Option(help="0-based layer of the gate; all before it is frozen.", min=0)],
    out: OutOption,
    positions: PositionsOption = None,
    num_frames: FramesOption = None,
    classifier: ClassifierOption = True,
    num_attention_heads: HeadsOption = None,
    allow_pickle: PickleOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Give a large image ViT the tubes of a small TubeViT, mostly frozen, with a gate (Section 3.6 of the paper)."""
    from .. import conversion
    from ..folders import check_folder

    with one_line_errors():
        check_folder(out, overwrite)
        model, report = conversion.scale_up(
            image_model,
            tubes_from,
            gate_layer=gate_layer,
            positions=None if positions is None else positions.value,
            num_frames=num_frames,
            keep_classifier=classifier,
            num_attention_heads=num_attention_heads,
            allow_pickle=allow_pickle,
        )
        conversion.save_converted(model, report, out, overwrite)
    report.print()
