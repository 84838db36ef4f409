# SPDX-License-Identifier: Apache-2.0
"""What is measured is what the pipeline says; a second time nothing is opened again."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoVideoProcessor,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
    pipeline,
)

from tubevit_hf import TubeViTForVideoClassification, folders
from tubevit_hf.inference import load_model, predict_files
from tubevit_hf.inference.running import LoadedModel
from tubevit_hf.report import ReportError, choose_videos, make_report, measure
from tubevit_hf.report import measuring as measuring_module
from tubevit_hf.report.filmstrips import NUM_CLIPS, choose_clips, draw_strips, to_pictures
from tubevit_hf.report.history import read_history
from tubevit_hf.report.limits import list_limits
from tubevit_hf.report.measuring import check_model
from tubevit_hf.report.statistics import calibrate, wilson_share

from ..support.tiny import LABELS, randomize
from .conftest import make_measurement


def measured(model_folder: Path, folder: Path, **settings):
    loaded = load_model(str(model_folder))
    selection = choose_videos(str(model_folder), folder, LABELS)
    return measure(str(model_folder), loaded, str(folder), selection, num_workers=0, **settings)


def test_scores_are_those_of_the_pipeline(model_folder, class_folders):
    found = measured(model_folder, class_folders)
    classify = pipeline("video-classification", model=str(model_folder))
    assert len(found.videos) == 12
    for video in found.videos:
        scores = {entry["label"]: entry["score"] for entry in classify(video.file, top_k=5)}
        assert dict(zip(found.labels, video.scores)) == pytest.approx(scores, abs=1e-5)
        assert video.predicted == max(scores, key=scores.__getitem__)
        assert video.right == (Path(video.file).parent.name == video.predicted)
    assert found.accuracy == wilson_share(sum(video.right for video in found.videos), 12)
    assert found.chance == 1 / 5
    # moving_digits.write_video has ten frames a second
    for video in found.videos:
        seed = 3 * LABELS.index(video.labels[0]) + int(Path(video.file).stem[-1])
        assert round(10 * video.length) == 8 + 2 * seed % 17
    assert found.tokens == load_model(str(model_folder)).model.config.num_tokens()
    assert found.speed.videos == 9
    assert found.speed.reading_ms > 0 and found.speed.model_ms > 0
    assert {"CPU", "torch", "Python"} <= set(found.environment)


@pytest.mark.parametrize("is_saved", [True, False])
def test_another_architecture_with_texts_as_numbers(is_saved, class_folders, tmp_path):
    """As Transformers' example scripts write labels; in memory such a model keeps them as they are."""
    size = {"height": 32, "width": 32}
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    names = {name: str(number) for number, name in enumerate(LABELS)}
    model = randomize(
        VideoMAEForVideoClassification(VideoMAEConfig(**shape, image_size=32, num_frames=4, num_labels=5))
    )
    model.config.id2label, model.config.label2id = {number: name for name, number in names.items()}, names
    processor = VideoMAEVideoProcessor(size=size, crop_size=size)
    loaded = LoadedModel(model, processor, "")
    if is_saved:
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        loaded = load_model(str(tmp_path))
    selection = choose_videos("model", class_folders, LABELS)
    # of a single view Transformers' processors want TorchCodec
    found = measure("model", loaded, str(class_folders), selection, views=(2, 1), num_workers=0)
    assert found.labels == LABELS
    for video in found.videos:
        assert video.predicted == LABELS[int(np.argmax(video.scores))]
    files = [video.file for video in found.videos]
    for video, prediction in zip(found.videos, predict_files(loaded, files, views=(2, 1), num_workers=0), strict=True):
        assert prediction.predictions[0]["label"] == video.predicted


def test_views_are_averaged(model_folder, class_folders):
    one, four = measured(model_folder, class_folders), measured(model_folder, class_folders, views=(2, 2))
    assert four.views == (2, 2)
    assert not np.allclose(one.videos[0].scores, four.videos[0].scores, atol=1e-4)
    assert sum(four.videos[0].scores) == pytest.approx(1, abs=1e-5)


