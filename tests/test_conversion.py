# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Image ViTs become TubeViTs that give the same for images.

What is compared, for images of the native size and of two others:

| family | tokens | besides |
|---|---|---|
| ViT | all, before the final norm | logits |
| ViT, headless (also DINO) | all, after the final norm | |
| DeiT | all, before the final norm: CLS, distillation token, patches | logits |
| ViT-MAE | all, after the final norm; without masking | |
| DINOv2, with registers and without | all, after the final norm | |
| CLIP vision | all, before the final norm, which only the CLS token goes through | CLS token after the norm |
| SigLIP vision | all, after the final norm; its pooling head is left behind | |
| timm | all, after the final norm | logits |
| torchvision, Google | | logits |
"""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings
from typer.testing import CliRunner

from tubevit_hf import (
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTVideoProcessor,
)
from tubevit_hf.cli import app
from tubevit_hf.conversion import ConversionError, convert_vit, save_converted, scale_up
from tubevit_hf.conversion.tubes import inflate_kernel
from tubevit_hf.conversion.tubes import widen as widen_tube
from tubevit_hf.tubes_tubevit import Tube

from .conftest import fill_hub_cache, randomize, tiny_config


# relative to the standard deviation of what is compared; float32 sums in another order
TOLERANCE = 1e-5
NATIVE, *OTHERS = [(32, 32), (48, 32), (40, 72)]
PATCH = 8
COMMON = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": PATCH,
}
DINOV2 = {**COMMON, "mlp_ratio": 2}
DINOV2.pop("intermediate_size")
TIMM = {"img_size": 32, "patch_size": PATCH, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}


def widen(model: nn.Module) -> nn.Module:
    """Draws parameters wide enough that a missing bias or another GELU shows."""
    generator = torch.Generator().manual_seed(0)
    norms = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm) and module.weight is not None
    }
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(float(id(parameter) in norms) + 0.3 * noise)
    return model.eval()


def images(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.std()


# transformers


def vit_classifier() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**COMMON, num_labels=3))


TRANSFORMERS = {
    "vit": vit_classifier,
    "vit-headless": lambda: transformers.ViTModel(transformers.ViTConfig(**COMMON, hidden_act="gelu_new")),
    "vit-without-qkv-bias": lambda: transformers.ViTModel(transformers.ViTConfig(**COMMON, qkv_bias=False)),
    "deit": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**COMMON, num_labels=3)),
    "vit-mae": lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**COMMON, mask_ratio=0.0)),
    "vit-mae-with-decoder": lambda: transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **COMMON,
            mask_ratio=0.0,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=20,
        )
    ),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)),
    "dinov2-with-registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=3)
    ),
    "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**COMMON)),
    "clip-with-text": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=COMMON, text_config=SMALL_TEXT, projection_dim=8)
    ),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**COMMON)),
    "siglip-with-text": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=COMMON, text_config={**SMALL_TEXT, "projection_size": 24})
    ),
}
SMALL_TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}


def run(source: nn.Module, pixel_values: torch.Tensor):
    """The source's outputs; a model with a text or decoder half is asked for its image half."""
    arguments = {"interpolate_pos_encoding": True}
    kind = type(source).__name__
    if kind.startswith("Dinov2"):
        arguments = {}  # it always does
    if kind.startswith("ViTMAE"):
        source = getattr(source, "vit", source)
        num_patches = pixel_values.shape[-2] * pixel_values.shape[-1] // PATCH**2
        # patches are kept in the order of this noise
        arguments["noise"] = torch.arange(num_patches)[None].expand(len(pixel_values), -1).float()
    source = getattr(source, "vision_model", source)
    with torch.no_grad():
        return source(pixel_values, **arguments, output_hidden_states=True)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_families(name, tmp_path):
    source = widen(TRANSFORMERS[name]())
    source.save_pretrained(tmp_path)
    model, report = convert_vit(tmp_path)
    for size in (NATIVE, *OTHERS):
        theirs = run(source, images(size))
        with torch.no_grad():
            ours = model(images(size), output_hidden_states=True)
        if hasattr(theirs, "logits"):
            assert isinstance(model, TubeViTForImageClassification)
            assert_same(ours.logits, theirs.logits)
            assert_same(ours.hidden_states[-1], theirs.hidden_states[-1])
        elif name.startswith("clip"):
            assert_same(ours.hidden_states[-1], theirs.last_hidden_state)
            assert_same(ours.pooler_output, theirs.pooler_output)
        else:
            assert isinstance(model, TubeViTModel)
            assert_same(ours.last_hidden_state, theirs.last_hidden_state)
    assert_all_accounted_for(report, model, source.state_dict())


