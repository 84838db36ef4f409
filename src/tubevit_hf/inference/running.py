# SPDX-License-Identifier: Apache-2.0
"""A model run over files that are read beside it: clips of several files in a batch, results in order."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from transformers import AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, PreTrainedConfig
from transformers.utils import ModelOutput

from ..folders import MODEL_INFO
from ..model.video_sources_tubevit import name_of
from .identity import hash_files, hash_weights
from .reading import Processor, Reading


# what is read of a model's output: `(batch, ...)`
ReadOutput = Callable[[ModelOutput], torch.Tensor]


class LoadedModel(NamedTuple):
    """A model, or an exported graph that is called as one; what it expects; and a hash of its weights."""

    model: Any
    processor: Processor
    weights: str


def load_model(
    name: str,
    *,
    auto: type = AutoModelForVideoClassification,
    device: str | torch.device | None = "cpu",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """A model from a folder, the Hub, or what `export_model` wrote.

    Args:
        name: folder or repo id.
        auto: which class of Transformers loads a checkpoint.
        device: of a checkpoint, `None` for where it is; exported graphs run on the CPU.
        trust_remote_code: whether an exported graph of PyTorch, which is a pickle, is opened.

    Raises:
        OSError, ValueError, ModuleNotFoundError: there is no such model, or it cannot be loaded, or it is to classify
            and has no classifier.
    """
    classifies = auto is AutoModelForVideoClassification
    if Path(name, MODEL_INFO).exists():
        from ..export import ExportedTubeViT

        exported = ExportedTubeViT.from_pretrained(name, trust_remote_code)
        if classifies and exported.config.architectures and not is_classifier(exported.config):
            raise no_classifier(name)
        processor = AutoImageProcessor if exported.info.image else AutoVideoProcessor
        return LoadedModel(exported, processor.from_pretrained(name), hash_files(Path(name)))
    model, found = auto.from_pretrained(name, output_loading_info=True)
    encoder = f"{model.base_model_prefix}."
    if classifies and any(not weight.startswith(encoder) for weight in found["missing_keys"]):
        raise no_classifier(name)
    model = model.eval()
    return LoadedModel(model.to(device), AutoVideoProcessor.from_pretrained(name), hash_weights(model))


def is_classifier(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint says that it has a classifier of videos or images. Of one with several there is no telling
    which."""
    return any(kind.endswith(("VideoClassification", "ImageClassification")) for kind in config.architectures or [])


def no_classifier(name: str) -> ValueError:
    """What is said where Transformers would put a random classifier on a model."""
    return ValueError(
        f"{name}: the model has no classifier of videos, and a random one would answer. Train one with `tubevit train "
        f"FOLDER --from {name} --out DIR`."
    )


class Runner:
    """Gives what a model makes of readings.

    Args:
        model: in evaluation mode, on its device; or an exported graph.
        read_output: what is kept of its output.
        batch_size: clips that go through at once, of one shape; by default as `choose_batch_size` has it.
    """

    def __init__(self, model: Any, read_output: ReadOutput, batch_size: int | None = None):
        self.model, self.read_output = model, read_output
        self.batch_size = choose_batch_size(model.device, batch_size)

    def run(self, readings: Iterable[Reading]) -> Iterator[tuple[Reading, torch.Tensor | None]]:
        """Each reading, without its inputs, and what was read of the model's output: `(views, ...)`, on the CPU. A
        file that could not be read or that the model refuses has `None` and its `error`.

        Which clips are together in a batch depends on the order of readings alone.
        """
        waiting: list[Reading] = []
        for reading in readings:
            if not fits(waiting, reading):
                yield from self.run_together(waiting)
                waiting = []
            waiting.append(reading)
            if sum(one.num_views for one in waiting) >= self.batch_size:
                yield from self.run_together(waiting)
                waiting = []
        yield from self.run_together(waiting)

    def run_together(self, readings: list[Reading]) -> list[tuple[Reading, torch.Tensor | None]]:
        readable = [reading for reading in readings if reading.error is None]
        try:
            outputs = self.run_batches(readable) if readable else []
        except ValueError as error:
            if len(readings) > 1:
                # some of them are not for this model: which?
                return [result for reading in readings for result in self.run_together([reading])]
            (reading,) = readings
            return [(Reading(reading.file, error=f"{name_of(reading.file)}: {error}"), None)]
        results = iter(outputs)
        return [
            (replace(reading, inputs={}), None if reading.error is not None else next(results)) for reading in readings
        ]

    @torch.inference_mode()
    def run_batches(self, readings: list[Reading]) -> list[torch.Tensor]:
        """`(views, ...)` of each reading."""
        (first, *others) = readings
        inputs = first.inputs
        if others:
            inputs = {name: torch.cat([reading.inputs[name] for reading in readings]) for name in inputs}
        outputs = []
        for start in range(0, len(inputs["pixel_values"]), self.batch_size):
            batch = {name: values[start : start + self.batch_size] for name, values in inputs.items()}
            batch = {name: self.to_model(values) for name, values in batch.items()}
            outputs.append(self.read_output(self.model(**batch)).float().cpu())
        return list(torch.cat(outputs).split([reading.num_views for reading in readings]))

    def to_model(self, values: torch.Tensor) -> torch.Tensor:
        dtype = self.model.dtype if values.is_floating_point() else values.dtype
        return values.to(self.model.device, dtype)


def choose_batch_size(device: torch.device, batch_size: int | None = None) -> int:
    """What the user chose, or 8; on a CPU 1, where more are no faster, have to be waited for, and take memory.

    Raises:
        ValueError: the user chose less than 1.
    """
    if batch_size is None:
        return 1 if device.type == "cpu" else 8
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    return batch_size


def fits(waiting: list[Reading], reading: Reading) -> bool:
    """Whether the clips of a reading make a tensor with those that wait."""
    if reading.error is not None:
        return True
    return all(
        one.error is not None
        or {name: values.shape[1:] for name, values in one.inputs.items()}
        == {name: values.shape[1:] for name, values in reading.inputs.items()}
        for one in waiting
    )


def get_processes() -> PartialState:
    """Which of how many processes this is, as `accelerate launch` started them, and its device."""
    # by itself Accelerate takes several processes on CPUs for one each
    return PartialState(cpu=not torch.accelerator.is_available())
