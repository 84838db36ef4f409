# SPDX-License-Identifier: Apache-2.0
"""From videos without labels to a TubeViT that knows videos: what `tubevit pretrain` runs, see [`pretrain_folder`]."""

import dataclasses
import hashlib
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoVideoProcessor,
    EarlyStoppingCallback,
    PrinterCallback,
    TrainingArguments,
)
from transformers import set_seed as set_all_seeds

from ..conversion import convert_vit
from ..data import ClipDataset, EvaluationViews, drop_unreadable
from ..data.clips import clip_size
from ..data.dividing import stratified_folds
from ..data.facts import recall_opened
from ..data.groups import find_groups
from ..data.listing import describe_passed_over, fault_of_name, list_folder
from ..folders import read_json, write_json
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForVideoClassification, TubeViTModel, TubeViTPreTrainedModel
from ..model.pretraining_tubevit import TubeViTForPreTraining
from ..model.tubes_tubevit import Size
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .arguments import PretrainingArguments
from .forecast import CLIPS, Forecast, ForecastCallback
from .from_folder import ArgumentParser, FolderRun, base_settings, check_out, check_reporting
from .objectives import FeatureObjective, LogitObjective, Mask, Objective, PixelObjective
from .pretrainer import PretrainingTrainer, WatchCallback, find_warnings
from .pretraining_start import check_motion, measure_start, measure_targets, tell
from .record import is_measured, name_hardware
from .runs import (
    choose_checkpoint,
    evaluate_and_save,
    list_changes,
    make_training_clip,
    names_of,
    read_config,
    save_curves,
    train_and_save,
)
from .taught_clips import cache_targets
from .teachers import find_layer, load_feature_teacher, load_logit_teacher


FEATURES, LOGITS, PIXELS = TARGETS = ("features", "logits", "pixels")
RECORD_NAME = "pretraining.json"
TEACHER_NAME = "teacher"
# shares of the layers after which features are read
DEPTHS = (1 / 2, 3 / 4, 1)
# share of a clip's volume that is hidden where pixels are predicted
HIDDEN_PIXELS = 0.75
# `[t, h, w]` that the pixels of a token are averaged to
PIXEL_SIZE = [2, 8, 8]


@dataclass(frozen=True)
class PretrainingRun:
    """What is to be trained without labels.

    Args:
        data: a folder of videos, at any depth.
        source: folder or repo id of a TubeViT, or of an image ViT that becomes one with sparse tubes.
        out: folder of the model.
        teacher: folder or repo id of the teacher; by default the source, if that is an image ViT.
        targets: what is learned: `features` of the teacher, its `logits`, or hidden `pixels`.
        tubes: of an image ViT that becomes a TubeViT, see [`convert_vit`].
        share: of the videos that are held out, on which the training is measured.
        patience: evaluations that gain nothing, before the training ends.
        given: arguments of [`PretrainingArguments`] and `TrainingArguments`, by name, as a user gave them.
    """

    data: str
    source: str
    out: Path
    teacher: str | None = None
    targets: str = FEATURES
    tubes: list[dict[str, Any]] | None = None
    share: float = 0.1
    patience: int = 3
    given: dict[str, Any] = field(default_factory=dict)


def make_pretraining_parser() -> ArgumentParser:
    """Of all arguments that [`PretrainingRun`] may be given."""
    usage = "tubevit pretrain FOLDER --from SOURCE --out DIR [arguments below]"
    return ArgumentParser((PretrainingArguments, TrainingArguments), allow_abbrev=False, add_help=False, usage=usage)


