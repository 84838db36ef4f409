# SPDX-License-Identifier: Apache-2.0
"""The geometry of sparse video tubes: the number of tokens, and the region of a clip that each token sees.

A tube is one 3-D kernel that is applied with a large stride ([Sparse Video Tubes](https://arxiv.org/abs/2212.03229),
Section 3.2 and Table 12). Every function here depends on a tube and a clip's size only. Configuration, model, plots
and tests all call them, so that the token count and the token centre are each one formula in one place.

Axes are always `(time, height, width)`, in frames and pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from math import prod
from typing import Any

import torch


# (time, height, width)
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Tube:
    """One tube: a 3-D kernel that samples the clip sparsely.

    With `space_to_depth` the kernel runs at the finer stride `stride / space_to_depth`, and the outputs of
    `prod(space_to_depth)` neighbours are concatenated along the channels into one token (Section 3.4). The number of
    tokens stays what `stride` says.

    Args:
        kernel_size: `(t, h, w)` of the kernel, in frames and pixels.
        stride: `(t, h, w)` between two tokens, in frames and pixels.
        offset: `(t, h, w)` of the first token's corner, in frames and pixels.
        space_to_depth: number of neighbouring outputs that are concatenated, along each axis.
        out_channels: channels of one kernel output, before concatenation.
    """

    kernel_size: Size
    stride: Size
    offset: Size
    space_to_depth: Size
    out_channels: int

    @classmethod
    def from_dict(cls, values: dict[str, Any], hidden_size: int, name: str = "tube") -> "Tube":
        """Reads and checks a tube in the form of a config; errors call it `name`.

        Raises:
            TypeError: `values` is no dict, or one of its values has a wrong type.
            ValueError: a key is unknown or missing, a value is out of range, or `space_to_depth` does not divide.
        """
        if not isinstance(values, dict):
            raise TypeError(f"`{name}` must be a dict of {_TUBE_KEYS}, got {values!r}.")
        for key in values:
            if key not in _TUBE_KEYS:
                suggestion = "".join(
                    f" Did you mean {close!r}?" for close in get_close_matches(str(key), _TUBE_KEYS, 1)
                )
                raise ValueError(f"`{name}` has an unknown key {key!r}; allowed are {_TUBE_KEYS}.{suggestion}")
        for key in ("kernel_size", "stride"):
            if key not in values:
                raise ValueError(f"`{name}` lacks {key!r}: give it as [t, h, w], in frames and pixels. Got {values}.")

        kernel_size = _read_size(values["kernel_size"], f"{name}.kernel_size", minimum=1)
        stride = _read_size(values["stride"], f"{name}.stride", minimum=1)
        offset = _read_size(values.get("offset", 0), f"{name}.offset", minimum=0)
        space_to_depth = _read_size(values.get("space_to_depth", 1), f"{name}.space_to_depth", minimum=1)
        if any(step % factor for step, factor in zip(stride, space_to_depth)):
            raise ValueError(
                f"`{name}.space_to_depth` must divide the stride along each axis, got {list(space_to_depth)} for a "
                f"stride of {list(stride)}."
            )

        num_neighbours = prod(space_to_depth)
        out_channels = values.get("out_channels")
        if out_channels is None:
            if hidden_size % num_neighbours:
                raise ValueError(
                    f"`{name}.space_to_depth` {list(space_to_depth)} concatenates {num_neighbours} outputs, which "
                    f"does not divide the width of {hidden_size} (`hidden_size`). Change it, or give `out_channels`: "
                    f"at least {-(-hidden_size // num_neighbours)}; what exceeds the width is cut."
                )
            out_channels = hidden_size // num_neighbours
        out_channels = _read_int(out_channels, f"{name}.out_channels", minimum=1)
        if out_channels * num_neighbours < hidden_size:
            raise ValueError(
                f"`{name}.out_channels` is {out_channels}, so that {num_neighbours} concatenated output(s) give "
                f"{out_channels * num_neighbours} channels, fewer than the width of {hidden_size} (`hidden_size`). "
                f"Use at least {-(-hidden_size // num_neighbours)}."
            )
        return cls(kernel_size, stride, offset, space_to_depth, out_channels)

    def to_dict(self) -> dict[str, Any]:
        """Returns the tube in the form of a config: plain lists, every key present."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def kernel_stride(self) -> Size:
        """Stride between two kernel outputs: `stride / space_to_depth`."""
        return as_size(step // factor for step, factor in zip(self.stride, self.space_to_depth))

    @property
    def extent(self) -> Size:
        """Size of the region that one token sees, with the gaps between concatenated neighbours."""
        return as_size(
            kernel + (factor - 1) * step
            for kernel, factor, step in zip(self.kernel_size, self.space_to_depth, self.kernel_stride)
        )

    @property
    def sees_one_frame(self) -> bool:
        """True if each token sees a single frame, as a patch of an image does."""
        return self.extent[0] == 1

    def refine_stride(self, factors: Size) -> "Tube":
        """Returns the same tube with its stride divided by `factors`.

        Its tokens stay where they are, and new ones come between them. Along axes with space-to-depth the stride stays
        as well: a finer stride would move the neighbours that make a token.

        Raises:
            ValueError: a factor does not divide the stride.
        """
        factors = as_size(1 if parts > 1 else factor for parts, factor in zip(self.space_to_depth, factors))
        if any(step % factor for step, factor in zip(self.stride, factors)):
            raise ValueError(
                f"a tube's stride of {list(self.stride)} cannot be divided by {list(factors)}: choose factors that "
                "divide it along each axis."
            )
        return replace(self, stride=as_size(step // factor for step, factor in zip(self.stride, factors)))

    def grid(self, size: Size) -> Size:
        """Number of tokens along `(t, h, w)` in a clip of `size` (frames, pixels); all 0 if the tube does not fit."""
        # stops at the first axis along which it does not fit, so that a traced graph has no condition on the others
        if any(length < offset + extent for length, offset, extent in zip(size, self.offset, self.extent)):
            return 0, 0, 0
        return as_size(
            (length - offset - extent) // step + 1
            for length, offset, extent, step in zip(size, self.offset, self.extent, self.stride)
        )

    def centers(self, axis: int, length: int, dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
        """Centres of the first `length` tokens along `axis`, in frames or pixels: `(length,)`.

        It is the centre of the whole extent: a 1x16x16 patch at the origin lies at (0.5, 8, 8).
        """
        index = torch.arange(length, dtype=dtype, device=device)
        return index * self.stride[axis] + (self.offset[axis] + self.extent[axis] / 2)

    def valid_tokens(self, frame_mask: torch.Tensor, grid: Size) -> torch.Tensor:
        """Marks the tokens that see real frames only.

        Args:
            frame_mask: `(batch, num_frames)`, bool, True where a frame is real.
            grid: the tube's grid in a clip of `num_frames`.

        Returns:
            `(batch, t * h * w)`, bool: True where every frame of the token's extent is real.
        """
        _, height, width = grid
        frames = frame_mask[:, self.offset[0] :].unfold(1, self.extent[0], self.stride[0])  # (batch, t, extent)
        return frames.all(dim=-1).repeat_interleave(height * width, dim=1)


_TUBE_KEYS = list(Tube.__dataclass_fields__)


def resolve_tubes(tubes: Sequence[dict[str, Any]] | None, hidden_size: int) -> tuple[Tube, ...]:
    """Reads the tubes of a config. A cache holds the last results, so that equal tubes are read once.

    Raises:
        TypeError, ValueError: as `Tube.from_dict`, with the index of the tube; also if the list is empty or None.
    """
    # torch.compile ignores a cache, and warns of it
    frozen = None if torch.compiler.is_compiling() else _freeze(tubes, hidden_size)
    if frozen is not None:
        try:
            return _read_frozen(frozen, hidden_size)
        except (TypeError, ValueError):
            # read again below, since errors quote the values as they were given
            pass
    return _read_tubes(tubes, hidden_size)


def _freeze(tubes: Any, hidden_size: Any) -> tuple[Any, ...] | None:
    """Turns tubes into tuples of keys and values, which can be hashed. Returns `None` if a number is not an `int`: a
    cache cannot distinguish `True` and `1.0` from `1`."""
    if type(tubes) not in (list, tuple):
        return None
    frozen: list[tuple[Any, ...]] = []
    numbers = [hidden_size]
    for tube in tubes:
        if type(tube) is not dict:
            return None
        items = []
        for key, value in tube.items():
            if type(value) in (list, tuple):
                value = tuple(value)
                numbers += value
            elif value is not None:
                numbers.append(value)
            items.append((key, value))
        frozen.append(tuple(items))
    return tuple(frozen) if set(map(type, numbers)) == {int} else None


@lru_cache(maxsize=128)
def _read_frozen(frozen: tuple[Any, ...], hidden_size: int) -> tuple[Tube, ...]:
    return _read_tubes([dict(tube) for tube in frozen], hidden_size)


def _read_tubes(tubes: Sequence[dict[str, Any]] | None, hidden_size: int) -> tuple[Tube, ...]:
    _read_int(hidden_size, "hidden_size", minimum=1)
    if not isinstance(tubes, (list, tuple)):
        raise TypeError(f"`tubes` must be a list of dicts, got {tubes!r}.")
    if not tubes:
        raise ValueError(
            "`tubes` is empty: give at least one, such as {'kernel_size': [1, 16, 16], 'stride': [32, 16, 16]}."
        )
    return tuple(Tube.from_dict(tube, hidden_size, name=f"tubes[{index}]") for index, tube in enumerate(tubes))


def as_size(lengths: Iterable[int]) -> Size:
    """Returns three lengths as a tuple whose length type checkers know."""
    time, height, width = lengths
    return time, height, width


def smallest_tube(tubes: Sequence[Tube]) -> Tube:
    """Returns the tube with the smallest extent, by volume: it is the most likely to fit a clip."""
    return min(tubes, key=lambda tube: prod(tube.extent))


def sincos_positions(axes: Sequence[torch.Tensor], dim: int, temperature: float = 10_000.0) -> torch.Tensor:
    """Computes sine-cosine position embeddings of a grid of 3-D points (Eq. 3 to 7).

    Channels `6j` to `6j + 5` hold sin and cos of t, then of x, then of y, each times
    `omega_j = temperature ** (-j / (dim // 6))`; channels from `6 * (dim // 6)` on are 0. The paper prints
    `omega_j = 1 / temperature ** j`, which at `dim // 6 = 128` underflows after a few steps; we take the usual
    Transformer spacing.

    Args:
        axes: positions along t, y and x, of shapes `(t,)`, `(h,)` and `(w,)`, in float32 or better.
        dim: the number of channels.

    Returns:
        `(t * h * w, dim)`, in raster order, in the dtype of `axes`.
    """
    times, rows, columns = axes
    num_bands = dim // 6
    exponents = torch.arange(num_bands, dtype=times.dtype, device=times.device) / max(num_bands, 1)
    omega = temperature**-exponents

    lengths = [positions.shape[0] for positions in axes]
    bands = sincos(torch.cat((times, rows, columns)), omega).split(lengths)
    # embeddings of each axis in its own channels, 0 in the others: (n, bands, 2) -> (n, dim)
    of_times, of_rows, of_columns = (
        torch.nn.functional.pad(
            torch.nn.functional.pad(band, (before, 4 - before)).flatten(1), (0, dim - 6 * num_bands)
        )
        for band, before in zip(bands, (0, 4, 2))
    )
    # adding zeros is exact, and faster than interleaving channels at each point
    return (of_times[:, None, None] + (of_rows[:, None] + of_columns)).flatten(0, 2)


def sincos_times(times: torch.Tensor, dim: int, temperature: float = 10_000.0) -> torch.Tensor:
    """Computes sine-cosine embeddings of times: `(n,) -> (n, dim)`. The channels `2j` and `2j + 1` hold sin and cos of
    t times `temperature ** (-j / (dim // 2))`."""
    num_bands = dim // 2
    omega = temperature ** -(torch.arange(num_bands, dtype=times.dtype, device=times.device) / max(num_bands, 1))
    return torch.nn.functional.pad(sincos(times, omega).flatten(1), (0, dim - 2 * num_bands))


def sincos(positions: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """Computes sin and cos of each position at each frequency: `(n,)`, `(bands,) -> (n, bands, 2)`."""
    angles = positions[:, None] * omega
    return torch.stack((angles.sin(), angles.cos()), dim=-1)


def _read_int(value: Any, name: str, minimum: int) -> int:
    # bool is an int to Python, but a mistake here
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be made of whole numbers, got {value!r} ({type(value).__name__}).")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")
    return value


def _read_size(value: Any, name: str, minimum: int) -> Size:
    if not isinstance(value, (list, tuple)):
        return (_read_int(value, name, minimum),) * 3
    if len(value) != 3:
        raise ValueError(f"`{name}` must be [t, h, w] or one number for all three, got {list(value)}.")
    return as_size(_read_int(item, name, minimum) for item in value)
