# SPDX-License-Identifier: Apache-2.0
"""Frozen models that tell a student what is in a clip: features of places and times, or logits.

A teacher gets the clips of the student, `(batch, num_frames, channels, height, width)`, as the student's processor
normalised them. It reads some of their frames, brings them to its own size and normalisation, and runs without
gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate, layer_norm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..conversion import convert_vit
from ..conversion.sources import first_line
from ..model.configuration_tubevit import TubeViTConfig
from ..model.tubes_tubevit import Size, Tube, as_size
from .runs import read_config
from .tube_targets import find_stretches


# frames of a clip that an image model sees at least, and an image classifier at most
NUM_FRAMES = 8
# encoders of videos whose tokens are a grid of cells in time and space
GRID_ENCODERS = ("videomae", "vivit")


class TeacherError(ValueError):
    """A teacher cannot be read, or does not suit the student; the message names the teacher and the reason."""


class Normalization(NamedTuple):
    """What a processor makes of a pixel from 0 to 1: `pixel * scale + shift`, each of shape `(channels,)`."""

    scale: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, settings: Any) -> "Normalization":
        """Reads a processor's settings."""
        factor = 255 * settings.rescale_factor if settings.do_rescale else 255.0
        # ViViT's rescales to [-1, 1] before it normalises
        offset = 1.0 if settings.do_rescale and getattr(settings, "offset", False) else 0.0
        mean, std = (0.0, 1.0)
        if settings.do_normalize:
            mean, std = settings.image_mean, settings.image_std
        mean, std = torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(std, dtype=torch.float32)
        return cls(torch.atleast_1d(factor / std), torch.atleast_1d(-(offset + mean) / std))

    def convert(self, pixel_values: torch.Tensor, other: "Normalization") -> torch.Tensor:
        """Pixels `(..., channels, height, width)` in this normalisation, brought to another one."""
        ratio = other.scale / self.scale
        shift = other.shift - self.shift * ratio
        if torch.equal(ratio, torch.ones_like(ratio)) and not shift.any():
            return pixel_values
        ratio, shift = (numbers.to(pixel_values)[..., None, None] for numbers in (ratio, shift))
        return pixel_values * ratio + shift


