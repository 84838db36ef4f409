# SPDX-License-Identifier: Apache-2.0
"""`tubevit timeline`: what a model sees over the time of a long video."""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tables import PlainConsole, PlainTable, say
from .common import DeviceOption, TrustOption, VideoModelOption, one_line_errors


if TYPE_CHECKING:
    from ..inference.segments import Segment
    from ..inference.timeline import Timeline


# seconds from which on one sees that subtitles are late
SHIFT = 0.1
UNITS = {"": 1.0, "s": 1.0, "ms": 0.001}


def parse_seconds(text: str) -> float:
    """Seconds of "2s", "500ms" or "2"."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|)", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time: write it as 2s, 500ms or 0.5.")
    return float(found[1]) * UNITS[found[2]]


def timeline(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video of any length (file or URL).")],
    model: VideoModelOption,
    window: Annotated[
        float, typer.Option(parser=parse_seconds, metavar="TIME", help="Length of a window: 2s, 500ms or 2.")
    ] = "2s",  # pyrefly: ignore[bad-function-definition]  typer parses it
    stride: Annotated[
        float, typer.Option(parser=parse_seconds, metavar="TIME", help="From one window's start to the next one's.")
    ] = "0.5s",  # pyrefly: ignore[bad-function-definition]  as above
    threshold: Annotated[float, typer.Option(help="Least mean probability in a segment.", min=0.001, max=1)] = 0.3,
    top_k: Annotated[int, typer.Option(help="Labels of each window in the JSON.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    srt: Annotated[Path | None, typer.Option(help="File of subtitles to write.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture to write (.png, .svg, .pdf).")] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Find what happens when in a long video. If parts of it cannot be decoded, the exit code is 1."""
    with one_line_errors():
        from ..inference.running import get_processes, load_model
        from ..inference.segments import find_segments, format_srt
        from ..inference.timeline import scan_timeline
        from ..model.video_processing_tubevit import TubeViTVideoProcessor

        # before a scan that may take hours
        for file in filter(None, (srt, picture)):
            if not file.absolute().parent.is_dir():
                raise ValueError(f"{file}: the folder does not exist.")
        if picture is not None:
            from .. import visualization  # noqa: F401  needs an extra
        loaded = load_model(model, device=device or get_processes().device, trust_remote_code=trust_remote_code)
        processor: Any = loaded.processor
        if not isinstance(processor, TubeViTVideoProcessor):
            raise ValueError(f"{model} is for images; a timeline needs a model for videos, with its video processor.")
        with warnings.catch_warnings():
            # told below
            warnings.simplefilter("ignore", UserWarning)
            found = scan_timeline(loaded.model, processor, video, window, stride, progress=sys.stderr.isatty())
        segments = find_segments(found.times, found.scores, found.labels, threshold)
        if srt is not None:
            srt.write_text(format_srt(segments, found.start_seconds), encoding="utf-8")
        if picture is not None:
            from ..visualization import draw_timeline

            draw_timeline(found.times, found.scores, found.labels, segments).savefig(picture, dpi=150)

    if as_json:
        print(json.dumps(describe(video, found, segments, top_k), indent=2))
    else:
        PlainConsole().print(segment_table(segments))
        if found.start_seconds >= SHIFT:
            say(
                f"Times are after the first frame, which players show at {found.start_seconds:.2f} s, as the sound "
                "begins before it; --srt counts as they do."
            )
    if found.stand_ins:
        say(
            f"{len(found.stand_ins)} frames cannot be decoded; the nearest stand in for them, from frame "
            f"{found.stand_ins[0].index} on.",
            file=sys.stderr,
        )
    if len(found.lost):
        say(
            f"failed: {len(found.lost)} of {len(found.times)} windows cannot be decoded, from second "
            f"{found.lost[0, 0]:g} to {found.lost[-1, 1]:g}.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def describe(video: str, found: Timeline, segments: list[Segment], top_k: int) -> dict[str, Any]:
    """What goes into the JSON."""
    import numpy as np

    from ..model.video_sources_tubevit import hide_secrets

    windows = []
    for (start, end), scores in zip(found.times.tolist(), found.scores):
        best = np.argsort(-scores, kind="stable")[: 0 if np.isnan(scores).any() else top_k]
        predictions = [{"label": found.labels[index], "score": float(scores[index])} for index in best]
        windows.append({"start": start, "end": end, "predictions": predictions})
    return {
        "video": hide_secrets(video),
        "seconds": found.seconds,
        "start_seconds": found.start_seconds,
        "segments": [segment._asdict() for segment in segments],
        "windows": windows,
        "stand_ins": [stand_in._asdict() for stand_in in found.stand_ins],
    }


def segment_table(segments: list[Segment]) -> PlainTable:
    table = PlainTable("start", "end", "label", "score")
    for segment in segments:
        table.add_row(f"{segment.start:.2f}", f"{segment.end:.2f}", segment.label, f"{segment.score:.3f}")
    return table
