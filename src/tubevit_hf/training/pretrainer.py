# SPDX-License-Identifier: Apache-2.0
"""The Trainer for clips without labels: targets of a teacher, hidden tokens, and how much a student explains."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import (
    EvalPrediction,
    PreTrainedConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import ModelOutput, logging

from ..model.modeling_tubevit import TubeViTModel
from ..model.pretraining_tubevit import TubeViTForPreTraining
from .checks import check_batches, check_rows
from .objectives import Batch, Objective
from .trainer import VideoTrainer


logger = logging.get_logger(__name__)
# tokens of a clip whose states are compared between clips, evenly spread
COMPARED_TOKENS = 16
# tokens of clips are alike where they differ by less than this share of what they did before the training
ALIKE = 0.05


class PretrainingTrainer(VideoTrainer):
    """Trains a student on clips without labels, see [`Objective`], as [`VideoTrainer`] trains on clips with labels.

    Metrics of an evaluation, all on the held-out clips: `loss`; `error` and `baseline_error`, sums over the parts of a
    target; `explained`, the share of the targets' variance that the student explains, `1 - error / baseline_error`, 0
    for a student that knows the mean target and nothing of the clip; the same of each part, such as `explained_mean`
    and `explained_change`; `token_variety`, the variance over clips of tokens at the same place, as a share of that of
    all tokens: 0 where clips no longer differ.

    Args:
        objective: with its statistics, on the Trainer's device.
        args, kwargs: of [`VideoTrainer`], without those of labels.

    Raises:
        ValueError: several GPUs of one process, on which tokens cannot be chosen alike.
    """

    def __init__(self, *args: Any, objective: Objective, **kwargs: Any) -> None:
        # `objective` is the Trainer's, of a search
        self.learned = objective
        # its own marks that there are no labels to look for
        super().__init__(*args, compute_loss_func=self.compute_learned_loss, **kwargs)
        # the loss is a mean over the batch, which the Trainer has to share among the batches of a step
        self.compute_loss_func = None
        self.steps_begun = 0

    def compute_learned_loss(self, outputs: ModelOutput, targets: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self.learned.loss(outputs, targets)

    def check_settings(self) -> None:
        if self.args.n_gpu > 1:
            raise ValueError("pre-training needs a process for each GPU: start the run with `accelerate launch`.")
        check_batches(self)
        check_rows(self, self.train_dataset)

    def choose_head(self, inputs: dict[str, Any]) -> PreTrainedConfig:
        return self.model.config

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.steps_begun = 0
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        # what is hidden depends on the step alone, so that a run that is resumed hides the same
        place = (self.args.seed, self.state.global_step, self.steps_begun, self.args.process_index)
        self.steps_begun += 1
        batch = self.prepare(inputs, *place)
        return super().training_step(model, {**batch.inputs, "labels": batch.targets}, *args, **kwargs)

    def prepare(self, inputs: dict[str, Any], *place: int) -> Batch:
        """What the student is run on. What is hidden depends on `place` alone."""
        inputs = dict(send_to_device(inputs, self.args.device, non_blocking=self.accelerator.non_blocking))
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            return self.learned.prepare(inputs[self.model.main_input_name], inputs.get("targets"), generator)

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normed states of all tube tokens of clips, after each layer that is read: `(clips, layers, tokens,
        hidden_size)`, float32, on the CPU."""
        student = self.model
        assert isinstance(student, TubeViTForPreTraining)  # others have no layers that are read
        student.eval()
        pixel_values = pixel_values.to(self.args.device)
        layout = student.tubevit.embeddings.layout(pixel_values)
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            states = torch.stack(student.encode(pixel_values, layout, None), dim=1)
        return states[:, :, layout.num_prefix_tokens :].float().cpu()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        targets = inputs.pop("labels")
        outputs = model(**inputs)
        loss = self.learned.loss(outputs, targets)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        clips = inputs["pixel_values"]
        if clips.ndim == 6:
            # one view of each video
            inputs = {**inputs, "pixel_values": clips.flatten(0, 1)}
        self.rename_clips(inputs)
        # the same tokens are hidden in every evaluation
        batch = self.prepare(inputs, self.args.seed)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**batch.inputs, output_hidden_states=True)
            loss = self.learned.loss(outputs, batch.targets)
            errors = self.learned.errors(outputs, batch).flatten(1)
            states = self.sample_states(outputs["hidden_states"][-1])
        found = torch.cat([errors, states.flatten(1)], dim=1)
        # without references the Trainer asks for no metrics
        return loss.detach(), found, torch.zeros(len(found), device=found.device)

    def sample_states(self, states: torch.Tensor) -> torch.Tensor:
        """Some of the tokens `(batch, tokens, width)`, each with mean 0 and variance 1 over its channels."""
        first = self.model.config.num_prefix_tokens
        places = torch.linspace(first, states.shape[1] - 1, COMPARED_TOKENS, device=states.device).round().long()
        return nn.functional.layer_norm(states[:, places].float(), states.shape[-1:])

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        found = np.asarray(prediction.predictions, dtype=np.float64)
        parts = self.learned.parts
        # (clips, parts, student or baseline) -> (parts, student or baseline)
        errors = found[:, : 2 * len(parts)].reshape(-1, len(parts), 2).mean(0)
        total = errors.sum(0)
        metrics = {"error": float(total[0]), "baseline_error": float(total[1]), "explained": explained(total)}
        if len(parts) > 1:
            metrics |= {f"explained_{part}": explained(of_part) for part, of_part in zip(parts, errors)}
        # (clips, tokens, width)
        states = found[:, 2 * len(parts) :].reshape(len(found), COMPARED_TOKENS, -1)
        metrics["token_variety"] = float(states.var(0).mean() / max(states.var(), 1e-12))
        return metrics

    def measure_start(self) -> dict[str, float]:
        """Metrics before the first step."""
        # `evaluate` would tell callbacks, which stop where nothing is gained
        dataset: Any = self.eval_dataset
        return self.predict(dataset, metric_key_prefix="eval").metrics or {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As [`VideoTrainer`]; what is no checkpoint to go on from is the student alone, without heads and decoder."""
        super().save_model(output_dir, _internal_call)
        if not _internal_call and self.args.should_save and self.whole_class is TubeViTForPreTraining:
            save_alone(Path(output_dir or str(self.args.output_dir)))


def explained(errors: np.ndarray) -> float:
    """Share of what a baseline leaves that a student explains: `(its error, that of the baseline)`."""
    student, baseline = errors
    return float(1 - student / baseline) if baseline > 0 else 0.0


def save_alone(folder: Path) -> None:
    """The model in a folder becomes a [`TubeViTModel`]."""
    model = TubeViTModel.from_pretrained(folder)
    model.config.pretraining = None
    # beside the weights, which are still read from the old file
    alone = folder / "alone"
    model.save_pretrained(alone)
    for path in alone.iterdir():
        os.replace(path, folder / path.name)
    alone.rmdir()


class WatchCallback(TrainerCallback):
    """Warns after an evaluation if the student explains nothing or is no better than at the start, or if its tokens
    of all clips became alike.

    Args:
        start: metrics before the first step.
    """

    def __init__(self, start: dict[str, float]):
        self.start, self.told = start, set[str]()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for warning in find_warnings(state.log_history, self.start, state.global_step >= state.max_steps):
            if warning not in self.told and state.is_world_process_zero:
                logger.warning(warning)
            self.told.add(warning)


def find_warnings(
    log_history: Sequence[dict[str, float]], start: dict[str, float], has_ended: bool = False
) -> list[str]:
    """What went wrong by the last evaluation of a training. Before one epoch is over, or the training, little can be
    said.

    Args:
        log_history: of the Trainer.
        start: metrics before the first step.
        has_ended: whether the training is over.
    """
    evaluations = [entry for entry in log_history if "eval_explained" in entry]
    if not evaluations:
        return []
    last = evaluations[-1]
    warnings: list[str] = []
    if has_ended or last.get("epoch", 0) >= 1:
        if last["eval_loss"] >= start["eval_loss"]:
            warnings.append(
                "The held-out loss is no lower than before the first step: the training has gained nothing. If later "
                "epochs do not change that, lower --learning_rate, or give more videos; the model of --from may do as "
                "well."
            )
        if last["eval_explained"] <= 0:
            warnings.append(
                "The student explains nothing of held-out clips yet: its error is no smaller than that of predicting "
                "the mean target. If later epochs do not change that, raise or lower --learning_rate, or give more "
                "videos."
            )
        elif last.get("eval_explained_change", 1.0) <= 0:
            warnings.append(
                "The student explains nothing yet of how features change over time, only their mean: if later epochs "
                "do not change that, its videos may move too little, or their frames lie too far apart (--fps)."
            )
    if last["eval_token_variety"] < ALIKE * start["eval_token_variety"]:
        warnings.append(
            "The student collapses: tokens of different clips became alike. Lower --learning_rate, or warm up for "
            "longer (--warmup_steps)."
        )
    return warnings


__all__ = ["PretrainingTrainer", "WatchCallback", "find_warnings"]
