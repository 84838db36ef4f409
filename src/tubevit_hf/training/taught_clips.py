# SPDX-License-Identifier: Apache-2.0
"""Clips with what a teacher says of them, computed once and kept in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import ClipDataset
from ..data.clips import place_of
from ..inference.identity import hash_tensors
from .frozen import FrozenClips, Watch, check_settings, fill, hash_rows, list_missing
from .objectives import Objective


WHAT = "what the teacher says of the clips"


class TaughtClips(FrozenClips):
    """The clips of a [`ClipDataset`] with `copies`, and their `targets`: see [`cache_targets`]."""

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """`pixel_values` of the epoch's copy, and `targets` in float16, as `make_targets` gave them."""
        row, epoch = place_of(index, self.clips.get_epoch())
        copy = (epoch or 0) % self.copies
        pixel_values = self.clips.get_clip(self.indices[row], copy)["pixel_values"]
        return {"pixel_values": pixel_values, "targets": self.get_output(row, copy)}


def cache_targets(
    objective: Objective,
    clips: ClipDataset,
    folder: Path,
    device: torch.device,
    target_bytes: int,
    num_workers: int = 0,
    bf16: bool = False,
    watch: Watch | None = None,
) -> TaughtClips:
    """Runs a teacher on all copies of all clips, once: what is in the folder already is not computed again.

    Args:
        objective: whose teacher is on the device.
        clips: with `copies`.
        folder: of the cache.
        device: where the teacher runs.
        target_bytes: of a clip's targets in float16.
        num_workers: processes that read clips.
        bf16: whether the teacher computes in bfloat16.
        watch: is told after each clip how many are done, and how many there are.

    Raises:
        FrozenCacheMismatch: the folder holds what another teacher said, or of other clips.
        OSError: the disk has too little room.
    """
    assert objective.teacher is not None  # who has none keeps nothing
    settings = {
        "teacher": objective.teacher.name,
        "teacher's weights": hash_tensors(objective.teacher.model.named_parameters()),
        "list of videos": hash_rows(clips),
        "kind of clip": clips.load.describe(),  # pyrefly: ignore[missing-attribute]  a TrainingClip
        "seed": clips.seed,
        "number of copies": clips.copies,
        "size of targets": target_bytes,
        "precision": "bfloat16" if bf16 else "float32",
    }
    check_settings(folder, settings, overwrite=False, what=WHAT)
    missing = list_missing(clips, folder, target_bytes, WHAT)

    def ask(pixel_values: torch.Tensor) -> np.ndarray:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return objective.make_targets(pixel_values.to(device)).to("cpu", torch.float16).numpy()

    fill(ask, clips, folder, missing, 8, num_workers, watch, "Teacher")
    return TaughtClips(clips, folder)
