# SPDX-License-Identifier: Apache-2.0
"""Caches results that do not depend on pixels: a model computes them once per clip size, dtype and device."""

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes
from transformers.utils.import_utils import is_tracing


if TYPE_CHECKING:
    from .configuration_tubevit import TubeViTConfig


# most results of one store: a model meets few sizes at a time, and a table takes some megabytes
NUM_RESULTS = 16

ResultT = TypeVar("ResultT")


class Store:
    """A cache of a module's latest results, which do not depend on pixels.

    The cache is no part of the module's state: copies and pickles of the module begin with an empty one. Calls share
    the results, so that nobody may change them in place.
    """

    def __init__(self, config: "TubeViTConfig") -> None:
        self.config = config
        self.results: dict[Hashable, Any] = {}
        # the weights that some of the results were computed from
        self.source: Source | None = None
        # replicas of `DataParallel` are threads that share this cache
        self.lock = Lock()

    def __reduce__(self) -> tuple[type["Store"], tuple["TubeViTConfig"]]:
        return Store, (self.config,)

    def clear(self) -> None:
        with self.lock:
            self.results.clear()
            self.source = None

    def get(self, key: Hashable, compute: Callable[[], ResultT]) -> ResultT:
        """Returns the cached result of `key`, or computes and caches it. An error is not cached."""
        with self.lock:
            result = self.results.pop(key, None)
            if result is not None:
                # back to the end: the least recently used come first, and are removed first
                self.results[key] = result
        if result is not None:
            return result
        # Tensors made in inference mode cannot be used in training later. Modes that watch operations, such as
        # selective checkpointing, must not see these: they are missing when a pass runs again
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            result = compute()
        with self.lock:
            self.results[key] = result
            while len(self.results) > NUM_RESULTS:
                del self.results[next(iter(self.results))]
        return result

    def get_static(self, sizes: Sequence[int], settings: Hashable, compute: Callable[..., ResultT]) -> ResultT:
        """Returns `compute(*sizes)`, cached unless a graph is traced or a size is a symbol of one.

        Args:
            settings: all that the result depends on beside `sizes`.
        """
        if torch.compiler.is_compiling() or any(type(size) is not int for size in sizes):
            return compute(*sizes)
        return self.get((*sizes, settings), lambda: compute(*sizes))

    def get_tensor(
        self,
        key: Hashable,
        compute: Callable[[], torch.Tensor],
        like: torch.Tensor,
        weights: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Returns the tensor of `key` in the dtype and on the device of `like`, cached where that is safe.

        Args:
            key: all that the tensor depends on beside `like` and `weights`.
            compute: makes the tensor.
            like: a tensor with its dtype and device. See `can_keep` for the tensors beside which nothing is cached.
            weights: the parameters that `compute` reads, always the same ones of a cache. The tensor is cached only
                while all of them are frozen, and computed again after one has changed.
        """
        if not can_keep(like) or not all(map(self.is_frozen, weights)):
            return compute()
        if weights and (self.source is None or not self.source.equals(weights)):
            self.clear()
            self.source = Source(weights)
        return self.get((key, like.dtype, like.device), compute)

    def is_frozen(self, weight: torch.Tensor) -> bool:
        """Returns True if `freeze_before` froze this weight, and changes of it can be seen.

        Other weights without gradients may be moving averages of a model in training, which are often written through
        `.data`. In distributed training, a weight may be sharded, and its parts change.
        """
        return (
            self.config.freeze_before is not None
            and isinstance(weight, nn.Parameter)
            and not weight.requires_grad
            and not weight.is_inference()
            and not (torch.distributed.is_available() and torch.distributed.is_initialized())
        )


class Source:
    """Recognises weights that have not changed, and keeps none of their memory alive."""

    def __init__(self, weights: Sequence[torch.Tensor]):
        self.places = [StorageWeakRef(weight.untyped_storage()) for weight in weights]
        self.states = [self.describe(weight) for weight in weights]
        # writes through `.data` do not raise the version. On a GPU, a comparison would make the host wait
        self.values = [weight.detach().clone() if weight.device.type == "cpu" else None for weight in weights]

    def equals(self, weights: Sequence[torch.Tensor]) -> bool:
        """Compares memory, version and, on the CPU, values."""
        # see `Store.get`
        with _disable_current_modes():
            return all(
                StorageWeakRef(weight.untyped_storage()) == place
                and self.describe(weight) == state
                and (values is None or torch.equal(values, weight))
                for weight, place, state, values in zip(weights, self.places, self.states, self.values)
            )

    @staticmethod
    def describe(weight: torch.Tensor) -> tuple[object, ...]:
        return weight.dtype, weight.device, weight.shape, weight.stride(), weight.storage_offset(), weight._version


class StoringModule(nn.Module):
    """A module with a cache, which is emptied when its parameters go to another device or dtype."""

    def __init__(self, config: "TubeViTConfig"):
        super().__init__()
        self.config = config
        self.store = Store(config)

    def _apply(self, *args: Any, **kwargs: Any) -> "StoringModule":
        self.store.clear()
        return super()._apply(*args, **kwargs)


def can_keep(like: torch.Tensor) -> bool:
    """Returns True if results beside this tensor can be cached: it is a plain tensor, and no graph is traced."""
    return (
        type(like) in (torch.Tensor, nn.Parameter)
        and like.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        # last, since it takes time: on other devices it also asks whether a CUDA graph is being captured
        and (like.device.type == "cpu" or not is_tracing(like))
    )
