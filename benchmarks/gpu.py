# SPDX-License-Identifier: Apache-2.0
"""TubeViT-B on one GPU in at most eight minutes: beside VideoMAE and ViViT, in training, and what the GPU waits for.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --cases training profile
    python benchmarks/gpu.py --tiny --device cpu     # tries the script without a GPU; its numbers mean nothing

1. `forward`: in bfloat16 at 1, 8 and 64 clips of 224x224 pixels, eager, compiled, and compiled with CUDA graphs
   (`mode="reduce-overhead"`). The models take turns, the GPU is waited for after each pass, and ratios are taken in
   each round. A TubeViT and a ViViT read 32 frames, a VideoMAE 16, all with exact GELU. `differs`: the largest
   difference of logits from the eager model's, of the largest logit. `not in graphs`: parts of a model for which
   PyTorch recorded none; Transformers' VideoMAE keeps its positions on the CPU, and copies them in each pass.
2. `training`: steps under bfloat16 autocast with AdamW, eager and compiled in turn, beside the GPU's own best matrix
   product of bfloat16 in the same process; `benchmarks/training_rate.py` says how.
3. `profile`: of eager forward passes of one clip: for which share of the time the GPU works, how many kernels are
   launched, which take longest, and how long the host leaves the GPU without work between them.
4. `tests`: those of this repository that need a GPU.

The most important cases come first. Each is written to the file when it is finished; the same command goes on with
those that are missing, and starts none that may not end in time.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch
from common import (
    RESULTS,
    Runs,
    describe_machine,
    divide,
    print_table,
    run_git,
    summarise,
    time_interleaved,
)
from torch._dynamo.utils import counters
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training_rate import WAYS, time_steps
from transformers import PreTrainedModel
from transformers.utils import logging
from video_models import MODELS, OURS, build_like, random_clips

from tubevit_hf import TubeViTConfig


BESIDE = "VideoMAE"
COMPARED = (OURS, BESIDE, "ViViT")
MODES = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}
# clips in a batch, and rounds
BATCHES = {1: 30, 8: 20, 64: 8}
# of our time and VideoMAE's, at most, by the clips in a batch
TARGETS = {1: 1.0, 8: 0.6, 64: 0.4}
COMPILED_GAIN = 1.15
SHARE_OF_PRODUCT = 45
SHARE = "of a matrix product's (%)"
TRAINING_BATCHES = (64, 32, 16)
PROFILED_PASSES = 10
TOP_KERNELS = 5
# in seconds
TESTS_AT_MOST = 150
GPU_TESTS = ("tests/model/test_precision_and_backends.py", "-k", "gpu")


@dataclass(frozen=True)
class Bench:
    """What the cases share."""

    device: torch.device
    tiny: bool
    # of the clock that `time.monotonic` reads
    ends_at: float

    def config(self) -> TubeViTConfig:
        if not self.tiny:
            return TubeViTConfig.from_preset("B", num_labels=400)
        settings = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
        return TubeViTConfig(**settings, image_size=32, num_labels=5)

    @property
    def backend(self) -> str:
        """Of the compiler; a tiny run tries the script, for which nothing need be generated."""
        return "aot_eager" if self.tiny else "inductor"

    def compile(self, model: PreTrainedModel, mode: str) -> Callable:
        if self.tiny:
            return torch.compile(model, dynamic=False, backend=self.backend)
        return torch.compile(model, dynamic=False, mode=MODES[mode])

    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Case:
    name: str
    measure: Callable[[Bench], list[dict]]
    # that it takes at most, about
    seconds: int


def main() -> None:
    started = time.monotonic()
    cases = list_cases()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", help=f"beginnings of names; all: {', '.join(case.name for case in cases)}"
    )
    parser.add_argument("--minutes", type=float, default=8, help="no case starts that may end later")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu_cuda.json; --tiny keeps nothing")
    parser.add_argument("--tiny", action="store_true", help="narrow models of one layer on small clips")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    bench = Bench(torch.device(arguments.device), arguments.tiny, started + 60 * arguments.minutes)
    chosen = [case for case in cases if case.name.startswith(tuple(arguments.cases or [""]))]
    with tempfile.TemporaryDirectory() as folder:
        usual = Path(folder) / "tiny.json" if arguments.tiny else RESULTS / f"gpu_{bench.device.type}.json"
        runs = Runs(arguments.output or usual)
        check_machine(runs, bench)
        left_out = [case.name for case in chosen if not run_case(runs, case, bench)]
        show_targets(runs)
    print(f"{time.monotonic() - started:.0f} s; left out: {', '.join(left_out) or 'nothing'}")
    if not arguments.tiny:
        print(f"written to {runs.path}")


def list_cases() -> list[Case]:
    """In the order in which a short lease should have them."""

    def forward(mode: str, batch: int, seconds: int) -> Case:
        return Case(f"forward, {mode}, batch {batch}", partial(time_forwards, mode=mode, batch=batch), seconds)

    return [
        *(forward("eager", batch, 20) for batch in BATCHES),
        Case("profile", profile_forward, 15),
        forward("compiled", 1, 75),
        forward("CUDA graphs", 1, 60),
        Case("training", measure_training, 120),
        Case("tests", run_tests, 90),
        *(forward(mode, batch, 60) for batch in (8, 64) for mode in ("compiled", "CUDA graphs")),
    ]


def check_machine(runs: Runs, bench: Bench) -> None:
    """Results of another commit or machine are not continued."""
    here = [{**describe_machine(bench.device), "commit": describe_commit(), "tiny": bench.tiny}]
    found = runs.get("machine", lambda: here)
    if found != here:
        raise SystemExit(f"{runs.path} is of {found[0]}, and this is {here[0]}: name another --output, or remove it.")


def describe_commit() -> str:
    try:
        return run_git("describe", "--always", "--dirty", "--exclude", "*")
    # a copy of the files alone
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"


def run_case(runs: Runs, case: Case, bench: Bench) -> bool:
    """Whether its results are in the file, and now printed."""
    before = time.monotonic()

    def measure() -> list[dict]:
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        # what another case compiled does not count against this one's limit
        torch.compiler.reset()
        return case.measure(bench)

    try:
        rows = runs.get(case.name, measure if bench.seconds_left() > case.seconds else give_up)
    except TimeoutError:
        return False
    # one case that fails must not take the time of the machine from the others
    except Exception:
        traceback.print_exc()
        return False
    print_table(f"{case.name} ({time.monotonic() - before:.0f} s)", rows)
    sys.stdout.flush()
    return True


def show_targets(runs: Runs) -> None:
    """All that has a target, of all finished cases."""
    finished = json.loads(runs.path.read_text())
    rows = [
        {"case": name, f"/ {BESIDE}": row.get(f"/ {BESIDE}"), "/ eager": row.get("/ eager"), "%": row.get(SHARE)}
        | {"target": row["target"], "met": row["met"]}
        for name, of_case in finished.items()
        for row in of_case
        if "target" in row
    ]
    if rows:
        print_table("Targets", rows)


def give_up() -> list[dict]:
    raise TimeoutError


@cache
def build_once(name: str, bench: Bench) -> tuple[PreTrainedModel, int]:
    """A model in bfloat16 on the device, and the frames of its clips."""
    num_frames = MODELS[name][0]
    if bench.tiny and name != OURS:
        num_frames = 2
    return build_like(name, bench.config(), num_frames).eval().to(bench.device, torch.bfloat16), num_frames


def make_forward(name: str, batch: int, bench: Bench) -> tuple[PreTrainedModel, torch.Tensor]:
    model, num_frames = build_once(name, bench)
    return model, random_clips(batch, num_frames, bench.config().image_size, bench.device).to(torch.bfloat16)


@torch.no_grad()
def time_forwards(bench: Bench, mode: str, batch: int) -> list[dict]:
    functions, rows = {}, {}
    for name in COMPARED:
        model, clips = make_forward(name, batch, bench)
        rows[name] = {"model": name}
        skipped = counters["inductor"]["cudagraph_skips"]
        try:
            forward = model if MODES[mode] is None else bench.compile(model, mode)
            start = time.monotonic()
            # CUDA graphs are recorded in the second pass, and replayed from the third one on
            logits = [forward(clips).logits.float().cpu() for _ in range(3)]
            rows[name]["first passes (s)"] = time.monotonic() - start
            if mode == "CUDA graphs":
                rows[name]["not in graphs"] = counters["inductor"]["cudagraph_skips"] - skipped
            expected = model(clips).logits.float().cpu()
        except Exception as error:
            traceback.print_exc()
            rows[name]["ms"] = f"fails: {type(error).__name__}"
            continue
        rows[name]["differs"] = ((logits[-1] - expected).abs().max() / expected.abs().max()).item()
        functions[name] = partial(forward, clips)
    rounds = 2 if bench.tiny else BATCHES[batch]
    seconds = time_interleaved(functions, bench.device, rounds, warm_up=2)
    for name, times in seconds.items():
        rows[name] |= {"ms": 1e3 * summarise(times)["median"], "clips a second": batch / summarise(times)["median"]}
        ratio = divide(times, seconds.get(BESIDE))
        if ratio is not None:
            rows[name] |= {f"/ {BESIDE}": ratio["median"], "from": ratio["min"], "to": ratio["max"]}
        if ratio is not None and name == OURS:
            rows[name] |= {"target": f"at most {TARGETS[batch]}", "met": ratio["median"] <= TARGETS[batch]}
    return list(rows.values())


def measure_training(bench: Bench) -> list[dict]:
    config = bench.config()
    rounds = 2 if bench.tiny else 5
    rows: list[dict] = []
    for batch in (2,) if bench.tiny else TRAINING_BATCHES:
        try:
            rows = time_steps(config, batch, bench.device, rounds, backend=bench.backend)
        except torch.OutOfMemoryError:
            continue
        except Exception as error:
            traceback.print_exc()
            # the compiler's fault, or both would fail
            rows = time_steps(config, batch, bench.device, rounds, ways=WAYS[:1])
            rows.append({"step": "compiled", "ms": f"fails: {type(error).__name__}"})
        break
    if len(rows) < 2 or "clips a second" not in rows[1]:
        return rows
    eager, compiled = rows
    gain, share = compiled["clips a second"] / eager["clips a second"], compiled[SHARE]
    compiled |= {"/ eager": gain, "target": f"at least {COMPILED_GAIN} and {SHARE_OF_PRODUCT}%"}
    compiled["met"] = gain >= COMPILED_GAIN and share >= SHARE_OF_PRODUCT
    return rows


@torch.no_grad()
def profile_forward(bench: Bench) -> list[dict]:
    """Lines of what a GPU does in eager forward passes of one clip, for TubeViT and VideoMAE."""
    return [line for name in (OURS, BESIDE) for line in profile_model(name, bench)]


def profile_model(name: str, bench: Bench) -> list[dict]:
    model, clips = make_forward(name, 1, bench)
    usual = (
        1e6 * summarise(time_interleaved({name: partial(model, clips)}, bench.device, 10, warm_up=3)[name])["median"]
    )
    on_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        start = time.perf_counter()
        for _ in range(PROFILED_PASSES):
            model(clips)
            bench.wait()
        profiled = 1e6 * (time.perf_counter() - start) / PROFILED_PASSES
    events = list(profiler.events())
    # without a GPU the operations stand for the kernels, so that the script can be tried
    kernels = [
        event for event in events if (event.device_type == DeviceType.CUDA if on_gpu else not event.cpu_children)
    ]
    kernels = [event for event in kernels if not event.is_user_annotation and not event.name.endswith(" Sync")]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    busy = busy_time(spans) / PROFILED_PASSES
    on_host = (event.name for event in events if event.device_type == DeviceType.CPU)
    calls = Counter(name for name in on_host if re.match(r"cu(da)?[A-Z]", name))
    launches = sum(count for call, count in calls.items() if "Launch" in call)
    waits = {call: count for call, count in calls.items() if "Synchronize" in call or "Memcpy" in call}
    taken: Counter[str] = Counter()
    for event in kernels:
        taken[event.name] += event.time_range.end - event.time_range.start
    lines: list[tuple[str, object]] = [
        ("a pass, not profiled (us)", usual),
        ("a pass, profiled (us)", profiled),
        ("the device works (us)", busy),
        ("share of a pass in which the device works (%)", 100 * busy / usual),
        ("kernels and copies on the device, a pass", len(kernels) / PROFILED_PASSES),
        ("launches by the host, a pass", launches / PROFILED_PASSES),
        ("host time between two launches (us)", usual * PROFILED_PASSES / max(1, launches)),
        # one wait is the benchmark's own, after each pass
        ("waits and copies of the host, a pass", show_calls(waits)),
        *((f"{kernel[:60]} (us)", total / PROFILED_PASSES) for kernel, total in taken.most_common(TOP_KERNELS)),
    ]
    return [{"model": name, "of an eager pass of one clip": line, "value": value} for line, value in lines]


def show_calls(calls: dict[str, int]) -> str:
    return ", ".join(f"{call} {count / PROFILED_PASSES:g}" for call, count in calls.items()) or "none"


def busy_time(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of sorted spans."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def run_tests(bench: Bench) -> list[dict]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *GPU_TESTS]
    if find_spec("playwright") is None:
        # these tests need no browser, but what all tests share imports one
        command.append("--noconftest")
    fail = {"FAIL_WITHOUT_CUDA": "1"} if bench.device.type == "cuda" else {}
    try:
        finished = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            env={**os.environ, **fail},
            capture_output=True,
            text=True,
            timeout=min(TESTS_AT_MOST, max(10, bench.seconds_left())),
        )
    except subprocess.TimeoutExpired:
        return [{"tests": " ".join(GPU_TESTS), "said": "took too long"}]
    lines = (finished.stdout + finished.stderr).strip().splitlines()
    if finished.returncode:
        print("\n".join(lines[-60:]))
    shown = [line for line in lines if line.startswith(("FAILED", "ERROR"))] + lines[-1:]
    return [{"tests": " ".join(GPU_TESTS), "exit": finished.returncode, "said": "\n".join(shown)}]


if __name__ == "__main__":
    main()
