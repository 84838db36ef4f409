"""What does each part of image-to-video scaling give? Section 3.6 and Tables 6 and 9, on moving digits.

    python benchmarks/image_to_video.py recipes      # what is trained, and which tubes
    python benchmarks/image_to_video.py gate         # where the gate helps
    python benchmarks/image_to_video.py amplitude    # how large the sine-cosine positions should be

An image ViT of 6 layers, 192 wide, learns to read digits in single frames; a TubeViT of 3 layers, 96 wide, learns
digits in frames and motions in clips together. Then the ViT gets the TubeViT's tubes, as `tubevit scale-up` gives them,
and learns the motions: a label that no single frame shows. Each seed has its own two models. The learning rate is the
best of three by the accuracy on validation clips, found with a seed apart; validation and test show other digits.

Writes a table as JSON and a picture of it. `--folder` keeps the models and finished runs, so that an interrupted study
goes on where it was.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from common import (
    BATCH_SIZE,
    RESULTS,
    describe_machine,
    evaluate,
    in_a_new_process,
    peak_memory,
    report,
    summarise,
    time_interleaved,
    train,
)
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification, set_seed

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, convert_vit, scale_up
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES, render_clip


NUM_LAYERS, GATE_LAYER = 6, 4
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [8, 16, 16]},
    {"kernel_size": [16, 8, 8], "stride": [16, 16, 16], "space_to_depth": [1, 2, 2]},
    {"kernel_size": [1, 8, 8], "stride": [16, 8, 8]},
]
CLIPS_PER_MOTION = {"train": 300, "validation": 30, "test": 80}
NUM_DIGITS = 10
NUM_IMAGES = 4 * BATCH_SIZE  # frames in a batch of them
PRETRAINING_STEPS = 800
PRETRAINING_RATE = 1e-3
STEPS = 300
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
SEEDS = (0, 1, 2)
TUNING_SEED = 100


@dataclass(frozen=True)
class Setting:
    """What is trained, and from where.

    Args:
        freeze_before: layer from which on all is trained; `None` trains the embeddings too.
        gate: whether the tokens come in again at that layer.
        tubes: `"small"` for those of the small TubeViT; `"random"`: of the same shapes; `"inflated"`: made of the
            patches, without space-to-depth.
        from_scratch: whether the encoder is random too.
        gate_start: its parameter at the beginning.
        gate_rate: factor on its learning rate.
        amplitude: of the sine-cosine positions; `None` as the conversion chooses.
    """

    freeze_before: int | None = None
    gate: bool = False
    tubes: str = "small"
    from_scratch: bool = False
    gate_start: float = 0.0
    gate_rate: float = 1.0
    amplitude: float | None = None


RECIPES = {
    "last layer": Setting(NUM_LAYERS),
    "+ 2 layers": Setting(GATE_LAYER),
    "+ 2 layers + gate": Setting(GATE_LAYER, gate=True),
    "full fine-tuning": Setting(),
    "random tubes, + 2 layers": Setting(GATE_LAYER, tubes="random"),
    "inflated tubes, + 2 layers": Setting(GATE_LAYER, tubes="inflated"),
    "from scratch": Setting(from_scratch=True),
}
BASE, FULL = "+ 2 layers + gate", "full fine-tuning"
GATES = {
    f"from layer {layer} on, {name}": Setting(layer, **settings)
    for layer in (1, 3, 5)
    for name, settings in {
        "no gate": {},
        "gate": {"gate": True},
        "gate learns 30 times as fast": {"gate": True, "gate_rate": 30.0},
        "gate begins open": {"gate": True, "gate_start": 1.0},
    }.items()
}
AMPLITUDES = {
    f"{name}, {'matched' if amplitude is None else amplitude}": Setting(**settings, amplitude=amplitude)
    for name, settings in {
        BASE: {"freeze_before": GATE_LAYER, "gate": True},
        FULL: {},
        "from scratch": {"from_scratch": True},
    }.items()
    for amplitude in (0.0, None, 0.2, 1.0)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["recipes", "gate", "amplitude"])
    parser.add_argument("--folder", type=Path, default=Path("build/image_to_video"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    study = Study(arguments.folder, torch.device(arguments.device))
    machine = describe_machine(study.device)

    settings = {"recipes": RECIPES, "gate": GATES, "amplitude": AMPLITUDES}[arguments.study]
    rows = [{"setting": name, **study.measure(name, setting)} for name, setting in settings.items()]
    if arguments.study == "recipes":
        add_costs(rows, study)
    name = f"image_to_video_{arguments.study}_{study.device.type}"
    title = f"Accuracy on test clips after {STEPS} steps of {BATCH_SIZE} clips"
    report(name, title, machine, rows)
    draw(rows, title).savefig(RESULTS / f"{name}.png", dpi=120)


class Study:
    """Data, models and finished runs of the study, kept in a folder."""

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        self.finished = folder / "runs.json"

    def measure(self, name: str, setting: Setting) -> dict:
        """A row of the table: the best learning rate, and accuracy on test clips with it."""
        by_rate = {rate: self.run(name, setting, rate, TUNING_SEED, "validation") for rate in LEARNING_RATES}
        best = max(by_rate, key=lambda rate: by_rate[rate]["accuracy"])
        runs = [self.run(name, setting, best, seed, "test") for seed in SEEDS]
        accuracies = [run["accuracy"] for run in runs]
        row = {
            "learning rate": best,
            "accuracy (%)": statistics.median(accuracies),
            "each seed": ", ".join(f"{accuracy:.1f}" for accuracy in accuracies),
        }
        if setting.gate:
            row["tanh(gate)"] = ", ".join(f"{run['gate']:.2f}" for run in runs)
        return row

    def run(self, name: str, setting: Setting, learning_rate: float, seed: int, split: str) -> dict:
        """Trains and evaluates once, or looks up what that gave."""
        finished = json.loads(self.finished.read_text()) if self.finished.exists() else {}
        key = f"{setting} {learning_rate} {seed} {split}"
        if key not in finished:
            model = self.build(setting, seed)
            description = f"{name}, {learning_rate}, seed {seed}"
            rates = {".gate": setting.gate_rate}
            train(model, partial(draw_clips, "train"), STEPS, learning_rate, description, rates)
            clips, motions, _ = make_clips(split)
            result = {"accuracy": evaluate(model, normalize(clips), motions)}
            if setting.gate:
                result["gate"] = model.tubevit.layers[setting.freeze_before].gate.tanh().item()
            finished[key] = result
            self.finished.write_text(json.dumps(finished, indent=2))
        return finished[key]

    def build(self, setting: Setting, seed: int) -> TubeViTForVideoClassification:
        """The model of a setting before its training, with a new classifier of motions."""
        vit, small = self.pretrain(seed)
        set_seed(seed)
        if setting.gate:
            base, _ = scale_up(vit, small, gate_layer=setting.freeze_before, keep_classifier=False)
        elif setting.tubes == "small":
            base, _ = convert_vit(vit, tubes_from=small, keep_classifier=False)
        else:
            tubes = convert_vit(vit, tubes_from=small, keep_classifier=False)[0].config.tubes
            if setting.tubes == "inflated":
                tubes = [{**tube, "space_to_depth": 1, "out_channels": None} for tube in tubes]
            base, _ = convert_vit(
                vit, tubes=tubes, new_tubes=setting.tubes, num_frames=NUM_FRAMES, keep_classifier=False
            )
        base.freeze_before(setting.freeze_before)
        model = TubeViTForVideoClassification(
            TubeViTConfig.from_dict({**base.config.to_dict(), "num_labels": len(MOTIONS)})
        )
        if not setting.from_scratch:
            model.tubevit = base
        if setting.amplitude is not None:
            model.tubevit.config.position_embedding_scale = setting.amplitude
        if setting.gate:
            torch.nn.init.constant_(base.layers[setting.freeze_before].gate, setting.gate_start)
        return model.to(self.device)

    def pretrain(self, seed: int) -> tuple[Path, Path]:
        """Folders of the image ViT and of the small TubeViT of a seed, which appear when they are trained."""
        vit, small = (self.folder / f"seed_{seed}" / name for name in ("vit", "tubevit"))
        if not vit.exists():
            set_seed(seed)
            config = ViTConfig(
                hidden_size=192,
                num_hidden_layers=NUM_LAYERS,
                num_attention_heads=3,
                intermediate_size=768,
                image_size=FRAME_SIZE,
                patch_size=8,
                num_labels=NUM_DIGITS,
            )
            self.train_and_save(ViTForImageClassification(config), draw_images, vit)
        if not small.exists():
            set_seed(seed)
            config = TubeViTConfig(
                hidden_size=96,
                num_hidden_layers=3,
                num_attention_heads=3,
                intermediate_size=384,
                image_size=FRAME_SIZE,
                num_frames=NUM_FRAMES,
                tubes=TUBES,
                num_labels=len(MOTIONS) + NUM_DIGITS,
            )
            self.train_and_save(TubeViTForVideoClassification(config), draw_jointly, small)
        return vit, small

    def train_and_save(self, model: torch.nn.Module, draw_batch: Callable, folder: Path) -> None:
        model.to(self.device)
        train(model, draw_batch, PRETRAINING_STEPS, PRETRAINING_RATE, str(folder))
        clips, motions, digits = make_clips("validation")
        frames = normalize(clips[:, 0])
        if model.config.num_labels == NUM_DIGITS:
            print(f"{folder}: digits {evaluate(model, frames, digits):.1f} %")
        else:
            on_digits = evaluate(model, frames, len(MOTIONS) + digits)
            print(f"{folder}: motions {evaluate(model, normalize(clips), motions):.1f} %, digits {on_digits:.1f} %")
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        model.save_pretrained(unfinished)
        unfinished.rename(folder)


@cache
def make_clips(split: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(clips, frames, 3, height, width)` of uint8, the motions and the digits; each split has digits of its own."""
    digits = load_digits()
    number = list(CLIPS_PER_MOTION).index(split)
    rng = np.random.default_rng(number)
    # half of the handwritten digits for training, a quarter for each of the others
    quarters = np.array_split(np.random.default_rng(0).permutation(len(digits.images)), 4)
    chosen_from = np.concatenate(quarters[:2]) if split == "train" else quarters[number + 1]
    clips, motions, labels = [], [], []
    for motion in tqdm(np.repeat(np.arange(len(MOTIONS)), CLIPS_PER_MOTION[split]), desc=split, disable=None):
        index = rng.choice(chosen_from)
        clips.append(render_clip(digits.images[index], MOTIONS[motion], rng).transpose(0, 3, 1, 2))
        motions.append(motion)
        labels.append(digits.target[index])
    return torch.from_numpy(np.stack(clips)), torch.tensor(motions), torch.tensor(labels)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    return pixels / 127.5 - 1


