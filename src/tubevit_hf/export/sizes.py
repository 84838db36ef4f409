# SPDX-License-Identifier: Apache-2.0
"""Which clips one exported graph serves: those in which the same tubes fit."""

from dataclasses import asdict, dataclass
from typing import Any

from ..model.configuration_tubevit import TubeViTConfig
from ..model.moments_tubevit import find_moment_tube
from ..model.tubes_tubevit import Size, Tube, as_size


AXES = ("frames", "pixels of height", "pixels of width")


@dataclass(frozen=True)
class SizeRange:
    """Sizes `(num_frames, height, width)` that a graph serves, both ends included.

    Args:
        minimum: the least along each axis.
        maximum: the most along each axis; `None` where there is no end.
        least_real_frames: how many real frames a padded clip needs.
    """

    minimum: Size
    maximum: tuple[int | None, int | None, int | None]
    least_real_frames: int

    @classmethod
    def of_config(cls, config: TubeViTConfig, size: Size) -> "SizeRange":
        """The sizes in which the same tubes fit as in `size` (frames, pixels)."""
        fitting = [tube for tube in config.resolved_tubes if all(tube.grid(size))]
        minimum = [max(far_end(tube)[axis] for tube in fitting) for axis in range(3)]
        maximum: list[int | None] = [None, None, None]
        for tube in config.resolved_tubes:
            if tube not in fitting:
                # below this end along one axis it does not fit, whatever the others are
                axis = next(axis for axis in range(3) if size[axis] < far_end(tube)[axis])
                maximum[axis] = _smaller(maximum[axis], far_end(tube)[axis] - 1)
                continue
            of_moments = config.joint_layer > 0 and tube.sees_one_frame
            for axis, pooled in zip((1, 2), config.joint_pooling if of_moments else (1, 1)):
                # runtimes disagree about pictures of a single row or column, before and after pooling
                several = far_end(tube)[axis] + pooled * tube.stride[axis]
                if size[axis] >= several:
                    minimum[axis] = max(minimum[axis], several)
                else:
                    maximum[axis] = _smaller(maximum[axis], several - 1)
        least_real_frames = min(far_end(tube)[0] for tube in fitting)
        if config.joint_layer > 0:
            # a single moment is encoded as an image, which is another graph
            tube = find_moment_tube(fitting)
            second_moment = far_end(tube)[0] + tube.stride[0]
            if size[0] >= second_moment:
                minimum[0] = max(minimum[0], second_moment)
                if config.pooling_type != "grid" or config.joint_layer < config.num_hidden_layers:
                    least_real_frames = second_moment
            else:
                maximum[0] = _smaller(maximum[0], second_moment - 1)
        first, second, third = maximum
        return cls(as_size(minimum), (first, second, third), least_real_frames)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SizeRange":
        first, second, third = values["maximum"]
        return cls(as_size(values["minimum"]), (first, second, third), values["least_real_frames"])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def clamp(self, size: Size) -> Size:
        """The size in the range that is nearest."""
        return as_size(
            max(least, length if most is None else min(length, most))
            for length, least, most in zip(size, self.minimum, self.maximum)
        )

    def check(self, size: Size) -> None:
        """Raises a `ValueError` that names the axis if `size` is outside of the range."""
        for name, length, least, most in zip(AXES, size, self.minimum, self.maximum):
            if length < least or (most is not None and length > most):
                allowed = f"from {least} to {most}" if most is not None else f"{least} or more"
                raise ValueError(
                    f"this graph takes clips of {allowed} {name}, got {length}: other tubes fit others. Use the "
                    "checkpoint that it was made of, or export a graph at this size."
                )


def far_end(tube: Tube) -> Size:
    """Where a tube's first token ends along each axis: the smallest clip that holds it."""
    return as_size(offset + extent for offset, extent in zip(tube.offset, tube.extent))


def _smaller(most: int | None, length: int) -> int:
    return length if most is None else min(most, length)
