# SPDX-License-Identifier: Apache-2.0
"""What settings are worth, by training videos that are held out: what a trial of each recipe does.

Nothing here is given the videos that validate, so what these say of the chosen settings stays as honest as it is
without trials. Held-out videos are seen as they are, in one view, whatever is done with those that are trained on, and
groups are held out together. What decides is the log loss: with few videos it tells settings apart where as many are
right.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoVideoProcessor,
    EvalPrediction,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers import set_seed as set_all_seeds

from ..data import ClipDataset, TrainingClip, get_names, is_multi_label
from ..data.annotations import AnnotationError
from ..data.dividing import choose_validation, stratified_folds
from ..model.modeling_tubevit import TubeViTPreTrainedModel
from .arguments import ChangeArguments, ClipArguments
from .few_videos import VALIDATION_CLIPS, Layout, fit_few_videos, read_features
from .frozen import FrozenClips, cache_frozen
from .losses import inverse_frequencies
from .runs import (
    FROZEN_NAME,
    load_config,
    make_clips,
    make_model,
    make_views,
    small_recipe,
    start_small,
    trainer_arguments,
)
from .trainer import VideoTrainer
from .trials import Attempt, HeldOut, Objective, Setting, Settings


# where trials keep what they do not need afterwards
FOLDER = "trials"
# of the closed form, in each of which other videos are held out, each once
NUM_FOLDS = 3
# evaluations of a trial by gradients, evenly over its steps
NUM_LOOKS = 5

Parse = Callable[[Settings], tuple[ClipArguments, ChangeArguments, TrainingArguments]]


@dataclass(frozen=True)
class TrainingVideos:
    """All that trials see.

    Args:
        rows: the training videos.
        groups: of each, or `None`.
        source: of the model.
        out: folder of the run.
        parse: arguments with some settings instead of the defaults.
        layout: of the closed form.
    """

    rows: Dataset
    groups: list[str] | None
    source: str
    out: Path
    parse: Parse
    layout: Layout = "frames"

    @property
    def folder(self) -> Path:
        return self.out / FOLDER

    def clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def small_space(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Setting]:
    """What the closed form leaves open, since it chooses layers, parts and strength by itself: how random clips differ
    from their video. The model stays of its size and speed."""
    space = {
        "horizontal_flip": Setting(bool(settings["horizontal_flip"])),
        "crop_scale": Setting(float(settings["crop_scale"]), 0.2, 1.0, step=0.2),
        "time_scale": Setting(float(settings["time_scale"]), 0.4, 1.0, step=0.1),
        "color_jitter": Setting(float(settings["color_jitter"]), 0.0, 0.6, step=0.2),
    }
    return {name: setting for name, setting in space.items() if name not in given}


def gradient_space(settings: Mapping[str, Any], given: Mapping[str, Any], dropout: float) -> dict[str, Setting]:
    """What matters most of training by gradients. Clips stay as they are where what frozen layers give of them is
    kept, which would take as long as the training.

    Args:
        settings: the recipe's.
        given: by the user, who has the last word.
        dropout: of the model.
    """
    rate, decay = float(settings["learning_rate"]), float(settings["weight_decay"])
    space = {"learning_rate": Setting(rate, rate / 10, rate * 10, log=True)}
    if "num_train_epochs" in settings and "max_steps" not in given:
        epochs = int(settings["num_train_epochs"])
        space["num_train_epochs"] = Setting(epochs, max(1, epochs // 4), 2 * epochs, log=True)
    space["weight_decay"] = Setting(decay, decay / 10, decay * 10, log=True)
    for name, value in (("label_smoothing_factor", settings.get("label_smoothing_factor", 0.0)), ("dropout", dropout)):
        if value in (0.0, 0.1, 0.2, 0.3):
            space[name] = Setting(float(value), 0.0, 0.3, step=0.1)
    if settings.get("copies") is None and given.get("copies") is None:
        space["horizontal_flip"] = Setting(bool(settings.get("horizontal_flip")))
    return {name: setting for name, setting in space.items() if name not in given}


def check_space(space: Mapping[str, Setting]) -> None:
    if not space:
        raise ValueError("all settings that trials would try are given: leave out --trials, or one of them.")


def small_objective(videos: TrainingVideos, num_workers: int = 0) -> Objective:
    """A trial of the closed form: in each of three folds it is fitted to the other videos, all its own choices
    included, and sees those that are held out.

    Raises:
        ValueError: the videos are too few to hold some out.
    """
    rows, groups = videos.rows, videos.groups
    clips, _, args = videos.parse({})
    folds = hold_out_folds(rows, groups, args.seed)
    recipe = small_recipe(clips, videos.layout)
    model, processor = start_small(videos.source, recipe, args)
    copies = recipe.count_copies(len(rows)) if clips.copies is None else clips.copies
    copies = max(1, min(copies, VALIDATION_CLIPS // len(rows)))
    plain_clip = TrainingClip(processor, processor.num_frames)
    shared = {"num_workers": num_workers, "bf16": args.bf16, "overwrite": True}
    labels, counts = torch.tensor(rows["label"]), count_videos(rows, clips)
    # no setting changes them: the first trial makes them for all
    plain: FrozenClips | None = None

    def try_out(settings: Settings, attempt: Attempt) -> HeldOut:
        nonlocal plain
        recipe = small_recipe(videos.parse(settings)[0], videos.layout)
        if plain is None:
            views = ClipDataset(rows, plain_clip, copies=1)
            plain = cache_frozen(model, views, videos.folder / "views", watch=attempt.tick, **shared)
        dataset = ClipDataset(rows, recipe.training_clip(processor, model.config), seed=args.seed, copies=copies)
        frozen = cache_frozen(model, dataset, videos.folder / "frozen", watch=attempt.tick, **shared)
        scores = torch.zeros(len(rows), len(get_names(rows)))
        seen: list[int] = []
        for number, held_out in enumerate(folds):
            attempt.tick()
            inner = frozen.select(others(len(rows), held_out))
            weights = inverse_frequencies(inner.rows) if clips.class_weights or clips.balanced else None
            names = None if groups is None else [groups[index] for index in inner.indices]
            fitted, report = fit_few_videos(model, inner, names, class_weights=weights)
            columns = read_features(model.config, report.chosen)
            features = torch.stack([plain.get_output(index, 0)[columns] for index in held_out])
            with torch.no_grad():
                logits: torch.Tensor = fitted(frozen_output=features.to(model.device))["logits"]
            scores[held_out] = logits.float().softmax(dim=1).cpu()
            seen += held_out
            if number < len(folds) - 1:
                attempt.report(number, score(scores[seen], labels[seen], counts[seen]).loss)
        return score(scores, labels, counts)

    return try_out


def gradient_objective(videos: TrainingVideos) -> Objective:
    """A trial by gradients: trained on most of the videos to the end of its schedule, it sees those held out.

    Raises:
        ValueError: the videos are too few to hold some out.
    """
    rows, groups = videos.rows, videos.groups
    clips, _, args = videos.parse({})
    held_out = hold_out_once(rows, groups, args.seed)
    inner = others(len(rows), held_out)
    counts = count_videos(rows, clips)[held_out]
    # as in closed form
    seen: FrozenClips | None = None

    def try_out(settings: Settings, attempt: Attempt) -> HeldOut:
        nonlocal seen
        clips, changes, args = videos.parse({**settings, **trial_arguments(videos.folder)})
        set_all_seeds(args.seed)
        config = load_config(videos.source, clips, changes)
        processor = AutoVideoProcessor.from_pretrained(videos.source, num_frames=clips.num_frames)
        model = make_model(videos.source, config, rows, changes, True)
        # in the folder of the run, which trains on the same
        dataset = make_clips(model, processor, rows, clips, args, videos.out / FROZEN_NAME, attempt.tick)
        assert clips.num_frames is not None  # `load_config` sets it
        if isinstance(dataset, FrozenClips):
            assert isinstance(model, TubeViTPreTrainedModel)  # others have no frozen layers to keep
            if seen is None:
                plain = ClipDataset(rows, TrainingClip(processor, clips.num_frames, clips.fps), copies=1)
                folder = videos.folder / "views"
                seen = cache_frozen(model, plain, folder, bf16=args.bf16, overwrite=True, watch=attempt.tick)
            datasets = dataset.select(inner), seen.select(held_out)
        else:
            views = make_views(processor, replace(clips, eval_clips=1, eval_crops=1, eval_mirror=False))
            chosen = (rows.select(indices) for indices in (inner, held_out))
            datasets = tuple(
                ClipDataset(part, load, seed=args.seed, copies=clips.copies)  # pyrefly: ignore[bad-argument-type]
                for part, load in zip(chosen, (dataset.load, views))
            )
        trainer = VideoTrainer(
            model=model,
            args=args,
            train_dataset=datasets[0],
            eval_dataset=datasets[1],
            processing_class=processor,
            **trainer_arguments(datasets[0].rows, clips),
        )
        trainer.remove_callback(PrinterCallback)

        def judge() -> HeldOut:
            evaluated = trainer.evaluated
            assert evaluated is not None  # the Trainer has evaluated
            return score_prediction(evaluated, counts)

        trainer.add_callback(AttemptCallback(attempt, judge))
        trainer.train()
        trainer.evaluate()
        return judge()

    return try_out


class AttemptCallback(TrainerCallback):
    """Tells a trial how it does, and whether its time is over."""

    def __init__(self, attempt: Attempt, judge: Callable[[], HeldOut]):
        self.attempt, self.judge = attempt, judge

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.attempt.tick()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # by the share of the schedule, which may be longer than that of others; at its end there is nothing to save
        if state.global_step < state.max_steps:
            self.attempt.report(round(NUM_LOOKS * state.global_step / state.max_steps), self.judge().loss)


def trial_arguments(folder: Path) -> dict[str, Any]:
    """A trial leaves nothing but its score."""
    return {
        "output_dir": str(folder / "run"),
        "eval_strategy": "steps",
        "eval_steps": 1 / NUM_LOOKS,
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_strategy": "no",
        "report_to": "none",
        "push_to_hub": False,
        "resume_from_checkpoint": None,
        "disable_tqdm": True,
    }


def others(number: int, held_out: Sequence[int]) -> list[int]:
    return sorted(set(range(number)) - set(held_out))


def hold_out_folds(rows: Dataset, groups: Sequence[str] | None, seed: int) -> list[list[int]]:
    """Which videos each fold holds out.

    Raises:
        ValueError: in one there would be too few left to fit a classifier to.
    """
    labels = np.array(rows["label"])
    numbers = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if (number := len(set(numbers.tolist()))) < 3:
        raise ValueError(refuse(f"they are of {number} group(s), and three are needed"))
    folds = stratified_folds(labels, numbers, NUM_FOLDS, seed)
    found = [np.flatnonzero(folds == fold).tolist() for fold in np.unique(folds)]
    for held_out in found:
        left = np.delete(np.arange(len(rows)), held_out)
        for label, name in enumerate(get_names(rows)):
            if (count := int((labels[left] == label).sum())) < 2:
                raise ValueError(refuse(f"the class {name!r} would keep {count} video(s), and needs two"))
        if len(set(numbers[left])) < 2:
            raise ValueError(refuse("all others would be of one group, and two are needed"))
    return found


def hold_out_once(rows: Dataset, groups: Sequence[str] | None, seed: int) -> list[int]:
    """Which videos are held out, about a fifth; raises as `hold_out_folds`."""
    try:
        splits = choose_validation(rows, groups, 0.2, seed)
    except AnnotationError as error:
        raise ValueError(refuse(str(error).rstrip("."))) from error
    return [index for index, split in enumerate(splits) if split == "validation"]


def refuse(reason: str) -> str:
    return f"trials hold out some of the training videos again, which are too few: {reason}. Leave out --trials."


def count_videos(rows: Dataset, clips: ClipArguments) -> torch.Tensor:
    """How much each counts: all alike, or all classes alike where the user wants that of training."""
    if is_multi_label(rows) or not (clips.class_weights or clips.balanced):
        return torch.ones(len(rows), dtype=torch.float64)
    return torch.tensor(inverse_frequencies(rows), dtype=torch.float64)[torch.tensor(rows["label"])]


def score(scores: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> HeldOut:
    """Of probabilities `(videos, classes)`; of several labels `(videos, classes)` each by itself."""
    scores = scores.double()
    if labels.ndim == 2:
        loss = torch.nn.functional.binary_cross_entropy(scores.clamp(1e-7, 1 - 1e-7), labels.double())
        return HeldOut(float(loss))
    losses = -scores.gather(1, labels[:, None])[:, 0].clamp_min(1e-12).log()
    right = (scores.argmax(dim=1) == labels).double()
    return HeldOut(float(counts @ losses / counts.sum()), float(counts @ right / counts.sum()))


def score_prediction(prediction: EvalPrediction, counts: torch.Tensor) -> HeldOut:
    labels = torch.from_numpy(np.asarray(prediction.label_ids))
    return score(torch.from_numpy(np.asarray(prediction.predictions)), labels, counts)
