# SPDX-License-Identifier: Apache-2.0
"""Windows of a long video: where they lie, which frames they have, and what a model says of them.

Windows overlap, and so they share frames. What can be done with a frame by itself is done once, whichever windows it
belongs to: the processor's work and, where the model has a `joint_layer`, all layers before that one.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from ..evaluation.views import list_labels, to_scores
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForClassification
from ..model.stages_tubevit import Encoded
from ..model.video_decoding_tubevit import FrameTransform
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from ..model.video_sampling_tubevit import ROUNDING


# positions that are the same at every moment of a clip, so that a frame is encoded alike wherever it stands
TIMELESS_POSITIONS = ("pretrained", "none")

# what is kept of a frame
FrameState = tuple[torch.Tensor, ...]


class Classifier(Protocol):
    """A [`TubeViTForVideoClassification`], or a graph that was exported of one."""

    config: TubeViTConfig
    device: torch.device

    def __call__(self, pixel_values: torch.Tensor) -> ImageClassifierOutput: ...


def count_windows(seconds: float, window: float, stride: float) -> int:
    """Windows that lie wholly in a video of so many seconds: they begin at 0, `stride`, 2 `stride`, ..."""
    return max(0, int(np.floor((seconds - window + ROUNDING) / stride)) + 1)


def sample_times(starts: np.ndarray | float, window: float, num_frames: int) -> np.ndarray:
    """When the frames of windows are sampled, evenly: `(...) -> (..., num_frames)`, in seconds."""
    return np.asarray(starts)[..., None] + np.arange(num_frames) * (window / num_frames)


def check_seconds(**lengths: float) -> None:
    """Raises a `ValueError` for a length of time that is none."""
    for name, seconds in lengths.items():
        if not 0 < seconds < np.inf:
            raise ValueError(f"`{name}` must be a number of seconds above 0, got {seconds}.")


class WindowScorer:
    """What a model says of windows that share frames.

    Args:
        model: a classifier; it is put into evaluation mode.
        processor: its video processor.
        num_frames: of a window; by default the model's.
        reuse: whether layers before a `joint_layer` run once for each frame, where they give the same in each window.

    Raises:
        ValueError: the model gives no scores of classes, or `num_frames` is below 1.
    """

    def __init__(
        self, model: Classifier, processor: TubeViTVideoProcessor, num_frames: int | None = None, reuse: bool = True
    ):
        self.model, self.processor = model, processor
        self.num_frames = model.config.num_frames if num_frames is None else num_frames
        if self.num_frames < 1:
            raise ValueError(f"`num_frames` must be at least 1, got {num_frames}.")
        if model.config.problem_type == "regression":
            raise ValueError("the model gives numbers (`problem_type` 'regression'); scores of classes are needed.")
        if isinstance(model, torch.nn.Module):
            model.eval()
        self.encoder: SingleFrames | WholeClips
        if reuse and isinstance(model, TubeViTForClassification) and encodes_single_frames(model.config):
            self.encoder = SingleFrames(model)
        else:
            self.encoder = WholeClips(model)

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of the scores."""
        return list_labels(self.model.config)

    def make_shrink(self) -> FrameTransform | None:
        """What brings a decoded frame near to its final size, see `TubeViTVideoProcessor.make_shrink`."""
        processor = self.processor
        return processor.make_shrink(processor.do_resize, size=processor.size, resample=processor.resample)

    @torch.no_grad()
    def prepare(self, frames: Sequence[torch.Tensor]) -> list[FrameState]:
        """What is kept of each frame: `(3, height, width)` each, RGB, uint8, all of one size."""
        inputs = self.processor(
            torch.stack(list(frames)), do_sample_frames=False, short_clips="error", return_tensors="pt"
        )
        parts = self.encoder.encode(inputs["pixel_values"][0].to(self.model.device))
        # not views, which would keep the other frames
        return [tuple(part.clone() for part in state) for state in zip(*parts)]

    @torch.no_grad()
    def score(self, windows: Sequence[Sequence[FrameState]]) -> np.ndarray:
        """Probabilities of the classes, `(windows, labels)`, float32; of several labels each by itself."""
        # (windows, frames, ...) of each part of a state
        parts = [
            torch.stack([state[number] for window in windows for state in window]).unflatten(0, (len(windows), -1))
            for number in range(len(windows[0][0]))
        ]
        logits = self.encoder.classify(parts).float()
        return to_scores(logits, self.model.config.problem_type).cpu().numpy()


class WholeClips:
    """Pixels are kept, and the model sees all of a window."""

    def __init__(self, model: Classifier):
        self.model = model

    def encode(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        return [pixel_values]

    def classify(self, parts: list[torch.Tensor]) -> torch.Tensor:
        logits = self.model(pixel_values=parts[0]).logits
        assert logits is not None
        return logits


class SingleFrames:
    """A model in two halves: up to its `joint_layer` each frame by itself, then those of a window together.

    Of a frame are kept what enters that layer, what the grid pooling reads before, and z0 for a gate that comes later.
    """

    def __init__(self, model: TubeViTForClassification):
        self.model, self.encoder, self.config = model, model.tubevit, model.config
        self.has_late_gate = self.config.gate_layer is not None and self.config.gate_layer >= self.config.joint_layer
        self.read_before = [number for number in self.config.layers_read if number < self.config.joint_layer]
        self.size = (0, 0)

    def encode(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """`(frames, channels, height, width)` to parts `(frames, tokens of a moment, hidden_size)`."""
        clips, encoder = pixel_values[:, None], self.encoder
        encoded = encoder.moment_stage(encoder.layers, encoder.embeddings(clips), encoder.embeddings.layout(clips))
        gated = [encoded.embedding_output] if self.has_late_gate else []
        # frames that were refused leave no trace
        self.size = (pixel_values.shape[2], pixel_values.shape[3])
        return [encoded.hidden_states, *gated, *(encoded.layer_states[number] for number in self.read_before)]

    def classify(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Parts `(windows, frames, tokens of a moment, hidden_size)` to logits."""
        encoder, layout = self.encoder, self.config.token_layout(parts[0].shape[1], *self.size)
        # (windows, frames, tokens of a moment, hidden_size) -> (windows, tokens, hidden_size)
        hidden_states, *others = [part.flatten(1, 2) for part in parts]
        embedding_output = others.pop(0) if self.has_late_gate else hidden_states
        layer_states = dict(zip(self.read_before, others))
        if self.config.joint_layer in self.config.layers_read:
            layer_states[self.config.joint_layer] = hidden_states
        # no tube comes in later
        encoded = Encoded(hidden_states, embedding_output, layer_states)
        joined = encoder.moment_stage.join(encoded, hidden_states[:, :0], layout)
        encoded = encoder.joint_stage(encoder.layers, joined)
        return self.model.classifier(encoder.finish(encoded, layout, None).pooler_output)


def encodes_single_frames(config: TubeViTConfig) -> bool:
    """Whether every frame of a clip is encoded by itself up to a `joint_layer`, and alike at every moment."""
    return (
        config.joint_layer > 0
        and config.position_embedding_type in TIMELESS_POSITIONS
        and all(tube.sees_one_frame and tube.offset[0] == 0 and tube.stride[0] == 1 for tube in config.resolved_tubes)
    )
