# SPDX-License-Identifier: Apache-2.0
"""Fine-tune any `AutoModelForVideoClassification` with the Trainer.

The videos lie in class folders, `DATA_DIR/train/LABEL/*.mp4` and `DATA_DIR/validation/LABEL/*.mp4`:

    python examples/run_video_classification.py \
        --recipe small --model_name_or_path TUBEVIT --data_dir DATA_DIR --output_dir OUTPUT_DIR --do_train --do_eval

for a few hundred of them and a TubeViT that `tubevit convert` made of an image ViT; for more of them

    accelerate launch examples/run_video_classification.py \
        --model_name_or_path PATH_OR_REPO --data_dir DATA_DIR --output_dir OUTPUT_DIR --do_train --do_eval \
        --num_train_epochs 10 --per_device_train_batch_size 8 --learning_rate 1e-4 \
        --lr_scheduler_type cosine --warmup_steps 0.1

or as the authors of a dataset distribute it, here with the paper's training settings (Table 10):

    accelerate launch examples/run_video_classification.py --recipe ssv2-l \
        --model_name_or_path PATH_OR_REPO --output_dir OUTPUT_DIR --do_train --do_eval \
        --dataset_format ssv2 --video_dir 20bn-something-something-v2 \
        --train_annotations something-something-v2-train.json \
        --validation_annotations something-something-v2-validation.json --per_device_train_batch_size 8

The same command again goes on from the last whole checkpoint in OUTPUT_DIR. To train from scratch, leave out
`--model_name_or_path` for a TubeViT of the recipe's size, or give `--config_name`: a folder with a `config.json` and a
processor. On a CPU add `--use_cpu --bf16 True` if it computes in bfloat16. `--help` lists all arguments, the Trainer's
included; what a recipe says they override.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch
from datasets import DatasetDict
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    HfArgumentParser,
    PreTrainedConfig,
    TrainingArguments,
    set_seed,
)
from transformers.video_processing_utils import BaseVideoProcessor

from tubevit_hf import TubeViTConfig, TubeViTModel, TubeViTVideoProcessor
from tubevit_hf.data import (
    FORMATS,
    ClipDataset,
    EvaluationViews,
    TrainingClip,
    drop_unreadable,
    get_names,
    is_multi_label,
    load_annotated,
    load_by_name,
    load_folder,
    read_groups,
)
from tubevit_hf.training import (
    FEW_VIDEOS,
    RECIPES,
    VideoTrainer,
    cache_frozen,
    check_videos,
    find_checkpoint,
    fit_few_videos,
    frozen_size,
)
from tubevit_hf.visualization import draw_curves


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or repo id of a checkpoint to fine-tune."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or repo id with a config and a processor, to train from scratch."}
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Start with a new classifier where the checkpoint's has other classes."}
    )
    dropout: float | None = field(default=None, metadata={"help": "Dropout of the model. Default: the model's."})
    freeze_before: int | None = field(
        default=None, metadata={"help": "Freeze a TubeViT's embeddings and the layers before this one."}
    )
    finer_strides: list[int] | None = field(
        default=None,
        metadata={"help": "Divisors of the tubes' strides in time, height and width, for more tokens of a TubeViT."},
    )


@dataclass
class DataArguments:
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with train/LABEL/*.mp4 and validation/LABEL/*.mp4."}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "Repo id of a dataset with the columns video and label, or a folder of one."}
    )
    dataset_format: str | None = field(
        default=None, metadata={"help": "Format of the annotation files.", "choices": list(FORMATS)}
    )
    train_annotations: str | None = field(default=None, metadata={"help": "Annotations of the training videos."})
    validation_annotations: str | None = field(default=None, metadata={"help": "And of those for validation."})
    video_dir: str | None = field(default=None, metadata={"help": "Folder of the annotated videos, at any depth."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip. Default: the model's."})
    fps: float | None = field(
        default=None, metadata={"help": "Frames a second. Default: a clip has frames from all of the video."}
    )
    short_clips: str = field(
        default="repeat",
        metadata={
            "help": "What to do with a video of fewer frames than a clip: repeat them, or pad the clips of a batch to "
            "the longest, which a TubeViT does not see.",
            "choices": ["repeat", "pad"],
        },
    )
    pack: bool = field(
        default=False, metadata={"help": "Train on clips of different lengths in one row of tokens, without padding."}
    )
    random_crop: bool = field(default=False, metadata={"help": "Cut out a random region of a training clip."})
    horizontal_flip: bool = field(default=False, metadata={"help": "Mirror every other training clip at random."})
    time_scale: float = field(
        default=1.0, metadata={"help": "Without --fps: least share of a video that a training clip spans."}
    )
    color_jitter: float = field(default=0.0, metadata={"help": "How far colours of a training clip may change."})
    copies: int | None = field(
        default=None,
        metadata={
            "help": "Random clips of each video; what frozen layers give of them is kept in OUTPUT_DIR/frozen. By "
            "default 30 with the recipe small, fewer of more than 200 videos."
        },
    )
    group_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Recipe small: a regular expression that finds in a file's name what videos have in common, such "
            "as who was filmed. Those are held out together when settings are chosen."
        },
    )
    rand_augment: list[int] | None = field(default=None, metadata={"help": "Layers and magnitude of RandAugment."})
    mixup: float = field(default=0.0, metadata={"help": "Alpha of MixUp; 0 for none."})
    eval_clips: int = field(default=4, metadata={"help": "Evaluated clips of a video, evenly spaced in time."})
    eval_crops: int = field(default=3, metadata={"help": "Evaluated crops of a clip."})
    eval_mirror: bool = field(default=False, metadata={"help": "Evaluate each of these mirrored too."})


# arguments of which no weight depends, by the beginning of their names
WITHOUT_EFFECT = (
    *("dataloader_", "ddp_", "disable_tqdm", "do_", "eval_", "hub_", "log", "output_dir", "push_to_hub", "report_to"),
    *("resume_from_checkpoint", "run_name", "save_"),
)


@dataclass
class RecipeArguments:
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "small: few videos of one's own. Others: settings of Table 10. Other arguments override both.",
            "choices": ["small", *RECIPES],
        },
    )


def main() -> None:
    recipe_args, model_args, data_args, training_args = parse_arguments()
    set_seed(training_args.seed)
    in_closed_form = recipe_args.recipe == "small" and training_args.do_train
    checkpoint = None
    try:
        trainer = build_trainer(recipe_args, model_args, data_args, training_args)
        if training_args.do_train and not in_closed_form:
            checkpoint = choose_checkpoint(trainer, recipe_args, model_args, data_args)
    except (OSError, ValueError) as error:
        stop(str(error))

    folder = Path(training_args.output_dir)
    if in_closed_form:
        trainer.save_model()
    elif training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.save_state()
        if result.metrics:  # none, if the run was at its end before
            trainer.log_metrics("train", result.metrics)
            trainer.save_metrics("train", result.metrics)
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if training_args.do_train and not in_closed_form and trainer.is_world_process_zero():
        draw_curves(trainer.state.log_history).savefig(folder / "training_curves.png", dpi=120)

    name = Path(data_args.data_dir or data_args.dataset_name or data_args.video_dir).name
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=name)
    else:
        trainer.create_model_card(dataset=name)


def parse_arguments() -> tuple:
    """The command line, and for what it does not say the recipe, if one is named."""
    groups = (RecipeArguments, ModelArguments, DataArguments, TrainingArguments)
    parser = HfArgumentParser(groups)
    parser.set_defaults(remove_unused_columns=False)
    early = HfArgumentParser(groups, add_help=False)
    early.set_defaults(num_train_epochs=None, gradient_accumulation_steps=None)
    given, _ = early.parse_known_args()
    if given.recipe == "small":
        parser.set_defaults(**FEW_VIDEOS.clip_arguments())
    elif given.recipe is not None:
        recipe = RECIPES[given.recipe]
        settings = recipe.clip_arguments() | recipe.training_arguments()
        if given.num_train_epochs is not None:
            del settings["max_steps"]
        if given.gradient_accumulation_steps is None:
            # without a launcher the Trainer gives each GPU a part of the batch
            num_gpus = 0 if given.use_cpu else torch.cuda.device_count()
            num_devices = int(os.environ.get("WORLD_SIZE", max(1, num_gpus)))
            try:
                steps = recipe.accumulation_steps(given.per_device_train_batch_size, num_devices)
            except ValueError as error:
                stop(str(error))
            settings["gradient_accumulation_steps"] = steps
        parser.set_defaults(**settings)
    arguments = parser.parse_args_into_dataclasses()
    if not arguments[-1].do_train and not arguments[-1].do_eval:
        stop("give --do_train, --do_eval or both")
    return arguments


def build_trainer(
    recipe_args: RecipeArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> VideoTrainer:
    if recipe_args.recipe == "small" and training_args.do_train:
        return fit_small(model_args, data_args, training_args)
    config, processor = load_config(recipe_args, model_args, data_args)

    # 1. Data: paths only; the clips are decoded where they are needed
    training_clip = TrainingClip(
        processor,
        data_args.num_frames,
        data_args.fps,
        random_crop=data_args.random_crop,
        horizontal_flip=data_args.horizontal_flip,
        rand_augment=data_args.rand_augment,
        time_scale=data_args.time_scale,
        color_jitter=data_args.color_jitter,
        short_clips=data_args.short_clips,
    )
    views = make_views(processor, data_args)
    dataset = {split: drop_unreadable(rows, split) for split, rows in load_splits(data_args).items()}
    labels = get_names(dataset["train"])

    # 2. Model
    known = [config.id2label[index] for index in sorted(config.id2label)]
    is_classifier = any(name.endswith("Classification") for name in config.architectures or ())
    other_labels = bool(model_args.model_name_or_path) and is_classifier and known != labels
    if other_labels and not model_args.ignore_mismatched_sizes:
        stop(
            f"the checkpoint knows {len(known)} classes ({', '.join(known[:5])}, ...), the data has {len(labels)} "
            f"({', '.join(labels[:5])}, ...). Give --ignore_mismatched_sizes to begin with a new classifier"
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    several = is_multi_label(dataset["train"])
    config.problem_type = "multi_label_classification" if several else "single_label_classification"
    if model_args.model_name_or_path:
        model = AutoModelForVideoClassification.from_pretrained(
            model_args.model_name_or_path,
            config=config,
            ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        )
        if other_labels:
            model._init_weights(model.classifier)  # also where the sizes agree
    else:
        model = AutoModelForVideoClassification.from_config(config)

    if model_args.freeze_before is not None:
        model.freeze_before(model_args.freeze_before)

    # 3. Both together
    clips = ClipDataset(dataset["train"], training_clip, seed=training_args.seed, copies=data_args.copies)
    is_frozen = getattr(model.config, "freeze_before", None) is not None
    if training_args.do_train and data_args.copies is not None and is_frozen:
        model.to(training_args.device)
        with training_args.main_process_first():
            clips = cache_frozen(model, clips, Path(training_args.output_dir, "frozen"), bf16=training_args.bf16)
    return VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=clips,
        eval_dataset=ClipDataset(dataset["validation"], views),
        processing_class=processor,
        mixup=data_args.mixup,
        pack=data_args.pack,
    )


def make_views(processor: BaseVideoProcessor, data_args: DataArguments) -> EvaluationViews:
    return EvaluationViews(
        processor,
        data_args.num_frames,
        data_args.fps,
        num_clips=data_args.eval_clips,
        num_crops=data_args.eval_crops,
        mirror=data_args.eval_mirror,
        short_clips=data_args.short_clips,
    )


def fit_small(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> VideoTrainer:
    """The recipe for few videos: a classifier on frozen layers, in closed form."""
    if model_args.model_name_or_path is None:
        stop("--recipe small begins with --model_name_or_path, a TubeViT that `tubevit convert` made of an image ViT")
    if data_args.short_clips == "pad" or data_args.pack:
        stop("--recipe small keeps what frozen layers give of clips of one length: leave out --short_clips and --pack")
    recipe = replace(
        FEW_VIDEOS,
        num_frames=data_args.num_frames,
        horizontal_flip=data_args.horizontal_flip,
        time_scale=data_args.time_scale,
        color_jitter=data_args.color_jitter,
    )
    splits = load_splits(data_args)
    for split, rows in splits.items():
        splits[split] = drop_unreadable(rows, split)
    rows = splits["train"]
    copies = recipe.count_copies(len(rows)) if data_args.copies is None else data_args.copies
    groups = None if data_args.group_pattern is None else read_groups(rows, data_args.group_pattern)
    check_videos(rows, copies, groups)
    processor = AutoVideoProcessor.from_pretrained(model_args.model_name_or_path, num_frames=recipe.num_frames)
    source = AutoModel.from_pretrained(model_args.model_name_or_path)
    if not isinstance(source, TubeViTModel):
        stop(f"--recipe small is for TubeViT; {model_args.model_name_or_path} is of type {source.config.model_type!r}")
    model = recipe.start(source).to(training_args.device)
    clips = ClipDataset(rows, recipe.training_clip(processor), seed=training_args.seed, copies=copies)
    folder = Path(training_args.output_dir, "frozen")
    print(f"{len(rows)} videos x {copies} clips: {frozen_size(model, clips) / 1e9:.2f} GB in {folder}")
    with training_args.main_process_first():
        frozen = cache_frozen(
            model, clips, folder, num_workers=training_args.dataloader_num_workers, bf16=training_args.bf16
        )
    model, report = fit_few_videos(model, frozen, groups)
    Path(training_args.output_dir, "few_videos.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    print(*report.notes, sep="\n")
    return VideoTrainer(
        model=model,
        args=training_args,
        eval_dataset=ClipDataset(splits["validation"], make_views(processor, data_args)),
        processing_class=processor,
    )


def load_config(
    recipe_args: RecipeArguments, model_args: ModelArguments, data_args: DataArguments
) -> tuple[PreTrainedConfig, BaseVideoProcessor]:
    """Configuration and processor of the checkpoint or, without one, of the recipe."""
    recipe = RECIPES.get(recipe_args.recipe)  # None for "small", which begins with a checkpoint
    source = model_args.model_name_or_path or model_args.config_name
    if source is not None:
        config = AutoConfig.from_pretrained(source)
        if recipe is not None and recipe.model:
            if model_args.model_name_or_path and getattr(config, "tube_kernels", None) != "interpolated":
                stop(
                    f"the recipe {recipe_args.recipe} needs a TubeViT whose `tube_kernels` are 'interpolated'; those "
                    f"of {source} are not"
                )
            config = AutoConfig.from_pretrained(source, **recipe.model)
    elif recipe is not None:
        config = recipe.make_config()
    else:
        stop(
            "give --model_name_or_path to fine-tune a checkpoint; --config_name, or --recipe for its own size, to "
            "train from scratch"
        )
    length = next((name for name in ("num_frames", "frames_per_clip") if hasattr(config, name)), None)
    if length is None:
        stop(f"the configuration of {source}, a {config.model_type!r}, does not tell how many frames a clip has")
    if data_args.num_frames is not None:
        setattr(config, length, data_args.num_frames)
    data_args.num_frames = getattr(config, length)
    if model_args.dropout is not None:
        config.hidden_dropout_prob = model_args.dropout
    if model_args.finer_strides is not None:
        if not isinstance(config, TubeViTConfig):
            stop(f"--finer_strides is for TubeViT; {source} is of type {config.model_type!r}")
        config.refine_strides(model_args.finer_strides)
    if source is None:
        return config, TubeViTVideoProcessor(num_frames=data_args.num_frames)
    return config, AutoVideoProcessor.from_pretrained(source, num_frames=data_args.num_frames)


def choose_checkpoint(
    trainer: VideoTrainer, recipe_args: RecipeArguments, model_args: ModelArguments, data_args: DataArguments
) -> str | None:
    """Where to go on from, if this run was begun before. What is used is written to `run_arguments.json`."""
    folder = Path(trainer.args.output_dir)
    path = folder / "run_arguments.json"
    used = {**asdict(recipe_args), **asdict(model_args), **asdict(data_args), **trainer.args.to_sanitized_dict()}
    used["labels"] = list(trainer.model.config.id2label.values())
    used = json.loads(json.dumps(used))
    checkpoint = trainer.args.resume_from_checkpoint or find_checkpoint(folder)
    if checkpoint is not None and not Path(checkpoint).is_dir():
        stop(f"--resume_from_checkpoint: there is no folder {checkpoint}")
    if checkpoint and not trainer.args.resume_from_checkpoint and path.exists():
        before = json.loads(path.read_text())
        other = [name for name in used if not name.startswith(WITHOUT_EFFECT) and used[name] != before.get(name)]
        if other:
            changes = ", ".join(f"{name} was {before.get(name)!r:.60} and is {used[name]!r:.60}" for name in other)
            stop(
                f"{checkpoint} is of a run with other arguments: {changes}. Give those to go on with it, "
                f"--resume_from_checkpoint {checkpoint} to go on with these, or another --output_dir to begin anew"
            )
    # all have compared
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(used, indent=2) + "\n")
    return checkpoint


def load_splits(data_args: DataArguments) -> DatasetDict:
    if data_args.data_dir is not None:
        return load_folder(data_args.data_dir)
    if data_args.dataset_name is not None:
        return load_by_name(data_args.dataset_name)
    if data_args.dataset_format is None:
        stop("give --data_dir, --dataset_name, or --dataset_format with its annotations and --video_dir")
    needed = ("train_annotations", "validation_annotations", "video_dir")
    if lacking := [f"--{name}" for name in needed if getattr(data_args, name) is None]:
        stop(f"--dataset_format needs {', '.join(lacking)} too")
    return load_annotated(
        data_args.dataset_format, data_args.train_annotations, data_args.validation_annotations, data_args.video_dir
    )


def stop(message: str) -> NoReturn:
    """Ends without the usage, which is long."""
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
