# SPDX-License-Identifier: Apache-2.0
"""Every argument of the Trainer and of `TrainingArguments`: it does what the Trainer does, or it is refused."""

import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset, EvaluationViews, JointDataset, TrainingClip, collate_clips
from tubevit_hf.training import FrozenClips, VideoTrainer

from ..support.modeling_cases import assert_all_close
from ..support.tiny import randomize, rows_of, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close


ROWS, CLASSES = 7, 3

# with each group of these a VideoTrainer is to do what the plain Trainer does, in weights, log, metrics and scores
LIKE_THE_TRAINER: dict[str, dict[str, Any]] = {
    "optimizer": {
        "optim": "adamw_torch",
        "optim_args": "amsgrad=True",
        "weight_decay": 0.5,
        "learning_rate": 3e-3,
        "adam_beta1": 0.3,
        "adam_beta2": 0.5,
        "adam_epsilon": 1e-2,
        "warmup_steps": 3,
        "seed": 7,
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "max_steps": -1,
        "num_train_epochs": 1.5,
        "per_device_train_batch_size": 3,
        "logging_steps": 2,
        "logging_first_step": True,
        "remove_unused_columns": True,
    },
    "loss": {
        "gradient_accumulation_steps": 3,
        "average_tokens_across_devices": False,
        "max_grad_norm": 0.01,
        "label_smoothing_factor": 0.3,
        "torch_empty_cache_steps": 1,
        "logging_strategy": "epoch",
    },
    "evaluation": {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_delay": 2,
        "eval_on_start": True,
        "per_device_eval_batch_size": 3,
        "eval_accumulation_steps": 1,
        "eval_use_gather_object": True,
        "neftune_noise_alpha": 5.0,
        "include_num_input_tokens_seen": "all",
    },
    "loss alone": {"prediction_loss_only": True, "max_steps": 1},
    "bfloat16": {"bf16_full_eval": True, "max_steps": 1},
    "last batch": {
        "max_steps": -1,
        "num_train_epochs": 2,
        "dataloader_drop_last": True,
        "per_device_eval_batch_size": 2,
    },
    "batches": {
        "train_sampling_strategy": "batch_rebalance",
        "auto_find_batch_size": True,
        "accelerator_config": {"even_batches": False, "non_blocking": True},
    },
}
COMPARED = {name for settings in LIKE_THE_TRAINER.values() for name in settings}
# tested below, or in the file that is named
TESTED = {
    *("include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches", "label_names", "parallelism_config"),
    *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_in_order"),
    "dataloader_multiprocessing_context",
    *("data_seed", "ignore_data_skip", "logging_nan_inf_filter", "output_dir", "length_column_name"),
    # test_training_runs.py
    *("bf16", "use_cpu", "torch_compile", "torch_compile_backend", "gradient_checkpointing", "ddp_backend"),
    *("gradient_checkpointing_kwargs", "report_to", "save_steps", "save_strategy", "save_total_limit", "disable_tqdm"),
    # test_from_folder.py
    *(
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "restore_callback_states_from_checkpoint",
    ),
}
# of what VideoTrainer leaves to the Trainer: the model, the optimizer's classes, devices, logs, checkpoints, the Hub
OF_THE_TRAINER = {
    *("activation_checkpointing", "activation_checkpointing_kwargs", "torch_compile_mode", "use_liger_kernel"),
    *("liger_kernel_config", "use_cache", "optim_target_modules", "fp16", "fp16_full_eval", "tf32", "debug"),
    *("log_on_each_node", "log_level", "log_level_replica", "run_name", "project", "trackio_space_id"),
    *("trackio_bucket_id", "trackio_static_space_id", "save_only_model", "save_on_each_node", "enable_jit_checkpoint"),
    *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
    *("hub_revision", "full_determinism", "dataloader_pin_memory"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_timeout"),
    *("fsdp", "fsdp_config", "deepspeed", "skip_memory_metrics", "do_train", "do_eval", "do_predict", "local_rank"),
    "resume_from_checkpoint",
}
# arguments of the Trainer itself
OF_INIT = {
    *("model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "model_init"),
    *("compute_loss_func", "compute_metrics", "callbacks", "optimizers", "optimizer_cls_and_kwargs"),
    "preprocess_logits_for_metrics",
}


def test_every_argument_is_known():
    """A new one of Transformers fails here, until someone has looked at what it does."""
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields <= COMPARED | TESTED | OF_THE_TRAINER
    assert not (COMPARED & TESTED) | ((COMPARED | TESTED) & OF_THE_TRAINER)
    assert inspect.signature(Trainer).parameters.keys() == OF_INIT


def new_model(num_labels: int = CLASSES, **settings) -> TubeViTForVideoClassification:
    labels = {"id2label": dict(enumerate("abcdefg"[:num_labels])), "label2id": None}
    return randomize(TubeViTForVideoClassification(tiny_config(num_hidden_layers=1, **labels, **settings)), std=0.2)


def make_rows(number: int = ROWS, labels=None) -> list[dict[str, Any]]:
    """Rows as they come from anywhere: clips, and labels that are classes."""
    clips = torch.randn(number, 7, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(number) % CLASSES if labels is None else labels
    return [{"pixel_values": clip, "labels": label, "file": "x"} for clip, label in zip(clips, labels)]


def make_arguments(folder: Path, **arguments) -> TrainingArguments:
    defaults = {
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "max_steps": 5,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "per_device_train_batch_size": 2,
    }
    return TrainingArguments(folder, **{**defaults, **arguments})


def make_trainer(folder: Path, trainer_class: type[Trainer] = VideoTrainer, init=None, **arguments) -> Trainer:
    defaults = {"model": new_model(), "train_dataset": make_rows(), "eval_dataset": make_rows(5)}
    given = {**defaults, **(init or {})}
    if "model_init" in given:
        del given["model"]
    return trainer_class(args=make_arguments(folder, **arguments), **given)


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", LIKE_THE_TRAINER)
def test_it_does_what_the_trainer_does(name, tmp_path):
    """With the order of the rows, which is drawn otherwise, set aside."""
    settings = {"train_sampling_strategy": "sequential", **LIKE_THE_TRAINER[name]}
    ends = []
    for trainer_class in (Trainer, VideoTrainer):
        processor = tiny_video_processor(model_input_names=["pixel_values"])
        trainer = make_trainer(tmp_path, trainer_class, {"processing_class": processor}, **settings)
        trainer.train()
        weights = {key: value.detach().clone() for key, value in trainer.model.named_parameters()}
        ends.append((weights, trainer.state, trainer.evaluate(), trainer.predict(make_rows(5))))
    (expected, state, metrics, prediction), (found, our_state, our_metrics, ours) = ends
    assert_all_close(found, expected, "float32")
    assert (our_state.global_step, our_state.num_input_tokens_seen) == (state.global_step, state.num_input_tokens_seen)
    smoothed = settings.get("label_smoothing_factor")
    for entry, theirs in zip(our_state.log_history, state.log_history, strict=True):
        for key in ("loss", "learning_rate", "grad_norm", "eval_loss", "epoch", "step"):
            assert (key in entry) == (key in theirs)
            if key in theirs and not (smoothed and key == "eval_loss"):
                assert entry[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
    if not smoothed:
        assert our_metrics["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-4)
    if settings.get("prediction_loss_only"):
        assert ours.predictions is None and prediction.predictions is None
    else:
        assert len(prediction.predictions) == (4 if settings.get("dataloader_drop_last") else 5)
        expected_scores = torch.from_numpy(prediction.predictions).float().softmax(dim=-1)
        assert_close(torch.from_numpy(ours.predictions), expected_scores, "probability")


def softmax_loss(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """Twice the cross-entropy, of classes or probabilities."""
    return 2 * nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def test_the_users_loss_is_called(tmp_path):
    """In training, with MixUp's labels too, and in evaluation, as by the Trainer."""
    ends = []
    for trainer_class in (Trainer, VideoTrainer):
        trainer = make_trainer(
            tmp_path,
            trainer_class,
            {"compute_loss_func": softmax_loss},
            train_sampling_strategy="sequential",
            gradient_accumulation_steps=2,
        )
        trainer.train()
        ends.append((losses(trainer), trainer.evaluate()["eval_loss"]))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-4)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-4)

    shapes = []

    def watched(outputs, labels, num_items_in_batch=None):
        shapes.append((tuple(labels.shape), labels.is_floating_point(), int(num_items_in_batch)))
        return softmax_loss(outputs, labels, num_items_in_batch)

    mixed = make_trainer(tmp_path, init={"compute_loss_func": watched, "mixup": 0.3}, max_steps=1)
    mixed.train()
    assert shapes == [((2, CLASSES), True, 2)]
    # of two views of each of five videos it gets ten clips
    shapes.clear()
    clips = torch.randn(5, 2, 7, 3, 40, 56)
    views = [{"pixel_values": clip, "labels": row["labels"]} for clip, row in zip(clips, make_rows(5))]
    loss = mixed.evaluate(views)["eval_loss"]
    assert shapes == [((10,), False, 10)]
    with torch.no_grad():
        logits = mixed.model(clips.flatten(0, 1)).logits
    labels = torch.stack([row["labels"] for row in views]).repeat_interleave(2)
    assert loss == pytest.approx(2 * nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_the_users_metrics_and_collator_are_called(tmp_path):
    """By name and by place; the metrics get averaged scores."""
    calls = []

    def collate(clips):
        calls.append(len(clips))
        return collate_clips(clips)

    def metrics(prediction):
        return {"highest": float(prediction.predictions.max()), "videos": len(prediction.label_ids)}

    def halve(scores, labels):
        return scores / 2

    init = {"data_collator": collate, "compute_metrics": metrics, "preprocess_logits_for_metrics": halve}
    trainer = make_trainer(tmp_path, init=init)
    trainer.train()
    assert calls and set(calls) <= {1, 2}
    found = trainer.evaluate()
    with torch.no_grad():
        scores = trainer.model(torch.stack([row["pixel_values"] for row in make_rows(5)])).logits.softmax(dim=-1)
    assert found["eval_highest"] == pytest.approx(scores.max().item() / 2, rel=1e-4)
    assert found["eval_videos"] == 5
    assert "eval_top_1_accuracy" not in found

    calls.clear()
    VideoTrainer(new_model(), make_arguments(tmp_path), collate, make_rows()).train()
    assert calls
    with pytest.raises(TypeError, match="unexpected keyword argument 'mix_up'"):
        VideoTrainer(new_model(), make_arguments(tmp_path), mix_up=0.2)


def test_other_arguments_of_the_trainer(tmp_path):
    """Optimizers and callbacks reach the run."""
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(type(kwargs["optimizer"].optimizer).__name__)

    kind = (torch.optim.Adagrad, {"lr": 1e-3})
    make_trainer(tmp_path, init={"callbacks": [Watch()], "optimizer_cls_and_kwargs": kind}, max_steps=1).train()
    model = new_model()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    init = {"callbacks": [Watch()], "model": model, "optimizers": (optimizer, None)}
    make_trainer(tmp_path, init=init, max_steps=1).train()
    assert seen == ["Adagrad", "RMSprop"]


def naive_losses(
    model: nn.Module, batches: list[dict], smoothing: float, weights: list[float] | None = None, share: float = 1.0
) -> list[float]:
    """Cross-entropy of each batch, spelled out, where a clip keeps a share and has the rest of the one before it."""
    found = []
    for batch in batches:
        clips, labels = batch["pixel_values"], batch["labels"].tolist()
        with torch.no_grad():
            blended = share * clips + (1 - share) * torch.cat([clips[-1:], clips[:-1]])
            logs = model(blended).logits.log_softmax(dim=-1).tolist()
        total = 0.0
        for row, label, before in zip(logs, labels, [labels[-1], *labels[:-1]]):
            for number, value in enumerate(row):
                target = share * (number == label) + (1 - share) * (number == before)
                target = target * (1 - smoothing) + smoothing / CLASSES
                total -= target * value * (1.0 if weights is None else weights[number])
        found.append(total / len(labels))
    return found


@pytest.mark.parametrize("settings", [{}, {"class_weights": [0.2, 1.0, 3.0]}, {"mixup": 0.3}], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_models_of_a_function_train_by_the_same_loss(settings, smoothing, tmp_path, monkeypatch):
    """Each training begins with another model, whose configuration says nothing of labels."""
    share = 0.7 if "mixup" in settings else 1.0
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda *args, **kwargs: torch.tensor(share))
    shared = {"max_steps": 3, "learning_rate": 0.0, "label_smoothing_factor": smoothing}
    for init in ({"model": new_model()}, {"model_init": lambda: new_model()}):
        trainer = make_trainer(tmp_path, init={**init, **settings}, **shared)
        for _ in range(2):
            trainer.train()
            assert trainer.model.config.problem_type == "single_label_classification"
            batches = list(trainer.get_train_dataloader())[:3]
            naive = naive_losses(trainer.model.eval(), batches, smoothing, settings.get("class_weights"), share)
            assert losses(trainer) == pytest.approx(naive, rel=1e-4)


def test_a_search_of_hyperparameters(tmp_path):
    """Each trial has the loss of its smoothing, and a model that may be another."""

    def model_init(trial=None):
        return new_model(gate_layer=0 if trial is not None and trial.number else None)

    trainer = make_trainer(tmp_path, init={"model_init": model_init}, max_steps=2, learning_rate=0.0)
    found = []

    class Watch(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            batches = list(trainer.get_train_dataloader())[:2]
            naive = naive_losses(trainer.model.eval(), batches, args.label_smoothing_factor)
            found.append((losses(trainer), naive, args.label_smoothing_factor))

    trainer.add_callback(Watch())
    best = trainer.hyperparameter_search(
        lambda trial: {"label_smoothing_factor": trial.suggest_categorical("label_smoothing_factor", [0.2])},
        n_trials=2,
        backend="optuna",
        compute_objective=lambda metrics: metrics["eval_loss"],
    )
    assert best.hyperparameters == {"label_smoothing_factor": 0.2}
    assert len(found) == 2
    for ours, naive, smoothing in found:
        assert smoothing == 0.2
        assert ours == pytest.approx(naive, rel=1e-4)


def test_several_labels_and_numbers(tmp_path):
    """What labels are is seen before MixUp and smoothing; numbers are evaluated as numbers."""
    several = [torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0])] * 2
    trainer = make_trainer(
        tmp_path,
        init={"train_dataset": make_rows(4, several), "eval_dataset": make_rows(4, several), "mixup": 0.3},
        label_smoothing_factor=0.1,
    )
    trainer.train()
    assert trainer.model.config.problem_type == "multi_label_classification"
    assert 0 < trainer.evaluate()["eval_mean_average_precision"] <= 1

    targets = torch.tensor([0.5, -2.0, 3.0, 1.5])
    numbers = {"train_dataset": make_rows(4, targets), "eval_dataset": make_rows(4, targets)}
    trainer = make_trainer(tmp_path, init={**numbers, "model": new_model(1)}, max_steps=1)
    trainer.train()
    metrics = trainer.evaluate()
    values = torch.from_numpy(trainer.predict(numbers["eval_dataset"]).predictions)
    with torch.no_grad():
        expected = trainer.model(torch.stack([row["pixel_values"] for row in numbers["eval_dataset"]])).logits
    assert_close(values, expected, "float32")
    assert metrics["eval_loss"] == pytest.approx((values[:, 0] - targets).square().mean().item(), rel=1e-4)
    assert "eval_top_1_accuracy" not in metrics
    # whole numbers are numbers too, as in the model's own loss
    whole = make_rows(4, torch.tensor([3, -2, 0, 1]))
    trainer = make_trainer(tmp_path, init={"train_dataset": whole, "model": new_model(1)}, max_steps=1)
    trainer.train()
    assert trainer.model.config.problem_type == "regression"
    refused = make_trainer(tmp_path, init={**numbers, "model": new_model(1), "mixup": 0.3})
    with pytest.raises(ValueError, match="`mixup` need classes, and this is a regression"):
        refused.train()


def test_labels_of_a_wrong_shape_are_not_noted(tmp_path):
    """The run that is corrected trains by its own loss."""
    model = new_model()
    wrong = make_rows(4, [torch.tensor([1, 0, 1])] * 4)
    trainer = make_trainer(tmp_path, init={"model": model, "train_dataset": wrong})
    trainer.choose_head(next(iter(trainer.get_train_dataloader())))
    assert model.config.problem_type is None
    right = make_rows(4, [torch.tensor([1.0, 0.0, 1.0])] * 4)
    make_trainer(tmp_path, init={"model": model, "train_dataset": right}, max_steps=1).train()
    assert model.config.problem_type == "multi_label_classification"


def test_metrics_are_of_the_clips_that_have_a_class(tmp_path):
    """-100 marks a clip without one; soft labels have the loss alone."""
    trainer = make_trainer(tmp_path)
    best = trainer.predict(make_rows(4)).predictions.argmax(axis=-1).tolist()
    found = trainer.evaluate(make_rows(4, torch.tensor([best[0], -100, (best[2] + 1) % CLASSES, -100])))
    assert found["eval_top_1_accuracy"] == 0.5
    assert "eval_top_1_accuracy" not in trainer.evaluate(make_rows(4, torch.tensor([-100] * 4)))
    soft = make_trainer(tmp_path, init={"model": new_model(problem_type="single_label_classification")})
    found = soft.evaluate(make_rows(4, torch.tensor([[0.5, 0.25, 0.25]] * 4)))
    assert found["eval_loss"] > 0 and "eval_top_1_accuracy" not in found


def test_the_last_batch_is_dropped(tmp_path):
    """Of seven rows in batches of two, at random."""
    for drop_last, steps in ((False, 4), (True, 3)):
        trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=1, dataloader_drop_last=drop_last)
        trainer.train()
        assert trainer.state.global_step == steps
        sizes = [len(batch["labels"]) for batch in trainer.get_train_dataloader()]
        assert sizes == [2, 2, 2] if drop_last else sizes == [2, 2, 2, 1]
    trainer = make_trainer(tmp_path, dataloader_drop_last=True, per_device_train_batch_size=8)
    with pytest.raises(ValueError, match=r"7 row\(s\) are too few for a batch of 8.*`dataloader_drop_last`"):
        trainer.train()


def test_settings_of_the_loader_reach_it(tmp_path):
    trainer = make_trainer(
        tmp_path,
        dataloader_num_workers=1,
        dataloader_prefetch_factor=3,
        dataloader_persistent_workers=True,
        dataloader_multiprocessing_context="spawn",
        dataloader_in_order=False,
    )
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 3, True)
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert not loader.in_order
    assert loader.worker_init_fn is not None


def test_the_order_is_drawn_by_the_seed_of_the_data(tmp_path):
    orders = []
    for seeds in ({"seed": 1}, {"seed": 1, "data_seed": 2}, {"seed": 3, "data_seed": 2}):
        trainer = make_trainer(tmp_path, **seeds)
        orders.append(torch.cat([batch["pixel_values"][:, 0, 0, 0, 0] for batch in trainer.get_train_dataloader()]))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1], orders[2])


