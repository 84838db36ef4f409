# SPDX-License-Identifier: Apache-2.0
"""Pictures of what counts in a video: a contact sheet, and an animation at the video's own speed."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..explanation import lay_over
from ..explanation.heat import AMBER
from ..model.video_sources_tubevit import printable


# what `lay_over` makes of a grey frame
COLOURS = LinearSegmentedColormap.from_list("what counts", [(0.3, 0.3, 0.3), tuple(part / 255 for part in AMBER)])
# what a label needs, and what speaks against it: apart also for the colour-blind
NEEDED, AGAINST = "#d55e00", "#0072b2"
# width of a frame in an animation, in pixels, unless the file gets too large
WIDTH = 288
MAX_BYTES = 2_000_000
# that a bar shows
SMALLEST_DROP = 0.002
# for which the last frame is shown before the animation begins again, in milliseconds
PAUSE = 800


def draw_explanation(
    frames: torch.Tensor,
    heat: torch.Tensor,
    seconds: np.ndarray,
    shares: np.ndarray,
    windows: np.ndarray,
    drops: np.ndarray,
    title: str,
    notes: Sequence[str] = (),
    num_columns: int = 8,
) -> Figure:
    """A contact sheet: frames, below each what counts in it, and below all how much counts when and what the score
    would lose without it.

    Args:
        frames: `(num_frames, 3, height, width)`, uint8 RGB.
        heat: `(num_frames, height, width)`, of [`tubevit_hf.explanation.to_heat`].
        seconds: when each frame is shown and the last one ends, `(num_frames + 1,)`.
        shares: of what counts, in each frame, `(num_frames,)`.
        windows: start and end of each stretch of time that was taken out, `(windows, 2)`, in seconds.
        drops: how far the score drops without it, `(windows,)`; if there are none, or none that would be seen, that
            panel is left out.
        title: above.
        notes: lines below.
        num_columns: frames to show, evenly spaced.
    """
    num_frames = len(frames)
    num_columns = min(num_columns, num_frames)
    chosen = [column * num_frames // num_columns for column in range(num_columns)]
    has_drops = len(drops) > 0 and np.abs(drops).max() >= SMALLEST_DROP
    panels = 2 if has_drops else 1
    height = 1.5 * frames.shape[2] / frames.shape[3]
    heights = [height, height, *[1.2] * panels, 0.2 + 0.17 * len(notes)]
    figure = Figure(figsize=(max(6.5, 1.5 * num_columns), sum(heights) + 1.4), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    grid = figure.add_gridspec(len(heights), num_columns, height_ratios=heights)
    covered = lay_over(frames, heat).numpy()
    pictures: list[Axes] = []
    for column, frame in enumerate(chosen):
        for row, picture in enumerate((frames[frame].permute(1, 2, 0).numpy(), covered[frame])):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f"{seconds[frame]:.2f} s", fontsize=9)
            else:
                pictures.append(axes)
            if column == 0:
                axes.set_ylabel(("what it saw", "what counted")[row], fontsize=10)
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=pictures, location="right", fraction=0.03, pad=0.01)
    bar.set_ticks([0, 1], labels=["little", "much"], fontsize=8)

    when = figure.add_subplot(grid[2, :])
    when.bar(
        seconds[:-1], 100 * shares, np.diff(seconds), align="edge", color="0.45", edgecolor="white", linewidth=0.5
    )
    when.set_title("When it counted: share of each frame", loc="left", fontsize=9)
    when.set_ylabel("%", fontsize=8)
    if has_drops:
        without = figure.add_subplot(grid[3, :], sharex=when)
        colours = [NEEDED if drop > 0 else AGAINST for drop in drops]
        starts, ends = windows.T
        without.bar(starts, -100 * drops, ends - starts, align="edge", color=colours, edgecolor="white", linewidth=0.5)
        without.axhline(0, color="black", linewidth=0.8)
        without.set_ylim(min(-115 * drops.max(), -10), max(-115 * drops.min(), 3))
        without.set_title(
            "What the score does without a stretch of time: orange falls, blue rises", loc="left", fontsize=9
        )
        without.set_ylabel("points", fontsize=8)
    for axes in figure.axes[-panels:]:
        axes.set_xlim(seconds[0], seconds[-1])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].set_xlabel("seconds", fontsize=9)
    if notes:
        text = figure.add_subplot(grid[-1, :])
        text.axis("off")
        text.text(
            0, 1, "\n".join(map(printable, notes)), fontsize=8.5, va="top", transform=text.transAxes, parse_math=False
        )
    return figure


def animate_explanation(
    frames: torch.Tensor,
    heat: torch.Tensor,
    seconds: np.ndarray,
    windows: np.ndarray,
    drops: np.ndarray,
    title: str,
) -> bytes:
    """An animated GIF of at most 2 MB: each frame for as long as the video shows it, beside it what counts, and below
    what the score would lose without each stretch of time.

    Args:
        frames, heat, seconds, windows, drops, title: as of [`draw_explanation`].
    """
    covered = lay_over(frames, heat).numpy()
    # GIFs count hundredths of a second, and viewers take less than two of them for ten
    marks = 10 * (100 * (seconds - seconds[0])).round().astype(int)
    durations = np.maximum(np.diff(marks), 20)
    durations[-1] += PAUSE
    width = WIDTH
    while True:
        pages = [
            draw_page(
                frames[number].permute(1, 2, 0).numpy(), covered[number], width, number, seconds, windows, drops, title
            )
            for number in range(len(frames))
        ]
        file = io.BytesIO()
        pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], duration=durations.tolist(), loop=0)
        if file.tell() <= MAX_BYTES:
            return file.getvalue()
        # bytes grow about as the area does
        width = int(0.95 * width * (MAX_BYTES / file.tell()) ** 0.5)


def draw_page(
    frame: np.ndarray,
    covered: np.ndarray,
    side: int,
    number: int,
    seconds: np.ndarray,
    windows: np.ndarray,
    drops: np.ndarray,
    title: str,
) -> Image.Image:
    """One frame of the animation; frames are `side` pixels wide."""
    height = round(side * frame.shape[0] / frame.shape[1])
    margin, line = 8, max(12, side // 14)
    width = 2 * side + 3 * margin
    font, small = ImageFont.load_default(line), ImageFont.load_default(max(10, line - 3))
    bars = 3 * line if len(drops) else 6
    top = margin + 2 * line + 6
    page = Image.new("RGB", (width, top + height + margin + bars + 2 * line + margin), "white")
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin), fit(title, font, width - 2 * margin), "black", font)
    draw.text((margin, margin + line + 2), "what it saw", "#444444", small)
    draw.text((side + 2 * margin, margin + line + 2), "what counted", "#444444", small)
    for picture, left in ((frame, margin), (covered, side + 2 * margin)):
        page.paste(Image.fromarray(picture).resize((side, height), Image.Resampling.BICUBIC), (left, top))

    start, end = seconds[0], seconds[-1]

    def place(second: float) -> float:
        return margin + (second - start) / (end - start) * (width - 2 * margin)

    under = top + height + margin
    if len(drops):
        # bars fill the room that there is, but less where the score hardly changes
        scale = bars / max(float(np.ptp(np.append(drops, 0))), 0.1)
        zero = under - scale * min(0.0, float(drops.min()))
        for (begins, ends), drop in zip(windows, drops):
            tip = zero + scale * drop
            box = (place(begins) + 1, min(zero, tip), place(ends) - 1, max(zero, tip))
            draw.rectangle(box, NEEDED if drop > 0 else AGAINST)
        draw.line((margin, zero, width - margin, zero), "black")
    now, then = (place(float(second)) for second in seconds[number : number + 2])
    draw.rectangle((now, under - 2, max(now + 3, then), under + bars + 2), outline="black", width=2)
    words = f"{seconds[number]:.2f} s"
    if len(drops):
        words += "    bars: how far the score falls without this stretch of time"
    draw.text((margin, under + bars + 6), fit(words, small, width - 2 * margin), "black", small)
    return page


def fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a text as a line of so many pixels holds."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
