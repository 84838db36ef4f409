# SPDX-License-Identifier: Apache-2.0
"""`tubevit embed`: features of the videos in a folder, to files."""

from pathlib import Path
from typing import Annotated

import typer

from ..tables import say
from .common import BatchSizeOption, DeviceOption, OutOption, Watched, WorkersOption, one_line_errors, share_cores


def embed(
    folder: Annotated[Path, typer.Argument(help="Folder of videos; names of folders in it are labels.")],
    model: Annotated[str, typer.Option(help="Folder or repo id of a model.")],
    out: OutOption,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Write all tokens of the last layer instead of pooled features.")
    ] = False,
    clips: Annotated[int, typer.Option(help="Clips of each video, a row each.", min=1)] = 1,
    batch_size: BatchSizeOption = None,
    shard_size: Annotated[int, typer.Option(help="Videos of a shard.", min=1)] = 64,
    workers: WorkersOption = None,
    device: DeviceOption = None,
) -> None:
    """Write features of videos to a folder that `datasets.load_from_disk` opens. If it exists, only what is missing is
    read: after a run that was stopped, or when videos have been added. `accelerate launch -m tubevit_hf.cli embed`
    shares the work out. A video that cannot be read is reported and passed over, and the exit code is then 1."""
    share_cores()
    with one_line_errors():
        from transformers import AutoModel

        from ..inference.embedding import Embedding
        from ..inference.running import get_processes, load_model

        loaded = load_model(model, auto=AutoModel, device=device or get_processes().device)
        embedding = Embedding(
            loaded,
            folder,
            out,
            name=model,
            tokens=tokens,
            num_clips=clips,
            batch_size=batch_size,
            shard_size=shard_size,
        )
    total = sum(len(embedding.shards[number]) for number in embedding.missing)
    watched = Watched(embedding.run(workers), total)
    with watched.until_stopped(f" {out} keeps what is whole: the same command goes on."):
        for _ in watched:
            pass
    num_read, num_files = watched.done - watched.failed, sum(map(len, embedding.shards))
    say(f"{out}: {num_read} video(s) read, {num_files} in all.")
    if watched.failed:
        raise typer.Exit(1)
