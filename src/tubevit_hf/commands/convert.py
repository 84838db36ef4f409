# SPDX-License-Identifier: Apache-2.0
"""The `tubevit` command."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from math import prod
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from transformers import pipeline
from transformers.utils import logging

from ..conversion import convert_vit, save_converted, scale_up
from ..conversion.save import check_folder
from ..evaluation.complexity import PARTS, count_flops, count_parameters
from ..model.configuration_tubevit import PRESETS, TubeViTConfig
from ..model.video_decoding_tubevit import VIDEO_SUFFIXES


# Table 11 (parameters in millions: the image ViT, with tubes) and the results (TFLOPs of 4 x 3 views)
PAPER = {"B": (86, 90, 0.87), "L": (307, 311, 9.53), "H": (632, 635, 17.64)}
PAPER_VIEWS = 4 * 3


class Positions(str, Enum):
    PRETRAINED = "pretrained"
    TUBE_CENTER = "tube_center"


class NewTubes(str, Enum):
    INFLATED = "inflated"
    RANDOM = "random"


app = typer.Typer(name="tubevit", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def tubevit() -> None:
    """TubeViT (Sparse Video Tubes) for Hugging Face Transformers."""


@app.command()
def info(
    preset: Annotated[str, typer.Argument(help=f"One of {', '.join(PRESETS)}.")],
    num_frames: Annotated[int, typer.Option(help="Frames of a clip.", min=1)] = 32,
    image_size: Annotated[int, typer.Option(help="Height and width of a frame in pixels.", min=1)] = 224,
    num_labels: Annotated[int, typer.Option(help="Classes of the head.", min=1)] = 400,
) -> None:
    """Print parameters, tokens and FLOPs of a preset, beside the paper's figures."""
    try:
        config = TubeViTConfig.from_preset(preset, num_frames=num_frames, image_size=image_size, num_labels=num_labels)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PRESET") from error

    console = Console()
    console.print(tube_table(config))
    console.print(part_table(config))
    if preset.upper() in PAPER:
        vit, with_tubes, teraflops = PAPER[preset.upper()]
        console.print(
            f"Paper: {vit} M parameters of the image ViT, {with_tubes} M with tubes (Table 11); "
            f"{teraflops} TFLOPs for {PAPER_VIEWS} views, {1000 * teraflops / PAPER_VIEWS:.1f} GFLOPs each.",
            highlight=False,
        )
    else:
        console.print("Paper: Table 11 has no such size.", highlight=False)


def tube_table(config: TubeViTConfig) -> Table:
    num_frames, height, width = config.native_size
    table = Table(
        "tube", "stride", "offset", "space-to-depth", "grid", "tokens", title=f"Tubes at {num_frames}x{height}x{width}"
    )
    for tube, grid in zip(config.resolved_tubes, config.token_grids()):
        sizes = (tube.kernel_size, tube.stride, tube.offset, tube.space_to_depth, grid)
        table.add_row(*("x".join(map(str, size)) for size in sizes), f"{prod(grid):,}")
    table.add_section()
    table.add_row("all", "", "", "", "", f"{config.num_tokens():,}")
    return table


def part_table(config: TubeViTConfig) -> Table:
    parameters, flops = count_parameters(config), count_flops(config)
    table = Table("part", "parameters (M)", "GFLOPs a clip", title="Parameters and operations")
    for part in PARTS:
        table.add_row(part, f"{parameters[part] / 1e6:.2f}", f"{flops[part] / 1e9:.2f}")
    table.add_section()
    table.add_row("all", f"{sum(parameters.values()) / 1e6:.2f}", f"{sum(flops.values()) / 1e9:.2f}")
    return table


SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="ViT of transformers or timm (folder or repo id), or a file of weights."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write.")]
PositionsOption = Annotated[
    Positions, typer.Option(help="Keep the source's position table for patches, or sine-cosine for all tokens.")
]
FramesOption = Annotated[
    int | None, typer.Option(help="Frames of a clip. Default: as the model of --tubes-from, or 32.", min=1)
]
HeadsOption = Annotated[int | None, typer.Option(help="Attention heads, for files that do not tell.", min=1)]
ClassifierOption = Annotated[bool, typer.Option(help="Whether the head comes along, if there is one.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Read a pickled file that you trust.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")]


