# SPDX-License-Identifier: Apache-2.0
"""Features of many files in a folder that `datasets.load_from_disk` opens."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import torch
from datasets import Array2D, DatasetInfo, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from transformers import BaseVideoProcessor
from transformers.utils import ModelOutput, logging

from ..data.listing import describe_passed_over, fault_of_name, list_folder
from ..folders import read_json, write_json
from ..model.video_sources_tubevit import name_of
from .identity import check_same
from .reading import Reading, make_load, read_files
from .running import LoadedModel, Runner, get_processes


logger = logging.get_logger(__name__)

# beside the shards: what they are made with, and of which files each of them is
MADE_WITH, PLAN = "embedding.json", "shards.json"


class Embedding:
    """Features of the videos in a folder, in shards that hold the clips of some files each.

    A folder that exists is gone on with: complete shards stay as they are, videos that are new make further ones. So a
    run that was killed and is taken up again writes the same bytes as one that was not. Processes of
    `accelerate launch` share the shards. The columns are

    - `file`, its path in the folder; `start` and `end` of the clip, in seconds, of its first and its last frame;
    - `label`, the class that the file lies in the folder of, if all lie in such folders;
    - `features`, `(hidden_size,)`, what the model pools, or `tokens`, `(tokens, hidden_size)`, of its last layer.

    Args:
        model: as `load_model` gives it.
        folder: of videos.
        out: folder to write.
        name: of the model, to be written down.
        tokens: whether tokens are written instead of features.
        num_clips: clips of each video, evenly spaced, a row each; one is what the processor makes of a video by its
            own settings.
        batch_size: clips that go through the model at once; by default 1 on a CPU, else 8.
        shard_size: files of a shard, which is what a run that is killed loses at most.

    Raises:
        ValueError: the folder holds no videos, or `out` was made otherwise.
    """

    def __init__(
        self,
        model: LoadedModel,
        folder: Path,
        out: Path,
        *,
        name: str,
        tokens: bool = False,
        num_clips: int = 1,
        batch_size: int | None = None,
        shard_size: int = 64,
    ):
        if num_clips < 1 or shard_size < 1:
            raise ValueError(f"`num_clips` and `shard_size` must be at least 1, got {num_clips} and {shard_size}.")
        if not isinstance(model.processor, BaseVideoProcessor):
            raise ValueError("an exported graph gives scores only: features need the checkpoint that it is of.")
        self.model, self.folder, self.out, self.tokens = model, folder, out, tokens
        self.num_clips, self.shard_size = num_clips, shard_size
        self.runner = Runner(model.model, read_tokens if tokens else read_features, batch_size)
        self.state = get_processes()
        listing = list_folder(folder)
        files = [path.relative_to(folder).as_posix() for path in listing.videos]
        if not files:
            raise ValueError(f"{folder}: it holds no videos.{describe_passed_over(listing.passed_over)}")
        listing.tell()
        self.labels = {path.relative_to(folder).as_posix(): label for path, label in listing.labels.items()}
        self.has_labels = set(files) <= set(self.labels)
        settings = {
            "folder": str(folder.resolve()),
            "model": name,
            "weights": model.weights,
            "processor": model.processor.to_dict(),
            "tokens": tokens,
            "num_clips": num_clips,
            "shard_size": shard_size,
            "has_labels": self.has_labels,
        }
        if self.state.is_main_process:
            if out.exists() and any(out.iterdir()) and not (out / MADE_WITH).exists():
                raise ValueError(f"{out}: it exists and holds something else. Choose another folder.")
            out.mkdir(parents=True, exist_ok=True)
            check_same(out / MADE_WITH, settings)
            self.plan(files)
        self.state.wait_for_everyone()
        self.shards = [list(shard) for shard in read_json(out / PLAN)]
        missing = [number for number in range(len(self.shards)) if not self.is_written(number)]
        # numbers of the shards that this process has to write
        self.missing = missing[self.state.process_index :: self.state.num_processes]
        # all have seen the same before any writes
        self.state.wait_for_everyone()

    def plan(self, files: Sequence[str]) -> None:
        """Writes down of which files, and of what size, each shard is. Shards of earlier runs stay as they are; files
        that are new, or that could not be read then, make further ones."""
        for unfinished in self.out.glob("*.unfinished*"):
            unfinished.unlink()
        path = self.out / PLAN
        shards: list[dict[str, int]] = read_json(path) if path.exists() else []
        sizes = {file: (self.folder / file).stat().st_size for file in files}
        was_complete = all(map(self.is_written, range(len(shards))))
        # of the last shard, if it was tried before and nothing could be read
        while was_complete and shards and not self.shard_path(len(shards) - 1).exists():
            shards.pop()
            self.failed_path(len(shards)).unlink()
        known: dict[str, int] = {}
        for number, shard in enumerate(shards):
            # a run that was stopped goes on as if it had not been
            failed = read_json(self.failed_path(number)) if was_complete else {}
            known |= {file: size for file, size in shard.items() if file not in failed}
        changed = [file for file in files if known.get(file, sizes[file]) != sizes[file]]
        if changed:
            logger.warning(
                f"{self.out}: {len(changed)} file(s) are others than when they were read, such as {changed[0]}. What "
                "was made of them stays; remove the folder to read all anew."
            )
        new = [file for file in files if file not in known]
        for start in range(0, len(new), self.shard_size):
            shards.append({file: sizes[file] for file in new[start : start + self.shard_size]})
        write_json(path, shards)

    def shard_path(self, number: int) -> Path:
        return self.out / f"data-{number:05d}.arrow"

    def failed_path(self, number: int) -> Path:
        """What tells which files of a shard could not be read, and why: the last that is written of it."""
        return self.out / f"data-{number:05d}.failed.json"

    def is_written(self, number: int) -> bool:
        return self.failed_path(number).exists()

    def run(self, num_workers: int | None = None) -> Iterator[Reading]:
        """Writes what is missing, and gives each file when it is done; one that cannot be read has its `error`.

        Args:
            num_workers: processes that read files; 0 reads in this one. By default one for each CPU but one, four at
                most.
        """
        files = [str(self.folder / file) for number in self.missing for file in self.shards[number]]
        load = make_load(self.model.processor, self.model.model.config.num_frames, (self.num_clips, 1))
        readings = read_files(files, load, num_workers, self.runner.batch_size)
        for number in self.missing:
            if self.state.is_main_process:
                self.publish()
            yield from self.write_shard(number, readings)
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            self.publish()
        self.state.wait_for_everyone()

    def write_shard(self, number: int, readings: Iterator[Reading]) -> Iterator[Reading]:
        """Takes the readings of a shard; batches do not go beyond it, so that it is the same in every run."""
        files = self.shards[number]
        of_shard = (next(readings) for _ in files)
        unfinished = self.shard_path(number).with_suffix(f".unfinished-{self.state.process_index}")
        writer: ArrowWriter | None = None
        failed: dict[str, str] = {}
        for file, (reading, values) in zip(files, self.runner.run(of_shard)):
            if fault := fault_of_name(file):
                reading, values = replace(reading, error=f"{name_of(file)}: {fault}."), None
            if values is None:
                failed[file] = reading.error or ""
            else:
                if writer is None:
                    writer = ArrowWriter(features=self.make_features(values), path=str(unfinished))
                writer.write_batch(self.make_rows(file, reading, values))
            yield reading
        if writer is not None:
            writer.finalize()
            os.replace(unfinished, self.shard_path(number))
        write_json(self.failed_path(number), failed)

    def publish(self) -> None:
        """Tells `datasets` of the shards that are there."""
        names = [path.name for number in range(len(self.shards)) if (path := self.shard_path(number)).exists()]
        if not names:
            return
        with (self.out / names[0]).open("rb") as file:
            features = Features.from_arrow_schema(pyarrow.ipc.open_stream(file).schema)
        DatasetInfo(features=features).write_to_directory(str(self.out))
        # as `Dataset.save_to_disk` has it; the fingerprint names what operations on the data are kept by
        digest = hashlib.sha256(json.dumps([self.model.weights, names]).encode())
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": digest.hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": dict[str, Any](),
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        write_json(self.out / "state.json", state)

    def make_rows(self, file: str, reading: Reading, values: torch.Tensor) -> dict[str, list[Any]]:
        seconds = reading.seconds or [(None, None)] * len(values)
        rows = {
            "file": [file] * len(values),
            "start": [start for start, _ in seconds],
            "end": [end for _, end in seconds],
        }
        if self.has_labels:
            # what an earlier run planned may be passed over by now
            rows["label"] = [self.labels.get(file, Path(file).parent.name)] * len(values)
        return {**rows, self.column: list(values.numpy())}

    @property
    def column(self) -> str:
        return "tokens" if self.tokens else "features"

    def make_features(self, values: torch.Tensor) -> Features:
        features: dict[str, Any] = {"file": Value("string"), "start": Value("float64"), "end": Value("float64")}
        if self.has_labels:
            features["label"] = Value("string")
        if self.tokens:
            features["tokens"] = Array2D(tuple(values.shape[1:]), "float32")
        else:
            features["features"] = List(Value("float32"), length=values.shape[1])
        return Features(features)


def read_features(output: ModelOutput) -> torch.Tensor:
    return output["pooler_output"]


def read_tokens(output: ModelOutput) -> torch.Tensor:
    return output["last_hidden_state"]
