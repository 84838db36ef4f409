# SPDX-License-Identifier: Apache-2.0
"""From a folder of videos to a model: what `tubevit train` runs.

Few videos are fitted in closed form behind frozen layers, more of them by gradients; see [`train_folder`].
"""

import dataclasses
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoVideoProcessor,
    EarlyStoppingCallback,
    HfArgumentParser,
    PrinterCallback,
    TrainingArguments,
)
from transformers import set_seed as set_all_seeds
from transformers.integrations import get_reporting_integration_callbacks

from ..conversion import convert_vit, save_converted
from ..conversion.report import REPORT_NAME
from ..data import drop_unreadable, get_names, is_multi_label, read_leave_out
from ..data.dividing import SPLITS_NAME, Division, divide, read_division, write_division
from ..data.labelled import leave_out, load_labelled, texts_of
from ..folders import check_folder, read_json
from ..model.configuration_tubevit import TubeViTConfig
from ..model.number_types_tubevit import has_bfloat16_units
from .arguments import OF_BOTH, OF_GRADIENTS, WITHOUT_EFFECT, ChangeArguments, ClipArguments
from .few_videos import (
    AUTO,
    FEW_VIDEOS,
    LAYOUTS,
    MAX_CLIPS,
    MAX_VIDEOS,
    FewVideosReport,
    Layout,
    settle_layouts,
)
from .forecast import CLIPS, Forecast, ForecastCallback
from .frozen import SETTINGS_NAME
from .held_out import (
    TrainingVideos,
    check_space,
    gradient_objective,
    gradient_space,
    small_objective,
    small_space,
)
from .record import RESULTS_NAME, write_record
from .runs import (
    ARGUMENTS_NAME,
    choose_checkpoint,
    evaluate_and_save,
    fit_layouts,
    frozen_folder,
    list_changes,
    load_config,
    make_trainer,
    note_arguments,
    read_config,
    recipe_settings,
    save_curves,
    save_whole,
    train_and_save,
)
from .trainer import VideoTrainer
from .trials import Budget, run_trials, show_trials


SMALL, GRADIENTS = "small", "gradients"
CONVERTED_NAME = "converted"
# random clips of a video whose frozen layers are run once, if as many are not too many
COPIES = 10


@dataclass(frozen=True)
class FolderRun:
    """What is to be trained.

    Args:
        data: a folder of videos or a dataset, see [`load_labelled`].
        source: folder or repo id of a TubeViT, or of an image ViT that becomes one.
        out: folder of the model.
        labels: a CSV file, see [`load_labelled`].
        leave_out: a file of videos that are not to be used.
        group_pattern, by_group, share: see [`divide`].
        recipe: `small`, `gradients`, a key of [`RECIPES`], or `None` for what suits the videos.
        layout: of the recipe `small`, which it implies: `frames`, `sparse`, `auto` for the better of both by held-out
            training videos, or `None` for `frames` where the source has a tube that reads whole frames.
        patience: evaluations that gain nothing, before training by gradients ends.
        budget: of trials of settings, on training videos alone, before the training; by default there are none.
        given: arguments of [`ClipArguments`], [`ChangeArguments`] and `TrainingArguments`, by name, as a user gave
            them.
    """

    data: str
    source: str
    out: Path
    labels: Path | None = None
    leave_out: Path | None = None
    group_pattern: str | None = None
    by_group: bool = True
    share: float = 0.2
    recipe: str | None = None
    layout: str | None = None
    patience: int = 5
    budget: Budget | None = None
    given: dict[str, Any] = field(default_factory=dict)


