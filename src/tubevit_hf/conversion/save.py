# SPDX-License-Identifier: Apache-2.0
"""Saves a converted model with all that belongs to it, or nothing."""

import os
import shutil
import tempfile
from pathlib import Path

from ..model.modeling_tubevit import TubeViTPreTrainedModel
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .report import ConversionReport
from .sources import ConversionError


def save_converted(
    model: TubeViTPreTrainedModel, report: ConversionReport, folder: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Writes model, both processors and the report. The folder appears when everything in it is complete.

    Raises:
        ConversionError: the folder exists and is not to be overwritten, or it cannot be written.
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # beside it, so that a rename moves it into place
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
            finished = Path(unfinished, folder.name)
            model.save_pretrained(finished)
            processor = TubeViTVideoProcessor(**report.preprocessing, num_frames=model.config.num_frames)
            processor.save_pretrained(finished)
            report.save(finished)
            if folder.exists():
                shutil.rmtree(folder)
            finished.rename(folder)
    except OSError as error:
        raise ConversionError(f"{folder}: it cannot be written ({error.strerror or error}).") from error


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises a `ConversionError` if a folder may not be written."""
    if folder.exists() and not folder.is_dir():
        raise ConversionError(f"{folder}: it is a file, not a folder.")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ConversionError(f"{folder}: it exists. Choose another folder, or replace it with `--overwrite`.")
