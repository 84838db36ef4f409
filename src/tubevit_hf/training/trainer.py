# SPDX-License-Identifier: Apache-2.0
"""The Trainer for clips: batches, MixUp, smoothing, views and metrics of videos, and runs that can be killed."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput
from transformers.utils import ModelOutput

from ..data import (
    BalancedBatches,
    ClipDataset,
    JointBatches,
    JointDataset,
    ShuffledBatches,
    collate_clips,
    get_names,
    is_multi_label,
    pack_clips,
)
from ..data.clips import has_short_clips
from ..evaluation import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy, predict_views
from ..evaluation.views import to_scores
from ..model.loss_tubevit import classification_loss, count_labels
from ..model.modeling_tubevit import TubeViTModel
from ..model.number_types_tubevit import warn_of_emulation
from .frozen import FrozenClips


class TrainingDiverged(RuntimeError):
    """The loss or the weights are no longer finite; the checkpoints that are there were saved before."""


class VideoTrainer(Trainer):
    """Trains any `AutoModelForVideoClassification` on clips, and evaluates it on several views of each video.

    What it adds to the Trainer: MixUp and label smoothing, several labels a video, views whose scores are averaged,
    metrics, clips seen a second and the share of time that training waited for them, an end when the loss is no longer
    finite, and checkpoints that [`find_checkpoint`] can tell to be whole.

    Of a TubeViT whose first layers are frozen MixUp blends what these give, and so does training on [`FrozenClips`],
    for which that was computed before.

    A [`TubeViTForJointClassification`] trains on a [`JointDataset`]: each batch is of one dataset and goes through the
    head of its name.

    Clips of different lengths, of `short_clips="pad"`, a TubeViT gets with a `frame_mask` or, to train, packed.

    Args:
        mixup: alpha of MixUp, which blends pairs of clips and their labels; 0 for none.
        weights: share of batches of each of the joint datasets, up to a factor; by default as long as they are.
        pack: whether the clips of a training batch make one row of tokens, without padding.
        class_weights: how much an error in a clip of each class counts in the loss of training, see
            [`inverse_frequencies`]; where clips have several labels, how much a label that is there counts beside one
            that is not.
        balanced: whether an epoch has as many clips of each class, see [`BalancedBatches`].
        kwargs: of the Trainer; datasets are [`ClipDataset`]s, joint or frozen ones, evaluation's of
            [`EvaluationViews`], or frozen ones of one clip each.

    Raises:
        ValueError: clips may have different lengths, and the model is no TubeViT, or MixUp, frozen clips, a compiler
            or several GPUs of one process do not go with them; or `class_weights` and `balanced` do not go with the
            training data.
    """

    # of what the Trainer takes, what this one does
    model: PreTrainedModel  # pyrefly: ignore[bad-override-mutable-attribute]
    train_dataset: ClipDataset | FrozenClips | JointDataset | None  # pyrefly: ignore[bad-override-mutable-attribute]
    batches: ShuffledBatches | JointBatches

    def __init__(
        self,
        *args: Any,
        mixup: float = 0.0,
        weights: Mapping[str, float] | None = None,
        pack: bool = False,
        class_weights: Sequence[float] | None = None,
        balanced: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, data_collator=collate_clips, compute_metrics=self.compute_metrics, **kwargs)
        if self.args.device.type == "cpu" and (self.args.bf16 or self.args.bf16_full_eval):
            warn_of_emulation("`bf16`")
        self.mixup, self.weights, self.pack, self.balanced = mixup, weights, pack, balanced
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # scores and labels of the videos that were evaluated last, in their order
        self.evaluated: EvalPrediction | None = None
        # sections of the model card beside those that the model writes
        self.card_details = ""
        self.check_lengths()
        self.check_balance()
        # sharding gives the model another one
        self.whole_class = type(self.model)
        # the model's own loss knows neither smoothing nor, in some architectures, soft labels
        self.compute_loss_func = self.compute_video_loss
        self.label_smoother = None
        self.heads: dict[str | None, PreTrainedConfig] = {}
        self.head = self.model.config
        dataset = self.eval_dataset if self.train_dataset is None else self.train_dataset
        if self.model.config.problem_type is None and isinstance(dataset, (ClipDataset, FrozenClips)):
            # a model would infer it from the first labels, which MixUp and smoothing change
            several = dataset.num_labels is not None
            self.model.config.problem_type = "multi_label_classification" if several else "single_label_classification"
        self.add_callback(EpochCallback(self))
        self._step_began = 0.0
        self._seconds = self._waited = self._clips = 0.0

    def check_lengths(self) -> None:
        """Raises a `ValueError` for what clips of different lengths do not go with."""
        of_training, of_evaluation = (
            any(map(has_short_clips, list_datasets(dataset))) for dataset in (self.train_dataset, self.eval_dataset)
        )
        name = "`pack`" if self.pack else '`short_clips="pad"`'
        if self.pack and isinstance(self.train_dataset, FrozenClips):
            raise ValueError("`pack` is for clips; what frozen layers gave of them cannot be packed: leave it out.")
        if self.pack and self.args.n_gpu > 1:
            raise ValueError("`pack` needs a process for each GPU: start the run with `accelerate launch`.")
        if self.pack and self.args.torch_compile:
            raise ValueError("`pack` does not go with `torch_compile`, which would compile for each mix of lengths.")
        if self.mixup and (self.pack or of_training):
            raise ValueError(f"`mixup` blends clips of one length, and {name} leaves them different: choose one.")
        model_type = self.model.config.model_type
        if (self.pack or of_training or of_evaluation) and model_type != "tubevit":
            raise ValueError(f"{name} is for TubeViT, got a model of type {model_type!r}.")

    def check_balance(self) -> None:
        """Raises a `ValueError` for what classes that count unlike do not go with."""
        dataset = self.train_dataset
        if (self.class_weights is None and not self.balanced) or dataset is None:
            return
        if isinstance(dataset, JointDataset):
            raise ValueError("`class_weights` and `balanced` are for one dataset; joint ones have `weights`.")
        if self.balanced and dataset.num_labels is not None:
            raise ValueError(
                "`balanced` needs one class a video, and these may have several labels: give `class_weights`."
            )
        names = get_names(dataset.rows)
        weights = self.class_weights
        if weights is not None and (weights.shape != (len(names),) or not (weights.isfinite() & (weights > 0)).all()):
            raise ValueError(
                f"`class_weights` must be a number above 0 for each of the {len(names)} classes, got "
                f"{weights.tolist()}."
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's, which trains a run further that is at the end of its `max_steps`, or stopped early."""
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint, TRAINER_STATE_NAME)))
            if 0 < self.args.max_steps <= state.global_step or has_stopped(state):
                self.state = state
                best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
                self._load_from_checkpoint(best or resume_from_checkpoint)
                return TrainOutput(state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        args, dataset = self.args, self.train_dataset
        if dataset is None:
            raise ValueError("`train_dataset` is missing: give the Trainer one to train.")
        shared = {
            "batch_size": self._train_batch_size,
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "process_index": args.process_index,
            "num_processes": args.world_size,
        }
        if isinstance(dataset, JointDataset):
            lengths = {name: len(rows) for name, rows in dataset.datasets.items()}
            self.batches = JointBatches(lengths, self.weights or lengths, **shared)
        elif self.balanced:
            self.batches = BalancedBatches(dataset.rows["label"], **shared)
        else:
            self.batches = ShuffledBatches(len(dataset), **shared)
        # dealt out to the processes already, so `accelerate` has nothing to shard
        return DataLoader(
            dataset,
            batch_sampler=self.batches,
            collate_fn=pack_clips if self.pack else self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def choose_head(self, inputs: dict[str, Any]) -> PreTrainedConfig:
        """Configuration of the classifier that a batch goes through: its classes, and how many of them are right."""
        name = inputs.get("dataset")
        if name not in self.heads:
            # pyrefly: ignore[not-callable]  only the clips of a joint model have a name; LoRA may wrap it
            self.heads[name] = self.model.config if name is None else self.model.head_config(name)
        self.head = self.heads[name]
        return self.head

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | int | None]:
        self._step_began = time.perf_counter()
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - self._step_began
        self._clips += sum(len(batch["labels"]) for batch in batches) * self.args.world_size
        return batches, num_items_in_batch

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        head = self.choose_head(inputs)
        if self.mixup:
            mix = v2.MixUp(alpha=self.mixup, num_classes=count_labels(head))
            inputs = self.run_frozen(inputs)
            name = "frozen_output" if "frozen_output" in inputs else "pixel_values"
            # as pictures of one row, since torchvision asks for such
            clips, labels = mix(inputs[name].flatten(1)[:, None, None], inputs["labels"])
            inputs = {**inputs, name: clips.view_as(inputs[name]), "labels": labels}
        # some models call it otherwise
        name = self.model.main_input_name
        inputs = {name if key == "pixel_values" else key: value for key, value in inputs.items()}
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not loss.isfinite():
            raise TrainingDiverged(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}. Lower the learning rate or warm up "
                f"for longer; the checkpoints in {self.args.output_dir} were saved before."
            )
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        count, clips = super().floating_point_ops, inputs.get("pixel_values")
        # a list, if they are packed
        return sum(count({"pixel_values": clip}) for clip in clips) if isinstance(clips, list) else count(inputs)

    def run_frozen(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the frozen layers give instead of clips, where they can be run apart."""
        base_model = getattr(self.model, "base_model", None)
        if (
            "pixel_values" not in inputs
            or not isinstance(base_model, TubeViTModel)
            or not base_model.is_frozen_apart()
        ):
            return inputs
        inputs = dict(self._prepare_inputs(inputs))
        training = base_model.training
        base_model.eval()
        with self.compute_loss_context_manager():
            frozen_output = base_model.encode_frozen(inputs.pop("pixel_values")).float()
        base_model.train(training)
        return {**inputs, "frozen_output": frozen_output}

    def compute_video_loss(
        self, outputs: ModelOutput, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        smoothing = self.args.label_smoothing_factor
        return video_loss(outputs["logits"], labels, self.head, smoothing, num_items_in_batch, self.class_weights)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        inputs = self._prepare_inputs(inputs)
        head = self.choose_head(inputs)
        several = head.problem_type == "multi_label_classification"
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            if "frozen_output" in inputs:
                scores = to_scores(model(**inputs).logits.float(), head.problem_type)
            else:
                scores = predict_views(model, inputs.pop("pixel_values"), several, **inputs)
        # the loss of what the averaged scores say
        logits = scores.logit(eps=1e-7) if several else scores.clamp_min(1e-12).log()
        loss = classification_loss(labels, logits, head)
        return loss, None if prediction_loss_only else scores, labels

    # pyrefly: ignore[bad-override-mutable-attribute]  `__init__` hands it over; the Trainer keeps it by the same name
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        self.evaluated = prediction
        if self.head.problem_type == "multi_label_classification":
            metrics = [MeanAveragePrecision()]
        else:
            metrics = [TopKAccuracy(1), TopKAccuracy(5), MeanClassAccuracy()]
        values: dict[str, float] = {}
        for metric in metrics:
            values |= metric.compute(predictions=prediction.predictions, references=prediction.label_ids) or {}
        return values

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # of training alone, without the evaluations and checkpoints in between
            logs["clips_per_second"] = self._clips / self._seconds
            logs["waiting_for_data"] = self._waited / self._seconds
            self._seconds = self._waited = self._clips = 0.0
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        check_weights(self.model)
        if self.is_fsdp_enabled and not _internal_call:
            # checkpoints may be in shards; what is there at the end is whole, for `from_pretrained`
            weights = self.accelerator.get_state_dict(self.model)
            if self.args.should_save:
                folder = output_dir or self.args.output_dir
                assert folder is not None  # it has a default
                whole = self.whole_class._from_config(self.model.config)
                whole.load_state_dict(weights)
                for part in (whole, self.processing_class):
                    if part is not None:
                        part.save_pretrained(folder)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # what comes next, the Trainer's state, says that all else is there
        self.accelerator.wait_for_everyone()

    # pyrefly: ignore[bad-override]  transformers passes all by name
    def create_model_card(self, model_name: str | None = None, dataset: str | None = None, **kwargs: Any) -> None:
        """The model's own card, where it writes one."""
        if not hasattr(self.model, "create_model_card"):
            super().create_model_card(model_name=model_name, dataset=dataset, **kwargs)
        elif self.is_world_process_zero():
            assert self.args.output_dir is not None  # it has a default
            folder = Path(self.args.output_dir)
            found = [
                entry["eval_top_1_accuracy"] for entry in self.state.log_history if "eval_top_1_accuracy" in entry
            ]
            metrics = {"accuracy": found[-1]} if found else None
            # pyrefly: ignore[not-callable]  it is there
            card = self.model.create_model_card(
                self.hub_model_id or folder.name, metrics=metrics, dataset=dataset, details=self.card_details
            )
            card.save(folder / "README.md")


def has_stopped(state: TrainerState) -> bool:
    """Whether a run that is kept in a checkpoint was ended there by an `EarlyStoppingCallback`."""
    callbacks: Any = state.stateful_callbacks  # by name, of a state that was read
    stored = callbacks.get(EarlyStoppingCallback.__name__)
    for callback in stored if isinstance(stored, list) else [stored] if stored else []:
        waited = callback["attributes"]["early_stopping_patience_counter"]
        if waited >= callback["args"]["early_stopping_patience"]:
            return True
    return False


def list_datasets(dataset: object) -> list[object]:
    """What a joint dataset, or the evaluation's by name, is made of."""
    if isinstance(dataset, JointDataset):
        dataset = dataset.datasets
    return list(dataset.values()) if isinstance(dataset, Mapping) else [dataset]


class EpochCallback(TrainerCallback):
    """Tells which epoch it is, since order and content of the clips depend on it, and when a step is over."""

    def __init__(self, trainer: VideoTrainer):
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._seconds += time.perf_counter() - self.trainer._step_began

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.trainer.train_dataset is not None  # it has batches
        epoch = int(state.epoch or 0)
        self.trainer.train_dataset.set_epoch(epoch)
        self.trainer.batches.set_epoch(epoch)


def video_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    head: PreTrainedConfig,
    label_smoothing: float = 0.0,
    num_items_in_batch: torch.Tensor | int | None = None,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of a classifier of any architecture, with smoothed labels.

    A single label gives `label_smoothing` to all classes alike; each of several moves that far towards one half.
    `num_items_in_batch` is what the Trainer counts: one a clip of a single label, also where MixUp made it soft.
    `class_weights` multiply what each class adds for a single label, and of several what each adds where it is right.
    """
    num_entries = num_items_in_batch
    if head.problem_type == "multi_label_classification":
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
    elif label_smoothing or labels.is_floating_point():
        num_labels = count_labels(head)
        if not labels.is_floating_point():
            labels = nn.functional.one_hot(labels, num_labels).to(logits.dtype)
        labels = labels * (1 - label_smoothing) + label_smoothing / num_labels
        if num_items_in_batch is not None:
            num_entries = num_items_in_batch * num_labels
    if class_weights is not None:
        return weighted_loss(logits, labels, class_weights, head, num_items_in_batch)
    return classification_loss(labels, logits, head, num_entries)


def weighted_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    head: PreTrainedConfig,
    num_items_in_batch: torch.Tensor | int | None,
) -> torch.Tensor:
    """As [`classification_loss`], of which it is a multiple where all weights are alike.

    It is divided by how many clips there are, not by what they weigh: otherwise a batch of one class would weigh as
    much as if its class weighed 1, and the loss would depend on how a step is shared out to batches and processes.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    class_weights = class_weights.to(logits)
    if head.problem_type == "multi_label_classification":
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=class_weights, reduction="sum"
        )
        return loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
    labels = labels.to(logits.dtype) if labels.is_floating_point() else labels.long()
    loss = nn.functional.cross_entropy(logits, labels, weight=class_weights, reduction="sum")
    return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def inverse_frequencies(rows: Dataset) -> list[float]:
    """For each class what its errors should count, so that all classes count alike: the mean number of videos of a
    class over its own, 1 in the mean of the videos. Of several labels a video, how many lack it over how many have it.

    Raises:
        ValueError: a class has no video, or with several labels all of them.
    """
    names, several = get_names(rows), is_multi_label(rows)
    counts = [0] * len(names)
    for labels in rows["label"]:
        for label in set(labels) if several else [labels]:
            counts[label] += 1
    for name, count in zip(names, counts):
        if count == 0 or (several and count == len(rows)):
            raise ValueError(f"{count} of {len(rows)} videos are of the class {name!r}, which gives it no weight.")
    if several:
        return [(len(rows) - count) / count for count in counts]
    return [len(rows) / (len(names) * count) for count in counts]


def check_weights(model: nn.Module) -> None:
    """Raises [`TrainingDiverged`] if parameters are no longer finite, before they are saved."""
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        raise TrainingDiverged(
            f"{len(broken)} parameters are no longer finite, {broken[0]} among them, and were not saved. Lower the "
            "learning rate or warm up for longer; what was saved before stays."
        )


def find_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a [`VideoTrainer`], if there is one.

    A checkpoint is whole if the Trainer's state, which is written last, can be read: one that a killed run left behind
    has none, or half of it. One of `save_only_model` is no checkpoint to go on from.
    """
    found = {}
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (path / SCHEDULER_NAME).exists():
            continue
        try:
            step = json.loads((path / TRAINER_STATE_NAME).read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        found[step] = str(path)
    return found[max(found)] if found else None
