# SPDX-License-Identifier: Apache-2.0
"""Patches that are copied in blocks of pixels are those that are copied pixel by pixel."""

import random
from itertools import product

import pytest
import torch

from tubevit_hf import TubeViTConfig
from tubevit_hf.model.patches_tubevit import copy_patches, find_block, gather_patches, is_plain, view_patches
from tubevit_hf.model.store_tubevit import Store
from tubevit_hf.model.tubes_tubevit import Size, Tube

from ..support.tolerances import assert_close


NUM_TRIALS = 25
# of a clip in memory: as it is, a part of a wider one, axes in another order, every other row
LAYOUTS = {
    "contiguous": lambda clip: clip,
    "cropped": lambda clip: clip[..., 4:36],
    "cropped at an odd place": lambda clip: clip[..., 3:36],
    "channels first": lambda clip: clip.transpose(1, 2).contiguous().transpose(1, 2),
    "every other row": lambda clip: clip[..., ::2, :],
    "every other pixel": lambda clip: clip[..., ::2],
    "one frame repeated": lambda clip: clip[:, :1].expand(-1, 20, -1, -1, -1),
}


def random_tube(generator: random.Random) -> Tube:
    def draw(*numbers: int) -> list[int]:
        return [generator.choice(numbers) for _ in range(3)]

    space_to_depth = draw(1, 2)
    stride = [step * factor for step, factor in zip(draw(1, 2, 4, 8), space_to_depth)]
    return Tube(
        tuple(draw(1, 2, 3, 4, 8)), tuple(stride), tuple(draw(0, 1, 2, 4, 8)), tuple(space_to_depth), out_channels=3
    )


def naive_patches(clip: torch.Tensor, tube: Tube, grid: Size) -> torch.Tensor:
    tokens = []
    for token in product(*map(range, grid)):
        corner = [offset + at * step for offset, at, step in zip(tube.offset, token, tube.stride)]
        neighbours = []
        for neighbour in product(*map(range, tube.space_to_depth)):
            t, h, w = (
                slice(start + at * step, start + at * step + length)
                for start, at, step, length in zip(corner, neighbour, tube.kernel_stride, tube.kernel_size)
            )
            # (batch, kt, channels, kh, kw) -> (batch, channels * kt * kh * kw)
            neighbours.append(clip[:, t, :, h, w].transpose(1, 2).flatten(1))
        tokens.append(torch.stack(neighbours, dim=1))
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_of_pixels_are_pixels(layout, dtype):
    generator, num_blocks = random.Random(0), 0
    clip = LAYOUTS[layout](torch.randn(2, 20, 3, 32, 40).to(dtype))
    for _ in range(NUM_TRIALS):
        tube = random_tube(generator)
        grid = tube.grid((20, *clip.shape[3:]))
        if all(grid):
            store = Store(TubeViTConfig())
            found = gather_patches(clip, tube, dtype, store)
            assert_close(found, copy_patches(view_patches(clip, tube), dtype), "exact")
            assert_close(found, naive_patches(clip, tube, grid), "exact")
            num_blocks += find_block(clip, tube, dtype) > 1
    assert (num_blocks > 3) == (layout not in ("cropped at an odd place", "every other pixel"))


def test_table_12_is_copied_in_blocks():
    clip = torch.zeros(1, 32, 3, 224, 224, dtype=torch.bfloat16)
    tubes = TubeViTConfig().resolved_tubes
    assert [find_block(clip, tube, clip.dtype) for tube in tubes] == [8, 4, 4, 8]


def test_what_needs_pixels_gets_pixels():
    tube, clip = TubeViTConfig().resolved_tubes[3], torch.randn(1, 1, 3, 32, 32)
    assert find_block(clip, tube, torch.float32) == 4
    assert find_block(clip, tube, torch.bfloat16) == 1
    assert is_plain(clip)
    assert not is_plain(clip.clone().requires_grad_())
    assert not is_plain(clip.to("meta"))
    assert not is_plain(torch._neg_view(clip))
    torch.func.vmap(lambda one: gather_patches(one[None], tube, torch.float32, Store(TubeViTConfig())))(clip)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_windows_are_found_again(dtype):
    """In clips that lie elsewhere in memory."""
    tube, store = TubeViTConfig().resolved_tubes[1], Store(TubeViTConfig())
    clips = torch.randn(5, 24, 3, 40, 48)
    for given in (clips, clips[:3], clips[2:], clips[2:, 2:], clips[..., 4:], clips[..., 1:], clips.flip(0)):
        for _ in range(2):
            found = gather_patches(given, tube, dtype, store)
            assert_close(
                found, naive_patches(given, tube, tube.grid((given.shape[1], 40, given.shape[4]))).to(dtype), "exact"
            )