def assert_all_accounted_for(report, model: nn.Module, source_keys) -> None:
    """Every source key is used or dropped, every target key is copied, made or new, and what is copied is equal."""
    prefixes = r"(vit|deit|dinov2|vision_model)\."

    def bare(keys) -> list[str]:
        return sorted(re.sub(f"^{prefixes}", "", key) for key in keys)

    assert bare([*report.used, *report.dropped]) == bare(source_keys)
    targets = [key.removeprefix("tubevit.") for key in model.state_dict()]
    assert sorted([*report.copied, *report.made, *report.new]) == sorted(targets)
    assert all(reason for reason in [*report.dropped.values(), *report.made.values(), *report.new.values()])
    used = {target for targets in report.used.values() for target in targets}
    assert set(report.copied) <= used


@pytest.mark.parametrize(
    ("patch_size", "sizes"), [(14, [(42, 42), (28, 70)]), (16, [(48, 48), (64, 32)]), (32, [(64, 64), (96, 32)])]
)
def test_patch_sizes(patch_size, sizes, tmp_path):
    settings = {**COMMON, "patch_size": patch_size, "image_size": sizes[0][0]}
    source = widen(transformers.ViTModel(transformers.ViTConfig(**settings)))
    source.save_pretrained(tmp_path)
    model, _ = convert_vit(tmp_path)
    assert model.config.tubes[-1]["kernel_size"] == [1, patch_size, patch_size]
    for size in sizes:
        with torch.no_grad():
            expected = run(source, images(size)).last_hidden_state
            assert_same(model(images(size)).last_hidden_state, expected)


# timm, torchvision, Google


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"reg_tokens": 2, "init_values": 0.1},
        {"reg_tokens": 3, "no_embed_class": True},
        {"pre_norm": True, "qkv_bias": False},
    ],
    ids=["plain", "registers", "registers-without-positions", "pre-norm"],
)
def test_timm(arguments, tmp_path):
    source = widen(timm.models.vision_transformer.VisionTransformer(**TIMM, dynamic_img_size=True, **arguments))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model, report = convert_vit(tmp_path / "model.safetensors", num_attention_heads=2)
    for size in (NATIVE, *OTHERS):
        with torch.no_grad():
            assert_same(model.tubevit(images(size)).last_hidden_state, source.forward_features(images(size)))
            assert_same(model(images(size)).logits, source(images(size)))
    assert_all_accounted_for(report, model, source.state_dict())