def pretrain_folder(run: PretrainingRun) -> dict[str, Any]:
    """Trains a TubeViT on a folder's videos without labels, and saves it without what it only needs to learn.

    A run that was ended goes on where it was. One that is finished is not run again.

    Returns:
        What `pretraining.json` says.

    Raises:
        ValueError: videos, source, teacher or arguments do not go together; the message names what to do.
        TrainingDiverged: the loss or the weights are no longer finite.
        OSError: something cannot be read or written.
    """
    check_run(run)
    rows = list_rows(run.data)
    check_out(run.out)
    # what can be known at once comes before what takes time
    base = base_settings(FolderRun(run.data, run.source, run.out, given=run.given))
    arguments, args = parse({**base, **default_settings(run.given)}, run.given)
    check_reporting(args)
    set_all_seeds(args.seed)
    used = {
        "source": run.source,
        "teacher": run.teacher,
        "targets": run.targets,
        "tubes": run.tubes,
        "share": run.share,
        "patience": run.patience,
        "videos": f"{len(rows)}, {hashlib.sha256(repr(list(rows['file'])).encode()).hexdigest()[:16]}",
        **dataclasses.asdict(arguments),
    }
    if (run.out / RECORD_NAME).exists():
        return read_finished(run, args, used)
    base_model, processor = load_student(run, arguments)
    size = clip_size(base_model.config.num_frames, processor)
    check_tubes(base_model.config, size, run)
    objective = make_objective(run, arguments, base_model.config, processor, size)
    model = make_student(base_model, objective, arguments)

    rows = drop_unreadable(rows, run.data)
    check_lengths(rows, base_model.config, run.data)
    splits, how = hold_out(rows, run.share, args.seed)
    train, validation = (select(rows, splits, split) for split in (False, True))
    tell(args, f"{len(train)} videos train, {len(validation)} are held out: {how}.")
    views = EvaluationViews(processor, size[0], arguments.fps)
    check_motion(ClipDataset(rows, views), processor, run.data, args)
    checkpoint = choose_checkpoint(args, used)
    clips = ClipDataset(train, make_training_clip(processor, size[0], arguments), args.seed, copies=arguments.copies)
    place_teacher(objective, args.device)
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        train_dataset=clips,
        eval_dataset=ClipDataset(validation, views),
        processing_class=processor,
        objective=objective,
    )
    folder = run.out / TEACHER_NAME
    with args.main_process_first():
        forecast = measure_targets(trainer, clips, folder)
    start = measure_start(trainer, folder)
    if arguments.copies is not None and objective.teacher is not None:
        with args.main_process_first():
            trainer.train_dataset = cache_targets(
                objective,
                clips,
                folder,
                args.device,
                forecast["target_bytes"],
                args.dataloader_num_workers,
                args.bf16,
                Forecast("clips", CLIPS),
            )
    trainer.add_callback(ForecastCallback(args.load_best_model_at_end))
    trainer.add_callback(WatchCallback(start))
    if args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(run.patience))
    found = train_and_save(trainer, checkpoint)
    # what it would print is said in words
    trainer.remove_callback(PrinterCallback)
    metrics = evaluate_and_save(trainer)
    save_curves(trainer)
    record = {
        "data": run.data,
        "source": run.source,
        "teacher": run.teacher or (None if run.targets == PIXELS else run.source),
        "targets": run.targets,
        "videos": {"train": len(train), "held_out": len(validation)},
        "division": how,
        "held_out": list(validation["file"]),
        "size": list(size),
        "tokens": model.config.num_tokens(*size),
        "settings": {**dataclasses.asdict(arguments), **training_settings(args)},
        "start": only_measured(start),
        "metrics": only_measured(metrics),
        "forecast": forecast,
        "seconds": found.get("train_runtime"),
        "steps": trainer.state.global_step,
        "warnings": find_warnings(trainer.state.log_history, start, has_ended=True),
        "environment": environment(args),
    }
    if args.should_save:
        write_card(trainer.model, run, record)
        # it says that all else is there
        write_json(run.out / RECORD_NAME, record)
        shutil.rmtree(folder, ignore_errors=True)
    return record


# What is asked for