class ArgumentParser(HfArgumentParser):
    """Raises a `ValueError`, where argparse prints the usage of two hundred arguments and exits."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def make_parser() -> ArgumentParser:
    """Of all arguments that [`FolderRun`] may be given."""
    groups = (ClipArguments, ChangeArguments, TrainingArguments)
    usage = "tubevit train FOLDER --from SOURCE --out DIR [arguments below]"
    return ArgumentParser(groups, allow_abbrev=False, add_help=False, usage=usage)


def parse_given(
    arguments: Sequence[str], parser: ArgumentParser | None = None, command: str = "train"
) -> dict[str, Any]:
    """The values of arguments that a command line gives, by name.

    Args:
        arguments: as they stand on the command line.
        parser: that knows them; by default the one of [`make_parser`].
        command: of `tubevit`, for errors.

    Raises:
        ValueError: there is no such argument, or not of such a value.
    """
    parser = make_parser() if parser is None else parser
    names = [field.name for group in parser.dataclass_types for field in dataclasses.fields(group)]
    unset = object()
    found, unknown = parser.parse_known_args(list(arguments), Namespace(**dict.fromkeys(names, unset)))
    if unknown:
        raise ValueError(
            f"{unknown[0]}: there is no such argument; `tubevit {command} --help` lists those of the command, "
            f"and `tubevit {command} --list-arguments` all others."
        )
    given = {name: value for name, value in vars(found).items() if value is not unset}
    does_both, needs_all = "the command trains and evaluates", "it keeps the scores of all videos for validation"
    for name, hint in (
        ("output_dir", "give --out"),
        *(("do_train", does_both), ("do_eval", does_both), ("do_predict", does_both)),
        *(("dataloader_drop_last", needs_all), ("prediction_loss_only", needs_all)),
    ):
        if name in given:
            raise ValueError(f"--{name} is not for `tubevit {command}`: {hint}.")
    return given


def train_folder(run: FolderRun) -> dict[str, Any]:
    """Trains a model on a folder's videos, evaluates it and writes down what was measured.

    A run that was ended goes on where it was. One that is finished is not run again.

    Returns:
        What `results.json` says, see [`write_record`].

    Raises:
        ValueError: data, source or arguments do not go together; the message names what to do.
        ModuleNotFoundError: trials are asked for, and Optuna is missing.
        OSError: something cannot be read or written.
    """
    closed_form = None if run.recipe is None else run.recipe == SMALL
    of_gradients = [name for name in run.given if name in OF_GRADIENTS or (is_trainers(name) and not is_general(name))]
    if run.layout is not None:
        check_asked_layout(run)
        closed_form = True
    if closed_form and of_gradients:
        other = f"give --recipe {GRADIENTS}" if run.layout is None else "leave out --layout, which is of that recipe"
        raise ValueError(f"the recipe small is a closed form without --{of_gradients[0]}: leave that out, or {other}.")
    rows = load_labelled(run.data, run.labels)
    if run.leave_out is not None:
        rows = leave_out(rows, read_leave_out(run.leave_out, Path(run.data)))
    check_out(run.out)
    # what can be known at once comes before what takes time
    base_args = TrainingArguments(**base_settings(run))
    check_reporting(base_args)
    with base_args.main_process_first():
        sources = prepare_sources(run, base_args)
    [source, *others] = sources.values()
    layout = AUTO if others else next(iter(sources))
    rows = drop_unreadable(rows, run.data)
    division = settle_division(run, rows, base_args)
    splits = division.select(rows)
    check_trained(splits["train"], run.data)

    config: Any = AutoConfig.from_pretrained(source)
    if closed_form is None:
        reason = why_gradients(splits["train"], config, of_gradients)
        closed_form = reason is None
        if base_args.should_log:
            print("In closed form, behind frozen layers." if reason is None else f"By gradients: {reason}.")
    settings = base_settings(run)
    settings |= recipe_settings(SMALL, run.given) if closed_form else gradient_settings(run, config, splits["train"])
    if closed_form and not others:
        # noted with the run, since each layout has another by default
        asked = dataclasses.replace(FEW_VIDEOS, layout=next(iter(sources)), num_frames=run.given.get("num_frames"))
        settings["num_frames"] = asked.clip_length(config)
    found: dict[str, Any] | None = None
    if run.budget is not None:
        found = try_settings(run, sources, splits["train"], division.groups_of("train"), settings, closed_form)
        settings |= follow(found["chosen"])
    clips, changes, training_args = make_parser().parse_dict({**settings, **run.given})
    set_all_seeds(training_args.seed)

    recipe = SMALL if closed_form else run.recipe or GRADIENTS
    used = {
        "recipe": recipe,
        # as versions noted it that had frames only
        "layout": layout if closed_form and layout != "frames" else None,
        "source": run.source,
        "patience": run.patience,
        **describe_budget(run.budget),
        **describe_division(run),
        "labels": get_names(splits["train"]),
        **dataclasses.asdict(clips),
        **dataclasses.asdict(changes),
    }
    if (run.out / RESULTS_NAME).exists():
        if other := list_changes(training_args, used):
            raise ValueError(
                f"{run.out} holds a finished run with other arguments: {other}. Choose another folder by --out, or "
                "remove this one to begin anew."
            )
        if base_args.should_log:
            print(f"{run.out} is finished; nothing is trained again.")
        remove_frozen(run.out, training_args)
        return read_json(run.out / RESULTS_NAME)

    report: FewVideosReport | None = None
    if closed_form:
        note_arguments(training_args, used)
        groups = division.groups_of("train")
        watch = Forecast("clips", CLIPS)
        trainer, report = fit_layouts(sources, splits, clips, training_args, groups, watch, changes)
        save_whole(trainer)
    else:
        trainer = train_by_gradients(run, source, splits, clips, changes, training_args, used)
    # what it would print is said in words
    trainer.remove_callback(PrinterCallback)
    metrics = evaluate_and_save(trainer)
    if not closed_form:
        save_curves(trainer)
    results = write_record(trainer, run.data, run.source, recipe, rows, division, metrics, report, found)
    remove_frozen(run.out, training_args)
    return results


def remove_frozen(out: Path, args: TrainingArguments) -> None:
    """What frozen layers gave is for a run that is not finished yet, and takes the most room of all that it leaves."""
    for layout in LAYOUTS:
        folder = frozen_folder(out, layout)
        if args.should_save and (folder / SETTINGS_NAME).exists():
            shutil.rmtree(folder, ignore_errors=True)


def try_settings(
    run: FolderRun,
    sources: Mapping[Layout, str],
    rows: Dataset,
    groups: list[str] | None,
    settings: Mapping[str, Any],
    closed_form: bool,
) -> dict[str, Any]:
    """Trials of what the recipe leaves open and the user has not given, before the training.

    Args:
        sources: of the one layout.
        rows, groups: the training videos, which are all that trials see.
        settings: the recipe's.
        closed_form: whether it is that for few videos.

    Returns:
        As [`Trials.to_dict`].
    """
    assert run.budget is not None  # it is why this is called
    if (run.out / RESULTS_NAME).exists():
        # finished, perhaps without trials; what differs is told by its arguments
        return read_json(run.out / RESULTS_NAME).get("trials") or {"chosen": {}}
    check_budget(run)

    def parse(tried: Mapping[str, Any]) -> tuple[ClipArguments, ChangeArguments, TrainingArguments]:
        # pyrefly: ignore[bad-return]  the parser was made of these
        return make_parser().parse_dict({**settings, **run.given, **tried})

    clips, changes, args = parse({})
    if args.world_size > 1:
        raise ValueError(
            f"trials run in one process, and there are {args.world_size}. Run them in one, then train in several "
            "with the arguments that they chose."
        )
    [(layout, source)] = sources.items()
    videos = TrainingVideos(rows, groups, source, run.out, parse, layout)
    if closed_form:
        space = small_space(settings, run.given)
    else:
        config = load_config(source, clips, changes)
        space = gradient_space(settings, run.given, float(getattr(config, "hidden_dropout_prob", 0.0)))
    check_space(space)
    objective = small_objective(videos) if closed_form else gradient_objective(videos)
    fixed = {name: value for name, value in {**settings, **run.given}.items() if name not in space}
    about = {
        "source": run.source,
        "recipe": SMALL if closed_form else run.recipe or GRADIENTS,
        # trials of frames are told apart by its absence, as before there was another layout
        **({"layout": layout} if closed_form and layout != "frames" else {}),
        "training videos": list(zip(rows["file"], texts_of(rows), groups or rows["file"])),
        "setting": {name: value for name, value in fixed.items() if not name.startswith(WITHOUT_EFFECT)},
    }
    trials = run_trials(objective, space, run.budget, run.out, about, args.seed, args.should_log)
    videos.clean()
    if args.should_log:
        show_trials(trials)
    return trials.to_dict()


def follow(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that trials chose, and what goes with them: where no clip is mirrored, no view is. The last epoch is
    kept, since how many there are was chosen too, and the videos that validate shall choose nothing."""
    mirrors = {} if chosen.get("horizontal_flip", True) else {"eval_mirror": False}
    return {**chosen, **mirrors, "load_best_model_at_end": False}


