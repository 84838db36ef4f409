# SPDX-License-Identifier: Apache-2.0
"""What commands share: options that mean the same, and mistakes that end in one line."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeVar

import typer

from ..tables import printable_lines, say


class Positions(str, Enum):
    PRETRAINED = "pretrained"
    SPATIAL = "spatial"
    TUBE_CENTER = "tube_center"


SourceArgument = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="ViT of transformers or timm (folder or repo id), or a file of weights."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write.")]
PositionsOption = Annotated[
    Positions | None,
    typer.Option(
        help="pretrained: the source's position table for patches, sine-cosine for other tubes. spatial: that table "
        "for all tubes, read where each token lies. tube_center: sine-cosine for all. Default: spatial if the layout "
        "is interleaved, or if the tubes of --tubes-from have such; else pretrained."
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(help="Frames of a clip. Default: as the model of --tubes-from; else 8, or 32 if sparse.", min=1),
]
HeadsOption = Annotated[int | None, typer.Option(help="Attention heads, for files that do not tell.", min=1)]
ClassifierOption = Annotated[bool, typer.Option(help="Whether the head comes along, if there is one.")]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help="Read a pickled file that you trust.")]
VideoModelOption = Annotated[
    str, typer.Option(help="Folder or repo id of a model for video classification, or a folder of an exported one.")
]
BatchSizeOption = Annotated[
    int | None, typer.Option(help="Clips that go through the model at once. Default: 1 on a CPU, else 8.", min=1)
]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes that read videos; 0 for none. Default: one for each CPU but one, 4 at most.", min=0),
]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0. Default: a GPU if there is one.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Open an exported graph of PyTorch, which is a pickle.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")]


def list_arguments_option(make_parser: Callable[[], ArgumentParser]) -> Any:
    """`--list-arguments` of a command that takes more than its own: prints the arguments of a parser, and ends."""

    def list_all(wanted: bool) -> None:
        if wanted:
            make_parser().print_help()
            raise typer.Exit

    return typer.Option(
        "--list-arguments",
        is_eager=True,
        callback=list_all,
        help="List all other arguments, those of clips and the Trainer's, which go here too.",
    )


def share_cores() -> None:
    """Lets threads that wait leave their core to those that decode, unless the user has chosen; to be called before
    torch is loaded, which starts them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class OfFile(Protocol):
    """What became of a file."""

    @property
    def error(self) -> str | None: ...


OfFileT = TypeVar("OfFileT", bound=OfFile)


class Watched(Generic[OfFileT]):
    """Results of files under a progress bar, which would be noise for one file or where nobody watches; failures are
    told as they come."""

    def __init__(self, results: Iterable[OfFileT], total: int):
        self.results, self.total = results, total
        self.done = self.failed = 0

    def __iter__(self) -> Iterator[OfFileT]:
        from tqdm import tqdm

        with tqdm(total=self.total, unit="video", disable=self.total == 1 or not sys.stderr.isatty()) as bar:
            for result in self.results:
                self.done += 1
                if result.error is not None:
                    self.failed += 1
                    bar.write(printable_lines(f"failed: {result.error}"), file=sys.stderr)
                bar.update()
                yield result

    @contextmanager
    def until_stopped(self, kept: str) -> Generator[None, None, None]:
        """Ctrl-C ends with exit code 130, and tells how far it was and what is kept."""
        try:
            yield
        except KeyboardInterrupt:
            say(f"Stopped after {self.done} of {self.total}.{kept}", file=sys.stderr)
            raise typer.Exit(130) from None


@contextmanager
def one_line_errors() -> Generator[None, None, None]:
    """Ends with exit code 2 and one line for what a user can mend."""
    with quiet_loading():
        try:
            yield
        except (ImportError, OSError, ValueError, TypeError) as error:
            say(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
            raise typer.Exit(2) from error


@contextmanager
def quiet_loading() -> Generator[None, None, None]:
    """Without the bars and reports of Transformers' loader; its settings are as before afterwards."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
