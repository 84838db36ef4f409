# SPDX-License-Identifier: Apache-2.0
"""What a model looks at in a video, where and when, and what it would say without a stretch of it."""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.views import to_scores
from ..explanation import Method, equal_windows, explain_clips, occlude_time, to_heat
from ..explanation.scores import read_logits
from ..model.modeling_tubevit import TubeViTForClassification
from ..model.tubes_tubevit import Size
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from ..model.video_sources_tubevit import hide_secrets, printable
from .prediction import list_best
from .reading import read_by_settings
from .running import LoadedModel


# a share of what counts, whose shortest stretch of time is where a model "looked most"
MOST = 0.5
# if that stretch is no shorter than this share of the clip, it looked everywhere about alike
EVEN = 0.45


@dataclass(frozen=True)
class VideoExplanation:
    """What counts in a video for a label.

    Args:
        video: as it was asked for.
        method: of [`explain_clips`].
        label: that is explained.
        score: of the label.
        predictions: the best labels with their scores, the highest first.
        frames: as the model saw them, `(num_frames, 3, height, width)`, uint8 RGB.
        seconds: when each frame is shown, and when the last one ends: `(num_frames + 1,)`.
        parts: how much each pixel counts, `(num_frames, height, width)`.
        windows: start and end of each stretch that was taken out, `(windows, 2)`, in seconds.
        drops: how far the score drops without it, `(windows,)`; none for a clip of one frame.
        tubes: the region of one token of each tube, in frames and pixels.
    """

    video: str
    method: str
    label: str
    score: float
    predictions: list[dict[str, Any]]
    frames: torch.Tensor
    seconds: np.ndarray
    parts: torch.Tensor
    windows: np.ndarray
    drops: np.ndarray
    tubes: list[Size]

    @cached_property
    def heat(self) -> torch.Tensor:
        """What speaks for the label as pictures show it, `(num_frames, height, width)`, from 0 to 1."""
        return to_heat(self.parts, smooth=self.method == "gradient")

    @cached_property
    def shares(self) -> np.ndarray:
        """Of all heat, the share in each frame: `(num_frames,)`."""
        shares = self.heat.sum(dim=(1, 2)).double().numpy()
        return shares / max(shares.sum(), np.finfo(float).tiny)

    def find_most(self) -> tuple[float, float] | None:
        """The shortest stretch of time that holds half of what counts, in seconds; `None` where all of the clip counts
        about alike."""
        before = np.concatenate(([0.0], self.shares.cumsum()))
        stretches = [
            (self.seconds[stop] - self.seconds[start], start, stop)
            for start in range(len(self.frames))
            for stop in range(start + 1, len(self.frames) + 1)
            if before[stop] - before[start] >= MOST
        ]
        if not stretches:
            return None
        length, start, stop = min(stretches)
        if length >= EVEN * (self.seconds[-1] - self.seconds[0]):
            return None
        return float(self.seconds[start]), float(self.seconds[stop])

    def tell(self) -> list[str]:
        """In sentences: when it looked, and what it would say without the stretch that matters most."""
        most = self.find_most()
        counts = "What counts" if self.method == "gradient" else "Its attention"
        told = [
            f"{counts} is spread over the clip: half of it takes about half of the time."
            if most is None
            else f"{counts} lies mostly at {most[0]:.1f} to {most[1]:.1f} s: half of it, in "
            f"{(most[1] - most[0]) / (self.seconds[-1] - self.seconds[0]):.0%} of the time."
        ]
        if len(self.drops):
            worst = int(self.drops.argmax())
            start, end = self.windows[worst]
            told.append(
                f"Without {start:.1f} to {end:.1f} s, held still instead, {self.label} would have "
                f"{self.score - self.drops[worst]:.1%} instead of {self.score:.1%}."
                if self.drops[worst] >= 0.01
                else f"No single stretch of time matters: {self.label} keeps about {self.score:.1%} without each of "
                "them."
            )
        return told

    def describe_tubes(self) -> list[str]:
        """What a token sees."""
        regions = list(dict.fromkeys(self.tubes))
        seen = [f"{frames} frame{'s' * (frames > 1)} of {height}x{width} pixels" for frames, height, width in regions]
        return [f"The model reads the clip in tubes; each token sees {', or '.join(seen)}."]

    @property
    def alt_text(self) -> str:
        """What the pictures show, for who cannot see them."""
        shown = "what counts for the label" if self.method == "gradient" else "where its attention lies; the label is"
        name = printable(Path(self.video).name)
        return (
            f"{len(self.frames)} frames of {name}, and over each {shown} {self.label}, which has "
            f"{self.score:.1%}. {' '.join(self.tell())}"
        )

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        most = self.find_most()
        return {
            "video": self.video,
            "method": self.method,
            "label": self.label,
            "score": self.score,
            "predictions": self.predictions,
            "seconds": self.seconds.round(4).tolist(),
            "shares": self.shares.round(6).tolist(),
            "most": None if most is None else list(most),
            "windows": self.windows.round(4).tolist(),
            "drops": self.drops.round(6).tolist(),
            "alt_text": self.alt_text,
        }


