# SPDX-License-Identifier: Apache-2.0
"""Tube geometry against counting: where each kernel lands, pixel by pixel."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from tubevit_hf import TubeViTConfig
from tubevit_hf.model.tubes_tubevit import Tube, resolve_tubes, sincos_positions, smallest_tube

from ..support import naive
from ..support.tolerances import assert_close


# Table 12 of the paper: kernel, stride, offset, space-to-depth, all (t, h, w)
TABLE_12 = [
    ((8, 8, 8), (16, 32, 32), (0, 0, 0), (2, 1, 1)),
    ((16, 4, 4), (6, 32, 32), (4, 8, 8), (1, 2, 2)),
    ((4, 12, 12), (16, 32, 32), (0, 16, 16), (1, 1, 1)),
    ((1, 16, 16), (32, 16, 16), (0, 0, 0), (1, 1, 1)),
]


def random_tube(rng: random.Random) -> dict:
    """Any tube: kernels longer and shorter than the stride, gaps, offsets, uneven space-to-depth."""
    factors = [rng.choice([1, 1, 2, 3]) for _ in range(3)]
    return {
        "kernel_size": [rng.randint(1, 7) for _ in range(3)],
        "stride": [factor * rng.randint(1, 5) for factor in factors],
        "offset": [rng.randint(0, 5) for _ in range(3)],
        "space_to_depth": factors,
    }


def random_tubes_and_sizes(count: int = 300):
    rng = random.Random(0)
    for _ in range(count):
        # 216 is a multiple of every product of the factors above
        values = random_tube(rng)
        size = tuple(rng.choice([rng.randint(1, 12), rng.randint(1, 40)]) for _ in range(3))
        yield Tube.from_dict(values, hidden_size=216), naive.read_tube(values, 216), size


def counted_grid(tube, size):
    """How many distinct positions the tokens have along each axis, by listing the tokens."""
    tokens = naive.tokens_of(tube, size)
    return tuple(len({index[axis] for index, _ in tokens}) for axis in range(3))


def test_default_tubes_are_table_12():
    tubes = TubeViTConfig().resolved_tubes
    assert [(tube.kernel_size, tube.stride, tube.offset, tube.space_to_depth) for tube in tubes] == TABLE_12
    assert [tube.out_channels for tube in tubes] == [384, 192, 768, 768]
    assert [tube.kernel_stride for tube in tubes] == [(8, 32, 32), (6, 16, 16), (16, 32, 32), (32, 16, 16)]
    # 8 + 8 frames side by side; 4 + 4 pixels with 12 between them
    assert [tube.extent for tube in tubes] == [(16, 8, 8), (16, 20, 20), (4, 12, 12), (1, 16, 16)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((32, 224, 224), [(2, 7, 7), (3, 7, 7), (2, 7, 7), (1, 14, 14)]),  # 98 + 147 + 98 + 196 = 539
        ((64, 224, 224), [(4, 7, 7), (8, 7, 7), (4, 7, 7), (2, 14, 14)]),  # 196 + 392 + 196 + 392 = 1,176
        ((1, 224, 224), [(0, 0, 0), (0, 0, 0), (0, 0, 0), (1, 14, 14)]),  # an image: 196
    ],
)
def test_grids_of_table_12(size, expected):
    config = TubeViTConfig()
    assert config.token_grids(*size) == expected
    assert [counted_grid(naive.read_tube(tube, 768), size) for tube in config.tubes] == expected
    assert config.num_tokens(*size) == {32: 539, 64: 1176, 1: 196}[size[0]]


def test_grid_is_the_number_of_places_where_the_whole_token_fits():
    empty = full = 0
    for tube, plain, size in random_tubes_and_sizes():
        grid = tube.grid(size)
        assert grid == counted_grid(plain, size), (tube, size)
        empty += grid == (0, 0, 0)
        full += math.prod(grid) > 1
    # neither branch may be untried
    assert empty > 30
    assert full > 30


def test_a_finer_stride_keeps_the_tokens_that_were_there():
    """And along axes with space-to-depth it keeps itself."""
    rng, refined = random.Random(1), 0
    for tube, naive_tube, size in random_tubes_and_sizes():
        factors = tuple(rng.choice([factor for factor in (1, 2, 3) if step % factor == 0]) for step in tube.stride)
        finer = tube.refine_stride(factors)
        refined += finer != tube
        stride = [
            step if parts > 1 else step // factor
            for step, factor, parts in zip(tube.stride, factors, tube.space_to_depth)
        ]
        assert finer == replace(tube, stride=tuple(stride))
        seen = [pixels for _, pixels in naive.tokens_of(naive.read_tube(finer.to_dict(), 216), size)]
        assert all(pixels in seen for _, pixels in naive.tokens_of(naive_tube, size))
    assert refined > 50


def test_a_stride_is_divided_by_what_divides_it():
    tube = TubeViTConfig().resolved_tubes[1]
    with pytest.raises(ValueError, match=r"\[6, 32, 32\] cannot be divided by \[4, 1, 1\]"):
        tube.refine_stride((4, 4, 4))


def test_extent_and_centers_are_those_of_the_touched_pixels():
    gaps = 0
    for tube, plain, size in random_tubes_and_sizes():
        for axis, length in enumerate(size):
            starts = naive.kernel_starts(plain, axis, length)
            if not starts:
                continue
            assert all(len(naive.seen(plain, axis, token)) == tube.extent[axis] for token in starts)
            gaps += tube.kernel_stride[axis] > tube.kernel_size[axis] and tube.space_to_depth[axis] > 1
            expected = [naive.center(plain, axis, token) for token in starts]
            # halves and whole numbers: exact in any floating point type
            assert tube.centers(axis, len(starts), torch.float32).tolist() == expected
    assert gaps > 30


@pytest.mark.parametrize(
    ("tube", "expected"),
    [
        # a patch at the origin: one frame is half a frame deep
        ({"kernel_size": [1, 16, 16], "stride": [32, 16, 16]}, (0.5, 8.0, 8.0)),
        # two kernels of 8 frames
        (TubeViTConfig().tubes[0], (8.0, 4.0, 4.0)),
        # four kernels of 4 pixels with gaps: pixels 8 to 27 from offset 8; frames 4 to 19
        (TubeViTConfig().tubes[1], (12.0, 18.0, 18.0)),
        (TubeViTConfig().tubes[2], (2.0, 22.0, 22.0)),
    ],
)
def test_centers_of_table_12(tube, expected):
    tube = Tube.from_dict(tube, hidden_size=768)
    assert tuple(tube.centers(axis, 1, torch.float64).item() for axis in range(3)) == expected
    second = [tube.centers(axis, 2, torch.float64)[1].item() for axis in range(3)]
    assert second == [first + step for first, step in zip(expected, tube.stride)]


def test_valid_tokens_see_real_frames_only():
    generator = torch.Generator().manual_seed(0)
    counts = {True: 0, False: 0}
    for tube, plain, size in random_tubes_and_sizes():
        tokens = naive.tokens_of(plain, size)
        if not tokens:
            continue
        lengths = torch.randint(0, size[0] + 1, (2,), generator=generator)
        padded = torch.arange(size[0]) < lengths[:, None]
        # holes are not what padding looks like, but tell the gaps of an extent from its ends
        holes = torch.rand(2, size[0], generator=generator) < 0.9
        frame_mask = torch.cat((padded, holes, torch.ones(1, size[0], dtype=torch.bool)))
        expected = [
            [all(real[frame] for frame in naive.seen(plain, 0, starts[0])) for _, starts in tokens]
            for real in frame_mask.tolist()
        ]
        assert tube.valid_tokens(frame_mask, tube.grid(size)).tolist() == expected, (tube, size)
        for row in expected:
            for counted in row:
                counts[counted] += 1
    assert min(counts.values()) > 1000


@pytest.mark.parametrize("dim", [1, 5, 6, 7, 13, 20, 24, 192, 768])
def test_sincos_table(dim):
    axes = [[0.5, 7.0, 63.5], [8.0, 24.0], [3.0, 100.25, 220.0, 19.0]]
    table = sincos_positions([torch.tensor(axis, dtype=torch.float64) for axis in axes], dim)
    expected = torch.stack([naive.sincos(t, y, x, dim) for t, y, x in itertools.product(*axes)])
    assert table.shape == (24, dim)
    assert_close(table, expected, "float64")
    # channels beyond the last whole group of six get nothing, which below six is all of them
    assert not table[:, 6 * (dim // 6) :].any()
    assert table[:, : 6 * (dim // 6)].any() == (dim >= 6)


def test_sincos_frequencies():
    """The first band turns with the position itself, the last nearly 10,000 times slower: Transformer spacing."""
    zero = torch.zeros(1, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    row = sincos_positions([one, zero, zero], 768)[0]
    assert_close(row[0], math.sin(1), "float64")
    assert_close(row[6 * 127], math.sin(10_000 ** (-127 / 128)), "float64")
    # t, then x, then y: each axis moves its own pair of channels and no other
    still = sincos_positions([zero, zero, zero], 12)[0]
    for axes, moved in [((one, zero, zero), {0, 1}), ((zero, zero, one), {2, 3}), ((zero, one, zero), {4, 5})]:
        table = sincos_positions(axes, 12)[0]
        assert {channel % 6 for channel in (table != still).nonzero().flatten().tolist()} == moved


def test_sincos_in_float32_is_exact_enough_for_long_and_large_clips():
    axes = [torch.arange(0.5, 256), torch.arange(8.0, 1024, 16), torch.tensor([1000.0])]
    exact = sincos_positions([axis.double() for axis in axes], 768)
    assert_close(sincos_positions(axes, 768), exact, "float32_position")


def test_smallest_tube_is_of_smallest_extent():
    tubes = resolve_tubes(
        [
            {"kernel_size": [4, 4, 4], "stride": 8},
            # the smallest kernel, but its four applications spread over 2x17x17
            {"kernel_size": [2, 1, 1], "stride": 32, "space_to_depth": [1, 2, 2]},
            {"kernel_size": [5, 5, 5], "stride": 8},
        ],
        hidden_size=16,
    )
    assert tubes[1].extent == (2, 17, 17)
    assert smallest_tube(tubes) is tubes[0]


def test_one_number_stands_for_all_three_axes():
    short = Tube.from_dict({"kernel_size": 2, "stride": 4, "offset": 1, "space_to_depth": 2}, hidden_size=24)
    assert short == Tube((2, 2, 2), (4, 4, 4), (1, 1, 1), (2, 2, 2), out_channels=3)
    assert Tube.from_dict(short.to_dict(), hidden_size=24) == short
