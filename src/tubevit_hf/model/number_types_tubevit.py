# SPDX-License-Identifier: Apache-2.0
"""Which number types a CPU multiplies, and which it only imitates."""

import time
from functools import cache

import torch
from transformers.utils import logging


logger = logging.get_logger(__name__)

# AMX and AVX-512 of x86, and Arm's
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")


def has_bfloat16_units(device: torch.device | None = None) -> bool:
    """Whether a device, by default the CPU, multiplies bfloat16 rather than imitates it."""
    if device is not None and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device is not None and device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BFLOAT16_UNITS)


def seconds_of_product(dtype: torch.dtype, rows: int = 256, width: int = 768) -> float:
    """Of a linear layer on the CPU, the best of five."""
    states, weight = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            torch.nn.functional.linear(states, weight)
            seconds.append(time.perf_counter() - start)
    return min(seconds)


@cache
def bfloat16_slowdown() -> float:
    """How many times as long the CPU takes in bfloat16 as in float32, measured once."""
    return seconds_of_product(torch.bfloat16) / seconds_of_product(torch.float32)


def warn_of_emulation(what: str) -> None:
    """Warns if `what` asks a CPU for bfloat16 that has no units for it, and is slower for it."""
    if has_bfloat16_units() or bfloat16_slowdown() < 1:
        return
    logger.warning_once(
        f"{what}: this CPU has no units for bfloat16. A matrix product took {bfloat16_slowdown():.1f} times as long "
        "in it as in float32, measured just now. Use float32; to be faster than that, `tubevit export --int8`."
    )
