# SPDX-License-Identifier: Apache-2.0
"""How well are the segments of a long video found, and how fast?

    make demo
    python benchmarks/timeline.py demo/tubevit demo/moving_digits/validation --name digits --window 1 --stride 0.125

Joins clips that no training has seen to long videos, whose cuts are known: a segment is up to `--join` clips of a
class, and none follows one of its class. Compares segments of `find_segments` with plain thresholds, which neither
smooth nor close gaps nor drop what is short: mean average precision at a tIoU of 0.5 over all videos. The rows differ
in nothing but what is made of the same scores.

Clips of other sizes are stretched to that of the first. x264 does not write the same file each time, which moves the
mean average precision of a few dozen segments by two points.

The second table times the scan of the first video, without and with states of single frames kept, in turns, and says
what share of a forward pass the tubes' tokens take: nothing else could be kept of a model without a `joint_layer`.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import describe_machine, report, summarise, time_interleaved
from torch.nn import functional
from tqdm import tqdm

from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor, read_video
from tubevit_hf.data.listing import find_videos
from tubevit_hf.data.moving_digits import write_video
from tubevit_hf.evaluation import segment_mean_average_precision
from tubevit_hf.inference.segments import find_segments
from tubevit_hf.inference.timeline import Timeline, scan_timeline
from tubevit_hf.inference.windows import encodes_single_frames


# settings of `find_segments`, lengths in windows; by default 1 and 0.25
ROWS = {
    "find_segments": {},
    "smoothed over half a window": {"smoothing": 0.5},
    "smoothed over two windows": {"smoothing": 2.0},
    "without smoothing": {"smoothing": 0.0},
    "whatever its length": {"min_length": 0.0},
    "plain thresholds": {"smoothing": 0.0, "min_length": 0.0},
}
THRESHOLDS = (0.3, 0.5, 0.7)

Actual = list[tuple[float, float, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained classifier")
    parser.add_argument("videos", type=Path, help="folder of videos, LABEL/*")
    parser.add_argument("--name", required=True, help="of the tables")
    parser.add_argument("--window", type=float, default=2.0, help="seconds")
    parser.add_argument("--stride", type=float, default=0.5, help="seconds")
    parser.add_argument("--join", type=int, default=3, help="clips of a segment at most")
    parser.add_argument("--number", type=int, default=4, help="of long videos")
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    arguments = parser.parse_args()

    model = TubeViTForVideoClassification.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = TubeViTVideoProcessor.from_pretrained(arguments.model)
    machine = describe_machine(torch.device("cpu"))
    scan = partial(scan_timeline, model, processor, window=arguments.window, stride=arguments.stride)
    with tempfile.TemporaryDirectory() as folder:
        paths, actual = join_clips(arguments.videos, Path(folder), arguments.join, arguments.number)
        start = time.perf_counter()
        timelines = [scan(path) for path in tqdm(paths, desc="scan", disable=None)]
        seconds = sum(timeline.seconds for timeline in timelines)
        print(f"{seconds:.0f} seconds of video in {time.perf_counter() - start:.0f}")
        rows = [
            score(name, settings, threshold, timelines, actual, arguments.window)
            for name, settings in ROWS.items()
            for threshold in THRESHOLDS
        ]
        title = (
            f"{sum(map(len, actual))} segments in {len(paths)} videos of {seconds:.0f} seconds, {arguments.name}; "
            f"windows of {arguments.window:g} seconds, every {arguments.stride:g}"
        )
        report(f"timeline_{arguments.name}", title, machine, rows)

        functions = {"each window by itself": partial(scan, paths[0], reuse=False)}
        if encodes_single_frames(model.config):
            functions["states of frames kept"] = partial(scan, paths[0], reuse=True)
        times = time_interleaved(functions, torch.device("cpu"), arguments.rounds, warm_up=0)
    rows = time_rows(times, timelines[0], model, processor, arguments.rounds)
    report(f"timeline_speed_{arguments.name}", f"Scan of {timelines[0].seconds:.0f} seconds", machine, rows)


def join_clips(folder: Path, out: Path, join: int, number: int) -> tuple[list[Path], list[Actual]]:
    """Long videos of all clips in class folders, and what is to be seen in each from when to when."""
    rng = np.random.default_rng(0)
    files = {label.name: find_videos(label) for label in sorted(folder.iterdir()) if label.is_dir()}
    for of_class in files.values():
        rng.shuffle(of_class)
    segments: list[tuple[str, list[Path]]] = []
    while any(files.values()):
        # what has the most left comes first, or the last segments would all be of one class
        left = [label for label in files if files[label] and (not segments or label != segments[-1][0])]
        if not left:
            break
        weights = np.array([len(files[label]) for label in left])
        label = str(rng.choice(left, p=weights / weights.sum()))
        count = min(int(rng.integers(1, join + 1)), len(files[label]))
        segments.append((label, [files[label].pop() for _ in range(count)]))
    paths, actual = [], []
    size: tuple[int, int] | None = None
    for part in range(number):
        frames, spans, end, fps = [], [], 0, 0.0
        for label, clips in segments[part::number]:
            # a stride over the segments can bring two of a class together: they are one
            start = end
            for clip in clips:
                images, metadata = read_video(clip)
                size, fps = size or tuple(images.shape[2:]), metadata.fps
                frames.append(stretch(images, size))
                end += len(images)
            if spans and spans[-1][2] == label:
                start = spans.pop()[0]
            spans.append((start, end, label))
        paths.append(out / f"{part}.mp4")
        write_video(paths[-1], torch.cat(frames).permute(0, 2, 3, 1).numpy(), frames_per_second=round(fps))
        actual.append([(start / round(fps), end / round(fps), label) for start, end, label in spans])
    return paths, actual


def stretch(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """To even height and width, which H.264 needs."""
    even = [length // 2 * 2 for length in size]
    if list(images.shape[2:]) == even:
        return images
    resized = functional.interpolate(images.float(), size=even, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def score(
    name: str,
    settings: dict[str, float],
    threshold: float,
    timelines: list[Timeline],
    actual: list[Actual],
    window: float,
) -> dict:
    lengths = {setting: windows * window for setting, windows in settings.items()}
    found = [
        find_segments(timeline.times, timeline.scores, timeline.labels, threshold, **lengths) for timeline in timelines
    ]
    return {
        "segments": name,
        "threshold": threshold,
        "mAP (%)": 100 * segment_mean_average_precision(found, actual, 0.5),
        "found": sum(map(len, found)),
        "actual": sum(map(len, actual)),
    }


@torch.no_grad()
def time_rows(
    times: dict[str, list[float]],
    timeline: Timeline,
    model: TubeViTForVideoClassification,
    processor: TubeViTVideoProcessor,
    rounds: int,
) -> list[dict]:
    size = processor.crop_size
    clip = torch.randn(1, model.config.num_frames, 3, size["height"], size["width"])
    functions = {"tokens": lambda: model.tubevit.embeddings(clip), "all": lambda: model(clip)}
    passes = time_interleaved(functions, torch.device("cpu"), 5 * rounds, warm_up=3)
    share = summarise([100 * tokens / whole for tokens, whole in zip(passes["tokens"], passes["all"])])["median"]
    rows = []
    for name, seconds in times.items():
        gain = summarise([first / its for first, its in zip(times["each window by itself"], seconds)])
        rows.append(
            {
                "scan": name,
                "windows": len(timeline.times),
                "seconds": summarise(seconds)["median"],
                "times real time": timeline.seconds / summarise(seconds)["median"],
                "by itself / it": gain["median"],
                "min": gain["min"],
                "max": gain["max"],
                "tokens (% of a pass)": share,
            }
        )
    return rows


if __name__ == "__main__":
    main()