def describe_budget(budget: Budget | None) -> dict[str, Any]:
    return {"trials": budget and budget.trials, "trial_minutes": budget and budget.minutes}


def check_budget(run: FolderRun) -> None:
    """Raises before trials if the training has begun, after trials of another budget."""
    noted = run.out / ARGUMENTS_NAME
    if not noted.exists():
        return
    before = read_json(noted)
    for name, value in describe_budget(run.budget).items():
        if before.get(name) != value:
            raise ValueError(
                f"{run.out} holds a run that was begun with {name} {before.get(name)!r}, and now it is {value!r}. "
                "Choose another folder by --out, or remove this one to begin anew."
            )


def is_trainers(name: str) -> bool:
    return name in {field.name for field in dataclasses.fields(TrainingArguments)}


def is_general(name: str) -> bool:
    """Whether an argument of the Trainer means something in closed form too."""
    return name.startswith((*WITHOUT_EFFECT, *OF_BOTH))


def base_settings(run: FolderRun) -> dict[str, Any]:
    """Arguments that hold whichever way is taken."""
    # bars are for people, who have a terminal
    defaults: dict[str, Any] = {"disable_tqdm": not sys.stderr.isatty()}
    on_cpu = run.given.get("use_cpu") or not torch.accelerator.is_available()
    if on_cpu:
        defaults["use_cpu"] = True
    if "fp16" not in run.given:
        device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
        defaults["bf16"] = has_bfloat16_units(device)
    fixed = {"output_dir": str(run.out), "remove_unused_columns": False, "do_train": True, "do_eval": True}
    general = {name: value for name, value in run.given.items() if is_trainers(name) and is_general(name)}
    # those of evaluation go with others that are not settled yet
    return {**defaults, **{name: value for name, value in general.items() if not name.startswith("eval_")}, **fixed}


