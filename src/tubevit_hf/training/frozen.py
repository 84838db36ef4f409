# SPDX-License-Identifier: Apache-2.0
"""What the frozen layers of a model give of the clips of a data set, computed once and kept in a folder."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset as HFDataset
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data import ClipDataset
from ..data.clips import draw_epoch, has_short_clips, place_of
from ..data.splits import name_of, path_of
from ..folders import read_json, write_json
from ..inference.identity import hash_tensors
from ..model.modeling_tubevit import TubeViTPreTrainedModel
from ..model.number_types_tubevit import warn_of_emulation
from ..model.tubes_tubevit import Size


SETTINGS_NAME = "frozen.json"
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
# clips of a shard: what a killed run loses at most
SHARD_SIZE = 64

# is told after each clip how many are done, of how many
Watch = Callable[[int, int], None]


class FrozenCacheMismatch(ValueError):
    """A folder holds what another model, other data or other settings gave; the message names the difference."""


class FrozenClips(Dataset[dict[str, Any]]):
    """The clips of a [`ClipDataset`] with `copies`, as what the frozen part of a model gave of them: see
    [`cache_frozen`]. An epoch has one copy of each, in the same turn as the clips themselves would come."""

    def __init__(
        self,
        clips: ClipDataset,
        folder: str | Path,
        indices: Sequence[int] | None = None,
        copies: int | None = None,
    ):
        assert clips.copies is not None  # `cache_frozen` asks for them
        self.clips, self.folder, self.copies = clips, Path(folder), copies or clips.copies
        self.indices = range(len(clips)) if indices is None else indices
        # pyrefly: ignore[bad-assignment]  datasets' decorators say that it may be a DatasetDict
        self.rows: HFDataset = clips.rows if indices is None else clips.rows.select(indices)
        self.num_labels, self.name = clips.num_labels, clips.name
        self.shards: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Sequence[int] | None = None, copies: int | None = None) -> "FrozenClips":
        """Those of some videos, or fewer copies of each."""
        indices = range(len(self)) if indices is None else indices
        return FrozenClips(self.clips, self.folder, [self.indices[index] for index in indices], copies or self.copies)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """`frozen_output` of the epoch's copy, and `labels`; of `(row, repeat)` that of another copy."""
        row, epoch = place_of(index, self.clips.get_epoch())
        if epoch is None:
            # of a single copy nothing is random, and nothing is drawn
            epoch = draw_epoch() if self.copies > 1 else 0
        return {
            "frozen_output": self.get_output(row, epoch % self.copies),
            **self.clips.get_labels(self.indices[row]),
        }

    def get_output(self, index: int, copy: int) -> torch.Tensor:
        assert self.clips.copies is not None
        shard, place = divmod(self.indices[index] * self.clips.copies + copy, SHARD_SIZE)
        if shard not in self.shards:
            self.shards[shard] = np.load(shard_path(self.folder, shard), mmap_mode="r")
        return torch.from_numpy(self.shards[shard][place].copy())

    def set_epoch(self, epoch: int | None) -> None:
        self.clips.set_epoch(epoch)

    def __getstate__(self) -> dict[str, Any]:
        # workers map the files themselves
        return {**self.__dict__, "shards": {}}


