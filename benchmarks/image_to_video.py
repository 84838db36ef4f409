# SPDX-License-Identifier: Apache-2.0
"""What does each part of image-to-video scaling give? Section 3.6 and Tables 6 and 9, on moving digits.

    python benchmarks/image_to_video.py recipes      # what is trained, and which tubes
    python benchmarks/image_to_video.py gate         # where the gate helps
    python benchmarks/image_to_video.py amplitude    # how large the sine-cosine positions should be

An image ViT of 6 layers, 192 wide, learns to read large upright digits in pictures; a TubeViT of 3 layers, 96 wide,
learns those and the motions of small digits in clips, together. Then the ViT gets the TubeViT's tubes, as `tubevit
scale-up` gives them, and learns the motions: a label that no single frame shows. Each seed has its own two models. The
learning rate of a recipe is the best of three by the accuracy on validation clips, found with a seed apart; variations
take that of their recipe. Training, validation and test show different handwriting.

Writes a table as JSON and a picture of it. `--folder` keeps the models and finished runs, so that an interrupted study
goes on where it was.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    draw_bars,
    evaluate,
    in_a_new_process,
    peak_memory,
    report,
    summarise,
    time_interleaved,
    train,
)
from digits import NUM_DIGITS, NUM_IMAGES, draw_from, make_clips, make_pictures, normalize
from transformers import ViTConfig, ViTForImageClassification, set_seed
from transformers.utils import logging

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, convert_vit, scale_up
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, NUM_FRAMES


NUM_LAYERS, GATE_LAYER = 6, 4
PATCH_SIZE = 16
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [8, 16, 16]},
    {"kernel_size": [16, 8, 8], "stride": [16, 16, 16], "space_to_depth": [1, 2, 2]},
    {"kernel_size": [1, PATCH_SIZE, PATCH_SIZE], "stride": [16, PATCH_SIZE, PATCH_SIZE]},
]
PICTURE_SIZES = (36, 57)  # pixels
MOST_TILT = 20  # degrees
PRETRAINING_STEPS = 1000
PRETRAINING_RATE = 1e-3
STEPS = 300


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
        token_scale: factor on the kernels and biases of the tubes.
    """

    freeze_before: int | None = None
    gate: bool = False
    tubes: str = "small"
    from_scratch: bool = False
    gate_start: float = 0.0
    gate_rate: float = 1.0
    amplitude: float | None = None
    token_scale: float = 1.0


