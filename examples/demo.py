# SPDX-License-Identifier: Apache-2.0
"""TubeViT from nothing to predictions in a few minutes on a laptop: what `make demo` runs.

Writes a small set of videos whose label is a motion, trains a small TubeViT on them from scratch with
`run_video_classification.py`, trains it again with a single frame of each clip, and classifies videos that it has not
seen. A report tells how good the model is, and a page shows some of the videos. What is finished is not made again.

    python examples/demo.py --folder demo
    python examples/demo.py --folder quick_demo --quick    # a tenth of the videos, and no second training
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from transformers import pipeline
from transformers.utils import logging

from tubevit_hf import TubeViTConfig, TubeViTVideoProcessor
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES, create_moving_digits
from tubevit_hf.inference import load_model
from tubevit_hf.model.number_types_tubevit import has_bfloat16_units
from tubevit_hf.report import WrittenReport, make_report


EXAMPLE = Path(__file__).with_name("run_video_classification.py")
CLIPS_PER_MOTION = {"train": 400, "validation": 40}
QUICK_SHARE = 10  # a quick run has one clip of so many
EPOCHS = 4

# the paper's kinds of tube, scaled down to clips of 16x64x64: short and wide, long and narrow, and the image patch
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [8, 16, 16]},
    {"kernel_size": [16, 8, 8], "stride": [16, 16, 16], "space_to_depth": [1, 2, 2]},
    {"kernel_size": [1, 16, 16], "stride": [16, 16, 16]},
]


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TubeViT on moving digits</title>
<style>
body {{ font-family: system-ui, sans-serif; line-height: 1.5; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
.videos {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; padding: 0.4rem; border-radius: 0.4rem; border: 2px solid; text-align: center; }}
figure.right {{ border-color: seagreen; }}
figure.wrong {{ border-color: crimson; }}
video {{ width: 8rem; image-rendering: pixelated; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
<h1>TubeViT on moving digits</h1>
<p>{summary}</p>
<p><a href="tubevit/report.html">How good it is, and what it gets wrong</a></p>
<h2>Videos it has not seen</h2>
<p>Above what moves how, below what the model says, and how sure it is.</p>
<div class="videos">{cells}</div>
<h2>How it works</h2>
<p>A clip on its way through the model. <a href="pictures/index.html">More pictures</a></p>
<img src="pictures/passage_light.webp" alt="Frames pass through a block of tubes, tokens fill up, and scores change">
<h2>How it learned</h2>
<img src="tubevit/training_curves.png" alt="Loss and learning rate over the training steps">
</body>
</html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small TubeViT on moving digits and classify videos with it.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to write (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the videos: half a minute, and often wrong")
    arguments = parser.parse_args()
    folder, quick = arguments.folder, arguments.quick
    clips_per_motion = {split: count // (QUICK_SHARE if quick else 1) for split, count in CLIPS_PER_MOTION.items()}
    console = Console()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()

    console.rule("1. Videos")
    videos = folder / "moving_digits"
    try:
        create_moving_digits(videos, clips_per_motion)
    except FileExistsError as error:
        sys.exit(f"Error: {error}")
    console.print(f"{len(MOTIONS)} motions: {', '.join(MOTIONS)}")

    console.rule("2. Training" if quick else "2. Training: all frames of a clip, then the same with one frame")
    write_config(folder / "config")
    model_folder = train(folder, "tubevit", NUM_FRAMES)
    one_frame_folder = None if quick else train(folder, "one_frame", 1)

    console.rule("3. Classification of videos it has not seen")
    predictions = predict(model_folder, videos)
    print_predictions(console, predictions, videos)
    draw_pictures(model_folder, videos / "validation" / "turn_right" / "0000.mp4", folder / "pictures")

    summary = summarize(model_folder, one_frame_folder, len(MOTIONS) * clips_per_motion["validation"])
    page = write_page(folder, summary, predictions)

    console.rule("4. How good it is, on all of these")
    report = report_on(model_folder, videos)
    for limit in report.measurement.limits:
        console.print(f"- {limit}", highlight=False, markup=False)

    console.rule("Done")
    console.print(
        f"{summary}\n\n"
        f"model    {model_folder}\n"
        f"metrics  {model_folder / 'all_results.json'}\n"
        f"page     {page}, with videos and pictures\n"
        f"report   {report.page}, where it is wrong and whether its scores can be believed\n",
        highlight=False,
    )
    clip = videos / "validation" / "turn_left" / "0000.mp4"
    console.print("Next, type:", highlight=False)
    print(
        f"  {sys.executable}\n"
        "  >>> import tubevit_hf\n"
        "  >>> from transformers import pipeline\n"
        f'  >>> classify = pipeline("video-classification", model="{model_folder}")\n'
        f'  >>> classify("{clip}")'
    )


def write_config(folder: Path) -> None:
    """A model of 3 layers for small clips, and the processor that suits it."""
    TubeViTConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=512,
        image_size=FRAME_SIZE,
        num_frames=NUM_FRAMES,
        tubes=TUBES,
    ).save_pretrained(folder)
    size = {"height": FRAME_SIZE, "width": FRAME_SIZE}
    TubeViTVideoProcessor(size=size, crop_size=size, num_frames=NUM_FRAMES).save_pretrained(folder)


def train(folder: Path, name: str, num_frames: int) -> Path:
    """Trains from scratch into `folder/name`, which appears when the training is complete."""
    finished, unfinished = folder / name, folder / "unfinished" / name
    if finished.exists():
        print(f"{finished} is there already; remove it to train again.")
        return finished
    shutil.rmtree(unfinished, ignore_errors=True)
    arguments = {
        "config_name": folder / "config",
        "data_dir": folder / "moving_digits",
        "output_dir": unfinished,
        "num_frames": num_frames,
        "do_train": True,
        "do_eval": True,
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 32,
        "eval_clips": 1,
        "eval_crops": 1,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "bf16": has_bfloat16_units(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "logging_steps": 0.1,
        "disable_tqdm": not sys.stderr.isatty(),
        "save_strategy": "no",
    }
    command = [sys.executable, EXAMPLE, *(f"--{key}={value}" for key, value in arguments.items())]
    environment = {
        # threads that spin while they wait slow each other down on busy cores
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": str(int(not sys.stderr.isatty())),
    }
    subprocess.run(command, check=True, env={**environment, **os.environ})
    unfinished.rename(finished)
    unfinished.parent.rmdir()
    return finished


def predict(model_folder: Path, videos: Path) -> list[tuple[str, Path, dict]]:
    """Motion, file and the best prediction for one held-out video of each motion, by the pipeline."""
    classify = pipeline("video-classification", model=str(model_folder))
    files = [(motion, videos / "validation" / motion / "0000.mp4") for motion in MOTIONS]
    return [(motion, file, classify(str(file), top_k=1)[0]) for motion, file in files]


def print_predictions(console: Console, predictions: list[tuple[str, Path, dict]], videos: Path) -> None:
    table = Table("video", "predicted", "score")
    for motion, file, best in predictions:
        colour = "green" if best["label"] == motion else "red"
        table.add_row(str(file.relative_to(videos)), f"[{colour}]{best['label']}[/]", f"{best['score']:.3f}")
    console.print(table)


def summarize(model_folder: Path, one_frame_folder: Path | None, num_clips: int) -> str:
    """How well it learned and, where a second model has seen single frames, that these do not tell the motion."""
    seconds = read_metric(model_folder, "train", "train_runtime")
    accuracy = read_metric(model_folder, "eval", "eval_top_1_accuracy")
    chance = f"chance is {1 / len(MOTIONS):.1%}"
    found = f"Accuracy on {num_clips} clips of unseen digits: {accuracy:.1%} after {seconds:.0f} s of training"
    if one_frame_folder is None:
        return f"{found} on few of them ({chance}). Without --quick it learns what they do."
    accuracy = read_metric(one_frame_folder, "eval", "eval_top_1_accuracy")
    return f"{found}.\nThe same model with one frame of a clip: {accuracy:.1%} ({chance}): the label is the motion."


def write_page(folder: Path, summary: str, predictions: list[tuple[str, Path, dict]]) -> Path:
    """A page with the videos, what the model said of them, and the pictures."""
    cells = "".join(
        f'<figure class="{"right" if best["label"] == motion else "wrong"}">'
        f'<video src="{file.relative_to(folder)}" autoplay loop muted playsinline></video>'
        f"<figcaption>{motion}<br><b>{best['label']}</b> {best['score']:.1%}</figcaption></figure>"
        for motion, file, best in predictions
    )
    page = folder / "index.html"
    page.write_text(PAGE.format(summary=summary.replace("\n", "<br>"), cells=cells), encoding="utf-8")
    return page


def draw_pictures(model_folder: Path, video: Path, folder: Path) -> None:
    """How the model works, on a video that it has not seen."""
    command = [sys.executable, "-m", "tubevit_hf.cli", "visualize", model_folder, video, "--out", folder]
    subprocess.run([*command, "--overwrite"], check=True, stdout=subprocess.DEVNULL)


def report_on(model_folder: Path, videos: Path) -> WrittenReport:
    """A page that tells how good the model is on videos that it was not trained on, as `tubevit report` makes it."""

    def watch(items: Iterable[object], total: int) -> Iterable[object]:
        return tqdm(items, total=total, unit="video", disable=not sys.stderr.isatty())

    return make_report(str(model_folder), load_model(str(model_folder)), videos, watch=watch)


def read_metric(folder: Path, split: str, name: str) -> float:
    return json.loads((folder / f"{split}_results.json").read_text())[name]


if __name__ == "__main__":
    main()
