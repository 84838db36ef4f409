# SPDX-License-Identifier: Apache-2.0
"""Pictures: which regions of a clip the tubes see, a clip on its way through a model, kernels and positions; which
regions the attention pooling looks at; how a training went; what is seen when in a long video.

Needs matplotlib (`pip install "tubevit_hf[demo]"`).
"""

from ..explanation import pooling_attention
from ..extras import of_extra


with of_extra("demo"):
    from .curves import draw_curves
    from .explanation import animate_explanation, draw_explanation
    from .kernels import draw_inflation, draw_kernels
    from .passage import animate_passage
    from .positions import draw_positions
    from .theme import DARK, LIGHT, Theme, to_png
    from .timeline import draw_timeline
    from .tubes import draw_tubes


__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "animate_explanation",
    "animate_passage",
    "draw_curves",
    "draw_explanation",
    "draw_inflation",
    "draw_kernels",
    "draw_positions",
    "draw_timeline",
    "draw_tubes",
    "pooling_attention",
    "to_png",
]
