# SPDX-License-Identifier: Apache-2.0
"""The weights of a checkpoint, looked at before anything is allocated for them: whether they are what they claim."""

import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .configuration_tubevit import TubeViTConfig


# how a checkpoint is found on the Hub
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# parameters that a checkpoint may lack, such as those of a new classifier, and how many for each that it has
MISSING, MISSING_SHARE = 2**26, 4
# bytes of an index, of a million tensors
LONGEST_INDEX = 2**27


def refuse_pickles(folder: str | os.PathLike[str] | None, subfolder: str = "") -> None:
    """Raises an `OSError` for a local folder whose weights are pickles only: to read one can run code."""
    if folder is None or not os.path.isdir(folder):
        return
    folder = Path(folder, subfolder)
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise OSError(
            f"{folder} holds its weights as a pickle only ({', '.join(pickles)}), which can run code when it is read. "
            "TubeViT loads model.safetensors: if you trust the file, load it once with `use_safetensors=False` and "
            "save it again with `save_pretrained`."
        )


def check_weights(name_or_path: str | os.PathLike[str], config: TubeViTConfig, arguments: dict[str, Any]) -> None:
    """Holds a configuration against the weights beside it.

    Args:
        name_or_path: local folder or repo id.
        config: of the model that is to be loaded.
        arguments: of `from_pretrained`.

    Raises:
        OSError: a file of weights is damaged, or an index names files outside of its folder.
        ValueError: the configuration describes another, far larger model.
    """
    files = list(find_weights(os.fspath(name_or_path), arguments))
    if not files:
        # transformers says what it looked for
        return
    held = sum(map(count_parameters, files))
    wanted = config.count_about()
    if wanted - held > max(MISSING, MISSING_SHARE * held):
        raise ValueError(
            f"{name_or_path}: its config.json describes a model of about {wanted:.3g} parameters, and its weights "
            f"have {held:.3g}: they do not belong together. If it is meant, make the model by `from_config` and load "
            "the weights into it."
        )


def find_weights(name_or_path: str, arguments: dict[str, Any]) -> Iterator[Path]:
    known = {name: arguments[name] for name in HUB_ARGUMENTS if name in arguments}

    def find(name: str) -> Path | None:
        # what is not there is left to transformers
        found = cached_file(
            name_or_path,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **known,
        )
        return None if found is None else Path(found)

    if (weights := find(SAFE_WEIGHTS_NAME)) is not None:
        yield weights
    elif (index := find(SAFE_WEIGHTS_INDEX_NAME)) is not None:
        for name in read_index(index):
            # those of a repository come with the load
            if (index.parent / name).exists():
                yield index.parent / name


def read_index(path: Path) -> list[str]:
    """Names of the files that an index lists."""
    if path.stat().st_size > LONGEST_INDEX:
        raise OSError(f"{path} has {path.stat().st_size} bytes, and an index more than {LONGEST_INDEX} is refused.")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise OSError(f"{path} is no index of weights: a 'weight_map' from tensors to files is missing.") from error
    for name in files:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise OSError(f"{path} names {name!r}, which is no safetensors file beside it, and is not read.")
    return files


def count_parameters(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise OSError(f"{path} is no sound safetensors file ({error}). Fetch or save it again.") from error