def check_out(out: Path) -> None:
    """Raises before anything is done if the folder cannot be written."""
    if out.exists() and not out.is_dir():
        check_folder(out, overwrite=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".unfinished"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{out}: it cannot be written ({error.strerror}).") from error


def check_reporting(args: TrainingArguments) -> None:
    """Raises a `ValueError` at once where what is reported to is unknown or not installed."""
    for name in args.report_to or ():
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except (ImportError, RuntimeError, ValueError) as error:
            raise ValueError(f"--report_to {name}: {error}") from error


def check_asked_layout(run: FolderRun) -> None:
    """Raises a `ValueError` where a layout does not go with the rest of what is asked for."""
    if run.layout not in (*LAYOUTS, AUTO):
        raise ValueError(f"--layout must be one of {', '.join((*LAYOUTS, AUTO))}, got {run.layout!r}.")
    if run.recipe not in (None, SMALL):
        raise ValueError(
            f"--layout is of the recipe {SMALL}, and has no meaning for {run.recipe}: leave one of them out."
        )
    if run.layout == AUTO and run.budget is not None:
        raise ValueError(f"--layout {AUTO} does not go with trials of settings: try them in the layout that it chose.")


def prepare_sources(run: FolderRun, args: TrainingArguments) -> dict[Layout, str]:
    """For each layout that is to be fitted the source itself, if it is a TubeViT, or a TubeViT that is made of it
    beside the results.

    Raises:
        ValueError: the TubeViT has no tubes of a layout that is asked for.
    """
    config = read_config(run.source)
    if isinstance(config, TubeViTConfig):
        return dict.fromkeys(settle_layouts(config, run.layout), run.source)
    # pyrefly: ignore[bad-assignment]  `check_asked_layout` knows that it is one
    layouts: tuple[Layout, ...] = LAYOUTS if run.layout == AUTO else (run.layout or "frames",)
    return {layout: convert_source(run.source, run.out, layout, args) for layout in layouts}


def convert_source(source: str, out: Path, layout: Layout, args: TrainingArguments) -> str:
    """Folder of a TubeViT that is made of an image ViT for a layout."""
    folder = out / (CONVERTED_NAME if layout == "frames" else f"{CONVERTED_NAME}_{layout}")
    report = folder / REPORT_NAME
    if not report.exists() or read_json(report)["source"] != source:
        model, conversion = convert_vit(source, layout="frames" if layout == "frames" else "interleaved")
        if args.should_log:
            print(f"{source} becomes a TubeViT in {folder}.")
        save_converted(model, conversion, folder, overwrite=True)
    return str(folder)


def settle_division(run: FolderRun, rows: Dataset, args: TrainingArguments) -> Division:
    """As an earlier start noted it, or else a new one, which is noted.

    Raises:
        ValueError: an earlier start divided otherwise.
    """
    path = run.out / SPLITS_NAME
    asked = describe_division(run)
    noted = run.out / ARGUMENTS_NAME
    if path.exists() and noted.exists():
        before = read_json(noted)
        for name, value in asked.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{path} was written with {name} {before.get(name)!r}, and now it is {value!r}. Choose another "
                    "folder by --out, or remove this one to begin anew."
                )
    # a user may have written or changed it; what is asked for otherwise is done
    if path.exists() and (noted.exists() or asked == describe_division(FolderRun("", "", run.out))):
        division = read_division(path, rows)
    else:
        seed = args.seed if args.data_seed is None else args.data_seed
        division = divide(rows, run.group_pattern, run.by_group, run.share, seed)
        with args.main_process_first():
            if args.should_save:
                write_division(path, rows, division)
    if args.should_log:
        counts = [division.splits.count(split) for split in ("train", "validation")]
        print(f"{counts[0]} videos train, {counts[1]} validate: {division.how}.")
    return division