@app.command()
def convert(
    source: SourceArgument,
    out: OutOption,
    positions: PositionsOption = Positions.PRETRAINED,
    new_tubes: Annotated[NewTubes, typer.Option(help="How the kernels of the tubes for videos begin.")] = (
        NewTubes.INFLATED
    ),
    tubes: Annotated[Path | None, typer.Option(help="JSON file with a list of tubes. Default: Table 12's shapes.")] = (
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
    with one_line_errors():
        check_folder(out, overwrite)
        converted = convert_vit(
            source,
            positions=positions.value,
            tubes=None if tubes is None else read_tubes(tubes),
            new_tubes=new_tubes.value,
            tubes_from=tubes_from,
            num_frames=num_frames,
            keep_classifier=classifier,
            num_attention_heads=num_attention_heads,
            allow_pickle=allow_pickle,
        )
        save_converted(*converted, out, overwrite)
    converted[1].print()


@app.command("scale-up")
def scale_up_command(
    image_model: Annotated[str, typer.Option(help="The large image ViT: folder, repo id or file of weights.")],
    tubes_from: Annotated[str, typer.Option(help="The small trained TubeViT: folder or repo id.")],
    gate_layer: Annotated[int, typer.Option(help="0-based layer of the gate; all before it is frozen.", min=0)],
    out: OutOption,
    positions: PositionsOption = Positions.PRETRAINED,
    num_frames: FramesOption = None,
    classifier: ClassifierOption = True,
    num_attention_heads: HeadsOption = None,
    allow_pickle: PickleOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Give a large image ViT the tubes of a small TubeViT, mostly frozen, with a gate (Section 3.6 of the paper)."""
    with one_line_errors():
        check_folder(out, overwrite)
        converted = scale_up(
            image_model,
            tubes_from,
            gate_layer=gate_layer,
            positions=positions.value,
            num_frames=num_frames,
            keep_classifier=classifier,
            num_attention_heads=num_attention_heads,
            allow_pickle=allow_pickle,
        )
        save_converted(*converted, out, overwrite)
    converted[1].print()


def read_tubes(path: Path) -> list[dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: it is no JSON ({error}).") from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends with exit code 2 and one line for what a user can mend."""
    with quiet_loading():
        try:
            yield
        except (OSError, ValueError, TypeError) as error:
            print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the bars and reports of Transformers' loader; its settings are as before afterwards."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


@app.command()
def predict(
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO_OR_FOLDER", help="Videos (files or URLs), or folders of videos.")
    ],
    model: Annotated[str, typer.Option(help="Folder or repo id of a model for video classification.")],
    top_k: Annotated[int, typer.Option(help="Labels to print for each video.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Classify videos. A video that cannot be read is reported and passed over, and the exit code is then 1."""
    files = [file for video in videos for file in list_videos(video)]
    try:
        with quiet_loading():
            classify = pipeline("video-classification", model=model)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error).splitlines()[0], param_hint="--model") from error

    results = []
    # a bar for one file, or where nobody watches, would be noise
    for file in tqdm(files, unit="video", disable=len(files) == 1 or not sys.stderr.isatty()):
        try:
            results.append({"video": file, "predictions": classify(file, top_k=top_k)})
        except ValueError as error:
            tqdm.write(f"failed: {error}", file=sys.stderr)
            results.append({"video": file, "error": str(error)})

    if as_json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(prediction_table(results))
    if any("error" in result for result in results):
        raise typer.Exit(1)


def list_videos(video: str) -> list[str]:
    """The file itself, or all videos in a folder and the folders in it, sorted."""
    if not Path(video).is_dir():
        return [video]
    files = sorted(str(path) for path in Path(video).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise typer.BadParameter(
            f"{video} holds no videos; looked for {', '.join(VIDEO_SUFFIXES)}.", param_hint="VIDEO_OR_FOLDER"
        )
    return files


def prediction_table(results: list[dict]) -> Table:
    table = Table("video", "label", "score")
    for result in results:
        for place, prediction in enumerate(result.get("predictions", [])):
            table.add_row("" if place else result["video"], prediction["label"], f"{prediction['score']:.3f}")
        if "error" in result:
            table.add_row(result["video"], "failed", "")
        table.add_section()
    return table


def main() -> None:
    app()
