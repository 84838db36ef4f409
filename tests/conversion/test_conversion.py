# SPDX-License-Identifier: Apache-2.0
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

import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

from tubevit_hf import (
    TubeViTForImageClassification,
    TubeViTModel,
)
from tubevit_hf.conversion import convert_vit

from ..support.conversion_cases import (
    DINOV2,
    NATIVE,
    OTHERS,
    SMALL_TEXT,
    TIMM,
    assert_same,
    random_images,
    random_source,
    torchvision_vit,
)
from ..support.tiny import PATCH, TINY_VIT, vit_classifier


TRANSFORMERS = {
    "vit": vit_classifier,
    "vit-headless": lambda: transformers.ViTModel(transformers.ViTConfig(**TINY_VIT, hidden_act="gelu_new")),
    "vit-without-qkv-bias": lambda: transformers.ViTModel(transformers.ViTConfig(**TINY_VIT, qkv_bias=False)),
    "deit": lambda: transformers.DeiTForImageClassification(transformers.DeiTConfig(**TINY_VIT, num_labels=3)),
    "vit-mae": lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**TINY_VIT, mask_ratio=0.0)),
    "vit-mae-with-decoder": lambda: transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **TINY_VIT,
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
    "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TINY_VIT)),
    "clip-with-text": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=TINY_VIT, text_config=SMALL_TEXT, projection_dim=8)
    ),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TINY_VIT)),
    "siglip-with-text": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=TINY_VIT, text_config={**SMALL_TEXT, "projection_size": 24})
    ),
}


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
    source = random_source(TRANSFORMERS[name]())
    source.save_pretrained(tmp_path)
    model, report = convert_vit(tmp_path)
    for size in (NATIVE, *OTHERS):
        theirs = run(source, random_images(size))
        with torch.no_grad():
            ours = model(random_images(size), output_hidden_states=True)
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
    # nothing is new that the source should have given: only what pools where there is no CLS token
    assert all(name.startswith("pooler.") for name in report.new)


@pytest.mark.parametrize(
    ("patch_size", "sizes"), [(14, [(42, 42), (28, 70)]), (16, [(48, 48), (64, 32)]), (32, [(64, 64), (96, 32)])]
)
def test_patch_sizes(patch_size, sizes, tmp_path):
    settings = {**TINY_VIT, "patch_size": patch_size, "image_size": sizes[0][0]}
    source = random_source(transformers.ViTModel(transformers.ViTConfig(**settings)))
    source.save_pretrained(tmp_path)
    model, _ = convert_vit(tmp_path)
    assert model.config.tubes[-1]["kernel_size"] == [1, patch_size, patch_size]
    for size in sizes:
        with torch.no_grad():
            expected = run(source, random_images(size)).last_hidden_state
            assert_same(model(random_images(size)).last_hidden_state, expected)


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
    source = random_source(
        timm.models.vision_transformer.VisionTransformer(**TIMM, dynamic_img_size=True, **arguments)
    )
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model, report = convert_vit(tmp_path / "model.safetensors", num_attention_heads=2)
    for size in (NATIVE, *OTHERS):
        with torch.no_grad():
            assert_same(
                model.tubevit(random_images(size)).last_hidden_state, source.forward_features(random_images(size))
            )
            assert_same(model(random_images(size)).logits, source(random_images(size)))
    assert_all_accounted_for(report, model, source.state_dict())


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_tiny_patch16_224", {}),
        # the name says which GELU and which epsilon, the arguments how many heads
        ("vit_base_patch16_clip_quickgelu_224", {"embed_dim": 48, "num_heads": 2}),
    ],
)
def test_timm_folder(architecture, arguments, tmp_path):
    source = timm.create_model(architecture, img_size=(32, 48), depth=1, num_classes=2, **arguments)
    source = random_source(source)
    with torch.no_grad():
        # so small that the epsilon of the norms shows
        source.patch_embed.proj.weight.mul_(1e-3)
        source.pos_embed.mul_(1e-3)
        source.cls_token.mul_(1e-3)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": architecture,
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, 32, 48], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        "label_names": ["cat", "dog"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, _ = convert_vit(tmp_path)
    assert model.config.id2label == {0: "cat", 1: "dog"}
    assert model.config.image_size == [32, 48]
    assert model.config.num_attention_heads == arguments.get("num_heads", 3)
    with torch.no_grad():
        assert_same(model(random_images((32, 48))).logits, source(random_images((32, 48))))


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_torchvision(ending, tmp_path):
    source = random_source(torchvision_vit())
    path = tmp_path / f"vit{ending}"
    (save_file if ending == ".safetensors" else torch.save)(source.state_dict(), path)
    model, report = convert_vit(path, num_attention_heads=2, allow_pickle=ending == ".pth")
    for side in (32, 48, 72):
        resized = torchvision_vit(side)
        resized.load_state_dict(interpolate_embeddings(side, PATCH, dict(source.state_dict())))
        with torch.no_grad():
            assert_same(model(random_images((side, side))).logits, resized.eval()(random_images((side, side))))
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
    config = transformers.ViTConfig(**TINY_VIT, num_labels=3, layer_norm_eps=1e-6)
    source = random_source(transformers.ViTForImageClassification(config))
    arrays = write_npz(tmp_path / "vit.npz", source)
    model, report = convert_vit(tmp_path / "vit.npz")
    assert model.config.num_attention_heads == 2
    with torch.no_grad():
        assert_same(model(random_images(NATIVE)).logits, source(random_images(NATIVE)).logits)
    # at another size, with the table resized as the authors do: linear between the corners
    table = source.vit.embeddings.position_embeddings.detach()
    zoomed = scipy.ndimage.zoom(table[0, 1:].reshape(4, 4, 24).numpy(), (6 / 4, 5 / 4, 1), order=1)
    larger = transformers.ViTForImageClassification(
        transformers.ViTConfig(**{**TINY_VIT, "image_size": [48, 40]}, num_labels=3, layer_norm_eps=1e-6)
    )
    state = {**source.state_dict()}
    state["vit.embeddings.position_embeddings"] = torch.cat(
        (table[:, :1], torch.from_numpy(zoomed).reshape(1, 30, 24)), 1
    )
    larger.load_state_dict(state)
    with torch.no_grad():
        assert_same(model(random_images((48, 40))).logits, larger.eval()(random_images((48, 40))).logits)
    assert_all_accounted_for(report, model, arrays)
