# SPDX-License-Identifier: Apache-2.0
"""What a model sees in many files, and files of it that a run which ended early goes on with."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from ..evaluation.views import list_labels, to_scores
from ..folders import csv_lines
from ..model.video_sources_tubevit import hide_secrets
from .identity import OutputMismatch, check_same
from .reading import Reading, make_load, read_files
from .running import LoadedModel, Runner, get_processes


@dataclass(frozen=True)
class Prediction:
    """What a model sees in a file: labels with their scores, the highest first; or why it sees nothing.

    Args:
        video: the file; of an address without user and password, and with a hash for its query.
        predictions: `{"score": ..., "label": ...}` of each label.
        error: what went wrong, if anything.
    """

    video: str
    predictions: list[dict[str, Any]] | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        if self.error is not None:
            return {"video": self.video, "error": self.error}
        return {"video": self.video, "predictions": self.predictions}


def predict_files(
    model: LoadedModel,
    files: Sequence[str],
    *,
    top_k: int = 5,
    views: tuple[int, int] = (1, 1),
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> Iterator[Prediction]:
    """Classifies files as Transformers' pipeline does, in order; files are read ahead beside the model.

    Args:
        model: as `load_model` gives it.
        files: paths or URLs of videos or, if the model is an exported graph for images, of images.
        top_k: labels of each file.
        views: clips in time and crops of each, whose scores are averaged, see [`EvaluationViews`]; one of each is
            what the processor makes of a video by its own settings.
        batch_size: clips that go through the model at once; by default 1 on a CPU, else 8.
        num_workers: processes that read files; 0 reads in this one. By default one for each CPU but one, four at most.

    Raises:
        ValueError: `views` are asked of a model for images.
    """
    load = make_load(model.processor, model.model.config.num_frames, views)
    runner = Runner(model.model, read_logits, batch_size)
    results = runner.run(read_files(files, load, num_workers, runner.batch_size))
    return (name_best(reading, logits, model.model.config, top_k) for reading, logits in results)


def name_best(reading: Reading, logits: torch.Tensor | None, config: PreTrainedConfig, top_k: int) -> Prediction:
    """The `top_k` labels of a file's views, `(views, labels)`."""
    if logits is None:
        return Prediction(hide_secrets(reading.file), error=reading.error)
    scores = to_scores(logits, config.problem_type).mean(dim=0)
    return Prediction(hide_secrets(reading.file), list_best(scores, config, top_k))


def list_best(scores: torch.Tensor, config: PreTrainedConfig, top_k: int) -> list[dict[str, Any]]:
    """The `top_k` labels of `(labels,)` with their scores, the highest first, as Transformers' pipelines have it."""
    best, names = scores.topk(min(top_k, len(scores))), list_labels(config)
    return [
        {"score": value, "label": names[label]} for value, label in zip(best.values.tolist(), best.indices.tolist())
    ]


def read_logits(output: ModelOutput) -> torch.Tensor:
    return output["logits"]


CSV_COLUMNS = ("video", "place", "label", "score", "error")
FORMATS = ("jsonl", "csv")
# of a file of predictions: names are in CSV byte for byte as on the disk, also those that are no UTF-8
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def csv_header() -> str:
    return ",".join(CSV_COLUMNS) + "\n"


def format_prediction(prediction: Prediction, format: str) -> str:
    """As lines: of `"jsonl"` one a file, of `"csv"` one a label."""
    if format == "jsonl":
        return json.dumps(prediction.to_dict()) + "\n"
    rows = [
        [prediction.video, place, entry["label"], entry["score"], ""]
        for place, entry in enumerate(prediction.predictions or [], start=1)
    ]
    if prediction.error is not None:
        rows.append([prediction.video, "", "", "", prediction.error])
    return csv_lines(rows)


class PredictionFile:
    """A file of predictions that grows, and that a later run goes on with, by one process or many.

    Each process writes a file of its own, which the first puts together with the others: at the end or, if that never
    came, when the next run begins.

    Args:
        path: its suffix tells the format, .jsonl or .csv.
        files: that it shall hold, in that order.

    Raises:
        ValueError: the suffix is of no format.
    """

    def __init__(self, path: Path, files: Sequence[str]):
        self.path, self.files, self.format = path, files, path.suffix.lower().removeprefix(".")
        if self.format not in FORMATS:
            raise ValueError(f"{path}: the name must end with .{' or .'.join(FORMATS)}, which tells the format.")
        self.state = get_processes()

    def start(self, made_with: dict[str, Any]) -> list[str]:
        """Puts together what earlier runs left, and gives this process' share of what is missing.

        Args:
            made_with: what the predictions depend on, which is written down beside them.

        Raises:
            OutputMismatch: the file is of other settings, or of something else.
        """
        if self.state.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            settings = self.path.with_name(f"{self.path.name}.made_with.json")
            if self.path.exists() and not settings.exists():
                raise OutputMismatch(f"{self.path}: it exists, and nothing tells what made it. Choose another.")
            check_same(settings, made_with)
            if not self.path.exists():
                self.path.write_text(self.header, encoding="utf-8", newline="")
            if any(self.list_parts()) or not self.ends_whole():
                self.merge()
        self.state.wait_for_everyone()
        done = {video for video, _ in self.read(self.path)}
        missing = [file for file in self.files if hide_secrets(file) not in done]
        return missing[self.state.process_index :: self.state.num_processes]

    @property
    def header(self) -> str:
        return csv_header() if self.format == "csv" else ""

    @property
    def part(self) -> Path:
        """What this process writes to: the file itself if it is alone."""
        if self.state.num_processes == 1:
            return self.path
        return self.path.with_name(f"{self.path.name}.part-{self.state.process_index}")

    def list_parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.part-*"))

    def ends_whole(self) -> bool:
        data = self.path.read_bytes()
        return data.endswith(b"\n") or not data

    def write(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        with self.part.open("a", **TEXT) as file:
            for prediction in predictions:
                # at once, so that what a process leaves that is killed are whole files
                file.write(format_prediction(prediction, self.format))
                file.flush()
                yield prediction

    def finish(self) -> None:
        """Puts together what all processes wrote; to be called by each."""
        self.state.wait_for_everyone()
        if self.state.is_main_process and self.state.num_processes > 1:
            self.merge()
        self.state.wait_for_everyone()

    def merge(self) -> None:
        """Makes one file, in order; files that are no longer asked for come first."""
        order = {hide_secrets(file): number for number, file in enumerate(self.files)}
        parts = self.list_parts()
        found = {video: text for path in (self.path, *parts) for video, text in self.read(path)}
        whole = self.path.with_name(f"{self.path.name}.part")
        with whole.open("w", **TEXT) as file:
            file.write(self.header)
            for video in sorted(found, key=lambda video: order.get(video, -1)):
                file.write(found[video])
        os.replace(whole, self.path)
        for path in parts:
            path.unlink()

    def read(self, path: Path) -> Iterator[tuple[str, str]]:
        """The videos in a file, each with its lines; the last one of a line that was not written to its end is left
        out."""
        with path.open(**TEXT) as file:
            text = file.read()
        text = text[: text.rfind("\n") + 1]
        if self.format == "jsonl":
            for line in text.splitlines(keepends=True):
                yield json.loads(line)["video"], line
            return
        lines: dict[str, list[list[str]]] = {}
        for row in csv.reader(io.StringIO(text)):
            if tuple(row) != CSV_COLUMNS:
                lines.setdefault(row[0], []).append(row)
        for video, rows in lines.items():
            yield video, csv_lines(rows)
