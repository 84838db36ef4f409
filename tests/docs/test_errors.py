# SPDX-License-Identifier: Apache-2.0
"""Every error that docs/errors.md quotes is one that the code has; some are raised, and say the same to the letter."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForVideoClassification,
    TubeViTVideoProcessor,
    convert_vit,
    read_video,
)
from tubevit_hf.data import load_folder
from tubevit_hf.data.labelled import load_labelled
from tubevit_hf.explanation import pooling_attention
from tubevit_hf.training import RECIPES
from tubevit_hf.training.from_folder import parse_given

from ..support.tiny import tiny_config


ROOT = Path(__file__).parents[2]
QUOTE = re.compile(r"(?m)^> (.*)$")
QUOTED = QUOTE.findall((ROOT / "docs" / "errors.md").read_text("utf-8"))
# letters that a message has of its own, or it would be like any other
LEAST = 15


def read_templates() -> Iterator[re.Pattern]:
    """Every text of the package, with anything in the place of what is filled in."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part_of(value, constants) for value in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            if sum(len(part) for part in parts if part is not None) >= LEAST:
                yield re.compile("".join(".*" if part is None else re.escape(part) for part in parts))


def part_of(value: ast.expr, constants: dict[str, str]) -> str | None:
    """What is always the same of a part of an f-string; `None` for what is not."""
    if isinstance(value, ast.Constant):
        return value.value
    inner = value.value if isinstance(value, ast.FormattedValue) else value
    return constants.get(inner.id) if isinstance(inner, ast.Name) else None


@pytest.fixture(scope="module")
def templates() -> list[re.Pattern]:
    return list(read_templates())


def test_quoted_errors_are_in_the_code(templates):
    assert len(QUOTED) > 60
    strange = [quote for quote in QUOTED if not any(template.fullmatch(quote) for template in templates)]
    assert not strange, "docs/errors.md quotes what the code does not say:\n" + "\n".join(strange)


def test_a_message_that_nobody_says_is_found(templates):
    for message in ("The loss is nan at step 41. Warm up for longer.", "it holds no sound stream (found: audio)."):
        assert not any(template.fullmatch(message) for template in templates)


def model(**changes) -> TubeViTForVideoClassification:
    return TubeViTForVideoClassification(tiny_config(**changes)).eval()


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def load_beside_val() -> None:
    touch("my_videos/train/run/1.mp4", "my_videos/val/run/1.mp4")
    load_labelled("my_videos", None)


def load_one_class() -> None:
    touch("my_videos/train/run/1.mp4", "my_videos/validation/run/1.mp4")
    load_folder("my_videos")


def load_empty_class() -> None:
    touch("my_videos/train/run/1.mp4")
    Path("my_videos/train/wave").mkdir()
    load_folder("my_videos")


def load_without_videos() -> None:
    Path("my_videos").mkdir()
    load_labelled("my_videos", None)


def load_without_classes() -> None:
    touch("my_videos/1.mp4")
    load_labelled("my_videos", None)


def load_pickle() -> None:
    model().save_pretrained("my_model")
    Path("my_model/model.safetensors").rename("my_model/pytorch_model.bin")
    TubeViTForVideoClassification.from_pretrained("my_model")


def convert_swin() -> None:
    touch("my_swin/config.json")
    Path("my_swin/config.json").write_text('{"model_type": "swin"}')
    convert_vit("my_swin")


def convert_pickle() -> None:
    touch("vit.pth")
    convert_vit("vit.pth")


def read_playlist() -> None:
    Path("list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n")
    read_video("list.m3u8")


CLIP = torch.zeros(1, 4, 3, 32, 48)
TUBE = {"kernel_size": [8, 8, 8], "stride": [8, 16, 16]}
RAISED = {
    "small clip": lambda: TubeViTForVideoClassification(TubeViTConfig.from_preset("Ti", num_hidden_layers=1))(
        torch.zeros(1, 4, 3, 8, 8)
    ),
    "axes": lambda: model()(torch.zeros(1, 3, 32, 64, 64)),
    "no batch": lambda: model()(torch.zeros(3, 64, 64)),
    "bytes": lambda: model()(CLIP.to(torch.uint8)),
    "frame_mask": lambda: TubeViTForVideoClassification(
        TubeViTConfig.from_preset("Ti", num_hidden_layers=1, image_size=32, num_frames=8, tubes=[TUBE])
    )(torch.zeros(1, 8, 3, 32, 32), frame_mask=torch.arange(8)[None] < 2),
    "label": lambda: model(num_labels=3)(CLIP, labels=torch.tensor([7])),
    "preset": lambda: TubeViTConfig.from_preset("XL"),
    "tube's key": lambda: TubeViTConfig(tubes=[{"kernel_size": [8, 8, 8], "strides": [8, 16, 16]}]),
    "space-to-depth": lambda: TubeViTConfig(tubes=[{**TUBE, "space_to_depth": [1, 3, 3]}]),
    "no CLS": lambda: TubeViTConfig(pooling_type="cls"),
    "heads": lambda: TubeViTConfig.from_preset("Ti", num_attention_heads=5),
    "layers": lambda: TubeViTConfig(num_hidden_layers=5000),
    "pickle": load_pickle,
    "no video": lambda: read_video(None),
    "playlist": read_playlist,
    "window": lambda: TubeViTVideoProcessor(num_frames=32, fps=8)(
        torch.zeros(64, 3, 32, 32, dtype=torch.uint8), do_sample_frames=True
    ),
    "short array": lambda: TubeViTVideoProcessor(num_frames=32)(torch.zeros(16, 3, 32, 32, dtype=torch.uint8)),
    "beside val": load_beside_val,
    "one class": load_one_class,
    "empty class": load_empty_class,
    "no videos": load_without_videos,
    "no classes": load_without_classes,
    "batch": lambda: RECIPES["k400-b"].accumulation_steps(24, 1),
    "swin": convert_swin,
    "vit.pth": convert_pickle,
    "attention": lambda: pooling_attention(model(pooling_type="cls", use_cls_token=True), CLIP),
    "argument": lambda: parse_given(["--max_epochs", "3"]),
}


@pytest.mark.parametrize("name", RAISED)
def test_quoted_errors_are_raised(name, tmp_path, monkeypatch):
    """To the letter, but for the name of a file that a reader of videos puts before."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError, OSError)) as raised:
        RAISED[name]()
    message = str(raised.value).splitlines()[-1].strip()
    assert message in QUOTED or message.partition(": ")[2] in QUOTED
