# SPDX-License-Identifier: Apache-2.0
"""A corpus of small videos of every container, codec and trait that PyAV's wheels can write.

Each frame carries its number: along the top, blocks of black and white are its bits, coarse enough to survive lossy
coding. The rest is a moving texture, so that a wrong frame also differs elsewhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


NUM_BITS = 6
BLOCK = 16
WIDTH, HEIGHT = NUM_BITS * BLOCK, 64
NUM_FRAMES = 40
RATE = 25
X264_QUIET = {"x265-params": "log-level=none"}


def draw_frame(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Frame `index`, `(height, width, 3)`, uint8."""
    row, column = np.mgrid[:height, :width]
    frame = np.stack([128 + 100 * np.sin((row * (2 + channel) + column + 9 * index) / 15) for channel in range(3)], -1)
    for bit in range(NUM_BITS):
        frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235 if index >> bit & 1 else 20
    return frame.round().astype(np.uint8)


def read_index(frame: np.ndarray) -> int:
    """The number that a frame carries; `(height, width, 3)`."""
    blocks = frame[:BLOCK, : NUM_BITS * BLOCK].reshape(BLOCK, NUM_BITS, BLOCK, 3)
    bits = blocks[4:-4, :, 4:-4].mean(axis=(0, 2, 3)) > 128
    return int(bits @ (1 << np.arange(NUM_BITS)))


@dataclass
class Case:
    """How to write a video.

    Args:
        file: name of the file, whose ending chooses the container.
        codec: name of the encoder.
        pixel_format: pixel format of the encoder.
        options: of the encoder.
        container_options: of the muxer.
        num_frames: number of frames.
        ticks: when each frame is shown, in milliseconds; at `RATE` if it is not given.
        height, width: size of a frame.
        color: attributes of the codec context, such as its `color_range`.
        finish: changes the bytes of the finished file.
        first_index: what the first frame that is shown carries, where the first ones are cut off.
    """

    file: str
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    num_frames: int = NUM_FRAMES
    ticks: list[int] | None = None
    height: int = HEIGHT
    width: int = WIDTH
    color: dict[str, int] = field(default_factory=dict)
    finish: Callable[[bytes], bytes] | None = None
    first_index: int = 0

    @property
    def name(self) -> str:
        return Path(self.file).stem + "-" + Path(self.file).suffix[1:]

    @property
    def seconds(self) -> np.ndarray:
        """When each shown frame is shown, in seconds after the first."""
        ticks = np.arange(self.num_frames) * 1000 / RATE if self.ticks is None else np.array(self.ticks)
        return (ticks[self.first_index :] - ticks[self.first_index]) / 1000

    @property
    def indices(self) -> list[int]:
        """What the frames carry that are shown, in order."""
        return list(range(self.first_index, self.num_frames))


def write(case: Case, folder: Path) -> Path:
    path = folder / case.file
    write_frames(path, [draw_frame(index, case.height, case.width) for index in range(case.num_frames)], case)
    if case.finish is not None:
        path.write_bytes(case.finish(path.read_bytes()))
    return path


def write_frames(path: Path, frames: list[np.ndarray], case: Case) -> None:
    with av.open(str(path), "w", options=case.container_options) as container:
        stream = add_stream(container, case)
        for packet in encode(stream, frames, case):
            container.mux(packet)


def add_stream(container: av.container.OutputContainer, case: Case) -> av.VideoStream:
    # several threads would write other bytes each time
    stream = container.add_stream(case.codec, rate=RATE, options={"threads": "1", **case.options})
    stream.height, stream.width, stream.pix_fmt = case.height, case.width, case.pixel_format
    # or PyAV cuts every frame into slices, as files of other programs do not
    stream.codec_context.thread_type = "FRAME"
    if case.ticks is not None:
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
    for name, value in case.color.items():
        setattr(stream.codec_context, name, value)
    return stream


def encode(stream: av.VideoStream, frames: list[np.ndarray], case: Case) -> Iterator[av.Packet]:
    for index, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if case.ticks is not None:
            frame.pts, frame.time_base = case.ticks[index], Fraction(1, 1000)
        yield from stream.encode(frame)
    yield from stream.encode()


def turn(matrix: list[int]) -> Callable[[bytes], bytes]:
    """Sets the display matrix `[a, b, c, d]` of an MP4 file's track, in whole numbers."""
    a, b, c, d = matrix
    values = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()

    def finish(data: bytes) -> bytes:
        # version and flags, times, track, duration and further fields come before the matrix
        start = data.index(b"tkhd") + 4 + 40
        return data[:start] + values + data[start + len(values) :]

    return finish


def cut_beginning(num_frames: int) -> Callable[[bytes], bytes]:
    """Makes an MP4 file's edit list begin later, so that its first frames are hidden."""

    def finish(data: bytes) -> bytes:
        # version and flags, number of entries, duration of the first
        start = data.index(b"elst") + 4 + 8 + 4
        time = int.from_bytes(data[start : start + 4], "big")
        step = 512  # what the muxer makes of a frame's time at 25 a second
        return data[:start] + (time + num_frames * step).to_bytes(4, "big") + data[start + 4 :]

    return finish


