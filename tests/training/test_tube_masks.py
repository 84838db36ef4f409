# SPDX-License-Identifier: Apache-2.0
"""Masks in space-time: what the encoder predicts lies wholly in what it does not see."""

from math import prod

import pytest
import torch

from tubevit_hf import TubeViTConfig
from tubevit_hf.model.tubes_tubevit import Tube, resolve_tubes
from tubevit_hf.training.tube_masks import draw_tube_mask, find_steps, hide_cuboids, measure_leak

from ..support import naive
from ..support.tiny import tiny_config


# 74 tokens of three tubes, which overlap
SIZE = (7, 40, 56)
TUBES = tiny_config().resolved_tubes
# hold every tube
BLOCK = (7, 18, 16)


def pixels_of(tubes: tuple[Tube, ...], size) -> list[set[tuple[int, int, int]]]:
    """Of each token the pixels from the first to the last that it touches."""
    pixels = []
    for tube in tubes:
        read = naive.read_tube(tube.to_dict(), hidden_size=0)
        for _, starts in naive.tokens_of(read, size):
            axes = [naive.seen(read, axis, starts[axis]) for axis in range(3)]
            pixels.append({(t, y, x) for t in axes[0] for y in axes[1] for x in axes[2]})
    return pixels


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_no_pixel_of_a_target_is_visible(ratio):
    pixels = pixels_of(TUBES, SIZE)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(5):
        mask = draw_tube_mask(TUBES, SIZE, ratio, generator, BLOCK)
        visible, target = (
            set().union(*(pixels[index] for index in tokens.tolist())) for tokens in (mask.visible, mask.target)
        )
        assert target
        assert visible
        assert not visible & target
        assert measure_leak(TUBES, SIZE, mask.visible, mask.target) == 0
        # one cuboid more at the most
        assert ratio <= mask.hidden_share < ratio + prod(BLOCK) / prod(SIZE)
        # what is hidden holds the targets, and nothing that is visible
        assert len(target) <= round(mask.hidden_share * prod(SIZE)) <= prod(SIZE) - len(visible)
        assert all(torch.equal(tokens, tokens.sort().values) for tokens in (mask.visible, mask.target))
        shares.append(mask.hidden_share)
    assert len(set(shares)) > 1


@pytest.mark.parametrize(("ratio", "block"), [(0.3, (30, 200, 20)), (0.5, BLOCK), (0.4, (3, 40, 9))], ids=str)
def test_tokens_are_sorted_by_what_is_hidden(ratio, block):
    mask = draw_tube_mask(TUBES, SIZE, ratio, torch.Generator().manual_seed(1), block)
    # the first draw of all
    hidden = hide_cuboids(SIZE, ratio, block, find_steps(TUBES), torch.Generator().manual_seed(1))
    assert mask.hidden_share == hidden.double().mean()
    states = [{bool(hidden[pixel]) for pixel in pixels} for pixels in pixels_of(TUBES, SIZE)]
    assert mask.target.tolist() == [index for index, state in enumerate(states) if state == {True}]
    assert mask.visible.tolist() == [index for index, state in enumerate(states) if state == {False}]
    assert {True, False} in states


def test_the_generator_decides():
    def draw(seed: int):
        return draw_tube_mask(TUBES, SIZE, 0.5, torch.Generator().manual_seed(seed), BLOCK)

    first, again, other = draw(3), draw(3), draw(4)
    assert torch.equal(first.visible, again.visible) and torch.equal(first.target, again.target)
    assert not (torch.equal(first.visible, other.visible) and torch.equal(first.target, other.target))


def test_every_token_is_hidden_as_often_as_any_other():
    """Those at the faces of the clip too."""
    tubes = resolve_tubes([{"kernel_size": [1, 4, 4], "stride": [1, 4, 4]}], 48)
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(6 * 6 * 7)
    for _ in range(600):
        counts[draw_tube_mask(tubes, (6, 24, 28), 0.25, generator, (3, 8, 8)).target] += 1
    expected = counts.mean()
    # a binomial's standard deviation, and five of them
    assert (counts - expected).abs().max() < 5 * (600 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_masks_of_single_tokens_leak_where_tubes_overlap(ratio):
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(74, generator=generator)
    visible, target = order[: round(74 * (1 - ratio))], order[round(74 * (1 - ratio)) :]
    leak = measure_leak(TUBES, SIZE, visible, target)
    pixels = pixels_of(TUBES, SIZE)
    seen, wanted = (set().union(*(pixels[index] for index in tokens.tolist())) for tokens in (visible, target))
    assert leak == pytest.approx(len(seen & wanted) / len(wanted))
    assert leak > 0.1


def test_masks_of_single_tokens_do_not_leak_where_tubes_lie_side_by_side():
    tubes = resolve_tubes(
        [{"kernel_size": [1, 6, 6], "stride": [4, 12, 12]}, {"kernel_size": 6, "stride": 12, "offset": [0, 6, 0]}], 48
    )
    assert measure_leak(tubes, (9, 24, 24), torch.arange(0, 16, 2), torch.arange(1, 16, 2)) == 0


def test_the_papers_tubes():
    config = TubeViTConfig()
    mask = draw_tube_mask(config.resolved_tubes, config.native_size, 0.75, torch.Generator().manual_seed(0))
    assert measure_leak(config.resolved_tubes, config.native_size, mask.visible, mask.target) == 0
    assert 0.75 <= mask.hidden_share < 0.8


@pytest.mark.parametrize(
    ("ratio", "block", "message"),
    [
        (0, BLOCK, "`ratio` must be above 0 and below 1, got 0"),
        (1.0, BLOCK, "`ratio` must be above 0 and below 1, got 1.0"),
        (0.5, (0, 8, 8), r"`block` must hold a tube, of 4x8x8, 3x4x6, 1x8x8 \(.*got 0x8x8"),
        (0.5, (7, 18, 5), "`block` must hold a tube.*got 7x18x5"),
        # nothing is left
        (0.999, BLOCK, "100 masks of ratio 0.999 and cuboids of 7x18x16.*nearer to a half"),
    ],
)
def test_bad_settings_are_refused(ratio, block, message):
    with pytest.raises(ValueError, match=message):
        draw_tube_mask(TUBES, SIZE, ratio, torch.Generator().manual_seed(0), block)


def test_a_clip_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no tube, of 4x8x8, 3x4x6, 1x8x8, fits a clip of 7x4x4"):
        draw_tube_mask(TUBES, (7, 4, 4), 0.5)
