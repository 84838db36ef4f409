# SPDX-License-Identifier: Apache-2.0
"""What do class weights and balanced sampling do for rare classes? Moving digits, two of whose eleven motions have a
twentieth of the clips of the others.

    python benchmarks/imbalance.py

A small TubeViT is trained from scratch as it is, with `class_weights` and with `balanced`, at equal steps and
learning rate. Training clips are shifted at random, which changes no motion since what leaves on one side comes in on
the other. Recall is of test clips, as many of each motion, of handwriting that training did not see. `--folder` keeps
the finished runs, so that an interrupted comparison goes on where it was.
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import BATCH_SIZE, SEEDS, Runs, describe_machine, print_table, write_result
from datasets import ClassLabel, Dataset, Features, Value
from digits import TUBES, make_clips, normalize, small_config
from transformers import TrainingArguments, set_seed

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS
from tubevit_hf.training import VideoTrainer, inverse_frequencies


RARE = ("left", "turn_left")
CLIPS = {"often": 200, "rare": 10}
WAYS = ("as it is", "class_weights", "balanced")


class ShiftedClip:
    """A clip by its number, shifted to a random place."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels = pixels

    def __call__(self, number: str) -> torch.Tensor:
        shift = torch.randint(FRAME_SIZE, (2,)).tolist()
        return normalize(self.pixels[int(number)]).roll(shift, dims=(-2, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path("build/imbalance"))
    arguments = parser.parse_args()
    runs = Runs(arguments.folder / f"runs_{arguments.steps}.json")
    found = {
        way: [runs.get(f"{way}, seed {seed}", partial(train_once, way, seed, arguments.steps)) for seed in SEEDS]
        for way in WAYS
    }
    rows = [summarise_way(way, results) for way, results in found.items()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = describe_machine(device)
    title = (
        f"{len(MOTIONS)} motions, {CLIPS['often']} training clips of each but {CLIPS['rare']} of {' and '.join(RARE)}"
    )
    print_table(f"{title}\n{machine['hardware']}", rows)
    result = {"title": title, "machine": machine, "steps": arguments.steps, "rows": rows, "recalls": found}
    write_result(f"imbalance_{device.type}", result)


def summarise_way(way: str, results: list[dict]) -> dict:
    worst = [min(result["recalls"].values()) for result in results]
    means = [statistics.mean(result["recalls"].values()) for result in results]
    rare = [statistics.mean(result["recalls"][name] for name in RARE) for result in results]
    return {
        "training": way,
        "worst class' recall (%)": ", ".join(f"{value:.1f}" for value in worst),
        "rare classes (%)": ", ".join(f"{value:.1f}" for value in rare),
        "mean over classes (%)": ", ".join(f"{value:.1f}" for value in means),
    }


def train_once(way: str, seed: int, steps: int) -> dict:
    """Recall of each class, in percent."""
    clips = make_clips("train")
    chosen = []
    for label, name in enumerate(MOTIONS):
        of_class = torch.nonzero(clips.motions == label).flatten()
        chosen += of_class[: CLIPS["rare" if name in RARE else "often"]].tolist()
    features = Features({"video": Value("string"), "label": ClassLabel(names=list(MOTIONS))})
    columns = {"video": [str(index) for index in chosen], "label": clips.motions[chosen].tolist()}
    rows = Dataset.from_dict(columns, features=features)
    set_seed(seed)
    config = small_config(TUBES, num_labels=len(MOTIONS))
    with tempfile.TemporaryDirectory() as folder:
        trainer = VideoTrainer(
            model=TubeViTForVideoClassification(config),
            args=TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH_SIZE,
                learning_rate=1e-3,
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                weight_decay=0.05,
                bf16=True,
                use_cpu=not torch.cuda.is_available(),
                seed=seed,
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                logging_steps=100,
            ),
            train_dataset=ClipDataset(rows, ShiftedClip(clips.pixels), seed=seed),
            class_weights=inverse_frequencies(rows) if way == "class_weights" else None,
            balanced=way == "balanced",
        )
        trainer.train()
    return {"recalls": measure_recalls(trainer.model)}


@torch.no_grad()
def measure_recalls(model: TubeViTForVideoClassification) -> dict[str, float]:
    model.eval()
    test = make_clips("test")
    predicted = []
    for pixels in test.pixels.split(BATCH_SIZE):
        with torch.autocast(model.device.type, torch.bfloat16):
            predicted.append(model(normalize(pixels).to(model.device)).logits.argmax(dim=-1).cpu())
    right = torch.cat(predicted) == test.motions
    return {name: 100 * right[test.motions == label].double().mean().item() for label, name in enumerate(MOTIONS)}


if __name__ == "__main__":
    main()
