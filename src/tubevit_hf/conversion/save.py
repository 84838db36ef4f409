# SPDX-License-Identifier: Apache-2.0
"""Saves a converted model with all that belongs to it, or nothing."""

import os
from pathlib import Path

from ..folders import FolderError, written_whole
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
    try:
        with written_whole(Path(folder), overwrite) as unfinished:
            model.save_pretrained(unfinished)
            processor = TubeViTVideoProcessor(**report.preprocessing, num_frames=model.config.num_frames)
            processor.save_pretrained(unfinished)
            report.save(unfinished)
    except FolderError as error:
        raise ConversionError(str(error)) from error