RECIPES = {
    "last layer": Setting(NUM_LAYERS),
    "+ 2 layers": Setting(GATE_LAYER),
    "+ 2 layers + gate": Setting(GATE_LAYER, gate=True),
    "full fine-tuning": Setting(),
    "random tubes, + 2 layers": Setting(GATE_LAYER, tubes="random"),
    "inflated tubes, + 2 layers": Setting(GATE_LAYER, tubes="inflated"),
    "random tubes, full": Setting(tubes="random"),
    "inflated tubes, full": Setting(tubes="inflated"),
    "from scratch": Setting(from_scratch=True),
}
BASE, FULL, SCRATCH = "+ 2 layers + gate", "full fine-tuning", "from scratch"
GATES = {
    f"from layer {layer} on, {tokens}{gate}": Setting(layer, **settings, token_scale=scale)
    for layer, tokens, scale in ((3, "", 1.0), (5, "", 1.0), (3, "small tokens, ", 0.05))
    for gate, settings in {
        "no gate": {},
        "gate": {"gate": True},
        "gate learns 100 times as fast": {"gate": True, "gate_rate": 100.0},
        "gate begins at tanh(1)": {"gate": True, "gate_start": 1.0},
    }.items()
}
AMPLITUDES = {
    f"{name}, {'matched' if amplitude is None else amplitude}": replace(RECIPES[name], amplitude=amplitude)
    for name in (BASE, FULL, SCRATCH)
    for amplitude in (None, 0.2, 1.0)
}
# setting by name, and the recipe whose learning rate it takes
STUDIES = {
    "recipes": {name: (setting, FULL if name.endswith("tubes, full") else name) for name, setting in RECIPES.items()},
    "gate": {name: (setting, BASE) for name, setting in GATES.items()},
    "amplitude": {name: (setting, name.rpartition(", ")[0]) for name, setting in AMPLITUDES.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--folder", type=Path, default=Path("build/image_to_video"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    study = Study(arguments.folder, torch.device(arguments.device))

    rows = []
    for name, (setting, recipe) in STUDIES[arguments.study].items():
        rows.append({"setting": name, **study.measure(name, setting, study.tune(recipe))})
        if arguments.study == "gate":
            rows[-1] |= study.compare_with_tokens(setting)
        if arguments.study == "amplitude":
            model = study.build(setting, SEEDS[0])
            rows[-1]["amplitude"] = model.tubevit.config.position_embedding_scale
    if arguments.study == "recipes":
        add_costs(rows, study)
    name = f"image_to_video_{arguments.study}_{study.device.type}"
    title = f"Accuracy on test clips after {STEPS} steps of {BATCH_SIZE} clips"
    report(name, title, describe_machine(study.device), rows)
    draw_bars(rows, "setting", title, 100 / len(MOTIONS)).savefig(RESULTS / f"{name}.png", dpi=120)


class Study:
    """Data, models and finished runs of the study, kept in a folder."""

    def __init__(self, folder: Path, device: torch.device):
        self.folder, self.device = folder, device
        self.runs = Runs(folder / "runs.json")

    def tune(self, recipe: str) -> float:
        """The best learning rate of a recipe on validation clips."""
        return choose_rate(partial(self.run, recipe, RECIPES[recipe]))

    def measure(self, name: str, setting: Setting, learning_rate: float) -> dict:
        """A row of the table."""
        runs = [self.run(name, setting, learning_rate, seed, "test") for seed in SEEDS]
        gates = ", ".join(f"{run['gate']:.2f}" for run in runs) if setting.gate else ""
        return {"learning rate": learning_rate, **compare_seeds(runs), "tanh(gate)": gates}

    def run(self, name: str, setting: Setting, learning_rate: float, seed: int, split: str) -> dict:
        """Trains and evaluates once, or looks up what that gave."""
        key = f"{setting} {learning_rate} {seed} {split}"
        return self.runs.get(key, lambda: self.train(name, setting, learning_rate, seed, split))

    def train(self, name: str, setting: Setting, learning_rate: float, seed: int, split: str) -> dict:
        model = self.build(setting, seed)
        description = f"{name}, {learning_rate}, seed {seed}"
        rates = {".gate": setting.gate_rate}
        train(model, partial(draw_clips, "train"), STEPS, learning_rate, description, rates=rates)
        clips = make_clips(split)
        result = {"accuracy": evaluate(model, normalize(clips.pixels), clips.motions)}
        if setting.gate:
            result["gate"] = model.tubevit.layers[setting.freeze_before].gate.tanh().item()
        return result

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
        settings = base.config.to_dict()
        model = TubeViTForVideoClassification(TubeViTConfig(**{**settings, "num_labels": len(MOTIONS)}))
        if not setting.from_scratch:
            model.tubevit = base
        if setting.amplitude is not None:
            model.tubevit.config.position_embedding_scale = setting.amplitude
        for tube in base.embeddings.tubes:
            if tube.tube.kernel_size[0] > 1:
                for parameter in tube.parameters():
                    parameter.data.mul_(setting.token_scale)
        if setting.gate:
            torch.nn.init.constant_(base.layers[setting.freeze_before].gate, setting.gate_start)
        return model.to(self.device)

    @torch.no_grad()
    def compare_with_tokens(self, setting: Setting) -> dict:
        """How much of the tokens z0 is left in what the gated layer gives before the gate opens: the ratio of their
        sizes (rms) and the cosine between them, over the tokens of the tubes."""
        model = self.build(replace(setting, gate_start=0.0), SEEDS[0]).eval()
        pixel_values = draw_clips("validation")["pixel_values"]
        states = model.tubevit(pixel_values.to(self.device), output_hidden_states=True).hidden_states
        tokens, output = (state[:, 1:] for state in (states[0], states[setting.freeze_before + 1]))
        ratio = tokens.square().mean().sqrt() / output.square().mean().sqrt()
        cosine = torch.nn.functional.cosine_similarity(tokens, output, dim=-1).mean()
        return {"rms z0 / y": f"{ratio.item():.3f}", "cosine": f"{cosine.item():.2f}"}

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
                patch_size=PATCH_SIZE,
                num_labels=NUM_DIGITS,
            )
            self.train_and_save(ViTForImageClassification(config), draw_pictures, vit)
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
        pictures, digits = make_pictures("validation", PICTURE_SIZES, MOST_TILT)
        if model.config.num_labels == NUM_DIGITS:
            print(f"{folder}: digits {evaluate(model, normalize(pictures), digits):.1f} %")
        else:
            clips = make_clips("validation")
            on_digits = evaluate(model, normalize(pictures), len(MOTIONS) + digits)
            on_motions = evaluate(model, normalize(clips.pixels), clips.motions)
            print(f"{folder}: digits {on_digits:.1f} %, motions {on_motions:.1f} %")
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        model.save_pretrained(unfinished)
        unfinished.rename(folder)


def draw_clips(split: str) -> dict[str, torch.Tensor]:
    """A batch of clips with their motions."""
    clips = make_clips(split)
    return draw_from(clips.pixels, clips.motions)


def draw_pictures() -> dict[str, torch.Tensor]:
    """A batch of pictures with their digits, large and almost upright."""
    return draw_from(*make_pictures("train", PICTURE_SIZES, MOST_TILT), NUM_IMAGES)


def draw_jointly() -> dict[str, torch.Tensor]:
    """A batch of one kind or the other: one classifier for motions and digits."""
    if torch.rand(()) < 0.5:
        return draw_clips("train")
    pictures = draw_pictures()
    return {**pictures, "labels": len(MOTIONS) + pictures["labels"]}


def add_costs(rows: list[dict], study: Study) -> None:
    """Seconds a step, all settings in turn; and peak memory of the process or the GPU, each in its own process."""
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


if __name__ == "__main__":
    main()
