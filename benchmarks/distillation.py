# SPDX-License-Identifier: Apache-2.0
"""Can a TubeViT of a third of the cost take over from a VideoMAE of one's own, with few labels? On moving digits.

    python benchmarks/distillation.py

The teacher is a VideoMAE of dense tubelets, 2x16x16, trained on all labels. The student is a TubeViT as wide and deep
with a quarter of its tokens. It learns the teacher's classes from the same video files without labels, by `tubevit
pretrain --targets logits`, and then, fine-tuned, from a tenth of the labels too. Beside it stands the same TubeViT
trained on that tenth for as long as the first learned: seconds are the process' own time, so that other work on the
machine makes no difference. Clips with labels lie in memory, so that this row has more steps than files would allow.
Both learning rates are the best by validation clips, found with a seed apart; test clips chose nothing. All seeds
have the same teacher. Training, validation and test show different handwriting. The same command goes on where it was.
"""

import argparse
import shutil
import time
from functools import cache, partial
from pathlib import Path

import torch
from common import (
    BATCH_SIZE,
    SEEDS,
    TUNING_SEED,
    Runs,
    compare_seeds,
    count_clip,
    describe_machine,
    divide,
    evaluate,
    report,
    time_interleaved,
    train,
)
from digits import draw_from, normalize, small_config
from torch import nn
from transformers import (
    AutoModelForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
    set_seed,
)
from transformers.utils import logging

from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor, read_video
from tubevit_hf.data.moving_digits import FRAME_SIZE, MOTIONS, create_moving_digits
from tubevit_hf.training.pretraining import PretrainingRun, pretrain_folder


CPU = torch.device("cpu")
CLIPS = {"train": 300, "validation": 30, "test": 80}
LABELLED = CLIPS["train"] // 10
TUBELET = [2, 16, 16]
TUBES = [
    {"kernel_size": [8, 16, 16], "stride": [16, 16, 16]},
    {"kernel_size": [16, 8, 8], "stride": [16, 16, 16], "space_to_depth": [1, 2, 2]},
]
PROCESSING = {"size": {"height": FRAME_SIZE, "width": FRAME_SIZE}, "do_center_crop": False}
NORMALIZATION = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TEACHER_STEPS, TEACHER_RATE = 600, 1e-3
EPOCHS, TRIAL_EPOCHS = 4, 1
RATES = (1e-3, 3e-3)
TUNED_STEPS, TUNED_RATE = 100, 3e-4
ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--folder", type=Path, default=Path("build/distillation"), help="videos, models and runs")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    study = Study(arguments.folder)
    teacher = study.runs.get("teacher", study.train_teacher)
    distilled = [study.distil(study.choose("distil"), seed, EPOCHS) for seed in arguments.seeds]
    labels = [study.learn(study.choose("learn"), seed, EPOCHS) for seed in arguments.seeds]
    tuned = [study.fine_tune(study.choose("distil"), seed) for seed in arguments.seeds]
    costs = study.runs.get("costs", study.measure_costs)
    rows = [
        {"model": "VideoMAE, all labels", **compare_seeds([teacher]), **costs["teacher"]},
        {"model": "TubeViT, a tenth of the labels", **compare_seeds(labels), **costs["student"]},
        {"model": "TubeViT, distilled, no labels", **compare_seeds(distilled), **costs["student"]},
        {"model": "TubeViT, distilled, then a tenth", **compare_seeds(tuned), **costs["student"]},
    ]
    for row, runs in zip(rows, ([teacher], labels, distilled, tuned)):
        row["seconds of training"] = sum(run["seconds"] for run in runs) / len(runs)
    report("distillation_digits", "Accuracy on test clips of moving digits, 11 motions", describe_machine(CPU), rows)


