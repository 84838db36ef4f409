# SPDX-License-Identifier: Apache-2.0
"""What machine this is, and what a run has taken of it."""

import platform
import sys

import torch


def name_processor() -> str:
    """The CPU, and how many of its threads PyTorch uses."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def peak_memory() -> float | None:
    """The most that this process has held so far, in MiB; `None` where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:
        # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # in bytes on macOS, elsewhere in KiB
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
