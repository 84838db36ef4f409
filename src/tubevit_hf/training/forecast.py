# SPDX-License-Identifier: Apache-2.0
"""How long a run will take and what memory it needs, said once after its first steps."""

import time

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..machine import peak_memory


# after so many, the first aside, which loads and warms up
STEPS = 5
CLIPS = 24


class Forecast:
    """Told after each step how many are done, of how many; prints a line once it can tell how long the rest takes.
    Where the count begins anew, so does the forecast.

    Args:
        what: the steps are called.
        after: so many steps.
        note: at the end of the line.
    """

    def __init__(self, what: str, after: int, note: str = ""):
        self.what, self.after, self.note = what, after, note
        self.began: float | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.began is None or done <= self.first:
            self.began, self.first = time.perf_counter(), done
        elif done - self.first == self.after and done < total:
            seconds = (time.perf_counter() - self.began) / self.after * (total - done)
            print(
                f"{total:,} {self.what}, about {describe_time(seconds)}, {describe_memory()}{self.note}",
                flush=True,
            )


class ForecastCallback(TrainerCallback):
    """A [`Forecast`] of the steps of a Trainer, evaluations aside.

    Args:
        may_stop: whether it may end sooner.
    """

    def __init__(self, may_stop: bool) -> None:
        note = "; it ends sooner where validation no longer gains" if may_stop else ""
        self.forecast = Forecast("steps", STEPS, note)
        self.begin = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.begin = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.is_world_process_zero:
            self.forecast(state.global_step - self.begin, state.max_steps - self.begin)


def describe_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def describe_memory() -> str:
    """The most that this process has had so far; on a GPU what PyTorch has had there."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return f"{allocated / 2**20:,.0f} MiB"
    peak = peak_memory()
    return "memory unknown" if peak is None else f"{peak:,.0f} MiB"
