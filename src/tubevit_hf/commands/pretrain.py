# SPDX-License-Identifier: Apache-2.0
"""`tubevit pretrain`: from videos without labels to a TubeViT that knows videos."""

from __future__ import annotations

from argparse import ArgumentParser
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..extras import of_extra
from ..tables import say
from .common import list_arguments_option, one_line_errors, share_cores
from .convert import read_tubes
from .train import one_line_failures


class Targets(str, Enum):
    FEATURES = "features"
    LOGITS = "logits"
    PIXELS = "pixels"


def load_parser() -> ArgumentParser:
    """Of all other arguments; what it imports takes long."""
    from ..training.pretraining import make_pretraining_parser

    return make_pretraining_parser()


def pretrain(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Videos at any depth; labels are not needed.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="Folder or repo id of an image ViT, which becomes a TubeViT of sparse tubes, or of such one.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write. The same command again goes on from there.")],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Folder or repo id of the frozen model that teaches: for features an image ViT, VideoMAE or ViViT, "
            "for logits any classifier of videos or images. Default: the image ViT of --from."
        ),
    ] = None,
    targets: Annotated[
        Targets,
        typer.Option(
            help="What each token learns. features: the teacher's features over its place and time, and their change. "
            "logits: the teacher's classes; the result classifies. pixels: those of hidden tokens, without a teacher."
        ),
    ] = Targets.FEATURES,
    tubes: Annotated[
        Path | None, typer.Option(help="JSON file with a list of tubes, for an image ViT. Default: interleaved.")
    ] = None,
    mask_ratio: Annotated[
        float | None,
        typer.Option(
            "--mask-ratio",
            "--mask_ratio",
            help="Share of a clip that is hidden and predicted. Default: 0 for features, 0.75 for pixels.",
        ),
    ] = None,
    copies: Annotated[
        int | None,
        typer.Option(
            help="Random clips of each video, of which the teacher's answers are kept on the disk. Default: other "
            "clips in each epoch.",
            min=1,
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option("--validation-share", "--validation_share", help="Share of the videos held out.", max=0.5),
    ] = 0.1,
    mirror: Annotated[bool, typer.Option(help="Whether every other clip is mirrored.")] = True,
    patience: Annotated[
        int, typer.Option(help="Evaluations of the held-out loss without gain, after which it ends.", min=1)
    ] = 3,
    list_arguments: Annotated[bool, list_arguments_option(load_parser)] = False,
) -> None:
    """Train a TubeViT on videos without labels, taught by a frozen model.

    tubevit pretrain my_videos --from facebook/deit-tiny-patch16-224 --out pretrained

    tubevit train my_labelled_videos --from pretrained --out my_model --layout sparse

    A run that was stopped goes on by the same command. Every argument of Transformers' Trainer goes here too, such as
    --num_train_epochs 5 --learning_rate 1e-4: --list-arguments lists them.
    """
    share_cores()
    with one_line_errors(), one_line_failures(out):
        if folder.startswith("-"):
            raise ValueError(f"give FOLDER first, before {folder}.")
        with of_extra("demo"):
            # videos are divided by it, and at the end curves are drawn
            import matplotlib  # noqa: F401
            import sklearn  # noqa: F401
        from ..inference.running import get_processes
        from ..training.from_folder import parse_given
        from ..training.pretraining import PretrainingRun, make_pretraining_parser, pretrain_folder

        given: dict[str, Any] = {"horizontal_flip": mirror}
        if mask_ratio is not None:
            given["mask_ratio"] = mask_ratio
        if copies is not None:
            given["copies"] = copies
        run = PretrainingRun(
            folder,
            source,
            out,
            teacher,
            targets.value,
            None if tubes is None else read_tubes(tubes),
            share,
            patience,
            given | parse_given(context.args, make_pretraining_parser(), "pretrain"),
        )
        record = pretrain_folder(run)
        if get_processes().is_main_process:
            show(record, out)


def show(record: dict[str, Any], out: Path) -> None:
    metrics, start = record["metrics"], record["start"]
    say(
        f"{record['videos']['held_out']} held-out videos: loss {metrics['loss']:.4f} (before {start['loss']:.4f}), "
        f"{share(metrics['explained'])} of the targets' variance explained."
    )
    if "explained_mean" in metrics:
        say(
            f"Of the mean features {share(metrics['explained_mean'])}, of their change over time "
            f"{share(metrics['explained_change'])}."
        )
    for warning in record["warnings"]:
        say(f"- {warning}")
    say(f"Model, card and curves are in {out}. To go on:")
    if record["targets"] == Targets.LOGITS.value:
        say(f"  tubevit predict VIDEO_OR_FOLDER --model {out}")
    else:
        say(f"  tubevit train LABELLED_VIDEOS --from {out} --out DIR --layout sparse")


def share(explained: float) -> str:
    return f"{explained:.1%}" if explained > 0 else "nothing"
