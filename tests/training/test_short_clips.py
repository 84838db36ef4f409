# SPDX-License-Identifier: Apache-2.0
"""Training on clips of different lengths, padded and packed: as on each clip alone."""

import subprocess
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments, VideoMAEConfig, VideoMAEForVideoClassification

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset, EvaluationViews, JointDataset, TrainingClip, collate_clips, pack_clips
from tubevit_hf.training import FrozenClips, TubeViTForJointClassification, VideoTrainer

from ..support.modeling_cases import assert_all_close
from ..support.tiny import rows_of, tiny_config, tiny_video_processor, write_video
from ..support.tolerances import assert_close
from .test_training_runs import ENVIRONMENT, QUIET, assert_same_weights, command, losses


LENGTHS = (5, 13, 3, 9, 6, 20, 7, 11)


@pytest.fixture(scope="session")
def short_videos(tmp_path_factory) -> Path:
    """Class folders of videos with 3 to 20 frames."""
    folder = tmp_path_factory.mktemp("short")
    for split, seed in (("train", 0), ("validation", 50)):
        for name in ("a", "b", "c"):
            (folder / split / name).mkdir(parents=True)
            for length in LENGTHS[: 8 if split == "train" else 3]:
                seed += 1
                write_video(folder / split / name / f"{length}.mp4", length, 44 + 2 * (seed % 4), 62, seed=seed)
    return folder


@pytest.fixture
def clips(short_videos) -> ClipDataset:
    """Clips of 3 to 12 frames."""
    videos = sorted((short_videos / "train").glob("*/*.mp4"))
    rows = rows_of(list(map(str, videos)), [ord(video.parent.name) - ord("a") for video in videos])
    return ClipDataset(rows, TrainingClip(tiny_video_processor(), 12, fps=10, short_clips="pad"), seed=3)


@pytest.fixture
def views(clips) -> ClipDataset:
    views = EvaluationViews(tiny_video_processor(), 12, fps=10, num_clips=2, short_clips="pad")
    return ClipDataset(clips.rows, views)


def new_model(**settings) -> TubeViTForVideoClassification:
    torch.manual_seed(0)
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "problem_type": "single_label_classification"}
    return TubeViTForVideoClassification(tiny_config(num_frames=12, gate_layer=1, **labels, **settings))


@pytest.mark.parametrize("collate", [collate_clips, pack_clips])
def test_a_batch_is_the_mean_of_its_clips(collate, clips):
    """Loss and gradients, of float32 models as of a training run."""
    model = new_model().train()
    chosen = [clips[index] for index in (0, 3, 10, 12, 21)]
    assert len({len(clip["pixel_values"]) for clip in chosen}) == 5
    batch = collate(chosen)
    assert ("frame_mask" in batch) == (collate is collate_clips)
    found = model(**batch).loss
    found.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = torch.stack([model(clip["pixel_values"][None], labels=clip["labels"][None]).loss for clip in chosen])
    alone.mean().backward()
    assert alone.std() > 1e-3
    assert_close(found, alone.mean(), "packed", "loss")
    assert_all_close(gradients, {name: parameter.grad for name, parameter in model.named_parameters()}, "packed")


def train(folder: Path, clips, views=None, model=None, pack: bool = False, mixup: float = 0.0, **arguments):
    return VideoTrainer(
        model=model or new_model(),
        args=TrainingArguments(
            folder,
            **{
                "use_cpu": True,
                "remove_unused_columns": False,
                "report_to": "none",
                "max_steps": 5,
                "learning_rate": 1e-3,
                "optim": "sgd",
                "save_strategy": "no",
                "disable_tqdm": True,
                **arguments,
            },
        ),
        train_dataset=clips,
        eval_dataset=views,
        pack=pack,
        mixup=mixup,
    )


def weights(trainer: VideoTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return dict(trainer.model.named_parameters())


@pytest.mark.parametrize("settings", [{}, {"joint_layer": 1, "num_hidden_layers": 2}], ids=["plain", "joint_layer"])
def test_padded_packed_and_accumulated_runs_end_alike(settings, clips, tmp_path):
    """With a last batch that is smaller; single clips have no padding."""
    if settings:
        settings = {**settings, "tubes": [{"kernel_size": [1, 8, 8], "stride": [2, 8, 8]}]}
    shared = {"per_device_train_batch_size": 5, "max_steps": 7}
    padded = weights(train(tmp_path / "a", clips, model=new_model(**settings), **shared))
    packed = weights(train(tmp_path / "b", clips, model=new_model(**settings), pack=True, **shared))
    single = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 5, "max_steps": 7}
    accumulated = weights(train(tmp_path / "c", clips, model=new_model(**settings), **single))
    assert_all_close(packed, padded, "accumulated")
    assert_all_close(padded, accumulated, "accumulated")
    start = dict(new_model(**settings).named_parameters())
    assert any((padded[name] - start[name]).abs().max() > 1e-4 for name in start)


