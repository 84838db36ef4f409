# SPDX-License-Identifier: Apache-2.0
"""Every matrix that a video may be tagged with gives frames; those that FFmpeg's converter refuses too."""

import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from tubevit_hf import read_video
from tubevit_hf.model.video_colours_tubevit import convert, name_unknown_matrix

from ..support.video_corpus import draw_frame


RGB = draw_frame(5)


def write(
    path: Path, planes: list[np.ndarray], pixel_format: str, matrix: int, full: bool, primaries: int = 2
) -> Path:
    """One lossless frame, `planes` being as large as it."""
    height, width = planes[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries = matrix, 2 if full else 1, primaries
        frame = av.VideoFrame(width, height, pixel_format)
        for plane, values in zip(frame.planes, planes):
            rows = np.zeros((height, plane.line_size // values.itemsize), values.dtype)
            rows[:, :width] = values
            plane.update(rows.tobytes())
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


def to_ycgco(image: np.ndarray, bits: int, full: bool) -> list[np.ndarray]:
    """ITU-T H.273: 8.3, matrix 8."""
    red, green, blue = np.moveaxis(image / 255, -1, 0)
    luma, colours = green / 2 + (red + blue) / 4, (green / 2 - (red + blue) / 4, (red - blue) / 2)
    unit = 2 ** (bits - 8)
    if full:
        most = 2**bits - 1
        planes = [most * luma, *(most * colour + 128 * unit for colour in colours)]
    else:
        planes = [unit * (219 * luma + 16), *(unit * (224 * colour + 128) for colour in colours)]
    return [plane.round().clip(0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16) for plane in planes]


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
def test_ycgco(bits, full, tmp_path):
    pixel_format = "yuv444p" if bits == 8 else "yuv444p10le"
    path = write(tmp_path / "ycgco.mkv", to_ycgco(RGB, bits, full), pixel_format, 8, full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames, _ = read_video(path)
    difference = np.abs(frames[0].permute(1, 2, 0).numpy().astype(int) - RGB)
    # rounding, once as it is stored and once as it is converted
    assert difference.max() <= 4 and difference.mean() < 1


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv444p10le"])
@pytest.mark.parametrize(
    ("matrix", "primaries", "name", "nearest"),
    [
        (10, 9, "BT.2020 with constant luminance", 9),
        (11, 2, "SMPTE ST 2085", 9),
        (12, 1, "derived from primaries", 1),
        (12, 9, "derived from primaries", 9),
        (13, 9, "derived from primaries, with constant luminance", 9),
        (14, 9, "ICtCp", 9),
    ],
)
def test_a_matrix_that_is_refused_is_replaced_by_the_nearest(matrix, primaries, name, nearest, pixel_format, tmp_path):
    planes = to_ycgco(RGB, 8 if pixel_format == "yuv444p" else 10, False)
    path = write(tmp_path / "tagged.mkv", planes, pixel_format, matrix, False, primaries)
    with pytest.warns(UserWarning, match=rf"^{path}: .* does not convert \({name}\); the nearest is used"):
        frames, _ = read_video(path)
    expected, _ = read_video(write(tmp_path / "nearest.mkv", planes, pixel_format, nearest, False, primaries))
    assert frames.equal(expected)


@pytest.mark.parametrize("matrix", [3, 18])
def test_a_matrix_that_nobody_knows(matrix):
    frame = av.VideoFrame.from_ndarray(RGB, format="rgb24").reformat(format="yuv420p")
    expected = frame.reformat(format="rgb24").to_ndarray()
    frame.colorspace = matrix
    assert name_unknown_matrix(matrix, frame.format) == f"number {matrix}"
    converted = convert(frame, VideoReformatter(), frame.width, frame.height).to_ndarray()
    assert np.abs(converted.astype(int) - expected).max() <= 1


def test_what_is_grey_needs_no_matrix(tmp_path):
    path = write(tmp_path / "tagged.mkv", [RGB[..., 1].copy()], "gray", 14, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames, _ = read_video(path)
    assert (frames[0].permute(1, 2, 0).numpy() == RGB[..., 1:2]).all()
