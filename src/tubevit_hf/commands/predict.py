# SPDX-License-Identifier: Apache-2.0
"""`tubevit predict`: what a model sees in videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .common import quiet_loading


if TYPE_CHECKING:
    from transformers import Pipeline


def predict(
    videos: Annotated[
        list[str], typer.Argument(metavar="VIDEO_OR_FOLDER", help="Videos (files or URLs), or folders of videos.")
    ],
    model: Annotated[
        str,
        typer.Option(help="Folder or repo id of a model for video classification, or a folder of an exported one."),
    ],
    top_k: Annotated[int, typer.Option(help="Labels to print for each video.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Open an exported graph of PyTorch, which is a pickle.")
    ] = False,
) -> None:
    """Classify videos. A video that cannot be read is reported and passed over, and the exit code is then 1."""
    from tqdm import tqdm

    files = [file for video in videos for file in list_videos(video)]
    try:
        with quiet_loading():
            classify = load_pipeline(model, trust_remote_code)
    except (ImportError, OSError, ValueError) as error:
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


def load_pipeline(model: str, trust_remote_code: bool) -> Pipeline:
    from transformers import pipeline

    # what `tubevit export` leaves in a folder
    if not Path(model, "model_info.json").exists():
        return pipeline("video-classification", model=model)
    from ..export import exported_pipeline

    return exported_pipeline(model, trust_remote_code)


def list_videos(video: str) -> list[str]:
    """The file itself, or all videos in a folder and the folders in it, sorted."""
    from ..model.video_decoding_tubevit import VIDEO_SUFFIXES

    if not Path(video).is_dir():
        return [video]
    files = sorted(str(path) for path in Path(video).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise typer.BadParameter(
            f"{video} holds no videos; looked for {', '.join(VIDEO_SUFFIXES)}.", param_hint="VIDEO_OR_FOLDER"
        )
    return files


def prediction_table(results: list[dict[str, Any]]) -> Table:
    table = Table("video", "label", "score")
    for result in results:
        for place, prediction in enumerate(result.get("predictions", [])):
            table.add_row("" if place else result["video"], prediction["label"], f"{prediction['score']:.3f}")
        if "error" in result:
            table.add_row(result["video"], "failed", "")
        table.add_section()
    return table