@dataclass
class FrameReader:
    """Makes a teacher's input of a student's clips.

    Args:
        frames: numbers of the frames that the teacher sees, in the student's clip.
        size: `(height, width)` that it sees them in, in pixels.
        student, teacher: how each normalises pixels.
    """

    frames: list[int]
    size: tuple[int, int]
    student: Normalization
    teacher: Normalization

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_frames, channels, height, width) -> (batch, frames, channels, *size)`."""
        frames = self.student.convert(pixel_values[:, self.frames], self.teacher)
        if frames.shape[-2:] == self.size:
            return frames
        resized = interpolate(frames.flatten(0, 1), self.size, mode="bilinear", antialias=True, align_corners=False)
        return resized.unflatten(0, frames.shape[:2])


@dataclass
class FeatureTeacher:
    """Features of each place and time of a clip: `(batch, layers, t, h, w, channels)`.

    They are read after some layers, and the encoder's final norm is applied, if it has one. Then each token is
    brought to mean 0 and variance 1 over its channels (a layer norm without weights), so that losses of different
    teachers and layers compare.

    Args:
        name: folder or repo id.
        model: the encoder.
        norm: its final norm, if it has one.
        reader: makes its input.
        layers: numbers of layers after which it is read.
        positions: where its time steps lie, as indices of the student's frames; 0.5 is between the first two.
        grid: `(t, h, w)` of its tokens in one pass.
        by_frame: whether each frame is a pass of its own, as in a model of images.
    """

    name: str
    model: PreTrainedModel
    norm: torch.nn.Module | None
    reader: FrameReader
    layers: list[int]
    positions: list[float]
    grid: Size
    by_frame: bool

    @property
    def num_features(self) -> int:
        return self.model.config.hidden_size

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        frames = self.reader(pixel_values)
        inputs = frames.flatten(0, 1) if self.by_frame else frames
        outputs = self.model(pixel_values=inputs, output_hidden_states=True)
        read = [self.finish(self.read_layer(outputs, layer), len(frames)) for layer in self.layers]
        return torch.stack(read, dim=1)

    def read_layer(self, outputs: Any, layer: int) -> torch.Tensor:
        """Normed states after a layer, `(passes, tokens, channels)`."""
        if layer == self.model.config.num_hidden_layers:
            # some models record their last state before the final norm, others after it
            return outputs.last_hidden_state
        states = outputs.hidden_states[layer]
        return states if self.norm is None else self.norm(states)

    def finish(self, states: torch.Tensor, batch: int) -> torch.Tensor:
        """`(passes, tokens, channels) -> (batch, t, h, w, channels)`."""
        num_tokens = int(np.prod(self.grid))
        # CLS and registers come first
        states = layer_norm(states[:, states.shape[1] - num_tokens :].float(), states.shape[-1:])
        _, rows, columns = self.grid
        return states.reshape(batch, -1, rows, columns, states.shape[-1])


@dataclass
class LogitTeacher:
    """Logits of a classifier: `(batch, classes)`. A classifier of images sees some frames, whose logits are averaged.

    Args:
        name: folder or repo id.
        model: the classifier.
        reader: makes its input.
        by_frame: whether it is one of images.
    """

    name: str
    model: PreTrainedModel
    reader: FrameReader
    by_frame: bool

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        frames = self.reader(pixel_values)
        inputs = frames.flatten(0, 1) if self.by_frame else frames
        logits = self.model(**{self.model.main_input_name: inputs}).logits.float()
        return logits.unflatten(0, frames.shape[:2]).mean(1) if self.by_frame else logits


def load_feature_teacher(
    name: str, processor: Any, tubes: Sequence[Tube], size: Size, depths: Sequence[float]
) -> FeatureTeacher:
    """Loads a teacher of features.

    Args:
        name: folder or repo id of an image ViT that `convert_vit` reads, or of a VideoMAE or ViViT.
        processor: of the student.
        tubes: of the student, by which a teacher of images sees frames, see [`spread_frames`].
        size: of the student's clip, in frames and pixels.
        depths: shares of the teacher's layers, after which it is read.

    Raises:
        TeacherError: it cannot be read, or has no grid of tokens.
    """
    config = read_config(name)
    if config is not None and config.model_type == TubeViTConfig.model_type:
        raise TeacherError(
            f"{name}: it is a TubeViT, whose tokens are no grid. Give the image ViT that it was made of, or another "
            "one; a classifier of any kind can teach by --targets logits."
        )
    if config is not None and config.model_type in GRID_ENCODERS:
        return load_grid_encoder(name, config, processor, size, depths)
    model, report = convert_vit(name, num_frames=1, keep_classifier=False)
    [patch] = {tube.kernel_size[1:] for tube in model.config.resolved_tubes}
    # the model resizes its positions, so it sees the student's pictures, as near as its patches come to them
    grid = as_size((1, *(max(1, round(length / step)) for length, step in zip(size[1:], patch))))
    frames = spread_frames(tubes, size)
    settings = TEACHER_PROCESSING | report.preprocessing
    reader = FrameReader(
        frames,
        (grid[1] * patch[0], grid[2] * patch[1]),
        Normalization.of(processor),
        Normalization.of(SimpleNamespace(**settings)),
    )
    encoder = freeze(model.base_model)
    return FeatureTeacher(
        name,
        encoder,
        encoder.layernorm,
        reader,
        [find_layer(depth, encoder.config) for depth in depths],
        list(map(float, frames)),
        grid,
        by_frame=True,
    )


def load_grid_encoder(
    name: str, config: PreTrainedConfig, processor: Any, size: Size, depths: Sequence[float]
) -> FeatureTeacher:
    """Loads a VideoMAE or ViViT: their tokens are cells of some frames and a patch each."""
    model = freeze(AutoModel.from_pretrained(name))
    tubelet = config.tubelet_size if config.model_type == "vivit" else (config.tubelet_size, *pair(config.patch_size))
    height, width = pair(config.image_size)
    grid = (config.num_frames // tubelet[0], height // tubelet[1], width // tubelet[2])
    frames = even_frames(config.num_frames, size[0])
    # of the frames of each tubelet
    middles = np.reshape(frames[: grid[0] * tubelet[0]], (grid[0], -1)).mean(1).tolist()
    if len(set(middles)) < len(middles):
        raise TeacherError(
            f"{name}: it reads clips of {config.num_frames} frames, too many for the model's {size[0]}, which would "
            "stand still. Give more --num_frames."
        )
    return FeatureTeacher(
        name,
        model,
        getattr(model, "layernorm", None),
        FrameReader(frames, (height, width), Normalization.of(processor), Normalization.of(load_processor(name))),
        [find_layer(depth, config) for depth in depths],
        middles,
        grid,
        by_frame=False,
    )


def load_logit_teacher(name: str, processor: Any, size: Size) -> LogitTeacher:
    """Loads a teacher of logits.

    Args:
        name: folder or repo id of a classifier of videos or images.
        processor: of the student.
        size: of the student's clip, in frames and pixels.

    Raises:
        TeacherError: it cannot be read, is no classifier, or one of several labels.
    """
    config = read_config(name)
    if config is None:
        raise TeacherError(f"{name}: it cannot be read. Give a folder or repo id of a classifier of Transformers.")
    architectures = config.architectures or []
    if not any("Classification" in architecture for architecture in architectures):
        raise TeacherError(
            f"{name}: it is no classifier ({', '.join(architectures) or 'nothing told'}), so it has no logits. Give "
            "one, or let it teach by --targets features."
        )
    if config.problem_type == "multi_label_classification":
        raise TeacherError(f"{name}: its videos have several labels each. Give a classifier of one label.")
    by_frame = any(architecture.endswith("ForImageClassification") for architecture in architectures)
    auto = AutoModelForImageClassification if by_frame else AutoModelForVideoClassification
    try:
        model = auto.from_pretrained(name)
    except ValueError as error:
        # such as of texts
        raise TeacherError(f"{name}: it classifies neither videos nor images ({first_line(error)}).") from error
    settings = load_processor(name)
    if by_frame:
        frames = even_frames(min(NUM_FRAMES, size[0]), size[0])
    else:
        length = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
        frames = even_frames(length or size[0], size[0])
    picture = find_size(settings, config)
    reader = FrameReader(frames, picture, Normalization.of(processor), Normalization.of(settings))
    return LogitTeacher(name, freeze(model), reader, by_frame)


# what `convert_vit` assumes of a source that does not tell
TEACHER_PROCESSING = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def load_processor(name: str) -> Any:
    """The processor of a teacher, of videos or images."""
    reasons = []
    for auto in (AutoVideoProcessor, AutoImageProcessor):
        try:
            return auto.from_pretrained(name)
        except (OSError, ValueError) as error:
            reasons.append(str(error).partition("\n")[0])
    raise TeacherError(f"{name}: it does not tell how its pictures are prepared ({reasons[-1]}).")


def find_size(processor: Any, config: PreTrainedConfig) -> tuple[int, int]:
    """`(height, width)` of a teacher's input, in pixels."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    if size.height is not None:
        return size.height, size.width
    return pair(getattr(config, "image_size", None) or size.shortest_edge)


def freeze(model: PreTrainedModel) -> Any:
    return model.eval().requires_grad_(False)


def find_layer(depth: float, config: PreTrainedConfig) -> int:
    """Number of the layer at a share of a model's depth, at least 1."""
    return max(1, round(depth * config.num_hidden_layers))


def spread_frames(tubes: Sequence[Tube], size: Size) -> list[int]:
    """Chooses the frames of a clip that a teacher of images sees.

    1. All frames that tubes of one frame see: no other frame tells what is in them.
    2. The first and the last frame of each stretch of time over which a token's target changes, see
       [`find_stretches`]. If 1 and 2 are more than half of the clip's frames (of less than 16: more than eight), those
       of 2 are thinned evenly until they fit. What the teacher does not see is interpolated.
    3. Eight frames, evenly spread, where 1 and 2 are fewer.

    The tubes of `tubevit convert --layout interleaved` have 16 frames of 32.

    Args:
        tubes: of the student.
        size: `(num_frames, height, width)` of its clip, in frames and pixels.
    """
    stretches = [(tube, find_stretches(tube, size)) for tube in tubes]
    chosen = {first for tube, of_tube in stretches if tube.sees_one_frame for first, _ in of_tube}
    ends = sorted({frame for _, of_tube in stretches for stretch in of_tube for frame in stretch} - chosen)
    room = max(0, max(NUM_FRAMES, ceil(size[0] / 2)) - len(chosen))
    if len(ends) > room:
        ends = [ends[place] for place in even_frames(room, len(ends))]
    chosen.update(ends)
    if len(chosen) < NUM_FRAMES:
        step = ceil(size[0] / NUM_FRAMES)
        # some of them are chosen already
        chosen.update(range(min(chosen, default=step // 2) % step, size[0], step))
    return sorted(chosen)


def even_frames(wanted: int, num_frames: int) -> list[int]:
    """As many frames of a clip, evenly spread; some come again where the clip has fewer."""
    return [int((number + 0.5) * num_frames / wanted) for number in range(wanted)]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    height, width = value
    return height, width


__all__ = ["FeatureTeacher", "LogitTeacher", "TeacherError", "load_feature_teacher", "load_logit_teacher"]
