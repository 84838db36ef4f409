# SPDX-License-Identifier: Apache-2.0
"""What a [`VideoTrainer`] is given that would have no effect, or does not go together: refused before it trains."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from datasets import Dataset

from ..data import ClipDataset, EvaluationViews, JointDataset, TrainingClip
from ..data.batches import list_parts
from .frozen import FrozenClips


if TYPE_CHECKING:
    from .trainer import VideoTrainer


# of `accelerator_config`, and what they are by default: how batches would be dealt out
DEALING = {"split_batches": (False, None), "dispatch_batches": (None, False), "use_seedable_sampler": (True, None)}


# of which a row has one, also for models that call clips otherwise
CLIP_COLUMNS = {"pixel_values", "pixel_values_videos", "frozen_output"}


def check_loss(trainer: "VideoTrainer") -> None:
    """Raises a `ValueError` for what the loss, which may be the user's, would pass over."""
    args = trainer.args
    if args.label_names not in (None, ["labels"]):
        raise ValueError(f"`label_names` must be left out: labels are called `labels` here, got {args.label_names}.")
    of_own_loss = {
        "class_weights": trainer.class_weights is not None,
        "label_smoothing_factor": args.label_smoothing_factor,
    }
    for name, is_given in of_own_loss.items():
        if is_given and not trainer.is_own["compute_loss_func"]:
            raise ValueError(f"`{name}` is of the loss that your `compute_loss_func` replaces: put it in there.")
    for part in list_parts(trainer.train_dataset):
        if not isinstance(part, (ClipDataset, FrozenClips)):
            continue
        if "label" not in part.rows.features and trainer.is_own["compute_loss_func"]:
            raise ValueError(f"`train_dataset` needs labels, and its rows have only {part.rows.column_names}.")
        if isinstance(part, ClipDataset) and isinstance(part.load, EvaluationViews):
            raise ValueError("`train_dataset` gives several views of a video, EvaluationViews: give a TrainingClip.")


def check_batches(trainer: "VideoTrainer") -> None:
    """Raises a `ValueError` for what is of the Trainer's batches, where these are not its."""
    args, dataset = trainer.args, trainer.train_dataset
    special = "joint datasets" if isinstance(dataset, JointDataset) else "`balanced`" if trainer.balanced else None
    if special is not None and args.train_sampling_strategy != "random":
        raise ValueError(
            f"`train_sampling_strategy` must be 'random', since {special} draw batches their own way, got "
            f"{args.train_sampling_strategy!r}."
        )
    if trainer.has_own_batches():
        for name, allowed in DEALING.items():
            value = getattr(args.accelerator_config, name)
            if value not in allowed:
                raise ValueError(
                    f"`accelerator_config` has {name!r} {value}, which has no effect: batches of clips are drawn "
                    "by seed and epoch, and dealt out to the processes. Leave it out, or choose another "
                    "`train_sampling_strategy`."
                )
        layout = args.parallelism_config
        if layout is not None and layout.non_data_parallel_size > 1:
            raise ValueError(
                "`parallelism_config` makes processes share clips, which are dealt out to single ones here: shard "
                "over data alone, or choose another `train_sampling_strategy`."
            )


def check_frozen(trainer: "VideoTrainer") -> None:
    """Raises a `ValueError` for what needs layers that are not run, or clips that are not there."""
    args, is_cached = trainer.args, has_frozen(trainer.train_dataset)
    if args.include_num_input_tokens_seen != "no" and is_cached:
        raise ValueError("`include_num_input_tokens_seen` needs clips, which frozen layers are not run on again.")
    if args.neftune_noise_alpha is not None and (
        is_cached or (trainer.mixup and trainer.get_frozen_model() is not None)
    ):
        raise ValueError("`neftune_noise_alpha` changes what the embeddings give, and these are frozen: leave it out.")
    if "inputs" in args.include_for_metrics and has_frozen(trainer.eval_dataset):
        raise ValueError('`include_for_metrics=["inputs"]` needs clips, and `eval_dataset` has none: leave it out.')


def check_rows(trainer: "VideoTrainer", dataset: object) -> None:
    """Raises a `ValueError` for rows that have no clips, or lose what these are made of."""
    trainer._set_signature_columns_if_needed()
    known = set(trainer._signature_columns or ())
    datasets = dataset.values() if isinstance(dataset, Mapping) else [dataset]
    for one in datasets:
        parts = list_parts(one)
        names = {part.name for part in parts if isinstance(part, (ClipDataset, FrozenClips))}
        if len(names) > 1 and not isinstance(one, JointDataset):
            raise ValueError(f"clips with the names {names} need a JointDataset, got a {type(one).__name__}.")
        loads = [part.load for part in parts if isinstance(part, ClipDataset)]
        views = {getattr(load, "num_views", 0) for load in loads if isinstance(load, (TrainingClip, EvaluationViews))}
        if len(views) > 1 and trainer.is_own["data_collator"]:
            raise ValueError(
                "a dataset mixes clips and views, or other numbers of views of a video: give each part the same "
                f"EvaluationViews, got {', '.join(map(str, sorted(views)))} views (0: TrainingClip)."
            )
        for part in parts:
            if not isinstance(part, Dataset):
                continue
            others = sorted(set(part.column_names) - known)
            if part.format["type"] == "custom":
                # the Trainer takes them from rows, not from what rows are in
                if part is one and others and trainer.args.remove_unused_columns:
                    raise ValueError(
                        f"`remove_unused_columns` takes {', '.join(others)} from the rows before their transform "
                        "sees them: set it to False."
                    )
            elif trainer.is_own["data_collator"] and not CLIP_COLUMNS & set(part.column_names):
                raise ValueError(
                    f"rows with the columns {', '.join(part.column_names)} are no clips: give `ClipDataset(rows, "
                    "TrainingClip(processor, num_frames))`, or rows with a transform that makes `pixel_values`."
                )


def has_frozen(dataset: object) -> bool:
    """Whether it gives what frozen layers gave of clips."""
    return any(isinstance(part, FrozenClips) for part in list_parts(dataset))
