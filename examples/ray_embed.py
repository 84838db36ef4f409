# SPDX-License-Identifier: Apache-2.0
"""Features of the videos in a folder by Ray Data: a model in each of several actors, on one machine or many.

    pip install "ray[data]"
    python examples/ray_embed.py --model PATH_OR_REPO --videos FOLDER --out FEATURES --actors 2

By itself it starts Ray on this machine. On many, start Ray first (`ray start --head` on one, `ray start
--address=HEAD:6379` on the others; the folders must be the same on all), and run it on any of them with
`RAY_ADDRESS=auto`. A GPU for each actor: `--gpus 1`. It writes Parquet files with the columns `file`, `start`, `end`,
`features` and, where a file cannot be read, `error`; `datasets.load_dataset("parquet", data_dir=FEATURES)` opens them.
`tubevit embed` writes the same without Ray, and goes on after a stop.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import ray
from transformers import AutoModel

from tubevit_hf.data.listing import find_videos
from tubevit_hf.inference.embedding import read_features
from tubevit_hf.inference.reading import BySettings, read_files
from tubevit_hf.inference.running import Runner, load_model


class Embed:
    """An actor: holds the model, and is called with the files of a batch."""

    def __init__(self, model: str, device: str):
        loaded = load_model(model, auto=AutoModel, device=device)
        self.load = BySettings(loaded.processor, loaded.model.config.num_frames)
        self.runner = Runner(loaded.model, read_features)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = {"file": [], "start": [], "end": [], "features": [], "error": []}
        for reading, features in self.runner.run(read_files(batch["file"].tolist(), self.load, num_workers=0)):
            start, end = reading.seconds[0] if reading.seconds else (None, None)
            values = (reading.file, start, end, None if features is None else features[0].tolist(), reading.error)
            for column, value in zip(rows, values):
                rows[column].append(value)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or repo id")
    parser.add_argument("--videos", type=Path, required=True, help="folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for Parquet files")
    parser.add_argument("--actors", type=int, default=2, help="processes with a model each")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    arguments = parser.parse_args()

    files = [{"file": str(path.resolve())} for path in find_videos(arguments.videos)]
    if not files:
        raise SystemExit(f"{arguments.videos}: it holds no videos.")
    ray.data.from_items(files).map_batches(
        Embed,
        fn_constructor_args=(arguments.model, "cuda" if arguments.gpus else "cpu"),
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        num_gpus=arguments.gpus,
    ).write_parquet(str(arguments.out.resolve()))


if __name__ == "__main__":
    main()