def test_a_sampler_by_length_groups_clips(tmp_path):
    """`pixel_values` of the processor are what has a length."""
    rows = [{**row, "pixel_values": row["pixel_values"][:length]} for row, length in zip(make_rows(4), (7, 2, 7, 2))]
    processor = tiny_video_processor(model_input_names=["pixel_values"])
    trainer = make_trainer(
        tmp_path,
        init={"train_dataset": rows, "processing_class": processor},
        train_sampling_strategy="group_by_length",
        dataloader_drop_last=False,
    )
    assert {batch["pixel_values"].shape[1] for batch in trainer.get_train_dataloader()} == {2, 7}
    assert all("frame_mask" not in batch for batch in trainer.get_train_dataloader())
    trainer.train()


def test_tokens_seen_are_those_of_the_clips(tmp_path):
    """Packed and padded; of `non_padding` without frames that pad."""
    lengths = (7, 3, 5, 2)
    rows = [{**row, "pixel_values": row["pixel_values"][:length]} for row, length in zip(make_rows(4), lengths)]
    real, padded = sum(lengths) * 3 * 40 * 56, None
    for pack, counted in ((True, "all"), (True, "non_padding"), (False, "non_padding"), (False, "all")):
        trainer = make_trainer(
            tmp_path,
            init={"train_dataset": rows, "pack": pack},
            include_num_input_tokens_seen=counted,
            max_steps=-1,
            num_train_epochs=1,
            per_device_train_batch_size=4,
        )
        trainer.train()
        padded = trainer.state.num_input_tokens_seen
        if (pack, counted) != (False, "all"):
            assert padded == real
    assert padded == 4 * 7 * 3 * 40 * 56