def draw_clips(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of clips with their motions."""
    clips, motions, _ = make_clips(split)
    chosen = torch.randint(len(clips), (BATCH_SIZE,))
    return normalize(clips[chosen]), motions[chosen]


def draw_images() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of single frames with their digits."""
    clips, _, digits = make_clips("train")
    chosen = torch.randint(len(clips), (NUM_IMAGES,))
    return normalize(clips[chosen, torch.randint(NUM_FRAMES, (NUM_IMAGES,))]), digits[chosen]


def draw_jointly() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of one kind or the other: one classifier for motions and digits."""
    if torch.rand(()) < 0.5:
        return draw_clips("train")
    images, digits = draw_images()
    return images, len(MOTIONS) + digits


def add_costs(rows: list[dict], study: Study) -> None:
    """Seconds a step, all settings in turn, and peak memory of the process or the GPU, each in a process of its own."""
    models = {name: study.build(setting, SEEDS[0]) for name, setting in RECIPES.items()}
    steps = 10
    seconds = time_interleaved(
        {
            name: partial(train, model, partial(draw_clips, "train"), steps, 1e-6, name)
            for name, model in models.items()
        },
        study.device,
        rounds=5,
    )
    for row in rows:
        name = row["setting"]
        ratio = summarise([ours / theirs for ours, theirs in zip(seconds[name], seconds[FULL])])
        row["M trained"] = sum(p.numel() for p in models[name].parameters() if p.requires_grad) / 1e6
        row["s a step"] = summarise(seconds[name])["median"] / steps
        row["/ full"] = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        row["peak (MiB)"] = in_a_new_process(memory_of_training, study.folder, study.device.type, name)


def memory_of_training(folder: Path, device: str, name: str) -> float:
    """MiB by which building a setting's model and two steps of training raise the peak."""
    batch = draw_clips("validation")
    before = peak_memory()
    train(Study(folder, torch.device(device)).build(RECIPES[name], SEEDS[0]), lambda: batch, 2, 1e-6, name)
    return torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else peak_memory() - before


def draw(rows: list[dict], title: str) -> Figure:
    """A bar for the median, a dot for each seed."""
    figure = Figure(figsize=(7, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["accuracy (%)"] for row in rows], color="tab:blue", alpha=0.4)
    for place, row in enumerate(rows):
        seeds = [float(accuracy) for accuracy in row["each seed"].split(", ")]
        axes.plot(seeds, [place] * len(seeds), "o", color="tab:blue", markersize=4)
    axes.axvline(100 / len(MOTIONS), color="black", linestyle=":", label="chance")
    axes.set_yticks(places, [row["setting"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="accuracy (%)", title=title)
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main()
