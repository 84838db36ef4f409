# SPDX-License-Identifier: Apache-2.0
"""Is reading chosen frames as fast as with torchcodec, decord, OpenCV and transformers' PyAV reader?

    pip install torchcodec decord opencv-python-headless
    python benchmarks/decode.py

Reads 32 uniform frames of 10-second clips, 64 consecutive frames late in a 5-minute file and 32 uniform frames of a
1-hour file, and opens the file each time. The readers take turns; `/ ours` above 1 means that ours is faster. Each is
first compared with ours: `frames` says `same` where each frame is closer to our frame of that number than to those
beside it. A reader that is not installed or cannot read a file is named and not timed.

The 1-hour file has two references in plain PyAV. `keyframes only` seeks to each sampled time and decodes the one
keyframe where it lands: other frames than those sampled, at the least price of visiting 32 places of a file. `seek,
then forward` goes on decoding up to the sampled frame. Exact frames cannot be had for the price of keyframes: on
average half of the frames between two keyframes come before them. So the ratio depends on how far keyframes are
apart, and the long files have one each 250 frames, x264's default, or each 30.

Memory is how far the peak grows over that of reading a clip of 16 frames, each time in a fresh process (Linux only).

The videos show a texture that moves behind another, with grain. The long ones repeat their first 50 seconds.
"""

import argparse
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from common import describe_machine, report, summarise, time_interleaved
from transformers.video_utils import load_video

from tubevit_hf import VideoLimits, read_video


FPS = 30
FRAMES = {"10 s": 10 * FPS, "5 min": 300 * FPS, "1 h": 3600 * FPS}
# frames after which the long files repeat: a multiple of both distances of keyframes
PERIOD = 1500
SMALL, LARGE = (450, 340), (1280, 720)
SUFFIXES = ("mp4", "mkv")
# of the mean difference of a frame, in gray levels: the readers round colours in different ways
TOLERANCE = 3.0
COMPARABLE = ("same", "differ")
# standard deviation, in gray levels
GRAIN = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keeps the videos for other runs; by default they are deleted")
    arguments = parser.parse_args()
    machine = describe_machine(torch.device("cpu"))
    distributions = metadata.packages_distributions()
    for module in ("av", "torchcodec", "decord", "cv2"):
        machine[module] = metadata.version(distributions[module][0]) if module in distributions else "not installed"

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        make = partial(make_video, folder)
        videos = [make(size, FRAMES["10 s"]) for size in (SMALL, LARGE)]
        rows = compare(OURS | PEERS | FROM_THE_START, videos, uniform("10 s"), arguments.rounds)
        report("decode_clip", "32 uniform frames of a 10-second clip", machine, rows)

        videos = [make(SMALL, FRAMES["5 min"], keyframes) for keyframes in (250, 30)]
        # the first is halfway between two keyframes, in both files
        late = np.arange(64) + 5 * PERIOD + 1125
        rows = compare(OURS | PEERS | SEEKING | FROM_THE_START, videos, late, arguments.rounds)
        report("decode_late", "64 consecutive frames late in a 5-minute file", machine, rows)

        videos = [make(SMALL, FRAMES["1 h"], keyframes, suffix) for suffix in SUFFIXES for keyframes in (250, 30)]
        rows = compare(OURS | REFERENCES | PEERS | SEEKING, videos, uniform("1 h"), arguments.rounds)
        report("decode_hour", "32 uniform frames of a 1-hour file", machine, rows)

        if sys.platform == "linux":
            rows = measure_memory(make, arguments.rounds)
            report("decode_memory", "Peak memory of reading 32 uniform frames", machine, rows)


def uniform(length: str) -> np.ndarray:
    return np.linspace(0, FRAMES[length] - 1, 32).astype(int)


def compare(readers: dict[str, Callable], videos: list[Path], indices: np.ndarray, rounds: int) -> list[dict]:
    """A row for each reader of each video."""
    rows = []
    for path in videos:
        frames = check_frames(readers, path, indices)
        functions = {name: partial(readers[name], path, indices) for name in readers if frames[name] in COMPARABLE}
        seconds = time_interleaved(functions, torch.device("cpu"), rounds)
        for name in readers:
            milliseconds = [1e3 * value for value in seconds.get(name, [])]
            ratios = [theirs / ours for theirs, ours in zip(seconds.get(name, []), seconds["tubevit_hf"])]
            size = f"{path.stat().st_size / 1e6:.1f} MB"
            row = {"video": f"{path.name}, {size}", "reader": name, "frames": frames[name]}
            rows.append(row | columns("ms", milliseconds) | columns("/ ours", ratios))
    return rows


