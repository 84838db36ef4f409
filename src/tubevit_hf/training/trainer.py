# SPDX-License-Identifier: Apache-2.0
"""The Trainer for clips: batches, MixUp, smoothing, views and metrics of videos, and runs that can be killed."""

import inspect
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import ClassLabel, List
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
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
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, has_length
from transformers.utils import ModelOutput

from ..data import (
    BalancedBatches,
    ClipDataset,
    JointBatches,
    JointDataset,
    ShuffledBatches,
    collate_clips,
    pack_clips,
)
from ..data.batches import list_parts, set_epoch
from ..data.clips import has_short_clips
from ..evaluation import MeanAveragePrecision, MeanClassAccuracy, TopKAccuracy
from ..evaluation.views import average_views, run_views, to_scores
from ..model.loss_tubevit import classification_loss, count_labels, infer_problem_type
from ..model.modeling_tubevit import TubeViTModel
from ..model.number_types_tubevit import warn_of_emulation
from .checks import check_batches, check_frozen, check_loss, check_rows, has_frozen
from .frozen import FrozenClips
from .losses import video_loss


# of a DataLoader, beside its batches
LOADER_SETTINGS = (
    *("collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("prefetch_factor", "persistent_workers", "in_order"),
)


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

    All arguments of the Trainer and of `TrainingArguments` hold, or are refused by name. Your `data_collator` makes
    all batches. Your `compute_loss_func` gets MixUp's labels as probabilities `(batch, num_labels)`, and in evaluation
    all views as so many clips. Your `compute_metrics` and `preprocess_logits_for_metrics` get scores averaged over
    views, where the Trainer has logits.

    Where `config.problem_type` is `None` the labels tell it, before MixUp and smoothing: classes; floats for each
    class (several labels); or numbers for a model with one output (regression, whose only metric is the loss).

    Args:
        mixup: alpha of MixUp, which blends pairs of clips and their labels; 0 for none.
        weights: share of batches of each of the joint datasets, up to a factor; by default as long as they are.
        pack: whether the clips of a training batch make one row of tokens, without padding.
        class_weights: how much an error in a clip of each class counts in the loss of training, see
            [`inverse_frequencies`]; where clips have several labels, how much a label that is there counts beside one
            that is not.
        balanced: whether an epoch has as many clips of each class, see [`BalancedBatches`].
        args, kwargs: of the Trainer. Datasets are [`ClipDataset`]s, joint or frozen ones, such in a `Subset` or
            `ConcatDataset`, or others with rows of `pixel_values` and `labels`; evaluation's give a clip or
            [`EvaluationViews`] of each video. To predict, `labels` may be missing.

    Raises:
        ValueError: clips may have different lengths, and the model is no TubeViT, or MixUp, frozen clips, a compiler
            or several GPUs of one process do not go with them; `class_weights` and `balanced` do not go with the
            training data; or an argument has no effect beside another one, or on such datasets.
    """

    # of what the Trainer takes, what this one does
    model: PreTrainedModel  # pyrefly: ignore[bad-override-mutable-attribute]
    train_dataset: Any
    # those that are dealt out to the processes, if it is not the Trainer that does so
    batches: ShuffledBatches | JointBatches | None

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
        given = inspect.signature(super().__init__).bind(*args, **kwargs).arguments
        own = {
            "data_collator": collate_clips,
            "compute_loss_func": self.compute_video_loss,
            "compute_metrics": self.compute_metrics,
        }
        self.is_own = {name: given.get(name) is None for name in own}
        training_args = given.get("args")
        if training_args is not None and training_args.batch_eval_metrics and self.is_own["compute_metrics"]:
            raise ValueError(
                "`batch_eval_metrics` needs a `compute_metrics` of yours that takes `compute_result`: the metrics of "
                "VideoTrainer are computed of all videos at once."
            )
        given |= {name: value for name, value in own.items() if self.is_own[name]}
        if isinstance(given.get("eval_dataset"), JointDataset):
            # each by itself, since each has a head of its own
            given["eval_dataset"] = given["eval_dataset"].datasets
        with warnings.catch_warnings():
            # the loss of this Trainer smooths several labels too
            warnings.filterwarnings("ignore", "Label smoothing is not compatible with multi-label")
            super().__init__(**given)
        if self.args.device.type == "cpu" and (self.args.bf16 or self.args.bf16_full_eval):
            warn_of_emulation("`bf16`")
        self.mixup, self.weights, self.pack, self.balanced = mixup, weights, pack, balanced
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # scores and labels of the videos that were evaluated last, in their order
        self.evaluated: EvalPrediction | None = None
        # sections of the model card beside those that the model writes
        self.card_details = ""
        self.batches = None
        # the model's own loss knows neither smoothing nor, in some architectures, soft labels
        self.label_smoother = None
        self.check_settings()
        self.look_at_evaluated(self.eval_dataset)
        # sharding gives the model another one
        self.whole_class = type(self.model)
        self.heads: dict[str | None, PreTrainedConfig] = {}
        self.heads_of = self.model
        self.head = self.model.config
        self.note_problem_type(self.head, self.eval_dataset if self.train_dataset is None else self.train_dataset)
        self.add_callback(EpochCallback(self))
        self._step_began = 0.0
        self._seconds = self._waited = self._clips = 0.0

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        # pyrefly: ignore[bad-assignment]  plain modules have no configuration
        model: PreTrainedModel = super().call_model_init(trial)
        self.whole_class = type(model)
        return model

    def check_settings(self) -> None:
        """Raises a `ValueError` for what does not go together, or would have no effect. It is asked again before each
        training, since a search of hyperparameters changes model and arguments."""
        self.check_lengths()
        self.check_balance()
        check_loss(self)
        check_batches(self)
        check_frozen(self)
        check_rows(self, self.train_dataset)

    def check_lengths(self) -> None:
        """Raises a `ValueError` for what clips of different lengths do not go with."""
        of_training, of_evaluation = (
            any(map(has_short_clips, list_parts(dataset))) for dataset in (self.train_dataset, self.eval_dataset)
        )
        name = "`pack`" if self.pack else '`short_clips="pad"`'
        if self.pack and has_frozen(self.train_dataset):
            raise ValueError("`pack` is for clips; what frozen layers gave of them cannot be packed: leave it out.")
        if self.pack and not self.is_own["data_collator"]:
            raise ValueError("`pack` collates the clips of a batch, and so does your `data_collator`: leave one out.")
        if self.pack and self.args.n_gpu > 1:
            raise ValueError("`pack` needs a process for each GPU: start the run with `accelerate launch`.")
        if self.pack and self.args.torch_compile:
            raise ValueError("`pack` does not go with `torch_compile`, which would compile for each mix of lengths.")
        if self.mixup and (self.pack or of_training):
            raise ValueError(f"`mixup` blends clips of one length, and {name} leaves them different: choose one.")
        if of_evaluation and "inputs" in self.args.include_for_metrics:
            raise ValueError(
                '`include_for_metrics=["inputs"]` needs clips of one length: choose `short_clips="repeat"`.'
            )
        model_type = self.model.config.model_type
        if (self.pack or of_training or of_evaluation) and model_type != "tubevit":
            raise ValueError(f"{name} is for TubeViT, got a model of type {model_type!r}.")

    def check_balance(self) -> None:
        """Raises a `ValueError` for what classes that count unlike do not go with."""
        dataset = self.train_dataset
        if self.weights is not None and not isinstance(dataset, JointDataset):
            raise ValueError(
                "`weights` are of joint datasets, and `train_dataset` is no JointDataset: leave them out."
            )
        if (self.class_weights is None and not self.balanced) or dataset is None:
            return
        if isinstance(dataset, JointDataset):
            raise ValueError("`class_weights` and `balanced` are for one dataset; joint ones have `weights`.")
        if self.balanced and not isinstance(dataset, (ClipDataset, FrozenClips)):
            raise ValueError(
                "`balanced` needs a ClipDataset or FrozenClips, which tell the class of each row, got a "
                f"{type(dataset).__name__}: choose rows before clips are made of them, as in "
                "`ClipDataset(rows.select(indices), ...)`."
            )
        if self.balanced and (dataset.num_labels is not None or "label" not in dataset.rows.features):
            raise ValueError(
                "`balanced` needs one class a video, and these may have several labels: give `class_weights`."
            )
        weights, number = self.class_weights, count_labels(self.model.config)
        if weights is not None and (weights.shape != (number,) or not (weights.isfinite() & (weights > 0)).all()):
            raise ValueError(
                f"`class_weights` must be a number above 0 for each of the {number} classes, got {weights.tolist()}."
            )

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            # models that call it otherwise get it by their name, see `rename_clips`
            self._signature_columns = [*(self._signature_columns or ()), "pixel_values"]

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
        self.check_settings()
        collator = self.data_collator
        self.data_collator = pack_clips if self.pack else collator
        try:
            loader = super().get_train_dataloader()
        finally:
            self.data_collator = collator
        self.batches = self.make_batches() if self.has_own_batches() else None
        if self.batches is None:
            return loader
        settings = {name: getattr(loader, name) for name in LOADER_SETTINGS}
        # dealt out to the processes already, so `accelerate` has nothing to shard
        return DataLoader(loader.dataset, batch_sampler=self.batches, **settings)

    def has_own_batches(self) -> bool:
        """Whether batches are drawn here: of streams, and in another order than at random, the Trainer does so."""
        dataset = self.train_dataset
        is_stream = isinstance(dataset, IterableDataset) or not has_length(dataset)
        return dataset is not None and not is_stream and self.args.train_sampling_strategy == "random"

    def make_batches(self) -> ShuffledBatches | JointBatches:
        args, dataset = self.args, self.train_dataset
        shared = {
            "batch_size": self._train_batch_size,
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "process_index": args.process_index,
            "num_processes": args.world_size,
            "drop_last": args.dataloader_drop_last,
        }
        if isinstance(dataset, JointDataset):
            lengths = {name: len(rows) for name, rows in dataset.datasets.items()}
            return JointBatches(lengths, self.weights or lengths, **shared)
        if self.balanced:
            return BalancedBatches(dataset.rows["label"], **shared)
        return ShuffledBatches(len(dataset), **shared)

    def choose_head(self, inputs: dict[str, Any]) -> PreTrainedConfig:
        """Configuration of the classifier that a batch goes through: its classes, and how many of them are right."""
        if self.heads_of is not self.model:
            self.heads_of = self.model
            self.heads.clear()
        name = inputs.get("dataset")
        if name not in self.heads:
            # pyrefly: ignore[not-callable]  only the clips of a joint model have a name; LoRA may wrap it
            self.heads[name] = self.model.config if name is None else self.model.head_config(name)
        self.head = self.heads[name]
        self.note_problem_type(self.head, self.train_dataset, inputs.get("labels"))
        if self.head.problem_type == "regression":
            settings = {
                "mixup": self.mixup,
                "class_weights": self.class_weights is not None,
                "label_smoothing_factor": self.args.label_smoothing_factor,
            }
            if of_classes := [f"`{name}`" for name, is_given in settings.items() if is_given]:
                raise ValueError(f"{', '.join(of_classes)} need classes, and this is a regression: leave them out.")
        return self.head

    def note_problem_type(self, head: PreTrainedConfig, dataset: object, labels: torch.Tensor | None = None) -> None:
        """Sets `problem_type` where it is `None`, by the rows of clips or else by a batch's labels.

        A model would infer it from the first labels that it gets, which MixUp and smoothing change.
        """
        if head.problem_type is not None:
            return
        kinds = set()
        for part in list_parts(dataset):
            label = part.rows.features.get("label") if isinstance(part, (ClipDataset, FrozenClips)) else None
            kinds.add(type(label))
        if kinds == {List}:
            head.problem_type = "multi_label_classification"
        elif kinds == {ClassLabel}:
            head.problem_type = "single_label_classification"
        elif labels is not None:
            num_labels = count_labels(head)
            problem_type = infer_problem_type(labels, num_labels)
            # labels of another shape are refused by the loss, and are not to be noted
            shapes: dict[str, tuple[int, ...]] = {
                "single_label_classification": (),
                "multi_label_classification": (num_labels,),
            }
            if labels.shape[1:] == shapes.get(problem_type, labels.shape[1:]):
                head.problem_type = problem_type

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | int | None]:
        self._step_began = time.perf_counter()
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - self._step_began
        self._clips += (
            sum(find_batch_size(batch.get("labels", batch)) or 0 for batch in batches) * self.args.world_size
        )
        for batch in batches:
            self.rename_clips(batch)
        return batches, num_items_in_batch

    def rename_clips(self, batch: dict[str, Any]) -> None:
        """Some models call it otherwise, and so does the Trainer where it counts or keeps a model's input."""
        if "pixel_values" in batch:
            batch[self.model.main_input_name] = batch.pop("pixel_values")

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        head = self.choose_head(inputs)
        if "labels" not in inputs and (self.mixup or self.is_own["compute_loss_func"]):
            raise ValueError(f"clips to train on need `labels`, got only {', '.join(inputs)}.")
        inputs = dict(send_to_device(inputs, self.args.device, non_blocking=self.accelerator.non_blocking))
        if self.mixup:
            mix = v2.MixUp(alpha=self.mixup, num_classes=count_labels(head))
            inputs = self.run_frozen(inputs)
            name = "frozen_output" if "frozen_output" in inputs else self.model.main_input_name
            labels = inputs["labels"]
            # as pictures of one row, since torchvision asks for such, and for classes in 64 bits
            pictures = inputs[name].flatten(1)[:, None, None]
            clips, labels = mix(pictures, labels if labels.is_floating_point() else labels.long())
            inputs = {**inputs, name: clips.view_as(inputs[name]), "labels": labels}
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

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """As of the Trainer, for which a model's input values are its tokens; of frames that pad none, if only real
        ones count."""
        name, mask = self.model.main_input_name, inputs.get("frame_mask")
        clips = inputs.get(name)
        if mask is not None and clips is not None and self.args.include_num_input_tokens_seen == "non_padding":
            clips = [clips[mask]]
        if isinstance(clips, list):
            # it counts one tensor, whose values it does not read
            inputs = {name: torch.empty(sum(clip.numel() for clip in clips), device="meta")}
        super()._track_num_input_tokens(inputs)

    def get_frozen_model(self) -> TubeViTModel | None:
        """The TubeViT whose frozen layers can be run apart, if it is one."""
        base_model = getattr(self.model, "base_model", None)
        return base_model if isinstance(base_model, TubeViTModel) and base_model.is_frozen_apart() else None

    def run_frozen(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the frozen layers give instead of clips, where they can be run apart."""
        base_model = self.get_frozen_model()
        if "pixel_values" not in inputs or base_model is None:
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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[dict[str, Any]]:
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            self.look_at_evaluated(eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[dict[str, Any]]:
        self.look_at_evaluated(test_dataset)
        return super().get_test_dataloader(test_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        """Videos are evaluated in their order, also where training groups clips by length."""

    def look_at_evaluated(self, dataset: object) -> None:
        """Refuses rows that are no clips, and has random clips be the same in each evaluation."""
        check_rows(self, dataset)
        for part in list_parts(dataset):
            clips = part.clips if isinstance(part, FrozenClips) else part
            if isinstance(clips, ClipDataset) and clips.get_epoch() is None:
                clips.set_epoch(0)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        self.rename_clips(inputs)
        inputs = self._prepare_inputs(inputs)
        head = self.choose_head(inputs)
        labels = inputs.pop("labels", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs, num_views = run_views(model, inputs.pop(self.model.main_input_name, None), **inputs)
            scores = average_views(to_scores(outputs["logits"].float(), head.problem_type), num_views)
            loss = None if labels is None else self.evaluate_loss(outputs, scores, labels, head, num_views)
        return (loss, None, None) if prediction_loss_only else (loss, scores, labels)

    def evaluate_loss(
        self, outputs: ModelOutput, scores: torch.Tensor, labels: torch.Tensor, head: PreTrainedConfig, num_views: int
    ) -> torch.Tensor:
        """Of what the averaged scores say; a user's own is the mean over views."""
        if not self.is_own["compute_loss_func"]:
            of_views = labels.repeat_interleave(num_views, dim=0)
            # pyrefly: ignore[not-callable]  it is there
            loss = self.compute_loss_func(outputs, of_views, num_items_in_batch=of_views.ne(-100).sum())
            return loss.detach().mean()
        if num_views == 1:
            logits = outputs["logits"]
        elif head.problem_type == "regression":
            logits = scores
        elif head.problem_type == "multi_label_classification":
            logits = scores.logit(eps=1e-7)
        else:
            logits = scores.clamp_min(1e-12).log()
        return classification_loss(labels, logits, head)

    # pyrefly: ignore[bad-override-mutable-attribute]  `__init__` hands it over; the Trainer keeps it by the same name
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        predictions, references = prediction.predictions, prediction.label_ids
        if isinstance(predictions, list):
            # batch by batch, of `eval_do_concat_batches=False`
            predictions, references = np.concatenate(predictions), np.concatenate(references)
        predictions, references = np.asarray(predictions), np.asarray(references)
        self.evaluated = EvalPrediction(predictions, references)
        metrics: list[TopKAccuracy | MeanClassAccuracy | MeanAveragePrecision] = []
        if self.head.problem_type == "multi_label_classification":
            metrics = [MeanAveragePrecision()]
        elif self.head.problem_type != "regression" and references.ndim == 1:
            # -100 is the usual mark of "no label"
            is_known = references != -100
            predictions, references = predictions[is_known], references[is_known]
            metrics = [TopKAccuracy(1), TopKAccuracy(5), MeanClassAccuracy()] if is_known.any() else []
        # of a regression and of soft labels the loss says it
        values: dict[str, float] = {}
        for metric in metrics:
            values |= metric.compute(predictions=predictions, references=references) or {}
        return values

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._seconds:
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
    def create_model_card(
        self,
        model_name: str | None = None,
        dataset: str | None = None,
        tags: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """The model's own card, where it writes one."""
        if not hasattr(self.model, "create_model_card"):
            super().create_model_card(model_name=model_name, dataset=dataset, tags=tags, **kwargs)
        elif self.is_world_process_zero():
            names = {"finetuned_from": "base_model", "dataset_tags": "datasets"}
            data = {names.get(name, name): value for name, value in kwargs.items() if value is not None}
            if unknown := data.keys() - {"language", "license", "base_model", "datasets"}:
                raise ValueError(f"the model writes its own card, and has no {', '.join(sorted(unknown))} for it.")
            assert self.args.output_dir is not None  # it has a default
            folder = Path(self.args.output_dir)
            found = [
                entry["eval_top_1_accuracy"] for entry in self.state.log_history if "eval_top_1_accuracy" in entry
            ]
            metrics = {"accuracy": found[-1]} if found else None
            # pyrefly: ignore[not-callable]  it is there
            card = self.model.create_model_card(
                self.hub_model_id or model_name or folder.name,
                metrics=metrics,
                dataset=dataset,
                details=self.card_details,
                tags=[tags] if isinstance(tags, str) else tags or (),
                data=data,
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


class EpochCallback(TrainerCallback):
    """Tells which epoch it is, since order and content of the clips depend on it, and when a step is over."""

    def __init__(self, trainer: VideoTrainer):
        self.trainer, self.epoch = trainer, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # of a stream without length, whose end nobody knows before, `state.epoch` says no more than this
        self.epoch = int(state.epoch or 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._seconds += time.perf_counter() - self.trainer._step_began

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        set_epoch(self.trainer.train_dataset, self.epoch)
        if self.trainer.batches is not None:
            self.trainer.batches.set_epoch(self.epoch)
        self.epoch += 1

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # whoever reads the clips next would see those of the last epoch again and again
        for part in list_parts(self.trainer.train_dataset):
            if isinstance(part, (ClipDataset, FrozenClips)):
                part.set_epoch(None)


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
