# SPDX-License-Identifier: Apache-2.0
"""A teacher's features over each tube, against loops over the cells of its grid."""

import pytest
import torch

from tubevit_hf import TubeViTConfig
from tubevit_hf.model.tubes_tubevit import resolve_tubes
from tubevit_hf.training.tube_targets import find_stretches, tube_targets

from ..support import naive
from ..support.modeling_cases import BASE, TUBES
from ..support.tolerances import assert_close


SIZE = (11, 20, 26)


def random_states(steps: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, steps, rows, columns, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("positions", "grid"),
    [
        # a frame in the middle, and frames at odd times
        ([3], (4, 2)),
        ([1, 4, 9], (5, 13)),
        # pairs of frames, two of them half-way in a frame of the clip, and patches that are no whole pixels
        ([0.5, 2.5, 6.75, 8, 9.5], (3, 7)),
        (range(11), (10, 13)),
    ],
    ids=str,
)
@pytest.mark.parametrize("tubes", ["plain", "mixed", "time_and_space"])
def test_mean_and_change_are_those_of_loops(tubes, positions, grid):
    config = TubeViTConfig(**{**BASE, "tubes": TUBES[tubes]})
    states = random_states(len(positions), *grid)
    patch = (SIZE[1] / grid[0], SIZE[2] / grid[1])
    targets = tube_targets(states, positions, patch, config.resolved_tubes, SIZE)
    assert targets.shape == (2, config.num_tokens(*SIZE), 6)
    assert_close(targets, naive.naive_tube_targets(states, positions, config.to_dict(), SIZE), "float64")


def test_steady_motion_is_told_exactly():
    """Features that grow by 2 a frame, read every third frame."""
    positions = [1, 4, 7, 10]
    tubes = resolve_tubes(
        [
            {"kernel_size": [5, 4, 4], "stride": [3, 8, 8], "offset": [1, 0, 0]},
            # until the next token begins; the clip's last frame ends the second
            {"kernel_size": [1, 4, 4], "stride": [6, 8, 8], "offset": [2, 0, 0]},
            # the teacher's first frame stands for the one before too
            {"kernel_size": [2, 4, 4], "stride": [11, 8, 8]},
            {"kernel_size": [1, 4, 4], "stride": [1, 8, 8]},
        ],
        48,
    )
    assert [find_stretches(tube, SIZE) for tube in tubes[:3]] == [[(1, 5), (4, 8)], [(2, 7), (8, 10)], [(0, 10)]]
    states = 2 * torch.tensor(positions, dtype=torch.float32).view(1, 4, 1, 1, 1).expand(1, 4, 5, 13, 1)
    mean, change = tube_targets(states, positions, (4.0, 2.0), tubes, SIZE)[0].unbind(-1)
    # a step has 3 x 3 tokens; those of the last tube see one frame each, and no time lies between them
    expected = torch.tensor([8.0, 8, 10, 4, 18] + 11 * [0])
    assert_close(change, expected.repeat_interleave(9), "float32")
    assert not change[5 * 9 :].any()
    # 2 frames of the first, 3 of the second
    assert_close(mean[0], torch.tensor((2 * 2 + 3 * 8) / 5), "float32")


def test_half_precision_is_averaged_in_float32():
    states = random_states(3, 4, 2)
    tubes = resolve_tubes(TUBES["plain"], 20)
    targets = tube_targets(states.half(), [1, 4, 9], (5, 13), tubes, SIZE)
    assert targets.dtype == torch.float32
    assert_close(targets, tube_targets(states.half().double(), [1, 4, 9], (5, 13), tubes, SIZE), "float32")


def test_tubes_that_do_not_fit_have_no_tokens():
    tubes = resolve_tubes(TUBES["plain"], 20)
    states = random_states(1, 4, 2)
    assert torch.equal(
        tube_targets(states, [0], (5, 13), tubes, (1, 20, 26)),
        tube_targets(states, [0], (5, 13), tubes[1:], (1, 20, 26)),
    )
    with pytest.raises(ValueError, match="no tube fits a clip of 1x4x2"):
        tube_targets(states, [0], 1, tubes, (1, 4, 2))


@pytest.mark.parametrize(
    ("positions", "patch", "message"),
    [
        ([1, 4], (5, 13), r"`frame_positions`.*each of the 3 frames.*got \[1, 4\]"),
        ([1, 9, 4], (5, 13), r"`frame_positions` must be ascending.*got \[1, 9, 4\]"),
        ([1, 4, 4], (5, 13), r"`frame_positions` must be ascending.*got \[1, 4, 4\]"),
        ([-1, 4, 9], (5, 13), r"from 0 to 10.*got \[-1, 4, 9\]"),
        ([1, 4, 11], (5, 13), r"from 0 to 10.*got \[1, 4, 11\]"),
        ([1, 4, 9], (13, 5), r"4x2 patches of \(13, 5\) pixels do not tile a picture of 20x26"),
        ([1, 4, 9], 5, "4x2 patches of 5 pixels do not tile"),
    ],
)
def test_bad_grids_are_refused(positions, patch, message):
    with pytest.raises(ValueError, match=message):
        tube_targets(random_states(3, 4, 2), positions, patch, resolve_tubes(TUBES["plain"], 20), SIZE)
