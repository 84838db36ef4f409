# SPDX-License-Identifier: Apache-2.0
"""`tubevit info`: parameters, tokens and operations of a preset."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole, PlainTable


if TYPE_CHECKING:
    from ..model.configuration_tubevit import TubeViTConfig


# Table 11 (parameters in millions: the image ViT, with tubes) and the results (TFLOPs of 4 x 3 views)
PAPER = {"B": (86, 90, 0.87), "L": (307, 311, 9.53), "H": (632, 635, 17.64)}
PAPER_VIEWS = 4 * 3


def info(
    preset: Annotated[str, typer.Argument(help="One of Ti, S, B, L, H.")],
    num_frames: Annotated[int, typer.Option(help="Frames of a clip.", min=1)] = 32,
    image_size: Annotated[int, typer.Option(help="Height and width of a frame in pixels.", min=1)] = 224,
    num_labels: Annotated[int, typer.Option(help="Classes of the head.", min=1)] = 400,
) -> None:
    """Print parameters, tokens and FLOPs of a preset, beside the paper's figures."""
    from ..model.configuration_tubevit import TubeViTConfig

    try:
        config = TubeViTConfig.from_preset(preset, num_frames=num_frames, image_size=image_size, num_labels=num_labels)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PRESET") from error

    console = PlainConsole()
    console.print(tube_table(config))
    console.print(part_table(config))
    if preset.upper() in PAPER:
        vit, with_tubes, teraflops = PAPER[preset.upper()]
        console.print(
            f"Paper: {vit} M parameters of the image ViT, {with_tubes} M with tubes (Table 11); "
            f"{teraflops} TFLOPs for {PAPER_VIEWS} views, {1000 * teraflops / PAPER_VIEWS:.1f} GFLOPs each.",
        )
    else:
        console.print("Paper: Table 11 has no such size.")


def tube_table(config: TubeViTConfig) -> PlainTable:
    num_frames, height, width = config.native_size
    table = PlainTable(
        "tube", "stride", "offset", "space-to-depth", "grid", "tokens", title=f"Tubes at {num_frames}x{height}x{width}"
    )
    for tube, grid in zip(config.resolved_tubes, config.token_grids()):
        sizes = (tube.kernel_size, tube.stride, tube.offset, tube.space_to_depth, grid)
        table.add_row(*("x".join(map(str, size)) for size in sizes), f"{prod(grid):,}")
    table.add_section()
    table.add_row("all", "", "", "", "", f"{config.num_tokens():,}")
    return table


def part_table(config: TubeViTConfig) -> PlainTable:
    from ..evaluation.complexity import PARTS, count_flops, count_parameters

    parameters, flops = count_parameters(config), count_flops(config)
    table = PlainTable("part", "parameters (M)", "GFLOPs a clip", title="Parameters and operations")
    for part in PARTS:
        table.add_row(part, f"{parameters[part] / 1e6:.2f}", f"{flops[part] / 1e9:.2f}")
    table.add_section()
    table.add_row("all", f"{sum(parameters.values()) / 1e6:.2f}", f"{sum(flops.values()) / 1e9:.2f}")
    return table
