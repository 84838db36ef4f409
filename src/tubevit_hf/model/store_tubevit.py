# SPDX-License-Identifier: Apache-2.0
"""Keeps results that do not depend on pixels: a model computes them once for a size, number type and device."""

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


# results of one store: a model meets few sizes at a time, and its tables are of some megabytes each
NUM_RESULTS = 16

ResultT = TypeVar("ResultT")


class Store:
    """The latest results of a module, by what they depend on beside pixels.

    A store is no part of its module's state: copies and pickles of the module begin with an empty one. Results are
    shared between calls, so that nobody may change them in place.
    """

    def __init__(self, config: "TubeViTConfig") -> None:
        self.config = config
        self.results: dict[Hashable, Any] = {}
        # weights that some of the results were computed of
        self.source: Source | None = None
        # replicas of `DataParallel` are threads that share it
        self.lock = Lock()

    def __reduce__(self) -> tuple[type["Store"], tuple["TubeViTConfig"]]:
        return Store, (self.config,)

    def clear(self) -> None:
        with self.lock:
            self.results.clear()
            self.source = None

    def get(self, key: Hashable, compute: Callable[[], ResultT]) -> ResultT:
        """Returns the result of this key, and computes it if it is not kept. An error is not kept."""
        with self.lock:
            result = self.results.pop(key, None)
            if result is not None:
                # the oldest come first
                self.results[key] = result
        if result is not None:
            return result
        # Tensors of inference mode could not take part in training later. Modes that watch operations, such as
        # selective checkpointing, would miss these when the pass runs again
        with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
            result = compute()
        with self.lock:
            self.results[key] = result
            while len(self.results) > NUM_RESULTS:
                del self.results[next(iter(self.results))]
        return result

    def get_static(self, sizes: tuple[int, ...], settings: Hashable, compute: Callable[..., ResultT]) -> ResultT:
        """Returns `compute(*sizes)`, kept for sizes that are numbers and not symbols of a graph.

        Args:
            settings: what the result depends on beside the sizes.
        """
        if torch.compiler.is_compiling() or any(type(size) is not int for size in sizes):
            return compute(*sizes)
        return self.get((sizes, settings), lambda: compute(*sizes))

    def get_tensor(
        self,
        key: Hashable,
        compute: Callable[[], torch.Tensor],
        like: torch.Tensor,
        weights: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Returns the tensor of this key in the number type and on the device of `like`.

        It is computed anew while a graph is traced, within `torch.func`, and where `weights`, which it is made of,
        are trained or may change without a trace. It is also computed anew once weights have changed.

        Args:
            key: what the result depends on beside `like` and `weights`.
            weights: always the same ones of a store.
        """
        if not can_keep(like) or not all(map(self.is_frozen, weights)):
            return compute()
        if weights and (self.source is None or not self.source.equals(weights)):
            self.clear()
            self.source = Source(weights)
        return self.get((key, like.dtype, like.device), compute)

    def is_frozen(self, weight: torch.Tensor) -> bool:
        """Tells whether a weight is frozen by `freeze_before`. Others that need no gradient may be averages of a model
        that trains, which are often written through `.data`; and where processes share a weight, its parts change."""
        return (
            self.config.freeze_before is not None
            and isinstance(weight, nn.Parameter)
            and not weight.requires_grad
            and not weight.is_inference()
            and not (torch.distributed.is_available() and torch.distributed.is_initialized())
        )


class Source:
    """Recognises weights that have not changed, and keeps no memory of theirs alive."""

    def __init__(self, weights: Sequence[torch.Tensor]):
        self.places = [StorageWeakRef(weight.untyped_storage()) for weight in weights]
        self.states = [self.describe(weight) for weight in weights]
        # what is written through `.data` leaves no trace; to compare values would make other devices wait
        self.values = [weight.detach().clone() if weight.device.type == "cpu" else None for weight in weights]

    def equals(self, weights: Sequence[torch.Tensor]) -> bool:
        """Compares place, version and, on the CPU, values."""
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
    """A module with a store, which is emptied when its parameters go to another device or number type."""

    def __init__(self, config: "TubeViTConfig"):
        super().__init__()
        self.config = config
        self.store = Store(config)

    def _apply(self, *args: Any, **kwargs: Any) -> "StoringModule":
        self.store.clear()
        return super()._apply(*args, **kwargs)


def can_keep(like: torch.Tensor) -> bool:
    """Tells whether a tensor beside this one is an ordinary one, which outlives the call."""
    return (
        type(like) in (torch.Tensor, nn.Parameter)
        and like.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        # the last costs time: of devices other than the CPU it tells whether their stream is captured
        and (like.device.type == "cpu" or not is_tracing(like))
    )
