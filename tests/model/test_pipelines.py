# SPDX-License-Identifier: Apache-2.0
"""The pipelines on real files: what they say is what processor and model say when they are called by hand."""

import json
import logging
import math
import shutil

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
    pipeline,
)

from tubevit_hf import (
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTVideoProcessor,
    read_video,
)

from ..support.tiny import LABELS


@pytest.fixture(scope="module")
def classify_video(checkpoint):
    return pipeline("video-classification", model=str(checkpoint))


@pytest.fixture(scope="module")
def classify_image(checkpoint):
    return pipeline("image-classification", model=str(checkpoint))


@pytest.fixture(scope="module")
def extract(checkpoint):
    return pipeline("image-feature-extraction", model=str(checkpoint))


@torch.no_grad()
def by_hand(model, processor, inputs, **kwargs):
    """Scores by label of one file, without a pipeline."""
    batch = processor(inputs, return_tensors="pt", **kwargs)
    scores = model(**batch).logits.softmax(dim=-1)[0]
    return dict(zip(LABELS, scores.tolist()))


def assert_answer(answer, expected):
    """The labels of `answer` are the best of `expected`, in order, with the same scores."""
    best = sorted(expected, key=expected.get, reverse=True)[: len(answer)]
    assert [entry["label"] for entry in answer] == best
    for entry in answer:
        # a batch of another size may sum in another order
        assert entry["score"] == pytest.approx(expected[entry["label"]], abs=1e-5)


def test_classes(classify_video, classify_image, extract):
    assert type(classify_video.model) is TubeViTForVideoClassification
    assert type(classify_image.model) is TubeViTForImageClassification
    assert type(extract.model) is TubeViTModel
    assert type(classify_video.video_processor).__name__ == "TubeViTVideoProcessor"
    assert type(classify_image.image_processor).__name__ == "TubeViTImageProcessor"


def test_no_warnings(checkpoint, videos, images, caplog):
    # the pipeline would warn of a model that it doesn't know, or of a video that goes through an image processor
    caplog.set_level("WARNING", logger="transformers")
    for task, source in [("video-classification", videos[0]), ("image-classification", images[0])]:
        pipeline(task, model=str(checkpoint))(source)
    assert [record.message for record in caplog.records] == []


@pytest.mark.parametrize("num_frames", [None, 5, 12])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_video_classification(classify_video, checkpoint, videos, batch_size, num_frames):
    arguments = {} if num_frames is None else {"num_frames": num_frames}
    batched = {} if batch_size is None else {"batch_size": batch_size}
    model = AutoModelForVideoClassification.from_pretrained(checkpoint)
    processor = AutoVideoProcessor.from_pretrained(checkpoint)
    frames = processor(videos, return_tensors="pt", **arguments).pixel_values
    assert frames.shape == (3, num_frames or 7, 3, 40, 56)
    expected = [by_hand(model, processor, video, **arguments) for video in videos]

    answers = classify_video(videos, **arguments, **batched)
    assert len(answers) == 3
    for answer, scores in zip(answers, expected):
        assert len(answer) == len(LABELS)
        assert math.isclose(sum(entry["score"] for entry in answer), 1, abs_tol=1e-5)
        assert_answer(answer, scores)
    # or the order of the answers would not have been tested
    assert all(abs(expected[0]["fall"] - other["fall"]) > 1e-3 for other in expected[1:])
    assert_answer(classify_video(videos[1], **arguments), expected[1])


def test_num_frames_default_is_the_config_s(classify_video, checkpoint, videos):
    # the model may want other clips than the processor makes by default
    classify = pipeline("video-classification", model=str(checkpoint))
    classify.video_processor.num_frames = 3
    assert classify(videos[0]) == classify_video(videos[0], num_frames=7)
    assert classify(videos[0]) != classify_video(videos[0], num_frames=3)


@pytest.mark.parametrize("top_k", [1, 3, 99])
def test_top_k(classify_video, classify_image, videos, images, top_k):
    for classify, source in [(classify_video, videos[0]), (classify_image, images[0])]:
        everything = classify(source)
        assert len(everything) == 5
        assert classify(source, top_k=top_k) == everything[: min(top_k, 5)]


def test_multi_label(classify_video, checkpoint, videos):
    classify = pipeline(
        "video-classification", model=str(checkpoint), model_kwargs={"problem_type": "multi_label_classification"}
    )
    assert classify.model.config.problem_type == "multi_label_classification"
    logits = {entry["label"]: entry["score"] for entry in classify_video(videos[0], function_to_apply="none")}
    # by default too from transformers 5.23 on
    for entry in classify(videos[0], function_to_apply="sigmoid"):
        assert entry["score"] == pytest.approx(1 / (1 + math.exp(-logits[entry["label"]])), abs=1e-6)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_image_classification(classify_image, checkpoint, images, batch_size):
    batched = {} if batch_size is None else {"batch_size": batch_size}
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    expected = [by_hand(model, processor, Image.open(image)) for image in images]
    assert abs(expected[0]["fall"] - expected[1]["fall"]) > 1e-3

    answers = classify_image(images, **batched)
    assert len(answers) == 2
    for answer, scores in zip(answers, expected):
        assert math.isclose(sum(entry["score"] for entry in answer), 1, abs_tol=1e-5)
        assert_answer(answer, scores)
    assert_answer(classify_image(Image.open(images[1])), expected[1])


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("pool", [False, True])
def test_image_feature_extraction(extract, checkpoint, images, pool, batch_size):
    model, processor = AutoModel.from_pretrained(checkpoint), AutoImageProcessor.from_pretrained(checkpoint)
    batched = {} if batch_size is None else {"batch_size": batch_size}
    features = extract(images, pool=pool, return_tensors=True, **batched)
    for feature, image in zip(features, images, strict=True):
        with torch.no_grad():
            outputs = model(**processor(Image.open(image), return_tensors="pt"))
        # CLS, two registers and the 5x7 patches that a single frame fills
        expected = outputs.pooler_output if pool else outputs.last_hidden_state
        assert expected.shape == ((1, 24) if pool else (1, 38, 24))
        torch.testing.assert_close(feature, expected, atol=1e-5, rtol=0)
    assert (features[0] - features[1]).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pipelines_in_low_precision(classify_video, checkpoint, videos, images, dtype):
    # the pipeline casts the frames as well
    classify = pipeline("video-classification", model=str(checkpoint), dtype=dtype)
    expected = {entry["label"]: entry["score"] for entry in classify_video(videos[0])}
    for entry in classify(videos[0]):
        # eight bits of mantissa through three layers
        assert entry["score"] == pytest.approx(expected[entry["label"]], abs=0.05)
    assert pipeline("image-classification", model=str(checkpoint), dtype=dtype)(images[0])[0]["label"] in LABELS


