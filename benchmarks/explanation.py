# SPDX-License-Identifier: Apache-2.0
"""Does an explanation name what the model needs? On moving digits, for each method of `tubevit explain`.

    python benchmarks/explanation.py

The demo's model is trained from scratch, and test clips, which chose nothing, are explained for the label that it
gives them. For each method

- the area under the deletion curve: pixels are replaced by the clip's mean colour, the most important first, and the
  lower the label's probability is on average on the way, the better. Pixels go as the method ranks them and, as single
  pixels can fool a model, also in blocks of 2 frames and 8x8 pixels, by the mean in each. Random explanations are
  those of tokens, shared out as attention is, and those of blocks;
- how often the peak lies on the digit: on a pixel that is nearer to the digit's colour than to the background's. Where
  several pixels are highest together, the share of these. Beside it what a pixel drawn at random has.

And what taking out a stretch of time tells: clips move in one half only and stand still in the other, and of four
stretches the one without which the score falls most should lie in the moving half, in which half of them lie. They are
those of eight directions that the model names rightly.

Writes a table as JSON. `--folder` keeps the finished runs, so that an interrupted study goes on where it was.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import BATCH_SIZE, SEEDS, Runs, describe_machine, evaluate, print_table, train, write_result
from digits import TUBES, draw_from, make_clips, normalize
from torch import nn
from tqdm.auto import tqdm
from transformers import set_seed

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.data.moving_digits import DIRECTIONS, FRAME_SIZE, MOTIONS, NUM_FRAMES
from tubevit_hf.explanation import deletion_curve, explain_clips, occlude_time, to_heat
from tubevit_hf.explanation.gradient import mean_colour
from tubevit_hf.explanation.regions import share_out, token_regions
from tubevit_hf.explanation.scores import log_odds
from tubevit_hf.model.stages_tubevit import Encoded


# as in examples/demo.py
STEPS = 300
LEARNING_RATE = 3e-3
CLIPS_PER_MOTION = 10
BLOCK = (2, 8, 8)
NUM_DELETIONS = 16
AREAS = ("area", "area of blocks")
SIZE = (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE)

# of a model, `(batch, num_frames, channels, height, width)` and labels: `(batch, num_frames, height, width)`
Explain = Callable[[TubeViTForVideoClassification, torch.Tensor, torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/explanation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    runs = Runs(arguments.folder / "runs.json")
    results = [
        runs.get(f"{STEPS} {CLIPS_PER_MOTION} {seed}", partial(train_and_explain, seed, device))
        for seed in arguments.seeds
    ]
    rows = [compare(method, [result["methods"] for result in results]) for method in METHODS]
    windows = [
        {"instead": fill, **list_seeds("moving half (%)", [result["windows"][fill] for result in results])}
        for fill in results[0]["windows"]
    ]
    title = (
        f"Explanations of {CLIPS_PER_MOTION * len(MOTIONS)} test clips, {len(results)} seed(s), accuracy "
        f"{', '.join(format(result['accuracy'], '.1f') for result in results)}%; a random pixel is on the digit in "
        f"{statistics.median(result['digit'] for result in results):.1f}%"
    )
    machine = describe_machine(device)
    print_table(f"{title}\n{machine['hardware']}", rows)
    print_table("Clips that move in one half: the stretch without which the score falls most lies there", windows)
    write_result("explanation_digits", {"title": title, "machine": machine, "rows": rows, "windows": windows})


def compare(method: str, results: list[dict]) -> dict:
    """A row: medians, and each seed."""
    chance = [min(of_seed[name][kind] for name in RANDOM for kind in AREAS) for of_seed in results]
    row = {"method": method}
    for kind in AREAS:
        row |= list_seeds(kind, [of_seed[method][kind] for of_seed in results], 3)
    if method not in RANDOM:
        better = [max(of_seed[method][kind] for kind in AREAS) < area for of_seed, area in zip(results, chance)]
        row["below random"] = f"{sum(better)} of {len(results)}"
    return row | list_seeds("peak on digit (%)", [of_seed[method]["peak"] for of_seed in results])


def list_seeds(name: str, values: list[float], digits: int = 1) -> dict:
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return {name: round(statistics.median(values), digits), f"{name}, each seed": each}


def train_and_explain(seed: int, device: torch.device) -> dict:
    set_seed(seed)
    config = TubeViTConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=512,
        image_size=FRAME_SIZE,
        num_frames=NUM_FRAMES,
        tubes=TUBES,
        num_labels=len(MOTIONS),
    )
    model = TubeViTForVideoClassification(config).to(device)
    clips = make_clips("train")
    train(model, partial(draw_from, clips.pixels, clips.motions), STEPS, LEARNING_RATE, f"seed {seed}")
    model.eval()
    clips = make_clips("test")
    accuracy = evaluate(model, normalize(clips.pixels), clips.motions)
    # of each motion as many
    chosen = torch.cat([(clips.motions == motion).nonzero()[:CLIPS_PER_MOTION, 0] for motion in range(len(MOTIONS))])
    pixels, motions = clips.pixels[chosen], clips.motions[chosen]
    digit = find_digit(pixels)
    methods = {
        name: measure(model, pixels, digit, explain)
        for name, explain in tqdm(METHODS.items(), desc=f"seed {seed}: methods", disable=None)
    }
    windows = {fill: find_moving_half(model, pixels, motions, fill) for fill in ("hold", "mean")}
    return {
        "accuracy": accuracy,
        "digit": 100 * digit.double().mean().item(),
        "methods": methods,
        "windows": windows,
    }


def find_digit(pixels: torch.Tensor) -> torch.Tensor:
    """Where the digit is: `(clips, frames, 3, height, width) -> (clips, frames, height, width)`, bool."""
    brightness = pixels.float().sum(dim=2)
    # most of a clip is background
    background = brightness.flatten(1).median(dim=1).values
    brightest = brightness.flatten(1).amax(dim=1)
    return brightness > ((background + brightest) / 2)[:, None, None, None]


def measure(
    model: TubeViTForVideoClassification, pixels: torch.Tensor, digit: torch.Tensor, explain: Explain
) -> dict[str, float]:
    areas, of_blocks, peaks = [], [], []
    for batch, on_digit in zip(pixels.split(BATCH_SIZE), digit.split(BATCH_SIZE)):
        clips = normalize(batch).to(model.device)
        with torch.no_grad():
            labels = model(clips).logits.argmax(dim=-1)
        parts = explain(model, clips, labels)
        for kind, ranked in ((areas, parts), (of_blocks, average_blocks(parts))):
            curve = deletion_curve(model, clips, ranked, labels, NUM_DELETIONS)
            kind.append(torch.trapezoid(curve, dim=1).cpu() / NUM_DELETIONS)
        highest = (parts == parts.amax(dim=(1, 2, 3), keepdim=True)).cpu()
        peaks.append((highest & on_digit).sum(dim=(1, 2, 3)) / highest.sum(dim=(1, 2, 3)))
    return {
        "area": torch.cat(areas).mean().item(),
        "area of blocks": torch.cat(of_blocks).mean().item(),
        "peak": 100 * torch.cat(peaks).mean().item(),
    }


def average_blocks(parts: torch.Tensor) -> torch.Tensor:
    """The mean of each block, at all of its pixels."""
    blocks = nn.functional.avg_pool3d(parts[:, None], BLOCK)
    return nn.functional.interpolate(blocks, scale_factor=BLOCK, mode="nearest")[:, 0]


def random_tokens(model: TubeViTForVideoClassification, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    shares = torch.rand(len(clips), model.config.num_tokens(), device=clips.device)
    return share_out(shares, token_regions(model.config, SIZE), SIZE)


def random_blocks(model: TubeViTForVideoClassification, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return average_blocks(torch.rand(len(clips), *SIZE, device=clips.device))


def gradient_of_tokens(
    model: TubeViTForVideoClassification, clips: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Integrated gradients at the tokens, each shared out evenly over its region."""
    base_model = model.base_model
    layout = base_model.embeddings.layout(clips)
    with torch.no_grad():
        tokens, blank = base_model.embeddings(clips), base_model.embeddings(mean_colour(clips))
    total = torch.zeros_like(tokens)
    for step in range(8):
        states = (blank + (step + 0.5) / 8 * (tokens - blank)).requires_grad_()
        encoded = base_model.joint_stage(base_model.layers, Encoded.start(states, base_model.config))
        logits = model.classifier(base_model.finish(encoded, layout, None).pooler_output)
        total += torch.autograd.grad(log_odds(logits, labels, None).sum(), states)[0] / 8
    return share_out((total * (tokens - blank)).sum(dim=-1), token_regions(model.config, SIZE), SIZE)


