# SPDX-License-Identifier: Apache-2.0
"""What a conversion did with every parameter."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..tables import PlainConsole, PlainTable


# on any console
AS_IT_IS: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
REPORT_NAME = "conversion_report.json"


@dataclass
class ConversionReport:
    """What became of every parameter of the source, and whence every parameter of the TubeViT comes.

    Args:
        source: path or repo id.
        family: library or kind of ViT.
        used: source key -> keys of the TubeViT that it went into.
        dropped: source key -> reason.
        copied: key of the TubeViT -> source key.
        made: key of the TubeViT -> how it was computed from the source.
        new: key of the TubeViT -> how it was initialised.
        notes: decisions that a user should know.
        parameters: `"trainable"` and `"frozen"`, in numbers.
        tokens: `"image, before"`, `"image, after"`, `"video, after"`.
        flops: the same keys, floating-point operations of a forward pass.
        preprocessing: how the source's images are prepared, as arguments of [`TubeViTVideoProcessor`].
    """

    source: str
    family: str
    used: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    copied: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str | Path) -> None:
        Path(folder, REPORT_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def print(self, console: Console | None = None) -> None:
        console = console or PlainConsole()
        table = PlainTable("parameters", "number", "which", title=f"{self.source} ({self.family})")
        table.add_row("copied", str(len(self.copied)), "")
        for title, keys in (("made", self.made), ("new", self.new), ("dropped", self.dropped)):
            for how, group in group_by_value(keys).items():
                table.add_row(title, str(len(group)), f"{abbreviate(group)}: {how}")
        console.print(table)
        table = PlainTable("", "tokens", "GFLOPs")
        for name, count in self.tokens.items():
            table.add_row(name, f"{count:,}", f"{self.flops[name] / 1e9:.2f}")
        console.print(table)
        console.print(
            f"{self.parameters['trainable'] / 1e6:.2f} M parameters to train, "
            f"{self.parameters['frozen'] / 1e6:.2f} M frozen.",
            **AS_IT_IS,
        )
        for note in self.notes:
            console.print(f"Note: {note}", **AS_IT_IS)


def group_by_value(items: dict[str, str]) -> dict[str, list[str]]:
    groups = {}
    for key, value in items.items():
        groups.setdefault(value, []).append(key)
    return groups


def abbreviate(keys: list[str]) -> str:
    return ", ".join(keys) if len(keys) <= 3 else f"{keys[0]}, ..., {keys[-1]}"
