# SPDX-License-Identifier: Apache-2.0
"""The parts of a training run, for `tubevit train` and the example: the model, the clips, and where to go on from."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TrainingArguments,
)
from transformers.video_processing_utils import BaseVideoProcessor

from ..data import ClipDataset, EvaluationViews, TrainingClip, get_names, is_multi_label
from ..extras import of_extra
from ..folders import read_json, write_json
from ..inference.running import is_classifier, no_classifier
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForVideoClassification, TubeViTModel, TubeViTPreTrainedModel
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .arguments import OF_BOTH, OF_GRADIENTS, WITHOUT_EFFECT, ChangeArguments, ClipArguments, RandomClipArguments
from .few_videos import (
    FEW_VIDEOS,
    FewVideosRecipe,
    FewVideosReport,
    Layout,
    check_videos,
    choose_layout,
    fit_few_videos,
    list_choices,
)
from .frozen import FrozenClips, Watch, cache_frozen, frozen_size
from .losses import inverse_frequencies
from .planning import find_recipe
from .recipes import Recipe
from .trainer import VideoTrainer, find_checkpoint


ARGUMENTS_NAME = "run_arguments.json"
FROZEN_NAME = "frozen"


def recipe_settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of arguments, by their names.

    Args:
        name: `small`, or a key of [`RECIPES`].
        given: by the user, who has the last word.

    Raises:
        ValueError: the recipe's batch cannot be reached by accumulating gradients.
    """
    if name == "small":
        return FEW_VIDEOS.clip_arguments()
    recipe = find_recipe(name)
    settings = recipe.clip_arguments() | recipe.training_arguments()
    if given.get("num_train_epochs") is not None:
        del settings["max_steps"]
    if given.get("gradient_accumulation_steps") is None:
        # without a launcher the Trainer gives each GPU a part of the batch
        num_gpus = 0 if given.get("use_cpu") else torch.cuda.device_count()
        num_devices = int(os.environ.get("WORLD_SIZE", max(1, num_gpus)))
        batch_size = given.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
        settings["gradient_accumulation_steps"] = recipe.accumulation_steps(batch_size, num_devices)
    return settings


def load_config(
    source: str,
    clips: ClipArguments,
    changes: ChangeArguments,
    recipe: Recipe | None = None,
    with_weights: bool = True,
) -> PreTrainedConfig:
    """Configuration of a checkpoint with what is to be changed; `clips.num_frames` is set if it is `None`.

    Args:
        recipe: whose model it is to be.
        with_weights: whether the checkpoint's weights are wanted too.

    Raises:
        ValueError: it does not tell how many frames a clip has, what is to be changed is of TubeViT alone, or its
            weights are not of the recipe's model.
    """
    config = AutoConfig.from_pretrained(source)
    if recipe is not None and recipe.model:
        if with_weights and getattr(config, "tube_kernels", None) != "interpolated":
            raise ValueError(
                f"the recipe needs a TubeViT whose `tube_kernels` are 'interpolated'; those of {source} are not"
            )
        config = AutoConfig.from_pretrained(source, **recipe.model)
    apply_changes(config, source, clips, changes)
    return config


def apply_changes(
    config: PreTrainedConfig, source: str | None, clips: ClipArguments, changes: ChangeArguments
) -> None:
    length = next((name for name in ("num_frames", "frames_per_clip") if hasattr(config, name)), None)
    if length is None:
        raise ValueError(
            f"the configuration of {source}, a {config.model_type!r}, does not tell how many frames a clip has"
        )
    if clips.num_frames is not None:
        setattr(config, length, clips.num_frames)
    clips.num_frames = getattr(config, length)
    if changes.dropout is not None:
        config.hidden_dropout_prob = changes.dropout
    if changes.finer_strides is not None:
        if not isinstance(config, TubeViTConfig):
            raise ValueError(f"--finer_strides is for TubeViT; {source} is of type {config.model_type!r}")
        config.refine_strides(changes.finer_strides)


def make_trainer(
    source: str | None,
    config: PreTrainedConfig,
    processor: BaseVideoProcessor,
    splits: DatasetDict,
    clips: ClipArguments,
    changes: ChangeArguments,
    training_args: TrainingArguments,
    new_classifier: bool,
    watch: Watch | None = None,
) -> VideoTrainer:
    """A Trainer of all layers that are not frozen.

    Args:
        source: of the weights; without, they are new.
        config, processor: see [`load_config`].
        splits: with `train` and `validation`, of files that can be read.
        new_classifier: whether the classifier begins anew where the checkpoint's has other classes.
        watch: of frozen layers that are run once, see [`cache_frozen`].

    Raises:
        ValueError: the checkpoint has other classes, or none and is to be evaluated as it is; or arguments do not go
            together.
    """
    if source is not None and not training_args.do_train and not is_classifier(config):
        raise no_classifier(source)
    model = make_model(source, config, splits["train"], changes, new_classifier)
    folder = Path(str(training_args.output_dir), FROZEN_NAME)
    dataset: Any = make_clips(model, processor, splits["train"], clips, training_args, folder, watch)
    return VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        eval_dataset=ClipDataset(splits["validation"], make_views(processor, clips)),
        processing_class=processor,
        **trainer_arguments(splits["train"], clips),
    )


