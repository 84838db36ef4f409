# SPDX-License-Identifier: Apache-2.0
"""What `tubevit pretrain` measures before its first step: whether anything moves, the statistics of the targets, what
the run will take, and how good the model is then. Linear heads are fitted to it on the same clips.
"""

import time
from collections.abc import Iterator, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import TrainingArguments

from ..data import ClipDataset
from ..data.facts import NUM_CELLS
from ..data.inspection import FROZEN
from ..folders import read_json, write_json
from ..model.pretraining_tubevit import TubeViTForPreTraining
from ..model.tubes_tubevit import Size
from .forecast import describe_memory, describe_time
from .frozen import check_room
from .objectives import FeatureObjective
from .pretrainer import PretrainingTrainer
from .taught_clips import WHAT
from .teachers import Normalization


# clips that the statistics of targets are measured on, and videos that are looked at for motion
SAMPLED_CLIPS, SAMPLED_VIDEOS = 64, 24
# of the ridge that fits the heads, as a share of the mean square of a state
HEAD_STRENGTH = 1e-3


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
    teacher = trainer.learned.teacher
    has_teacher = teacher is not None
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
    size, asked = clips_size(clips), ""
    if teacher is not None:
        # its time grows with them
        num_seen = forecast["teacher_frames"] = len(set(teacher.reader.frames))
        asked = f"{each['teacher']:.2f} s of the teacher, which sees {num_seen} of its {size[0]} frames, "
    tell(
        args,
        f"{num_clips:,} clips of {model.config.num_tokens(*size):,} tokens, at most about "
        f"{describe_time(seconds)}: a clip takes {each['read']:.2f} s to read, {asked}{each['student']:.2f} s of the "
        f"model. {describe_memory()} so far, and up to {forecast['disk_bytes'] / 1e9:.2f} GB on the disk{kept}.",
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


def tell(args: TrainingArguments, text: str) -> None:
    if args.should_log:
        print(text, flush=True)
