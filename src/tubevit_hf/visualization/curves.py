# SPDX-License-Identifier: Apache-2.0
"""How a training went."""

from collections.abc import Sequence

from matplotlib.figure import Figure


# what the Trainer logs, by the panel that shows it
PANELS = {
    "loss": ("loss", "eval_loss"),
    "accuracy": (
        "eval_top_1_accuracy",
        "eval_top_5_accuracy",
        "eval_mean_class_accuracy",
        "eval_mean_average_precision",
    ),
    "explained variance": ("eval_explained", "eval_explained_mean", "eval_explained_change"),
    "variety of tokens": ("eval_token_variety",),
    "learning rate": ("learning_rate",),
    "clips a second": ("clips_per_second",),
    "share of time waiting for data": ("waiting_for_data",),
}


def draw_curves(log_history: Sequence[dict[str, float]]) -> Figure:
    """A panel for each quantity, over optimizer steps.

    Args:
        log_history: `trainer.state.log_history`, also that of a `trainer_state.json`.
    """
    curves = {
        name: [(entry["step"], entry[name]) for entry in log_history if name in entry]
        for name in sum(PANELS.values(), ())
    }
    shown = {title: [name for name in names if curves[name]] for title, names in PANELS.items()}
    shown = {title: names for title, names in shown.items() if names}
    figure = Figure(figsize=(3.2 * max(1, len(shown)), 2.8), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown.items()):
        for name in names:
            axes.plot(*zip(*curves[name]), marker=".", label=name)
        axes.set(title=title, xlabel="step")
        values = [value for name in names for _, value in curves[name]]
        axes.set_ylim(min(0, 1.1 * min(values)), 1.1 * max(values) if max(values) > 0 else 1)
        if len(names) > 1:
            axes.legend(fontsize=7)
    return figure
