# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: hardware's name, fair timing, memory, training, and results as JSON beside a table."""

import json
import multiprocessing
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from accelerate.utils import send_to_device
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm.auto import trange
from transformers import get_cosine_schedule_with_warmup

from tubevit_hf import TubeViTConfig
from tubevit_hf.evaluation import count_flops
from tubevit_hf.model.number_types_tubevit import BFLOAT16_UNITS


RESULTS = Path(__file__).with_name("results")
BATCH_SIZE = 32
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
SEEDS = (0, 1, 2)
TUNING_SEED = 100

ResultT = TypeVar("ResultT")


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name of the processor that was measured, with the versions that matter."""
    flags = {}
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        capabilities = torch.cpu.get_capabilities()
        flags = {"flags": " ".join(name for name, value in capabilities.items() if value is True)}
        matrix_units = [name for name in BFLOAT16_UNITS if capabilities.get(name)]
        name = capabilities.get("cpu_name", platform.processor())
        hardware = f"{name}, {torch.get_num_threads()} threads, {', '.join(matrix_units) or 'no bfloat16 units'}"
    return {"hardware": hardware, **flags, "torch": torch.__version__, "transformers": transformers.__version__}


def time_interleaved(
    functions: dict[str, Callable], device: torch.device, rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each function in each round. All take turns, so that a busy machine slows them alike.

    Args:
        functions: by name.
        device: waited for.
        rounds: that are counted.
        warm_up: rounds before them.
    """
    seconds = {name: [] for name in functions}
    for round_number in range(warm_up + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def count_clip(config: TubeViTConfig) -> dict[str, float]:
    """Tokens and operations of a clip of the model's own size."""
    return {"tokens": config.num_tokens(), "GFLOPs": sum(count_flops(config).values()) / 1e9}


def divide(ours: list[float] | None, theirs: list[float] | None) -> dict[str, float] | None:
    """The ratio in each round, summarised; `None` if one was not measured."""
    return summarise([a / b for a, b in zip(ours, theirs)]) if ours and theirs else None


def run_git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    ).stdout.strip()


def in_a_new_process(function: Callable[..., ResultT], *arguments: object) -> ResultT:
    usual = multiprocessing.get_start_method()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_as, (usual,)) as pool:
        return pool.submit(function, *arguments).result()


def start_as(method: str) -> None:
    """Processes that this one starts in turn, such as workers, start as a user's do, and need not import all again."""
    multiprocessing.set_start_method(method, force=True)


def peak_memory() -> float:
    """Of this process so far, in MiB (Linux)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, pixel_values: torch.Tensor
) -> Callable[[], None]:
    """A function that trains a classifier for a step, always on the same clips, which are all of class 0."""
    labels = torch.zeros(len(pixel_values), dtype=torch.long, device=pixel_values.device)
    model.train()

    def step() -> None:
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def train(
    model: nn.Module,
    draw_batch: Callable[[], dict],
    steps: int,
    learning_rate: float,
    description: str,
    *,
    rates: dict[str, float] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Trains what is not frozen, with AdamW, a cosine schedule and bfloat16.

    Args:
        model: a classifier.
        draw_batch: gives the model's next arguments, `pixel_values` and `labels` among them.
        steps: number of them.
        learning_rate: its highest; a tenth of the steps warms up.
        description: beside the progress bar.
        rates: factors on the learning rate of parameters, by the end of their names.
        after_step: called with the number of finished steps.
    """
    model.train()
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next((rate for end, rate in (rates or {}).items() if name.endswith(end)), 1.0)
            groups.setdefault(rate, []).append(parameter)
    parameters = [parameter for group in groups.values() for parameter in group]
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate * learning_rate} for rate, group in groups.items()], weight_decay=0.05
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    for step in trange(steps, desc=description, disable=None):
        batch = send_to_device(draw_batch(), model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if after_step is not None:
            after_step(step + 1)


@torch.no_grad()
def evaluate(model: nn.Module, pixel_values: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy in percent."""
    model.eval()
    correct = 0
    for batch, expected in zip(pixel_values.split(BATCH_SIZE), labels.split(BATCH_SIZE)):
        with torch.autocast(model.device.type, torch.bfloat16):
            predicted = model(batch.to(model.device)).logits.argmax(dim=-1)
        correct += (predicted.cpu() == expected).sum().item()
    return 100 * correct / len(labels)


class Runs:
    """Results of finished runs, kept in a file: the same command goes on where it was."""

    def __init__(self, path: Path):
        self.path = path

    def get(self, key: str, run: Callable[[], dict]) -> dict:
        finished = json.loads(self.path.read_text()) if self.path.exists() else {}
        if key not in finished:
            finished[key] = run()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(finished, indent=2))
            unfinished.replace(self.path)
        return finished[key]


def choose_rate(run: Callable[[float, int, str], dict]) -> float:
    """The learning rate with the highest accuracy on validation clips: every model gets the same number of trials.

    Args:
        run: gives `{"accuracy": ...}` for a learning rate, a seed and a split.
    """
    accuracies = {rate: run(rate, TUNING_SEED, "validation")["accuracy"] for rate in LEARNING_RATES}
    return max(accuracies, key=accuracies.get)


def compare_seeds(runs: list[dict]) -> dict:
    """Columns of a table: the median accuracy, and each."""
    accuracies = [run["accuracy"] for run in runs]
    each = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
    return {"accuracy (%)": statistics.median(accuracies), "each seed": each}


def draw_bars(rows: list[dict], name: str, title: str, chance: float) -> Figure:
    """A bar for the median of each row of [`compare_seeds`], a dot for each seed.

    Args:
        rows: of the table.
        name: column with the bars' names.
        title: above.
        chance: accuracy of guessing, in percent.
    """
    figure = Figure(figsize=(8, 1 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row["accuracy (%)"] for row in rows], color="tab:blue", alpha=0.4)
    for place, row in enumerate(rows):
        seeds = [float(accuracy) for accuracy in row["each seed"].split(", ")]
        axes.plot(seeds, [place] * len(seeds), "o", color="tab:blue", markersize=4)
    axes.axvline(chance, color="black", linestyle=":")
    axes.set_yticks(places, [row[name] for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="accuracy (%); dotted: chance")
    figure.suptitle(title)
    return figure


def report(name: str, title: str, machine: dict[str, str], rows: list[dict]) -> None:
    """Prints the rows as a table and writes them to `results/NAME.json`."""
    print_table(f"{title}\n{machine['hardware']}", rows)
    write_result(name, {"title": title, "machine": machine, "rows": rows})


def print_table(title: str, rows: list[dict]) -> None:
    """A column for each key of any row; what a row lacks stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(format_value(row.get(column)) for column in columns))
    Console().print(table)


def format_value(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_result(name: str, result: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")
