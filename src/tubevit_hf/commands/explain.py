# SPDX-License-Identifier: Apache-2.0
"""`tubevit explain`: what a model looks at in a video."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..tables import say
from .common import DeviceOption, OutOption, OverwriteOption, VideoModelOption, one_line_errors, share_cores


class Methods(str, Enum):
    GRADIENT = "gradient"
    ROLLOUT = "rollout"
    ATTENTION = "attention"


def explain(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video (file or URL).")],
    model: VideoModelOption,
    out: OutOption,
    method: Annotated[
        Methods,
        typer.Option(
            help="What speaks for the label (gradient, for every model), attention through all layers (rollout), or "
            "that of the pooling (attention, for models that have one)."
        ),
    ] = Methods.GRADIENT,
    label: Annotated[str | None, typer.Option(help="What to explain. Default: the most likely label.")] = None,
    windows: Annotated[
        int, typer.Option(help="Stretches of time that are taken out, one at a time; at most one a frame.", min=2)
    ] = 8,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
) -> None:
    """Show what a model looks at in a video: where, when, and what it would say without a stretch of time.

    Writes explanation.gif, the clip beside what counts in it at the video's own speed; explanation.png, a contact
    sheet; and explanation.json, the numbers."""
    share_cores()
    with one_line_errors():
        from ..folders import check_folder, written_whole
        from ..inference.explaining import explain_video
        from ..inference.running import get_processes, load_model
        from ..model.video_sources_tubevit import printable
        from ..visualization import animate_explanation, draw_explanation

        check_folder(out, overwrite)
        loaded = load_model(model, device=device or get_processes().device)
        found = explain_video(loaded, video, method=method.value, label=label, num_windows=windows)
        title = printable(f"{found.label} {found.score:.1%} - {Path(found.video).name}")
        times = found.seconds, found.windows, found.drops
        with written_whole(out, overwrite) as folder:
            (folder / "explanation.gif").write_bytes(animate_explanation(found.frames, found.heat, *times, title))
            notes = found.tell() + found.describe_tubes()
            draw_explanation(
                found.frames, found.heat, found.seconds, found.shares, found.windows, found.drops, title, notes
            ).savefig(folder / "explanation.png", dpi=110)
            (folder / "explanation.json").write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")

    for entry in found.predictions:
        say(f"{entry['label']:20} {entry['score']:.3f}")
    for line in found.tell():
        say(line)
    say(f"Alt text: {found.alt_text}")
    say(f"Written: {out / 'explanation.gif'}, {out / 'explanation.png'}, {out / 'explanation.json'}")
