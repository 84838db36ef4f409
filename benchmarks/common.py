# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What the benchmarks share: hardware's name, fair timing, and results as JSON beside a printed table."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table


RESULTS = Path(__file__).with_name("results")


def describe_machine(device: torch.device) -> dict[str, str]:
    """Name of the processor that was measured, with the versions that matter."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        capabilities = torch.cpu.get_capabilities()
        matrix_units = [name for name in ("amx_bf16", "avx512_bf16") if capabilities.get(name)]
        name = capabilities.get("cpu_name", platform.processor())
        hardware = f"{name}, {torch.get_num_threads()} threads, {', '.join(matrix_units) or 'no bfloat16 units'}"
    return {"hardware": hardware, "torch": torch.__version__, "transformers": transformers.__version__}


def time_interleaved(functions: dict[str, Callable], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each function in each round. All take turns, so that a busy machine slows them alike."""
    seconds = {name: [] for name in functions}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            # the first round warms up
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(name: str, title: str, machine: dict[str, str], rows: list[dict]) -> None:
    """Prints the rows as a table and writes them to `results/NAME.json`."""
    table = Table(*rows[0], title=f"{title}\n{machine['hardware']}")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"title": title, "machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"written to {path}")
