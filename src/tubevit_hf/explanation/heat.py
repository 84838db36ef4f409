# SPDX-License-Identifier: Apache-2.0
"""An explanation as a picture shows it."""

import torch
from torch.nn.functional import avg_pool2d


# brightest parts of a clip that are shown alike, or a single pixel would leave all others dark
BRIGHTEST = 0.002


def to_heat(parts: torch.Tensor, smooth: bool) -> torch.Tensor:
    """What speaks for a label, from 0 to 1: `(num_frames, height, width)` of the same.

    Args:
        parts: as [`explain_clips`] gives them, of one clip.
        smooth: whether each pixel is averaged with those around it, an eighth of the frame: gradients of single pixels
            flicker.
    """
    parts = parts.float()
    if smooth:
        side = 2 * (min(parts.shape[1:]) // 16) + 1
        for _ in range(2):
            parts = avg_pool2d(parts[:, None], side, 1, side // 2, count_include_pad=False)[:, 0]
    parts = parts.clamp_min(0)
    brightest = parts.flatten().topk(max(1, int(BRIGHTEST * parts.numel()))).values[-1]
    return (parts / brightest.clamp_min(torch.finfo(parts.dtype).tiny)).clamp_max(1)
