# SPDX-License-Identifier: Apache-2.0
"""What a stranger's file may be and take, who still waits for an answer, and that nothing of it stays.

A visitor's file lies in a folder of the visitor's own until its answer is there. What is left over, by uploads that
broke off or by visitors who went away, is swept up.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tubevit_hf import VideoDecodingError, VideoLimits, VideoReader


@dataclass
class Limits:
    """What a visitor may ask for."""

    max_megabytes: int = field(default=100, metadata={"help": "Size of a file."})
    max_minutes: float = field(default=10, metadata={"help": "Length of a video."})
    max_gigapixels: float = field(default=40, metadata={"help": "Frames of a video times pixels of a frame."})
    max_work_seconds: float = field(default=120, metadata={"help": "Time that an answer may take."})
    max_waiting: int = field(default=20, metadata={"help": "Visitors that may wait; more are asked to come later."})
    at_once: int = field(default=1, metadata={"help": "Answers that are worked on together."})
    forget_after: float = field(default=600, metadata={"help": "Seconds after which what is left over is removed."})


class Refusal(ValueError):
    """What a visitor is told instead of an answer."""


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Visit:
    """One file, from when it is there until it is answered or nobody waits for it.

    Args:
        path: where it lies.
        name: as its owner calls it.
        limits: of the visit.
    """

    def __init__(self, path: Path, name: str, limits: Limits):
        self.path, self.name, self.limits = path, name, limits
        self.is_over = threading.Event()
        self.end = float("inf")

    def begin(self) -> bool:
        """From now on the time of the visit counts; false if it has begun, or ended, before."""
        has_begun = self.end < float("inf")
        self.end = time.monotonic() + self.limits.max_work_seconds
        return not has_begun and not self.is_over.is_set()

    def check(self) -> None:
        if self.is_over.is_set():
            raise Gone
        if time.monotonic() > self.end:
            raise Refusal(
                f"This took longer than {self.limits.max_work_seconds:g} seconds, which is all that one visitor gets "
                "here. A shorter or smaller video is faster."
            )

    @contextlib.contextmanager
    def at_work(self) -> Generator[None, None, None]:
        """Within it, a model that is watched looks with each of its layers at the clock, and whether anybody waits."""
        self.check()
        now.visit = self
        try:
            yield
        finally:
            now.visit = None

    def finish(self) -> None:
        self.is_over.set()
        shutil.rmtree(self.path.parent, ignore_errors=True)


# Seconds for which an upload stays where it is after it was taken: the page may show it, and another visitor's of the
# same content and name is laid into the same place and not taken yet
GRACE = 5

# which visit a thread is at
now = threading.local()


def watch(model: nn.Module) -> None:
    """Has a model stop where nobody waits for it."""

    def check(*_: object) -> None:
        if getattr(now, "visit", None) is not None:
            now.visit.check()

    for layer in model.base_model.layers:
        layer.register_forward_pre_hook(check)


def remove_upload(path: Path, taken: float) -> None:
    """With its folder, which has a name of the content; unless it came again after it was taken."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ctime <= taken:
            path.unlink()
            path.parent.rmdir()


class Visitors:
    """Whose files lie where.

    Args:
        folder: that holds all of it, and where uploads arrive.
        limits: of each visit.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        self.visits: dict[str, Visit] = {}
        threading.Thread(target=self.sweep_forever, daemon=True).start()

    def folder_of(self, visitor: str) -> Path:
        # the name comes from the browser, which may say anything
        return self.folder / "visitors" / hashlib.sha256(visitor.encode()).hexdigest()

    def welcome(self, visitor: str, file: Path, is_ours: bool = False) -> Visit:
        """A visitor has sent a file. What this visitor has waited for until now is over.

        Args:
            visitor: whose it is.
            file: an upload.
            is_ours: whether it is no upload, but an example that stays.

        Raises:
            Refusal: it is not there any more.
        """
        self.dismiss(visitor)
        folder = self.folder_of(visitor) / os.urandom(8).hex()
        folder.mkdir(parents=True)
        # a name that tells nothing: what it is its content says, not its owner
        visit = Visit(folder / "clip", file.name, self.limits)
        try:
            shutil.copyfile(file, visit.path)
        except FileNotFoundError:
            raise Refusal("The file has not arrived whole. Please send it again.") from None
        if not is_ours:
            timer = threading.Timer(GRACE, remove_upload, (file, time.time()))
            timer.daemon = True
            timer.start()
        self.visits[visitor] = visit
        return visit

    def dismiss(self, visitor: str) -> None:
        """Nobody waits there any more, and nothing stays."""
        visit = self.visits.pop(visitor, None)
        if visit is not None:
            visit.finish()
        shutil.rmtree(self.folder_of(visitor), ignore_errors=True)

    def sweep_forever(self) -> None:
        while True:
            time.sleep(min(30, self.limits.forget_after))
            self.sweep()

    def sweep(self) -> None:
        """Removes what nobody has written to for so long, and folders that are empty."""
        oldest = time.time() - self.limits.forget_after
        for path in sorted(self.folder.rglob("*"), reverse=True):
            # some are gone in between, and some folders are not empty
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest:
                    (path.rmdir if path.is_dir() else path.unlink)()


def look_at(path: Path, limits: Limits) -> tuple[float, int]:
    """How long a video is, in seconds, and how many frames it has.

    Raises:
        Refusal: it is none, or more than the limits allow.
    """
    try:
        megabytes = path.stat().st_size / 2**20
    except FileNotFoundError:
        raise Refusal("The file has waited for too long and was removed. Please send it again.") from None
    if megabytes > limits.max_megabytes:
        raise Refusal(f"It has {megabytes:.0f} MB; up to {limits.max_megabytes} MB are taken here.")
    with VideoReader(path) as reader:
        metadata = reader.metadata
        num_frames = metadata.total_num_frames
        seconds = metadata.duration or num_frames / (metadata.fps or 25)
    if seconds > 60 * limits.max_minutes:
        raise Refusal(
            f"It is {seconds / 60:.1f} minutes long; up to {limits.max_minutes:g} are taken here. Cut out the part "
            "that matters."
        )
    width, height = metadata.width or 0, metadata.height or 0
    if not width * height:
        largest = VideoLimits.from_environment().max_pixels
        raise Refusal(f"Its frames cannot be read: they are damaged, or larger than {largest / 1e6:.0f} megapixels.")
    gigapixels = num_frames * width * height / 1e9
    if gigapixels > limits.max_gigapixels:
        raise Refusal(
            f"Its {num_frames} frames of {width}x{height} pixels are too much for one visitor here. Make it "
            "shorter or smaller."
        )
    return seconds, num_frames


def explain_failure(error: Exception, path: Path) -> str:
    """An error in words for who sent the file, without where it lay here and what only a programmer can do."""
    said = str(error).replace(f"{path}: ", "").replace(str(path), "it").split("`limits=")[0].rstrip(" ,;:")
    if isinstance(error, Refusal):
        return said
    if isinstance(error, VideoDecodingError):
        return f"It cannot be read as a video or an image: {said.rstrip('.')}."
    if isinstance(error, ValueError):
        return f"The model cannot take it: {said.rstrip('.')}."
    return "Something went wrong here, and it is not your file's fault. Please try again later."
