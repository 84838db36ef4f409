# SPDX-License-Identifier: Apache-2.0
"""An answer as HTML. Pictures are within it, so that none is written to a file; what a visitor wrote is escaped."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tubevit_hf.explanation import lay_over
from tubevit_hf.inference import Segment, Timeline, VideoExplanation


CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
# labels that a visitor may see, and rows and sentences of a timeline
MOST_LABELS = 10
MOST_ROWS = 6
MOST_SEGMENTS = 20
# below, a class is not worth a row of its own
WORTH_A_ROW = 0.2
# width of a frame in an animation, and what is between two, in pixels
SIDE, GAP = 288, 6
# for which the last frame is shown before the animation begins again, in milliseconds
PAUSE = 800


def address(image: Image.Image, format: str = "webp") -> str:
    file = io.BytesIO()
    image.save(file, format, quality=80)
    return as_address(file.getvalue(), f"image/{format}")


def as_address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def show_status(words: str) -> str:
    return f'<p class="status">{escape(words)}</p>'


def show_heading(name: str, labels: Sequence[str], most: int = 16) -> str:
    known = ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
    return (
        f'<h1>What does the model see?</h1><p class="hint"><b>{escape(name)}</b> tells {len(labels)} kinds of video '
        f"apart: {escape(known)}.</p>"
    )


def show_error(name: str, why: str, taken: str) -> str:
    return (
        f'<section class="card refused"><h2>No answer for {escape(name)}</h2><p>{escape(why)}</p>'
        f"<p>{escape(taken)}</p></section>"
    )


def show_scores(name: str, predictions: Sequence[dict[str, Any]], facts: Sequence[str]) -> str:
    """The best labels as bars; how many of them are seen is the page's."""
    rows = "".join(
        f'<li><span class="label">{escape(entry["label"])}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width: {100 * entry["score"]:.1f}%"></i></span>'
        f'<span class="score">{entry["score"]:.1%}</span></li>'
        for entry in predictions
    )
    return (
        f'<section class="card"><p class="file">{escape(name)}</p><h2>{escape(predictions[0]["label"])}</h2>'
        f'<ol class="scores">{rows}</ol>'
        f'<ul class="facts">{"".join(f"<li>{escape(fact)}</li>" for fact in facts)}</ul></section>'
    )


def show_explanation(found: VideoExplanation, is_image: bool) -> str:
    if is_image:
        # every frame is the same
        frames, heat = found.frames[:1], found.heat.amax(dim=0, keepdim=True)
        told = [
            f"An image is read as a video in which nothing moves: the model saw it {len(found.frames)} times.",
            *found.describe_tubes(),
        ]
    else:
        frames, heat = found.frames, found.heat
        told = [*found.tell(), *found.describe_tubes()]
    covered = lay_over(frames, heat).numpy()
    moving = "" if is_image else show_animation(found, covered)
    pairs = zip(frames.permute(0, 2, 3, 1).numpy(), covered, found.seconds)
    pictures = "".join(
        f'<li><img src="{address(Image.fromarray(frame))}" alt="Seen at {second:.2f} s">'
        f'<img src="{address(Image.fromarray(over))}" alt="What counted in it">'
        + ("" if is_image else f"<span>{second:.2f} s</span>")
        + "</li>"
        for frame, over, second in pairs
    )
    return (
        f'<section class="card"><h2>Why {escape(found.label)}?</h2>'
        f"{moving}<ul>{''.join(f'<li>{escape(line)}</li>' for line in told)}</ul></section>"
        '<section class="card"><h2>What the model saw</h2>'
        "<p>The frames that it was given and, below each in amber, what in it spoke for this answer.</p>"
        f'<ol class="frames{" one" if is_image else ""}">{pictures}</ol></section>'
    )


