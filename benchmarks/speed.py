# SPDX-License-Identifier: Apache-2.0
"""What does TubeViT cost beside the other video Transformers of Transformers, and how far is it from the hardware?

    make bench
    python benchmarks/speed.py --sizes S B

All models are as wide and deep as each other, have random weights and 400 classes, and see 224x224 pixels; the
activation is PyTorch's exact GELU everywhere. Each has the number of frames it is known for, VideoMAE 32 as well.
V-JEPA 2 is without its predictor, which no classifier calls, and VideoPrism has its four temporal layers on top.
Attention is PyTorch's fused one (`sdpa`) where Transformers has it for the model, and `eager` where it has not.

1. Forward passes, eager and compiled, in float32, bfloat16 where the hardware multiplies it, and int8 (torchao's
   dynamic activations and weights; compiled only, for it is slow without). A case is one process in which all models
   take turns; the ratio of two models is taken in each round. A CPU compiles the headline size only, and has fewer
   models in all cases but one.
2. A training step in float32: forward, loss, backward and AdamW. Its peak of memory is measured in processes of their
   own: how far building the model and two steps raise it (Linux; of the device where it is a GPU). On a CPU also with
   an allocator that gives freed blocks back (`in use`): as it comes, glibc holds holes between blocks of up to 32 MiB.
3. The bound of our forward pass: its matrix products, attentions, layer norms, GELUs and residual additions, each run
   alone at its shape and as often, with weights of their own, and summed. Compiled code may fuse the last three.
   `tokenizer`: what the embeddings take of the eager forward pass, positions included.
4. A clip of 128 frames against one of 32 with as many tokens, of patches and of tubes that overlap less.

A case for which memory does not suffice is left out, and the table says so. Writes tables as JSON, a picture, and a
row of `results/speed_history.csv` if the headline size was measured. `--folder` keeps the finished cases until all
are, so that an interrupted run goes on where it was.
"""

import argparse
import csv
import ctypes
import datetime
import re
import resource
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from math import prod
from pathlib import Path

import torch
from common import (
    RESULTS,
    Runs,
    describe_machine,
    divide,
    in_a_new_process,
    peak_memory,
    print_table,
    run_git,
    summarise,
    time_interleaved,
    training_step,
    write_result,
)
from matplotlib.figure import Figure
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
from transformers import PreTrainedModel
from transformers.utils import logging
from video_models import MODELS, OURS, build_like, random_clips

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.evaluation import count_flops
from tubevit_hf.model.number_types_tubevit import has_bfloat16_units
from tubevit_hf.training.recipes import RECIPES


HEADLINE = "B"
NUM_LABELS = 400
IMAGE_SIZE = 224
NO_ROOM = "too little memory"
# glibc's `mallopt`: each block of this many bytes or more is mapped by itself, and given back when it is freed
M_MMAP_THRESHOLD, GIVE_BACK = -3, 2**16
# as many tokens in 32 frames as the recipe's tubes in 128
TUBES_OF_32_FRAMES = [
    {"kernel_size": [1, 16, 16], "stride": [4, 16, 16]},
    {"kernel_size": [4, 16, 16], "stride": [4, 32, 32]},
    {"kernel_size": [4, 32, 32], "stride": [4, 32, 32], "offset": [0, 16, 16]},
]


# an image ViT has no frames
COMPARED = tuple(name for name, (num_frames, _) in MODELS.items() if num_frames)
NEAREST = (OURS, "ViViT", "VideoMAE")


@dataclass(frozen=True)
class Case:
    """Models that take turns on a CPU; a GPU has the time for all."""

    models: tuple[str, ...]
    batch: int
    compiled: bool = False


