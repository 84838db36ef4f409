# SPDX-License-Identifier: Apache-2.0
"""The processors: every kind of input, and the same numbers as transformers' own."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoVideoProcessor,
    LlavaOnevisionVideoProcessor,
    TimesformerVideoProcessor,
    VideoMAEVideoProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
    pipeline,
)
from transformers.video_utils import load_video

from tubevit_hf import TubeViTImageProcessor, TubeViTImageProcessorPil, read_video

from ..support.tiny import tiny_video_processor, write_video


# of which each differs from every default, and between channels and sides
SETTINGS = {
    "size": {"height": 45, "width": 31},
    "resample": 3,
    "image_mean": [0.3, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "rescale_factor": 1 / 200,
}


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Ten frames, `(10, 48, 72, 3)`, uint8."""
    return np.random.default_rng(0).integers(0, 256, size=(10, 48, 72, 3), dtype=np.uint8)


def process(videos, **arguments) -> torch.Tensor:
    return tiny_video_processor()(videos, return_tensors="pt", **arguments).pixel_values


# Kinds of input


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "file", "memory"])
def test_files(videos, kind):
    expected = process(read_video(videos[0], [0, 2, 5, 8, 11, 14, 17])[0], do_sample_frames=False)
    path = Path(videos[0])
    with path.open("rb") as file:
        sources = {
            "str": str(path),
            "path": path,
            "bytes": path.read_bytes(),
            "file": file,
            "memory": io.BytesIO(path.read_bytes()),
        }
        source = sources[kind]
        assert process(source).equal(expected)
        assert process([source, source]).equal(expected.repeat(2, 1, 1, 1, 1))
        assert not file.closed


def test_arrays_tensors_and_frames(frames):
    expected = process(frames)
    assert expected.shape == (1, 7, 3, 40, 56)
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    pictures = [Image.fromarray(frame) for frame in frames]
    for video in (channels_first, channels_first.numpy(), list(frames), list(channels_first), pictures):
        assert process(video).equal(expected)
        assert process([video]).equal(expected)
        assert process([video, video]).equal(expected.repeat(2, 1, 1, 1, 1))
    assert process(channels_first[None]).equal(expected)


