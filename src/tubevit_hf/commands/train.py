# SPDX-License-Identifier: Apache-2.0
"""`tubevit train`: from a folder of videos to a model, and what it is worth."""

from __future__ import annotations

import errno
import sys
from argparse import ArgumentParser
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..extras import of_extra
from ..tables import say
from .common import Watched, list_arguments_option, one_line_errors, share_cores


class Layout(str, Enum):
    FRAMES = "frames"
    SPARSE = "sparse"
    AUTO = "auto"


# what libraries say of it
FULL = ("No space left on device", "PytorchStreamWriter failed writing", "database or disk is full")


def load_parser() -> ArgumentParser:
    """Of all other arguments; what it imports takes long."""
    from ..training.from_folder import make_parser

    return make_parser()


def train(
    context: typer.Context,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Videos in class folders, FOLDER/LABEL/*.mp4 or FOLDER/{train,validation}/LABEL/*.mp4; or a dataset "
            "with the columns video and label, its folder or name on the Hub.",
        ),
    ],
    source: Annotated[
        str, typer.Option("--from", help="Folder or repo id of a TubeViT, or of an image ViT, which becomes one.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write. The same command again goes on from there.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns file, relative to FOLDER, and label, and if you like group and split. "
            "Several labels of a video are separated by ; or have a row each."
        ),
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option(
            "--leave-out", "--leave_out", help="Videos not to use: a path relative to FOLDER on each line, # comments."
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            "--group-pattern",
            "--group_pattern",
            help="Regular expression that finds in a file's name what belongs together, such as who was filmed: that "
            "is never trained on and validated with. Default: what the column group or the names tell.",
        ),
    ] = None,
    groups: Annotated[bool, typer.Option(help="Whether videos belong together at all.")] = True,
    share: Annotated[
        float,
        typer.Option("--validation-share", "--validation_share", help="Share of the videos that validate.", max=0.5),
    ] = 0.2,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="small: a closed form behind frozen layers. gradients: Trainer, early stopping. Or one of the "
            "paper's, such as k400-b. Default: small where it does, up to 3,000 videos of one label each."
        ),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="What of a video the recipe small reads. frames: eight frames one by one. sparse: the model's own "
            "tubes over several frames, all together; an image ViT gets such tubes, for 32 frames. auto: both are "
            "fitted, and the training videos that are held out choose. Default: frames, except for a TubeViT without "
            "a tube that reads whole frames, such as one of `tubevit pretrain`."
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Whether a mirrored video keeps its class. Say --no-mirror if left and right differ. Default: as the "
            "recipe has it, which is that it does.",
        ),
    ] = None,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", "--class_weights", help="Let rare classes count as much as others.")
    ] = False,
    balanced: Annotated[bool, typer.Option("--balanced", help="Train on as many clips of each class.")] = False,
    patience: Annotated[
        int, typer.Option(help="Evaluations without gain, after which training by gradients ends.", min=1)
    ] = 5,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Try so many settings first, the defaults and others that the recipe leaves open and you have not "
            "given, on the training videos alone, and train with the best. Needs the extra tune."
        ),
    ] = None,
    trial_minutes: Annotated[
        float | None,
        typer.Option(
            "--trial-minutes", "--trial_minutes", help="Minutes that trials may take, alone or beside --trials."
        ),
    ] = None,
    list_arguments: Annotated[bool, list_arguments_option(load_parser)] = False,
) -> None:
    """Train a model on a folder of videos and measure it.

    tubevit train my_videos --from facebook/deit-tiny-patch16-224 --out my_model

    Videos that belong together are on one side of training and validation. A run that was stopped goes on by the same
    command. Every argument of Transformers' Trainer goes here too, such as --num_train_epochs 5 --learning_rate 3e-5
    --report_to tensorboard: --list-arguments lists them.
    """
    share_cores()
    with one_line_errors(), one_line_failures(out):
        if folder.startswith("-"):
            raise ValueError(f"give FOLDER first, before {folder}.")
        with of_extra("demo"):
            # at the end it is measured, and drawn
            import matplotlib  # noqa: F401
            import sklearn  # noqa: F401
        from ..inference.running import get_processes
        from ..training.from_folder import FolderRun, parse_given, train_folder
        from ..training.trials import Budget

        budget = None
        if trials is not None or trial_minutes is not None:
            with of_extra("tune"):
                import optuna  # noqa: F401
            budget = Budget(trials, trial_minutes)
        given: dict[str, Any] = {}
        if mirror is not None:
            given["horizontal_flip"] = mirror
        if mirror is False:
            given["eval_mirror"] = False
        if class_weights:
            given["class_weights"] = True
        if balanced:
            given["balanced"] = True
        run = FolderRun(
            folder,
            source,
            out,
            labels=labels,
            leave_out=leave_out,
            group_pattern=group_pattern,
            by_group=groups,
            share=share,
            recipe=recipe,
            layout=None if layout is None else layout.value,
            patience=patience,
            budget=budget,
            given=given | parse_given(context.args),
        )
        results = train_folder(run)
        if get_processes().is_main_process:
            show(results)
            show_next(out, write_page(folder, out))


@contextmanager
def one_line_failures(out: Path) -> Generator[None, None, None]:
    """Ends with one line too where the disk is full or the loss no longer finite, and for Ctrl-C."""
    from ..training import TrainingDiverged

    kept = f"What was whole in {out} is kept, and the same command goes on."
    try:
        yield
    except KeyboardInterrupt:
        say(f"Stopped. {kept}", file=sys.stderr)
        raise typer.Exit(130) from None
    except TrainingDiverged as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        if is_full(error):
            raise OSError(f"{out}: the disk is full. {kept}") from error
        if type(error).__module__.partition(".")[0] == "wandb":
            # such as that there is no key
            raise ValueError(f"Weights & Biases: {error} WANDB_MODE=offline keeps the run here. {kept}") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether a disk had no room; libraries wrap the system's error into ones of their own."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    if any(text in str(error) for text in FULL):
        return True
    return error.__cause__ is not None and is_full(error.__cause__)


def write_page(folder: str, out: Path) -> Path | None:
    """A report of the validation videos; `None`, with the reason told, where there is none to be had, such as of
    images or of a dataset on the Hub."""
    from ..inference.running import get_processes, load_model
    from ..report import PAGE, ReportError, make_report
    from ..training.record import RESULTS_NAME

    page = out / PAGE
    if page.exists() and page.stat().st_mtime >= (out / RESULTS_NAME).stat().st_mtime:
        # the run was finished before
        return page
    try:
        loaded = load_model(str(out), device=get_processes().device)
        return make_report(str(out), loaded, Path(folder), watch=Watched).page
    except ReportError as error:
        say(f"No report: {error}", file=sys.stderr)
        return None


def show(results: dict[str, Any]) -> None:
    metrics = results["metrics"]
    if "accuracy" in results:
        found = results["accuracy"]
        low, high = found["interval_95"]
        say(
            f"Right: {found['right']} of {found['of']} validation videos, {found['value']:.1%} (95% interval "
            f"{low:.1%} to {high:.1%}); mean over classes {metrics['mean_class_accuracy']:.1%}."
        )
    else:
        say(f"Mean average precision: {metrics['mean_average_precision']:.3f}.")
    for limit in results["limits"]:
        say(f"- {limit}")


def show_next(out: Path, page: Path | None) -> None:
    if page is not None:
        say(f"Is it good enough? {page} tells, from one view of each video, as `tubevit predict` sees it.")
    say(f"Model, metrics and card are in {out}. To go on:")
    say(f"  tubevit predict VIDEO_OR_FOLDER --model {out}")
