# SPDX-License-Identifier: Apache-2.0
"""`tubevit doctor`: what this machine is good at."""

import os
import platform
from importlib import metadata

from rich.console import Console
from rich.table import Table


PACKAGES = ("tubevit_hf", "torch", "transformers", "accelerate", "av", "onnxruntime", "openvino", "nncf")
# flags of a CPU
INT8_UNITS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "dot")
FLOAT32_UNITS = ("avx512_f", "avx2", "neon", "sve")


def doctor() -> None:
    """Tell which number types this machine multiplies how fast, which runtimes are here, and what to use."""
    import torch

    from ..model.number_types_tubevit import BFLOAT16_UNITS, has_bfloat16_units, seconds_of_product

    console = Console(highlight=False, soft_wrap=True)
    capabilities = torch.cpu.get_capabilities()
    name = capabilities.get("cpu_name", platform.processor())
    console.print(f"CPU: {name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    rows, width = 539, 768  # tokens of a clip, and TubeViT-B
    seconds = {kind: seconds_of_product(getattr(torch, kind), rows, width) for kind in ("float32", "bfloat16")}
    table = Table(
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