def test_packed_clips_of_joint_datasets(clips, tmp_path):
    heads = {name: {"labels": ["a", "b", "c"]} for name in ("one", "other")}
    datasets = [ClipDataset(clips.rows, clips.load, name=name) for name in heads]
    ends = []
    for pack in (False, True):
        torch.manual_seed(0)
        model = TubeViTForJointClassification(tiny_config(num_frames=12, heads=heads))
        trainer = train(tmp_path / str(pack), JointDataset(datasets), model=model, pack=pack)
        ends.append(weights(trainer))
        # counted as of padded clips, and there are fewer pixels
        assert trainer.state.total_flos > 0
    assert_all_close(*ends, "accumulated")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation_sees_no_padding(batch_size, clips, views, tmp_path):
    """The metrics of padded batches, of which the last is smaller, are those of videos one by one."""
    found = [
        train(tmp_path, clips, views, per_device_eval_batch_size=size).evaluate()["eval_loss"]
        for size in (1, batch_size + 1)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_what_does_not_go_with_different_lengths_is_refused(clips, views, tmp_path):
    config = VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    other = VideoMAEForVideoClassification(config)
    repeated = ClipDataset(clips.rows, TrainingClip(tiny_video_processor(), 12))
    frozen = FrozenClips(ClipDataset(clips.rows, repeated.load, copies=1), tmp_path)
    for settings, message in (
        ({"clips": clips, "model": other}, "is for TubeViT, got a model of type 'videomae'"),
        ({"clips": repeated, "views": views, "model": other}, '`short_clips="pad"` is for TubeViT'),
        ({"clips": repeated, "views": {"all": views}, "model": other}, '`short_clips="pad"` is for TubeViT'),
        ({"clips": repeated, "pack": True, "model": other}, "`pack` is for TubeViT"),
        ({"clips": clips, "mixup": 0.2}, '`mixup` blends clips of one length, and `short_clips="pad"` leaves'),
        ({"clips": repeated, "pack": True, "mixup": 0.2}, "`mixup` blends clips of one length, and `pack` leaves"),
        ({"clips": frozen, "pack": True}, "`pack` is for clips; what frozen layers gave"),
        ({"clips": clips, "pack": True, "torch_compile": True}, "`pack` does not go with `torch_compile`"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path, **settings)
    # nor is anything refused that needs no padding
    train(tmp_path, repeated, model=other)
    train(tmp_path, repeated, views, mixup=0.2)


def run(script: str, *arguments: object, num_processes: int = 1) -> subprocess.CompletedProcess:
    line = command(script, *arguments, num_processes=num_processes)
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture
def start(tmp_path) -> Path:
    folder = tmp_path / "start"
    new_model().save_pretrained(folder)
    tiny_video_processor(num_frames=12).save_pretrained(folder)
    return folder


def test_the_example_pads_and_packs(short_videos, start, tmp_path):
    """On one process padded, on two packed: the clips that share a batch are others, the losses are not."""
    arguments = [
        *(*QUIET, "--do_train", "--do_eval", "--max_steps", 6, "--learning_rate", 1e-3, "--logging_steps", 1),
        *("--save_strategy", "no", "--data_dir", short_videos, "--model_name_or_path", start, "--fps", 10),
        *("--short_clips", "pad", "--per_device_train_batch_size"),
    ]
    padded = run("run_video_classification.py", *arguments, 8, "--output_dir", tmp_path / "padded")
    assert padded.returncode == 0, padded.stderr
    arguments += [4, "--pack", "--ddp_backend", "gloo", "--output_dir", tmp_path / "packed"]
    packed = run("run_video_classification.py", *arguments, num_processes=2)
    assert packed.returncode == 0, packed.stderr
    assert_same_weights(tmp_path / "padded", tmp_path / "packed", "two_processes")
    assert_close(torch.tensor(losses(tmp_path / "packed")), losses(tmp_path / "padded"), "two_processes")


def test_the_plain_loop_pads(short_videos, start, tmp_path):
    """Also where one of two processes has a clip that is too short for some of the tubes."""
    arguments = [
        *("--data_dir", short_videos, "--use_cpu", "--num_train_epochs", 1, "--model_name_or_path", start),
        *("--learning_rate", 1e-3, "--short_clips", "pad", "--per_device_train_batch_size"),
    ]
    script = "run_video_classification_no_trainer.py"
    one = run(script, *arguments, 2, "--output_dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = run(script, *arguments, 1, "--output_dir", tmp_path / "two", num_processes=2)
    assert two.returncode == 0, two.stderr
    assert_same_weights(tmp_path / "one", tmp_path / "two", "two_processes")


def test_few_videos_refuse_short_clips(short_videos, start, tmp_path):
    for extra in (["--short_clips", "pad"], ["--pack"]):
        result = run(
            *("run_video_classification.py", *QUIET, "--recipe", "small", "--do_train", "--data_dir", short_videos),
            *("--model_name_or_path", start, "--output_dir", tmp_path / "out", *extra),
        )
        assert result.returncode == 2
        assert "leave out --short_clips and --pack" in result.stderr
        assert not (tmp_path / "out").exists()