def test_timm_folder(tmp_path):
    source = widen(timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=1, num_classes=2))
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "pretrained_cfg": {"input_size": [3, 32, 48], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        "label_names": ["cat", "dog"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, _ = convert_vit(tmp_path)
    assert model.config.id2label == {0: "cat", 1: "dog"}
    assert model.config.image_size == [32, 48]
    assert model.config.num_attention_heads == 3
    with torch.no_grad():
        assert_same(model(images((32, 48))).logits, source(images((32, 48))))


def torchvision_vit(image_size: int = 32) -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=image_size, patch_size=PATCH, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=40, num_classes=3
    )


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_torchvision(ending, tmp_path):
    source = widen(torchvision_vit())
    path = tmp_path / f"vit{ending}"
    (save_file if ending == ".safetensors" else torch.save)(source.state_dict(), path)
    model, report = convert_vit(path, num_attention_heads=2, allow_pickle=ending == ".pth")
    for side in (32, 48, 72):
        resized = torchvision_vit(side)
        resized.load_state_dict(interpolate_embeddings(side, PATCH, dict(source.state_dict())))
        with torch.no_grad():
            assert_same(model(images((side, side))).logits, resized.eval()(images((side, side))))
    assert_all_accounted_for(report, model, source.state_dict())


def write_npz(path: Path, source: nn.Module) -> dict[str, np.ndarray]:
    """The parameters of a ViT of transformers as Google's files hold them."""
    state = {key.removeprefix("vit."): tensor.numpy() for key, tensor in source.state_dict().items()}
    heads, width = 2, 24
    arrays = {
        "cls": state["embeddings.cls_token"],
        "Transformer/posembed_input/pos_embedding": state["embeddings.position_embeddings"],
        "embedding/kernel": state["embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["embeddings.patch_embeddings.projection.bias"],
        "Transformer/encoder_norm/scale": state["layernorm.weight"],
        "Transformer/encoder_norm/bias": state["layernorm.bias"],
        "head/kernel": state["classifier.weight"].T,
        "head/bias": state["classifier.bias"],
    }
    for layer in range(2):
        ours, theirs = f"layers.{layer}", f"Transformer/encoderblock_{layer}"
        for norm, number in (("layernorm_before", 0), ("layernorm_after", 2)):
            arrays[f"{theirs}/LayerNorm_{number}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/LayerNorm_{number}/bias"] = state[f"{ours}.{norm}.bias"]
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            attention = f"{theirs}/MultiHeadDotProductAttention_1/{word}"
            weight = state[f"{ours}.attention.{letter}_proj.weight"]
            arrays[f"{attention}/kernel"] = weight.T.reshape(width, heads, width // heads)
            arrays[f"{attention}/bias"] = state[f"{ours}.attention.{letter}_proj.bias"].reshape(heads, -1)
        attention = f"{theirs}/MultiHeadDotProductAttention_1/out"
        arrays[f"{attention}/kernel"] = state[f"{ours}.attention.o_proj.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}/bias"] = state[f"{ours}.attention.o_proj.bias"]
        for number in range(2):
            dense = f"{theirs}/MlpBlock_3/Dense_{number}"
            arrays[f"{dense}/kernel"] = state[f"{ours}.mlp.fc{number + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{ours}.mlp.fc{number + 1}.bias"]
    np.savez(path, **arrays)
    return arrays


def test_google_npz(tmp_path):
    config = transformers.ViTConfig(**COMMON, num_labels=3, layer_norm_eps=1e-6)
    source = widen(transformers.ViTForImageClassification(config))
    arrays = write_npz(tmp_path / "vit.npz", source)
    model, report = convert_vit(tmp_path / "vit.npz")
    assert model.config.num_attention_heads == 2
    with torch.no_grad():
        assert_same(model(images(NATIVE)).logits, source(images(NATIVE)).logits)
    # at another size, with the table resized as the authors do: linear between the corners
    table = source.vit.embeddings.position_embeddings.detach()
    zoomed = scipy.ndimage.zoom(table[0, 1:].reshape(4, 4, 24).numpy(), (6 / 4, 5 / 4, 1), order=1)
    larger = transformers.ViTForImageClassification(
        transformers.ViTConfig(**{**COMMON, "image_size": [48, 40]}, num_labels=3, layer_norm_eps=1e-6)
    )
    state = {**source.state_dict()}
    state["vit.embeddings.position_embeddings"] = torch.cat(
        (table[:, :1], torch.from_numpy(zoomed).reshape(1, 30, 24)), 1
    )
    larger.load_state_dict(state)
    with torch.no_grad():
        assert_same(model(images((48, 40))).logits, larger.eval()(images((48, 40))).logits)
    assert_all_accounted_for(report, model, arrays)


# Tubes


SMALL_TUBES = [
    {"kernel_size": [2, 8, 8], "stride": [4, 16, 16]},
    {"kernel_size": [4, 4, 6], "stride": [4, 12, 12], "offset": [1, 2, 4]},
    {"kernel_size": [1, PATCH, PATCH], "stride": [8, PATCH, PATCH]},
]


@pytest.fixture
def vit(tmp_path) -> Path:
    widen(vit_classifier()).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


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
            tokens[index] = tube(video, grid).unflatten(1, grid)[0]
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


def test_default_tubes_are_table_12_without_space_to_depth(vit):
    model, report = convert_vit(vit)
    assert [tube["kernel_size"] for tube in model.config.tubes] == [[8, 8, 8], [16, 4, 4], [4, 12, 12], [1, 8, 8]]
    assert [tube["stride"] for tube in model.config.tubes] == [[16, 32, 32], [6, 32, 32], [16, 32, 32], [32, 8, 8]]
    assert all(tube["space_to_depth"] == [1, 1, 1] for tube in model.config.tubes)
    # of the patches alone in an image; in a clip the three tubes' besides
    assert report.tokens == {"image, before": 17, "image, after": 17, "video, after": 2 + 3 + 2 + 17}
    assert report.flops["image, before"] == report.flops["image, after"] < report.flops["video, after"]


def test_random_tubes(vit):
    model, report = convert_vit(
        vit, tubes=[{**SMALL_TUBES[0], "space_to_depth": [1, 2, 2]}, SMALL_TUBES[2]], new_tubes="random"
    )
    assert report.new == {"embeddings.tubes.0.weight": "random", "embeddings.tubes.0.bias": "random"}
    assert 0.01 < model.tubevit.embeddings.tubes[0].weight.std() < 0.03


def test_positions_of_the_paper(vit):
    source = transformers.ViTForImageClassification.from_pretrained(vit)
    model, report = convert_vit(vit, positions="tube_center")
    table = source.vit.embeddings.position_embeddings.detach()
    assert model.config.position_embedding_type == "tube_center"
    # the CLS token keeps its own
    assert model.tubevit.embeddings.cls_token.equal(source.vit.embeddings.cls_token + table[:, :1])
    patches_rms = table[0, 1:].square().mean().sqrt().item()
    assert model.config.position_embedding_scale == pytest.approx(patches_rms * 2**0.5)
    # a sine and its cosine have an rms of sqrt(1/2) together
    positions = model.tubevit.embeddings.positions(3, (1, 4, 4), torch.float32, torch.device("cpu"))
    assert positions.square().mean().sqrt().item() == pytest.approx(patches_rms, rel=0.01)
    assert not report.new


# Scaling


@pytest.fixture
def small(tmp_path) -> Path:
    """A trained TubeViT of half the width, one of whose tubes uses space-to-depth already."""
    config = tiny_config(
        hidden_size=12,
        num_attention_heads=2,
        image_size=32,
        num_frames=8,
        tubes=[{**SMALL_TUBES[0], "space_to_depth": [2, 1, 1]}, *SMALL_TUBES[1:]],
    )
    randomize(TubeViTForVideoClassification(config)).save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_scale_up(vit, small, tmp_path):
    model, report = scale_up(vit, small, gate_layer=1, num_frames=8)
    tubes = model.config.tubes
    # 2 neighbours of 6 channels go on to 4 for 24; one of 12 goes on to 2
    assert [tube["out_channels"] for tube in tubes] == [6, 12, 24]
    assert [np.prod(tube["space_to_depth"]) for tube in tubes] == [4, 2, 1]
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
    assert convert_vit(vit)[0].config.num_frames == 32
    # and as often a frame of it becomes patches
    assert scale_up(vit, small, gate_layer=1)[0].config.tubes[-1]["stride"] == [8, PATCH, PATCH]


# Refusals


def dinov2_with_swiglu() -> nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2, use_swiglu_ffn=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dinov2_with_swiglu, "its MLP is a SwiGLU"),
        (
            lambda: transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**DINOV2, num_labels=3)),
            r"CLS token and the mean of the patches.*--no-classifier",
        ),
        (
            lambda: transformers.DeiTForImageClassificationWithTeacher(
                transformers.DeiTConfig(**COMMON, num_labels=3)
            ),
            r"it averages two heads.*--no-classifier",
        ),
        (
            lambda: transformers.CLIPForImageClassification(
                transformers.CLIPConfig(vision_config=COMMON, text_config=SMALL_TEXT, num_labels=3)
            ),
            r"its classifier.*--no-classifier",
        ),
        (lambda: transformers.BertModel(transformers.BertConfig(**SMALL_TEXT)), "its `model_type` is 'bert'"),
    ],
    ids=["swiglu", "dinov2-head", "deit-teacher", "clip-head", "bert"],
)
def test_what_cannot_be_expressed_is_refused(make, message, tmp_path):
    make().save_pretrained(tmp_path)
    with pytest.raises(ConversionError, match=message):
        convert_vit(tmp_path)
    if "classifier" in message:
        model, report = convert_vit(tmp_path, keep_classifier=False)
        assert isinstance(model, TubeViTModel)
        assert any("classifier" in key for key in report.dropped)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qk_norm": True}, "normalises queries and keys"),
        ({"global_pool": "avg"}, "normalises after averaging"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "does not read a CLS token"),
    ],
)
def test_what_timm_has_besides_is_refused(arguments, message, tmp_path):
    source = timm.models.vision_transformer.VisionTransformer(**TIMM, **arguments)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match=message):
        convert_vit(tmp_path / "model.safetensors", num_attention_heads=2)


