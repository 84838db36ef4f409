# SPDX-License-Identifier: Apache-2.0
"""What a model sees over the time of a long video."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..model.video_sources_tubevit import printable


def draw_timeline(
    times: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    segments: Sequence[tuple[float, float, str, float]] = (),
    num_labels: int = 12,
) -> Figure:
    """A row for each class, as dark as it is likely; what was found in it is framed.

    Args:
        times: start and end of each window, `(windows, 2)`, in seconds.
        scores: probabilities of the classes in each, `(windows, labels)`. Windows of NaN are left white.
        labels: names of the classes.
        segments: start, end, label and score of each.
        num_labels: rows at most, for the classes that are the most likely anywhere.
    """
    highest = np.nan_to_num(scores).max(axis=0)
    shown = np.sort(np.argsort(-highest, kind="stable")[:num_labels])
    middles = times.mean(axis=1)
    bounds = np.concatenate((times[:1, 0], (middles[1:] + middles[:-1]) / 2, times[-1:, 1]))
    figure = Figure(figsize=(10, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(shown) + 1) - 0.5
    image = axes.pcolormesh(bounds, places, scores[:, shown].T, cmap="Blues", vmin=0, vmax=1, rasterized=True)
    rows = {labels[index]: row for row, index in enumerate(shown)}
    for start, end, label, _ in segments:
        if label in rows:
            axes.broken_barh(
                [(start, end - start)], (rows[label] - 0.45, 0.9), facecolor="none", edgecolor="tab:orange"
            )
    axes.set_yticks(range(len(shown)), list(map(printable, rows)), fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="probability")
    return figure