FORWARDS = {
    "forward": Case(COMPARED, 1),
    "forward, batch 8": Case((OURS, "VideoMAE"), 8),
    "forward compiled": Case(NEAREST, 1, compiled=True),
}
TRAININGS = {
    "training step": Case(NEAREST, 1),
    "training step, batch 8": Case((OURS, "VideoMAE"), 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", nargs="+", help="default: S B on a CPU, Ti S B L on a GPU")
    parser.add_argument("--rounds", type=int, default=5, help="half as many of batch 8 and of training")
    parser.add_argument(
        "--skip_compiled", action="store_true", help="the compiled models beside ours, which take minutes to compile"
    )
    parser.add_argument("--folder", type=Path, default=Path("build/speed"), help="finished cases")
    arguments = parser.parse_args()
    device, rounds = arguments.device, arguments.rounds
    sizes = arguments.sizes or (["S", "B"] if device == "cpu" else ["Ti", "S", "B", "L"])
    commit = run_git("describe", "--always", "--dirty", "--exclude", "*")
    runs = Runs(arguments.folder / f"{device.replace(':', '_')}_{commit}.json")

    def measure(key: str, function: Callable[..., list[dict]], *settings: object) -> list[dict]:
        return runs.get(key, partial(run_case, key, function, *settings))

    tables = measure_tables(measure, sizes, device, rounds, arguments.skip_compiled)
    machine = {**describe_machine(torch.device(device)), "torchao": version("torchao"), "commit": commit}
    for title, rows in tables.items():
        print_table(f"{title}\n{machine['hardware']}", rows)
    name = f"speed_{torch.device(device).type}"
    write_result(name, {"machine": machine, "tables": tables})
    draw(tables["Forward passes"], machine).savefig(RESULTS / f"{name}.png", dpi=120)
    if HEADLINE in sizes:
        append_history(machine, tables)
    # the next run measures anew
    runs.path.unlink()


def measure_tables(
    measure: Callable, sizes: list[str], device: str, rounds: int, skip_compiled: bool
) -> dict[str, list[dict]]:
    on_cpu = torch.device(device).type == "cpu"
    models, forwards, trainings, bounds = [], [], [], []
    for size in sizes:
        models += measure(f"{size}: models", describe_models, size)
        for name, case in choose_models(FORWARDS, on_cpu).items():
            if not case.compiled or (not skip_compiled and (size == HEADLINE or not on_cpu)):
                forwards += measure(f"{size}: {name}", time_forwards, size, case, device, rounds)
        for name, case in choose_models(TRAININGS, on_cpu).items():
            trainings += measure_training(measure, f"{size}: {name}", size, case, device, rounds)
        bounds += measure(f"{size}: bound", measure_bound, size, device, rounds)
    return {
        "Models": models,
        "Forward passes": forwards,
        "Training steps": trainings,
        "The bound of our forward pass": bounds,
        "Longer clips, as many tokens": measure("clips", compare_lengths, device, rounds),
    }


def choose_models(cases: dict[str, Case], on_cpu: bool) -> dict[str, Case]:
    return cases if on_cpu else {name: replace(case, models=COMPARED) for name, case in cases.items()}


def run_case(key: str, function: Callable[..., list[dict]], *settings: object) -> list[dict]:
    """Rows of a case, measured in a new process; it may be killed for the memory it takes."""
    print(key, flush=True)
    try:
        return in_a_new_process(start_case, function, *settings)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return [{"case": key, "ms": NO_ROOM}]


def lacks_memory(error: Exception) -> bool:
    # CPUs and GPUs have no common error of their own, and a process that is killed says nothing
    return isinstance(error, (MemoryError, BrokenProcessPool)) or "memory" in str(error)


def start_case(function: Callable[..., list[dict]], *settings: object) -> list[dict]:
    logging.set_verbosity_error()
    # CUDA reserves more than it uses
    if not torch.cuda.is_available():
        limit_memory()
    # the models share a function of Transformers, which is compiled anew for each
    torch._dynamo.config.recompile_limit = 64
    return function(*settings)


def limit_memory() -> None:
    """Lets this process allocate what the machine has free now: beyond, an error says so, and nothing is killed."""
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]
    resource.setrlimit(resource.RLIMIT_DATA, (int(available) * 2**10,) * 2)


def first_run(make: Callable[[], Callable[[], object]]) -> Callable[[], object] | None:
    """What `make` gives, after it has run once; `None` if memory does not suffice."""
    try:
        function = make()
        function()
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        return None
    return function


def build(name: str, size: str, device: str) -> PreTrainedModel:
    return build_like(name, TubeViTConfig.from_preset(size, num_labels=NUM_LABELS)).to(device)


def make_clips(batch: int, num_frames: int, device: str) -> torch.Tensor:
    return random_clips(batch, num_frames, IMAGE_SIZE, device)


def precisions(device: str) -> tuple[str, ...]:
    """Those that the hardware computes with; bfloat16 that is emulated would be slower than float32."""
    return ("float32", "bfloat16") if has_bfloat16_units(torch.device(device)) else ("float32",)


@torch.no_grad()
def describe_models(size: str) -> list[dict]:
    rows = []
    for name in COMPARED:
        num_frames = MODELS[name][0]
        model = build(name, size, "cpu").eval().requires_grad_(False).to("meta")
        pixel_values = make_clips(1, num_frames, "meta")
        # fused attention on a CPU is not counted
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            hidden_states = model(pixel_values, output_hidden_states=True).hidden_states
        rows.append(
            {
                "size": size,
                "model": name,
                "frames": num_frames,
                "tokens": hidden_states[0].numel() // model.config.hidden_size,
                "M parameters": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
                "GFLOPs": counter.get_total_flops() / 1e9,
                "attention": model.config._attn_implementation,
            }
        )
    ours = sum(count_flops(TubeViTConfig.from_preset(size, num_labels=NUM_LABELS)).values()) / 1e9
    assert abs(rows[0]["GFLOPs"] / ours - 1) < 0.01, (rows[0]["GFLOPs"], ours)
    return rows


@torch.no_grad()
def time_forwards(size: str, case: Case, device: str, rounds: int) -> list[dict]:
    keys = [
        (precision, name)
        for precision in (*precisions(device), *(["int8"] if case.compiled else []))
        for name in case.models
    ]
    forwards = {
        key: first_run(partial(make_forward, key[1], size, case.batch, device, key[0], case.compiled)) for key in keys
    }
    seconds = time_fitting(forwards, device, rounds if case.batch == 1 else fewer(rounds))
    rows = []
    for (precision, name), times in seconds.items():
        row = {"size": size, "forward": "compiled" if case.compiled else "eager", "precision": precision}
        row |= {"batch": case.batch, "model": name, **compare(times, seconds[precision, OURS])}
        gain = divide(seconds["float32", name], times)
        rows.append({**row, "float32 / it": gain["median"] if gain else None})
    return rows


def make_forward(name: str, size: str, batch: int, device: str, precision: str, compiled: bool) -> Callable:
    # int8 is fastest over float32 on a CPU and over bfloat16 on a GPU
    dtype = torch.bfloat16 if precision == "bfloat16" or (precision == "int8" and device != "cpu") else torch.float32
    model = build(name, size, device).eval().to(dtype)
    if precision == "int8":
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    if compiled:
        model = torch.compile(model)
    return partial(model, make_clips(batch, MODELS[name][0], device).to(dtype))


def fewer(rounds: int) -> int:
    return max(2, rounds // 2)


def time_fitting(functions: dict, device: str, rounds: int) -> dict:
    """Seconds a round, as `time_interleaved`, of functions that have run; `None` where memory did not suffice."""
    fitting = {key: function for key, function in functions.items() if function is not None}
    seconds = time_interleaved(fitting, torch.device(device), rounds, warm_up=0)
    return {key: seconds.get(key) for key in functions}


def compare(times: list[float] | None, ours: list[float] | None) -> dict:
    """Columns of a table: milliseconds, and how many times ours."""
    if times is None:
        return {"ms": NO_ROOM, f"/ {OURS}": None, "min": None, "max": None}
    ratio = divide(times, ours) or dict.fromkeys(("median", "min", "max"))
    ms = 1e3 * summarise(times)["median"]
    return {"ms": ms, f"/ {OURS}": ratio["median"], "min": ratio["min"], "max": ratio["max"]}


def measure_training(measure: Callable, key: str, size: str, case: Case, device: str, rounds: int) -> list[dict]:
    rows = measure(key, time_training, size, case, device, rounds)
    for column, threshold in {"peak": None, "in use": GIVE_BACK}.items():
        if threshold and device != "cpu":
            continue
        peaks = {
            row["model"]: row["peak (MiB)"]
            for name in case.models
            for row in measure(
                f"{key}, memory of {name}, {column}", memory_of_training, name, size, case.batch, device, threshold
            )
            if "model" in row
        }
        for row in rows:
            peak = peaks.get(row.get("model"))
            both = peak is not None and peaks.get(OURS) is not None
            row |= {f"{column} (MiB)": peak or NO_ROOM, f"{column} / {OURS}": peak / peaks[OURS] if both else None}
    return rows


def time_training(size: str, case: Case, device: str, rounds: int) -> list[dict]:
    steps = {name: first_run(partial(make_step, name, size, case.batch, device)) for name in case.models}
    seconds = time_fitting(steps, device, fewer(rounds))
    return [
        {"size": size, "batch": case.batch, "model": name, **compare(times, seconds[OURS])}
        for name, times in seconds.items()
    ]


def make_step(name: str, size: str, batch: int, device: str) -> Callable[[], None]:
    model = build(name, size, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    return training_step(model, optimizer, make_clips(batch, MODELS[name][0], device))


def memory_of_training(name: str, size: str, batch: int, device: str, threshold: int | None) -> list[dict]:
    if threshold is not None:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, threshold)
    before = peak_memory()
    step = first_run(partial(make_step, name, size, batch, device))
    if step is None:
        return [{"model": name, "peak (MiB)": None}]
    step()
    peak = peak_memory() - before if device == "cpu" else torch.cuda.max_memory_allocated(device) / 2**20
    return [{"model": name, "peak (MiB)": peak}]


@dataclass(frozen=True)
class Piece:
    """What a forward pass does `count` times at one shape; matrix products each time with other weights."""

    kind: str
    shape: tuple[int, ...]
    count: int = 1


def list_pieces(config: TubeViTConfig, batch: int) -> list[Piece]:
    """The arithmetic of a forward pass whose pooling is attention; a matrix product is (rows, inputs, outputs)."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads, tokens = config.num_attention_heads, config.num_tokens()
    rows, head_dim = batch * tokens, width // heads
    tubes = []
    for tube, grid in zip(config.resolved_tubes, config.token_grids()):
        outputs, inputs = batch * prod(grid) * prod(tube.space_to_depth), config.num_channels * prod(tube.kernel_size)
        tubes.append(Piece("products", (outputs, inputs, tube.out_channels)))
    return [
        *tubes,
        # queries, keys, values and outputs of all layers; keys and values of the pooling
        Piece("products", (rows, width, width), 4 * layers + 2),
        Piece("products", (rows, width, inner), layers),
        Piece("products", (rows, inner, width), layers),
        Piece("attention", (batch, heads, tokens, tokens, head_dim), layers),
        Piece("layer norms", (rows, width), 2 * layers + 1),
        Piece("GELU", (rows, inner), layers),
        Piece("additions", (rows, width), 2 * layers),
        # the query of the pooling, its output, and the head
        Piece("products", (1, width, width)),
        Piece("attention", (batch, heads, 1, tokens, head_dim)),
        Piece("products", (batch, width, width)),
        Piece("products", (batch, width, config.num_labels)),
    ]


def make_piece(piece: Piece, device: str, dtype: torch.dtype) -> Callable[[], None]:
    """A function that does all of a piece."""
    random = partial(torch.randn, device=device, dtype=dtype)
    arguments: list[tuple]
    if piece.kind == "products":
        rows, inputs, outputs = piece.shape
        states = random(rows, inputs)
        function = nn.functional.linear
        arguments = [(states, random(outputs, inputs), random(outputs)) for _ in range(piece.count)]
    elif piece.kind == "attention":
        batch, heads, queries, tokens, head_dim = piece.shape
        # (batch, tokens, heads, head_dim) -> (batch, heads, tokens, head_dim), as the projections give them
        states = [random(batch, length, heads, head_dim).transpose(1, 2) for length in (queries, tokens, tokens)]
        function = nn.functional.scaled_dot_product_attention
        arguments = [tuple(states)] * piece.count
    else:
        states = random(piece.shape)
        width = piece.shape[-1]
        function, more = {
            "layer norms": (nn.functional.layer_norm, ((width,), random(width), random(width))),
            "GELU": (nn.functional.gelu, ()),
            "additions": (torch.add, (random(piece.shape),)),
        }[piece.kind]
        arguments = [(states, *more)] * piece.count

    def run() -> None:
        for values in arguments:
            function(*values)

    return run


@torch.no_grad()
def measure_bound(size: str, device: str, rounds: int) -> list[dict]:
    config = TubeViTConfig.from_preset(size, num_labels=NUM_LABELS)
    rows = []
    for precision in precisions(device):
        dtype = getattr(torch, precision)
        model = build(OURS, size, device).eval().to(dtype)
        compiled = torch.compile(build(OURS, size, device).eval().to(dtype))
        pixel_values = make_clips(1, config.num_frames, device).to(dtype)
        pieces = {piece: make_piece(piece, device, dtype) for piece in list_pieces(config, batch=1)}
        functions = {
            "eager": partial(model, pixel_values),
            "compiled": partial(compiled, pixel_values),
            "tokenizer": partial(model.tubevit.embeddings, pixel_values),
        }
        seconds = time_interleaved({**functions, **pieces}, torch.device(device), rounds)
        bound = [sum(times) for times in zip(*(seconds[piece] for piece in pieces))]
        row = {"size": size, "precision": precision, "eager (ms)": 1e3 * summarise(seconds["eager"])["median"]}
        row |= {"compiled (ms)": 1e3 * summarise(seconds["compiled"])["median"]}
        for kind in dict.fromkeys(piece.kind for piece in pieces):
            row[f"{kind} (ms)"] = 1e3 * sum(
                summarise(seconds[piece])["median"] for piece in pieces if piece.kind == kind
            )
        row["bound (ms)"] = 1e3 * summarise(bound)["median"]
        for kind in ("eager", "compiled"):
            share = divide(bound, seconds[kind])
            row |= {f"bound / {kind}": share["median"], f"{kind} min": share["min"], f"{kind} max": share["max"]}
        rows.append({**row, "tokenizer / eager": divide(seconds["tokenizer"], seconds["eager"])["median"]})
    return rows


@torch.no_grad()
def compare_lengths(device: str, rounds: int) -> list[dict]:
    recipe = RECIPES["charades-b-interpolated"]
    configs = {
        32: recipe.make_config(num_frames=32, tubes=TUBES_OF_32_FRAMES, tube_kernels="separate"),
        128: recipe.make_config(),
    }
    functions = {}
    for precision in precisions(device):
        for num_frames, config in configs.items():
            dtype = getattr(torch, precision)
            model = TubeViTForVideoClassification(config).eval().to(device, dtype)
            pixel_values = make_clips(1, num_frames, device).to(dtype)
            functions[precision, num_frames, "forward"] = partial(model, pixel_values)
            functions[precision, num_frames, "tokenizer"] = partial(model.tubevit.embeddings, pixel_values)
    seconds = time_interleaved(functions, torch.device(device), rounds)
    rows = []
    for precision in precisions(device):
        for num_frames, config in configs.items():
            forward, tokenizer = (seconds[precision, num_frames, part] for part in ("forward", "tokenizer"))
            ratio = divide(forward, seconds[precision, 32, "forward"])
            row = {"precision": precision, "frames": num_frames, "tokens": config.num_tokens()}
            row |= {"ms": 1e3 * summarise(forward)["median"], "/ 32 frames": ratio["median"]}
            row |= {"min": ratio["min"], "max": ratio["max"]}
            rows.append({**row, "tokenizer (ms)": 1e3 * summarise(tokenizer)["median"]})
    return rows


def draw(rows: list[dict], machine: dict[str, str]) -> Figure:
    """For each size a bar for each model's time beside ours, eager and one clip at a time."""
    shown = [row for row in rows if row.get("forward") == "eager" and row["batch"] == 1 and row[f"/ {OURS}"]]
    sizes = list(dict.fromkeys(row["size"] for row in shown))
    figure = Figure(figsize=(5 * len(sizes), 4.5), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes):
        for offset, (precision, color) in enumerate((("float32", "tab:blue"), ("bfloat16", "tab:orange"))):
            chosen = [row for row in shown if (row["size"], row["precision"]) == (size, precision)]
            places = [place + 0.4 * offset for place in range(len(chosen))]
            ratios = [row[f"/ {OURS}"] for row in chosen]
            bars = axes.barh(places, ratios, height=0.38, color=color, label=precision if size == sizes[0] else None)
            axes.bar_label(bars, fmt="%.1f", padding=2)
        names = [row["model"] for row in shown if (row["size"], row["precision"]) == (size, "float32")]
        axes.set_yticks([place + 0.2 for place in range(len(names))], names)
        axes.invert_yaxis()
        axes.set(title=f"ViT-{size}", xlabel=f"time of a forward pass / {OURS}'s")
        axes.margins(x=0.12)
    figure.legend(loc="outside lower center", ncols=2)
    figure.suptitle(f"One clip of 224x224 pixels, random weights\n{machine['hardware']}", fontsize=10)
    return figure


def append_history(machine: dict[str, str], tables: dict[str, list[dict]]) -> None:
    """The headline numbers of this run, as a row: progress and relapse show."""
    row = {"date": datetime.date.today().isoformat()}
    row |= {name: machine[name] for name in ("commit", "hardware", "torch")}
    ratios = {
        (line["precision"], line["model"]): line[f"/ {OURS}"]
        for line in tables["Forward passes"]
        if (line.get("size"), line.get("forward"), line.get("batch")) == (HEADLINE, "eager", 1)
    }
    for precision in ("float32", "bfloat16"):
        for name in ("ViViT", "VideoMAE", "VideoMAE (32 frames)"):
            row[f"{name} / {OURS}: {precision}"] = round_or_empty(ratios.get((precision, name)))
    shares = {
        line["precision"]: line["bound / compiled"]
        for line in tables["The bound of our forward pass"]
        if line.get("size") == HEADLINE
    }
    for precision in ("float32", "bfloat16"):
        row[f"bound / compiled: {precision}"] = round_or_empty(shares.get(precision))
    path = RESULTS / "speed_history.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    print(f"a row appended to {path}")


def round_or_empty(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