# steps of 10 to 50 milliseconds
UNEVEN = np.cumsum([10 * (1 + index * index % 5) for index in range(NUM_FRAMES)]).tolist()
X264 = "x264-params"
CASES = [
    # containers
    Case("h264.mp4"),
    Case("h264.mov"),
    Case("h264.mkv"),
    Case("h264.ts", options={"g": "10"}),
    Case("h264.flv", options={"g": "10"}),
    Case("h264.nut"),
    Case("h264.avi", options={"g": "10"}),
    Case("h264.h264", options={"g": "10"}),
    Case("fragmented.mp4", options={"g": "10"}, container_options={"movflags": "frag_keyframe+empty_moov"}),
    Case("half_fragmented.mp4", options={"g": "10"}, container_options={"movflags": "frag_keyframe"}),
    Case("faststart.mp4", container_options={"movflags": "faststart"}),
    Case("mpeg2.ts", "mpeg2video", options={"bf": "2", "g": "10"}),
    Case("mpeg2.mpg", "mpeg2video", options={"bf": "2", "g": "10"}),
    Case("mpeg1.mpg", "mpeg1video"),
    Case("mpeg2.mxf", "mpeg2video"),
    Case("mpeg4.avi", "mpeg4"),
    Case("mpeg4_bframes.avi", "mpeg4", options={"bf": "2"}),
    Case("mpeg4.mp4", "mpeg4", options={"bf": "2", "g": "10"}),
    Case("mjpeg.avi", "mjpeg", "yuvj420p", options={"qmin": "1", "qmax": "3"}),
    Case("mjpeg.mkv", "mjpeg", "yuvj420p", options={"qmin": "1", "qmax": "3"}),
    Case("wmv2.wmv", "wmv2"),
    Case("rv20.rm", "rv20"),
    Case("sorenson.flv", "flv"),
    Case("h263.3gp", "h263", height=144, width=176),
    Case("raw.y4m", "wrapped_avframe"),
    Case("rgb8.gif", "gif", "rgb8"),
    Case("rgb.apng", "apng", "rgb24"),
    Case("picture.png", "png", "rgb24", num_frames=1, container_options={"update": "1"}),
    # codecs
    Case("hevc.mp4", "libx265", options=X264_QUIET),
    Case("hevc.mkv", "libx265", options={"x265-params": "log-level=none:keyint=10:min-keyint=10"}),
    Case("hevc_open_gop.mp4", "libx265", options={"x265-params": "log-level=none:open-gop=1:keyint=10:min-keyint=10"}),
    Case("hevc_layers.mp4", "libx265", options={"x265-params": "log-level=none:temporal-layers=3:keyint=20"}),
    Case("vp8.webm", "libvpx", options={"g": "10"}),
    Case("vp8_altref.webm", "libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    Case("vp9.webm", "libvpx-vp9", options={"g": "10", "cpu-used": "8"}),
    Case("vp9_altref.webm", "libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    Case("av1.mp4", "libsvtav1", options={"preset": "12"}),
    Case("av1.webm", "libsvtav1", options={"preset": "12"}),
    Case("ffv1.mkv", "ffv1"),
    Case("prores.mov", "prores_ks", "yuv422p10le"),
    Case("rle.mov", "qtrle", "rgb24"),
    # groups of pictures
    Case("open_gop.mp4", options={X264: "open-gop=1:keyint=10:min-keyint=10"}),
    Case("open_gop.ts", options={X264: "open-gop=1:keyint=10:min-keyint=10"}),
    Case("open_gop.mkv", options={X264: "open-gop=1:keyint=10:min-keyint=10"}),
    Case("intra_refresh.mp4", options={X264: "intra-refresh=1:keyint=10"}),
    Case("all_intra.mp4", options={"g": "1"}),
    Case("no_bframes.mp4", options={"bf": "0", "g": "10"}),
    Case("pyramid.mp4", options={X264: "bframes=7:b-pyramid=strict:keyint=15:min-keyint=15"}),
    Case("slices.mp4", options={X264: "slices=4:keyint=10"}),
    Case("interlaced.mp4", options={X264: "interlaced=1"}),
    Case("one.mp4", num_frames=1),
    Case("two.mkv", num_frames=2),
    # times
    Case("uneven.mp4", options={"g": "10"}, ticks=UNEVEN),
    Case("uneven.mkv", options={"g": "10"}, ticks=UNEVEN),
    Case("uneven.webm", "libvpx-vp9", options={"cpu-used": "8"}, ticks=UNEVEN),
    Case("uneven_no_bframes.mp4", options={"bf": "0"}, ticks=UNEVEN),
    Case("cut_by_3.mp4", finish=cut_beginning(3), first_index=3),
    Case("cut_by_12.mp4", options={"g": "10"}, finish=cut_beginning(12), first_index=12),
    # pixels
    Case("odd_size.mkv", "ffv1", "yuv444p", height=63, width=97),
    Case("odd_size.mp4", pixel_format="yuv444p", height=63, width=97),
    Case("yuv422.mp4", pixel_format="yuv422p"),
    Case("ten_bits.mp4", pixel_format="yuv420p10le"),
    Case("ten_bits_hevc.mp4", "libx265", "yuv420p10le", options=X264_QUIET),
    Case("twelve_bits.mkv", "ffv1", "yuv444p12le"),
    Case("full_range.mp4", pixel_format="yuvj420p"),
    Case("grey.mp4", pixel_format="gray"),
    Case("alpha.mkv", "ffv1", "yuva444p"),
    Case("alpha.webm", "libvpx-vp9", "yuva420p", options={"cpu-used": "8"}),
    Case("alpha.mov", "qtrle", "argb"),
    Case("bgr.mkv", "libx264rgb", "bgr24"),
]