def describe_division(run: FolderRun) -> dict[str, Any]:
    return {"group_pattern": run.group_pattern, "groups": run.by_group, "validation_share": run.share}


def check_trained(rows: Dataset, name: str) -> None:
    present = set(rows["label"]) if not is_multi_label(rows) else {one for labels in rows["label"] for one in labels}
    lacking = [label for number, label in enumerate(get_names(rows)) if number not in present]
    if lacking:
        raise ValueError(
            f"{name}: no training video is of the class {lacking[0]!r}. Add some, or remove the class from the data."
        )


def why_gradients(rows: Dataset, config: Any, given: Sequence[str]) -> str | None:
    """Why the closed form does not do, if it does not."""
    if given:
        return f"--{given[0]} is given"
    if is_multi_label(rows):
        return "videos have several labels"
    if len(rows) > MAX_VIDEOS:
        return f"{len(rows)} training videos are more than the {MAX_VIDEOS} that the closed form takes"
    if config.pooling_type != "grid" and not any(tube.sees_one_frame for tube in config.resolved_tubes):
        return "none of the model's tubes sees a single frame, which the closed form needs"
    return None


def gradient_settings(run: FolderRun, config: Any, rows: Dataset) -> dict[str, Any]:
    """Of a paper's recipe, or such as suit a converted image ViT; and what ends early and keeps the best."""
    given = run.given
    several = is_multi_label(rows)
    counts_alike = given.get("class_weights") or given.get("balanced")
    accuracy = "mean_class_accuracy" if counts_alike else "top_1_accuracy"
    settings: dict[str, Any] = {
        "eval_strategy": "epoch",
        "save_strategy": given.get("eval_strategy", "epoch"),
        "load_best_model_at_end": given.get("eval_strategy") != "no" and given.get("save_strategy") != "no",
        "metric_for_best_model": "mean_average_precision" if several else accuracy,
        "greater_is_better": True,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,
    }
    if run.recipe in (None, GRADIENTS):
        settings |= {
            "num_train_epochs": 20,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,
            "weight_decay": 0.05,
            "random_crop": True,
            "horizontal_flip": True,
            "eval_clips": 1,
            "eval_crops": 1,
        }
        if given.get("fps") is None and given.get("short_clips", "repeat") == "repeat":
            settings["time_scale"] = FEW_VIDEOS.time_scale
        if config.joint_layer:
            # up to it frames are encoded by themselves, as the image ViT learned it
            settings["freeze_before"] = config.joint_layer
            if len(rows) * COPIES <= MAX_CLIPS and not given.get("pack") and given.get("short_clips") != "pad":
                settings["copies"] = COPIES
        return settings
    return {**settings, **recipe_settings(str(run.recipe), given)}


def train_by_gradients(
    run: FolderRun,
    source: str,
    splits: DatasetDict,
    clips: ClipArguments,
    changes: ChangeArguments,
    training_args: TrainingArguments,
    used: Mapping[str, Any],
) -> VideoTrainer:
    config = load_config(source, clips, changes)
    processor = AutoVideoProcessor.from_pretrained(source, num_frames=clips.num_frames)
    checkpoint = choose_checkpoint(training_args, dict(used))
    watch = Forecast("clips", CLIPS)
    trainer = make_trainer(source, config, processor, splits, clips, changes, training_args, True, watch)
    trainer.add_callback(ForecastCallback(training_args.load_best_model_at_end))
    if training_args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(run.patience))
    train_and_save(trainer, checkpoint)
    return trainer
