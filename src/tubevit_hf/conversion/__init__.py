# SPDX-License-Identifier: Apache-2.0
"""Image ViTs become TubeViTs."""

from .convert import convert_vit, scale_up
from .report import ConversionReport
from .save import save_converted
from .sources import ConversionError


__all__ = ["ConversionError", "ConversionReport", "convert_vit", "save_converted", "scale_up"]