def trainer_arguments(rows: Dataset, clips: ClipArguments) -> dict[str, Any]:
    """What of the clips' arguments is a [`VideoTrainer`]'s."""
    return {
        "mixup": clips.mixup,
        "pack": clips.pack,
        "class_weights": inverse_frequencies(rows) if clips.class_weights else None,
        "balanced": clips.balanced,
    }


def make_model(
    source: str | None, config: PreTrainedConfig, rows: Dataset, changes: ChangeArguments, new_classifier: bool
) -> PreTrainedModel:
    """The model of [`make_trainer`], for the classes of some videos."""
    labels = get_names(rows)
    known = names_of(config)
    has_classes = any(name.endswith("Classification") for name in config.architectures or ())
    other_labels = source is not None and has_classes and known != labels
    if other_labels and not new_classifier:
        raise ValueError(
            f"the checkpoint knows {len(known)} classes ({', '.join(known[:5])}, ...), the data has {len(labels)} "
            f"({', '.join(labels[:5])}, ...). Give --ignore_mismatched_sizes to begin with a new classifier"
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    several = is_multi_label(rows)
    config.problem_type = "multi_label_classification" if several else "single_label_classification"
    if source is not None:
        model = AutoModelForVideoClassification.from_pretrained(
            source, config=config, ignore_mismatched_sizes=new_classifier
        )
        if other_labels:
            model._init_weights(model.classifier)  # also where the sizes agree
    else:
        model = AutoModelForVideoClassification.from_config(config)
    if changes.freeze_before is not None:
        model.freeze_before(changes.freeze_before)
    return model


def make_clips(
    model: PreTrainedModel,
    processor: BaseVideoProcessor,
    rows: Dataset,
    clips: ClipArguments,
    training_args: TrainingArguments,
    folder: Path,
    watch: Watch | None = None,
) -> ClipDataset | FrozenClips:
    """The clips that a model trains on; or, with `copies`, what its frozen layers give of them, kept in a folder."""
    assert clips.num_frames is not None  # `load_config` sets it
    training_clip = make_training_clip(processor, clips.num_frames, clips, clips.short_clips)
    dataset = ClipDataset(rows, training_clip, seed=training_args.seed, copies=clips.copies)
    is_frozen = getattr(model.config, "freeze_before", None) is not None
    if not training_args.do_train or clips.copies is None or not is_frozen:
        return dataset
    assert isinstance(model, TubeViTPreTrainedModel)  # others have no `freeze_before`
    model.to(training_args.device)
    with training_args.main_process_first():
        return cache_frozen(model, dataset, folder, bf16=training_args.bf16, watch=watch)


def make_training_clip(
    processor: BaseVideoProcessor, num_frames: int, clips: RandomClipArguments, short_clips: str = "repeat"
) -> TrainingClip:
    return TrainingClip(
        processor,
        num_frames,
        clips.fps,
        random_crop=clips.random_crop,
        horizontal_flip=clips.horizontal_flip,
        # pyrefly: ignore[bad-argument-type]  it checks the length
        rand_augment=clips.rand_augment,
        crop_scale=(clips.crop_scale, 1.0),
        time_scale=clips.time_scale,
        color_jitter=clips.color_jitter,
        short_clips=short_clips,
    )


def read_config(name: str) -> PreTrainedConfig | None:
    """The configuration of a model of Transformers; `None` for what other libraries wrote, and files of weights."""
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        return None


def names_of(config: PreTrainedConfig) -> list[str]:
    """The classes of a model, in order."""
    return [name for _, name in sorted((config.id2label or {}).items())]


def make_views(processor: BaseVideoProcessor, clips: ClipArguments) -> EvaluationViews:
    assert clips.num_frames is not None
    return EvaluationViews(
        processor,
        clips.num_frames,
        clips.fps,
        num_clips=clips.eval_clips,
        num_crops=clips.eval_crops,
        mirror=clips.eval_mirror,
        short_clips=clips.short_clips,
    )


def fit_small(
    source: str,
    splits: DatasetDict,
    clips: ClipArguments,
    training_args: TrainingArguments,
    groups: Sequence[str] | None = None,
    watch: Watch | None = None,
    changes: ChangeArguments | None = None,
    layout: Layout = "frames",
) -> tuple[VideoTrainer, FewVideosReport]:
    """The recipe for few videos: a classifier on frozen layers, in closed form, see [`fit_few_videos`].

    Args:
        source: folder or repo id of a TubeViT that was converted from an image ViT.
        splits: with `train` and `validation`, of files that can be read.
        clips: as [`recipe_settings`] has them.
        groups: of the training videos.
        watch: of the frozen layers, see [`cache_frozen`].
        changes: of the model, of which there must be none.
        layout: in which the source is read.

    Returns:
        A Trainer that evaluates the model, and the report.

    Raises:
        ValueError: the source is no TubeViT, or cannot be read in the layout; or videos or arguments do not go with
            the recipe.
    """
    return fit_layouts({layout: source}, splits, clips, training_args, groups, watch, changes)


def fit_layouts(
    sources: Mapping[Layout, str],
    splits: DatasetDict,
    clips: ClipArguments,
    training_args: TrainingArguments,
    groups: Sequence[str] | None = None,
    watch: Watch | None = None,
    changes: ChangeArguments | None = None,
) -> tuple[VideoTrainer, FewVideosReport]:
    """[`fit_small`] in each of some layouts, of which [`choose_layout`] keeps one.

    Args:
        sources: of each layout.
    """
    if clips.short_clips == "pad" or clips.pack:
        raise ValueError(
            "the recipe small keeps what frozen layers give of clips of one length: leave out --short_clips and --pack"
        )
    if ignored := list_ignored(clips, changes or ChangeArguments(), training_args):
        raise ValueError(f"the recipe small is a closed form without --{ignored[0]}: leave that out")
    rows = splits["train"]
    copies = FEW_VIDEOS.count_copies(len(rows)) if clips.copies is None else clips.copies
    check_videos(rows, copies, groups)
    # in closed form nothing is drawn: to count as much and to come as often are the same
    class_weights = inverse_frequencies(rows) if clips.class_weights or clips.balanced else None
    started: dict[Layout, tuple[TubeViTForVideoClassification, TubeViTVideoProcessor, ClipDataset]] = {}
    for layout, source in sources.items():
        recipe = small_recipe(clips, layout)
        model, processor = start_small(source, recipe, training_args)
        training_clip = recipe.training_clip(processor, model.config)
        dataset = ClipDataset(rows, training_clip, seed=training_args.seed, copies=copies)
        started[layout] = model, processor, dataset
        if training_args.should_log:
            folder = frozen_folder(training_args.output_dir, layout)
            print(f"{len(rows)} videos x {copies} clips: {frozen_size(model, dataset) / 1e9:.2f} GB in {folder}")
    fitted: dict[Layout, tuple[TubeViTForVideoClassification, FewVideosReport]] = {}
    for layout, (model, _, dataset) in started.items():
        folder = frozen_folder(training_args.output_dir, layout)
        with training_args.main_process_first():
            num_workers = training_args.dataloader_num_workers
            frozen = cache_frozen(
                model, dataset, folder, num_workers=num_workers, bf16=training_args.bf16, watch=watch
            )
        fitted[layout] = fit_few_videos(model, frozen, groups, class_weights=class_weights)
    model, report = choose_layout(fitted)
    processor = started[report.layout][1]
    if training_args.should_save:
        write_json(Path(str(training_args.output_dir), "few_videos.json"), report.to_dict())
    if training_args.should_log:
        print(*report.notes, sep="\n")
    trainer = VideoTrainer(
        model=model,
        args=training_args,
        eval_dataset=ClipDataset(
            splits["validation"], make_views(processor, replace(clips, num_frames=processor.num_frames))
        ),
        processing_class=processor,
    )
    return trainer, report


def frozen_folder(out: str | Path | None, layout: Layout) -> Path:
    """Where a run of the recipe for few videos keeps what the frozen layers give in a layout."""
    return Path(str(out), FROZEN_NAME if layout == "frames" else f"{FROZEN_NAME}_{layout}")


def list_ignored(clips: ClipArguments, changes: ChangeArguments, training_args: TrainingArguments) -> list[str]:
    """Arguments that differ from their defaults, and that the closed form has no use for."""
    given = {**asdict(clips), **asdict(changes)}
    defaults = {**asdict(ClipArguments()), **asdict(ChangeArguments())}
    plain = TrainingArguments(training_args.output_dir, use_cpu=training_args.use_cpu).to_sanitized_dict()
    general = (*WITHOUT_EFFECT, *OF_BOTH, "remove_unused_columns")
    return [
        *(name for name in OF_GRADIENTS if given[name] != defaults[name]),
        *(
            name
            for name, value in training_args.to_sanitized_dict().items()
            if value != plain.get(name) and not name.startswith(general)
        ),
    ]


def small_recipe(clips: ClipArguments, layout: Layout = "frames") -> FewVideosRecipe:
    """The recipe for few videos with a user's clips."""
    return replace(
        FEW_VIDEOS,
        layout=layout,
        num_frames=clips.num_frames,
        horizontal_flip=clips.horizontal_flip,
        crop_scale=(clips.crop_scale, 1.0),
        time_scale=clips.time_scale,
        color_jitter=clips.color_jitter,
    )


def start_small(
    source: str, recipe: FewVideosRecipe, training_args: TrainingArguments
) -> tuple[TubeViTForVideoClassification, TubeViTVideoProcessor]:
    """The model whose head is to be fitted, on its device, and its processor.

    Raises:
        ValueError: the source is no TubeViT, or cannot be read by the recipe.
    """
    converted = AutoModel.from_pretrained(source)
    if not isinstance(converted, TubeViTModel):
        raise ValueError(f"the recipe small is for TubeViT; {source} is of type {converted.config.model_type!r}")
    model = recipe.start(converted).to(training_args.device)
    # what cannot be chosen from is told before frozen layers run
    list_choices(model.config)
    return model, AutoVideoProcessor.from_pretrained(source, num_frames=model.config.num_frames)


def choose_checkpoint(training_args: TrainingArguments, used: dict[str, Any]) -> str | None:
    """Where to go on from, if this run was begun before. What is used is written to `run_arguments.json`.

    Args:
        used: what decides about the run beside the Trainer's arguments, by name.

    Raises:
        ValueError: the run was begun with other arguments, or there is no such checkpoint.
    """
    folder, chosen = Path(str(training_args.output_dir)), training_args.resume_from_checkpoint
    checkpoint = chosen or find_checkpoint(folder)
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise ValueError(f"--resume_from_checkpoint: there is no folder {checkpoint}")
    if checkpoint and not chosen and (changes := list_changes(training_args, used)):
        raise ValueError(
            f"{checkpoint} is of a run with other arguments: {changes}. Give those to go on with it, "
            f"--resume_from_checkpoint {checkpoint} to go on with these, or another folder to begin anew"
        )
    # all have compared
    PartialState().wait_for_everyone()
    note_arguments(training_args, used)
    return checkpoint


def note_arguments(training_args: TrainingArguments, used: dict[str, Any]) -> None:
    if training_args.should_save:
        folder = Path(str(training_args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ARGUMENTS_NAME, {**used, **training_args.to_sanitized_dict()})


def list_changes(training_args: TrainingArguments, used: dict[str, Any]) -> str:
    """In which arguments a run differs from the one that was begun in its folder, if there is one."""
    path = Path(str(training_args.output_dir), ARGUMENTS_NAME)
    if not path.exists():
        return ""
    before, now = read_json(path), json.loads(json.dumps({**used, **training_args.to_sanitized_dict()}))
    other = [name for name in now if not name.startswith(WITHOUT_EFFECT) and now[name] != before.get(name)]
    return ", ".join(f"{name} was {before.get(name)!r:.60} and is {now[name]!r:.60}" for name in other)


def train_and_save(trainer: VideoTrainer, checkpoint: str | None) -> dict[str, float]:
    """Trains, and saves the model, the Trainer's state and its metrics, which it returns: none if the run was at its
    end before."""
    result = trainer.train(resume_from_checkpoint=checkpoint)
    save_whole(trainer)
    trainer.save_state()
    if result.metrics:
        trainer.save_metrics("train", result.metrics)
    return result.metrics


def save_whole(trainer: VideoTrainer) -> None:
    """Saves the model with all that belongs to it. What was there before stays, until all of that is written."""
    folder = Path(str(trainer.args.output_dir))
    unfinished = folder / "unfinished"
    if trainer.args.should_save:
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(unfinished))
    if trainer.args.should_save:
        for path in unfinished.iterdir():
            os.replace(path, folder / path.name)
        unfinished.rmdir()


def evaluate_and_save(trainer: VideoTrainer) -> dict[str, float]:
    """Metrics of the videos for validation."""
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    return metrics


def save_curves(trainer: VideoTrainer) -> None:
    """A picture of how the training went."""
    with of_extra("demo"):
        from ..visualization import draw_curves

    if trainer.is_world_process_zero():
        path = Path(str(trainer.args.output_dir), "training_curves.png")
        draw_curves(trainer.state.log_history).savefig(path, dpi=120)
