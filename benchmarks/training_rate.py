# SPDX-License-Identifier: Apache-2.0
"""What share of the hardware's rate does training reach, and how much memory does it take, beside what `tubevit plan`
works out?

    python benchmarks/training_rate.py --recipes k400-b ssv2-l --batch 32

A step is the Trainer's under `--bf16 True`: forward and loss under bfloat16 autocast, backward, AdamW (fused on a GPU)
of clips that are there already. Eager and compiled take turns. Operations are counted from the configuration, three
forward passes a step; the hardware's rate is that of its own best matrix product of bfloat16, measured in the same
process. Memory (on a GPU) is the peak of the eager steps, in a process of its own, beside what the plan says is taken
at least. A batch for which memory does not suffice is left out; an interrupted run goes on where it was.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import (
    Runs,
    autocast_step,
    best_rate,
    describe_machine,
    in_a_new_process,
    matrix_products,
    report,
    summarise,
    time_interleaved,
)

from tubevit_hf.evaluation import count_flops
from tubevit_hf.training.planning import DATASETS, TRAINING_PASSES, find_recipe, make_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", help="default: k400-b and k400-l on a GPU, k400-b on a CPU")
    parser.add_argument("--batch", type=int, nargs="+", help="clips a step; default: 32 and 128 on a GPU, 1 on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, default=Path("build/training_rate"), help="what is finished")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    recipes = arguments.recipes or (["k400-b", "k400-l"] if on_gpu else ["k400-b"])
    runs = Runs(arguments.folder / f"{device.type}.json")
    rows = []
    for recipe in recipes:
        for batch in arguments.batch or ([32, 128] if on_gpu else [1]):
            rows += runs.get(f"{recipe} {batch}", partial(measure, recipe, batch, device, arguments.rounds))
    title = "Training steps, bfloat16 autocast, on clips that are there already"
    report(f"training_rate_{device.type}", title, describe_machine(device), rows)
    # the next run measures anew
    runs.path.unlink()


def measure(recipe: str, batch: int, device: torch.device, rounds: int) -> list[dict]:
    print(f"{recipe}, {batch} clips a step", flush=True)
    try:
        eager, compiled = in_a_new_process(time_steps, recipe, batch, device, rounds)
        if device.type == "cuda":
            eager |= in_a_new_process(compare_memory, recipe, batch, device)
    except torch.OutOfMemoryError:
        return [{"recipe": recipe, "clips a step": batch, "step": "too little memory"}]
    return [eager, compiled]


def time_steps(recipe: str, batch: int, device: torch.device, rounds: int) -> list[dict]:
    config = find_recipe(recipe).make_config(num_labels=DATASETS[recipe.split("-")[0]][1])
    flops = TRAINING_PASSES * batch * sum(count_flops(config).values())
    products = matrix_products(device)
    steps = {way: make_step(recipe, batch, device, way == "compiled") for way in ("eager", "compiled")}
    seconds = time_interleaved({**products, **steps}, device, rounds, warm_up=3)
    rate = best_rate(seconds, products)
    rows = []
    for way in steps:
        rates = summarise([flops / found for found in seconds[way]])
        rows.append(
            {
                "recipe": recipe,
                "tokens": config.num_tokens(),
                "clips a step": batch,
                "step": way,
                "ms": 1e3 * summarise(seconds[way])["median"],
                "clips a second": batch * rates["median"] / flops,
                "TFLOP/s": rates["median"] / 1e12,
                "of a matrix product's (%)": 100 * rates["median"] / rate,
                "from": 100 * rates["min"] / rate,
                "to": 100 * rates["max"] / rate,
                "a matrix product's TFLOP/s": rate / 1e12,
            }
        )
    return rows


def make_step(recipe: str, batch: int, device: torch.device, compiled: bool) -> Callable[[], None]:
    config = find_recipe(recipe).make_config(num_labels=DATASETS[recipe.split("-")[0]][1])
    return autocast_step(config, batch, device, compiled)


def compare_memory(recipe: str, batch: int, device: torch.device) -> dict:
    step = make_step(recipe, batch, device, compiled=False)
    for _ in range(2):
        step()
    plan = make_plan(recipe, num_gpus=1, teraflops=1.0, share=1.0)
    taken, planned = torch.cuda.max_memory_allocated(device), plan.state_bytes + batch * plan.activation_bytes
    return {"peak (GiB)": taken / 2**30, "planned, at least": planned / 2**30, "peak / planned": taken / planned}


if __name__ == "__main__":
    main()