@pytest.mark.parametrize("name", ["missing.mp4", "text.mp4"])
def test_unreadable_file_is_named(classify_video, tmp_path, name):
    path = tmp_path / name
    if name == "text.mp4":
        path.write_text("no video")
    with pytest.raises(ValueError, match=name):
        classify_video(str(path))


# What Transformers leaves out or takes for something else

# of all that a video processor may be told, what `pipeline` saves of no model
SETTINGS = {"fps": 5, "frame_sampling": "spaced", "short_clips": "pad", "crop_size": {"height": 32, "width": 40}}


@pytest.fixture
def own(checkpoint, tmp_path):
    """The checkpoint with a video processor that reads other frames than by default."""
    folder = shutil.copytree(checkpoint, tmp_path / "own")
    AutoVideoProcessor.from_pretrained(folder, **SETTINGS).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("saves", ["video-classification", "image-classification"])
def test_a_saved_pipeline_reads_videos_as_before(own, classify_video, videos, tmp_path, caplog, saves):
    classify = pipeline("video-classification", model=str(own))
    expected = classify(videos[0])
    assert expected != classify_video(videos[0])
    pipeline(saves, model=str(own)).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "video_preprocessor_config.json").exists()
    again = pipeline("video-classification", model=str(tmp_path / "again"))
    assert again(videos[0]) == expected
    before, after = (pipe.video_processor.to_dict() for pipe in (classify, again))
    assert {**after, "auto_map": None} == {**before, "auto_map": None}
    # it may have been used with another processor, of which nothing was saved
    [warning] = [record.message for record in caplog.records if "no video_preprocessor_config.json" in record.message]
    assert "num_frames=7, fps=5, frame_sampling='spaced', num_clips=1, short_clips='pad'" in warning
    caplog.clear()
    # as the warning says
    again.video_processor.save_pretrained(tmp_path / "again")
    assert pipeline("video-classification", model=str(tmp_path / "again"))(videos[0]) == expected
    assert caplog.records == []


def test_images_of_another_size_leave_videos_alone(own, tmp_path):
    video_processor = AutoVideoProcessor.from_pretrained(own)
    AutoImageProcessor.from_pretrained(own, crop_size={"height": 24, "width": 24}).save_pretrained(tmp_path)
    shutil.copy(own / "config.json", tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).crop_size == {"height": 24, "width": 24}
    assert AutoVideoProcessor.from_pretrained(tmp_path).crop_size == video_processor.crop_size


@pytest.mark.parametrize("kept", [None, "spaced"])
def test_an_image_processor_alone_does_not_say_how_videos_are_read(checkpoint, tmp_path, caplog, kept):
    """As of other models, or of earlier versions; or of a stranger."""
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    settings["video_processor"] = kept
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = TubeViTVideoProcessor.from_pretrained(tmp_path)
    assert (processor.num_frames, processor.crop_size) == (32, {"height": 40, "width": 56})
    [warning] = [record.message for record in caplog.records]
    assert "read as by default: num_frames=32, fps=None, frame_sampling='uniform'" in warning


def test_auto_processor_is_of_videos(checkpoint, videos):
    frames = list(read_video(videos[0], range(7))[0].permute(0, 2, 3, 1).numpy())
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert type(processor) is TubeViTVideoProcessor
    assert processor.to_dict() == AutoVideoProcessor.from_pretrained(checkpoint).to_dict()
    # as VideoMAE's is called
    assert processor(frames, return_tensors="pt").pixel_values.shape == (1, 7, 3, 40, 56)


def test_frames_that_are_taken_for_images_are_told(checkpoint, videos, images, caplog, monkeypatch):
    monkeypatch.setattr(logging.Logger, "warning_once", logging.Logger.warning, raising=False)
    model = AutoModelForVideoClassification.from_pretrained(checkpoint)
    image_processor = AutoImageProcessor.from_pretrained(checkpoint)
    first = by_hand(model, image_processor, Image.fromarray(read_video(videos[0], [0])[0][0].permute(1, 2, 0).numpy()))
    assert caplog.records == []
    # the pipeline takes the answer for the first image, whatever we return
    assert_answer(pipeline("video-classification", model=model, image_processor=image_processor)(videos[0]), first)
    assert ["or give `pixel_values[None]`" in record.message for record in caplog.records].count(True) == 1
    caplog.clear()
    # what is meant as images
    pictures = image_processor([Image.open(image) for image in images], return_tensors="pt")
    AutoModelForImageClassification.from_pretrained(checkpoint)(**pictures)
    model.train()(**pictures)
    assert caplog.records == []
