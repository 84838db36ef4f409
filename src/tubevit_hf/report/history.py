# SPDX-License-Identifier: Apache-2.0
"""How a model was trained, as far as the files in its folder tell."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..folders import read_json


# names of the Trainer's log, by the curve they belong to
CURVES = {
    "loss": {"loss": "training", "eval_loss": "validation"},
    "accuracy": {
        "eval_top_1_accuracy": "validation",
        "eval_mean_average_precision": "validation, mean average precision",
    },
}


@dataclass(frozen=True)
class Choice:
    """What of the features a classifier in closed form may read, and how it did in cross-validation."""

    name: str
    accuracy: float
    loss: float
    still: bool


@dataclass(frozen=True)
class History:
    """How a model was trained.

    Args:
        curves: by name of the panel and of the line, its points: step and value.
        chosen: what the recipe for few videos chose to read, if that fitted the model.
        choices: all that it could have chosen, the best first.
        notes: what it said.
        source: the model that it was made from.
        videos: how many trained and validated, by split.
        division: how it came about which did what.
        classes: of each split, how many videos of which class.
    """

    curves: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    chosen: str | None = None
    choices: list[Choice] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: str | None = None
    videos: dict[str, int] = field(default_factory=dict)
    division: str | None = None
    classes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def still_does_as_well(self) -> tuple[float, float] | None:
        """Accuracy in cross-validation of what stands still and of what changes, if the first is no worse."""
        still = [choice.accuracy for choice in self.choices if choice.still]
        moving = [choice.accuracy for choice in self.choices if not choice.still]
        if still and moving and max(still) >= max(moving):
            return max(still), max(moving)
        return None


def read_history(folder: Path) -> History:
    """Reads what a training left in a model's folder: `trainer_state.json`, `few_videos.json`, `results.json`. Files
    that are not there, or not what they should be, say nothing."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for entry in read_if_there(folder / "trainer_state.json").get("log_history", []):
        for panel, lines in CURVES.items():
            for name, line in lines.items():
                if name in entry and "step" in entry:
                    curves.setdefault(panel, {}).setdefault(line, []).append((entry["step"], entry[name]))
    fitted, trained = read_if_there(folder / "few_videos.json"), read_if_there(folder / "results.json")
    choices = [
        # as the recipe names them: "layers 6+8, means+differences"
        Choice(name, found["accuracy"], found["loss"], name.endswith(", means"))
        for name, found in fitted.get("choices", {}).items()
    ]
    # of a single evaluation at the end there is no curve
    for lines in curves.values():
        for line in [line for line, points in lines.items() if len(points) < 2]:
            del lines[line]
    return History(
        {panel: lines for panel, lines in curves.items() if lines},
        fitted.get("chosen"),
        sorted(choices, key=lambda choice: choice.loss),
        trained.get("notes", fitted.get("notes", [])),
        **{name: trained[name] for name in ("source", "videos", "division", "classes") if name in trained},
    )


def read_if_there(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
