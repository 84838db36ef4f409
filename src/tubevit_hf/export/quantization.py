# SPDX-License-Identifier: Apache-2.0
"""int8, by the tool that did best in its runtime, and what it costs on clips that calibrated nothing."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers.exporters import ExportQuantizer, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTPreTrainedModel
from .graph import Inputs


# more did not help on the videos that it was tried on
CALIBRATION_VIDEOS = 32


@dataclass(frozen=True)
class Clip:
    """A video, ready for the model.

    Args:
        inputs: what the processor gives.
        label: its class, if that is known.
    """

    inputs: Inputs
    label: int | None


@dataclass(frozen=True)
class Int8Report:
    """What int8 costs.

    Args:
        num_clips: that were compared; none of them calibrated.
        agreement: of the first class, in percent.
        accuracy_before, accuracy_after: in percent, where the classes are known.
    """

    num_clips: int
    agreement: float
    accuracy_before: float | None
    accuracy_after: float | None

    @property
    def loss(self) -> float:
        """In points: of accuracy or, where no class is known, of agreement."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return 100 - self.agreement
        return self.accuracy_before - self.accuracy_after

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_quantizer(runtime: str, config: TubeViTConfig, calibration: Sequence[Clip]) -> ExportQuantizer:
    """OpenVINO: weights and activations by NNCF, calibrated. ONNX Runtime: weights, a scale a channel, and activations
    as they come, which was faster and closer there than calibrated ones."""
    if runtime == "openvino":
        from .encoder_quantizer import EncoderQuantizer

        return EncoderQuantizer(config, [clip.inputs for clip in calibration])
    return OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))


def split_clips(clips: Sequence[Clip], calibrates: bool) -> tuple[list[Clip], list[Clip]]:
    """Those to calibrate with, evenly spaced and at most half of them, and the others."""
    if not calibrates:
        return [], list(clips)
    spacing = max(2, -(-len(clips) // CALIBRATION_VIDEOS))
    others = [clip for index, clip in enumerate(clips) if index % spacing]
    return list(clips[::spacing]), others


@torch.no_grad()
def compare_int8(model: TubeViTPreTrainedModel, run: Callable[..., Any], clips: Sequence[Clip]) -> Int8Report:
    """Classifies clips with the model and with the graph."""
    agreed, before, after, labelled = 0, 0, 0, 0
    for clip in tqdm(clips, desc="int8 beside float32", unit="clip", disable=None):
        expected, got = (int(of(**clip.inputs).logits[0].argmax()) for of in (model, run))
        agreed += expected == got
        if clip.label is not None:
            labelled += 1
            before += expected == clip.label
            after += got == clip.label
    return Int8Report(
        len(clips),
        100 * agreed / len(clips),
        100 * before / labelled if labelled else None,
        100 * after / labelled if labelled else None,
    )