def explain_video(
    model: LoadedModel, video: str, *, method: Method = "gradient", label: str | None = None, num_windows: int = 8
) -> VideoExplanation:
    """Explains what a model sees in a video, which is read as `predict_files` reads it.

    Args:
        model: as `load_model` gives it.
        video: path or URL. Of several clips that its processor makes of it, the middle one is explained.
        method: of [`explain_clips`].
        label: its name; by default the most likely one.
        num_windows: stretches of time that are taken out, one at a time; no more than there are frames.

    Raises:
        ValueError: the video cannot be read, the model is no TubeViT for videos, it has no such label, or cannot be
            explained by this method.
    """
    classifier, processor = model.model, model.processor
    if not isinstance(classifier, TubeViTForClassification) or not isinstance(processor, TubeViTVideoProcessor):
        raise ValueError(
            "only a TubeViT with a head, which is not exported, and its video processor can be explained, got "
            f"{type(classifier).__name__} and {type(processor).__name__}."
        )
    names = {int(index): name for index, name in (classifier.config.id2label or {}).items()}
    chosen = None if label is None else find_label(label, list(names.values()))
    clip, shown = read_clip(processor, video, classifier.config.num_frames)
    clips = clip[None].to(classifier.device, classifier.dtype)

    with torch.no_grad():
        scores = to_scores(read_logits(classifier, clips), classifier.config.problem_type)[0].cpu()
    chosen = int(scores.argmax()) if chosen is None else chosen
    labels = torch.tensor([chosen], device=clips.device)
    grids = classifier.config.token_grids(len(clip), *clip.shape[2:])
    tubes = classifier.config.resolved_tubes
    num_windows = min(num_windows, len(clip))
    windows = equal_windows(len(clip), num_windows) if num_windows > 1 else []
    drops = occlude_time(classifier, clips, windows, labels)[0].cpu().numpy() if windows else np.zeros(0)
    return VideoExplanation(
        video=hide_secrets(video),
        method=method,
        label=names[chosen],
        score=scores[chosen].item(),
        predictions=list_best(scores, classifier.config, 5),
        frames=to_pictures(processor, clip).round().byte().permute(0, 3, 1, 2),
        seconds=shown,
        parts=explain_clips(classifier, clips, method, labels)[0].cpu(),
        windows=np.array([(shown[start], shown[stop]) for start, stop in windows]).reshape(-1, 2),
        drops=drops,
        tubes=[tube.extent for tube, grid in zip(tubes, grids) if all(grid)],
    )


def read_clip(processor: TubeViTVideoProcessor, video: str, num_frames: int) -> tuple[torch.Tensor, np.ndarray]:
    """The middle one of the clips that a processor makes of a video, `(num_frames, channels, height, width)`, without
    padding; when each frame is shown and the last one ends, `(num_frames + 1,)`, in seconds.

    Raises:
        ValueError: the video cannot be read.
    """
    inputs, metadata = read_by_settings(processor, video, num_frames)
    middle = len(inputs["pixel_values"]) // 2
    seconds = np.array_split(np.asarray(metadata.timestamps, dtype=float), len(inputs["pixel_values"]))[middle]
    clip = inputs["pixel_values"][middle]
    if "frame_mask" in inputs:
        # a padded clip gives the answer of the clip without its padding
        clip = clip[inputs["frame_mask"][middle]]
    return clip, spread_repeats(seconds[: len(clip)])


def find_label(name: str, names: list[str]) -> int:
    """Raises a `ValueError` that names the nearest labels if there is none of that name."""
    if name in names:
        return names.index(name)
    near = get_close_matches(name, names, 3) or get_close_matches(name.lower(), names, 3) or names[:8]
    more = "" if len(near) == len(names) or near != names[:8] else ", ..."
    raise ValueError(f"the model has no label {name!r}; near are {', '.join(map(repr, near))}{more}.")


def spread_repeats(seconds: np.ndarray) -> np.ndarray:
    """When each frame is shown and the last one ends, `(num_frames,) -> (num_frames + 1,)`: frames that were repeated
    to fill a clip share the time of the one."""
    shown, counts = np.unique(seconds, return_counts=True)
    step = np.median(np.diff(shown)) if len(shown) > 1 else 1.0
    ends = np.append(shown[1:], shown[-1] + step)
    parts = [start + (end - start) * np.arange(count) / count for start, end, count in zip(shown, ends, counts)]
    return np.append(np.concatenate(parts), ends[-1])


def to_pictures(processor: Any, frames: torch.Tensor) -> torch.Tensor:
    """What a processor made of frames, as they were: `(num_frames, channels, height, width)` to `(num_frames, height,
    width, channels)`, from 0 to 255."""
    frames = frames.float()
    if processor.do_normalize:
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        frames = frames * std + mean
    if processor.do_rescale:
        frames = frames / processor.rescale_factor
    return frames.clamp(0, 255).permute(0, 2, 3, 1)
