# SPDX-License-Identifier: Apache-2.0
"""Which model, and which settings, an output was made with: what is added to it must be of the same."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..folders import read_json, write_json


class OutputMismatch(ValueError):
    """An output exists that something else made; the message tells the difference."""


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over the names and values of all weights."""
    return hash_tensors(model.state_dict().items())


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names and values, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hash_files(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(os.fsencode(path.name))
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Writes down what an output is made with, or compares it with what is written.

    Args:
        path: of a JSON file beside the output.
        settings: what the output depends on.

    Raises:
        OutputMismatch: the file has other settings.
    """
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_json(path, settings)
        return
    try:
        found = read_json(path)
    except ValueError as error:
        raise OutputMismatch(
            f"{path}: it is no JSON, so what made the output is not known. Choose another."
        ) from error
    differences = [
        f"{name} is {shorten(found.get(name))}, now {shorten(settings.get(name))}"
        for name in sorted({*found, *settings})
        if found.get(name) != settings.get(name)
    ]
    if differences:
        raise OutputMismatch(
            f"{path}: the output was made otherwise: {'; '.join(differences)}. Choose another, or remove it."
        )


def shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
