# SPDX-License-Identifier: Apache-2.0
"""Trials of settings by Optuna, on a budget: the defaults come first, and a search that was stopped goes on.

What a trial does is the caller's, see `held_out.py`; nothing here knows of videos.
"""

import json
import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..extras import of_extra
from ..folders import write_json
from .forecast import describe_memory, describe_time
from .trainer import TrainingDiverged


if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


STORAGE_NAME = "trials.db"
TABLE_NAME = "trials.json"
# before settings are drawn by how others did, and before a trial is given up that does worse than most
RANDOM_TRIALS = 5
UNPRUNED_TRIALS = 3
# of settings that were tried already, one after another: then there are hardly others
MAX_REPEATS = 20

Value = bool | int | float
Settings = dict[str, Any]


class OutOfTime(Exception):
    """The minutes are over; the trial that ran does not count."""


@dataclass(frozen=True)
class Budget:
    """What trials may take: as many, or as many minutes, of all starts together; whichever is over first.

    Raises:
        ValueError: there is none, or it is not above 0.
    """

    trials: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.minutes is None:
            raise ValueError("a budget needs a number of trials or minutes.")
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"--trials must be at least 1, got {self.trials}; the first is of the defaults.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"--trial-minutes must be above 0, got {self.minutes}.")


@dataclass(frozen=True)
class Setting:
    """What may be tried of a setting: yes and no, or a number of a range, in steps or as well on a logarithmic scale.

    Args:
        default: which decides whether the setting is a yes or no, a whole number or another one; in the range.
    """

    default: Value
    low: float = 0.0
    high: float = 1.0
    step: float | None = None
    log: bool = False

    def to_distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if isinstance(self.default, bool):
            return CategoricalDistribution([False, True])
        if isinstance(self.default, int):
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class HeldOut:
    """What settings are worth on videos that were held out.

    Args:
        loss: log loss, which is what decides.
        accuracy: share of them that is right; `None` where videos have several labels.
    """

    loss: float
    accuracy: float | None = None