def test_nothing_is_measured_twice(model_folder, class_folders, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    shutil.copytree(class_folders / "validation", folder)
    first = measured(model_folder, folder)
    kept = tmp_path / "report.json"
    kept.write_text(json.dumps(first.to_dict()))
    asked: list[list[str]] = []
    read_files = measuring_module.read_files

    def record(files, *arguments):
        asked.append(list(files))
        return read_files(files, *arguments)

    monkeypatch.setattr(measuring_module, "read_files", record)
    again = measured(model_folder, folder, kept=kept)
    assert again.videos == first.videos
    # a file that changed is measured again, and no other
    changed = folder / "fall" / "person0_fall_0.mp4"
    os.utime(changed, ns=(0, 0))
    measured(model_folder, folder, kept=kept)
    # other views, and what is no report, say nothing
    measured(model_folder, folder, kept=kept, views=(2, 1))
    kept.write_text('{"videos": 3}')
    measured(model_folder, folder, kept=kept)
    assert [len(files) for files in asked] == [0, 1, 12, 12]
    assert asked[1] == [str(changed)]


def test_files_that_cannot_be_read_are_left_out_and_told(model_folder, class_folders, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(class_folders / "validation", folder)
    broken = folder / "jump" / "person0_jump_0.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    found = measured(model_folder, folder)
    assert len(found.videos) == 11
    assert [str(broken) in error for error in found.failed] == [True]
    assert any("1 files could not be read" in limit for limit in found.limits)
    for path in folder.rglob("*.mp4"):
        path.write_text("no video")
    with pytest.raises(ReportError, match="none of the 12 videos can be read"):
        measured(model_folder, folder)


def test_weights_that_give_no_numbers_are_refused(model_folder, class_folders):
    model = TubeViTForVideoClassification.from_pretrained(model_folder)
    torch.nn.init.constant_(model.classifier.weight, torch.inf)
    model.save_pretrained(model_folder)
    with pytest.raises(ReportError, match="not finite"):
        measured(model_folder, class_folders)


def test_models_without_classes_and_of_images_are_refused(model_folder, class_folders):
    loaded = load_model(str(model_folder))
    with pytest.raises(ReportError, match="for images"):
        check_model("a", loaded._replace(processor=AutoImageProcessor.from_pretrained(model_folder)))
    loaded.model.config.problem_type = "regression"
    with pytest.raises(ReportError, match="gives numbers"):
        check_model("a", loaded)


def test_nothing_is_put_beside_an_exported_graph(model_folder, class_folders, tmp_path):
    loaded = load_model(str(model_folder))
    (model_folder / "model_info.json").write_text("{}")
    before = sorted(model_folder.iterdir())
    with pytest.raises(ReportError, match="no folder of a checkpoint"):
        make_report(str(model_folder), loaded, class_folders, num_workers=0)
    written = make_report(str(model_folder), loaded, class_folders, tmp_path / "report.html", num_workers=0)
    assert written.page.exists() and written.card is None
    assert sorted(model_folder.iterdir()) == before


def test_frames_alone_of_models_that_are_not_looked_into(model_folder, class_folders):
    found = measured(model_folder, class_folders)
    loaded = load_model(str(model_folder))

    class Other(torch.nn.Module):
        config = loaded.model.config
        device = torch.device("cpu")

    [strip] = draw_strips(loaded._replace(model=Other()), found.videos[:1])
    assert len(strip.moments) == 7
    assert not strip.explained
    assert {moment.drop for moment in strip.moments} == {None}
    # one row of frames, of which this processor's are broader than high
    assert {(moment.width > moment.height) for moment in strip.moments} == {True}


def test_strips_show_what_the_model_saw(model_folder, class_folders):
    found = measured(model_folder, class_folders)
    mistakes, uncertain = choose_clips(found)
    assert [video.right for video in mistakes] == [False] * len(mistakes)
    confidences = [video.confidence for video in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert not {video.file for video in mistakes} & {video.file for video in uncertain}
    assert len(mistakes) == NUM_CLIPS or len(mistakes) == len(found.mistakes)
    loaded = load_model(str(model_folder))
    strips = list(draw_strips(loaded, mistakes[:1]))
    # a clip of seven frames
    assert len(strips[0].moments) == 7
    assert strips[0].explained
    assert all(moment.picture.startswith("data:image/webp;base64,") for moment in strips[0].moments)
    assert all(-1 <= moment.drop <= 1 for moment in strips[0].moments)
    seconds = [moment.seconds for moment in strips[0].moments]
    assert seconds == sorted(seconds) and seconds[0] >= 0 and seconds[-1] <= mistakes[0].length
    [lost] = draw_strips(loaded, [replace(mistakes[0], file="gone.mp4")])
    assert "gone.mp4" in lost.error


def test_pictures_are_the_frames_again(model_folder):
    processor = AutoVideoProcessor.from_pretrained(model_folder)
    # of the size that the processor makes, so that nothing is lost on the way
    frames = torch.randint(0, 256, (4, 3, 44, 60), dtype=torch.uint8)
    inputs = processor(frames, do_sample_frames=False, do_resize=False, return_tensors="pt")
    expected = frames[:, :, 2:42, 2:58].permute(0, 2, 3, 1)
    torch.testing.assert_close(to_pictures(processor, inputs["pixel_values"][0]).round().byte(), expected)


def test_history_of_a_training(tmp_path):
    assert read_history(tmp_path).curves == {}
    log = [
        {"loss": 2.0, "step": 10},
        {"eval_loss": 1.5, "eval_top_1_accuracy": 0.5, "step": 10},
        {"loss": 1.0, "step": 20},
        {"train_runtime": 3.0, "step": 20},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    # a single evaluation is no curve
    assert read_history(tmp_path).curves == {"loss": {"training": [(10, 2.0), (20, 1.0)]}}
    choices = {
        "layers 6, means": {"accuracy": 0.9, "loss": 0.5},
        "layers 6, differences": {"accuracy": 0.8, "loss": 0.4},
    }
    (tmp_path / "few_videos.json").write_text(
        json.dumps({"chosen": "layers 6, differences", "choices": choices, "notes": ["A note."]})
    )
    history = read_history(tmp_path)
    assert [choice.name for choice in history.choices] == ["layers 6, differences", "layers 6, means"]
    assert history.still_does_as_well == (0.9, 0.8)
    (tmp_path / "results.json").write_text('{"source": "a ViT", "videos": {"train": 9, "validation": 3}, "more": 1}')
    history = read_history(tmp_path)
    assert (history.source, history.videos, history.division) == ("a ViT", {"train": 9, "validation": 3}, None)
    for name in ("trainer_state.json", "few_videos.json", "results.json"):
        (tmp_path / name).write_text("[1, 2")
    assert read_history(tmp_path).choices == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_videos": 12}, "12 videos are few"),
        ({"num_videos": 40, "skill": 0.0}, "not shown to be better than always saying"),
        ({"skill": 0.0, "num_videos": 80}, "were recognised"),
        ({}, "Not measured, for want of videos: class 4."),
        ({"skill": 4.0}, "of 7 groups only"),
        ({"skill": 12.0}, "of 7 groups, and those of one are alike"),
        ({"num_videos": 12}, "Fewer than 5 videos"),
        ({"warnings": ["They may be known."]}, "They may be known."),
        ({"failed": ["a.mp4: broken"]}, "1 files could not be read and are not in any number: a.mp4: broken"),
        ({}, "one of its 5 classes"),
    ],
)
def test_limits_say_what_the_numbers_do_not_show(settings, expected):
    assert any(expected in limit for limit in list_limits(make_measurement(**settings)))


def test_a_good_model_on_many_videos_has_few_limits():
    found = make_measurement(num_videos=2_000, skill=12.0)
    found = replace(found, num_groups=50, accuracy_by_groups=None)
    assert [limit.split()[0] for limit in list_limits(found)] == ["Not", "It"]


def test_a_model_that_is_too_sure_is_told():
    found = make_measurement(num_videos=200, skill=0.0)
    sure = [replace(video, confidence=0.99) for video in found.videos]
    calibration = calibrate(np.full(200, 0.99), np.array([video.right for video in sure]))
    limits = list_limits(replace(found, videos=sure, calibration=calibration))
    assert any("too sure of itself" in limit for limit in limits)


def test_files_are_written_whole_or_not(model_folder, class_folders, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "replace", full)
    before = sorted(path.name for path in model_folder.iterdir())
    with pytest.raises(OSError, match="No space left"):
        make_report(str(model_folder), load_model(str(model_folder)), class_folders, num_workers=0)
    assert sorted(path.name for path in model_folder.iterdir()) == before
