# SPDX-License-Identifier: Apache-2.0
"""Sources and arguments that are refused, and what is saved."""

import errno
import json
import os
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tubevit_hf import (
    TubeViTModel,
)
from tubevit_hf.conversion import ConversionError, convert_vit, save_converted, scale_up

from ..support.conversion_cases import DINOV2, SMALL_TEXT, TIMM, random_source, torchvision_vit
from ..support.tiny import SMALL_TUBES, TINY_VIT, tiny_config, vit_classifier


@pytest.mark.parametrize(("image_size", "patches"), [((8, 32), "1x4"), ((32, 12), "4x1")])
def test_interleaved_tubes_need_two_rows_and_columns(image_size, patches, tmp_path):
    settings = {**TINY_VIT, "image_size": image_size}
    transformers.ViTModel(transformers.ViTConfig(**settings)).save_pretrained(tmp_path)
    with pytest.raises(
        ConversionError, match=f"its images have {patches} patches, and interleaved tubes need two rows"
    ):
        convert_vit(tmp_path, layout="interleaved")
    assert convert_vit(tmp_path, layout="frames")[0].config.tubes[0]["kernel_size"] == [1, 8, 8]


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
                transformers.DeiTConfig(**TINY_VIT, num_labels=3)
            ),
            r"it averages two heads.*--no-classifier",
        ),
        (
            lambda: transformers.CLIPForImageClassification(
                transformers.CLIPConfig(vision_config=TINY_VIT, text_config=SMALL_TEXT, num_labels=3)
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
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConversionError, match=r"empty: it holds no config\.json"):
        convert_vit(tmp_path / "empty")
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
    source = random_source(torchvision_vit())
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(ConversionError, match="--allow-pickle"):
        convert_vit(tmp_path / "vit.pth", num_attention_heads=2)
    # a bare pickle, and one in the archive that torch.save writes
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv_proj.weight": Runs()}))
    torch.save({"conv_proj.weight": Runs()}, tmp_path / "evil.pt")
    for name in ("evil.pth", "evil.pt"):
        with pytest.raises(ConversionError, match=f"{name}: it cannot be read"):
            convert_vit(tmp_path / name, num_attention_heads=2, allow_pickle=True)
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
