# SPDX-License-Identifier: Apache-2.0
"""Where the attention pooling looks."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure


def draw_attention(
    clips: torch.Tensor, attention: torch.Tensor, titles: Sequence[str], num_columns: int = 8
) -> Figure:
    """Frames of each clip, and below each the same frame as bright as the pooling looks at it.

    Args:
        clips: `(batch, num_frames, 3, height, width)`, uint8 RGB.
        attention: `(batch, num_frames, height, width)`, of [`pooling_attention`].
        titles: one for each clip.
        num_columns: frames to show, evenly spaced.
    """
    num_clips, num_frames = clips.shape[:2]
    num_columns = min(num_columns, num_frames)
    figure = Figure(figsize=(1.25 * num_columns, 3.0 * num_clips), layout="constrained")
    axes = figure.subplots(2 * num_clips, num_columns, squeeze=False)
    for row in range(num_clips):
        # the root brings out the weaker regions too
        brightness = 0.15 + 0.85 * (attention[row] / attention[row].max()).sqrt()
        for column in range(num_columns):
            frame = column * num_frames // num_columns
            image = clips[row, frame].permute(1, 2, 0).numpy()
            above, below = axes[2 * row][column], axes[2 * row + 1][column]
            above.imshow(image)
            below.imshow((image * brightness[frame, ..., None].numpy()).astype("uint8"))
            above.set_title(f"frame {frame}", fontsize=7)
            for axis in (above, below):
                axis.set(xticks=[], yticks=[])
        axes[2 * row][0].set_ylabel(titles[row], fontsize=8)
        axes[2 * row + 1][0].set_ylabel("pooling\nlooks at", fontsize=8)
    return figure
