# SPDX-License-Identifier: Apache-2.0
"""What a run leaves beside the model: what it says of each validation video, what was measured, and a card of that."""

import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset

from ..data import get_names, is_multi_label
from ..data.dividing import Division
from ..data.labelled import split_text, texts_of
from ..data.splits import SPLITS
from ..evaluation import accuracy_interval
from ..evaluation.limits import limit_of_absent, limit_of_groups
from ..folders import write_json, write_text
from ..machine import name_processor
from .few_videos import FewVideosReport
from .trainer import VideoTrainer


RESULTS_NAME = "results.json"
PREDICTIONS_NAME = "validation_predictions.jsonl"


def write_record(
    trainer: VideoTrainer,
    data: str,
    source: str,
    recipe: str,
    rows: Dataset,
    division: Division,
    metrics: dict[str, float],
    report: FewVideosReport | None = None,
    trials: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes `validation_predictions.jsonl`, the model card, and at last `results.json`, which says that all is there.

    Args:
        trainer: that has just evaluated the validation videos.
        data, source, recipe: what was trained, of what, and how.
        rows: all videos.
        division: of these.
        metrics: of the evaluation.
        report: of the closed form.
        trials: of settings, as [`Trials.to_dict`] has them, if there were any.

    Returns:
        What `results.json` says.
    """
    from .. import __version__

    evaluated = trainer.evaluated
    assert evaluated is not None  # the Trainer has evaluated
    splits = division.select(rows)
    validation, names = splits["validation"], get_names(rows)
    scores = torch.from_numpy(evaluated.predictions)
    found: dict[str, Any] = {
        "data": data,
        "source": source,
        "recipe": recipe,
        "division": division.how,
        "videos": {split: len(part) for split, part in splits.items()},
        "groups": {split: len(set(division.groups_of(split) or ())) for split in SPLITS} if division.groups else None,
        "classes": {split: count_classes(part) for split, part in splits.items()},
        "metrics": {name.removeprefix("eval_"): value for name, value in metrics.items() if is_measured(name)},
    }
    if not is_multi_label(rows):
        right = int((scores.argmax(dim=1) == torch.tensor(validation["label"])).sum())
        low, high = accuracy_interval(right, len(validation))
        found["accuracy"] = {
            "right": right,
            "of": len(validation),
            "value": right / len(validation),
            "interval_95": [low, high],
        }
    found["trials"] = trials
    if report is not None:
        found |= report.describe_layouts()
    found["limits"] = list_limits(found)
    found["notes"] = [*(report.notes if report else []), *describe_selection(trainer, trials)]
    found["environment"] = {
        "tubevit_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "hardware": name_hardware(trainer.args.device),
    }
    if trainer.is_world_process_zero():
        folder = Path(str(trainer.args.output_dir))
        lines = [
            json.dumps({"file": file, "label": label, "scores": dict(zip(names, values))})
            for file, label, values in zip(validation["file"], labels_of(validation), scores.tolist())
        ]
        write_text(folder / PREDICTIONS_NAME, "".join(f"{line}\n" for line in lines))
        trainer.card_details = describe(found)
        if trainer.args.push_to_hub:
            trainer.push_to_hub(dataset=Path(data).name)
        else:
            trainer.create_model_card(dataset=Path(data).name)
        write_json(folder / RESULTS_NAME, found)
    return found


def is_measured(name: str) -> bool:
    """Whether a metric is one of the model, not of the machine."""
    return name.startswith("eval_") and not name.endswith(("time", "_per_second"))


def labels_of(rows: Dataset) -> list[str] | list[list[str]]:
    texts = texts_of(rows)
    if not is_multi_label(rows):
        return texts
    return [split_text(text, get_names(rows)) for text in texts]


def count_classes(rows: Dataset) -> dict[str, int]:
    names = get_names(rows)
    counts = Counter(name for text in texts_of(rows) for name in split_text(text, names))
    return {name: counts[name] for name in names}


def list_limits(found: dict[str, Any]) -> list[str]:
    """What a user of the numbers should know."""
    validation, groups = found["classes"]["validation"], found["groups"]
    number = None if groups is None else groups["validation"]
    of_both = (
        limit_of_absent([name for name, count in validation.items() if count == 0]),
        limit_of_groups(number, "`--group-pattern` finds them in the names"),
    )
    limits = [limit for limit in of_both if limit is not None]
    if (most := max(found["classes"]["train"].values())) >= 5 * min(found["classes"]["train"].values()):
        fewest = min(found["classes"]["train"], key=lambda name: found["classes"]["train"][name])
        limits.append(
            f"Classes are unequal: {most} training videos of the largest, {found['classes']['train'][fewest]} of "
            f"{fewest!r}. The mean class accuracy says more than the accuracy."
        )
    return limits


def name_hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else name_processor()


def describe(found: dict[str, Any]) -> str:
    """Sections of a model card."""
    lines = ["## Data", "", f"`{Path(found['data']).name}`, divided {found['division']}.", ""]
    groups = found["groups"]
    lines += ["| | videos |" + (" groups |" if groups else ""), "|---|---|" + ("---|" if groups else "")]
    for split, count in found["videos"].items():
        lines.append(f"| {split} | {count} |" + (f" {groups[split]} |" if groups else ""))
    lines += ["", "| class | train | validation |", "|---|---|---|"]
    train, validation = found["classes"]["train"], found["classes"]["validation"]
    cells = {name: name.replace("|", "\\|") for name in train}
    lines += [f"| {cells[name]} | {train[name]} | {validation[name]} |" for name in train]
    if "accuracy" in found:
        accuracy = found["accuracy"]
        low, high = accuracy["interval_95"]
        lines += [
            "",
            f"Right: {accuracy['right']} of {accuracy['of']} validation videos, {accuracy['value']:.1%}; 95% interval "
            f"{low:.1%} to {high:.1%} (Wilson), each video by itself.",
        ]
    lines += ["", *found["notes"]] if found["notes"] else []
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in found["limits"])] if found["limits"] else []
    lines += ["", "## Training", "", f"From `{found['source']}` by the recipe `{found['recipe']}`.", ""]
    lines += [f"- {name}: {value}" for name, value in found["environment"].items()]
    return "\n".join(lines) + "\n"


def describe_selection(trainer: VideoTrainer, trials: dict[str, Any] | None) -> list[str]:
    """What was chosen beside the weights, and by which videos."""
    notes: list[str] = []
    # in closed form there are no epochs
    by_validation = trainer.args.load_best_model_at_end and trainer.train_dataset is not None
    if by_validation:
        notes.append("The validation videos chose the best epoch, so the accuracy on others is a little lower.")
    if trials is not None:
        notes.append(describe_trials(trials))
        if not by_validation:
            notes.append("The validation videos were in none of these trials, and chose nothing.")
    return notes


def describe_trials(trials: dict[str, Any]) -> str:
    best, defaults, number = trials["best"], trials["defaults"], len(trials["tried"])
    settings = ", ".join(f"{name} {value}" for name, value in trials["chosen"].items())
    if trials["chosen"] == defaults["settings"]:
        compared = "the defaults were the best."
    elif defaults["loss"] is None:
        compared = f"held-out log loss {best['loss']:.3f}; with the defaults it was no longer finite."
    else:
        compared = f"held-out log loss {best['loss']:.3f}, with the defaults {defaults['loss']:.3f}."
    return (
        f"Settings were chosen by {number} trial(s) in which some of the training videos were held out: {settings}; "
        f"{compared}"
    )
