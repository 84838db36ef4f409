# SPDX-License-Identifier: Apache-2.0
"""TubeViT beside other video Transformers, all trained from scratch on the same clips: moving digits.

    python benchmarks/peers.py

ViViT, VideoMAE's encoder and TimeSformer of Transformers, and dense tubelets (2x16x16, no gaps) in our own encoder,
all 128 wide and 4 layers deep and none compiled, learn the motion in 16 frames of 64x64. All use PyTorch's fused
attention but TimeSformer, for which Transformers has none. Each has the same number of steps and of trials for its
learning rate, which is the best of three by the accuracy on validation clips, found with a seed apart; test clips
chose nothing. The seconds of a step are measured at the end, all models in turn, and give the curve of accuracy
against time. Training, validation and test show different handwriting.

Writes a table as JSON and a picture of it. `--folder` keeps the finished runs, so that an interrupted comparison goes
on where it was.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from common import (
    BATCH_SIZE,
    RESULTS,
    SEEDS,
    Runs,
    choose_rate,
    compare_seeds,
    describe_machine,
    evaluate,
    report,
    summarise,
    time_interleaved,
    train,
)
from digits import draw_from, make_clips, normalize
from matplotlib.figure import Figure
from transformers import (
    PreTrainedModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VivitConfig,
    VivitForVideoClassification,
    set_seed,
)
from transformers.utils import logging

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES


PATCH_SIZE = 16
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": FRAME_SIZE,
    "num_frames": NUM_FRAMES,
    "num_labels": len(MOTIONS),
}
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [8, 16, 16]},
    {"kernel_size": [16, 8, 8], "stride": [16, 16, 16], "space_to_depth": [1, 2, 2]},
    {"kernel_size": [1, PATCH_SIZE, PATCH_SIZE], "stride": [16, PATCH_SIZE, PATCH_SIZE]},
]
TUBELET = [2, PATCH_SIZE, PATCH_SIZE]
STEPS = 600
EVALUATE_EVERY = 50


def build_tubevit(tubes: list[dict]) -> TubeViTForVideoClassification:
    return TubeViTForVideoClassification(TubeViTConfig(**SHAPE, tubes=tubes))


MODELS = {
    "TubeViT": partial(build_tubevit, TUBES),
    "dense tubelets": partial(build_tubevit, [{"kernel_size": TUBELET, "stride": TUBELET}]),
    "VideoMAE": lambda: VideoMAEForVideoClassification(
        VideoMAEConfig(**SHAPE, patch_size=PATCH_SIZE, tubelet_size=TUBELET[0])
    ),
    "ViViT": lambda: VivitForVideoClassification(VivitConfig(**SHAPE, tubelet_size=TUBELET)),
    "TimeSformer": lambda: TimesformerForVideoClassification(TimesformerConfig(**SHAPE, patch_size=PATCH_SIZE)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/peers"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    logging.set_verbosity_error()
    runs = Runs(arguments.folder / "runs.json")

    rows, curves = [], {}
    for name in MODELS:

        def run(learning_rate: float, seed: int, split: str, name: str = name) -> dict:
            key = f"{name} {learning_rate} {seed} {split}"
            return runs.get(key, partial(train_and_evaluate, name, device, learning_rate, seed, split))

        learning_rate = choose_rate(run)
        seeds = [run(learning_rate, seed, "test") for seed in SEEDS]
        curves[name] = [result["curve"] for result in seeds]
        rows.append({"model": name, "learning rate": learning_rate, **compare_seeds(seeds)})
    add_costs(rows, device)
    title = f"Accuracy on test clips after {STEPS} steps of {BATCH_SIZE} clips, from scratch"
    report(f"peers_{device.type}", title, describe_machine(device), rows)
    draw(rows, curves).savefig(RESULTS / f"peers_{device.type}.png", dpi=120)


def train_and_evaluate(name: str, device: torch.device, learning_rate: float, seed: int, split: str) -> dict:
    """Accuracy of one run, in percent, and its curve as pairs of steps and accuracy."""
    set_seed(seed)
    model = MODELS[name]().to(device)
    clips, training = make_clips(split), make_clips("train")
    pixel_values = normalize(clips.pixels)
    curve = []

    def after_step(step: int) -> None:
        if step % EVALUATE_EVERY == 0:
            curve.append((step, evaluate(model, pixel_values, clips.motions)))
            model.train()

    draw_batch = partial(draw_from, training.pixels, training.motions)
    train(model, draw_batch, STEPS, learning_rate, f"{name}, {learning_rate}, seed {seed}", after_step=after_step)
    return {"accuracy": curve[-1][1], "curve": curve}


def add_costs(rows: list[dict], device: torch.device) -> None:
    """Millions of parameters, tokens, and seconds a training step, all models in turn."""
    models = {name: build().to(device) for name, build in MODELS.items()}
    clips = make_clips("train")
    draw_batch = partial(draw_from, clips.pixels, clips.motions)
    steps = 10
    seconds = time_interleaved(
        {name: partial(train, model, draw_batch, steps, 1e-6, name) for name, model in models.items()},
        device,
        rounds=5,
    )
    pixel_values = draw_batch()["pixel_values"].to(device)
    for row, (name, model) in zip(rows, models.items()):
        ratio = summarise([theirs / ours for theirs, ours in zip(seconds[name], seconds["TubeViT"])])
        row["tokens"] = count_tokens(model, pixel_values)
        row["M parameters"] = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        row["s a step"] = statistics.median(seconds[name]) / steps
        row["/ TubeViT"] = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


@torch.no_grad()
def count_tokens(model: PreTrainedModel, pixel_values: torch.Tensor) -> int:
    """Of one clip, a CLS token included."""
    return model(pixel_values[:1], output_hidden_states=True).hidden_states[0].shape[1]


def draw(rows: list[dict], curves: dict[str, list]) -> Figure:
    """Accuracy against steps and against seconds: a line for each seed's run."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for color, row in zip(("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple"), rows):
        for number, curve in enumerate(curves[row["model"]]):
            steps, accuracies = zip((0, 100 / len(MOTIONS)), *curve)
            label = row["model"] if number == 0 else None
            by_steps.plot(steps, accuracies, color=color, label=label)
            by_seconds.plot([step * row["s a step"] for step in steps], accuracies, color=color)
    by_steps.set(xlabel="training steps", ylabel="accuracy on test clips (%)", ylim=(0, 100))
    by_seconds.set(xlabel="seconds of training")
    figure.legend(loc="outside lower center", ncols=len(rows))
    figure.suptitle(f"Motion of a digit, from scratch, {BATCH_SIZE} clips a step, three seeds each")
    return figure


if __name__ == "__main__":
    main()