def test_metrics_batch_by_batch(tmp_path):
    """Lists of arrays, inputs that are kept, and metrics of each batch."""
    whole = make_trainer(tmp_path).evaluate()
    apart = make_trainer(tmp_path, eval_do_concat_batches=False, per_device_eval_batch_size=2)
    found = apart.evaluate()
    for name in ("eval_top_1_accuracy", "eval_mean_class_accuracy"):
        assert found[name] == whole[name]
    assert apart.evaluated is not None and np.asarray(apart.evaluated.predictions).shape == (5, CLASSES)

    kept = []

    def metrics(prediction):
        kept.append(prediction.inputs.shape)
        return {}

    init = {"compute_metrics": metrics}
    make_trainer(tmp_path, init=init, include_for_metrics=["inputs"], per_device_eval_batch_size=2).evaluate()
    assert kept == [(5, 7, 3, 40, 56)]

    sizes = []

    def by_batch(prediction, compute_result=False):
        sizes.append(len(prediction.predictions))
        return {"videos": sum(sizes)} if compute_result else {}

    trainer = make_trainer(
        tmp_path, init={"compute_metrics": by_batch}, batch_eval_metrics=True, per_device_eval_batch_size=2
    )
    assert trainer.evaluate()["eval_videos"] == 5
    assert sizes == [2, 2, 1]


