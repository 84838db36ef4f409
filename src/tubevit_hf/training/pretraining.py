# SPDX-License-Identifier: Apache-2.0
"""From videos without labels to a TubeViT that knows videos: what `tubevit pretrain` runs, see [`pretrain_folder`]."""

import dataclasses
import hashlib
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
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
from ..data.facts import NUM_CELLS, recall_opened
from ..data.groups import find_groups
from ..data.inspection import FROZEN
from ..data.listing import describe_passed_over, fault_of_name, list_folder
from ..folders import read_json, write_json
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForVideoClassification, TubeViTModel, TubeViTPreTrainedModel
from ..model.pretraining_tubevit import TubeViTForPreTraining
from ..model.tubes_tubevit import Size
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .arguments import PretrainingArguments
from .forecast import CLIPS, Forecast, ForecastCallback, describe_memory, describe_time
from .from_folder import ArgumentParser, FolderRun, base_settings, check_out, check_reporting
from .frozen import check_room
from .objectives import FeatureObjective, LogitObjective, Mask, Objective, PixelObjective
from .pretrainer import PretrainingTrainer, WatchCallback, find_warnings
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
from .taught_clips import WHAT, cache_targets
from .teachers import Normalization, find_layer, load_feature_teacher, load_logit_teacher


FEATURES, LOGITS, PIXELS = TARGETS = ("features", "logits", "pixels")
RECORD_NAME = "pretraining.json"
TEACHER_NAME = "teacher"
# clips that the statistics of targets are measured on, and videos that are looked at for motion
SAMPLED_CLIPS, SAMPLED_VIDEOS = 64, 24
# of the ridge that fits the heads, as a share of the mean square of a state
HEAD_STRENGTH = 1e-3
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
        "warnings": find_warnings(trainer.state.log_history, start),
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


def tell(args: TrainingArguments, text: str) -> None:
    if args.should_log:
        print(text, flush=True)


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


