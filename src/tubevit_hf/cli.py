# SPDX-License-Identifier: Apache-2.0
"""The `tubevit` command: its commands, put together."""

import io
import sys

import typer

from .commands.convert import convert
from .commands.doctor import doctor
from .commands.embed import embed
from .commands.explain import explain
from .commands.export import export
from .commands.info import info
from .commands.plan import plan
from .commands.predict import predict
from .commands.pretrain import pretrain
from .commands.probe import probe
from .commands.report import report
from .commands.scale_up import scale_up
from .commands.search import search
from .commands.timeline import timeline
from .commands.train import train
from .commands.visualize import visualize


app = typer.Typer(name="tubevit", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def tubevit() -> None:
    """TubeViT (Sparse Video Tubes) for Hugging Face Transformers."""


app.command()(info)
app.command()(convert)
app.command()(scale_up)
# what it does not know goes to the Trainer
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(train)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(pretrain)
app.command()(predict)
app.command()(embed)
app.command()(probe)
app.command()(search)
app.command()(timeline)
app.command()(explain)
app.command()(visualize)
app.command()(report)
app.command()(export)
app.command()(plan)
app.command()(doctor)


def main() -> None:
    # what a terminal has no letters for, such as in names that are no UTF-8, ends no command
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