class Study:
    """Videos, models and finished runs, kept in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.videos = folder, folder / "videos"
        self.runs = Runs(folder / "runs.json")
        create_moving_digits(self.videos, CLIPS)

    def train_teacher(self) -> dict:
        set_seed(0)
        config = small_config(TUBES).to_dict()
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_frames")
        shape = {name: config[name] for name in names}
        model = VideoMAEForVideoClassification(
            VideoMAEConfig(
                **shape,
                image_size=FRAME_SIZE,
                patch_size=TUBELET[1],
                tubelet_size=TUBELET[0],
                num_labels=len(MOTIONS),
                id2label=dict(enumerate(MOTIONS)),
            )
        )
        draw_batch = partial(draw_from, *read_clips(self.videos / "train"))
        start = time.process_time()
        train(model, draw_batch, TEACHER_STEPS, TEACHER_RATE, "teacher")
        seconds = time.process_time() - start
        model.save_pretrained(self.folder / "teacher")
        VideoMAEVideoProcessor(**PROCESSING, **NORMALIZATION).save_pretrained(self.folder / "teacher")
        return {**self.test(model, "test"), "seconds": seconds}

    def choose(self, method: str) -> float:
        """The learning rate that is best on validation clips in a short run."""
        run = getattr(self, method)
        return max(RATES, key=lambda rate: run(rate, TUNING_SEED, TRIAL_EPOCHS, "validation")["accuracy"])

    def distil(self, rate: float, seed: int, epochs: int, split: str = "test") -> dict:
        """Learns from the teacher, without labels, as a user's command does."""

        def run() -> dict:
            # of a run that was killed its time is not known
            shutil.rmtree(self.distilled(rate, seed, epochs), ignore_errors=True)
            begin = self.folder / f"begin_{seed}"
            self.build(seed).save_pretrained(begin)
            TubeViTVideoProcessor(**PROCESSING, **NORMALIZATION).save_pretrained(begin)
            given = {
                "num_train_epochs": epochs,
                "learning_rate": rate,
                "seed": seed,
                # the teacher knows whole clips only
                "random_crop": False,
                "time_scale": 1.0,
            }
            start = time.process_time()
            out = self.distilled(rate, seed, epochs)
            source, teacher = str(begin), str(self.folder / "teacher")
            pretrain_folder(
                PretrainingRun(str(self.videos / "train"), source, out, teacher, "logits", share=0.05, given=given)
            )
            seconds = time.process_time() - start
            model = AutoModelForVideoClassification.from_pretrained(out)
            return {**self.test(model, split), "seconds": seconds}

        return self.runs.get(f"distil {rate} {seed} {epochs} {split}", run)

    def distilled(self, rate: float, seed: int, epochs: int) -> Path:
        return self.folder / f"distilled_{rate}_{seed}_{epochs}"

    def learn(self, rate: float, seed: int, epochs: int, split: str = "test") -> dict:
        """Learns from a tenth of the labels, for as long as learning from the teacher took."""

        def run() -> dict:
            seconds = self.distil(self.choose("distil"), seed, epochs, split)["seconds"]
            draw_batch = partial(draw_from, *read_clips(self.videos / "train", LABELLED, seed))
            start, trial_steps = time.process_time(), 20
            train(self.build(seed), draw_batch, trial_steps, rate, "seconds of a step")
            steps = round(trial_steps * seconds / (time.process_time() - start))
            model = self.build(seed)
            start = time.process_time()
            train(model, draw_batch, steps, rate, f"a tenth of the labels, {rate}, seed {seed}")
            return {"seconds": time.process_time() - start, "steps": steps, **self.test(model, split)}

        return self.runs.get(f"learn {rate} {seed} {epochs} {split}", run)

    def fine_tune(self, rate: float, seed: int) -> dict:
        """Goes on from what was distilled with a tenth of the labels."""

        def run() -> dict:
            model = AutoModelForVideoClassification.from_pretrained(self.distilled(rate, seed, EPOCHS))
            draw_batch = partial(draw_from, *read_clips(self.videos / "train", LABELLED, seed))
            start = time.process_time()
            train(model, draw_batch, TUNED_STEPS, TUNED_RATE, f"fine-tuning, seed {seed}")
            seconds = self.distil(rate, seed, EPOCHS)["seconds"] + time.process_time() - start
            return {"seconds": seconds, **self.test(model, "test")}

        return self.runs.get(f"tune {rate} {seed}", run)

    def build(self, seed: int) -> TubeViTForVideoClassification:
        set_seed(seed)
        return TubeViTForVideoClassification(small_config(TUBES, id2label=dict(enumerate(MOTIONS))))

    def test(self, model: nn.Module, split: str) -> dict:
        pixels, labels = read_clips(self.videos / split)
        return {"accuracy": evaluate(model, normalize(pixels), labels)}

    def measure_costs(self) -> dict:
        """Tokens, GFLOPs and time of a clip, beside the teacher in turn."""
        models = {
            "teacher": AutoModelForVideoClassification.from_pretrained(self.folder / "teacher").eval(),
            "student": self.build(0).eval(),
        }
        clips = torch.rand(BATCH_SIZE, models["student"].config.num_frames, 3, FRAME_SIZE, FRAME_SIZE)

        def run(model: nn.Module) -> None:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                model(clips)

        seconds = time_interleaved({name: partial(run, model) for name, model in models.items()}, CPU, ROUNDS)
        # dense tubelets in our own encoder cost what they cost in VideoMAE's, which has no CLS token
        dense = small_config([{"kernel_size": TUBELET, "stride": TUBELET}], use_cls_token=False, pooling_type="mean")
        return {
            name: {
                **count_clip(config),
                "time / teacher": divide(seconds[name], seconds["teacher"])["median"],
            }
            for name, config in {"teacher": dense, "student": models["student"].config}.items()
        }


@cache
def read_clips(folder: Path, clips: int | None = None, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips `(clips, frames, 3, height, width)` of uint8 and their motions; of each motion all, or some at random."""
    pixels, labels = [], []
    generator = torch.Generator().manual_seed(seed)
    for label, motion in enumerate(MOTIONS):
        files = sorted((folder / motion).iterdir())
        for index in torch.randperm(len(files), generator=generator)[:clips].tolist():
            pixels.append(read_video(files[index], lambda metadata: range(metadata.total_num_frames))[0])
            labels.append(label)
    return torch.stack(pixels), torch.tensor(labels)


if __name__ == "__main__":
    main()