def test_bad_sources(vit, tmp_path):
    with pytest.raises(ConversionError, match="missing: it cannot be read"):
        convert_vit(tmp_path / "missing")
    weights = vit / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ConversionError, match="vit: it cannot be read"):
        convert_vit(vit)
    with pytest.raises(ConversionError, match=r"model\.safetensors: it cannot be read"):
        convert_vit(weights)
    state = {key: tensor for key, tensor in vit_classifier().state_dict().items() if "layers.1.mlp" not in key}
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=r"the checkpoint lacks layers\.1\.mlp"):
        convert_vit(vit)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match="no plain ViT of timm or torchvision; it holds weight"):
        convert_vit(tmp_path / "other.safetensors")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ConversionError, match=r"text\.npz: it cannot be read"):
        convert_vit(tmp_path / "text.npz")


def test_pickles_are_refused_unless_allowed(tmp_path):
    source = widen(torchvision_vit())
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ConversionError, match="--allow-pickle"):
        convert_vit(tmp_path / "vit.pth", num_attention_heads=2)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv_proj.weight": Runs()}))
    with pytest.raises(ConversionError, match=r"evil\.pth: it cannot be read"):
        convert_vit(tmp_path / "evil.pth", num_attention_heads=2, allow_pickle=True)
    assert not Runs.has_run


