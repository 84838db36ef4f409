# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the examples: on two processes, killed and taken up again, and what they refuse."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Features, List
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoVideoProcessor, TrainingArguments

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.data import ClipDataset, EvaluationViews, TrainingClip, load_folder
from tubevit_hf.data.moving_digits import create_moving_digits
from tubevit_hf.training import TrainingDiverged, VideoTrainer, find_checkpoint

from ..support.stopping import run_until_killed, stop_at
from ..support.tiny import tiny_config, tiny_video_processor
from ..support.tolerances import assert_close


EXAMPLES = Path(__file__).parents[2] / "examples"
# on a free port: tests run beside each other
TORCHRUN = ["--standalone", "--nproc_per_node"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
QUIET = ["--use_cpu", "--disable_tqdm", "True", "--report_to", "none", "--eval_clips", "1", "--eval_crops", "1"]


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    create_moving_digits(folder, {"train": 4, "validation": 1})
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Images of two classes."""
    folder = tmp_path_factory.mktemp("runs") / "pictures"
    for split in ("train", "validation"):
        for value, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (64, 48), (200 * value, 10 * number, 50)).save(
                    folder / split / name / f"{number}.png"
                )
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    """Where training begins: config, processor and weights."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    torch.manual_seed(0)
    TubeViTForVideoClassification(tiny_config()).save_pretrained(folder)
    tiny_video_processor().save_pretrained(folder)
    return folder


def command(script: str, *arguments: object, num_processes: int = 1, stop: Sequence[str] = ()) -> list[str]:
    launcher = ["-m", "torch.distributed.run", *TORCHRUN, str(num_processes)] if num_processes > 1 else []
    return [sys.executable, *launcher, *stop, str(EXAMPLES / script), *map(str, arguments)]


def run(script: str, *arguments: object, num_processes: int = 1) -> subprocess.CompletedProcess:
    line = command(script, *arguments, num_processes=num_processes)
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def assert_same_weights(one: Path, other: Path, tolerance: str) -> None:
    """Biases of keys aside: softmax does not see them, so that Adam follows the rounding of their gradients."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if not name.endswith("k_proj.bias") or tolerance == "exact":
            assert_close(tensor, theirs[name], tolerance, name)


TRAINING = [*QUIET, "--do_train", "--max_steps", 6, "--learning_rate", 1e-3, "--logging_steps", 1]


@pytest.mark.parametrize("kind", ["trainer", "joint", "loop"])
def test_two_processes_are_as_one(kind, digits, pictures, start, tmp_path):
    """44 clips in batches of 8: also where the last is smaller."""
    if kind == "loop":
        script = "run_video_classification_no_trainer.py"
        arguments = ["--data_dir", digits, "--use_cpu", "--num_train_epochs", 1, "--learning_rate", 1e-3]
        one, two = [], []
    elif kind == "joint":
        script = "run_joint_image_video.py"
        arguments = [*TRAINING, "--save_strategy", "no", "--datasets", f"motions={digits}", f"pictures={pictures}"]
        one, two = [], ["--ddp_backend", "gloo"]
    else:
        script = "run_video_classification.py"
        arguments = [*TRAINING, "--save_strategy", "no", "--data_dir", digits]
        one, two = [], ["--ddp_backend", "gloo"]
    source = "--config_name" if kind == "trainer" else "--model_name_or_path"
    arguments += [source, start, "--per_device_train_batch_size"]
    single = run(script, *arguments, 8, *one, "--output_dir", tmp_path / "one")
    assert single.returncode == 0, single.stderr
    double = run(script, *arguments, 4, *two, "--output_dir", tmp_path / "two", num_processes=2)
    assert double.returncode == 0, double.stderr
    assert_same_weights(tmp_path / "one", tmp_path / "two", "two_processes")
    if kind != "loop":
        assert len(losses(tmp_path / "one")) == 6
        assert_close(torch.tensor(losses(tmp_path / "two")), losses(tmp_path / "one"), "two_processes")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_frozen_layers_are_run_once(num_processes, digits, start, tmp_path):
    """Only what follows the frozen layers is trained, with the losses of the same clips without a cache."""
    arguments = [
        *(*TRAINING, "--save_strategy", "no", "--data_dir", digits, "--model_name_or_path", start),
        *("--ignore_mismatched_sizes", "--random_crop", "--copies", 2),
        *("--per_device_train_batch_size", 8 // num_processes),
    ]
    if num_processes > 1:
        arguments += ["--ddp_backend", "gloo"]
    folder = tmp_path / "kept"
    kept = run(
        "run_video_classification.py",
        *arguments,
        *("--freeze_before", 2, "--output_dir", folder),
        num_processes=num_processes,
    )
    assert kept.returncode == 0, kept.stderr
    assert len(list((folder / "frozen").glob("clips-*.npy"))) == 2  # 44 clips, two of each
    before, after = (load_file(path / "model.safetensors") for path in (start, folder))
    moved = {name for name in after if "classifier" not in name and not after[name].equal(before[name])}
    assert moved
    assert all(name.startswith(("tubevit.layers.2.", "tubevit.layernorm.", "tubevit.pooler.")) for name in moved)
    if num_processes == 1:
        # without `--copies` nothing is kept, and the first epoch's clips are the same
        plain = [argument for argument in arguments if argument not in ("--copies", 2)]
        result = run("run_video_classification.py", *plain, "--freeze_before", 2, "--output_dir", tmp_path / "plain")
        assert result.returncode == 0, result.stderr
        assert not (tmp_path / "plain" / "frozen").exists()
        assert_close(torch.tensor(losses(folder)), losses(tmp_path / "plain"), "frozen_cache")


def test_killed_runs_end_with_the_weights_of_one_that_was_not(digits, start, tmp_path):
    """With all that is random: order, windows, crops, RandAugment, MixUp, dropout, workers."""
    arguments = [
        *(*QUIET, "--do_train", "--max_steps", 80, "--save_steps", 3, "--save_total_limit", 2, "--logging_steps", 1),
        *("--config_name", start, "--data_dir", digits, "--per_device_train_batch_size", 3),
        *("--gradient_accumulation_steps", 2, "--random_crop", "--rand_augment", 2, 10, "--mixup", 0.3),
        *("--dropout", 0.1, "--dataloader_num_workers", 1),
    ]
    whole = run("run_video_classification.py", *arguments, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    out, reached = tmp_path / "killed", []
    for function, count in (
        # a step is two of these
        ("transformers:Trainer.training_step", 5),
        ("transformers:Trainer.training_step", 12),
        ("torch.optim:AdamW.step", 5),
        ("transformers:Trainer._save_optimizer_and_scheduler", 2),
        ("transformers:Trainer._save_rng_state", 1),
        ("transformers.trainer_callback:TrainerState.save_to_json", 3),
    ):
        stop = stop_at(function, count)
        run_until_killed(
            command("run_video_classification.py", *arguments, "--output_dir", out, stop=stop), ENVIRONMENT
        )
        checkpoint = find_checkpoint(out)
        reached.append(0 if checkpoint is None else int(checkpoint.rpartition("-")[2]))
    assert reached == [0, 3, 6, 9, 9, 15]
    last = run("run_video_classification.py", *arguments, "--output_dir", tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    assert_same_weights(tmp_path / "whole", tmp_path / "killed", "exact")


def test_half_written_checkpoints_are_not_taken(tmp_path):
    assert find_checkpoint(tmp_path) is None
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_step": 10}'), (15, '{"global_st'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "scheduler.pt").touch()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    # weights alone, of `save_only_model`, are nothing to go on from
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text('{"global_step": 30}')
    assert find_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def train(folder: Path, digits: Path, model=None, **arguments) -> VideoTrainer:
    torch.manual_seed(0)
    model = model or TubeViTForVideoClassification(tiny_config(num_labels=11))
    model.config.problem_type = "single_label_classification"
    trainer = VideoTrainer(
        model=model,
        args=TrainingArguments(
            folder, use_cpu=True, remove_unused_columns=False, **{"report_to": "none", **arguments}
        ),
        train_dataset=ClipDataset(load_folder(digits)["train"], TrainingClip(tiny_video_processor(), 7)),
        eval_dataset=ClipDataset(load_folder(digits)["validation"], EvaluationViews(tiny_video_processor(), 7)),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("label_smoothing_factor", [0.0, 0.2])
def test_four_clips_accumulated_are_a_batch_of_four(label_smoothing_factor, digits, tmp_path):
    shared = {"max_steps": 5, "label_smoothing_factor": label_smoothing_factor, "learning_rate": 1e-3, "optim": "sgd"}
    batch = train(tmp_path / "a", digits, per_device_train_batch_size=4, **shared).model
    accumulated = train(
        tmp_path / "b", digits, per_device_train_batch_size=1, gradient_accumulation_steps=4, **shared
    ).model
    for (name, ours), theirs in zip(batch.named_parameters(), accumulated.parameters()):
        assert_close(ours, theirs, "accumulated", name)


@pytest.mark.parametrize(
    "setting",
    [
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    ],
    ids=["checkpointing", "reentrant-checkpointing", "compile"],
)
def test_settings_that_save_time_or_memory_change_no_weights(setting, digits, tmp_path):
    shared = {"max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "optim": "sgd"}
    plain = train(tmp_path / "a", digits, **shared).model
    changed = train(tmp_path / "b", digits, **shared, **setting)
    assert changed.model.is_gradient_checkpointing == setting.get("gradient_checkpointing", False)
    assert (changed.model_wrapped is not changed.model) == setting.get("torch_compile", False)
    for (name, ours), theirs in zip(changed.model.named_parameters(), plain.parameters()):
        assert_close(ours, theirs, "accumulated", name)


def test_bfloat16_follows_float32(digits, tmp_path):
    shared = {"max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    histories = []
    for bf16 in (False, True):
        trainer = train(tmp_path / str(bf16), digits, bf16=bf16, **shared)
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
        histories.append(torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
    assert len(histories[0]) == 5
    assert not torch.equal(*histories)
    assert_close(*histories, "bfloat16_loss")


def test_tensorboard_has_what_the_log_has(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    shared = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 2}
    trainer = train(tmp_path / "model", digits, report_to="tensorboard", **shared)
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for name in ("loss", "learning_rate", "grad_norm", "clips_per_second", "waiting_for_data"):
        scalars = events.Scalars(f"train/{name}")
        assert [scalar.step for scalar in scalars] == [2, 4]
        assert [scalar.value for scalar in scalars] == pytest.approx([entry[name] for entry in logged])


def test_low_rank_adapters(digits, tmp_path):
    """What `peft` adds is trained and saved, nothing else, and merges into a model of the package."""
    torch.manual_seed(0)
    base = TubeViTForVideoClassification(tiny_config(num_labels=11))
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapters = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    model = get_peft_model(base, adapters)
    train(tmp_path, digits, model, max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4).save_model()
    changed = {
        name for name, tensor in model.named_parameters() if "lora_B" in name and tensor.count_nonzero() > 0
    } | {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "classifier.modules_to_save" in name for name in changed)
    assert sum("lora_B" in name for name in changed) == 2 * (3 + 1)  # layers and pooling
    for name, tensor in model.unload().state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(tensor, before[name])

    assert not (tmp_path / "model.safetensors").exists()
    base.load_state_dict(before)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    clip = torch.randn(2, 7, 3, 40, 56)
    with torch.no_grad():
        expected = loaded(clip).logits
        merged = loaded.merge_and_unload()
        assert_close(merged(clip).logits, expected, "float32")
    merged.save_pretrained(tmp_path / "merged")
    again = TubeViTForVideoClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert_close(again(clip).logits, merged(clip).logits, "float32")


def test_a_loss_that_is_not_finite_ends_the_run(digits, tmp_path):
    with pytest.raises(TrainingDiverged, match=r"The loss is nan at step \d+.*Lower the learning rate"):
        train(tmp_path, digits, max_steps=20, learning_rate=1e30, per_device_train_batch_size=2, save_steps=1)
    # nor were weights saved that are none
    checkpoint = find_checkpoint(tmp_path)
    if checkpoint is not None:
        weights = load_file(Path(checkpoint, "model.safetensors"))
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_weights_that_are_not_finite_are_not_saved(digits, tmp_path):
    """Also where the last step alone broke them."""
    trainer = train(tmp_path, digits, max_steps=1, learning_rate=1e38, save_strategy="no")
    with pytest.raises(TrainingDiverged, match=r"parameters are no longer finite, .* and were not saved"):
        trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()


def test_a_plain_loop_ends_where_the_loss_is_not_finite(digits, start, tmp_path):
    result = run(
        *("run_video_classification_no_trainer.py", "--data_dir", digits, "--model_name_or_path", start),
        *("--output_dir", tmp_path / "model", "--use_cpu", "--num_train_epochs", 2, "--learning_rate", 1e30),
    )
    assert result.returncode == 1
    assert "TrainingDiverged" in result.stderr
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("several", [False, True])
def test_the_data_says_whether_a_video_has_several_labels(several, digits, tmp_path):
    """With MixUp and smoothed labels, which look like several."""
    rows = load_folder(digits)["train"]
    if several:
        names = List(rows.features["label"])
        rows = rows.map(lambda row: {"label": [row["label"]]}, features=Features({**rows.features, "label": names}))
    model = TubeViTForVideoClassification(tiny_config(num_labels=11))
    assert model.config.problem_type is None
    trainer = VideoTrainer(
        model=model,
        args=TrainingArguments(
            tmp_path,
            use_cpu=True,
            report_to="none",
            max_steps=2,
            logging_steps=1,
            label_smoothing_factor=0.1,
            remove_unused_columns=False,
        ),
        train_dataset=ClipDataset(rows, TrainingClip(tiny_video_processor(), 7)),
        mixup=0.3,
    )
    expected = "multi_label_classification" if several else "single_label_classification"
    assert model.config.problem_type == expected
    trainer.train()
    assert model.config.problem_type == expected
    # about what chance gives
    chance = math.log(2) if several else math.log(11)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(chance, rel=0.2)


def test_the_clock_stands_still_while_evaluating(digits, tmp_path, monkeypatch):
    histories = []
    for seconds in (0, 3):
        evaluate = VideoTrainer.evaluate

        def slow(self, *args, pause=seconds, evaluate=evaluate, **kwargs):
            time.sleep(pause)
            return evaluate(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(VideoTrainer, "evaluate", slow)
            shared = {"max_steps": 4, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
            trainer = train(tmp_path / str(seconds), digits, per_device_train_batch_size=2, **shared)
        histories.append([entry["clips_per_second"] for entry in trainer.state.log_history if "loss" in entry])
    # 4 clips and two pauses of 3 s in between would be at most 0.7 clips a second
    assert min(histories[1]) > 1


def test_other_classes_than_the_checkpoints_are_refused(digits, start, tmp_path):
    arguments = [*TRAINING[:-4], "--max_steps", 1, "--save_strategy", "no", "--data_dir", digits, "--output_dir"]
    refused = run("run_video_classification.py", *arguments, tmp_path / "a", "--model_name_or_path", start)
    assert refused.returncode == 2
    assert "Error: the checkpoint knows 5 classes (fall, jump" in refused.stderr
    assert "--ignore_mismatched_sizes" in refused.stderr
    assert "usage" not in refused.stderr
    assert not (tmp_path / "a").exists()


def test_a_model_without_a_classifier_is_not_evaluated(digits, tmp_path):
    TubeViTModel(tiny_config()).save_pretrained(tmp_path / "headless")
    tiny_video_processor().save_pretrained(tmp_path / "headless")
    arguments = ["--model_name_or_path", tmp_path / "headless", "--data_dir", digits, "--output_dir", tmp_path / "out"]
    result = run("run_video_classification.py", *arguments, "--do_eval", *QUIET)
    assert (result.returncode, result.stderr.count("Error: ")) == (2, 1)
    assert "headless: the model has no classifier of videos" in result.stderr


def test_a_full_disk_loses_nothing(digits, tmp_path, monkeypatch):
    """What was saved before stays, and is what a further run goes on from."""
    save = VideoTrainer._save_optimizer_and_scheduler

    def full_disk(self, output_dir: str) -> None:
        if self.state.global_step >= 4:
            raise OSError(28, "No space left on device", output_dir)
        save(self, output_dir)

    monkeypatch.setattr(VideoTrainer, "_save_optimizer_and_scheduler", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        train(tmp_path, digits, max_steps=6, save_steps=2, save_total_limit=1, per_device_train_batch_size=2)
    assert find_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_sharded_training_is_as_whole():
    root = Path(__file__).parents[2]
    line = [sys.executable, "-m", "torch.distributed.run", *TORCHRUN, "2", "-m", "tests.support.fsdp_worker"]
    result = subprocess.run(line, env=ENVIRONMENT, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("kind", ["trainer", "joint", "loop"])
def test_sharded_runs_end_with_whole_models(kind, digits, pictures, start, tmp_path):
    """With the weights of a run that is not sharded."""
    script = {
        "trainer": "run_video_classification.py",
        "joint": "run_joint_image_video.py",
        "loop": "run_video_classification_no_trainer.py",
    }[kind]
    if kind == "loop":
        arguments = ["--data_dir", digits, "--use_cpu", "--num_train_epochs", 1, "--learning_rate", 1e-3]
    else:
        arguments = [*TRAINING, "--save_strategy", "no" if kind == "joint" else "steps"]
        data = [f"motions={digits}", f"pictures={pictures}"]
        arguments += ["--datasets", *data] if kind == "joint" else ["--data_dir", digits, "--save_steps", 3]
    source = "--config_name" if kind == "trainer" else "--model_name_or_path"
    arguments += [source, start]
    whole = run(script, *arguments, "--per_device_train_batch_size", 8, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    launcher = [sys.executable, "-m", "torch.distributed.run", *TORCHRUN, "2", "-m", "tests.support.fsdp_example"]
    line = [*launcher, EXAMPLES / script, *arguments, "--per_device_train_batch_size", 4]
    line += [] if kind == "loop" else ["--ddp_backend", "gloo"]
    sharded = subprocess.run(
        [*map(str, line), "--output_dir", str(tmp_path / "sharded")],
        env={**ENVIRONMENT, "FSDP_CONFIG": str(EXAMPLES / "accelerate" / "fsdp2.yaml")},
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
    )
    assert sharded.returncode == 0, sharded.stderr
    assert_same_weights(tmp_path / "whole", tmp_path / "sharded", "two_processes")
    for folder in ("motions", "pictures") if kind == "joint" else ("",):
        assert (tmp_path / "sharded" / folder / "modeling_tubevit.py").exists()
        assert AutoVideoProcessor.from_pretrained(tmp_path / "sharded" / folder).num_frames == 7


@pytest.mark.parametrize("path", sorted((EXAMPLES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_accelerate(path):
    config = load_config_from_file(str(path))
    classes = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert classes == TubeViTForVideoClassification._no_split_modules
    assert config.num_processes == 8 * config.num_machines
