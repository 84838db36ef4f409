# SPDX-License-Identifier: Apache-2.0
"""The example scripts, run as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import (
    AutoModelForVideoClassification,
    VideoMAEConfig,
    VideoMAEVideoProcessor,
    VJEPA2Config,
    VJEPA2VideoProcessor,
    pipeline,
)

from tubevit_hf.data.moving_digits import MOTIONS, create_moving_digits

from ..support.tiny import tiny_config, tiny_video_processor


EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = {"height": 40, "width": 56}


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    create_moving_digits(folder, {"train": 1, "validation": 1})
    return folder


def run_example(*arguments, script: str = "run_video_classification.py") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, EXAMPLES / script, *map(str, arguments)], capture_output=True, text=True)


def training_arguments(digits: Path, output: Path) -> list:
    return [
        *("--data_dir", digits, "--output_dir", output, "--do_train", "--do_eval", "--use_cpu"),
        *("--max_steps", 2, "--per_device_train_batch_size", 3, "--save_strategy", "no", "--disable_tqdm", True),
        *("--eval_clips", 1, "--eval_crops", 1),
    ]


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory) -> Path:
    """A TubeViT that the example trained from scratch for two steps."""
    folder = tmp_path_factory.mktemp("example")
    tiny_config().save_pretrained(folder / "config")
    tiny_video_processor().save_pretrained(folder / "config")
    result = run_example("--config_name", folder / "config", *training_arguments(digits, folder / "model"))
    assert result.returncode == 0, result.stderr
    return folder / "model"


def test_output_folder_holds_all_that_its_users_need(trained):
    model = AutoModelForVideoClassification.from_pretrained(trained)
    assert sorted(model.config.label2id) == sorted(MOTIONS)
    assert model.config.problem_type == "single_label_classification"
    accuracy = json.loads((trained / "eval_results.json").read_text())["eval_top_1_accuracy"]
    card = (trained / "README.md").read_text()
    assert f"| accuracy | {accuracy:.4g} |" in card
    assert "apache-2.0" in card


def test_pipelines_run_on_the_output_folder(trained, digits):
    predictions = pipeline("video-classification", model=str(trained))(str(digits / "validation/up/0000.mp4"))
    assert sum(prediction["score"] for prediction in predictions) <= 1
    assert {prediction["label"] for prediction in predictions} <= set(MOTIONS)


def test_fine_tuning_continues_from_a_checkpoint(trained, digits, tmp_path):
    result = run_example("--model_name_or_path", trained, *training_arguments(digits, tmp_path / "model"))
    assert result.returncode == 0, result.stderr


def test_one_frame(trained, digits, tmp_path):
    result = run_example("--config_name", trained, "--num_frames", 1, *training_arguments(digits, tmp_path / "model"))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_frames"] == 1


def test_evaluation_with_more_tokens(trained, digits, tmp_path):
    arguments = ["--model_name_or_path", trained, "--data_dir", digits, "--do_eval", "--use_cpu", "--output_dir"]
    result = run_example(*arguments, tmp_path / "finer", "--finer_strides", 1, 2, 2)
    assert result.returncode == 0, result.stderr
    assert 0 <= json.loads((tmp_path / "finer" / "eval_results.json").read_text())["eval_top_1_accuracy"] <= 1
    result = run_example(*arguments, tmp_path / "refused", "--finer_strides", 1, 3, 3)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: a tube's stride of [4, 16, 24] cannot be divided")


def test_a_recipe_alone_trains_its_own_model_from_scratch(digits, tmp_path):
    result = run_example(
        *("--recipe", "ssv2-b", "--num_frames", 2, "--data_dir", digits, "--output_dir", tmp_path / "model"),
        *("--do_train", "--max_steps", 1, "--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 1),
        *("--use_cpu", "--save_strategy", "no", "--disable_tqdm", True),
    )
    assert result.returncode == 0, result.stderr
    config = AutoModelForVideoClassification.from_pretrained(tmp_path / "model").config
    assert (config.hidden_size, config.num_hidden_layers, config.num_frames) == (768, 12, 2)
    assert config.hidden_dropout_prob == 0.3
    assert json.loads((tmp_path / "model" / "video_preprocessor_config.json").read_text())["num_frames"] == 2


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_other_architectures_train_too(kind, digits, tmp_path):
    """Also one whose input and number of frames have other names."""
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    size = {"height": 32, "width": 32}
    if kind == "videomae":
        config = VideoMAEConfig(**shape, image_size=32, num_frames=4, intermediate_size=40)
        processor = VideoMAEVideoProcessor(size=size, crop_size=size)
    else:
        config = VJEPA2Config(**shape, crop_size=32, frames_per_clip=4, num_pooler_layers=1, pred_num_hidden_layers=1)
        processor = VJEPA2VideoProcessor(size={"shortest_edge": 36}, crop_size=size)
    config.save_pretrained(tmp_path / "config")
    processor.save_pretrained(tmp_path / "config")
    arguments = ["--config_name", tmp_path / "config", *training_arguments(digits, tmp_path / "model")]
    result = run_example(*arguments, "--mixup", 0.3)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert json.loads((tmp_path / "model" / "run_arguments.json").read_text())["num_frames"] == 4


def test_annotation_file_with_several_labels(digits, tmp_path):
    """And a recipe, which other arguments override."""
    tiny_config().save_pretrained(tmp_path / "config")
    tiny_video_processor().save_pretrained(tmp_path / "config")
    for split in ("train", "validation"):
        files = sorted(path.relative_to(digits).as_posix() for path in digits.glob(f"{split}/*/*.mp4"))
        rows = [{"video": file, "label": Path(file).parent.name.split("_")} for file in files]
        (tmp_path / f"{split}.json").write_text(json.dumps([*rows, {"video": "gone.mp4", "label": ["up"]}]))
    result = run_example(
        *("--config_name", tmp_path / "config", "--dataset_format", "list", "--video_dir", digits),
        *("--train_annotations", tmp_path / "train.json", "--validation_annotations", tmp_path / "validation.json"),
        *("--recipe", "charades-b", "--num_frames", 7, "--gradient_accumulation_steps", 1, "--warmup_steps", 1),
        *("--eval_clips", 2, "--eval_crops", 3, "--per_device_train_batch_size", 4),
        *("--output_dir", tmp_path / "model", "--do_train", "--do_eval", "--use_cpu", "--max_steps", 2),
        *("--save_strategy", "no", "--disable_tqdm", True),
    )
    assert result.returncode == 0, result.stderr
    assert "1 video(s) of train are passed over" in result.stderr
    assert "gone.mp4: there is no such file" in result.stderr
    config = AutoModelForVideoClassification.from_pretrained(tmp_path / "model").config
    assert config.problem_type == "multi_label_classification"
    assert list(config.label2id) == ["down", "left", "rest", "right", "turn", "up"]
    assert config.hidden_dropout_prob == 0.2
    assert 0 < json.loads((tmp_path / "model" / "eval_results.json").read_text())["eval_mean_average_precision"] <= 1
    used = json.loads((tmp_path / "model" / "run_arguments.json").read_text())
    expected = {"recipe": "charades-b", "fps": 6, "num_frames": 7, "weight_decay": 1e-3, "max_steps": 2}
    assert {name: used[name] for name in expected} == expected
    assert (tmp_path / "model" / "training_curves.png").stat().st_size > 1000


def test_joint_training_exports_a_model_for_each_pipeline(digits, tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    tiny_video_processor().save_pretrained(tmp_path / "config")
    for split in ("train", "validation"):
        for value, name in enumerate(("dark", "light")):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            Image.new("RGB", (64, 48), (200 * value, 0, 50)).save(tmp_path / "pictures" / split / name / "0.png")
    result = run_example(
        *("--config_name", tmp_path / "config", "--output_dir", tmp_path / "model", "--do_train", "--do_eval"),
        *(
            "--datasets",
            f"motions={digits}",
            f"pictures={tmp_path / 'pictures'}",
            "--weights",
            "motions=1",
            "pictures=2",
        ),
        *("--use_cpu", "--max_steps", 3, "--per_device_train_batch_size", 2, "--eval_clips", 1, "--eval_crops", 1),
        *("--save_strategy", "no", "--disable_tqdm", True),
        script="run_joint_image_video.py",
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "model" / "eval_results.json").read_text())
    assert {"eval_motions_top_1_accuracy", "eval_pictures_top_1_accuracy"} <= metrics.keys()
    classify = pipeline("video-classification", model=str(tmp_path / "model" / "motions"))
    assert classify(str(digits / "validation/up/0000.mp4"))[0]["label"] in MOTIONS
    classify = pipeline("image-classification", model=str(tmp_path / "model" / "pictures"))
    found = classify(str(tmp_path / "pictures" / "train" / "dark" / "0.png"))
    assert {prediction["label"] for prediction in found} == {"dark", "light"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "train=DIGITS"], "must not have the name 'train'"),
        (["--datasets", "k4.v1=DIGITS"], "its name have no dot"),
        (["--datasets", "a=DIGITS", "a=DIGITS"], "expected NAME=... with another name each, got 'a="),
        (["--datasets", "DIGITS"], "expected NAME=..."),
        (["--datasets", "a=DIGITS", "--weights", "a=0"], "--weights must give each of a a share above 0"),
        (["--datasets", "a=DIGITS", "--weights", "a=b"], "could not convert"),
        (["--datasets", "a=DIGITS/nowhere"], "it holds 0 folder(s) of classes"),
        (["--datasets", "a=DIGITS", "--config_name", "OTHER"], "is a 'videomae'; only a TubeViT reads"),
        (["--datasets", "a=DIGITS", "--num_frames", "0"], "`num_frames` must be at least 1"),
    ],
)
def test_what_joint_training_refuses(arguments, message, digits, tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    tiny_video_processor().save_pretrained(tmp_path / "config")
    VideoMAEConfig().save_pretrained(tmp_path / "other")
    places = {"DIGITS": str(digits), "OTHER": str(tmp_path / "other")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    result = run_example(
        *("--config_name", tmp_path / "config", "--output_dir", tmp_path / "model", "--do_train", "--use_cpu"),
        *arguments,
        script="run_joint_image_video.py",
    )
    assert result.returncode == 2, result.stderr
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rand_augment", "2"], "`rand_augment` must be two numbers"),
        (["--num_frames", "0"], "`num_frames` must be at least 1"),
        (["--fps", "-3"], "`fps` above 0"),
        (["--eval_clips", "0"], "must be at least 1"),
        (["--recipe", "k400-b", "--per_device_train_batch_size", "6"], "or give `gradient_accumulation_steps`"),
        (["--data_dir", "nowhere"], "nowhere/train: it holds 0 folder(s) of classes"),
        (["--config_name", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_training_refuses(arguments, message, digits, tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    tiny_video_processor().save_pretrained(tmp_path / "config")
    defaults = ["--config_name", tmp_path / "config", *training_arguments(digits, tmp_path / "model")]
    result = run_example(*defaults, *arguments)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert message in result.stderr[result.stderr.index("Error: ") :]
    assert not (tmp_path / "model").exists()


def test_a_run_of_other_arguments_is_not_gone_on_with(digits, tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    tiny_video_processor().save_pretrained(tmp_path / "config")
    arguments = ["--config_name", tmp_path / "config", *training_arguments(digits, tmp_path / "model")]
    arguments += ["--save_strategy", "steps", "--save_steps", 1]
    assert run_example(*arguments).returncode == 0
    results = (tmp_path / "model" / "train_results.json").read_text()
    other = run_example(*arguments, "--learning_rate", 0.01)
    assert other.returncode == 2
    assert "learning_rate was 5e-05 and is 0.01. Give those to go on with it, --resume_from_checkpoint" in other.stderr
    assert json.loads((tmp_path / "model" / "run_arguments.json").read_text())["learning_rate"] == 5e-05
    # what has no effect on the weights may change, and a run that is at its end keeps its results
    again = run_example(*arguments, "--logging_steps", 1)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "model" / "train_results.json").read_text() == results


def test_arguments_override_a_recipe(digits, tmp_path):
    """Epochs its steps, and a batch by whichever spelling its accumulation."""
    tiny_config().save_pretrained(tmp_path / "config")
    tiny_video_processor().save_pretrained(tmp_path / "config")
    result = run_example(
        *("--recipe", "charades-b", "--config_name", tmp_path / "config", "--data_dir", digits, "--do_train"),
        *("--per-device-train-batch-size", 4, "--num_train_epochs", 1, "--use_cpu", "--num_frames", 7),
        *("--output_dir", tmp_path / "model", "--warmup_steps", 1, "--save_strategy", "no", "--fps", 16),
    )
    assert result.returncode == 0, result.stderr
    used = json.loads((tmp_path / "model" / "run_arguments.json").read_text())
    assert (used["gradient_accumulation_steps"], used["max_steps"], used["num_train_epochs"]) == (16, -1, 1)


def test_a_model_must_be_named(digits, tmp_path):
    result = run_example(*training_arguments(digits, tmp_path / "model"))
    assert result.returncode == 2
    assert "--model_name_or_path" in result.stderr and "--config_name" in result.stderr