def show_animation(found: VideoExplanation, covered: np.ndarray) -> str:
    """The clip at its own speed beside what counts in it, and below how much the answer needs each stretch of time.

    Words are the page's and not within the picture, as `tubevit explain` has them: so they can be read on a phone, in
    the dark, and aloud. It can be stopped, and stands still from the start for who has asked the system for less
    motion.
    """
    pages = [
        draw_pair(frame, over, number / len(covered))
        for number, (frame, over) in enumerate(zip(found.frames.permute(0, 2, 3, 1).numpy(), covered), start=1)
    ]
    durations = (1000 * np.diff(found.seconds)).round().astype(int).clip(20, 2000)
    durations[-1] += PAUSE
    file = io.BytesIO()
    pages[0].save(
        file, "webp", save_all=True, append_images=pages[1:], duration=durations.tolist(), loop=0, quality=75
    )
    moving = as_address(file.getvalue(), "image/webp")
    still = address(pages[int(found.shares.argmax())])
    alt = escape(found.alt_text)
    return (
        '<figure><p class="halves" aria-hidden="true"><span>what it saw</span><span>what counted</span></p>'
        f'<img class="moving" src="{moving}" alt="{alt}"><img class="still" src="{still}" alt="{alt}">'
        f"{show_drops(found) if len(found.drops) else ''}"
        '<label><input type="checkbox"> Stand still</label></figure>'
    )


def draw_pair(frame: np.ndarray, over: np.ndarray, done: float) -> Image.Image:
    """A frame and what counts in it, side by side; below a line that tells how much of the clip has passed."""
    height = round(SIDE * frame.shape[0] / frame.shape[1])
    page = Image.new("RGB", (2 * SIDE + GAP, height + 2 * GAP), "#808080")
    for picture, left in ((frame, 0), (over, SIDE + GAP)):
        page.paste(Image.fromarray(picture).resize((SIDE, height), Image.Resampling.BICUBIC), (left, 0))
    ImageDraw.Draw(page).rectangle((0, height + GAP, done * page.width, page.height), "#56b4e9")
    return page


def show_drops(found: VideoExplanation) -> str:
    """A bar for each stretch of time, up as far as the score would fall without it, down where it would rise. The
    sentences beside it tell the same."""
    highest, lowest = max(found.drops.max(), 0), min(found.drops.min(), 0)
    # what is less than a tenth is little, and looks so
    full = max(highest - lowest, 0.1)
    zero = highest / (highest - lowest) if highest > lowest else 1
    bars = "".join(
        f'<span class="{"needed" if drop > 0 else "against"}" '
        f'style="top: {100 * (zero - max(drop, 0) / full):.1f}%; height: {100 * abs(drop) / full:.1f}%"></span>'
        for drop in found.drops
    )
    return (
        '<div aria-hidden="true"><p class="below">Bars: what the score loses without this time</p>'
        f'<div class="drops">{bars}<hr style="top: {100 * zero:.1f}%"></div>'
        f'<p class="axis"><span>{found.seconds[0]:.1f} s</span><span>{found.seconds[-1]:.1f} s</span></p></div>'
    )


def show_timeline(found: Timeline, window: float, stride: float, segments: Sequence[Segment]) -> str:
    """A strip for each class that is likely anywhere, as dark as it is likely there."""
    scores = np.nan_to_num(found.scores)
    highest = scores.max(axis=0)
    best = np.argsort(-highest, kind="stable")[:MOST_ROWS]
    rows = "".join(
        f'<li><span class="label">{escape(found.labels[label])}</span>'
        f'<span class="strip" aria-hidden="true">{show_strip(found, scores[:, label])}</span></li>'
        for label in best
        if highest[label] >= min(WORTH_A_ROW, highest.max())
    )
    told = "".join(
        f"<li>{tell_time(start)} to {tell_time(end)}: {escape(label)}, {score:.0%}</li>"
        for start, end, label, score in segments[:MOST_SEGMENTS]
    )
    return (
        '<section class="card"><h2>Over time</h2>'
        f"<p>{len(found.times)} windows of {window:g} s, one every {stride:g} s; the fuller a strip, the surer.</p>"
        f'<ol class="strips">{rows}</ol>'
        f'<p class="axis" aria-hidden="true"><span>0:00</span><span>{tell_time(found.seconds)}</span></p>'
        + (f"<ul>{told}</ul>" if told else "<p>Nothing is likely for long.</p>")
        + "</section>"
    )


def show_strip(found: Timeline, scores: np.ndarray) -> str:
    """A window's bar reaches halfway to the middles of its neighbours."""
    middles = found.times.mean(axis=1)
    bounds = np.concatenate(([0.0], (middles[1:] + middles[:-1]) / 2, [found.seconds]))
    widths = 100 * np.diff(bounds) / found.seconds
    return "".join(
        f'<i style="width: {width:.3f}%; height: {100 * score:.0f}%"></i>' for width, score in zip(widths, scores)
    )


def tell_time(seconds: float) -> str:
    return (
        f"{int(seconds // 60)}:{seconds % 60:04.1f}"
        if seconds < 600
        else f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    )
