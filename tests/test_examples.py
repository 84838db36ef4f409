# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The example scripts, run as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForVideoClassification, VideoMAEConfig, VideoMAEVideoProcessor, pipeline

from tubevit_hf.data.moving_digits import MOTIONS, create_moving_digits

from .conftest import tiny_config, tiny_video_processor


EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = {"height": 40, "width": 56}


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    create_moving_digits(folder, {"train": 1, "validation": 1})
    return folder


def run_example(*arguments) -> subprocess.CompletedProcess:
    script = EXAMPLES / "run_video_classification.py"
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)


def training_arguments(digits: Path, output: Path) -> list:
    return [
        *("--data_dir", digits, "--output_dir", output, "--do_train", "--do_eval", "--use_cpu"),
        *("--max_steps", 2, "--per_device_train_batch_size", 3, "--save_strategy", "no", "--disable_tqdm", True),
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
    accuracy = json.loads((trained / "eval_results.json").read_text())["eval_accuracy"]
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


def test_other_architectures_train_too(digits, tmp_path):
    config = VideoMAEConfig(
        image_size=32,
        num_frames=4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=40,
    )
    config.save_pretrained(tmp_path / "config")
    size = {"height": 32, "width": 32}
    VideoMAEVideoProcessor(size=size, crop_size=size).save_pretrained(tmp_path / "config")
    result = run_example("--config_name", tmp_path / "config", *training_arguments(digits, tmp_path / "model"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_model_must_be_named(digits, tmp_path):
    result = run_example(*training_arguments(digits, tmp_path / "model"))
    assert result.returncode == 2
    assert "--model_name_or_path" in result.stderr and "--config_name" in result.stderr
