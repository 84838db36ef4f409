# SPDX-License-Identifier: Apache-2.0
"""How good a model is on videos that it was not trained on: numbers, a page that explains them, a model card.

Needs scikit-learn and SciPy (`pip install "tubevit_hf[demo]"`).
"""

from .making import PAGE, WrittenReport, make_report
from .measurement import MeasuredVideo, Measurement
from .measuring import measure
from .page import render_page
from .videos import LabelledVideo, ReportError, Selection, choose_videos


__all__ = [
    "PAGE",
    "LabelledVideo",
    "MeasuredVideo",
    "Measurement",
    "ReportError",
    "Selection",
    "WrittenReport",
    "choose_videos",
    "make_report",
    "measure",
    "render_page",
]