def check_run(run: PretrainingRun) -> None:
    if run.targets not in TARGETS:
        raise ValueError(f"--targets must be one of {', '.join(TARGETS)}, got {run.targets!r}.")
    if run.targets == PIXELS and run.teacher is not None:
        raise ValueError(
            "--targets pixels has no teacher: leave out --teacher, or choose --targets features or logits."
        )
    if run.targets != PIXELS and run.teacher is None and is_tubevit(run.source):
        raise ValueError(
            f"{run.source} is a TubeViT, which cannot teach itself: give an image ViT, such as the one it was made "
            "of, or a video model by --teacher, or choose --targets pixels."
        )
    if run.tubes is not None and is_tubevit(run.source):
        raise ValueError(f"{run.source} is a TubeViT, which has its own tubes: leave out --tubes.")
    if run.given.get("push_to_hub"):
        raise ValueError("--push_to_hub is not for `tubevit pretrain`: push the folder when it is finished.")


def is_tubevit(source: str) -> bool:
    return isinstance(read_config(source), TubeViTConfig)


def default_settings(given: dict[str, Any]) -> dict[str, Any]:
    """What a user's arguments leave open."""
    settings: dict[str, Any] = {
        "num_train_epochs": 10,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "weight_decay": 0.05,
        "logging_strategy": "epoch",
        "eval_strategy": "epoch",
        "save_strategy": given.get("eval_strategy", "epoch"),
        "load_best_model_at_end": given.get("eval_strategy") != "no" and given.get("save_strategy") != "no",
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,
        "random_crop": True,
        "horizontal_flip": True,
    }
    if given.get("fps") is None:
        settings["time_scale"] = 0.7
    return settings


def parse(settings: dict[str, Any], given: dict[str, Any]) -> tuple[PretrainingArguments, TrainingArguments]:
    # pyrefly: ignore[bad-return]  the parser was made of these
    return make_pretraining_parser().parse_dict({**settings, **given})


def read_finished(run: PretrainingRun, args: TrainingArguments, used: dict[str, Any]) -> dict[str, Any]:
    if other := list_changes(args, used):
        raise ValueError(
            f"{run.out} holds a finished run with other arguments: {other}. Choose another folder by --out, or remove "
            "this one to begin anew."
        )
    tell(args, f"{run.out} is finished; nothing is trained again.")
    return read_json(run.out / RECORD_NAME)


# Videos


def list_rows(folder: str) -> Dataset:
    """The videos of a folder, with the columns `video` and `file`, relative to the folder.

    Raises:
        ValueError: there is no such folder, or it holds no videos.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: there is no such folder.")
    listing = list_folder(folder)
    if not listing.videos:
        raise ValueError(f"{folder}: it holds no videos.{describe_passed_over(listing.passed_over)}")
    listing.passed_over |= {path.name: fault for path in listing.videos if (fault := fault_of_name(path))}
    listing.tell()
    paths = [path for path in listing.videos if fault_of_name(path) is None]
    return Dataset.from_dict(
        {"video": list(map(str, paths)), "file": [path.relative_to(folder).as_posix() for path in paths]}
    )


def hold_out(rows: Dataset, share: float, seed: int) -> tuple[list[bool], str]:
    """Which videos are held out, those of one group together; and how that came about.

    Raises:
        ValueError: the share is out of range, or there is one video or one group.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"the share of held-out videos must be above 0 and at most 0.5, got {share}.")
    files = list(rows["file"])
    if len(files) < 2:
        raise ValueError("there is one video, and none is left to hold out: add videos.")
    groups = find_groups(files)
    how = "by video: nothing tells which belong together" if groups is None else "by group, as the names tell"
    names = np.unique(files if groups is None else groups, return_inverse=True)[1]
    folds = stratified_folds(np.zeros(len(files), dtype=int), names, round(1 / share), seed)
    sizes = {fold: abs(int((folds == fold).sum()) - share * len(files)) for fold in sorted(set(folds.tolist()))}
    chosen = min(sizes, key=lambda fold: sizes[fold])
    return [bool(fold == chosen) for fold in folds], how


def select(rows: Dataset, splits: Sequence[bool], wanted: bool) -> Dataset:
    # pyrefly: ignore[bad-return]  datasets' decorators say that it may be a DatasetDict
    return rows.select([index for index, held_out in enumerate(splits) if held_out == wanted])


