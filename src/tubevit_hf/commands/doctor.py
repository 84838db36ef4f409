# SPDX-License-Identifier: Apache-2.0
"""`tubevit doctor`: what this machine is good at, or what is wrong with a folder of videos."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ..tables import PlainConsole, PlainTable
from .common import one_line_errors


if TYPE_CHECKING:
    from ..data.inspection import ClassSummary, FolderReport

PACKAGES = ("tubevit_hf", "torch", "transformers", "accelerate", "av", "onnxruntime", "openvino", "nncf")
# flags of a CPU
INT8_UNITS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "dot")
FLOAT32_UNITS = ("avx512_f", "avx2", "neon", "sve")
# lines of one kind of finding, and of classes, that are shown; JSON has all
MAX_LINES, MAX_CLASSES = 20, 50


def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="Videos in class folders: FOLDER/LABEL/*.mp4, or FOLDER/train/LABEL/*.mp4 and "
            "FOLDER/validation/LABEL/*.mp4. Without it, this machine is looked at.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that decode; 0 for none. Default: one for each CPU, 4 at most.", min=0),
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a list of files to leave out, for `tubevit train --leave-out FILE`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell what is wrong with a folder of videos before you train on it, or what this machine is good at.

    Of a folder every video is decoded once, and what was seen is kept: the next time, and training, open none again.
    Exit code 1 says that something grave was found, 2 that there are no videos.
    """
    if folder is not None:
        with one_line_errors():
            examine_folder(folder, workers, leave_out, as_json)
    elif workers is not None or leave_out is not None or as_json:
        with one_line_errors():
            raise ValueError("--workers, --leave-out and --json are for a folder of videos: tubevit doctor FOLDER.")
    else:
        examine_machine()


def examine_folder(folder: Path, workers: int | None, leave_out: Path | None, as_json: bool) -> None:
    from ..data.inspection import inspect_videos
    from ..data.leave_out import write_leave_out

    try:
        report = inspect_videos(folder, workers)
    except KeyboardInterrupt:
        print("Stopped. What was seen is kept: the same command goes on from there.", file=sys.stderr)
        raise typer.Exit(130) from None
    if leave_out is not None:
        write_leave_out(leave_out, folder, report.leave_out)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        show_report(report, leave_out)
    if report.is_grave:
        raise typer.Exit(1)


def show_report(report: FolderReport, leave_out: Path | None) -> None:
    from ..data.listing import describe_passed_over

    console = PlainConsole(soft_wrap=True)
    if not console.is_terminal:
        # where nobody watches, a finding is a line that can be searched for
        console.width = 10_000
    if report.findings:
        console.print(findings_table(report))
    console.print(classes_table(report))
    console.print(describe_traits(report))
    num_grave = sum(finding.gravity == "grave" for finding in report.findings)
    groups = "no groups in the names" if report.num_groups is None else f"{report.num_groups} groups by their names"
    console.print(
        f"{report.num_videos} videos of {len(report.classes)} classes, {groups}. Findings: {num_grave} grave, "
        f"{len(report.findings) - num_grave} to look at."
    )
    if report.passed_over:
        console.print(describe_passed_over(report.passed_over).strip())
    if leave_out is not None:
        console.print(f"{leave_out} lists {len(report.leave_out)} files to leave out.")
        console.print(f"Next: tubevit train {report.folder} --leave-out {leave_out}")
    elif report.leave_out:
        console.print(f"{len(report.leave_out)} files are better left out: --leave-out FILE writes a list of them.")


def findings_table(report: FolderReport) -> PlainTable:
    table = PlainTable("", "where", "finding", "what to do")
    shown: Counter[str] = Counter()
    totals = Counter(finding.kind for finding in report.findings)
    for finding in report.findings:
        kind = finding.kind
        shown[kind] += 1
        if shown[kind] <= MAX_LINES:
            color = "red" if finding.gravity == "grave" else "yellow"
            table.add_row(
                Text(finding.gravity, color),
                finding.where,
                f"{kind}: {finding.message}",
                finding.advice,
            )
        elif shown[kind] == MAX_LINES + 1:
            table.add_row("", "", f"{kind}: {totals[kind] - MAX_LINES} more", "--json names all")
    return table


