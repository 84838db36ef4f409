# SPDX-License-Identifier: Apache-2.0
"""Does the attention pooling learn from weights at `initializer_range`?

    make demo
    python benchmarks/initialization.py --folder demo

Trains the demo's model on the demo's videos from each kind of initial weights, with the same seeds, the same order of
clips and the same number of steps, and reports the validation accuracy of each seed.
"""

import argparse
import statistics
from pathlib import Path

import torch
from common import BATCH_SIZE, describe_machine, evaluate, report, train
from torch import nn
from tqdm.auto import tqdm
from transformers import set_seed

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor, read_video
from tubevit_hf.data.moving_digits import MOTIONS


LEARNING_RATE = 2e-3


def as_built(model: nn.Module) -> None:
    """Unit query and Xavier projections in the pooling, `initializer_range` elsewhere."""


def query_at_initializer_range(model: nn.Module) -> None:
    nn.init.trunc_normal_(model.tubevit.pooler.query, std=model.config.initializer_range)


def projections_at_initializer_range(model: nn.Module) -> None:
    pooler = model.tubevit.pooler
    for projection in (pooler.q_proj, pooler.k_proj, pooler.v_proj, pooler.o_proj):
        nn.init.trunc_normal_(projection.weight, std=model.config.initializer_range)


def pooling_at_initializer_range(model: nn.Module) -> None:
    query_at_initializer_range(model)
    projections_at_initializer_range(model)


def xavier_everywhere(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    query_at_initializer_range(model)


VARIANTS = (
    as_built,
    query_at_initializer_range,
    projections_at_initializer_range,
    pooling_at_initializer_range,
    xavier_everywhere,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="what `make demo` wrote")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    splits = {split: load_clips(arguments.folder, split) for split in ("train", "validation")}

    def draw_batch() -> dict[str, torch.Tensor]:
        clips, labels = splits["train"]
        chosen = torch.randint(len(clips), (BATCH_SIZE,))
        return {"pixel_values": clips[chosen], "labels": labels[chosen]}

    rows = []
    for variant in VARIANTS:
        accuracies = []
        for seed in range(arguments.seeds):
            set_seed(seed)
            config = TubeViTConfig.from_pretrained(arguments.folder / "config", num_labels=len(MOTIONS))
            model = TubeViTForVideoClassification(config)
            with torch.no_grad():
                variant(model)
            description = f"{variant.__name__}, seed {seed}"
            train(model.to(device), draw_batch, arguments.steps, LEARNING_RATE, description)
            accuracies.append(evaluate(model, *splits["validation"]))
        rows.append(
            {
                "initial weights": variant.__name__.replace("_", " "),
                "median accuracy (%)": statistics.median(accuracies),
                "each seed": ", ".join(f"{accuracy:.1f}" for accuracy in accuracies),
            }
        )
    title = f"Accuracy on the demo's validation videos after {arguments.steps} steps of {BATCH_SIZE} clips"
    report(f"initialization_{device.type}", title, describe_machine(device), rows)


def load_clips(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All clips of a split, normalized, in bfloat16, and their labels."""
    processor = TubeViTVideoProcessor.from_pretrained(folder / "config")
    clips, labels = [], []
    for label, motion in enumerate(MOTIONS):
        for path in tqdm(sorted((folder / "moving_digits" / split / motion).glob("*.mp4")), desc=motion, disable=None):
            pixel_values = processor(read_video(path)[0], do_sample_frames=False, return_tensors="pt")["pixel_values"]
            clips.append(pixel_values[0].bfloat16())
            labels.append(label)
    return torch.stack(clips), torch.tensor(labels)


if __name__ == "__main__":
    main()