def check_lengths(rows: Dataset, config: TubeViTConfig, name: str) -> None:
    """Raises a `ValueError` if no video has as many frames as the longest tube sees."""
    lengths = [opened.num_frames for opened in recall_opened(list(rows["video"]), name, show=False).values()]
    longest = max(tube.extent[0] for tube in config.resolved_tubes)
    if max(lengths) < longest:
        raise ValueError(
            f"{name}: the longest of its {len(rows)} videos has {max(lengths)} frame(s), and a tube of the model sees "
            f"{longest}. Give longer videos."
        )


# Model, teacher, clips


def load_student(run: PretrainingRun, arguments: PretrainingArguments) -> tuple[TubeViTModel, TubeViTVideoProcessor]:
    """The TubeViT that is trained, without a head, and its processor."""
    if not is_tubevit(run.source):
        model, report = convert_vit(
            run.source,
            layout="interleaved",
            tubes=run.tubes,
            num_frames=arguments.num_frames,
            keep_classifier=False,
        )
        processor = TubeViTVideoProcessor(**report.preprocessing, num_frames=model.config.num_frames)
        return model.base_model, processor
    changes: dict[str, Any] = {} if arguments.num_frames is None else {"num_frames": arguments.num_frames}
    model = AutoModel.from_pretrained(run.source, **changes)
    processor = AutoVideoProcessor.from_pretrained(run.source, num_frames=model.config.num_frames)
    return model, processor


def check_tubes(config: TubeViTConfig, size: Size, run: PretrainingRun) -> None:
    """Raises a `ValueError` for models that would learn nothing of time."""
    if config.joint_layer:
        raise ValueError(
            f"{run.source}: its first {config.joint_layer} layers see single frames, and pre-training is for sparse "
            "tubes. Begin with an image ViT, or with a TubeViT of `tubevit convert --layout interleaved`."
        )
    if config.freeze_before is not None:
        raise ValueError(
            f"{run.source}: its layers before {config.freeze_before} are frozen (`freeze_before`), and would not "
            "learn. Save it after `model.freeze_before(None)`."
        )
    tubes = config.resolved_tubes
    for tube in tubes:
        if not all(tube.grid(size)):
            raise ValueError(
                f"a clip of {size[0]} frames of {size[1]}x{size[2]} pixels is too short or small for the tube that "
                f"sees {'x'.join(map(str, tube.extent))} from {list(tube.offset)}: give more --num_frames."
            )
    if all(tube.sees_one_frame for tube in tubes):
        raise ValueError(
            f"{run.source}: all its tubes see single frames, so there is nothing to learn of time. Begin with a "
            "TubeViT of `tubevit convert --layout interleaved`, or give --tubes."
        )


def make_objective(
    run: PretrainingRun,
    arguments: PretrainingArguments,
    config: TubeViTConfig,
    processor: TubeViTVideoProcessor,
    size: Size,
) -> Objective:
    tubes, teacher = config.resolved_tubes, run.teacher or run.source
    if run.targets == LOGITS:
        if arguments.mask_ratio:
            raise ValueError("--mask_ratio hides tokens that are predicted, and --targets logits predicts none.")
        return LogitObjective(load_logit_teacher(teacher, processor, size), arguments.temperature)
    ratio = arguments.mask_ratio
    if run.targets == PIXELS:
        mask = Mask(tubes, size, HIDDEN_PIXELS if ratio is None else ratio)
        if not mask.ratio:
            raise ValueError("--targets pixels needs a --mask_ratio above 0: pixels that are seen teach nothing.")
        return PixelObjective(tubes, PIXEL_SIZE, mask)
    depths = read_depths(arguments, config, bool(ratio))
    features = load_feature_teacher(teacher, processor, tubes, size, depths)
    return FeatureObjective(features, tubes, size, Mask(tubes, size, ratio or 0.0))


