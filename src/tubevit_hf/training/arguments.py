# SPDX-License-Identifier: Apache-2.0
"""Arguments of training runs beside the Trainer's, as `HfArgumentParser` takes them."""

from dataclasses import dataclass, field


@dataclass
class RandomClipArguments:
    """Which random clips are made of videos."""

    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip. Default: the model's."})
    fps: float | None = field(
        default=None, metadata={"help": "Frames a second. Default: a clip has frames from all of the video."}
    )
    random_crop: bool = field(default=False, metadata={"help": "Cut out a random region of a training clip."})
    crop_scale: float = field(default=0.5, metadata={"help": "Least share of a frame's area that such a region has."})
    horizontal_flip: bool = field(default=False, metadata={"help": "Mirror every other training clip at random."})
    time_scale: float = field(
        default=1.0, metadata={"help": "Without --fps: least share of a video that a training clip spans."}
    )
    color_jitter: float = field(default=0.0, metadata={"help": "How far colours of a training clip may change."})
    rand_augment: list[int] | None = field(default=None, metadata={"help": "Layers and magnitude of RandAugment."})


@dataclass
class ClipArguments(RandomClipArguments):
    """Which clips are made of videos, how they count, and which views are evaluated."""

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
    copies: int | None = field(
        default=None,
        metadata={
            "help": "Random clips of each video; what frozen layers give of them is kept in OUTPUT_DIR/frozen. By "
            "default 30 with the recipe small, fewer of more than 200 videos."
        },
    )
    mixup: float = field(default=0.0, metadata={"help": "Alpha of MixUp; 0 for none."})
    class_weights: bool = field(
        default=False, metadata={"help": "Let errors in rare classes count more, so that all classes count alike."}
    )
    balanced: bool = field(
        default=False, metadata={"help": "Train on as many clips of each class; those of rare classes come again."}
    )
    eval_clips: int = field(default=4, metadata={"help": "Evaluated clips of a video, evenly spaced in time."})
    eval_crops: int = field(default=3, metadata={"help": "Evaluated crops of a clip."})
    eval_mirror: bool = field(default=False, metadata={"help": "Evaluate each of these mirrored too."})


@dataclass
class PretrainingArguments(RandomClipArguments):
    """Which random clips are made of videos without labels, and what a model learns of them."""

    copies: int | None = field(
        default=None,
        metadata={
            "help": "Random clips of each video, which come again; what the teacher says of them is kept in "
            "OUTPUT_DIR/teacher. By default each epoch has others, and the teacher runs in each step."
        },
    )
    depths: list[float] | None = field(
        default=None,
        metadata={
            "help": "Shares of the layers, of the model and of the teacher, after which tokens and features are read. "
            "Default: 0.5, 0.75 and 1, as far as these are different layers."
        },
    )
    mask_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Share of a clip's volume that the model does not see. Default: 0 for features, where it sees "
            "all, and 0.75 for pixels."
        },
    )
    decoder_layers: int = field(
        default=2, metadata={"help": "Layers that predict hidden tokens; they are dropped at the end."}
    )
    temperature: float = field(default=2.0, metadata={"help": "By which logits are divided before they are compared."})


@dataclass
class ChangeArguments:
    """What is changed in a model before it is trained."""

    dropout: float | None = field(default=None, metadata={"help": "Dropout of the model. Default: the model's."})
    freeze_before: int | None = field(
        default=None, metadata={"help": "Freeze a TubeViT's embeddings and the layers before this one."}
    )
    finer_strides: list[int] | None = field(
        default=None,
        metadata={"help": "Divisors of the tubes' strides in time, height and width, for more tokens of a TubeViT."},
    )


# arguments of which no weight depends, by the beginning of their names
WITHOUT_EFFECT = (
    *(
        "dataloader_num_",
        "dataloader_p",
        "dataloader_multi",
        "ddp_",
        "disable_tqdm",
        "do_",
        "eval_",
        "hub_",
        "log",
        "output_dir",
        "push_to_hub",
        "report_to",
    ),
    *("resume_from_checkpoint", "run_name", "save_"),
)
# of the Trainer's arguments, those that the closed form has a use for as well
OF_BOTH = ("bf16", "data_seed", "dataloader_", "full_determinism", "per_device_eval_batch_size", "seed", "use_cpu")
# of the others, those that it has none for
OF_GRADIENTS = ("fps", "rand_augment", "mixup", "dropout", "freeze_before", "finer_strides")