class Attempt:
    """A trial that is under way.

    Args:
        trial: of Optuna.
        deadline: in seconds of `time.monotonic`, if there is one.
    """

    def __init__(self, trial: "Trial", deadline: float | None):
        self.trial, self.deadline = trial, deadline

    def tick(self, *_: object) -> None:
        """To be called now and then; raises [`OutOfTime`]."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime

    def report(self, step: int, loss: float) -> None:
        """How it does so far; raises `optuna.TrialPruned` if that is hopeless beside the others at that step."""
        from optuna import TrialPruned

        self.tick()
        if not math.isfinite(loss):
            raise TrialPruned
        self.trial.report(loss, step)
        if self.trial.should_prune():
            raise TrialPruned


Objective = Callable[[Settings, Attempt], HeldOut]


@dataclass(frozen=True)
class Trials:
    """What was tried, in order: of each its `settings`, `state` (`"complete"` or `"pruned"`), `loss` and `accuracy` if
    it is complete, and `seconds`. The first is that of the defaults."""

    tried: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """Of least loss, the first of equals."""
        return min((trial for trial in self.tried if trial["loss"] is not None), key=lambda trial: trial["loss"])

    @property
    def chosen(self) -> Settings:
        return self.best["settings"]

    def to_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen, "best": self.best, "defaults": self.tried[0], "tried": self.tried}


def run_trials(
    objective: Objective,
    space: Mapping[str, Setting],
    budget: Budget,
    folder: Path,
    about: Mapping[str, Any],
    seed: int = 0,
    verbose: bool = True,
) -> Trials:
    """Tries settings until the budget is used up. What was tried is kept in `folder`: an Optuna study, `trials.db`,
    and a table of it, `trials.json`. The same call goes on with those, and draws what it would have drawn.

    Args:
        objective: takes settings, and gives what they are worth.
        space: what may be tried.
        budget: after which it ends; the defaults are tried to the end whatever they take.
        folder: where the study is kept.
        about: all else that trials depend on.
        seed: of the settings that are drawn.
        verbose: whether to tell how long it takes.

    Raises:
        ValueError: the folder's trials are of other arguments or cannot be read, or no trial came to an end.
        ModuleNotFoundError: Optuna is missing.
    """
    with of_extra("tune"):
        import optuna
    from optuna.trial import TrialState

    with quiet_optuna(), opened_study(folder / STORAGE_NAME, space, about) as study:
        if study.user_attrs.get("ended") == asdict(budget):
            return read_trials(study)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            # of a run that was killed: it begins anew
            study.tell(trial.number, state=TrialState.FAIL)
        distributions = {name: setting.to_distribution() for name, setting in space.items()}
        defaults = {name: setting.default for name, setting in space.items()}
        with tqdm(total=budget.trials, desc="Trials", unit="trial", disable=None) as bar:
            bar.update(len(list_tried(study)))
            while not is_over(study, budget):
                ended = list_ended(study)
                if not ended and not study.get_trials(states=(TrialState.WAITING,)):
                    study.enqueue_trial(defaults)
                # seeded by how many there were, so that a second start draws what the first would have
                study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed + len(ended))
                trial = study.ask(distributions)
                settings = {name: shorten(value) for name, value in trial.params.items()} if ended else defaults
                trial.set_user_attr("settings", settings)
                if repeat(study, trial, ended):
                    continue
                deadline = None
                if ended and budget.minutes is not None:
                    deadline = time.monotonic() + 60 * budget.minutes - seconds_of(study)
                if not attempt(objective, study, trial, settings, deadline):
                    break
                bar.update()
                write_json(folder / TABLE_NAME, {"tried": describe_tried(study)})
                if verbose and not ended:
                    foretell(budget, seconds_of(study))
        found = read_trials(study)
        write_json(folder / TABLE_NAME, found.to_dict())
        study.set_user_attr("ended", asdict(budget))
    return found


def attempt(objective: Objective, study: "Study", trial: "Trial", settings: Settings, deadline: float | None) -> bool:
    """Whether a trial came to its end, or was given up, before the minutes were over."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    began, held_out = time.monotonic(), None
    try:
        held_out = objective(settings, Attempt(trial, deadline))
    except OutOfTime:
        study.tell(trial, state=TrialState.FAIL)
        return False
    except (TrialPruned, TrainingDiverged):
        pass
    trial.set_user_attr("seconds", time.monotonic() - began)
    if held_out is None or not math.isfinite(held_out.loss):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        trial.set_user_attr("accuracy", held_out.accuracy)
        study.tell(trial, held_out.loss)
    return True


def repeat(study: "Study", trial: "Trial", ended: list["FrozenTrial"]) -> bool:
    """Whether the settings were tried before; then they end as they did."""
    before = next((other for other in ended if other.user_attrs["settings"] == trial.user_attrs["settings"]), None)
    if before is None:
        return False
    trial.set_user_attr("repeats", before.number)
    # Optuna takes the last report of one that was given up for its value
    study.tell(trial, loss_of(before), state=before.state)
    return True


def loss_of(trial: "FrozenTrial") -> float | None:
    """Of a complete trial."""
    return trial.value if trial.state.name == "COMPLETE" else None


