# SPDX-License-Identifier: Apache-2.0
"""Pictures: which regions of a clip the tubes see, and which of them the attention pooling looks at;
how a training went; what is seen when in a long video.

Needs matplotlib (`pip install "tubevit_hf[demo]"`).
"""

from ..explanation import pooling_attention
from ..extras import of_extra


with of_extra("demo"):
    from .attention import draw_attention
    from .curves import draw_curves
    from .explanation import animate_explanation, draw_explanation, lay_over
    from .timeline import draw_timeline
    from .tubes import draw_tubes


__all__ = [
    "animate_explanation",
    "draw_attention",
    "draw_curves",
    "draw_explanation",
    "draw_timeline",
    "draw_tubes",
    "lay_over",
    "pooling_attention",
]
