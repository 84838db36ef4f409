# SPDX-License-Identifier: Apache-2.0
"""Animated WebP and PNG: FFmpeg reads the first not at all, and the second not from the middle. Pillow reads them
through, and they become a file that FFmpeg reads: each frame without loss, with its time."""

import contextlib
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, BinaryIO, cast

import av
import numpy as np
from PIL import Image, ImageOps


# of the times of frames, in seconds
TIME_BASE = Fraction(1, 90_000)
# what browsers show for `LEAST` seconds or less, they show for `INSTEAD`
LEAST, INSTEAD = Fraction(1, 100), Fraction(1, 10)
# what Pillow raises for damaged files
DAMAGED = (OSError, ValueError, SyntaxError, LookupError, ArithmeticError, struct.error, zlib.error)


class AnimationError(ValueError):
    """An animation cannot be read; the message tells why."""


def read_size(file: BinaryIO) -> tuple[int, int] | None:
    """Width and height of an animated WebP or PNG, as its header says; `None` of anything else."""
    file.seek(0)
    head = read_whole(file, 33)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 29 and head[20] & 2:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        return None
    # an animation is announced before its first data
    while len(chunk := read_whole(file, 8)) == 8 and chunk[4:] not in (b"IDAT", b"IEND"):
        if chunk[4:] == b"acTL":
            return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        file.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
    return None


def read_whole(file: BinaryIO, length: int) -> bytes:
    """So many bytes, though a file may give fewer at once; fewer at its end."""
    data = b""
    while len(data) < length and (part := file.read(length - len(data))):
        data += part
    return data


def convert_animation(file: BinaryIO, name: str, resources: contextlib.ExitStack, max_bytes: int) -> BinaryIO:
    """A video of the frames of an animation, in a temporary file.

    Args:
        file: the animation, of which [`read_size`] gives a size.
        name: what messages call it.
        resources: closes what is returned.
        max_bytes: that all frames may take in RGB.

    Raises:
        AnimationError: none of its frames can be read, or they take more.
    """
    made = resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - as long as the video
    num_frames = 0
    # Pillow needs as many bytes as it asks for
    copy = resources.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - as long as the video
    file.seek(0)
    shutil.copyfileobj(file, copy)
    with av.open(made, "w", format="mov", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("png", rate=25, options={"compression_level": "1", "threads": "1"})
        stream.pix_fmt, stream.codec_context.time_base = "rgb24", TIME_BASE
        stream.time_base = TIME_BASE
        time = Fraction(0)
        for image, seconds in read_frames(copy, name, max_bytes):
            if num_frames == 0:
                stream.width, stream.height = image.size
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts, frame.duration = round(time / TIME_BASE), round(seconds / TIME_BASE)
            frame.time_base = TIME_BASE
            for packet in stream.encode(frame):
                container.mux(packet)
            time += seconds
            num_frames += 1
        for packet in stream.encode(None):
            container.mux(packet)
    return cast(BinaryIO, made)


def read_frames(file: IO[bytes], name: str, max_bytes: int) -> Iterator[tuple[Image.Image, Fraction]]:
    """Each frame in RGB, and for how many seconds it is shown. Where the file is damaged, it ends."""
    number = first = 0
    file.seek(0)
    with contextlib.ExitStack() as resources:
        try:
            image = resources.enter_context(Image.open(file, formats=("WEBP", "PNG")))
            # of a PNG, an image for those who know no animations is none of its frames
            first = int(bool(image.info.get("default_image", False)))
            total = getattr(image, "n_frames", 1)
            if (num_bytes := 3 * image.width * image.height * (total - first)) > max_bytes:
                raise AnimationError(
                    f"it is an animation of {total - first} frames of {image.width} x {image.height} pixels, which "
                    f"is read as a whole and takes {num_bytes} bytes; at most {max_bytes} are read "
                    "(`VideoLimits.max_decoded`). Make a video of it, such as an .mp4."
                )
            for number in range(first, total):
                image.seek(number)
                image.load()
                seconds = Fraction(image.info.get("duration") or 0).limit_denominator(10**6) / 1000
                yield to_rgb(image), INSTEAD if seconds <= LEAST else seconds
        except AnimationError:
            raise
        except (*DAMAGED, Image.DecompressionBombError) as error:
            if number == first:
                raise AnimationError(f"it is an animation that Pillow cannot read ({error}).") from error
            warnings.warn(f"{name}: it is damaged, and read up to its frame {number - 1} ({error}).", stacklevel=2)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turned as the file says, without alpha."""
    if image.mode.startswith("I"):
        # 16 bits, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


__all__ = ["AnimationError", "convert_animation", "read_size"]
