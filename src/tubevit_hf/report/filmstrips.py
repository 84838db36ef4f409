# SPDX-License-Identifier: Apache-2.0
"""Videos as strips of the frames that a model saw, with where and when it looked."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from ..explanation import equal_windows, explain_clips, lay_over, occlude_time, to_heat
from ..inference.explaining import to_pictures
from ..inference.reading import BySettings
from ..inference.running import LoadedModel
from ..model.modeling_tubevit import TubeViTForVideoClassification
from .measurement import MeasuredVideo, Measurement


# clips of each kind, and frames of each clip
NUM_CLIPS = 6
NUM_FRAMES = 8
# of a frame on the page, twice what it takes on a common screen
HEIGHT = 176
QUALITY = 60
# changes of a few points shall look like such
LEAST_SCALE = 0.1


@dataclass(frozen=True)
class Moment:
    """A frame that the model saw, and below it the same in grey, coloured where the model looked.

    Args:
        seconds: when it is in the video, if that is known.
        picture: as a `data:` address.
        drop: how far the label's probability drops if the time around it is taken out, from -1 to 1; `None` if that is
            not known.
    """

    seconds: float | None
    picture: str
    width: int
    height: int
    drop: float | None = None


@dataclass(frozen=True)
class Strip:
    """A video in pictures.

    Args:
        video: what was measured of it.
        moments: evenly over the clip.
        explained: whether pictures and drops show what the model looked at.
        error: why there are no pictures.
    """

    video: MeasuredVideo
    moments: list[Moment] = field(default_factory=list)
    explained: bool = False
    error: str | None = None

    @property
    def scale(self) -> float:
        """What a bar of full height stands for: the greatest change, but not less than `LEAST_SCALE`."""
        return max(LEAST_SCALE, *(abs(moment.drop or 0.0) for moment in self.moments))


def choose_clips(measurement: Measurement) -> tuple[list[MeasuredVideo], list[MeasuredVideo]]:
    """The most confident mistakes, and the least certain of the others."""
    mistakes = measurement.mistakes[:NUM_CLIPS]
    shown = {video.file for video in mistakes}
    others = [video for video in measurement.videos if video.file not in shown]
    return mistakes, sorted(others, key=lambda video: video.confidence)[:NUM_CLIPS]


def draw_strips(loaded: LoadedModel, videos: Sequence[MeasuredVideo]) -> Iterator[Strip]:
    """Reads videos again, a clip of each by the processor's own settings, and shows what the model looked at.

    Models other than TubeViT, and exported graphs, are not looked into: then there are frames alone.
    """
    load = BySettings(loaded.processor, loaded.model.config.num_frames)
    for video in videos:
        try:
            reading = load(video.file)
        except (ValueError, OSError, LookupError, RuntimeError) as error:
            # it could be read before
            yield Strip(video, error=str(error))
            continue
        yield draw_strip(loaded, video, reading.inputs["pixel_values"][:1], reading.seconds[:1])


def draw_strip(
    loaded: LoadedModel, video: MeasuredVideo, pixel_values: torch.Tensor, seconds: Sequence[tuple[float, float]]
) -> Strip:
    """The strip of a clip `(1, num_frames, channels, height, width)`."""
    num_frames = pixel_values.shape[1]
    windows = equal_windows(num_frames, min(NUM_FRAMES, num_frames))
    frames = to_pictures(loaded.processor, pixel_values[0])
    looked_at, drops = look_into(loaded.model, pixel_values, video.predicted, windows)
    moments = []
    for window, drop in zip(windows, drops or [None] * len(windows)):
        middle = sum(window) // 2
        picture = frames[middle]
        if looked_at is not None:
            covered = lay_over(picture.permute(2, 0, 1)[None], looked_at[middle][None])[0]
            picture = torch.cat([picture, covered.to(picture)], dim=0)
        address, width, height = encode(picture, 1 if looked_at is None else 2)
        when = None
        if seconds:
            begin, end = seconds[0]
            when = begin + (end - begin) * middle / max(1, num_frames - 1)
        moments.append(Moment(when, address, width, height, drop))
    return Strip(video, moments, explained=looked_at is not None)


def look_into(
    model: Any, pixel_values: torch.Tensor, label: str, windows: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor | None, list[float] | None]:
    """What speaks for a label, from 0 to 1, `(num_frames, height, width)`; and how far its probability drops without
    each window."""
    if not isinstance(model, TubeViTForVideoClassification):
        return None, None
    assert model.config.label2id is not None  # every classifier has its labels
    labels = torch.tensor([model.config.label2id[label]], device=model.device)
    pixel_values = pixel_values.to(model.device, model.dtype)
    looked_at = to_heat(explain_clips(model, pixel_values, labels=labels)[0].cpu(), smooth=True)
    drops = occlude_time(model, pixel_values, windows, labels=labels)[0].tolist() if len(windows) > 1 else None
    return looked_at, drops


def encode(picture: torch.Tensor, rows: int) -> tuple[str, int, int]:
    """A picture `(height, width, channels)` of so many rows of frames, as a `data:` address; its width and height."""
    image = Image.fromarray(picture.round().byte().expand(-1, -1, 3).numpy())
    height = rows * HEIGHT
    width = max(1, round(image.width * height / image.height))
    # small ones show their pixels
    image = image.resize(
        (width, height), Image.Resampling.LANCZOS if image.height > height else Image.Resampling.NEAREST
    )
    data = io.BytesIO()
    image.save(data, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}", width, height