def columns(name: str, values: list[float]) -> dict[str, float | str]:
    summary = summarise(values) if values else dict.fromkeys(("median", "min", "max"), "-")
    return {name: summary["median"], f"min {name}": summary["min"], f"max {name}": summary["max"]}


def check_frames(readers: dict[str, Callable], path: Path, indices: np.ndarray) -> dict[str, str]:
    """What to say of the frames of each reader."""
    last = read_video(path, [0])[1].total_num_frames - 1
    # the ends of a file have a neighbour on one side only
    before, after = np.where(indices > 0, indices - 1, 1), np.where(indices < last, indices + 1, last - 1)
    ours, *beside = (read_ours(path, numbers) for numbers in (indices, before, after))
    verdicts = {}
    for name, reader in readers.items():
        try:
            theirs = reader(path, indices)
        except ImportError:
            verdicts[name] = "not installed"
        except Exception as error:
            verdicts[name] = f"unreadable ({type(error).__name__})"
        else:
            limit = np.minimum(TOLERANCE, np.minimum(*(mean_differences(ours, frames) for frames in beside)))
            verdicts[name] = "same" if (mean_differences(ours, theirs) < limit).all() else "differ"
    return verdicts


def mean_differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.array([np.abs(a.astype(int) - b).mean() for a, b in zip(ours, theirs, strict=True)])


def measure_memory(make: Callable, rounds: int) -> list[dict]:
    rows = []
    for suffix in SUFFIXES:
        for length, num_frames in FRAMES.items():
            files = [make(SMALL, number, suffix=suffix) for number in (16, num_frames)]
            growths = []
            for _ in range(rounds):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    growths.append(pool.submit(peak_growth, *files, uniform(length)).result())
            frames = 32 * 3 * SMALL[0] * SMALL[1] / 2**20
            rows.append({"video": f"{length}, {suffix}", "frames (MiB)": frames} | columns("growth (MiB)", growths))
    return rows


def peak_growth(warm_up: Path, path: Path, indices: np.ndarray) -> float:
    """MiB by which reading raises the peak of this process."""
    read_video(warm_up)
    # begins a new peak; `resource.getrusage` would start with that of the process which started this one
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    read_video(path, indices)
    return peak_memory() - before


def peak_memory() -> float:
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10


def read_ours(path: Path, indices: np.ndarray) -> np.ndarray:
    """As all readers below: `(num_frames, height, width, 3)`, RGB."""
    return read_video(path, indices)[0].permute(0, 2, 3, 1).numpy()


def read_torchcodec(path: Path, indices: np.ndarray, **options) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(path, dimension_order="NHWC", **options).get_frames_at(indices.tolist()).data.numpy()


def read_decord(path: Path, indices: np.ndarray) -> np.ndarray:
    import decord

    return decord.VideoReader(str(path)).get_batch(indices).asnumpy()


def read_opencv(path: Path, indices: np.ndarray, seeks: bool) -> np.ndarray:
    import cv2

    capture = cv2.VideoCapture(str(path))
    images, position = [], 0
    for index in indices:
        if seeks and index != position:
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            position = index
        while position <= index:
            capture.grab()
            position += 1
        images.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return np.stack(images)


def read_transformers(path: Path, indices: np.ndarray) -> np.ndarray:
    return load_video(str(path), backend="pyav", sample_indices_fn=lambda metadata: indices)[0]


def read_plain_pyav(path: Path, indices: np.ndarray, keyframes_only: bool) -> np.ndarray:
    images, reformatter = [], VideoReformatter()
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_type = "SLICE" if keyframes_only else "AUTO"
        for index in indices.tolist():
            time = round(index / FPS / stream.time_base)
            container.seek(time, stream=stream)
            if keyframes_only:
                # what a decoder gives for one packet, it gives when it is told that no more will come
                frame = (context.decode(next(container.demux(stream))) + context.decode(None))[0]
            else:
                frame = next(frame for frame in container.decode(stream) if frame.pts >= time)
            images.append(reformatter.reformat(frame, format="rgb24").to_ndarray())
    return np.stack(images)