def test_a_batch_that_is_too_large_becomes_smaller(tmp_path):
    """Batches of the size that was found, drawn anew."""
    model = new_model()

    def refuse(module, inputs, kwargs):
        clips = kwargs["pixel_values"] if "pixel_values" in kwargs else inputs[0]
        if len(clips) > 2:
            raise RuntimeError("CUDA out of memory.")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    trainer = make_trainer(
        tmp_path, init={"model": model}, auto_find_batch_size=True, per_device_train_batch_size=4, max_steps=4
    )
    trainer.train()
    assert trainer.state.train_batch_size == 2
    assert {len(batch["labels"]) for batch in trainer.get_train_dataloader()} == {2, 1}


def test_a_loss_that_is_logged_outside_training(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.log({"loss": 1.0})
    assert trainer.state.log_history[-1]["loss"] == 1.0


def test_what_has_no_effect_is_refused(videos, tmp_path):
    """Each by a line that names it, before a step is trained."""
    rows = rows_of(videos, [0, 1, 2])
    clips = ClipDataset(rows, TrainingClip(tiny_video_processor(), 7), copies=1)
    named = ClipDataset(rows, clips.load, name="one")
    padded = ClipDataset(rows, EvaluationViews(tiny_video_processor(), 7, fps=10, short_clips="pad"))
    frozen = FrozenClips(clips, tmp_path)
    unlabelled = ClipDataset(rows.remove_columns("label"), clips.load)
    half = new_model()
    half.freeze_before(1)
    for init, arguments, message in (
        ({"compute_loss_func": softmax_loss, "class_weights": [1.0] * CLASSES}, {}, "`class_weights` is of the loss"),
        ({"compute_loss_func": softmax_loss}, {"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is of the"),
        ({"data_collator": collate_clips, "pack": True}, {}, "`pack` collates .* your `data_collator`"),
        ({}, {"label_names": ["class"]}, "`label_names` must be left out"),
        ({}, {"batch_eval_metrics": True}, "`batch_eval_metrics` needs a `compute_metrics` of yours"),
        ({"weights": {"one": 1.0}}, {}, "`weights` are of joint datasets"),
        ({"balanced": True}, {}, "`balanced` needs a ClipDataset or FrozenClips.*got a list"),
        (
            {"balanced": True, "train_dataset": clips},
            {"train_sampling_strategy": "sequential"},
            "`balanced` draw batches",
        ),
        ({"train_dataset": JointDataset([named])}, {"train_sampling_strategy": "sequential"}, "joint datasets draw"),
        ({}, {"accelerator_config": {"split_batches": True}}, "'split_batches' True, which has no effect"),
        ({}, {"accelerator_config": AcceleratorConfig(dispatch_batches=True)}, "'dispatch_batches' True"),
        ({}, {"accelerator_config": {"use_seedable_sampler": False}}, "'use_seedable_sampler' False"),
        ({"train_dataset": frozen}, {"include_num_input_tokens_seen": "all"}, "`include_num_input_tokens_seen` needs"),
        ({"train_dataset": frozen}, {"neftune_noise_alpha": 1.0}, "`neftune_noise_alpha` changes"),
        ({"model": half, "mixup": 0.2}, {"neftune_noise_alpha": 1.0}, "`neftune_noise_alpha` changes"),
        ({"eval_dataset": frozen}, {"include_for_metrics": ["inputs"]}, "needs clips, and `eval_dataset` has none"),
        ({"eval_dataset": padded}, {"include_for_metrics": ["inputs"]}, "needs clips of one length"),
        ({"train_dataset": padded}, {}, "`train_dataset` gives several views of a video"),
        ({"train_dataset": unlabelled}, {}, "`train_dataset` needs labels"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, init=init, **arguments)
    # nor is it refused where it has one
    make_trainer(tmp_path, accelerator_config={"split_batches": True}, train_sampling_strategy="sequential").train()
    make_trainer(tmp_path, init={"train_dataset": unlabelled, "compute_loss_func": softmax_loss})


def test_processes_that_share_clips_are_refused(tmp_path):
    class Layout:
        non_data_parallel_size = 2

    trainer = make_trainer(tmp_path)
    trainer.args.parallelism_config = Layout()
    with pytest.raises(ValueError, match="`parallelism_config` makes processes share clips"):
        trainer.train()


@pytest.mark.parametrize("ignore_data_skip", [False, True])
def test_a_run_goes_on(ignore_data_skip, tmp_path):
    """In the order of its epoch; with `ignore_data_skip` from the epoch's beginning."""
    shared = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "ignore_data_skip": ignore_data_skip}
    whole = make_trainer(tmp_path / "a", **shared)
    whole.train()
    resumed = make_trainer(tmp_path / "b", **shared)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    if not ignore_data_skip:
        assert losses(resumed) == losses(whole)
        return
    # steps four to six see the first three batches of the first epoch again
    first = make_trainer(tmp_path / "c", max_steps=3, learning_rate=0.0)
    seen = [batch["labels"].tolist() for batch in first.get_train_dataloader()]
    assert math.isfinite(losses(resumed)[-1]) and len(losses(resumed)) == 6
    watched = []

    class Watch(VideoTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            watched.append(inputs["labels"].tolist())
            return super().training_step(model, inputs, *args, **kwargs)

    again = make_trainer(tmp_path / "d", Watch, **shared)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert watched == seen[:3]


def test_the_models_card_has_what_it_is_given(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.create_model_card(
        license="mit", language="en", tags="mine", finetuned_from="org/base", dataset_tags="ucf101"
    )
    card = (tmp_path / "README.md").read_text()
    for line in ("license: mit", "language: en", "- mine", "base_model: org/base", "- tubevit"):
        assert line in card
    with pytest.raises(ValueError, match="has no tasks for it"):
        trainer.create_model_card(tasks="video-classification")
