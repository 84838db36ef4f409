# SPDX-License-Identifier: Apache-2.0
"""Counts the operations of PyTorch that launch a kernel on a GPU, and those for which the host waits for it.

It needs no GPU: PyTorch dispatches the same operations on a CPU. Views and other operations that change no memory are
left out. An attention is one operation, as in a fused kernel; some operations launch more than one kernel on a GPU
(softmax over long rows, products that are split), so that the count is a lower bound.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


# allocate, or answer from what the host knows: no memory is read or written
NO_KERNEL = {
    "aten::_has_same_storage_numel",
    "aten::_reshape_alias",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_permuted",
    "aten::empty_strided",
    "aten::is_same_size",
    "aten::is_set_to",
    "aten::lift",
    "aten::lift_fresh",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::record_stream",
    "aten::result_type",
    "aten::set_",
    "aten::sym_numel",
    "aten::sym_size",
    "aten::sym_storage_offset",
    "aten::sym_stride",
}
# the host reads what they give, or how much there is of it
WAITS = {
    "aten::_local_scalar_dense",
    "aten::_unique",
    "aten::_unique2",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::unique_dim_consecutive",
}


class LaunchCounter(TorchDispatchMode):
    """Within it, `launches` and `waits` fill with the names of operations in the order of their calls.

    Args:
        device: of the model. Operations on tensors of other devices are not counted, and a copy from this device to a
            CPU is a wait. On a CPU all tensors count, and copies cannot be told from others.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        super().__init__()
        self.device = torch.device(device)
        self.launches: list[str] = []
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        name = func._schema.name
        before = self.is_on_device((args, kwargs))
        # a wait may raise, as on the meta device
        if before and (name in WAITS or reads_a_mask(name, args)):
            self.waits.append(name)
        outputs = func(*args, **(kwargs or {}))
        after = self.is_on_device(outputs)
        if before and name in {"aten::_to_copy", "aten::to"} and not after:
            self.waits.append(name)
        if (before or after) and name not in NO_KERNEL and not is_view(func):
            self.launches.append(name)
        return outputs

    def is_on_device(self, values: object) -> bool:
        return any(
            isinstance(leaf, torch.Tensor) and leaf.device.type == self.device.type for leaf in tree_leaves(values)
        )


def is_view(operation: Any) -> bool:
    """Whether all outputs share the memory of an input, and nothing is written."""
    returns = operation._schema.returns
    return bool(returns) and all(
        output.alias_info is not None and not output.alias_info.is_write for output in returns
    )


def reads_a_mask(name: str, args: tuple[object, ...]) -> bool:
    """Whether an index is a mask: the host then asks how many are true."""
    return name in {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"} and any(
        isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in tree_leaves(args[1])
    )


@contextmanager
def count_parts(counter: LaunchCounter, parts: dict[str, list[nn.Module]]) -> Iterator[dict[str, list[str]]]:
    """Within it, the launches of each part's modules are listed by its name.

    Args:
        counter: in whose context the model runs.
        parts: modules that do not contain each other.
    """
    found: dict[str, list[str]] = {name: [] for name in parts}
    started: dict[nn.Module, int] = {}

    def begin(module: nn.Module, *_: object) -> None:
        started[module] = len(counter.launches)

    def end(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, *_: object) -> None:
            found[name] += counter.launches[started.pop(module) :]

        return hook

    handles = []
    for name, modules in parts.items():
        for module in modules:
            handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end(name))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def describe(operations: list[str]) -> str:
    """How often each is called, the most frequent first."""
    return ", ".join(f"{name.removeprefix('aten::')} {count}" for name, count in Counter(operations).most_common())