def read_isolated(path: Path, indices: np.ndarray) -> np.ndarray:
    """In a process of its own, which is kept for the next file."""
    return read_video(path, indices, ISOLATED)[0].permute(0, 2, 3, 1).numpy()


ISOLATED = VideoLimits(isolated=True)
OURS = {"tubevit_hf": read_ours, "tubevit_hf, isolated": read_isolated}
REFERENCES = {
    "PyAV, keyframes only": partial(read_plain_pyav, keyframes_only=True),
    "PyAV, seek, then forward": partial(read_plain_pyav, keyframes_only=False),
}
PEERS = {
    "torchcodec": read_torchcodec,
    "torchcodec, all threads": partial(read_torchcodec, num_ffmpeg_threads=0),
    "decord": read_decord,
}
SEEKING = {"OpenCV, seeking": partial(read_opencv, seeks=True)}
FROM_THE_START = {
    "OpenCV, from the start": partial(read_opencv, seeks=False),
    "transformers' PyAV reader": read_transformers,
}


def make_video(folder: Path, size: tuple[int, int], frames: int, keyframes: int = 250, suffix: str = "mp4") -> Path:
    """An H.264 file with a keyframe each `keyframes` frames, unless it is there already."""
    path = folder / f"{size[0]}x{size[1]}_{frames}_frames_gop_{keyframes}.{suffix}"
    unfinished = path.with_stem("unfinished")
    if path.exists():
        return path
    if frames <= PERIOD and suffix == "mp4":
        encode(unfinished, size, frames, keyframes)
    else:
        period = min(frames, PERIOD)
        repeat(make_video(folder, size, period, keyframes), unfinished, period, frames // period)
    return unfinished.rename(path)


def encode(path: Path, size: tuple[int, int], num_frames: int, keyframes: int) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "medium", "g": str(keyframes)})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        # PyAV's default writes several slices a frame, which ordinary files don't have
        stream.codec_context.thread_type = "FRAME"
        for image in draw(*size, num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def draw(width: int, height: int, num_frames: int) -> Iterator[np.ndarray]:
    """Frames of a texture that moves behind another, with grain."""
    generator = np.random.default_rng(0)
    spectrum = (1 + np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.rfftfreq(2 * width)) * width) ** -1.5
    noise = np.fft.rfft2(generator.standard_normal((2, 3, 2 * height, 2 * width)))
    textures = np.moveaxis(np.fft.irfft2(noise * spectrum), 1, -1)
    textures = (128 + 40 * textures / textures.std()).astype(np.int16)
    grain = generator.normal(0, GRAIN, (2 * height, 2 * width, 1)).astype(np.int16)
    for number in range(num_frames):
        row, column = bounce(number, height), bounce(2 * number, width)
        image = textures[0, row : row + height, column : column + width].copy()
        row, column = bounce(3 * number, height // 2), bounce(5 * number, width // 2)
        image[row : row + height // 2, column : column + width // 2] = textures[1, : height // 2, : width // 2]
        row, column = generator.integers(height), generator.integers(width)
        image += grain[row : row + height, column : column + width]
        yield image.clip(0, 255).astype(np.uint8)


def bounce(distance: int, span: int) -> int:
    """Place of what moves to and fro between 0 and `span`."""
    return span - abs(distance % (2 * span) - span)


def repeat(source: Path, target: Path, frames: int, times: int) -> None:
    """A file that shows the frames of another several times, without encoding them again."""
    with av.open(source) as container, av.open(target, "w") as output:
        stream = container.streams.video[0]
        output_stream = output.add_stream_from_template(stream)
        packets = [packet for packet in container.demux(stream) if packet.size]
        ticks = round(frames / FPS / stream.time_base)
        for start in range(0, times * ticks, ticks):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.time_base, copy.duration, copy.is_keyframe = packet.time_base, packet.duration, packet.is_keyframe
                copy.pts, copy.dts, copy.stream = packet.pts + start, packet.dts + start, output_stream
                output.mux(copy)


if __name__ == "__main__":
    main()
