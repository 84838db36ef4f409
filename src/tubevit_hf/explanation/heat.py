# SPDX-License-Identifier: Apache-2.0
"""An explanation as a picture shows it."""

import torch
from torch.nn.functional import avg_pool2d


# brightest parts of a clip that are shown alike, or a single pixel would leave all others dark
BRIGHTEST = 0.002
# of what counts: bright, so that it is told from grey by those who see no colours too
AMBER = (255.0, 176.0, 0.0)
# as strong as it gets, and how bright a grey frame is
STRENGTH, GREY = 0.85, 0.6
# of the eye's three kinds of cone, as television weighs them
BRIGHTNESS = (0.299, 0.587, 0.114)


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


def lay_over(frames: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
    """Frames in grey, and over them what counts in amber: the one look that all pictures of it have.

    Args:
        frames: `(num_frames, 3, height, width)`, RGB from 0 to 255.
        heat: `(num_frames, height, width)`, from 0 to 1.

    Returns:
        `(num_frames, height, width, 3)`, uint8.
    """
    frames = frames.float().permute(0, 2, 3, 1)
    grey = GREY * (frames * torch.tensor(BRIGHTNESS)).sum(dim=-1, keepdim=True)
    strength = STRENGTH * heat.float()[..., None]
    return (grey * (1 - strength) + torch.tensor(AMBER) * strength).round().byte()