class Runs:
    """Runs code when a plain unpickler reads it."""

    has_run = False

    def __reduce__(self):
        return run_code, ()


def run_code() -> None:
    Runs.has_run = True


def test_arguments_that_do_not_fit(vit, small, tmp_path):
    for arguments, message in (
        ({"positions": "learned"}, "`positions` must be"),
        ({"new_tubes": "zero"}, "`new_tubes` must be"),
        ({"tubes": SMALL_TUBES, "tubes_from": small}, "give it or `tubes`, not both"),
        ({"tubes": SMALL_TUBES[:2]}, r"None of the `tubes` is the source's patch embedding: kernel \[1, 8, 8\]"),
        ({"tubes": [{**SMALL_TUBES[0], "space_to_depth": [2, 1, 1]}, SMALL_TUBES[2]]}, "has space-to-depth"),
        ({"tubes_from": tmp_path / "missing"}, "no TubeViT that can be read"),
        ({"tubes_from": vit}, "no TubeViT that can be read"),
    ):
        with pytest.raises(ConversionError, match=message):
            convert_vit(vit, **arguments)
    for gate_layer in (-1, 2):
        with pytest.raises(ConversionError, match=f"must be from 0 to 1.*got {gate_layer}"):
            scale_up(vit, small, gate_layer=gate_layer)
    grey = tiny_config(hidden_size=12, num_attention_heads=2, num_channels=1)
    TubeViTModel(grey).save_pretrained(tmp_path / "grey")
    with pytest.raises(ConversionError, match="its tubes have 1 channels, the source 3"):
        scale_up(vit, tmp_path / "grey", gate_layer=1)
    TubeViTModel(tiny_config(hidden_size=48)).save_pretrained(tmp_path / "wide")
    with pytest.raises(ConversionError, match="can be made wider, not narrower"):
        scale_up(vit, tmp_path / "wide", gate_layer=1)
    with pytest.raises(ConversionError, match="a width of 24 is unusual"):
        save_file(torchvision_vit().state_dict(), tmp_path / "vit.safetensors")
        convert_vit(tmp_path / "vit.safetensors")


# Saving