def check_motion(clips: ClipDataset, processor: Any, name: str, args: TrainingArguments) -> None:
    """Looks at some videos. Raises a `ValueError` if nothing changes in any of them, or all show the same."""
    step = max(1, len(clips) // SAMPLED_VIDEOS)
    seen = [grey_cells(clips[index]["pixel_values"][0], processor) for index in range(0, len(clips), step)]
    still = sum(float((cells - cells[0]).abs().max()) < FROZEN for cells in seen)
    if still == len(seen):
        raise ValueError(
            f"{name}: nothing changes in any of {still} videos that were looked at, and without motion there is "
            "nothing to learn that an image model does not know. Give videos in which something moves."
        )
    if all(float((cells - seen[0]).abs().max()) < FROZEN for cells in seen):
        raise ValueError(f"{name}: {len(seen)} videos that were looked at are all the same. Give different ones.")
    if still:
        tell(args, f"Nothing changes in {still} of {len(seen)} videos that were looked at.")


def grey_cells(pixel_values: torch.Tensor, processor: Any) -> torch.Tensor:
    """Grey of the cells of each frame, 0 to 255: `(num_frames, 3, height, width) -> (num_frames, 32, 32)`."""
    plain = Normalization(torch.full((1,), 255.0), torch.zeros(1))
    pixels = Normalization.of(processor).convert(pixel_values, plain)
    return adaptive_avg_pool2d(pixels.mean(1), NUM_CELLS)


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


# What is measured before the first step


def measure_targets(trainer: PretrainingTrainer, clips: ClipDataset, folder: Path) -> dict[str, Any]:
    """Measures the targets' statistics on some training clips and what the run will take, and fits the heads that read
    visible tokens; in a second start all is read.

    Returns:
        What the run takes: seconds, bytes of a clip's targets and of all that is written.

    Raises:
        ValueError: the teacher cannot read such clips.
        OSError: the disk has too little room.
    """
    path, noted = folder / "statistics.safetensors", folder / "forecast.json"
    model, objective = trainer.model, trainer.learned
    # what a decoder gives at first is nothing to fit to
    heads = model.heads if isinstance(model, TubeViTForPreTraining) and model.decoder is None else None
    if noted.exists():
        trainer.learned.statistics = load_file(path)
        if heads is not None:
            heads.load_state_dict(load_file(folder / "heads.safetensors"))
        return read_json(noted)
    folder.mkdir(parents=True, exist_ok=True)
    watch = Stopwatch()
    trainer.learned.fit(sample_targets(trainer, clips, watch))
    if heads is not None:
        assert isinstance(objective, FeatureObjective)  # pixels need a decoder
        fit_heads(heads, watch.states, [objective.standardize(targets) for targets in watch.all_targets])
        save_file(heads.state_dict(), folder / "heads.safetensors")
    forecast = forecast_run(trainer, clips, watch)
    check_room(folder, forecast["cache_bytes"], WHAT)
    save_file(trainer.learned.statistics, path)
    write_json(noted, forecast)
    return forecast


def fit_heads(heads: nn.ModuleList, states: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    """Fits linear heads to a student that is not trained yet, by ridge regression. Random ones would first pull its
    layers away from what they know.

    Args:
        heads: of the layers that are read.
        states: of some clips, `(clips, layers, tokens, hidden_size)` each.
        targets: of these, `(clips, tokens, layers, target_size)`.
    """
    for layer, head in enumerate(heads):
        of_layer = torch.cat([batch[:, layer].flatten(0, 1) for batch in states]).double()
        wanted = torch.cat([batch[:, :, layer].flatten(0, 1) for batch in targets]).double()
        mean, target_mean = of_layer.mean(0), wanted.mean(0)
        of_layer = of_layer - mean
        squares = of_layer.T @ of_layer
        squares.diagonal().add_(HEAD_STRENGTH * squares.diagonal().mean())
        weight = torch.linalg.solve(squares, of_layer.T @ (wanted - target_mean)).T
        head.load_state_dict({"weight": weight.float(), "bias": (target_mean - weight @ mean).float()})


class Stopwatch:
    """Seconds that some clips took, by what takes them; the last of these clips, with what was said of them; and where
    heads are fitted, what was said of all, with the student's states."""

    def __init__(self) -> None:
        self.seconds = {"read": 0.0, "teacher": 0.0}
        self.clips = 0
        self.pixel_values = self.targets = torch.empty(0)
        self.all_targets: list[torch.Tensor] = []
        self.states: list[torch.Tensor] = []


def sample_targets(trainer: PretrainingTrainer, clips: ClipDataset, watch: Stopwatch) -> Iterator[torch.Tensor]:
    """Targets of some training clips, a few at a time."""
    args, objective = trainer.args, trainer.learned
    rows = range(0, len(clips), max(1, len(clips) // SAMPLED_CLIPS))
    # of few videos several clips each
    copies = range(1 if clips.copies == 1 else max(1, min(4, SAMPLED_CLIPS // len(rows))))
    wanted = [(row, copy) for copy in copies for row in rows][:SAMPLED_CLIPS]
    for start in range(0, len(wanted), 4):
        began = time.perf_counter()
        pixel_values = torch.stack([clips.get_clip(*place)["pixel_values"] for place in wanted[start : start + 4]])
        read = time.perf_counter()
        try:
            with torch.no_grad(), torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
                targets = objective.make_targets(pixel_values.to(args.device)).float().cpu()
        except (RuntimeError, TypeError, ValueError) as error:
            size = "x".join(map(str, (*pixel_values.shape[1:2], *pixel_values.shape[3:])))
            raise ValueError(f"the teacher cannot read clips of {size} (frames x height x width): {error}") from error
        if not targets.isfinite().all():
            raise ValueError(
                "the teacher gives numbers that are not finite. Try --bf16 False, or give another teacher."
            )
        watch.seconds["read"] += read - began
        watch.seconds["teacher"] += time.perf_counter() - read
        watch.clips += len(pixel_values)
        watch.pixel_values, watch.targets = pixel_values, targets
        if isinstance(trainer.model, TubeViTForPreTraining) and trainer.model.decoder is None:
            watch.all_targets.append(targets)
            watch.states.append(trainer.encode(pixel_values))
        yield targets


def forecast_run(trainer: PretrainingTrainer, clips: ClipDataset, watch: Stopwatch) -> dict[str, Any]:
    """What the run takes at most, by one step of the student and the clips that were read."""
    args, model = trainer.args, trainer.model
    # dropout draws, and the run is to begin as if nothing had been measured
    with torch.random.fork_rng():
        began = time.perf_counter()
        batch = trainer.prepare({"pixel_values": watch.pixel_values}, args.seed)
        model.train()
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            trainer.learned.loss(model(**batch.inputs), batch.targets).backward()
        model.zero_grad(set_to_none=True)
    each = {name: spent / watch.clips for name, spent in watch.seconds.items()}
    has_teacher = trainer.learned.teacher is not None
    # a teacher was asked again
    each["student"] = max(0.0, (time.perf_counter() - began) / len(watch.pixel_values) - each["teacher"] * has_teacher)
    target_bytes = 2 * prod(watch.targets.shape[1:])
    num_kept = len(clips) * (clips.copies or 0) if has_teacher else 0
    num_clips = clips_of_run(args, len(clips))
    workers = max(1, args.dataloader_num_workers)
    # pixels' targets are the student's own
    of_teacher = each["teacher"] if has_teacher and not num_kept else 0.0
    seconds = num_clips * (each["student"] + of_teacher + each["read"] / workers) / args.world_size
    # what is held out is run once an epoch, and forward only
    num_held_out = ceil(num_clips / len(clips)) * trainer.num_examples(trainer.get_eval_dataloader())
    seconds += num_held_out * (each["student"] / 3 + each["teacher"] + each["read"] / workers) / args.world_size
    seconds += num_kept * (each["teacher"] + each["read"] / workers)
    # weights and AdamW's two moments, in two checkpoints and one that is written; and the weights at the end
    disk = 4 * sum(parameter.numel() for parameter in model.parameters()) * (3 * 3 + 1)
    forecast = {
        "seconds": seconds,
        "seconds_per_clip": each,
        "clips": num_clips,
        "target_bytes": target_bytes,
        "cache_bytes": num_kept * target_bytes,
        "disk_bytes": num_kept * target_bytes + disk,
        "memory": describe_memory(),
    }
    kept = f" ({forecast['cache_bytes'] / 1e9:.2f} GB of them the teacher's)" if num_kept else ""
    tell(
        args,
        f"{num_clips:,} clips of {model.config.num_tokens(*clips_size(clips)):,} tokens, at most about "
        f"{describe_time(seconds)}: a clip takes {each['read']:.2f} s to read, {each['teacher']:.2f} s of the "
        f"teacher, {each['student']:.2f} s of the model. {describe_memory()} so far, and up to "
        f"{forecast['disk_bytes'] / 1e9:.2f} GB on the disk{kept}.",
    )
    return forecast


def clips_size(clips: ClipDataset) -> Size:
    return clips.load.size  # pyrefly: ignore[missing-attribute]  a TrainingClip


def clips_of_run(args: TrainingArguments, num_rows: int) -> int:
    """Clips that all epochs or steps train on, on all devices."""
    if args.max_steps > 0:
        return args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return ceil(args.num_train_epochs * num_rows)


def measure_start(trainer: PretrainingTrainer, folder: Path) -> dict[str, float]:
    """Metrics of the held-out clips before the first step; in a second start they are read."""
    path = folder / "start.json"
    if path.exists():
        return read_json(path)
    with torch.random.fork_rng():
        start = trainer.measure_start()
    if trainer.args.should_save:
        write_json(path, start)
    trainer.accelerator.wait_for_everyone()
    return start


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
