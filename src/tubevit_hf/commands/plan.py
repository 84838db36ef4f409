# SPDX-License-Identifier: Apache-2.0
"""`tubevit plan`: what a recipe of the paper takes at its real size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import PlainConsole, PlainTable
from .common import one_line_errors


if TYPE_CHECKING:
    from ..training.planning import Plan


def plan(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, such as k400-b or ssv2-l.")],
    gpus: Annotated[list[int] | None, typer.Option(help="GPUs that train together; again for another column.")] = None,
    teraflops: Annotated[
        float, typer.Option(help="Of one GPU in bfloat16, without sparsity: its maker's figure, or one measured.")
    ] = 989.0,
    share: Annotated[
        float, typer.Option(help="Of that rate which training reaches, up to 1; an H200 reached 0.28.")
    ] = 0.28,
    videos: Annotated[
        Path | None,
        typer.Option(help="Folder of videos like the dataset's: reading is measured on one core of this machine."),
    ] = None,
) -> None:
    """Tell what training by a recipe takes: operations, GPU hours, memory, decoding cores and storage. The rate is
    that of an H100 by default (989 TFLOP/s)."""
    with one_line_errors():
        from ..inference.reading import list_files
        from ..training.planning import find_recipe, make_plan, measure_reading

        found = find_recipe(recipe)
        reading = None
        if videos is not None:
            reading = measure_reading(found, [Path(video) for video in list_files([str(videos)])])
        first, *others = gpus or [8, 64]
        plans = {first: make_plan(recipe, first, teraflops, share, reading)}
        plans |= {number: replace(plans[first], num_gpus=number) for number in others}
    console = PlainConsole(soft_wrap=True)
    console.print(plan_table(recipe, plans))
    console.print(
        f"Assumed: {teraflops:g} TFLOP/s a GPU, of which training reaches {100 * share:g}%; float32 weights and "
        "AdamW, bfloat16 autocast, fused attention, nothing sharded or checkpointed."
    )
    if reading is None:
        console.print("For decoding cores and storage give --videos FOLDER, with videos like those of the dataset.")
    else:
        console.print(f"Measured: a core of this machine reads {reading.clips_per_second:.2f} clips a second.")


def plan_table(recipe: str, plans: dict[int, Plan]) -> PlainTable:
    columns = [describe(plan) for plan in plans.values()]
    tokens = next(iter(plans.values())).tokens
    table = PlainTable("", *(f"{number} GPUs" for number in plans), title=f"Recipe {recipe}, {tokens:,} tokens a clip")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def describe(plan: Plan) -> dict[str, str]:
    """A column of the table."""
    lines = {
        "clips, of all steps": f"{plan.clips / 1e6:.1f} M",
        "epochs": f"{plan.epochs:.0f}",
        "operations": f"{plan.flops / 1e18:.1f} EFLOP",
        "GPU hours": f"{plan.gpu_hours:,.0f}",
        "days": f"{plan.days:.2f}",
        "clips a GPU and step": f"{plan.clips_per_gpu:g}",
        "weights and optimizer, a GPU": f"{plan.state_bytes / 2**30:.1f} GiB",
        "kept for the backward pass, a clip": f"{plan.activation_bytes / 2**20:.0f} MiB",
        "memory of a GPU, at least": f"{plan.memory_bytes / 2**30:.1f} GiB",
        "clips a second and GPU": f"{plan.clips_per_second:.0f}",
    }
    if plan.cores_per_gpu is not None and plan.storage_bytes is not None:
        lines["decoding cores a GPU"] = f"{plan.cores_per_gpu:.0f}"
        lines["storage of the videos"] = f"{plan.storage_bytes / 2**30:,.0f} GiB"
    return lines