def classes_table(report: FolderReport) -> PlainTable:
    splits = list(dict.fromkeys(split for summary in report.classes for split in summary.videos))
    groups = [] if report.num_groups is None else ["groups"]
    table = PlainTable("class", *(split or "videos" for split in splits), *groups, "seconds", "fps", "pixels", "codec")
    for summary in report.classes[:MAX_CLASSES]:
        table.add_row(
            summary.label,
            *(str(summary.videos.get(split, 0)) for split in splits),
            *([str(summary.groups or 0)] if groups else []),
            describe_seconds(summary),
            describe_counts(summary.fps),
            describe_sizes(summary.sizes),
            describe_counts(summary.codecs),
        )
    if len(report.classes) > MAX_CLASSES:
        table.caption = f"{len(report.classes) - MAX_CLASSES} more classes; --json has all"
    return table


def describe_seconds(summary: ClassSummary) -> str:
    """Median, and from the shortest to the longest."""
    if summary.seconds is None:
        return ""
    shortest, median, longest = (f"{seconds:.1f}" for seconds in summary.seconds)
    return median if shortest == longest else f"{median} ({shortest} to {longest})"


def describe_counts(counts: dict[str, int]) -> str:
    """The most frequent value, and how many others there are."""
    if not counts:
        return ""
    others = len(counts) - 1
    return next(iter(counts)) + (f" and {others} other{'s' if others > 1 else ''}" if others else "")


def describe_sizes(sizes: dict[str, int]) -> str:
    """From the fewest pixels to the most."""
    by_pixels = sorted(sizes, key=lambda size: [math.prod(map(int, size.split("x"))), size])
    return " to ".join(dict.fromkeys([by_pixels[0], by_pixels[-1]])) if by_pixels else ""


def describe_traits(report: FolderReport) -> str:
    """What tells classes apart without being what happens."""
    if report.leaks is None:
        return 'What length, shape, rate and codec alone tell: `pip install "tubevit_hf[demo]"` finds out.'
    if not report.leaks:
        return "Length, shape, rate and codec alone tell nothing: they are the same everywhere, or videos are too few."
    told = ", ".join(f"{leak.trait} {leak.accuracy:.0%}" for leak in report.leaks)
    return f"Accuracy from these alone, frames unseen: {told}; by chance {report.leaks[0].chance:.0%}."


def examine_machine() -> None:
    """Which number types this machine multiplies how fast, which runtimes are here, and what to use."""
    import torch

    from ..model.number_types_tubevit import BFLOAT16_UNITS, has_bfloat16_units, seconds_of_product

    console = PlainConsole(soft_wrap=True)
    capabilities = torch.cpu.get_capabilities()
    name = capabilities.get("cpu_name", platform.processor())
    console.print(f"CPU: {name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    rows, width = 539, 768  # tokens of a clip, and TubeViT-B
    seconds = {kind: seconds_of_product(getattr(torch, kind), rows, width) for kind in ("float32", "bfloat16")}
    table = PlainTable(
        "number type", "units", "GFLOP/s", "/ float32", title=f"Products of {rows}x{width} by {width}x{width}"
    )
    for kind, flags in (("int8", INT8_UNITS), ("bfloat16", BFLOAT16_UNITS), ("float32", FLOAT32_UNITS)):
        units = ", ".join(flag for flag in flags if capabilities.get(flag)) or "none"
        if kind in seconds:
            rate, gain = 2e-9 * rows * width**2 / seconds[kind], seconds["float32"] / seconds[kind]
            table.add_row(kind, units, f"{rate:.0f}", f"{gain:.2f}")
        else:
            table.add_row(kind, units, "", "")
    console.print(table)
    for index in range(torch.cuda.device_count()):
        console.print(f"GPU {index}: {torch.cuda.get_device_name(index)}")
    console.print(", ".join(f"{package} {version_of(package)}" for package in PACKAGES))
    for line in advise(seconds["float32"] / seconds["bfloat16"], has_bfloat16_units()):
        console.print(f"- {line}")


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def advise(bfloat16_gain: float, has_units: bool) -> list[str]:
    """What to do with what was measured."""
    import torch

    lines = []
    if torch.cuda.is_available():
        lines.append("Train and predict on the GPU, in bfloat16: `--bf16 True`, `dtype=torch.bfloat16`.")
    if has_units and bfloat16_gain > 1:
        lines.append(f"On the CPU bfloat16 is {bfloat16_gain:.1f} times as fast as float32: `--use_cpu --bf16 True`.")
    else:
        lines.append("On the CPU use float32: bfloat16 is imitated, or no faster.")
    if version_of("openvino") == "not installed":
        lines.append('To predict faster on the CPU: `pip install "tubevit_hf[openvino]"`, then `tubevit export`.')
    else:
        lines.append("To predict faster on the CPU: `tubevit export MODEL --to openvino --int8 --videos FOLDER`.")
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
        lines.append("If other programs run beside: OMP_WAIT_POLICY=passive, or threads that wait slow each other.")
    return lines
