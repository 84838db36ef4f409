# SPDX-License-Identifier: Apache-2.0
"""Every tolerance of the tests, each with its reason: a test names what it compares, not a number."""

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    rtol: float
    atol: float
    reason: str


TOLERANCES = {
    "exact": Tolerance(0.0, 0.0, "the same operations on the same numbers, or a value that is only copied"),
    "float64": Tolerance(
        1e-9,
        1e-10,
        "the same formula in float64 in another order: sums of up to 1e3 terms lose about 1e-13, the rest is room",
    ),
    "float32": Tolerance(
        2e-4,
        2e-5,
        "the same formula in float32 through other kernels: 1e-7 a step, through a few layers and their norms",
    ),
    "bfloat16": Tolerance(
        5e-2,
        5e-2,
        "8 bits of mantissa are 4e-3 a step; through a few layers of normed values an error of some 1e-2 stands",
    ),
    "float16": Tolerance(1e-2, 1e-2, "11 bits of mantissa are 5e-4 a step; a tenth of bfloat16's error"),
    "float32_position": Tolerance(
        0.0, 1e-4, "sin and cos of an angle of up to 1e3 in float32: the angle itself is known to 6e-5 only"
    ),
    "rounded_to_bfloat16": Tolerance(
        0.0, 4e-3, "a number of at most 1 rounded once to 8 bits: half of 2^-8, and the float32 position's own error"
    ),
    "two_processes": Tolerance(
        0.0, 1e-4, "float32 gradients summed in another order, through six steps of Adam at a learning rate of 1e-3"
    ),
    "frozen_cache": Tolerance(
        0.0, 1e-5, "float32 sums of batches of another size in frozen layers, through six steps of Adam of 1e-3"
    ),
    "packed": Tolerance(
        1e-5,
        1e-5,
        "float32 sums of a clip's tokens beside those of other clips or padding, in another order, in a new model",
    ),
    "accumulated": Tolerance(
        0.0, 1e-6, "float32 gradients summed in another order, through five steps of gradient descent of 1e-3"
    ),
    "bfloat16_loss": Tolerance(
        0.0, 0.03, "a mean over clips of losses near 2.4, each rounded at 4e-3 a step, through five steps"
    ),
    "probability": Tolerance(
        0.0, 1e-5, "a softmax of at most 1 in float32, whose products run in batches of another size"
    ),
    "millions": Tolerance(0.0, 0.05, "figures of the paper and the docs are printed in millions with one decimal"),
}

# of the standard deviation of what is compared: a converted model in float32 against its source, whose sums run in
# another order
CONVERSION_TOLERANCE = 1e-5

# of the largest logit: another runtime's float32 against PyTorch's, whose sums run in another order
EXPORT_TOLERANCE = 1e-5


def assert_close(actual, expected, tolerance: str, what: str = "") -> None:
    """`torch.testing.assert_close` with a named tolerance. Shapes must agree, dtypes only for "exact"."""
    rtol, atol, reason = TOLERANCES[tolerance]
    if not isinstance(expected, torch.Tensor):
        expected = torch.tensor(expected, dtype=actual.dtype)
    if tolerance == "exact":
        # -0.0 equals 0.0 here; dtypes must not differ
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=lambda text: f"{what}: {text}")
        return
    common = torch.promote_types(actual.dtype, expected.dtype)
    torch.testing.assert_close(
        actual.to(common),
        expected.to(common),
        rtol=rtol,
        atol=atol,
        msg=lambda text: f"{what} ({tolerance}: {reason}): {text}",
    )
