# SPDX-License-Identifier: Apache-2.0
"""docs/coming_from.md: the lines of both columns of its tables run, one after another, as a reader would type them."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig
from transformers.video_utils import VideoMetadata

from tubevit_hf import TubeViTVideoProcessor
from tubevit_hf.data import load_annotated

from ..support.tiny import fill_hub_cache


PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
TABLE = re.compile(r"^<!-- (?P<how>run|read): (?P<left>\w+), (?P<right>\w+) -->\n\n(?P<rows>(?:^\|.*\n)+)", re.M)
CODE = re.compile(r"`([^`]+)`")
TINY = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
SIZE = {"height": 32, "width": 32}
# classes of Transformers, and under which names of the Hub the page has their weights
SOURCES = {
    "videomae": ("VideoMAE", "MCG-NJU/videomae-base-finetuned-kinetics", {"num_frames": 16}),
    "vivit": ("Vivit", "google/vivit-b-16x2-kinetics400", {"num_frames": 32}),
    "timesformer": ("Timesformer", "facebook/timesformer-base-finetuned-k400", {"num_frames": 8}),
}
# what the page says that its reader has
CLIP = 'clip = "demo/moving_digits/validation/up/0000.mp4"'
GIVEN = """
import torch
from tubevit_hf import read_video
from tubevit_hf.data import get_names, load_folder
from tubevit_hf.evaluation import TopKAccuracy
splits = load_folder("demo/moving_digits")
class_names = get_names(splits["train"])
"""
GIVEN_LEFT = """
def load(row):
    frames = list(read_video(row["video"])[0].permute(0, 2, 3, 1).numpy())
    return {"video": processor(frames, return_tensors="pt")["pixel_values"][0], "label": row["label"]}
train_set, val_set = ([load(row) for row in splits[split]] for split in ("train", "validation"))
def collate(clips):
    labels = torch.tensor([clip["label"] for clip in clips])
    return {"pixel_values": torch.stack([clip["video"] for clip in clips]), "labels": labels}
def compute_metrics(prediction):
    return TopKAccuracy(1).compute(predictions=prediction.predictions, references=prediction.label_ids)