def test_saved_folder_is_whole(vit, tmp_path):
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(vit)
    model, report = convert_vit(vit, num_frames=8)
    save_converted(model, report, tmp_path / "a" / "tubevit")
    saved = (tmp_path / "a" / "tubevit" / "conversion_report.json").read_text()
    assert json.loads(saved) == json.loads(json.dumps(asdict(report)))
    video_processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path / "a" / "tubevit")
    assert video_processor.num_frames == 8
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(50, 41, 3), dtype=np.uint8))
    expected = processor(picture, return_tensors="pt").pixel_values
    ours = transformers.AutoImageProcessor.from_pretrained(tmp_path / "a" / "tubevit")
    assert ours(picture, return_tensors="pt").pixel_values.equal(expected)
    # the pipeline says what the source's says
    answers = [
        transformers.pipeline("image-classification", model=str(folder))(picture)
        for folder in (vit, tmp_path / "a" / "tubevit")
    ]
    assert [entry["label"] for entry in answers[0]] == [entry["label"] for entry in answers[1]]
    assert os.listdir(tmp_path / "a") == ["tubevit"]


def test_existing_folders_are_kept(vit, tmp_path):
    model, report = convert_vit(vit)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(ConversionError, match=r"it exists.*--overwrite"):
        save_converted(model, report, folder)
    assert os.listdir(folder) == ["mine.txt"]
    save_converted(model, report, folder, overwrite=True)
    assert "mine.txt" not in os.listdir(folder)
    with pytest.raises(ConversionError, match="it is a file"):
        save_converted(model, report, folder / "config.json", overwrite=True)


def test_nothing_half_written_is_left(vit, tmp_path, monkeypatch):
    model, report = convert_vit(vit)

    def full_disk(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_converted(model, report, tmp_path / "out")
    before = sorted(os.listdir(tmp_path / "out"))
    monkeypatch.setattr(type(report), "save", full_disk)
    for folder in (tmp_path / "new", tmp_path / "out"):
        with pytest.raises(ConversionError, match=r"cannot be written .No space left on device"):
            save_converted(model, report, folder, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["out", "vit"]
    assert sorted(os.listdir(tmp_path / "out")) == before


def test_commands(vit, small, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke
    out = tmp_path / "out"
    result = run(app, ["convert", str(vit), "--out", str(out), "--num-frames", "8"])
    assert result.exit_code == 0, result.output
    assert "inflated from the patch embedding" in result.output
    expected, _ = convert_vit(vit, num_frames=8)
    loaded = TubeViTForVideoClassification.from_pretrained(out)
    assert_same_weights(loaded, expected)

    result = run(app, ["convert", str(vit), "--out", str(out)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "it exists" in result.stderr

    tubes = tmp_path / "tubes.json"
    tubes.write_text(json.dumps(SMALL_TUBES))
    result = run(
        app, ["convert", str(vit), "--out", str(out), "--overwrite", "--tubes", str(tubes), "--no-classifier"]
    )
    assert result.exit_code == 0, result.output
    assert len(TubeViTModel.from_pretrained(out).config.tubes) == 3

    scale = ["scale-up", "--image-model", str(vit), "--tubes-from", str(small), "--out", str(tmp_path / "big")]
    result = run(app, [*scale, "--gate-layer", "1"])
    assert result.exit_code == 0, result.output
    assert TubeViTModel.from_pretrained(tmp_path / "big").config.gate_layer == 1
    result = run(app, [*scale, "--gate-layer", "2", "--overwrite"])
    assert result.exit_code == 2
    assert "from 0 to 1" in result.stderr


def test_sources_and_tubes_by_repo_id(vit, small, tmp_path):
    """As downloads left them in the cache; what is not there is one line, here without a network."""
    fill_hub_cache(tmp_path / "hub", "org/vit", vit)
    fill_hub_cache(tmp_path / "hub", "org/tubevit", small)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def scale_up_by_id(tubes_from: str) -> subprocess.CompletedProcess:
        arguments = ["--image-model", "org/vit", "--tubes-from", tubes_from, "--gate-layer", "1", "--out", "big"]
        command = [sys.executable, "-c", "from tubevit_hf.cli import main; main()", "scale-up", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    missing = scale_up_by_id("org/missing")
    assert missing.returncode == 2
    assert missing.stderr.startswith("Error: org/missing: it is no TubeViT that can be read")
    assert missing.stderr.count("\n") == 1
    assert not (tmp_path / "big").exists()

    assert scale_up_by_id("org/tubevit").returncode == 0
    expected, _ = scale_up(vit, small, gate_layer=1)
    loaded = TubeViTForVideoClassification.from_pretrained(tmp_path / "big")
    assert_same_weights(loaded, expected)


def assert_same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert tensor.equal(theirs.state_dict()[name]), name
