# SPDX-License-Identifier: Apache-2.0
"""Tubes that a converted ViT gets: made of its patches, or taken from a small TubeViT (Section 3.6)."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTVideoProcessor,
)
from tubevit_hf.conversion import ConversionError, convert_vit, save_converted, scale_up
from tubevit_hf.conversion.tubes import find_inflated, find_patch, inflate_kernel, interleaved_tubes
from tubevit_hf.conversion.tubes import widen as widen_tube
from tubevit_hf.model.tubes_tubevit import Tube, resolve_tubes

from ..support.conversion_cases import assert_same
from ..support.tiny import PATCH, SMALL_TUBES


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (12, 4), (16, 16), (5, 7)])
def test_inflated_kernel_is_the_patch_embedding_of_the_resized_region(size):
    generator = torch.Generator().manual_seed(0)
    patch_kernel = torch.randn(24, 3, PATCH, PATCH, generator=generator, dtype=torch.float64)
    region = torch.randn(3, *size, generator=generator, dtype=torch.float64)
    kernel = inflate_kernel(patch_kernel, (5, *size))
    assert kernel.shape == (24, 3, 5, *size)
    still = region[:, None].expand(-1, 5, -1, -1)
    token = torch.einsum("dcthw,cthw->d", kernel, still)
    resized = nn.functional.interpolate(region[None], size=(PATCH, PATCH), mode="bilinear", antialias=True)[0]
    expected = torch.einsum("dchw,chw->d", patch_kernel, resized)
    torch.testing.assert_close(token, expected, rtol=1e-6, atol=1e-6)
    # frames weigh the same
    assert kernel[:, :, :1].expand_as(kernel).equal(kernel)


def kernels_of(model) -> list[torch.Tensor]:
    return [tube.weight.detach() for tube in model.base_model.embeddings.tubes]


def test_inflated_kernels_are_found(vit):
    model, _ = convert_vit(vit, tubes=SMALL_TUBES, num_frames=8)
    tubes, kernels = model.config.resolved_tubes, kernels_of(model)
    patch, found = find_inflated(tubes, kernels)
    assert (patch, list(found)) == (2, [0, 1])
    for index, made in found.items():
        torch.testing.assert_close(made, kernels[index])
    # training moves them a little
    moved = [kernel + 0.3 * kernel.std() * torch.randn_like(kernel) for kernel in kernels]
    assert list(find_inflated(tubes, moved)[1]) == [0, 1]
    other, _ = convert_vit(vit, tubes=SMALL_TUBES, num_frames=8, new_tubes="random")
    assert find_inflated(tubes, kernels_of(other)) == (2, {})
    # nothing to inflate from
    assert find_inflated(tubes[:2], kernels[:2]) == (-1, {})


def test_still_video_gives_tubes_the_tokens_of_the_patches(vit):
    """A token of a still, smooth video is that of the patch at its centre: cosine and ratio of lengths, before
    positions. Smooth, since tubes are smaller and larger than the patch: where the image does not change within a
    region, all of them see the same."""
    model, _ = convert_vit(vit, tubes=SMALL_TUBES, num_frames=8)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    picture = torch.stack((rows + 0.5, 1 - columns * 0.7, (rows + columns) / 2 - 1))
    video = picture.expand(1, 8, -1, -1, -1)
    embeddings = model.tubevit.embeddings
    tokens = {}
    with torch.no_grad():
        for index, tube in enumerate(embeddings.tubes):
            grid = tube.tube.grid((8, 96, 96))
            tokens[index] = tube(video).unflatten(1, grid)[0]
    patches = tokens[2][0]
    for index in (0, 1):
        tube, grid = embeddings.tubes[index].tube, tokens[index].shape[:3]
        centers = [
            (tube.centers(axis, grid[axis], torch.float32) / PATCH - 0.5).round().long().clamp(0, 11)
            for axis in (1, 2)
        ]
        same_region = patches[centers[0]][:, centers[1]]  # (h, w, hidden_size)
        for step in tokens[index]:
            cosines = nn.functional.cosine_similarity(step, same_region, dim=-1)
            ratios = step.norm(dim=-1) / same_region.norm(dim=-1)
            assert cosines.min() > 0.98
            assert ratios.min() > 0.8
            assert ratios.max() < 1.25


def test_plain_video_gives_all_tubes_the_same_token(vit):
    """Of one colour everywhere, whatever the region: weights and biases must both come from the patch."""
    model, _ = convert_vit(vit, tubes=SMALL_TUBES, num_frames=8)
    video = torch.tensor([0.3, -0.8, 1.1])[:, None, None].expand(1, 8, 3, 32, 32)
    with torch.no_grad():
        first, *others = (tube(video)[:, :1] for tube in model.tubevit.embeddings.tubes)
    for other in others:
        assert_same(other, first)


def test_frames_by_themselves_are_the_default(vit):
    """Up to the joint layer each frame of a video is to the model what it is to the source, as a picture."""
    model, report = convert_vit(vit)
    assert model.config.num_frames == 8
    assert model.config.tubes == [{"kernel_size": [1, PATCH, PATCH], "stride": [1, PATCH, PATCH]}]
    # of two layers; in the second each of 8 frames has a CLS token and 2x2 regions
    assert (model.config.joint_layer, model.config.joint_pooling) == (1, [2, 2])
    assert report.tokens == {"image, before": 17, "image, after": 17, "video, after": 8 * 17}
    source = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    video = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(video, output_hidden_states=True).hidden_states
        of_frames = source(video.flatten(0, 1), output_hidden_states=True).hidden_states
    assert found[2].shape == (2, 8 * 5, 24)
    for number in (0, 1):
        assert_same(found[number].unflatten(1, (8, 17)).flatten(0, 1), of_frames[number])


def test_sparse_tubes_are_table_12_without_space_to_depth(vit):
    model, report = convert_vit(vit, layout="sparse")
    assert model.config.joint_layer == 0
    assert [tube["kernel_size"] for tube in model.config.tubes] == [[8, 8, 8], [16, 4, 4], [4, 12, 12], [1, 8, 8]]
    assert [tube["stride"] for tube in model.config.tubes] == [[16, 32, 32], [6, 32, 32], [16, 32, 32], [32, 8, 8]]
    assert all(tube.space_to_depth == (1, 1, 1) for tube in model.config.resolved_tubes)
    # of the patches alone in an image; in a clip the three tubes' besides
    assert report.tokens == {"image, before": 17, "image, after": 17, "video, after": 2 + 3 + 2 + 17}
    assert report.flops["image, before"] == report.flops["image, after"] < report.flops["video, after"]


def test_interleaved_tubes_read_every_other_patch(vit):
    """An image is seen through a quarter of its patches, each with its own position."""
    assert TubeViTConfig(tubes=interleaved_tubes((16, 16))).num_tokens() == 784
    model, report = convert_vit(vit, layout="interleaved")
    assert model.config.tubes == interleaved_tubes((PATCH, PATCH))
    assert model.config.token_grids() == [(8, 2, 2)] * 2
    assert report.tokens == {"image, before": 17, "image, after": 5, "video, after": 65}
    assert report.flops["image, before"] == convert_vit(vit)[1].flops["image, before"]
    [note] = [note for note in report.notes if "one patch of every" in note]
    assert "of every 2x2: an image has 5 tokens instead of 17" in note
    source = transformers.ViTForImageClassification.from_pretrained(vit).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = model(image, output_hidden_states=True).hidden_states[0]
        expected = source(image, output_hidden_states=True).hidden_states[0]
    # of 4x4 patches, behind the CLS token
    assert_same(found, expected[:, [0, 1, 3, 9, 11]])
    # in a clip that stands still, the other tube sees the patches between these, each with its own position too
    with torch.no_grad():
        still = model(image[:, None].expand(-1, 32, -1, -1, -1), output_hidden_states=True).hidden_states[0]
    first, second = still[:, 1:].unflatten(1, (2, 8, 4)).unbind(1)
    assert_same(first, expected[:, None, [1, 3, 9, 11]].expand_as(first))
    assert_same(second, expected[:, None, [6, 8, 14, 16]].expand_as(second))


def test_the_tubes_of_a_patch_that_is_not_square():
    """They see regions that lie beside each other, and none twice."""
    tubes = resolve_tubes(interleaved_tubes((6, 10)), 24)
    seen = torch.zeros(36, 40)
    for tube in tubes:
        _, rows, columns = tube.grid((32, 36, 40))
        for row in range(rows):
            for column in range(columns):
                top, left = tube.offset[1] + row * tube.stride[1], tube.offset[2] + column * tube.stride[2]
                seen[top : top + 6, left : left + 10] += 1
    assert seen.unique().tolist() == [0, 1]
    assert seen.mean() == 0.5


def test_the_densest_patch_tube_is_the_patch():
    sparse = {"kernel_size": [1, 6, 10], "stride": [8, 12, 10]}
    dense = {"kernel_size": [1, 6, 10], "stride": [3, 6, 10]}
    assert find_patch(resolve_tubes([sparse, dense], 24), (6, 10)) == 1
    assert find_patch(resolve_tubes([sparse], 24), (6, 10)) == 0
    for change in (
        {"offset": [3, 0, 0]},
        {"offset": [0, 6, 0]},
        {"stride": [8, 9, 10]},
        {"space_to_depth": [1, 2, 1]},
    ):
        with pytest.raises(ConversionError, match="None of the `tubes` is the source's patch embedding"):
            find_patch(resolve_tubes([{**sparse, **change}], 24), (6, 10))


def test_tubes_that_do_not_fit_are_noted(vit):
    _, report = convert_vit(vit, layout="sparse", num_frames=10)
    notes = [note for note in report.notes if "gives it no tokens" in note]
    assert len(notes) == 1
    assert notes[0].startswith("The tube [16, 4, 4] does not fit a clip of 10 frames of 32x32 pixels")
    assert not any("gives it no tokens" in note for note in convert_vit(vit, layout="sparse")[1].notes)


def test_random_tubes(vit):
    model, report = convert_vit(
        vit, tubes=[{**SMALL_TUBES[0], "space_to_depth": [1, 2, 2]}, SMALL_TUBES[2]], new_tubes="random"
    )
    assert report.new == {"embeddings.tubes.0.weight": "random", "embeddings.tubes.0.bias": "random"}
    assert 0.01 < model.tubevit.embeddings.tubes[0].weight.std() < 0.03


def test_positions_are_read_where_tubes_lie(vit):
    """Between the centres of patches the table is interpolated, and beyond the last one it stays as it is."""
    source = transformers.ViTForImageClassification.from_pretrained(vit)
    table = source.vit.embeddings.position_embeddings.detach()[0, 1:].unflatten(0, (4, 4))
    tubes = [
        {"kernel_size": [2, 8, 12], "stride": [4, 12, 8], "offset": [0, 6, 1]},
        {"kernel_size": [4, 4, 4], "stride": [4, 28, 28]},
        {"kernel_size": [1, 8, 8], "stride": [4, 8, 8]},
    ]
    model, report = convert_vit(vit, tubes=tubes, positions="spatial", num_frames=8)
    assert (model.config.position_embedding_type, model.config.position_embedding_scale) == ("spatial", 0)
    assert not report.new
    positions = model.tubevit.embeddings.position_embeddings

    def read(y, x):
        """The table at a place in pixels, by hand."""
        (row, of_row), (column, of_column) = (
            (int(place), place - int(place)) for place in (min(max(place / 8 - 0.5, 0), 3) for place in (y, x))
        )
        below, right = min(row + 1, 3), min(column + 1, 3)
        upper = (1 - of_column) * table[row, column] + of_column * table[row, right]
        lower = (1 - of_column) * table[below, column] + of_column * table[below, right]
        return (1 - of_row) * upper + of_row * lower

    expected = torch.stack([torch.stack([read(y, x) for x in (7, 15, 23)]) for y in (10, 22)])
    torch.testing.assert_close(getattr(positions, "0")[0], expected)
    corners = torch.stack([table[y, x] for y in (0, 3) for x in (0, 3)]).unflatten(0, (2, 2))
    torch.testing.assert_close(getattr(positions, "1")[0], corners)
    torch.testing.assert_close(getattr(positions, "2")[0], table, rtol=0, atol=0)


def test_positions_of_the_paper(vit):
    source = transformers.ViTForImageClassification.from_pretrained(vit)
    model, report = convert_vit(vit, layout="sparse", positions="tube_center")
    table = source.vit.embeddings.position_embeddings.detach()
    assert model.config.position_embedding_type == "tube_center"
    # the CLS token keeps its own
    assert model.tubevit.embeddings.cls_token.equal(source.vit.embeddings.cls_token + table[:, :1])
    patches_rms = table[0, 1:].square().mean().sqrt().item()
    assert model.config.position_embedding_scale == pytest.approx(patches_rms * 2**0.5)
    # a sine and its cosine have an rms of sqrt(1/2) together
    positions = model.tubevit.embeddings.position_embeddings.tube_positions(3, (1, 4, 4), torch.empty(0))
    assert positions.square().mean().sqrt().item() == pytest.approx(patches_rms, rel=0.01)
    assert not report.new


# Scaling


def test_scale_up(vit, small, tmp_path):
    model, report = scale_up(vit, small, gate_layer=1, num_frames=8)
    tubes = model.config.resolved_tubes
    # 2 neighbours of 6 channels go on to 4 for 24; one of 12 goes on to 2
    assert [tube.out_channels for tube in tubes] == [6, 12, 24]
    assert [np.prod(tube.space_to_depth) for tube in tubes] == [4, 2, 1]
    source = TubeViTForVideoClassification.from_pretrained(small)
    for index in (0, 1):
        for name in ("weight", "bias"):
            kernel = getattr(model.tubevit.embeddings.tubes[index], name)
            assert kernel.equal(getattr(source.tubevit.embeddings.tubes[index], name))
    assert len([note for note in report.notes if "concatenates" in note]) == 2
    # the gate is closed at first: the ungated model, bit for bit
    ungated, _ = convert_vit(vit, tubes_from=small, num_frames=8)
    video = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        assert model(video).logits.equal(ungated(video).logits)
    assert model.tubevit.layers[1].gate.item() == 0
    # frozen up to the gate, also when it is loaded again
    save_converted(model, report, tmp_path / "big")
    loaded = TubeViTForVideoClassification.from_pretrained(tmp_path / "big")
    for each in (model, loaded):
        frozen = {name for name, parameter in each.named_parameters() if not parameter.requires_grad}
        expected = {
            name
            for name, _ in each.named_parameters()
            if name.startswith(("tubevit.embeddings.", "tubevit.layers.0."))
        }
        assert frozen == expected
    assert report.parameters["frozen"] == sum(p.numel() for p in model.parameters() if not p.requires_grad)


def test_after_a_step_what_is_trained_has_moved(vit, small):
    model, _ = scale_up(vit, small, gate_layer=1, num_frames=8)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(2, 8, 3, 32, 32), labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not parameter.equal(before[name])}
    # a bias of keys shifts all scores of a query alike, so that only rounding could move it
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved | {name for name in trainable if name.endswith("k_proj.bias")} == trainable
    assert "tubevit.layers.1.gate" in moved


@pytest.mark.parametrize(
    ("channels", "stride", "width", "expected"),
    [
        (192, [16, 32, 32], 768, [1, 2, 2]),
        (384, [16, 32, 32], 768, [2, 1, 1]),
        (768, [16, 32, 32], 1280, [2, 1, 1]),
        (96, [16, 32, 32], 768, [2, 2, 2]),
        (384, [6, 32, 32], 1152, [3, 1, 1]),
        (384, [1, 16, 16], 768, [1, 1, 2]),
    ],
)
def test_fewest_neighbours_that_reach_the_width(channels, stride, width, expected):
    tube = Tube((1, 4, 4), tuple(stride), (0, 0, 0), (1, 1, 1), channels)
    wide = widen_tube(tube, width, (32, 224, 224))
    assert list(wide.space_to_depth) == expected
    assert (wide.kernel_size, wide.stride, wide.out_channels) == (tube.kernel_size, tube.stride, channels)


def test_a_tube_made_wider_still_fits_the_clip():
    tube = Tube((16, 8, 8), (16, 16, 16), (0, 0, 0), (1, 2, 2), 24)
    # two in time would be nearest to a square, and see 24 frames
    assert widen_tube(tube, 192, (24, 64, 64)).space_to_depth == (2, 2, 2)
    assert widen_tube(tube, 192, (16, 64, 64)).space_to_depth == (1, 2, 4)
    with pytest.raises(ConversionError, match=r"does not fit a clip of 12 frames of 64x64 pixels. Give more frames"):
        widen_tube(tube, 192, (12, 64, 64))


def test_width_out_of_reach():
    with pytest.raises(ConversionError, match="no space-to-depth that divides its stride"):
        widen_tube(Tube((1, 4, 4), (1, 3, 1), (0, 0, 0), (1, 1, 1), 24), 96, (32, 224, 224))


def test_tubes_give_the_same_of_pixels_normalised_otherwise(vit, small, tmp_path):
    """The small model saw other numbers of the same pixels: its kernels are adapted, not used as if they had not."""
    theirs = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    ours = {"image_mean": [0.5, 0.4, 0.1], "image_std": [0.5, 0.1, 0.4]}
    TubeViTVideoProcessor(**theirs).save_pretrained(small)
    transformers.ViTImageProcessor(**ours).save_pretrained(vit)
    model, report = scale_up(vit, small, gate_layer=1)
    assert any("normalised by mean" in note for note in report.notes)
    source = TubeViTModel.from_pretrained(small)
    pixels = torch.rand(2, 8, 3, 48, 40, generator=torch.Generator().manual_seed(0))

    def tokens(embedding: nn.Module, mean: list[float], std: list[float]) -> torch.Tensor:
        normalised = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        return nn.functional.conv3d(normalised.transpose(1, 2), embedding.weight, embedding.bias)

    with torch.no_grad():
        for index in (0, 1):
            expected = tokens(source.embeddings.tubes[index], *theirs.values())
            assert_same(tokens(model.tubevit.embeddings.tubes[index], *ours.values()), expected)
    # the same numbers: the same kernels
    TubeViTVideoProcessor(**ours).save_pretrained(small)
    model, report = scale_up(vit, small, gate_layer=1)
    assert not any("normalised by mean" in note for note in report.notes)
    assert model.tubevit.embeddings.tubes[0].weight.equal(source.embeddings.tubes[0].weight)


def test_clips_are_as_long_as_those_of_the_small_model(vit, small):
    assert scale_up(vit, small, gate_layer=1)[0].config.num_frames == 8
    assert convert_vit(vit, tubes_from=small, num_frames=12)[0].config.num_frames == 12
    assert convert_vit(vit, layout="sparse")[0].config.num_frames == 32
    assert convert_vit(vit, num_frames=5)[0].config.num_frames == 5
    # and as often a frame of it becomes patches
    assert scale_up(vit, small, gate_layer=1)[0].config.tubes[-1]["stride"] == [8, PATCH, PATCH]


def test_tubes_of_overlapping_patches_can_be_taken(vit, tmp_path):
    """A small model's tube of one frame makes way for the source's patches, whatever its stride was."""
    tubes = [SMALL_TUBES[0], {**SMALL_TUBES[2], "stride": [8, PATCH // 2, PATCH // 2]}]
    small, _ = convert_vit(vit, tubes=SMALL_TUBES, num_frames=8)
    config = type(small.config)(**small.config.to_dict() | {"tubes": tubes, "position_embedding_type": "tube_center"})
    TubeViTModel(config).save_pretrained(tmp_path)
    model, _ = convert_vit(vit, tubes_from=tmp_path)
    assert model.config.resolved_tubes[-1].stride == (8, PATCH, PATCH)


def test_times_of_spatial_positions_come_along(vit, tmp_path):
    small, _ = convert_vit(vit, layout="interleaved", keep_classifier=False)
    small.config.position_embedding_scale = 0.05
    small.save_pretrained(tmp_path)
    model, _ = convert_vit(vit, tubes_from=tmp_path)
    assert model.config.position_embedding_type == "spatial"
    assert model.config.position_embedding_scale == 0.05