def list_ended(study: "Study") -> list["FrozenTrial"]:
    """Those that are complete or were given up, repetitions included."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def list_tried(study: "Study") -> list["FrozenTrial"]:
    return [trial for trial in list_ended(study) if "repeats" not in trial.user_attrs]


def seconds_of(study: "Study") -> float:
    return sum(trial.user_attrs["seconds"] for trial in list_tried(study))


def is_over(study: "Study", budget: Budget) -> bool:
    tried, last = list_tried(study), list_ended(study)[-MAX_REPEATS:]
    if budget.trials is not None and len(tried) >= budget.trials:
        return True
    if budget.minutes is not None and tried and seconds_of(study) >= 60 * budget.minutes:
        return True
    return len(last) == MAX_REPEATS and all("repeats" in trial.user_attrs for trial in last)


def read_trials(study: "Study") -> Trials:
    tried = describe_tried(study)
    if all(trial["loss"] is None for trial in tried):
        raise ValueError(
            f"none of {len(tried)} trials came to an end, those of the defaults included: the loss was no longer "
            "finite. Lower the learning rate."
        )
    return Trials(tried)


def describe_tried(study: "Study") -> list[dict[str, Any]]:
    return [
        {
            "settings": trial.user_attrs["settings"],
            "state": trial.state.name.lower(),
            "loss": loss_of(trial),
            "accuracy": trial.user_attrs.get("accuracy"),
            "seconds": trial.user_attrs["seconds"],
        }
        for trial in list_tried(study)
    ]


def shorten(value: Value) -> Value:
    """As somebody would type it."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def show_trials(trials: Trials) -> None:
    """A table, the best first, and what the best would be as arguments."""
    from ..tables import PlainConsole, PlainTable

    console = PlainConsole(soft_wrap=True)
    best, defaults = trials.best, trials.tried[0]
    table = PlainTable("trial", "log loss", "right", "time", "settings", title="On training videos that were held out")
    ranked = sorted(enumerate(trials.tried), key=lambda pair: math.inf if pair[1]["loss"] is None else pair[1]["loss"])
    for number, trial in ranked:
        table.add_row(
            "defaults" if number == 0 else str(number),
            "given up" if trial["loss"] is None else f"{trial['loss']:.3f}",
            "" if trial["accuracy"] is None else f"{trial['accuracy']:.1%}",
            describe_time(trial["seconds"]),
            to_arguments(trial["settings"]),
        )
    console.print(table)
    if best is defaults:
        console.print("Of these the defaults are best, and stay.")
    else:
        console.print(f"Chosen: {to_arguments(best['settings'])}")


def to_arguments(settings: Settings) -> str:
    """As a user would give them to `tubevit train`."""
    words = [
        ("--mirror" if value else "--no-mirror") if name == "horizontal_flip" else f"--{name} {value}"
        for name, value in settings.items()
    ]
    return " ".join(words)


def foretell(budget: Budget, seconds: float) -> None:
    """A line, once it is known what a trial takes."""
    if budget.trials == 1:
        return
    limit = math.inf if budget.minutes is None else 60 * budget.minutes
    number = math.inf if budget.trials is None else budget.trials
    if number * seconds <= limit:
        print(f"{number} trials, about {describe_time(number * seconds)}, {describe_memory()}", flush=True)
    else:
        fit = max(1, int(limit // seconds))
        print(f"About {fit} trial(s) in {budget.minutes:g} minutes, {describe_memory()}", flush=True)


@contextmanager
def quiet_optuna() -> Generator[None, None, None]:
    """Without a line for each trial, and without its warnings of what is experimental."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)


@contextmanager
def opened_study(path: Path, space: Mapping[str, Setting], about: Mapping[str, Any]) -> Generator["Study", None, None]:
    """The study of a folder, which is begun if there is none.

    Raises:
        ValueError: it cannot be read, or is of another search.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    path.parent.mkdir(parents=True, exist_ok=True)
    about = json.loads(json.dumps({**about, "space": {name: asdict(one) for name, one in space.items()}}, default=str))
    try:
        # by a connection of our own, since not every path makes an address
        storage = optuna.storages.RDBStorage(
            "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(path, check_same_thread=False)}
        )
        # what is hopeless is worse than the median of the others at the same share of a trial
        pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS)
        study = optuna.create_study(
            storage=storage, study_name="tubevit", pruner=pruner, direction="minimize", load_if_exists=True
        )
    except SQLAlchemyError as error:
        raise ValueError(f"{path}: its trials cannot be read ({error.__cause__}). Remove it to begin anew.") from error
    try:
        before = study.user_attrs.setdefault("about", about)
        if other := sorted(name for name in {*before, *about} if before.get(name) != about.get(name)):
            raise ValueError(
                f"{path} holds trials of another {', another '.join(other)}. Remove it to begin anew, or choose "
                "another folder by --out."
            )
        study.set_user_attr("about", about)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()
