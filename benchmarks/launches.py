# SPDX-License-Identifier: Apache-2.0
"""How many operations does a forward pass launch on a GPU, and how much time does the host take for them?

    python benchmarks/launches.py

A fast GPU waits for Python when it has one clip: then the number of operations counts, and the host's time for each.
Both are measured here without a GPU, for TubeViT and other models of Transformers with as many layers.

1. Launches: the operations of PyTorch that read or write memory, in bfloat16 and without a mask, as
   `launch_counter.py` counts them; views and allocations are none. The pass that is counted is a model's second: what
   does not depend on pixels was computed in its first. `at B` is the same at the width and the clips of ViT-B, and
   must be the same number. `waits`: the host waits for the GPU.
   `trained`: forward, cross-entropy and backward.
2. Host time, in float32 on one thread: models are so narrow and clips so small that arithmetic takes next to nothing,
   and all take turns. At half the width they take as long (`half as wide / it`). A training step is forward, loss,
   backward and PyTorch's AdamW, which updates one parameter after another on a CPU; the middle columns leave AdamW
   out. Ratios are taken in each round: the median, and in brackets without the tenth of the rounds at either end.

The activation is PyTorch's exact GELU everywhere: ViViT's own, the approximation in Python, launches 8 operations more
in each layer. Attention is PyTorch's fused one (`sdpa`) where Transformers has it for the model, else `eager`.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from common import describe_machine, divide, print_table, summarise, time_interleaved, training_step, write_result
from launch_counter import LaunchCounter, count_parts, describe
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging
from video_models import MODELS, OURS, build_like, random_clips

from tubevit_hf import TubeViTConfig


COMPARED = (OURS, "VideoMAE", "ViViT", "TimeSformer", "V-JEPA 2", "ViT")
BESIDE = "VideoMAE"
# the least that all tubes of Table 12 fit in; the others take two frames, which is one tubelet
IMAGE_SIZE = 32
NUM_FRAMES = 2
# of a head: the least that each model can divide among the axes of its positions is 6
HEAD_DIM = 12
PASSES = ("forward", "forward and backward", "training step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--models", nargs="+", default=COMPARED, choices=COMPARED)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--skip_b", action="store_true", help="the count at the width of B, which takes longest")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    threads = torch.get_num_threads()
    launches, parts = [], []
    for name in arguments.models:
        row, of_parts = count_launches(name, arguments.layers)
        if not arguments.skip_b:
            row["at B"] = count_at_b(name, arguments.layers)
        launches.append(row)
        parts += of_parts
    torch.set_num_threads(1)
    machine = describe_machine(torch.device("cpu"))
    counts = {row["model"]: row["launches"] for row in launches}
    times = time_host(arguments.models, arguments.layers, arguments.rounds, counts)
    torch.set_num_threads(threads)
    tables = {
        f"Launches of a forward pass, {arguments.layers} layers": launches,
        "Launches by part": parts,
        f"Host time, {arguments.layers} layers": times,
    }
    for title, rows in tables.items():
        print_table(f"{title}\n{machine['hardware']}", rows)
    write_result("launches_cpu", {"machine": machine, "tables": tables})


def tiny_config(layers: int, *, head_dim: int = HEAD_DIM) -> TubeViTConfig:
    width = 2 * head_dim
    return TubeViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        image_size=IMAGE_SIZE,
        num_labels=5,
    )


def build_tiny(name: str, config: TubeViTConfig) -> tuple[PreTrainedModel, torch.Tensor]:
    """A model and a clip, or an image, for it."""
    usual = MODELS[name][0]
    num_frames = usual if name == OURS else min(NUM_FRAMES, usual)
    return build_like(name, config, num_frames), random_clips(1, num_frames, IMAGE_SIZE)


@torch.no_grad()
def count_launches(name: str, layers: int) -> tuple[dict, list[dict]]:
    """A row for the model, and one for each of its parts."""
    model, pixel_values = build_tiny(name, tiny_config(layers))
    model, pixel_values = model.eval().to(torch.bfloat16), pixel_values.to(torch.bfloat16)
    model(pixel_values)
    with LaunchCounter() as counter, count_parts(counter, name_parts(model, layers)) as of_parts:
        model(pixel_values)
    of_parts["all else"] = left_over(counter.launches, of_parts)
    trained = count_training(model.train(), pixel_values)
    row = {
        "model": name,
        "attention": model.config._attn_implementation,
        "launches": len(counter.launches),
        **{part: len(found) for part, found in of_parts.items()},
        "waits": len(counter.waits),
        "trained": len(trained.launches),
        "waits, trained": len(trained.waits),
    }
    layer = {"a layer": of_parts["layers"][: len(of_parts["layers"]) // layers]}
    shown = {"embeddings": of_parts["embeddings"], **layer, "all else": of_parts["all else"]}
    return row, [
        {"model": name, "part": part, "launches": len(found), "operations": describe(found)}
        for part, found in shown.items()
    ]


def name_parts(model: PreTrainedModel, layers: int) -> dict[str, list[nn.Module]]:
    """The modules of the embeddings and of the layers, which all models name so."""
    embeddings = next(module for name, module in model.named_modules() if name.endswith("embeddings"))
    encoder = next(
        module
        for name, module in model.named_modules()
        if name.endswith(("layer", "layers")) and isinstance(module, nn.ModuleList) and len(module) == layers
    )
    return {"embeddings": [embeddings], "layers": list(encoder)}


def left_over(launches: list[str], of_parts: dict[str, list[str]]) -> list[str]:
    rest = list(launches)
    for found in of_parts.values():
        for name in found:
            rest.remove(name)
    return rest


@torch.enable_grad()
def count_training(model: PreTrainedModel, pixel_values: torch.Tensor) -> LaunchCounter:
    """Counts forward, loss and backward, the second time. Without `labels`, which a model may check on a CPU only."""
    for _ in range(2):
        model.zero_grad()
        with LaunchCounter() as counter:
            loss = nn.functional.cross_entropy(model(pixel_values).logits, torch.zeros(1, dtype=torch.long))
            loss.backward()
    return counter


@torch.no_grad()
def count_at_b(name: str, layers: int) -> int:
    config = TubeViTConfig.from_preset("B", num_hidden_layers=layers, num_labels=400)
    model = build_like(name, config).eval().to(torch.bfloat16)
    pixel_values = random_clips(1, MODELS[name][0], config.image_size).to(torch.bfloat16)
    for _ in range(2):
        with LaunchCounter() as counter:
            model(pixel_values)
    return len(counter.launches)


def time_host(models: list[str], layers: int, rounds: int, launches: dict[str, int]) -> list[dict]:
    functions: dict[tuple[str, str], Callable] = {}
    for name in models:
        for kind in PASSES:
            functions[name, kind] = make_pass(name, kind, tiny_config(layers))
        functions[name, "half as wide"] = make_pass(name, "forward", tiny_config(layers, head_dim=HEAD_DIM // 2))
    seconds = time_interleaved(functions, torch.device("cpu"), rounds, warm_up=3)
    rows = []
    for name in models:
        row: dict[str, object] = {"model": name}
        for kind in PASSES:
            found = seconds[name, kind]
            row[f"{kind} (ms)"] = 1e3 * summarise(found)["median"]
            if BESIDE in models:
                row[f"/ {BESIDE}: {kind}"] = show_ratio(found, seconds[BESIDE, kind])
        row["half as wide / it"] = show_ratio(seconds[name, "half as wide"], seconds[name, "forward"])
        row["us a launch"] = 1e6 * summarise(seconds[name, "forward"])["median"] / launches[name]
        rows.append(row)
    return rows


def show_ratio(ours: list[float], theirs: list[float]) -> str:
    """The median, and from where to where all but a tenth of the rounds lie at either end."""
    ratios = sorted(a / b for a, b in zip(ours, theirs))
    tenth = len(ratios) // 10
    median = divide(ours, theirs)["median"]
    return f"{median:.2f} ({ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f})"


def make_pass(name: str, kind: str, config: TubeViTConfig) -> Callable[[], object]:
    model, pixel_values = build_tiny(name, config)
    if kind == "forward":
        return torch.no_grad()(partial(model.eval(), pixel_values))
    if kind == "training step":
        return training_step(model, torch.optim.AdamW(model.parameters(), lr=1e-5), pixel_values)
    labels = torch.zeros(1, dtype=torch.long)
    model.train()

    def forward_and_backward() -> None:
        model(pixel_values, labels=labels).loss.backward()
        model.zero_grad()

    return forward_and_backward


if __name__ == "__main__":
    main()