def cache_frozen(
    model: TubeViTPreTrainedModel,
    clips: ClipDataset,
    folder: str | Path,
    batch_size: int = 8,
    num_workers: int = 0,
    bf16: bool = False,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> FrozenClips:
    """Runs the frozen part of a model on all copies of all clips, once: what is in the folder already is not computed
    again, and a run that was killed goes on.

    Args:
        model: with `freeze_before`, on its device.
        clips: with `copies`.
        folder: of the cache; `SIZE = frozen_size(model, clips)` bytes will be in it.
        batch_size: clips at once.
        num_workers: processes that read clips.
        bf16: whether to compute in bfloat16.
        overwrite: whether what another model, other data or other settings gave makes way.
        watch: is told after each clip how many were run, and how many there are to run.

    Raises:
        FrozenCacheMismatch: the folder holds such, and `overwrite` is false.
        ValueError: nothing can be kept of this model, or the clips have no `copies` or different lengths.
        OSError: the disk has too little room.
    """
    if clips.copies is None:
        raise ValueError("`clips` has no `copies`: without, every epoch has other clips, and nothing can be kept.")
    if has_short_clips(clips):
        raise ValueError(
            '`clips` has `short_clips="pad"`, and what frozen layers give of clips of different lengths is not kept: '
            'choose `short_clips="repeat"`.'
        )
    if bf16 and model.device.type == "cpu":
        warn_of_emulation("`bf16`")
    folder = Path(folder)
    shape = frozen_shape(model, clips.load.size)  # pyrefly: ignore[missing-attribute]  a TrainingClip
    check_settings(folder, describe(model, clips, bf16), overwrite)
    missing = list_missing(clips, folder, frozen_bytes(shape))
    training = model.training
    model.eval()
    try:
        fill(partial(encode, model, bf16), clips, folder, missing, batch_size, num_workers, watch, "Frozen layers")
    finally:
        model.train(training)
    return FrozenClips(clips, folder)


def list_missing(
    clips: ClipDataset, folder: Path, clip_bytes: int, what: str = "what the frozen layers give"
) -> list[int]:
    """Numbers of the shards that are not there yet.

    Args:
        clips: with `copies`.
        folder: of the shards.
        clip_bytes: that a clip takes in them.
        what: they hold, for the error.

    Raises:
        OSError: the disk has too little room for them.
    """
    num_clips = len(clips) * (clips.copies or 1)
    missing = [number for number in range(-(-num_clips // SHARD_SIZE)) if not shard_path(folder, number).exists()]
    check_room(folder, len(missing) * SHARD_SIZE * clip_bytes, what)
    return missing


def encode(model: TubeViTPreTrainedModel, bf16: bool, pixel_values: torch.Tensor) -> np.ndarray:
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        outputs = model.base_model.encode_frozen(pixel_values.to(model.device))
    return outputs.float().cpu().numpy()


def fill(
    encode: Callable[[torch.Tensor], np.ndarray],
    clips: ClipDataset,
    folder: Path,
    shards: list[int],
    batch_size: int,
    num_workers: int,
    watch: Watch | None,
    description: str,
) -> None:
    """Writes shards of what a function gives of batches of clips."""
    assert clips.copies is not None
    num_clips = len(clips) * clips.copies
    wanted = [item for shard in shards for item in range(shard * SHARD_SIZE, min(num_clips, (shard + 1) * SHARD_SIZE))]
    # a generator of its own leaves the global one as it is
    loader = DataLoader(
        Copies(clips, wanted, batch_size), batch_size=None, num_workers=num_workers, generator=torch.Generator()
    )
    bar = tqdm(total=len(wanted), desc=description, unit="clip", disable=None)
    done = (output for pixel_values in loader for output in encode(pixel_values))
    number = 0
    for shard in shards:
        length = min(num_clips - shard * SHARD_SIZE, SHARD_SIZE)
        outputs = []
        for _ in range(length):
            outputs.append(next(done))
            bar.update()
            number += 1
            if watch is not None:
                watch(number, len(wanted))
        write_shard(shard_path(folder, shard), np.stack(outputs))
    bar.close()


def write_shard(path: Path, outputs: np.ndarray) -> None:
    """The file is there in full, or not at all."""
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            np.save(file, outputs)
        os.replace(unfinished, path)
    finally:
        # where the disk is full, what was begun would take the room that is left
        unfinished.unlink(missing_ok=True)


class Copies(Dataset[torch.Tensor]):
    """Batches of clips by number, all copies of a row one after another: those in a batch are decoded at once."""

    def __init__(self, clips: ClipDataset, wanted: list[int], batch_size: int):
        self.clips = clips
        self.batches = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> torch.Tensor:
        assert self.clips.copies is not None
        pairs = [divmod(number, self.clips.copies) for number in self.batches[index]]
        return torch.cat(
            [
                self.clips.get_pixels(row, [copy for _, copy in of_row])
                for row, of_row in groupby(pairs, key=itemgetter(0))
            ]
        )


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"clips-{number:05d}.npy"


def frozen_shape(model: TubeViTPreTrainedModel, size: Size) -> tuple[int, ...]:
    """Of what the frozen part gives of a clip of a size; raises as [`TubeViTModel.encode_frozen`]."""
    config = model.config
    before = model.base_model.check_frozen()
    if config.pooling_type == "grid":
        return (config.pooled_size,)
    with_gate = config.gate_layer is not None and config.gate_layer >= before
    num_tokens = config.token_layout(*size).pool(config.joint_pooling).num_tokens
    return (1 + with_gate, num_tokens, config.hidden_size)


def frozen_bytes(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape))


def frozen_size(model: TubeViTPreTrainedModel, clips: ClipDataset) -> int:
    """Bytes that [`cache_frozen`] will write, in float32."""
    # pyrefly: ignore[missing-attribute]  as above
    return len(clips) * (clips.copies or 1) * frozen_bytes(frozen_shape(model, clips.load.size))


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises an `OSError` if the disk cannot hold as many bytes."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise OSError(
            f"{folder}: {what} takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free. "
            "Choose another folder, or fewer copies of each clip."
        )


def check_settings(
    folder: Path, settings: dict[str, Any], overwrite: bool, what: str = "what the frozen layers gave"
) -> None:
    """Notes what a folder is made of, or holds it against what is noted there."""
    path = folder / SETTINGS_NAME
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists():
        before = read_json(path)
        other = sorted(name for name in {*settings, *before} if settings.get(name) != before.get(name))
        if not other:
            return
        if not overwrite:
            raise FrozenCacheMismatch(
                f"{folder} holds {what} with another {', another '.join(other)}. Remove it, or choose another folder."
            )
    folder.mkdir(parents=True, exist_ok=True)
    # the note goes first and comes last, so that no shard is ever beside a note of others
    path.unlink(missing_ok=True)
    for shard in folder.glob("clips-*"):
        shard.unlink()
    write_json(path, settings)


def describe(model: TubeViTPreTrainedModel, clips: ClipDataset, bf16: bool) -> dict[str, Any]:
    """All that the outputs depend on."""
    # as it computes: the same tubes can be written in several ways
    config = model.config.to_dict() | {"tubes": [tube.to_dict() for tube in model.config.resolved_tubes]}
    # of the classes, and what frozen layers, which are evaluated, do not do
    without_effect = ("id2label", "label2id", "problem_type", "architectures", "_name_or_path")
    without_effect += (*DROPOUT, "recompute_activation")
    dtype = str(model.dtype).removeprefix("torch.")
    return {
        "configuration": {name: value for name, value in config.items() if name not in without_effect},
        "frozen weights": hash_frozen(model),
        "list of videos": hash_rows(clips),
        "kind of clip": clips.load.describe(),  # pyrefly: ignore[missing-attribute]  a TrainingClip
        "seed": clips.seed,
        "number of copies": clips.copies,
        "precision": "bfloat16" if bf16 else dtype,
    }


def hash_frozen(model: nn.Module) -> str:
    return hash_tensors(named for named in model.named_parameters() if not named[1].requires_grad)


def hash_rows(clips: ClipDataset) -> str:
    """Of the videos in order: a file by its path, size and time of change, others by their bytes."""
    digest = hashlib.sha256()
    for index in range(len(clips)):
        video = path_of(clips.rows[index])
        if isinstance(video, bytes):
            digest.update(hashlib.sha256(video).digest())
        else:
            status = os.stat(video) if os.path.exists(video) else None
            facts = None if status is None else (status.st_size, status.st_mtime_ns)
            digest.update(repr((name_of(index, clips.rows[index]), facts)).encode())
    return digest.hexdigest()