def as_shown(model: TubeViTForVideoClassification, clips: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The default, as smooth as in pictures."""
    parts = explain_clips(model, clips, labels=labels)
    return torch.stack([to_heat(of_clip, smooth=True) for of_clip in parts])


RANDOM: dict[str, Explain] = {"random tokens": random_tokens, "random blocks": random_blocks}
METHODS: dict[str, Explain] = {
    **RANDOM,
    "attention": lambda model, clips, labels: explain_clips(model, clips, "attention", labels),
    "rollout": lambda model, clips, labels: explain_clips(model, clips, "rollout", labels),
    "gradient at the tokens, shared out": gradient_of_tokens,
    "gradient (default)": lambda model, clips, labels: explain_clips(model, clips, "gradient", labels),
    "gradient, as pictures show it": as_shown,
}


def find_moving_half(
    model: TubeViTForVideoClassification, pixels: torch.Tensor, motions: torch.Tensor, fill: str
) -> float:
    """How often the stretch without which the score falls most lies where something moves, in percent."""
    moves = motions < len(DIRECTIONS)
    half = NUM_FRAMES // 2
    right = []
    for stands_first in (True, False):
        clips, labels = normalize(pixels[moves]).to(model.device), motions[moves].to(model.device)
        if stands_first:
            clips[:, :half] = clips[:, half : half + 1]
        else:
            clips[:, half:] = clips[:, half - 1 : half]
        with torch.no_grad():
            named = model(clips).logits.argmax(dim=-1) == labels
        if named.any():
            most = occlude_time(model, clips[named], 4, labels[named], fill).argmax(dim=1)
            right.append((most >= 2) == stands_first)
    return 100 * torch.cat(right).double().mean().item()


if __name__ == "__main__":
    main()
