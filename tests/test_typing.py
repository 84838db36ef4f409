# SPDX-License-Identifier: Apache-2.0
"""The package passes pyrefly, and tells a user's type checker what its names are and where they are misused."""

import importlib
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import tubevit_hf


ROOT = Path(__file__).parents[1]
# line and rule
DIAGNOSTIC = re.compile(r"^ *(?:ERROR|WARN) .*?:(\d+):.*\[([a-z-]+)\]$", re.M)
ROOMS = (
    "tubevit_hf",
    *(f"tubevit_hf.{room}" for room in ("conversion", "data", "evaluation", "training", "visualization")),
)

USE = """
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.image_processing_base import BatchFeature
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from typing_extensions import assert_type

from tubevit_hf import (
    ConversionReport,
    TubeViTConfig,
    TubeViTForImageClassification,
    TubeViTForJointClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTPreTrainedModel,
    TubeViTVideoProcessor,
    VideoFileMetadata,
    VideoReader,
    convert_vit,
    read_video,
)
from tubevit_hf.training import VideoTrainer

config = TubeViTConfig.from_preset("Ti", num_frames=16)
assert_type(config, TubeViTConfig)
assert_type(TubeViTConfig(hidden_size=96, num_labels=5, id2label={0: "run"}), TubeViTConfig)
assert_type(config.num_tokens(), int)
assert_type(config.num_labels, int)
assert_type(config.native_size, tuple[int, int, int])

model = TubeViTForVideoClassification(config).to("cuda").eval()
assert_type(model, TubeViTForVideoClassification)
assert_type(model.config, TubeViTConfig)
assert_type(model.base_model, TubeViTModel)
processor = TubeViTVideoProcessor.from_pretrained("folder")
assert_type(processor, TubeViTVideoProcessor)
assert_type(TubeViTVideoProcessor(short_clips="pad"), TubeViTVideoProcessor)
for videos in ("a.mp4", Path("a.mp4"), b"...", ["a.mp4", "b.mp4"], [["0.jpg"], ["1.jpg"]], torch.zeros(4, 3, 8, 8)):
    processor(videos)
inputs = processor(Path("clip.mp4"), num_frames=16, num_clips=2, frame_sampling="random", return_tensors="pt")
assert_type(inputs, BatchFeature)
outputs = model(**inputs, output_hidden_states=True)
assert_type(outputs, ImageClassifierOutput)
assert outputs.logits is not None
assert_type(outputs.logits.shape, torch.Size)
features = TubeViTModel.from_pretrained("folder", dtype=torch.bfloat16)(torch.zeros(1, 16, 3, 224, 224))
assert_type(features, BaseModelOutputWithPooling)

assert_type(convert_vit("folder", positions="tube_center"), tuple[TubeViTPreTrainedModel, ConversionReport])
frames, metadata = read_video("clip.mp4", lambda metadata: range(0, metadata.total_num_frames, 2))
assert_type(frames, torch.Tensor)
assert_type(metadata, VideoFileMetadata)
assert_type(metadata.fps, float | None)
with VideoReader("clip.mp4") as reader:
    assert_type(reader.get_frames([0]), tuple[torch.Tensor, VideoFileMetadata])
    assert_type(reader.metadata, VideoFileMetadata)

trainer = VideoTrainer(model, mixup=0.3)
assert_type(trainer.model, PreTrainedModel)
joint = TubeViTForJointClassification.from_pretrained("folder")
assert_type(joint(frames, dataset="images"), ImageClassifierOutput)
assert_type(joint.export("images"), TubeViTForVideoClassification | TubeViTForImageClassification)
"""

# each mistake with the rule that finds it
MISUSE = """
import torch

from tubevit_hf import TubeVitModel  # missing-module-attribute
from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor, convert_vit, read_video

config = TubeViTConfig.from_preset("Ti")
TubeViTConfig(hidden_size="x")  # bad-argument-type
TubeViTConfig(hidden_sise=192)  # unexpected-keyword
config.num_token()  # not-callable
config.num_tokens("32")  # bad-argument-type
TubeViTForVideoClassification("Ti")  # bad-argument-type
model = TubeViTForVideoClassification(config)
model(pixel_value=torch.zeros(1, 32, 3, 224, 224))  # unexpected-keyword
model(torch.zeros(1, 32, 3, 224, 224)).logit  # missing-attribute
processor = TubeViTVideoProcessor(short_clip="pad")  # unexpected-keyword
processor("clip.mp4", num_clip=4)  # unexpected-keyword
processor("clip.mp4", frame_sampling="randomly")  # bad-argument-type
convert_vit("folder", new_tubes="inflate")  # bad-argument-type
read_video(3)  # bad-argument-type
frames, metadata, rest = read_video("clip.mp4")  # bad-unpacking
"""


def run_pyrefly(*arguments: str, cwd: Path) -> str:
    """What pyrefly says, a line for each finding, with the packages that these tests run with."""
    command = [sys.executable, "-m", "pyrefly", "check", "--python-interpreter-path", sys.executable]
    run = subprocess.run(
        [*command, "--output-format", "min-text", "--min-severity", "info", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    # what it found it counts; where it cannot run, there is no count
    assert re.search(r"INFO \d+ diagnostic", run.stderr), run.stderr
    return run.stdout


def check_file(folder: Path, text: str) -> str:
    """The same of a user's file, checked strictly."""
    Path(folder, "pyrefly.toml").write_text('preset = "strict"\n', encoding="utf-8")
    Path(folder, "use.py").write_text(text, encoding="utf-8")
    return run_pyrefly("use.py", cwd=folder)


# for the oldest Python, and for this one, whose standard library types more of what Transformers takes
@pytest.mark.parametrize("version", ["3.10", f"{sys.version_info.major}.{sys.version_info.minor}"])
def test_package_has_no_error(version):
    assert run_pyrefly("--python-version", version, cwd=ROOT) == ""


def test_package_ships_its_types():
    assert (files(tubevit_hf) / "py.typed").is_file()


def test_types_of_a_users_objects(tmp_path):
    assert DIAGNOSTIC.findall(found := check_file(tmp_path, USE)) == [], found


def test_mistakes_of_a_user_are_found(tmp_path):
    expected = [
        (str(number), rule)
        for number, line in enumerate(MISUSE.splitlines(), start=1)
        for _, mark, rule in [line.rpartition("  # ")]
        if mark
    ]
    found = check_file(tmp_path, MISUSE)
    assert DIAGNOSTIC.findall(found) == expected, found


def test_every_public_name_has_a_type(tmp_path):
    names = [f"{room}.{name}" for room in ROOMS for name in importlib.import_module(room).__all__]
    lines = ["from typing_extensions import reveal_type"]
    lines += [f"import {room}" for room in ROOMS]
    lines += [f"reveal_type({name})" for name in names]
    revealed = re.findall(r"revealed type: (.*) \[reveal-type\]", check_file(tmp_path, "\n".join(lines)))
    assert len(revealed) == len(names)
    assert [name for name, kind in zip(names, revealed) if "Unknown" in kind or kind == "Any"] == []
