# SPDX-License-Identifier: Apache-2.0
"""Exported folders: written whole or not at all, and run as the checkpoint was."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel, TubeViTVideoProcessor
from tubevit_hf.cli import app
from tubevit_hf.export import Clip, ExportedTubeViT, ExportError, ModelInfo, export_model, exported_pipeline, folder
from tubevit_hf.export.quantization import Int8Report, compare_int8, make_quantizer, split_clips
from tubevit_hf.folders import FolderError
from tubevit_hf.inference import load_model

from ..support.tiny import LABELS, randomize, tiny_config, write_video
from ..support.tolerances import assert_close


def run(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def in_one_line(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.fixture(scope="module")
def exported(checkpoint, videos, tmp_path_factory) -> Path:
    """What `tubevit export` writes of the tiny checkpoint, for OpenVINO."""
    out = tmp_path_factory.mktemp("exported") / "graph"
    result = run(
        "export", checkpoint, "--to", "openvino", "--frame-mask", "--out", out, "--videos", Path(videos[0]).parent
    )
    assert result.exit_code == 0, result.output
    assert "Agrees with the model on" in result.output
    assert "4 or more frames, 24 or more high, 32 or more wide" in result.output
    return out


def test_the_folder_tells_what_is_in_it(exported):
    info = ModelInfo.load(exported)
    assert (info.runtime, info.image, info.frame_mask, info.int8) == ("openvino", False, True, None)
    assert info.sizes.minimum == (4, 24, 32)
    # noise of eight sizes, and the three videos
    assert len(info.checks) == 11 and all(check.agrees for check in info.checks)
    assert set(info.versions) == {"tubevit_hf", "transformers", "torch", "openvino"}
    assert {"config.json", "video_preprocessor_config.json", "preprocessor_config.json", "export.json"} <= {
        path.name for path in exported.iterdir()
    }


def test_predict_runs_a_graph_as_the_checkpoint(exported, checkpoint, videos):
    arguments = (Path(videos[0]).parent, "--json", "--model")
    found, expected = (json.loads(run("predict", *arguments, model).stdout) for model in (exported, checkpoint))
    assert [entry["video"] for entry in found] == [entry["video"] for entry in expected]
    for entry, other in zip(found, expected):
        assert [line["label"] for line in entry["predictions"]] == [line["label"] for line in other["predictions"]]
        scores, others = ([line["score"] for line in each["predictions"]] for each in (entry, other))
        np.testing.assert_allclose(scores, others, atol=1e-4)


def test_a_graph_without_a_classifier_is_refused(exported, tmp_path):
    """As `tubevit export` writes it of such a checkpoint, whose configuration tells."""
    shutil.copytree(exported, tmp_path / "graph")
    config = json.loads((exported / "config.json").read_text())
    (tmp_path / "graph" / "config.json").write_text(json.dumps({**config, "architectures": ["TubeViTModel"]}))
    with pytest.raises(ValueError, match="graph: the model has no classifier of videos"):
        load_model(str(tmp_path / "graph"))


def test_called_as_a_model(exported, checkpoint):
    graph = ExportedTubeViT.from_pretrained(exported)
    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    clip, frame_mask = torch.randn(2, 9, 3, 45, 61), torch.arange(9)[None] < torch.tensor([[9], [6]])
    with torch.no_grad():
        assert_close(graph(clip, frame_mask).logits, model(clip, frame_mask=frame_mask).logits, "float32")
        assert_close(graph(clip.half()).logits, model(clip.half().float()).logits, "float32")


@pytest.mark.parametrize(
    ("shape", "frame_mask", "message"),
    [
        ((1, 3, 3, 40, 56), None, "takes clips of 4 or more frames, got 3"),
        ((1, 7, 3, 40, 31), None, "32 or more pixels of width, got 31"),
        ((1, 3, 40, 56), None, r"takes videos \(batch, frames, channels, height, width\), got \(1, 3, 40, 56\)"),
        ((1, 7, 4, 40, 56), None, "has 4 channels, and the model 3"),
        (
            (1, 7, 3, 40, 56),
            torch.zeros(1, 7, dtype=torch.bool),
            r"leaves a clip 0 real frame\(s\), and 1 are the least",
        ),
        ((1, 7, 3, 40, 56), torch.ones(1, 6, dtype=torch.bool), r"must be bool and \(1, 7\)"),
        ((1, 7, 3, 40, 56), torch.ones(1, 7), "must be bool"),
    ],
)
def test_clips_that_a_graph_is_not_for(exported, shape, frame_mask, message):
    with pytest.raises(ValueError, match=message):
        ExportedTubeViT.from_pretrained(exported)(torch.randn(shape), frame_mask)


def test_images_and_padded_clips_need_their_own_graphs(checkpoint, tmp_path, images):
    result = run("export", checkpoint, "--to", "openvino", "--images", "--out", tmp_path / "graph")
    assert result.exit_code == 0, result.output
    assert "Takes images of any batch, 16 or more high, 16 or more wide" in result.output
    classify = exported_pipeline(tmp_path / "graph")
    expected = pipeline("image-classification", model=str(checkpoint))(images[0])
    found = classify(images[0])
    assert [line["label"] for line in found] == [line["label"] for line in expected]
    np.testing.assert_allclose([line["score"] for line in found], [line["score"] for line in expected], atol=1e-4)
    graph = ExportedTubeViT.from_pretrained(tmp_path / "graph")
    with pytest.raises(ValueError, match=r"takes images \(batch, channels, height, width\), got \(1, 1, 3, 40, 56\)"):
        graph(torch.randn(1, 1, 3, 40, 56))
    graph.info = ModelInfo(**{**vars(graph.info), "image": False})
    with pytest.raises(ValueError, match="takes no padded clips: export one with `--frame-mask`"):
        graph(torch.randn(1, 3, 3, 40, 56), torch.tensor([[True, True, False]]))


def test_a_graph_of_pytorch_is_opened_only_if_it_is_trusted(checkpoint, videos, tmp_path):
    assert run("export", checkpoint, "--to", "torch", "--out", tmp_path / "graph").exit_code == 0
    refused = run("predict", videos[0], "--model", tmp_path / "graph")
    assert refused.exit_code == 2
    assert "is a pickle, which can run code as it is read" in in_one_line(refused.output)
    trusted = run("predict", videos[0], "--model", tmp_path / "graph", "--trust-remote-code", "--json")
    assert trusted.exit_code == 0
    assert json.loads(trusted.stdout)[0]["predictions"][0]["label"] in LABELS


def test_nothing_is_written_of_a_graph_that_is_wrong(checkpoint, tmp_path, monkeypatch):
    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    trace = folder.trace

    def trace_another(model, *arguments):
        model = randomize(type(model)(model.config), seed=1)
        return trace(model, *arguments)

    monkeypatch.setattr(folder, "trace", trace_another)
    processor = TubeViTVideoProcessor.from_pretrained(checkpoint)
    with pytest.raises(
        ExportError, match=r"onnx graph does not agree with the model: at \(1, 7, 3, 40, 56\) it is off"
    ):
        export_model(model, processor, tmp_path / "graph")
    assert list(tmp_path.iterdir()) == []


def test_the_model_stays_as_it_is(checkpoint, tmp_path):
    model = TubeViTForVideoClassification.from_pretrained(checkpoint).train()
    model.freeze_before(1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    export_model(model, TubeViTVideoProcessor.from_pretrained(checkpoint), tmp_path / "graph", "torch")
    assert model.training and model.tubevit.layers[2].mlp.fc1.weight.requires_grad
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "int8 needs real clips, two at least and better fifty, got 0"),
        (["--int8", "--to", "torch"], "int8 is made for onnx and openvino"),
        (["--images", "--frame-mask"], "an image has no frames to mask"),
        (["--to", "tflite"], "'tflite' is not one of"),
        (["--videos", "nowhere"], "nowhere"),
    ],
)
def test_bad_requests_end_in_one_line(checkpoint, tmp_path, arguments, message):
    result = run("export", checkpoint, "--out", tmp_path / "graph", *arguments)
    assert result.exit_code == 2
    assert message in in_one_line(result.output)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_not_written(checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    result = run("export", checkpoint, "--out", tmp_path / "full")
    assert result.exit_code == 2 and "it exists. Choose another folder" in in_one_line(result.output)
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    shutil.copytree(checkpoint, tmp_path / "model")
    result = run("export", tmp_path / "model", "--out", tmp_path / "model", "--overwrite")
    assert result.exit_code == 2 and "it holds the model itself" in in_one_line(result.output)
    assert (tmp_path / "model" / "model.safetensors").exists()
    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    with pytest.raises(FolderError):
        export_model(model, TubeViTVideoProcessor(), tmp_path / "full")


def test_models_that_are_not_exported(checkpoint, tmp_path):
    processor = TubeViTVideoProcessor.from_pretrained(checkpoint)
    half = TubeViTForVideoClassification.from_pretrained(checkpoint, dtype=torch.float16)
    with pytest.raises(ExportError, match=r"is in torch\.float16; load it with `dtype=torch.float32`"):
        export_model(half, processor, tmp_path / "graph")
    bare = TubeViTModel.from_pretrained(checkpoint)
    with pytest.raises(ExportError, match="this model has no head"):
        export_model(bare, processor, tmp_path / "graph", int8=True)
    with pytest.raises(ExportError, match=r"`runtime` must be one of 'onnx', 'openvino', 'torch', got 'tensorrt'"):
        export_model(bare, processor, tmp_path / "graph", "tensorrt")
    tubes = [{"kernel_size": [2, 8, 8], "stride": [2, 8, 8]}]
    with pytest.raises(ExportError, match="no tube of this model sees an image of its own size"):
        export_model(randomize(TubeViTModel(tiny_config(tubes=tubes))), processor, tmp_path / "graph", image=True)


def test_a_model_with_several_heads_is_no_model_for_one(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((checkpoint / "config.json").read_text())
    config["architectures"] = ["TubeViTForJointClassification"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    result = run("export", tmp_path / "model", "--out", tmp_path / "graph")
    assert result.exit_code == 2
    assert "it is a TubeViTForJointClassification" in in_one_line(result.output)


def test_masks_of_given_clips():
    pixel_values, mask = torch.randn(1, 7, 3, 40, 56), torch.arange(7)[None] < 5
    bare, padded = Clip({"pixel_values": pixel_values}, 1), Clip({"pixel_values": pixel_values, "frame_mask": mask}, 1)
    assert folder.fit_mask(bare, frame_mask=True).inputs["frame_mask"].all()
    assert folder.fit_mask(padded, frame_mask=True).inputs["frame_mask"] is mask
    assert set(folder.fit_mask(bare, frame_mask=False).inputs) == {"pixel_values"}
    whole = Clip({"pixel_values": pixel_values, "frame_mask": torch.ones_like(mask)}, 1)
    assert set(folder.fit_mask(whole, frame_mask=False).inputs) == {"pixel_values"}
    with pytest.raises(ExportError, match="a given clip is padded: export with `--frame-mask`"):
        folder.fit_mask(padded, frame_mask=False)


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed(checkpoint, tmp_path, monkeypatch, runtime, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = run("export", checkpoint, "--to", runtime, "--out", tmp_path / "graph")
    assert result.exit_code == 2
    assert f'pip install "tubevit_hf[{runtime}]"' in in_one_line(result.output)


def test_exporters_that_are_not_installed(checkpoint, tmp_path, monkeypatch):
    """An older Transformers has none."""
    for name in [name for name in sys.modules if name.startswith("tubevit_hf.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers.exporters", None)
    result = run("export", checkpoint, "--out", tmp_path / "graph")
    assert result.exit_code == 2
    assert 'pip install "tubevit_hf[export]"' in in_one_line(result.output)


def test_folders_that_hold_no_graph(exported, tmp_path):
    with pytest.raises(ExportError, match=r"its model_info\.json cannot be read"):
        ExportedTubeViT.from_pretrained(tmp_path)
    for name, text in (("text", "no JSON"), ("list", "[]"), ("less", '{"runtime": "onnx"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_info.json").write_text(text)
        result = run("predict", "x.mp4", "--model", tmp_path / name)
        assert result.exit_code == 2
        assert "model_info.json cannot be read" in in_one_line(result.output)
    shutil.copytree(exported, tmp_path / "later")
    info = json.loads((exported / "model_info.json").read_text())
    (tmp_path / "later" / "model_info.json").write_text(json.dumps({**info, "runtime": "later"}))
    with pytest.raises(ExportError, match="it is for 'later', and onnx, openvino, torch are known"):
        ExportedTubeViT.from_pretrained(tmp_path / "later")


@pytest.fixture(scope="module")
def labelled(checkpoint, tmp_path_factory) -> Path:
    """Twelve videos in folders that are called as the model classifies them, but for one."""
    root = tmp_path_factory.mktemp("labelled")
    classify = pipeline("video-classification", model=str(checkpoint))
    for seed in range(12):
        file = write_video(root / f"{seed}.mp4", 9, 44, 60, seed)
        label = classify(str(file))[0]["label"] if seed else LABELS[0]
        (root / label).mkdir(exist_ok=True)
        file.rename(root / label / file.name)
    return root


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8_tells_what_it_costs(checkpoint, labelled, tmp_path, runtime):
    arguments = ("export", checkpoint, "--to", runtime, "--int8", "--videos", labelled, "--out", tmp_path / "graph")
    result = run(*arguments, "--max-loss", 100)
    assert result.exit_code == 0, result.output
    info = ModelInfo.load(tmp_path / "graph")
    # half of the videos calibrate where that is needed
    assert info.int8.num_clips == (6 if runtime == "openvino" else 12)
    assert info.int8.accuracy_before is not None
    printed = f"top-1 agreement {info.int8.agreement:.1f}%, accuracy {info.int8.accuracy_before:.1f}% before"
    assert printed in in_one_line(result.output)
    graph = ExportedTubeViT.from_pretrained(tmp_path / "graph")
    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    clip = torch.randn(1, 7, 3, 40, 56)
    with torch.no_grad():
        difference = (graph(clip).logits - model(clip).logits).abs().max()
    assert difference > 0, "nothing is rounded"


def test_int8_that_loses_too_much_is_not_written(checkpoint, labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "compare_int8", lambda *arguments: Int8Report(40, 97.5, 80.0, 79.4))
    result = run("export", checkpoint, "--int8", "--videos", labelled, "--out", tmp_path / "graph")
    assert result.exit_code == 2
    assert "int8 loses 0.60 points on 40 clips (top-1 agreement 97.5%, accuracy 80.0% before and 79.4% after)" in (
        in_one_line(result.output)
    )
    assert list(tmp_path.iterdir()) == []


def test_the_int8_report_counts():
    """Five clips whose classes the model tells but for one; the graph gives another class at two."""
    classes = [0, 1, 2, 3, 4]
    told = dict(zip(classes, [0, 1, 2, 3, 0]))
    rounded = dict(zip(classes, [0, 1, 2, 0, 4]))

    def answers(table: dict):
        class Answer:
            def __call__(self, number):
                self.logits = torch.nn.functional.one_hot(torch.tensor([table[number]]), 5)
                return self

        return Answer()

    clips = [Clip({"number": number}, number) for number in classes]
    report = compare_int8(answers(told), answers(rounded), clips)
    assert report == Int8Report(5, 60.0, 80.0, 80.0)
    assert report.loss == 0
    unknown = [Clip(clip.inputs, None) for clip in clips]
    report = compare_int8(answers(told), answers(rounded), unknown)
    assert report == Int8Report(5, 60.0, None, None)
    assert report.loss == 40


@pytest.mark.parametrize("number", [2, 3, 20, 63, 64, 65, 1000])
def test_no_clip_both_calibrates_and_judges(number):
    clips = [Clip({}, index) for index in range(number)]
    calibration, others = split_clips(clips, calibrates=True)
    assert sorted(clip.label for clip in [*calibration, *others]) == list(range(number))
    assert 1 <= len(calibration) <= min(32, -(-number // 2)) and others
    assert split_clips(clips, calibrates=False) == ([], clips)


def test_int8_leaves_the_head_as_it_is(checkpoint):
    """Of the matrix products with weights, those of the encoder only are rounded."""
    from tubevit_hf.export.graph import make_inputs, trace
    from tubevit_hf.export.sizes import SizeRange

    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    sizes = SizeRange.of_config(model.config, model.config.native_size)
    clips = [Clip(make_inputs(model, (7, 40, 56), 1, False, False, seed), None) for seed in range(3)]
    graph = trace(model, "openvino", sizes, False, False, make_quantizer("openvino", model.config, clips))
    rounded = set()
    for node in graph.program.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            inputs = [node.input_value(index).get_node() for index in range(2)]
            if any(each.get_type_name() == "FakeQuantize" for each in inputs):
                rounded.add(tuple(sorted(inputs[1].shape)))
    assert rounded and rounded <= {(24, 24), (24, 40)}
