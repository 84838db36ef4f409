# SPDX-License-Identifier: Apache-2.0
"""How pictures of the model look: light and dark, at the width of a README, in colours that colour-blind eyes tell
apart, and in words instead of shapes."""

import io
from dataclasses import dataclass
from math import prod
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..model.tubes_tubevit import Size, Tube


# of a README, in inches of 100 CSS pixels; saved at twice that density
WIDTH = 8.3
DPI = 200
# of a picture, from which on it has fewer colours
MAX_BYTES = 250_000
# of titles, words and small words, in points: 17, 15 and 13 CSS pixels
TITLE, WORDS, SMALL = 12.5, 11.0, 9.5


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Args:
        name: in the names of files.
        paper: behind everything.
        ink: of words.
        faint: of axes and of words that explain.
        tubes: one for each tube, again from the first where there are more.
        scale: colour map, from little to much, whose brightness alone tells which is more.
    """

    name: str
    paper: str
    ink: str
    faint: str
    tubes: tuple[str, ...]
    scale: str = "viridis"

    def of_tube(self, index: int) -> str:
        return self.tubes[index % len(self.tubes)]


# Okabe and Ito's colours; on dark paper the lighter ones of each hue
LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#59636e", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
)
DARK = Theme(
    "dark", "#0d1117", "#f0f6fc", "#9198a1", ("#56b4e9", "#ff8f3f", "#2fd0a0", "#f0a3cb", "#3d8fd1", "#f0c419")
)
THEMES = (LIGHT, DARK)


def new_figure(height: float, theme: Theme) -> Figure:
    """An empty picture of the width of a README, `height` inches high."""
    return Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.paper)


def add_axes(figure: Figure, left: float, down: float, width: float, height: float) -> Axes:
    """By a place from the upper left corner, in inches."""
    across, high = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (down + height) / high, width / across, height / high))


def put(figure: Figure, left: float, down: float, words: str, colour: str, size: float, **style: Any) -> None:
    """Words from a place on, in inches from the upper left corner."""
    across, high = figure.get_size_inches()
    style = {"color": colour, "fontsize": size, "va": "top", **style}
    figure.text(left / across, 1 - down / high, words, **style)


def title(figure: Figure, words: str, theme: Theme) -> None:
    put(figure, figure.get_figwidth() / 2, 0.12, words, theme.ink, TITLE, ha="center", fontweight="bold")


def note(figure: Figure, down: float, words: str, theme: Theme) -> None:
    put(figure, figure.get_figwidth() / 2, down, words, theme.faint, SMALL, ha="center")


def to_png(figure: Figure) -> bytes:
    """The picture as a PNG, at twice the density of common screens."""
    return encode(to_image(figure))


def encode(image: Image.Image) -> bytes:
    """An image as a PNG; of 256 colours if it would be too large for a README otherwise."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    if file.tell() > MAX_BYTES:
        few = image.quantize(256, Image.Quantize.FASTOCTREE)
        # the paper keeps its colour, or it would be seen on the page
        number, palette = few.getpixel((0, 0)), few.getpalette()
        assert isinstance(number, int) and palette is not None
        palette[3 * number : 3 * number + 3] = image.getpixel((0, 0))  # pyrefly: ignore[unsupported-operation]
        few.putpalette(palette)
        file = io.BytesIO()
        few.save(file, "PNG", optimize=True)
    return file.getvalue()


def to_image(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="rgba", facecolor=figure.get_facecolor())
    # as matplotlib cuts it to whole pixels
    width, height = map(int, figure.bbox.size)
    return Image.frombytes("RGBA", (width, height), file.getvalue()).convert("RGB")


def name_tube(tube: Tube) -> str:
    """A tube's shape in words, frames beside pixels."""
    frames, height, width = tube.kernel_size
    side = (height + width) / 2
    if frames == 1:
        return "image patch"
    if frames == height == width:
        return "cube"
    if frames >= 2 * side:
        return "long and thin"
    if side >= 2 * frames:
        return "short and wide"
    return "block"


def size_in_words(size: Size) -> str:
    frames, height, width = size
    return f"{frames} frame{'s' * (frames > 1)}, {height} by {width} pixels"


def describe_tube(tube: Tube, grid: Size) -> list[str]:
    """Lines of a legend: the shape, its size, and how many tokens it gives a clip."""
    together = prod(tube.space_to_depth)
    tokens = prod(grid)
    return [
        name_tube(tube),
        size_in_words(tube.kernel_size),
        *([f"{together} together make a token"] if together > 1 else []),
        f"{tokens:,} token{'s' * (tokens != 1)}" if tokens else "does not fit: no tokens",
    ]
