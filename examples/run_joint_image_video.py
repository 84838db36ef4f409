# SPDX-License-Identifier: Apache-2.0
"""Train one TubeViT on images and videos together (Section 3.5): a head and a loss for each dataset.

Each dataset is `NAME=FOLDER`, a folder of class folders of videos or of images, `FOLDER/train/LABEL/*` and
`FOLDER/validation/LABEL/*`:

    python examples/run_joint_image_video.py \
        --model_name_or_path PATH_OR_REPO --datasets motions=VIDEOS digits=IMAGES --weights motions=2 digits=1 \
        --output_dir OUTPUT_DIR --do_train --do_eval --num_train_epochs 10 --per_device_train_batch_size 8

The same command again goes on from the last whole checkpoint in OUTPUT_DIR; one with other arguments is refused.
Beside the trained model, OUTPUT_DIR holds a folder for each dataset with a model of its head alone, for pipelines.
To train from scratch, give `--config_name` instead. `--help` lists all arguments, the Trainer's included.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from transformers import AutoConfig, AutoVideoProcessor, HfArgumentParser, TrainingArguments, set_seed

from tubevit_hf import TubeViTConfig, TubeViTForJointClassification
from tubevit_hf.data import (
    ClipDataset,
    EvaluationViews,
    JointDataset,
    TrainingClip,
    drop_unreadable,
    get_names,
    holds_images,
    load_folder,
)
from tubevit_hf.training import VideoTrainer
from tubevit_hf.training.runs import choose_checkpoint, evaluate_and_save, train_and_save


@dataclass
class JointArguments:
    datasets: list[str] = field(metadata={"help": "NAME=FOLDER of each dataset, videos or images."})
    weights: list[str] | None = field(
        default=None, metadata={"help": "NAME=NUMBER: share of batches of each dataset. Default: as long as they are."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or repo id of a TubeViT whose encoder and tubes are trained on."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or repo id with a config and a processor, to train from scratch."}
    )
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip. Default: the model's."})
    fps: float | None = field(
        default=None, metadata={"help": "Frames a second. Default: a clip has frames from all of the video."}
    )
    eval_clips: int = field(default=4, metadata={"help": "Evaluated clips of a video, evenly spaced in time."})
    eval_crops: int = field(default=3, metadata={"help": "Evaluated crops of a clip, along its longer side."})


def main() -> None:
    parser = HfArgumentParser((JointArguments, TrainingArguments))
    # each head sees a part of the batches, so its gradients are missing in the others
    parser.set_defaults(remove_unused_columns=False, ddp_find_unused_parameters=True)
    arguments, training_args = parser.parse_args_into_dataclasses()
    if not training_args.do_train and not training_args.do_eval:
        stop("give --do_train, --do_eval or both")
    set_seed(training_args.seed)
    checkpoint = None
    try:
        trainer, images = build_trainer(arguments, training_args)
        if training_args.do_train:
            used = {**asdict(arguments), "heads": trainer.model.config.heads}
            checkpoint = choose_checkpoint(training_args, used)
    except (OSError, ValueError) as error:
        stop(str(error))

    if training_args.do_train:
        metrics = train_and_save(trainer, checkpoint)
        if metrics:  # none, if the run was at its end before
            trainer.log_metrics("train", metrics)
    if training_args.do_eval:
        trainer.log_metrics("eval", evaluate_and_save(trainer))
    if training_args.do_train and trainer.is_world_process_zero():
        # from what was saved: the model itself may be in shards
        model = TubeViTForJointClassification.from_pretrained(training_args.output_dir)
        for name in model.config.heads:
            folder = Path(training_args.output_dir, name)
            model.export(name, images=name in images).save_pretrained(folder)
            trainer.processing_class.save_pretrained(folder)


def build_trainer(arguments: JointArguments, training_args: TrainingArguments) -> tuple[VideoTrainer, set[str]]:
    """The Trainer, and which of the datasets hold images."""
    # 1. Data
    rows, weights = {}, None
    for name, folder in read_pairs(arguments.datasets).items():
        rows[name] = load_folder(folder)
        for split in rows[name]:
            rows[name][split] = drop_unreadable(rows[name][split], f"{name}, {split}")
    if arguments.weights is not None:
        weights = {name: float(weight) for name, weight in read_pairs(arguments.weights).items()}
        if weights.keys() != rows.keys() or min(weights.values()) <= 0:
            stop(f"--weights must give each of {', '.join(rows)} a share above 0, got {', '.join(arguments.weights)}")

    # 2. Model
    source = arguments.model_name_or_path or arguments.config_name
    if source is None:
        stop("give --model_name_or_path to fine-tune a checkpoint or --config_name to train from scratch")
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, TubeViTConfig):
        stop(f"{source} is a {config.model_type!r}; only a TubeViT reads images and videos alike")
    heads = {
        name: {"labels": get_names(splits["train"]), "problem_type": "single_label_classification"}
        for name, splits in rows.items()
    }
    for name, head in (config.heads or {}).items():
        if arguments.model_name_or_path and name in heads and heads[name]["labels"] != head["labels"]:
            stop(f"the checkpoint's head {name!r} has other classes than the dataset; name the dataset otherwise")
    config.heads = heads
    config.validate_heads()
    if arguments.num_frames is not None:
        config.num_frames = arguments.num_frames
    if arguments.model_name_or_path:
        model = TubeViTForJointClassification.from_pretrained(source, config=config)
    else:
        model = TubeViTForJointClassification(config)
    processor = AutoVideoProcessor.from_pretrained(source, num_frames=config.num_frames)

    # 3. Clips; an image is a clip of one frame
    train, validation, images = [], {}, set()
    for name, splits in rows.items():
        num_frames, fps, num_clips = config.num_frames, arguments.fps, arguments.eval_clips
        if holds_images(splits["train"]):
            num_frames, fps, num_clips = 1, None, 1
            images.add(name)
        clip = TrainingClip(processor, num_frames, fps)
        views = EvaluationViews(processor, num_frames, fps, num_clips, arguments.eval_crops)
        train.append(ClipDataset(splits["train"], clip, training_args.seed, name))
        validation[name] = ClipDataset(splits["validation"], views, name=name)
    trainer = VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=JointDataset(train),
        eval_dataset=validation,
        processing_class=processor,
        weights=weights,
    )
    if trainer.is_fsdp_enabled and training_args.save_strategy != "no":
        # torch's sharded optimizer states want a gradient of every parameter before the first is saved
        stop("a sharded model whose heads take turns cannot save checkpoints; give --save_strategy no")
    return trainer, images


def read_pairs(pairs: list[str]) -> dict[str, str]:
    """`["a=b"] -> {"a": "b"}`"""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value or name in found:
            stop(f"expected NAME=... with another name each, got {pair!r}")
        found[name] = value
    return found


def stop(message: str) -> NoReturn:
    """Ends without the usage, which is long."""
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
