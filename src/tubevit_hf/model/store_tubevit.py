# SPDX-License-Identifier: Apache-2.0
"""Keeps results that do not depend on pixels: a model computes them once for a size, number type and device."""

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers.utils.import_utils import is_tracing

from .tubes_tubevit import Size


if TYPE_CHECKING:
    from .configuration_tubevit import TubeViTConfig


# results of one store: a model meets few sizes at a time, and its tables are of some megabytes each
NUM_RESULTS = 16

ResultT = TypeVar("ResultT")


class Store:
    """The latest results of a module, by their keys.

    A store is no part of its module's state: copies and pickles of the module begin with an empty one. Results are
    shared between calls, so that nobody may change them in place.
    """

    def __init__(self, config: "TubeViTConfig") -> None:
        self.config = config
        self.results: dict[Hashable, Any] = {}
        # replicas of `DataParallel` are threads that share it
        self.lock = Lock()

    def __reduce__(self) -> tuple[type["Store"], tuple["TubeViTConfig"]]:
        return Store, (self.config,)

    def get(self, key: Hashable, compute: Callable[[], ResultT]) -> ResultT:
        """Returns the result of this key, and computes it if it is not kept. An error is not kept."""
        with self.lock:
            result = self.results.pop(key, None)
            if result is not None:
                # the oldest come first
                self.results[key] = result
        if result is not None:
            return result
        # tensors of inference mode could not take part in training later
        with torch.inference_mode(False), torch.no_grad():
            result = compute()
        with self.lock:
            self.results[key] = result
            while len(self.results) > NUM_RESULTS:
                del self.results[next(iter(self.results))]
        return result

    def get_static(self, size: Size, compute: Callable[[Size], ResultT]) -> ResultT:
        """Returns `compute(size)`. It is kept if the lengths are numbers, and not symbols of a graph."""
        if torch.compiler.is_compiling() or any(type(length) is not int for length in size):
            return compute(size)
        return self.get(size, lambda: compute(size))

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
        """
        if not can_keep(like) or not all(map(self.is_frozen, weights)):
            return compute()
        key = (key, like.dtype, like.device)
        if not weights:
            return self.get(key, compute)

        def compute_of_weights() -> tuple[Source, torch.Tensor]:
            return Source(weights), compute()

        source, result = self.get(key, compute_of_weights)
        if not source.equals(weights):
            with self.lock:
                self.results.pop(key, None)
            _, result = self.get(key, compute_of_weights)
        return result

    def is_frozen(self, weight: torch.Tensor) -> bool:
        """Tells whether a weight is frozen by `freeze_before`. Others that need no gradient may be averages of a model
        that trains, which are often written through `.data`; and where processes share a weight, its parts change."""
        return (
            self.config.freeze_before is not None
            and isinstance(weight, torch.nn.Parameter)
            and not weight.requires_grad
            and not weight.is_inference()
            and not (torch.distributed.is_available() and torch.distributed.is_initialized())
        )


class Source:
    """The weights that a result was computed of."""

    def __init__(self, weights: Sequence[torch.Tensor]):
        # aliases, so that no other weights can come to lie at their place while the result is kept
        self.weights = [weight.detach() for weight in weights]
        self.versions = [weight._version for weight in weights]
        # what is written through `.data` leaves no trace; to compare values would make other devices wait
        self.values = [weight.detach().clone() if weight.device.type == "cpu" else None for weight in weights]

    def equals(self, weights: Sequence[torch.Tensor]) -> bool:
        """Compares place, version and, on the CPU, values."""
        return all(
            kept.device == weight.device
            and kept.dtype == weight.dtype
            and kept.is_set_to(weight)
            and version == weight._version
            and (values is None or torch.equal(values, weight))
            for kept, version, values, weight in zip(self.weights, self.versions, self.values, weights)
        )


def can_keep(like: torch.Tensor) -> bool:
    """Tells whether a tensor beside this one is an ordinary one, which outlives the call."""
    return (
        type(like) in (torch.Tensor, torch.nn.Parameter)
        and like.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        # the last costs time: of devices other than the CPU it tells whether their stream is captured
        and (like.device.type == "cpu" or not is_tracing(like))
    )