def read_depths(arguments: PretrainingArguments, config: TubeViTConfig, is_masked: bool) -> list[float]:
    """Shares of the layers after which tokens are read: of the default ones the last, where a decoder reads one."""
    if arguments.depths is None:
        by_layer = {find_layer(depth, config): depth for depth in DEPTHS}
        return list(by_layer.values())[-1 if is_masked else 0 :]
    depths = sorted(arguments.depths)
    if not depths or depths[0] <= 0 or depths[-1] > 1:
        raise ValueError(f"--depths must be shares of the layers above 0 and at most 1, got {arguments.depths}.")
    if is_masked:
        return depths[-1:]
    layers = [find_layer(depth, config) for depth in depths]
    if len(set(layers)) < len(layers):
        raise ValueError(
            f"--depths {' '.join(map(str, depths))} are the layers {layers} of {config.num_hidden_layers}: give "
            "shares that are different layers."
        )
    return depths


def make_student(
    base_model: TubeViTModel, objective: Objective, arguments: PretrainingArguments
) -> TubeViTPreTrainedModel:
    """The model with what it needs to learn: heads and a decoder, or a classifier of the teacher's classes."""
    config = TubeViTConfig(**base_model.config.to_dict())
    if isinstance(objective, LogitObjective):
        assert objective.teacher is not None
        config.id2label = dict(enumerate(names_of(objective.teacher.model.config)))
        config.problem_type = "single_label_classification"
        model: Any = TubeViTForVideoClassification(config)
    else:
        assert objective.mask is not None
        is_masked = bool(objective.mask.ratio)
        settings: dict[str, Any] = {"decoder_layers": arguments.decoder_layers if is_masked else 0}
        if isinstance(objective, PixelObjective):
            settings |= {"target": PIXELS, "pixel_size": PIXEL_SIZE}
        else:
            assert isinstance(objective, FeatureObjective)
            depths = read_depths(arguments, config, is_masked)
            layers = [find_layer(depth, config) for depth in depths]
            settings |= {"target": FEATURES, "target_size": objective.target_size, "layers": layers}
        config.pretraining = settings
        model = TubeViTForPreTraining(config)
    model.tubevit.load_state_dict(base_model.state_dict())
    return model


def place_teacher(objective: Objective, device: torch.device) -> None:
    if objective.teacher is not None:
        # pyrefly: ignore[bad-argument-type]  transformers wraps it
        objective.teacher.model.to(device)


# What is left at the end


def only_measured(metrics: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in metrics.items() if is_measured(name)}


def training_settings(args: TrainingArguments) -> dict[str, Any]:
    names = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
    names += ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "bf16", "seed", "world_size")
    return {name: getattr(args, name) for name in names}


def environment(args: TrainingArguments) -> dict[str, str]:
    from .. import __version__

    return {
        "tubevit_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "hardware": name_hardware(args.device),
    }


def write_card(model: Any, run: PretrainingRun, record: dict[str, Any]) -> None:
    """A model card that says what was learned, and of what."""
    metrics, teacher = record["metrics"], record["teacher"]
    learned = {
        FEATURES: f"features of `{teacher}` over the place and time of each token: their mean and their change",
        LOGITS: f"the classes of `{teacher}`",
        PIXELS: "the pixels of hidden tokens",
    }[run.targets]
    lines = [
        "## Pre-training",
        "",
        f"Trained without labels on {record['videos']['train']} videos of `{Path(run.data).name}`, from "
        f"`{run.source}`: it learned {learned}.",
        "",
        f"Held out: {record['videos']['held_out']} video(s), {record['division']}.",
        "",
        "| | before | after |",
        "|---|---|---|",
        *(f"| {name} | {record['start'][name]:.4g} | {metrics[name]:.4g} |" for name in metrics if name != "epoch"),
        "",
        *(f"- {warning}" for warning in record["warnings"]),
    ]
    is_classifier = isinstance(model, TubeViTForVideoClassification)
    if not is_classifier:
        lines += ["", "It has no classifier: load it with `AutoModel`, or train one with `tubevit train --from`."]
    data: dict[str, str] = {} if is_classifier else {"pipeline_tag": "feature-extraction"}
    whole = model if is_classifier else model.base_model
    card = whole.create_model_card(run.out.name, details="\n".join(lines), data=data)
    card.save(run.out / "README.md")


__all__ = ["PretrainingRun", "pretrain_folder"]
