# SPDX-License-Identifier: Apache-2.0
"""Frames as the decoder gives them -> RGB, also by matrices that FFmpeg's converter refuses."""

import av
import numpy as np
from av.video.reformatter import VideoReformatter


# By their numbers in ITU-T H.273: those that it knows
KNOWN = {0, 1, 2, 4, 5, 6, 7, 9}
UNKNOWN, BT709, YCGCO, BT2020 = 2, 1, 8, 9
# and others, each with the nearest that it knows
NEAREST = {
    10: ("BT.2020 with constant luminance", BT2020),
    11: ("SMPTE ST 2085", BT2020),
    12: ("derived from primaries", BT709),
    13: ("derived from primaries, with constant luminance", BT709),
    14: ("ICtCp", BT2020),
    15: ("IPT-C2", BT2020),
    16: ("YCgCo-Re", UNKNOWN),
    17: ("YCgCo-Ro", UNKNOWN),
}


def name_unknown_matrix(number: int, stored: av.VideoFormat | None) -> str | None:
    """What the matrix of a video in a format of pixels is called, if only a near one can be used in its place."""
    if stored is None or needs_none(number, stored) or number == YCGCO:
        return None
    return NEAREST.get(number, (f"number {number}", UNKNOWN))[0]


def needs_none(matrix: int, stored: av.VideoFormat) -> bool:
    """Whether FFmpeg converts it: what is RGB or grey in any case, whatever it is tagged."""
    return matrix in KNOWN or stored.is_rgb or len(stored.components) < 3


def convert(frame: av.VideoFrame, reformatter: VideoReformatter, width: int, height: int) -> av.VideoFrame:
    """In RGB of 8 bits, of a size."""
    matrix = int(frame.colorspace)
    if needs_none(matrix, frame.format):
        return reformatter.reformat(frame, width=width, height=height, format="rgb24")
    if matrix == YCGCO:
        # as it is stored, in full range; only the matrix is ours
        frame.colorspace = UNKNOWN
        planes = reformatter.reformat(frame, width=width, height=height, format="yuv444p", dst_color_range="JPEG")
        return av.VideoFrame.from_ndarray(from_ycgco(planes.to_ndarray()), format="rgb24")
    nearest = NEAREST.get(matrix, ("", UNKNOWN))[1]
    # what follows from the primaries is that of BT.2020 if these are
    frame.colorspace = BT2020 if nearest == BT709 and int(frame.color_primaries) == BT2020 else nearest
    return reformatter.reformat(frame, width=width, height=height, format="rgb24")


def from_ycgco(planes: np.ndarray) -> np.ndarray:
    """`(3, height, width)` -> `(height, width, 3)`, uint8 (ITU-T H.273, equations 76 to 79)."""
    luma, green, orange = planes.astype(np.int16) - np.array([0, 128, 128], dtype=np.int16)[:, None, None]
    rest = luma - green
    return np.stack([rest + orange, luma + green, rest - orange], axis=-1).clip(0, 255).astype(np.uint8)


__all__ = ["convert", "name_unknown_matrix"]
