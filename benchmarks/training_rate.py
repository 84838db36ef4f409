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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from common import Runs, describe_machine, in_a_new_process, report, summarise, time_interleaved
from torch import nn
from transformers import set_seed

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.evaluation import count_flops
from tubevit_hf.training.planning import DATASETS, TRAINING_PASSES, find_recipe, make_plan


# of the square matrices whose product tells the rate
SIDES = {"cuda": (4096, 8192), "cpu": (1024, 2048)}
WAYS = ("eager", "compiled")


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
        rows = in_a_new_process(time_steps, configure(recipe), batch, device, rounds)
        if device.type == "cuda":
            rows[0] |= in_a_new_process(compare_memory, recipe, batch, device)
    except torch.OutOfMemoryError:
        return [{"recipe": recipe, "clips a step": batch, "step": "too little memory"}]
    return [{"recipe": recipe, **row} for row in rows]


def configure(recipe: str) -> TubeViTConfig:
    return find_recipe(recipe).make_config(num_labels=DATASETS[recipe.split("-")[0]][1])


def time_steps(
    config: TubeViTConfig,
    batch: int,
    device: torch.device,
    rounds: int,
    *,
    ways: Sequence[str] = WAYS,
    backend: str = "inductor",
) -> list[dict]:
    """A row for each way, all of which take turns with the matrix products."""
    flops = TRAINING_PASSES * batch * sum(count_flops(config).values())
    products = {side: partial(multiply, *make_matrices(side, device)) for side in SIDES[device.type]}
    steps = {way: make_step(config, batch, device, backend if way == "compiled" else None) for way in ways}
    seconds = time_interleaved({**products, **steps}, device, rounds, warm_up=3)
    rate = max(2 * side**3 / min(seconds[side]) for side in products)
    rows = []
    for way in steps:
        rates = summarise([flops / found for found in seconds[way]])
        rows.append(
            {
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


def make_matrices(side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    left, right = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    return left, right, torch.empty_like(left)


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(left, right, out=out)


def make_step(config: TubeViTConfig, batch: int, device: torch.device, backend: str | None) -> Callable[[], None]:
    """Eager without a backend."""
    set_seed(0)
    model: nn.Module = TubeViTForVideoClassification(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    if backend is not None:
        model = torch.compile(model, backend=backend)
    num_frames, height, width = config.native_size
    clips = torch.randn(batch, num_frames, config.num_channels, height, width, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(clips, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare_memory(recipe: str, batch: int, device: torch.device) -> dict:
    step = make_step(configure(recipe), batch, device, backend=None)
    for _ in range(2):
        step()
    plan = make_plan(recipe, num_gpus=1, teraflops=1.0, share=1.0)
    taken, planned = torch.cuda.max_memory_allocated(device), plan.state_bytes + batch * plan.activation_bytes
    return {"peak (GiB)": taken / 2**30, "planned, at least": planned / 2**30, "peak / planned": taken / planned}


if __name__ == "__main__":
    main()
