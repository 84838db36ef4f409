# SPDX-License-Identifier: Apache-2.0
"""Moving digits: a small set of real .mp4 files whose label is a motion that no single frame shows.

The digits are scikit-learn's bundled handwritten ones, so nothing is downloaded. Each clip shows one digit that moves
in one of eight directions, turns left or right, or rests. Space is a torus (what leaves on the left comes in on the
right), and start and orientation are uniform, so that every frame by itself looks the same in all classes. Training
and validation use different handwritten digits.

    python -m tubevit_hf.data.moving_digits FOLDER
"""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import typer
from tqdm.auto import tqdm

from ..extras import of_extra


with of_extra("demo"):
    from scipy import ndimage
    from sklearn.datasets import load_digits

# unit vectors (down, right); image rows grow downwards
DIRECTIONS = {
    name: (-math.sin(math.radians(angle)), math.cos(math.radians(angle)))
    for name, angle in {
        "right": 0,
        "up_right": 45,
        "up": 90,
        "up_left": 135,
        "left": 180,
        "down_left": 225,
        "down": 270,
        "down_right": 315,
    }.items()
}
TURNS = {"turn_left": 1, "turn_right": -1}
MOTIONS = [*DIRECTIONS, *TURNS, "rest"]

NUM_FRAMES = 16
FRAME_SIZE = 64  # pixels
DIGIT_SIZE = 28  # pixels
FRAMES_PER_SECOND = 16
SPEED = (1.5, 3.0)  # pixels a frame
TURN_SPEED = (8.0, 16.0)  # degrees a frame


def render_clip(
    digit: np.ndarray,
    motion: str,
    rng: np.random.Generator,
    start: np.ndarray | None = None,
    angle: float | None = None,
) -> np.ndarray:
    """Draws one clip.

    Args:
        digit: `(8, 8)`, from 0 to 16, as scikit-learn gives it.
        motion: one of `MOTIONS`.
        rng: source of the start, the orientation, the speed and the contrast.
        start: centre of the digit in the first frame, `(down, right)` in pixels, if it is not to be random.
        angle: how far it is turned in the first frame, counterclockwise in degrees, if it is not to be random.

    Returns:
        `(NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)`, uint8 RGB.
    """
    sprite = ndimage.zoom(digit / 16, DIGIT_SIZE / len(digit), order=3)
    # room to turn in without cutting corners
    canvas = np.pad(sprite, (FRAME_SIZE - DIGIT_SIZE) // 2)

    position = rng.uniform(0, FRAME_SIZE, size=2) if start is None else start - FRAME_SIZE / 2
    angle = rng.uniform(0, 360) if angle is None else angle
    velocity = np.array(DIRECTIONS.get(motion, (0.0, 0.0))) * rng.uniform(*SPEED)
    spin = TURNS.get(motion, 0) * rng.uniform(*TURN_SPEED)
    foreground, background = rng.uniform(160, 255, size=3), rng.uniform(0, 80, size=3)

    frames = []
    turned = ndimage.rotate(canvas, angle, reshape=False, order=1)
    for index in range(NUM_FRAMES):
        if spin and index:
            turned = ndimage.rotate(canvas, angle + index * spin, reshape=False, order=1)
        shift = np.round(position + index * velocity).astype(int)
        alpha = np.roll(turned, shift, axis=(0, 1)).clip(0, 1)[..., None]
        frames.append(alpha * foreground + (1 - alpha) * background)
    return np.stack(frames).round().astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, frames_per_second: int = FRAMES_PER_SECOND) -> None:
    """Writes `(num_frames, height, width, 3)` uint8 RGB as an H.264 .mp4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "18", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # for frames this small threads cost more than they give, and their number would show in the file
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def create_moving_digits(folder: Path, clips_per_motion: dict[str, int], seed: int = 0) -> None:
    """Writes `folder/SPLIT/MOTION/*.mp4`, or leaves a finished folder made with the same settings as it is.

    The folder appears when it is complete, so that an interrupted run leaves nothing half-written.

    Args:
        folder: where to write.
        clips_per_motion: number of clips of each motion by split, such as `{"train": 200, "validation": 30}`. Each
            split draws from its own share of the handwritten digits.
        seed: the clips depend on nothing else.

    Raises:
        FileExistsError: the folder holds something else.
    """
    settings = {"clips_per_motion": clips_per_motion, "seed": seed, "num_frames": NUM_FRAMES, "size": FRAME_SIZE}
    finished = folder / "settings.json"
    if finished.exists() and json.loads(finished.read_text()) == settings:
        return
    if folder.exists():
        raise FileExistsError(f"{folder} exists and does not hold moving digits of these settings; remove it first.")

    # pyrefly: ignore[missing-attribute]  scikit-learn's types cannot tell that it is no tuple here
    digits = load_digits().images
    shares = np.array_split(np.random.default_rng(seed).permutation(len(digits)), 4)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    total = len(MOTIONS) * sum(clips_per_motion.values())
    with tqdm(total=total, desc="Writing videos", unit="clip", disable=None) as progress:

        def write_motion(number: int, split: str, motion: str) -> None:
            # the first split, for training, has what the others leave
            share = shares[-number] if number else np.concatenate(shares[: len(shares) + 1 - len(clips_per_motion)])
            (unfinished / split / motion).mkdir(parents=True)
            rng = np.random.default_rng([seed, number, MOTIONS.index(motion)])
            for clip in range(clips_per_motion[split]):
                digit = digits[rng.choice(share)]
                write_video(unfinished / split / motion / f"{clip:04d}.mp4", render_clip(digit, motion, rng))
                progress.update()

        tasks = [(number, split, motion) for number, split in enumerate(clips_per_motion) for motion in MOTIONS]
        with ThreadPoolExecutor() as pool:
            list(pool.map(write_motion, *zip(*tasks)))
    (unfinished / "settings.json").write_text(json.dumps(settings))
    unfinished.rename(folder)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder to write; gets FOLDER/SPLIT/MOTION/*.mp4.")],
    train: Annotated[int, typer.Option(help="Training clips of each motion.", min=1)] = 200,
    validation: Annotated[int, typer.Option(help="Validation clips of each motion.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Same seed, same clips.", min=0)] = 0,
) -> None:
    """Write the moving digits, a small set of .mp4 files whose label is a motion."""
    create_moving_digits(folder, {"train": train, "validation": validation}, seed)
    print(f"{len(MOTIONS)} motions, {train} + {validation} clips of each in {folder}")


if __name__ == "__main__":
    typer.run(main)