def test_values_follow_the_definition(frames):
    # no resizing: rescaled, normalised, and cropped around the centre
    pixels = process(frames, do_resize=False, num_frames=2)[0]
    crop = frames[[0, 5], 4:44, 8:64] / 255
    expected = (crop - [0.3, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    # float32 against float64
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_pictures_of_other_modes(frames):
    grey = [Image.fromarray(frame).convert("L") for frame in frames]
    assert process(grey).equal(process([picture.convert("RGB") for picture in grey]))
    with_alpha = [Image.fromarray(frame).convert("RGBA") for frame in frames]
    assert process([with_alpha, with_alpha]).equal(process(frames).repeat(2, 1, 1, 1, 1))


def test_grey_arrays(frames):
    grey = frames[..., :1]
    assert process(grey).equal(process(grey.repeat(3, axis=-1)))
    # rows of frames could as well be rows of an image: refused, not guessed
    with pytest.raises(ValueError, match="channel dimension"):
        process(grey[..., 0])


def test_image_files(frames, tmp_path):
    paths = []
    for index, frame in enumerate(frames):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(frame).save(paths[-1])
    assert process([paths]).equal(process(frames))
    assert process([list(map(str, paths)), paths]).equal(process([frames, frames]))
    assert process([paths], do_sample_frames=False).equal(process(frames, do_sample_frames=False))
    # what is not sampled is not read
    paths[3].write_text("no image")
    expected = process(frames, num_frames=5)
    assert process([paths], num_frames=5).equal(expected)
    with pytest.raises(ValueError, match=r"3\.png"):
        process([paths], num_frames=10)
    # like a video file's, their frames repeat
    assert process([paths[:3]]).equal(process(frames[:3], short_clips="repeat"))


def test_image_file_is_a_video_of_one_frame(images):
    pixels = process(images)
    assert pixels.shape == (2, 7, 3, 40, 56)
    assert (pixels[:, 1:] == pixels[:, :1]).all()
    assert not pixels[0].equal(pixels[1])


def test_batch_of_different_sizes_and_lengths(videos):
    together = process(videos)
    assert together.shape == (3, 7, 3, 40, 56)
    assert together.equal(torch.cat([process(video) for video in videos]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "empty list"),
        (None, "Invalid video input"),
        ([np.zeros((9, 48, 72, 3), dtype=np.uint8), "clip.mp4"], "files beside arrays"),
        (np.zeros((0, 48, 72, 3), dtype=np.uint8), "no frames"),
        (np.zeros((3, 48, 72, 3), dtype=np.uint8), "has 3 frames, but `num_frames` is 7"),
        ("missing.mp4", r"missing\.mp4"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        process(inputs)


def test_values_up_to_one_are_warned_about(frames, caplog):
    caplog.set_level("WARNING", logger="transformers")
    scaled = frames.astype(np.float32) / 255
    pixels = process(scaled, do_rescale=False)
    assert caplog.records == []
    # resizing whole numbers rounds, along rows and along columns
    torch.testing.assert_close(pixels, process(frames), atol=1.1 / 255 / 0.2, rtol=0)
    process(scaled)
    assert "do_rescale=False" in caplog.text


# Sampling


def test_arguments_reach_the_sampling(videos, frames):
    metadata = {"total_num_frames": 10, "fps": 5}
    assert process(frames, fps=2.5, video_metadata=metadata).equal(process(frames[::2], do_sample_frames=False))
    # 20 frames at 10 a second
    assert process(videos[0], fps=5).equal(process(read_video(videos[0], range(0, 20, 2))[0], do_sample_frames=False))
    window = process(videos[0], num_frames=4, fps=5, frame_sampling="spaced")
    assert window.equal(process(read_video(videos[0], [6, 8, 10, 12])[0], do_sample_frames=False))
    assert process(frames, do_sample_frames=False).shape[1] == 10


def test_windows_are_clips_of_their_own(videos):
    pixels = process(videos[:2], num_frames=4, frame_sampling="spaced", num_clips=3)
    assert pixels.shape == (6, 4, 3, 40, 56)
    expected = [process(videos[0], num_frames=20)[:, start : start + 4] for start in (0, 8, 16)]
    assert pixels[:3].equal(torch.cat(expected))
    # windows are of sampled frames only
    assert process(videos[0], frame_sampling="spaced", num_clips=3, do_sample_frames=False).shape[:2] == (1, 20)


def test_padding(videos, frames):
    processor = tiny_video_processor(short_clips="pad")
    batch = processor(videos, return_tensors="pt")
    # the last of the three has five frames
    assert batch.frame_mask.tolist() == [[True] * 7, [True] * 7, [True] * 5 + [False] * 2]
    assert batch.pixel_values.shape == (3, 7, 3, 40, 56)
    assert (batch.pixel_values[2, 5:] == 0).all()
    assert batch.pixel_values[2, :5].equal(process(read_video(videos[2])[0], do_sample_frames=False)[0])
    assert processor(frames, return_tensors="pt").frame_mask.all()
    # without sampling, up to the longest or to `num_frames`
    for num_frames, longest in ((None, 10), (12, 12)):
        batch = processor([frames, frames[:4]], do_sample_frames=False, num_frames=num_frames, return_tensors="pt")
        assert batch.frame_mask.sum(dim=1).tolist() == [10, 4]
        assert batch.pixel_values.shape[:2] == batch.frame_mask.shape == (2, longest)
    batch = processor(frames[:3], frame_sampling="random", num_clips=2, return_tensors="np")
    assert batch["frame_mask"].tolist() == [[True] * 3 + [False] * 4] * 2


def test_unequal_lengths_need_a_decision(frames):
    with pytest.raises(ValueError, match=r'have 10, 4 frames.*short_clips="pad"'):
        process([frames, frames[:4]], do_sample_frames=False)
    clips = tiny_video_processor()([frames, frames[:4]], do_sample_frames=False)["pixel_values"]
    assert [len(clip) for clip in clips] == [10, 4]


def test_settings_are_stored(tmp_path):
    settings = {"frame_sampling": "random", "num_clips": 3, "short_clips": "pad", "fps": 5}
    tiny_video_processor(**settings).save_pretrained(tmp_path)
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in settings} == settings


@pytest.mark.parametrize("arguments", [{"frame_sampling": "middle"}, {"short_clips": "stretch"}])
def test_unknown_choices(frames, arguments):
    [(name, value)] = arguments.items()
    with pytest.raises(Exception, match=f"{name}.*{value}"):
        process(frames, **arguments)


def test_metadata(videos):
    batch = tiny_video_processor()(videos[0], return_tensors="pt", return_metadata=True)
    [metadata] = batch["video_metadata"]
    assert metadata.frames_indices == [0, 2, 5, 8, 11, 14, 17]
    assert metadata.timestamps == pytest.approx([0, 0.2, 0.5, 0.8, 1.1, 1.4, 1.7])
    assert (metadata.total_num_frames, metadata.fps, metadata.duration) == (20, 10, 2)
    assert (metadata.height, metadata.width, metadata.video_backend) == (48, 72, "pyav")


# In the pipeline


def test_padded_clip_in_the_pipeline(checkpoint, videos):
    classify = pipeline("video-classification", model=str(checkpoint))
    short = videos[2]
    repeated = classify(short)
    classify.video_processor.short_clips = "pad"
    padded = classify(short)
    # what five frames give on their own
    expected = {entry["label"]: entry["score"] for entry in classify(short, num_frames=5)}
    assert {entry["label"]: entry["score"] for entry in padded} == pytest.approx(expected, abs=1e-5)
    assert padded != repeated
    batched = classify([videos[0], short], batch_size=2)[1]
    assert {entry["label"]: entry["score"] for entry in batched} == pytest.approx(expected, abs=1e-5)


def test_path_in_the_pipeline(checkpoint, videos):
    classify = pipeline("video-classification", model=str(checkpoint))
    assert classify(Path(videos[0])) == classify(videos[0])


# The same numbers as transformers' own processors


@pytest.mark.parametrize("theirs", [VideoMAEVideoProcessor, TimesformerVideoProcessor, LlavaOnevisionVideoProcessor])
def test_same_numbers_as_other_video_processors(tmp_path, theirs):
    path = str(write_video(tmp_path / "clip.mp4", 20, 48, 72, seed=3))
    settings = tiny_video_processor().to_dict()
    for name in ("video_processor_type", "num_clips", "frame_sampling"):
        settings.pop(name)
    decoded, _ = load_video(path, backend="pyav", num_frames=7)
    expected = theirs(**{**settings, "do_sample_frames": False})(decoded, return_tensors="pt")
    [expected] = expected.values()
    assert expected.shape == (1, 7, 3, 40, 56)
    assert process(path).equal(expected)


@pytest.mark.parametrize("settings", [{}, SETTINGS, {"size": {"shortest_edge": 33}}, {"do_resize": False}])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(TubeViTImageProcessor, ViTImageProcessor), (TubeViTImageProcessorPil, ViTImageProcessorPil)],
)
def test_same_numbers_as_the_vit_image_processor(images, ours, theirs, settings):
    settings = {"size": {"height": 224, "width": 224}, "do_center_crop": False, "do_convert_rgb": True, **settings}
    for image in images:
        expected = theirs(**settings)(Image.open(image), return_tensors="pt")["pixel_values"]
        assert ours(**settings)(Image.open(image), return_tensors="pt")["pixel_values"].equal(expected)


def test_a_frame_is_processed_like_an_image(images):
    processor = tiny_video_processor()
    for image in images:
        picture = Image.open(image)
        frame = processor([[picture]], do_sample_frames=False, return_tensors="pt").pixel_values
        assert frame[:, 0].equal(processor.to_image_processor()(picture, return_tensors="pt").pixel_values)


def test_image_file_read_as_a_video(images):
    # FFmpeg's decoder against Pillow's
    decoded, _ = read_video(images[0])
    assert np.array_equal(decoded[0].permute(1, 2, 0), np.array(Image.open(images[0])))
