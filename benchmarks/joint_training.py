# SPDX-License-Identifier: Apache-2.0
"""Do images help video? Which digit moves, learned from few labelled clips, with and without many labelled pictures.

    python benchmarks/joint_training.py

A TubeViT, 128 wide and 4 layers deep, learns from 30 or 100 clips a digit, three ways that take the same number of
optimizer steps: from the clips alone; first from pictures and then from the clips, half of the steps each; or from
both together, half of the batches each, every dataset with a head and a loss of its own. The learning rate of each way
is the best of three by the accuracy on validation clips, found with a seed apart and 30 clips a digit; test clips
chose nothing. Training, validation and test show different handwriting.

Writes a table as JSON and a picture of it. `--folder` keeps the finished runs, so that an interrupted study goes on
where it was.
"""

import argparse
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from common import (
    RESULTS,
    SEEDS,
    Runs,
    choose_rate,
    compare_seeds,
    describe_machine,
    draw_bars,
    evaluate,
    report,
    train,
)
from digits import (
    NUM_DIGITS,
    NUM_IMAGES,
    SPLITS,
    TUBES,
    draw_from,
    draw_handwriting,
    make_pictures,
    normalize,
    small_config,
    stack_frames,
)
from tqdm.auto import trange
from transformers import set_seed

from tubevit_hf import TubeViTForJointClassification
from tubevit_hf.data.moving_digits import DIGIT_SIZE, DIRECTIONS, render_clip


MOST_TILT = 20  # degrees
# as large as in the clips, give or take a third
PICTURE_SIZES = (DIGIT_SIZE * 2 // 3, DIGIT_SIZE * 4 // 3)
CLIPS = {"train": 2000, "validation": 300, "test": 1000}
CLIPS_PER_DIGIT = (30, 100)
TUNING_CLIPS = 30
STEPS = 800
WAYS = ("clips only", "pictures, then clips", "pictures and clips")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/joint_training"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    runs = Runs(arguments.folder / "runs.json")

    def run(way: str, clips_per_digit: int, learning_rate: float, seed: int, split: str) -> dict:
        key = f"{way} {clips_per_digit} {learning_rate} {seed} {split}"
        return runs.get(key, partial(train_and_evaluate, way, clips_per_digit, device, learning_rate, seed, split))

    rates = {way: choose_rate(partial(run, way, TUNING_CLIPS)) for way in WAYS}
    rows = []
    for clips_per_digit in CLIPS_PER_DIGIT:
        for way, learning_rate in rates.items():
            seeds = [run(way, clips_per_digit, learning_rate, seed, "test") for seed in SEEDS]
            setting = f"{clips_per_digit} clips a digit: {way}"
            rows.append({"trained on": setting, "learning rate": learning_rate, **compare_seeds(seeds)})
    title = f"Which digit moves: accuracy on test clips after {STEPS} steps"
    report(f"joint_training_{device.type}", title, describe_machine(device), rows)
    picture = draw_bars(rows, "trained on", title, 100 / NUM_DIGITS)
    picture.savefig(RESULTS / f"joint_training_{device.type}.png", dpi=120)


def train_and_evaluate(
    way: str, clips_per_digit: int, device: torch.device, learning_rate: float, seed: int, split: str
) -> dict:
    set_seed(seed)
    digits = {"labels": [str(digit) for digit in range(NUM_DIGITS)]}
    config = small_config(TUBES, heads={"clips": digits, "pictures": digits})
    model = TubeViTForJointClassification(config).to(device)
    clips = partial(draw_clips, clips_per_digit)
    stages = {
        "clips only": [(clips, STEPS)],
        "pictures, then clips": [(draw_pictures, STEPS // 2), (clips, STEPS // 2)],
        "pictures and clips": [(partial(draw_either, clips), STEPS)],
    }[way]
    for number, (draw_batch, steps) in enumerate(stages):
        description = f"{way}, {clips_per_digit}, {learning_rate}, seed {seed}, stage {number + 1}"
        train(model, draw_batch, steps, learning_rate, description)
    pixels, labels = make_clips(split)
    return {"accuracy": evaluate(model.export("clips", images=False), normalize(pixels), labels)}


@cache
def make_clips(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `(clips, frames, 3, height, width)` of uint8, a digit that moves on almost upright, and the digits."""
    rng = np.random.default_rng([3, SPLITS.index(split)])
    clips, digits = [], []
    for _ in trange(CLIPS[split], desc=f"{split} clips", disable=None):
        digit, label = draw_handwriting(split, rng)
        direction, tilt = rng.choice(list(DIRECTIONS)), rng.uniform(-MOST_TILT, MOST_TILT)
        clips.append(render_clip(digit, direction, rng, angle=tilt))
        digits.append(label)
    return stack_frames(clips), torch.tensor(digits)


@cache
def choose_clips(clips_per_digit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first training clips of each digit, and their digits."""
    pixels, digits = make_clips("train")
    chosen = torch.cat([(digits == digit).nonzero()[:clips_per_digit, 0] for digit in range(NUM_DIGITS)])
    return pixels[chosen], digits[chosen]


def draw_clips(clips_per_digit: int) -> dict:
    return {**draw_from(*choose_clips(clips_per_digit)), "dataset": "clips"}


def draw_pictures() -> dict:
    return {**draw_from(*make_pictures("train", PICTURE_SIZES, MOST_TILT), NUM_IMAGES), "dataset": "pictures"}


def draw_either(draw_clips: partial) -> dict:
    return draw_clips() if torch.rand(()) < 0.5 else draw_pictures()


if __name__ == "__main__":
    main()
