# SPDX-License-Identifier: Apache-2.0
"""What a processor may be set to: its file can be a stranger's."""

import math
from collections.abc import Sequence
from typing import Any


# pixels of a side
MAX_SIDE = 2**15
SIDES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")


def check_settings(processor: Any) -> None:
    """Checks sizes and numbers of an image or video processor.

    Raises:
        ValueError: one is out of range, or not finite; it is named.
    """
    for name in ("size", "crop_size"):
        size = getattr(processor, name, None)
        for side in SIDES:
            value = size.get(side) if isinstance(size, dict) else getattr(size, side, None)
            if value is not None and not (isinstance(value, (int, float)) and 1 <= value <= MAX_SIDE):
                raise ValueError(f"`{name}` has {side!r} {value!r}; it must be from 1 to {MAX_SIDE} pixels.")
    for name in ("image_mean", "image_std", "rescale_factor"):
        value = getattr(processor, name, None)
        numbers = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for number in numbers:
            if number is None:
                continue
            is_number = isinstance(number, (int, float)) and math.isfinite(number)
            if not is_number or (name == "image_std" and number == 0):
                raise ValueError(f"`{name}` must be of finite numbers, `image_std` not of zeros, got {value!r}.")


__all__ = ["check_settings"]
