# SPDX-License-Identifier: Apache-2.0
"""Caches results that do not depend on pixels: a model computes them once per clip size, dtype and device."""

from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers.utils.import_utils import is_tracing

from .tubes_tubevit import Size


if TYPE_CHECKING:
    from .configuration_tubevit import TubeViTConfig


# most results of one store: a model meets few sizes at a time, and a table takes some megabytes
NUM_RESULTS = 16

ResultT = TypeVar("ResultT")


class Store:
    """A cache of a module's latest results.

    The cache is no part of the module's state: copies and pickles of the module begin with an empty one. Calls share
    the results, so that nobody may change them in place.
    """

    def __init__(self, config: "TubeViTConfig") -> None:
        self.config = config
        self.results: dict[Hashable, Any] = {}
        # replicas of `DataParallel` are threads that share this cache
        self.lock = Lock()

    def __reduce__(self) -> tuple[type["Store"], tuple["TubeViTConfig"]]:
        return Store, (self.config,)

    def get(self, key: Hashable, compute: Callable[[], ResultT]) -> ResultT:
        """Returns the cached result of `key`, or computes and caches it. An error is not cached."""
        with self.lock:
            result = self.results.pop(key, None)
            if result is not None:
                # back to the end: the least recently used come first, and are removed first
                self.results[key] = result
        if result is not None:
            return result
        # tensors made in inference mode cannot be used in training later
        with torch.inference_mode(False), torch.no_grad():
            result = compute()
        with self.lock:
            self.results[key] = result
            while len(self.results) > NUM_RESULTS:
                del self.results[next(iter(self.results))]
        return result

    def get_static(self, size: Size, compute: Callable[[Size], ResultT]) -> ResultT:
        """Returns `compute(size)`, cached unless a graph is traced or a length is a symbol of one."""
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
        """Returns the tensor of `key` in the dtype and on the device of `like`, cached where that is safe.

        Args:
            key: names the tensor within this cache.
            compute: makes the tensor.
            like: a tensor with its dtype and device. See `can_keep` for the tensors beside which nothing is cached.
            weights: the parameters that `compute` reads. The tensor is cached only while all of them are frozen, and
                computed again after one has changed.
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
        """Returns True if `freeze_before` froze this weight, and changes of it can be seen.

        Other weights without gradients may be moving averages of a model in training, which are often written through
        `.data`. In distributed training, a weight may be sharded, and its parts change.
        """
        return (
            self.config.freeze_before is not None
            and isinstance(weight, torch.nn.Parameter)
            and not weight.requires_grad
            and not weight.is_inference()
            and not (torch.distributed.is_available() and torch.distributed.is_initialized())
        )


class Source:
    """Records the weights that a result was computed from."""

    def __init__(self, weights: Sequence[torch.Tensor]):
        # aliases keep the memory, so that no other weight can get the same address
        self.weights = [weight.detach() for weight in weights]
        self.versions = [weight._version for weight in weights]
        # writes through `.data` do not raise the version. On a GPU, a comparison would make the host wait
        self.values = [weight.detach().clone() if weight.device.type == "cpu" else None for weight in weights]

    def equals(self, weights: Sequence[torch.Tensor]) -> bool:
        """Compares memory address, version and, on the CPU, values."""
        return all(
            kept.device == weight.device
            and kept.dtype == weight.dtype
            and kept.is_set_to(weight)
            and version == weight._version
            and (values is None or torch.equal(values, weight))
            for kept, version, values, weight in zip(self.weights, self.versions, self.values, weights)
        )


def can_keep(like: torch.Tensor) -> bool:
    """Returns True if results beside this tensor can be cached: it is a plain tensor, and no graph is traced."""
    return (
        type(like) in (torch.Tensor, torch.nn.Parameter)
        and like.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        # last, since it takes time: on other devices it also asks whether a CUDA graph is being captured
        and (like.device.type == "cpu" or not is_tracing(like))
    )
