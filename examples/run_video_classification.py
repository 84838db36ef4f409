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

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from datasets import DatasetDict
from transformers import (
    AutoConfig,
    AutoVideoProcessor,
    HfArgumentParser,
    PreTrainedConfig,
    TrainingArguments,
    set_seed,
)
from transformers.video_processing_utils import BaseVideoProcessor

from tubevit_hf import TubeViTConfig, TubeViTVideoProcessor
from tubevit_hf.data import FORMATS, drop_unreadable, load_annotated, load_by_name, load_folder, read_groups
from tubevit_hf.training import RECIPES, VideoTrainer
from tubevit_hf.training.arguments import ChangeArguments, ClipArguments
from tubevit_hf.training.few_videos import AUTO, LAYOUTS, settle_layouts
from tubevit_hf.training.runs import (
    apply_changes,
    choose_checkpoint,
    evaluate_and_save,
    fit_layouts,
    load_config,
    make_trainer,
    names_of,
    recipe_settings,
    save_curves,
    save_whole,
    train_and_save,
)


@dataclass
class ModelArguments(ChangeArguments):
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or repo id of a checkpoint to fine-tune."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or repo id with a config and a processor, to train from scratch."}
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Start with a new classifier where the checkpoint's has other classes."}
    )


@dataclass
class DataArguments(ClipArguments):
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
    group_pattern: str | None = field(
        default=None,
        metadata={
            "help": "Recipe small: a regular expression that finds in a file's name what videos have in common, such "
            "as who was filmed. Those are held out together when settings are chosen."
        },
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
    layout: str | None = field(
        default=None,
        metadata={
            "help": "Recipe small: what of a video is read. frames: single frames. sparse: the model's tubes, all "
            "together. auto: both are fitted, and held-out training videos choose. Default: frames if one of the "
            "model's tubes reads whole frames, else sparse.",
            "choices": [*LAYOUTS, AUTO],
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
            used = {**asdict(recipe_args), **asdict(model_args), **asdict(data_args)}
            used["labels"] = names_of(trainer.model.config)
            checkpoint = choose_checkpoint(training_args, used)
    except (OSError, ValueError) as error:
        stop(str(error))

    if in_closed_form:
        save_whole(trainer)
    elif training_args.do_train:
        metrics = train_and_save(trainer, checkpoint)
        if metrics:  # none, if the run was at its end before
            trainer.log_metrics("train", metrics)
    if training_args.do_eval:
        trainer.log_metrics("eval", evaluate_and_save(trainer))
    if training_args.do_train and not in_closed_form:
        save_curves(trainer)

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
    if given.recipe is not None:
        try:
            parser.set_defaults(**recipe_settings(given.recipe, vars(given)))
        except ValueError as error:
            stop(str(error))
    arguments = parser.parse_args_into_dataclasses()
    if given.layout is not None and not (given.recipe == "small" and arguments[-1].do_train):
        stop("--layout is of --recipe small with --do_train: leave it out")
    if not arguments[-1].do_train and not arguments[-1].do_eval:
        stop("give --do_train, --do_eval or both")
    return arguments


def build_trainer(
    recipe_args: RecipeArguments,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
) -> VideoTrainer:
    source = model_args.model_name_or_path
    in_closed_form = recipe_args.recipe == "small" and training_args.do_train
    if in_closed_form:
        config = None if source is None else AutoConfig.from_pretrained(source)
        if not isinstance(config, TubeViTConfig):
            stop("--recipe small begins with --model_name_or_path, a TubeViT such as `tubevit convert` makes")
        sources = dict.fromkeys(settle_layouts(config, recipe_args.layout), source)
    else:
        config, processor = choose_config(recipe_args, model_args, data_args)
    # paths only; the clips are decoded where they are needed
    splits = DatasetDict((split, drop_unreadable(rows, split)) for split, rows in load_splits(data_args).items())
    if in_closed_form:
        groups = None if data_args.group_pattern is None else read_groups(splits["train"], data_args.group_pattern)
        return fit_layouts(sources, splits, data_args, training_args, groups, changes=model_args)[0]
    new_classifier = model_args.ignore_mismatched_sizes
    return make_trainer(source, config, processor, splits, data_args, model_args, training_args, new_classifier)


def choose_config(
    recipe_args: RecipeArguments, model_args: ModelArguments, data_args: DataArguments
) -> tuple[PreTrainedConfig, BaseVideoProcessor]:
    """Configuration and processor of the checkpoint or, without one, of the recipe."""
    recipe = RECIPES.get(recipe_args.recipe)  # None for "small", which begins with a checkpoint
    source = model_args.model_name_or_path or model_args.config_name
    if source is None and recipe is None:
        stop(
            "give --model_name_or_path to fine-tune a checkpoint; --config_name, or --recipe for its own size, to "
            "train from scratch"
        )
    if source is None:
        config = recipe.make_config()
        apply_changes(config, source, data_args, model_args)
        return config, TubeViTVideoProcessor(num_frames=data_args.num_frames)
    with_weights = model_args.model_name_or_path is not None
    config = load_config(source, data_args, model_args, recipe, with_weights)
    processor = AutoVideoProcessor.from_pretrained(source, num_frames=data_args.num_frames)
    return config, processor


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
