# SPDX-License-Identifier: Apache-2.0
"""What of `tubevit pretrain` pays? Each setting is changed alone, and all train for the same seconds.

    python benchmarks/pretraining_settings.py VIT UNLABELLED_VIDEOS --minutes 8 --folder build/settings
    python benchmarks/pretraining.py VIT LABELLED_VIDEOS --pretrained build/settings/*

The first command trains a TubeViT for each setting: a short run measures the time of a step, and a run of as many
steps as fit follows. Evaluations do not count, the teacher does. Its table shows how much of the held-out targets the
models explain, each of its own. The second command shows what they are worth: the recipe for few videos reads them
all. Both go on where they were.
"""

import argparse
from pathlib import Path
from unittest import mock

import torch
from common import describe_machine, report

from tubevit_hf.training import pretraining
from tubevit_hf.training.objectives import FeatureObjective
from tubevit_hf.training.pretraining import PretrainingRun, pretrain_folder


# of the run that measures the time of a step
STEPS = 10


class MeansOnly(FeatureObjective):
    """Of what changes, nothing is learned: targets are as the fitted heads begin."""

    def standardize(self, targets: torch.Tensor) -> torch.Tensor:
        targets = super().standardize(targets).clone()
        targets[..., self.num_features :] = 0
        return targets


# arguments of a run, and whether it learns changes
SETTINGS: dict[str, tuple[dict, bool]] = {
    "default": ({}, True),
    "no_change": ({}, False),
    "half_masked": ({"given": {"mask_ratio": 0.5}}, True),
    "last_layer_only": ({"given": {"depths": [1.0]}}, True),
    "pixels": ({"targets": "pixels"}, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or repo id of the image ViT")
    parser.add_argument("videos", help="folder of videos, whose labels are not read")
    parser.add_argument("--minutes", type=float, default=8, help="that each setting trains")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--folder", type=Path, default=Path("build/pretraining_settings"), help="of the models")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.settings:
        short = train(name, arguments, arguments.folder.with_name(f"{arguments.folder.name}_timing") / name, STEPS)
        steps = round(60 * arguments.minutes / short["seconds"] * STEPS)
        record = train(name, arguments, arguments.folder / name, steps)
        explained = {part: share for part, share in record["metrics"].items() if part.startswith("explained")}
        before = {f"{part}, before": record["start"][part] for part in explained}
        rows.append(
            {"setting": name, "steps": record["steps"], "minutes": record["seconds"] / 60, **before, **explained}
        )
    report("pretraining_settings", f"{arguments.minutes} minutes each", describe_machine(torch.device("cpu")), rows)


def train(name: str, arguments: argparse.Namespace, out: Path, steps: int) -> dict:
    changes, learns_change = SETTINGS[name]
    given = {"max_steps": steps, "eval_strategy": "no", "save_steps": 25, "save_strategy": "steps"}
    run = PretrainingRun(
        arguments.videos, arguments.source, out, **changes | {"given": given | changes.get("given", {})}
    )
    with mock.patch.object(pretraining, "FeatureObjective", FeatureObjective if learns_change else MeansOnly):
        return pretrain_folder(run)


if __name__ == "__main__":
    main()
