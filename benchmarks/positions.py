# SPDX-License-Identifier: Apache-2.0
"""What do position embeddings give where the label needs place or order? On moving digits.

    python benchmarks/positions.py

A motion can be told without knowing where in the clip it is, so all embeddings tie there. Here the label is

- place: in which of 3x4 cells the digit is in the first frame, before it moves or turns on;
- order: which of four directions it takes first and which other one then, in two shots of 8 frames, 12 pairs in all.
  Every tube sees each shot alike and none sees both: without positions nothing tells which came first, so that half of
  the clips is the most there is.

The model is 128 wide and 4 layers deep. The learning rate of each embedding is the best of three by the accuracy on
validation clips, found with a seed apart; test clips chose nothing. Training, validation and test show different
handwriting.

Writes a table as JSON and a picture of it. `--folder` keeps the finished runs, so that an interrupted study goes on
where it was.
"""

import argparse
from functools import cache, partial
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from common import (
    BATCH_SIZE,
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
from digits import SPLITS, draw_from, draw_handwriting, normalize, small_config, stack_frames
from tqdm.auto import trange
from transformers import set_seed

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES, render_clip


# of different strides, so that the same index is not the same place; none sees frames 7 and 8 together
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [8, 16, 16]},
    {"kernel_size": [4, 16, 16], "stride": [8, 32, 32], "offset": [2, 8, 8]},
    {"kernel_size": [1, 16, 16], "stride": [8, 16, 16]},
]
POSITIONS = ("none", "learned", "tube_index", "tube_center")
CELLS = (3, 4)  # rows and columns
PAIRS = list(permutations(("right", "up", "left", "down"), 2))
NUM_CLASSES = len(PAIRS)  # as many as there are cells
CLIPS = {"train": 3000, "validation": 300, "test": 900}
STEPS = {"place": 300, "order": 700}


def render_place(split: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A clip and the cell of its first frame that the digit's centre lies in."""
    cell = int(rng.integers(NUM_CLASSES))
    # not at the cell's border, where none could tell
    start = (np.unravel_index(cell, CELLS) + rng.uniform(0.2, 0.8, size=2)) * FRAME_SIZE / CELLS
    return render_clip(draw_handwriting(split, rng)[0], rng.choice(MOTIONS), rng, start), cell


def render_order(split: str, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A clip of two shots and the pair of their directions."""
    pair = int(rng.integers(NUM_CLASSES))
    digit = draw_handwriting(split, rng)[0]
    shots = [render_clip(digit, motion, rng)[: NUM_FRAMES // 2] for motion in PAIRS[pair]]
    return np.concatenate(shots), pair


LABELS = {"place": render_place, "order": render_order}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/positions"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    runs = Runs(arguments.folder / "runs.json")

    def run(label: str, positions: str, learning_rate: float, seed: int, split: str) -> dict:
        key = f"{label} {STEPS[label]} {positions} {learning_rate} {seed} {split}"
        return runs.get(key, partial(train_and_evaluate, label, positions, device, learning_rate, seed, split))

    rows = []
    for label in LABELS:
        for positions in POSITIONS:
            run_setting = partial(run, label, positions)
            learning_rate = choose_rate(run_setting)
            seeds = [run_setting(learning_rate, seed, "test") for seed in SEEDS]
            rows.append({"setting": f"{label}: {positions}", "learning rate": learning_rate, **compare_seeds(seeds)})
    steps = " and ".join(f"{steps} ({label})" for label, steps in STEPS.items())
    title = f"Accuracy on test clips after {steps} steps of {BATCH_SIZE} clips"
    report(f"positions_{device.type}", title, describe_machine(device), rows)
    draw_bars(rows, "setting", title, 100 / NUM_CLASSES).savefig(RESULTS / f"positions_{device.type}.png", dpi=120)


def train_and_evaluate(
    label: str, positions: str, device: torch.device, learning_rate: float, seed: int, split: str
) -> dict:
    set_seed(seed)
    config = small_config(TUBES, position_embedding_type=positions, num_labels=NUM_CLASSES)
    model = TubeViTForVideoClassification(config).to(device)
    draw_batch = partial(draw_from, *make_labelled_clips(label, "train"))
    train(model, draw_batch, STEPS[label], learning_rate, f"{label}, {positions}, {learning_rate}, seed {seed}")
    clips, labels = make_labelled_clips(label, split)
    return {"accuracy": evaluate(model, normalize(clips), labels)}


@cache
def make_labelled_clips(label: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `(clips, frames, 3, height, width)` of uint8, and their labels."""
    rng = np.random.default_rng([2, SPLITS.index(split)])
    progress = trange(CLIPS[split], desc=f"{split} clips", disable=None)
    clips, labels = zip(*(LABELS[label](split, rng) for _ in progress))
    return stack_frames(list(clips)), torch.tensor(labels)


if __name__ == "__main__":
    main()