"""


def read_columns(how: str) -> dict[str, list[str]]:
    """By the names that stand above the tables, the lines of their columns."""
    columns: dict[str, list[str]] = {}
    for table in TABLE.finditer(PAGE.read_text()):
        if table["how"] != how:
            continue
        for row in table["rows"].splitlines()[2:]:
            cells = row.strip().strip("|").split("|")
            assert len(cells) == 2, row
            for name, cell in zip((table["left"], table["right"]), cells):
                columns.setdefault(name, []).extend(CODE.findall(cell))
    return columns


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """A Hub cache with small random models under the names of the page."""
    cache = tmp_path_factory.mktemp("hub_of_peers")
    for name, (prefix, repo, shape) in SOURCES.items():
        config = AutoConfig.for_model(name, **TINY, **shape, image_size=32, num_labels=3)
        folder = tmp_path_factory.mktemp(name)
        getattr(transformers, f"{prefix}ForVideoClassification")(config).save_pretrained(folder)
        kind = transformers.VivitImageProcessor if name == "vivit" else transformers.VideoMAEImageProcessor
        kind(size=SIZE if name == "vivit" else {"shortest_edge": 32}, crop_size=SIZE).save_pretrained(folder)
        fill_hub_cache(cache, repo, folder)
    return cache


def run(lines: list[str], folder: Path, hub: Path) -> str:
    environment = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def show(name: str, shape: str) -> str:
    return f"\nprint({name!r}, *{shape})"


def test_left_lines_run(after_make_demo, hub, tmp_path):
    (tmp_path / "demo").symlink_to(after_make_demo / "demo")
    script, columns = [], read_columns("run")
    for name in SOURCES:
        lines = columns[name]
        first = next(number for number, line in enumerate(lines) if line.startswith("logits =")) + 1
        # what the second table is given needs the processor of the first
        given = GIVEN_LEFT if name == "videomae" else ""
        shown = [show(name, 'inputs["pixel_values"].shape'), show("logits", "logits.shape")]
        # each column by itself, in one process
        script.append(f"exec({chr(10).join([CLIP, GIVEN, *lines[:first], *shown, given, *lines[first:]])!r}, {{}})")
    output = run(script, tmp_path, hub)
    for name, (_, _, shape) in SOURCES.items():
        assert f"{name} 1 {shape['num_frames']} 3 32 32\nlogits 1 3\n" in output
    assert "trainer.train()" in columns["videomae"]


def test_right_lines_run(after_make_demo, hub, tmp_path):
    (tmp_path / "demo").symlink_to(after_make_demo / "demo")
    lines = read_columns("run")["ours"]
    assert sum(line.startswith("logits =") for line in lines) == 3
    checks = [show("input", 'inputs["pixel_values"].shape'), show("accuracy", '[metrics["eval_top_1_accuracy"] >= 0]')]
    output = run([CLIP, *lines, *checks], tmp_path, hub)
    assert "input 1 16 3 64 64\naccuracy True\n" in output


def test_lines_of_mmaction2_say_what_ours_say(after_make_demo, tmp_path, monkeypatch):
    """What can be compared of a configuration: its numbers."""
    videos = after_make_demo / "demo" / "moving_digits"
    (tmp_path / "videos").symlink_to(videos)
    for split, file in (("train", "train.txt"), ("validation", "val.txt")):
        names = sorted(path.relative_to(videos) for path in videos.glob(f"{split}/*/*.mp4"))
        labels = sorted({name.parts[1] for name in names})
        (tmp_path / file).write_text("".join(f"{name} {labels.index(name.parts[1])}\n" for name in names))
    monkeypatch.chdir(tmp_path)
    columns = read_columns("read")
    theirs: dict = {}
    for line in columns["mmaction2"]:
        calls = [node.func.id for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
        assert set(calls) == {"dict"}, line
        exec(line, theirs)
    ours: dict = {}
    exec("\n".join(columns["ours"]), ours)

    assert ours["config"].hidden_size == theirs["backbone"]["embed_dims"] == theirs["cls_head"]["in_channels"]
    assert len(ours["config"].id2label) == theirs["cls_head"]["num_classes"]
    for name in ("mean", "std"):
        assert [255 * value for value in getattr(ours["processor"], f"image_{name}")] == theirs["data_preprocessor"][
            name
        ]
    assert len(ours["splits"]["train"]) == 11 and len(ours["splits"]["validation"]) == 22
    for clips, sample in (("clips", "sample"), ("views", "test_sample")):
        settings = ours[clips].settings
        assert settings["num_frames"] == theirs[sample]["clip_len"]
        assert 30 / settings["fps"] == theirs[sample]["frame_interval"]
    assert ours["clips_of_all"].settings["num_frames"] == theirs["sample_all"]["clip_len"]
    assert ours["clips_of_all"].settings["fps"] is None
    assert ours["clips"].settings["random_crop"] and ours["clips"].settings["horizontal_flip"]
    assert ours["views"].num_views == 3 * theirs["test_sample"]["num_clips"]
    args = ours["args"]
    assert ours["options"]["mixup"] == theirs["blending"]["alpha"]
    assert (args.learning_rate, args.weight_decay) == (theirs["optimizer"]["lr"], theirs["optimizer"]["weight_decay"])
    assert args.bf16 and args.max_grad_norm == theirs["optim_wrapper"]["clip_grad"]["max_norm"]
    assert args.num_train_epochs == theirs["train_cfg"]["max_epochs"] == theirs["schedule"]["end"]
    assert args.warmup_steps == theirs["warmup"]["end"] / theirs["schedule"]["end"]
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert batch == theirs["auto_scale_lr"]["base_batch_size"]
    assert args.load_best_model_at_end


def test_windows_lie_where_mmaction2_puts_them():
    """With `test_mode=True`: evenly, from the first frame to the last, `frame_interval` apart."""
    total, length, interval, num_clips = 300, 16, 4, 4
    metadata = VideoMetadata(total_num_frames=total, fps=30.0, duration=10.0, video_backend="test")
    window = {"num_frames": length, "fps": 30 / interval, "frame_sampling": "spaced", "num_clips": num_clips}
    clips = TubeViTVideoProcessor().sample_frames(metadata, **window).reshape(num_clips, length)
    assert (clips[:, 1:] - clips[:, :-1] == interval).all()
    last = total - 1 - (length - 1) * interval
    for number, clip in enumerate(clips):
        # ours leave room for the time after the last frame of a clip
        assert 0 <= round(number * last / (num_clips - 1)) - clip[0] < interval


def test_the_list_of_the_page_is_read(tmp_path):
    [listing] = re.findall(r"```text\n(walk/.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "train.txt").write_text(listing)
    (tmp_path / "label_map_own.txt").write_text("walking\nwaving\n")
    files = [line.rsplit(" ", 1)[0] for line in listing.splitlines()]
    for file in files:
        (tmp_path / "videos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / file).touch()
    splits = load_annotated("numbered", tmp_path / "train.txt", tmp_path / "train.txt", tmp_path / "videos")
    assert [Path(path).relative_to(tmp_path / "videos").as_posix() for path in splits["train"]["video"]] == files
    assert splits["train"]["label"][:] == [0, 0, 1]
    assert splits["train"].features["label"].names == ["walking", "waving"]


@pytest.mark.parametrize(("name", "refuses"), [("videomae", True), ("vivit", True), ("timesformer", False)])
def test_who_refuses_other_clips(name, refuses):
    """The page says of VideoMAE and ViViT that they do."""
    prefix, _, shape = SOURCES[name]
    config = AutoConfig.for_model(name, **TINY, **shape, image_size=32)
    model = getattr(transformers, f"{prefix}ForVideoClassification")(config).eval()
    clip = torch.randn(1, 2 * shape["num_frames"], 3, 32, 32)
    if refuses:
        for other in (clip, torch.randn(1, shape["num_frames"], 3, 48, 48)):
            with pytest.raises((RuntimeError, ValueError)):
                model(other)
    else:
        assert model(clip).logits.shape == (1, 2)
