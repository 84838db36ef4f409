# SPDX-License-Identifier: Apache-2.0
"""Writes a folder with a graph that was checked, and runs what is in one."""

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from transformers import ImageClassificationPipeline, VideoClassificationPipeline
from transformers.exporters import ExportedModel
from transformers.modeling_outputs import ModelOutput

from ..extras import of_extra
from ..folders import MODEL_INFO, check_folder, written_whole
from ..model.configuration_tubevit import TubeViTConfig
from ..model.image_processing_tubevit import TubeViTImageProcessor
from ..model.modeling_tubevit import TubeViTPreTrainedModel
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from .graph import RUNTIME_ARGUMENTS, Check, check_batches, check_graph, quiet, trace
from .quantization import Clip, Int8Report, compare_int8, make_quantizer, split_clips
from .sizes import SizeRange


# what runs a graph, by runtime
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "torch": ("torch",)}
# given videos that the graph is held against, beside noise of many sizes
CHECKED_VIDEOS = 4


class ExportError(ValueError):
    """A model cannot be exported, or the graph does not do what the model does; the message says what to do."""


@dataclass(frozen=True)
class ModelInfo:
    """What `model_info.json` says.

    Args:
        runtime: `"onnx"`, `"openvino"` or `"torch"`.
        image: whether the graph takes images, `(batch, channels, height, width)`.
        frame_mask: whether it takes a `frame_mask`.
        sizes: that it serves.
        checks: how it fared beside the model, before int8.
        int8: what int8 costs, if it is.
        versions: of what made it.
    """

    runtime: str
    image: bool
    frame_mask: bool
    sizes: SizeRange
    checks: list[Check]
    int8: Int8Report | None
    versions: dict[str, str]

    def save(self, folder: Path) -> None:
        values = {
            **vars(self),
            "sizes": self.sizes.to_dict(),
            "checks": [check.to_dict() for check in self.checks],
            "int8": None if self.int8 is None else self.int8.to_dict(),
        }
        (folder / MODEL_INFO).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ModelInfo":
        """Raises an `ExportError` if the folder holds none, or none that can be read."""
        try:
            values = json.loads((folder / MODEL_INFO).read_text(encoding="utf-8"))
            values["sizes"] = SizeRange.from_dict(values["sizes"])
            values["checks"] = [Check(**check) for check in values["checks"]]
            values["int8"] = None if values["int8"] is None else Int8Report(**values["int8"])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExportError(
                f"{folder}: its {MODEL_INFO} cannot be read ({error}). `tubevit export` writes such folders."
            ) from error


def export_model(
    model: TubeViTPreTrainedModel,
    processor: TubeViTVideoProcessor,
    folder: str | os.PathLike[str],
    runtime: str = "onnx",
    *,
    image: bool = False,
    frame_mask: bool = False,
    int8: bool = False,
    clips: Sequence[Clip] = (),
    max_loss: float = 0.5,
    overwrite: bool = False,
) -> ModelInfo:
    """Writes a folder with the graph, the processors and `model_info.json`, or nothing if the graph does not agree
    with the model.

    Args:
        model: in float32; stays as it is.
        processor: saved beside the graph.
        folder: to write.
        runtime: `"onnx"`, `"openvino"`, or `"torch"` for `torch.export`.
        image: for images instead of videos, which have other tubes.
        frame_mask: the graph takes a `frame_mask`, for clips that are padded.
        int8: rounds weights and activations, see `quantization`.
        clips: real ones, to check with; for int8 at least two, half of which calibrate where that is needed.
        max_loss: how many points int8 may lose.
        overwrite: replaces the folder.

    Raises:
        ExportError: the model is not in float32 or has no such graph, clips are missing, the graph does not agree with
            the model, or int8 loses too much.
        FolderError: the folder cannot be written.
        ModuleNotFoundError: the runtime is not installed.
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    check_request(model, runtime, image, frame_mask, int8, clips)
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    num_frames, height, width = model.config.native_size
    size = (1 if image else num_frames, height, width)
    if not any(all(tube.grid(size)) for tube in model.config.resolved_tubes):
        raise ExportError(f"no tube of this model sees {'an image' if image else 'a clip'} of its own size.")
    sizes = SizeRange.of_config(model.config, size)

    clips = [fit_mask(clip, frame_mask) for clip in clips]
    exported = trace(model, runtime, sizes, image, frame_mask)
    checks = []
    real = [clip.inputs for clip in clips[:CHECKED_VIDEOS]]
    for check in check_graph(model, exported, [*check_batches(model, sizes, image, frame_mask), *real]):
        if not check.agrees:
            raise ExportError(
                f"the {runtime} graph does not agree with the model: at {tuple(check.shape)} it is off by "
                f"{check.difference:.2g}, where rounding explains {check.allowed:.2g}. Nothing is written; try "
                "another runtime or version, and please report it."
            )
        checks.append(check)
    report = None
    if int8:
        calibration, others = split_clips(clips, calibrates=runtime == "openvino")
        exported = trace(model, runtime, sizes, image, frame_mask, make_quantizer(runtime, model.config, calibration))
        report = compare_int8(model, exported, others)
        if report.loss > max_loss:
            raise ExportError(
                f"int8 loses {report.loss:.2f} points on {report.num_clips} clips ({describe(report)}), and "
                f"{max_loss} are allowed. Nothing is written; allow more with `--max-loss`, or calibrate with more "
                "videos."
            )
    info = ModelInfo(runtime, image, frame_mask, sizes, checks, report, versions_of(runtime, int8))
    with written_whole(folder, overwrite) as unfinished:
        exported.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        info.save(unfinished)
    return info


def fit_mask(clip: Clip, frame_mask: bool) -> Clip:
    """The clip with a mask, its own or one of a whole clip, or without; raises an `ExportError` if it needs one."""
    pixel_values = clip.inputs["pixel_values"]
    mask = clip.inputs.get("frame_mask")
    if not frame_mask:
        if mask is not None and not mask.all():
            raise ExportError("a given clip is padded: export with `--frame-mask` (`frame_mask=True`).")
        return replace(clip, inputs={"pixel_values": pixel_values})
    # what is not given, a runtime makes up
    whole = torch.ones(pixel_values.shape[:2], dtype=torch.bool)
    return replace(clip, inputs={"pixel_values": pixel_values, "frame_mask": whole if mask is None else mask})


def check_request(
    model: TubeViTPreTrainedModel, runtime: str, image: bool, frame_mask: bool, int8: bool, clips: Sequence[Clip]
) -> None:
    """Raises what can be said before the work begins."""
    if runtime not in PACKAGES:
        raise ExportError(f"`runtime` must be one of {', '.join(map(repr, PACKAGES))}, got {runtime!r}.")
    check_installed(runtime, int8)
    if model.dtype != torch.float32:
        raise ExportError(
            f"the model is in {model.dtype}; load it with `dtype=torch.float32`. Runtimes round where they gain by it."
        )
    if image and frame_mask:
        raise ExportError("an image has no frames to mask: export with `image` or with `frame_mask`.")
    if not int8:
        return
    if runtime == "torch":
        raise ExportError("int8 is made for onnx and openvino.")
    if not hasattr(model, "classifier"):
        raise ExportError("int8 is held against the model by its classes, and this model has no head.")
    if len(clips) < 2:
        raise ExportError(
            f"int8 needs real clips, two at least and better fifty, got {len(clips)}: give videos like those that the "
            "model will see, in folders named as their classes if you can."
        )


def check_installed(runtime: str, int8: bool = False) -> None:
    """Raises a `ModuleNotFoundError` that names what to install."""
    # the extras are called as the runtimes; PyTorch is there
    with of_extra(runtime):
        for package in packages_of(runtime, int8):
            import_module(package)


def packages_of(runtime: str, int8: bool) -> tuple[str, ...]:
    return (*PACKAGES[runtime], "nncf") if int8 and runtime == "openvino" else PACKAGES[runtime]


def describe(report: Int8Report) -> str:
    """In words: agreement and, where known, accuracy."""
    words = f"top-1 agreement {report.agreement:.1f}%"
    if report.accuracy_before is not None:
        words += f", accuracy {report.accuracy_before:.1f}% before and {report.accuracy_after:.1f}% after"
    return words


def versions_of(runtime: str, int8: bool) -> dict[str, str]:
    packages = ("tubevit_hf", "transformers", "torch", *packages_of(runtime, int8))
    return {package: metadata.version(package) for package in dict.fromkeys(packages)}


class ExportedTubeViT:
    """A graph that is called as the model was, on the CPU.

    Args:
        exported: the graph in its runtime.
        info: what was written beside it.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    input_modalities = ("video", "image")

    def __init__(self, exported: ExportedModel, info: ModelInfo):
        self.exported = exported
        self.info = info
        assert isinstance(exported.config, TubeViTConfig)
        self.config = exported.config

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], trust_remote_code: bool = False) -> "ExportedTubeViT":
        """Loads what `export_model` wrote.

        Args:
            folder: of the graph.
            trust_remote_code: PyTorch keeps graphs as pickles, which run code as they are read: without this one is
                not opened.

        Raises:
            ExportError: the folder holds no graph, or one that runs code.
            ModuleNotFoundError: its runtime is not installed.
        """
        folder = Path(folder)
        info = ModelInfo.load(folder)
        if info.runtime not in PACKAGES:
            raise ExportError(f"{folder}: it is for {info.runtime!r}, and {', '.join(PACKAGES)} are known.")
        if info.runtime == "torch" and not trust_remote_code:
            raise ExportError(
                f"{folder}: a graph of PyTorch is a pickle, which can run code as it is read. If you trust it, say so "
                "with `--trust-remote-code` (`trust_remote_code=True`)."
            )
        check_installed(info.runtime)
        with quiet():
            exported = ExportedModel.from_pretrained(
                folder,
                device="cpu",
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                **RUNTIME_ARGUMENTS.get(info.runtime, {}),
            )
        return cls(exported, info)

    def __call__(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor | None = None) -> ModelOutput:
        """What the model gives, see [`TubeViTForVideoClassification`].

        Raises:
            ValueError: the clip is of a size or kind that the graph is not for.
        """
        ndim = 4 if self.info.image else 5
        if pixel_values.ndim != ndim:
            kind = "images (batch, channels, height, width)"
            if not self.info.image:
                kind = "videos (batch, frames, channels, height, width)"
            raise ValueError(f"this graph takes {kind}, got {tuple(pixel_values.shape)}.")
        num_channels = pixel_values.shape[-3]
        if num_channels != self.config.num_channels:
            raise ValueError(f"`pixel_values` has {num_channels} channels, and the model {self.config.num_channels}.")
        height, width = pixel_values.shape[-2:]
        self.info.sizes.check((1 if self.info.image else pixel_values.shape[1], height, width))
        inputs = {"pixel_values": pixel_values.to(self.device, self.dtype)}
        if self.info.frame_mask:
            inputs["frame_mask"] = self.check_mask(pixel_values, frame_mask)
        elif frame_mask is not None and not frame_mask.all():
            raise ValueError("this graph takes no padded clips: export one with `--frame-mask`.")
        return self.exported(**inputs)

    def check_mask(self, pixel_values: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """The mask, of whole clips if there is none."""
        shape = pixel_values.shape[:2]
        if frame_mask is None:
            return torch.ones(shape, dtype=torch.bool)
        if frame_mask.shape != shape or frame_mask.is_floating_point():
            raise ValueError(
                f"`frame_mask` must be bool and {tuple(shape)}, got {frame_mask.dtype}, {tuple(frame_mask.shape)}."
            )
        frame_mask = frame_mask.to(self.device, torch.bool)
        fewest = int(frame_mask.sum(dim=1).min())
        if fewest < self.info.sizes.least_real_frames:
            raise ValueError(
                f"`frame_mask` leaves a clip {fewest} real frame(s), and {self.info.sizes.least_real_frames} are the "
                "least. Give longer clips, or drop them."
            )
        return frame_mask

    def can_generate(self) -> bool:
        """What pipelines ask of a model."""
        return False


class ExportedVideoPipeline(VideoClassificationPipeline):
    """`video-classification` with a graph."""

    def check_model_type(self, supported_models: object) -> None:
        """Whatever has logits will do."""


class ExportedImagePipeline(ImageClassificationPipeline):
    """`image-classification` with a graph."""

    def check_model_type(self, supported_models: object) -> None:
        """Whatever has logits will do."""


def exported_pipeline(
    folder: str | os.PathLike[str], trust_remote_code: bool = False
) -> ExportedVideoPipeline | ExportedImagePipeline:
    """The pipeline of a folder that `export_model` wrote: for videos or for images, as the graph is.

    Raises:
        ExportError, ModuleNotFoundError: as [`ExportedTubeViT.from_pretrained`].
    """
    model: Any = ExportedTubeViT.from_pretrained(folder, trust_remote_code)
    if model.info.image:
        processor = TubeViTImageProcessor.from_pretrained(folder)
        return ExportedImagePipeline(model=model, image_processor=processor, device=model.device)
    video_processor = TubeViTVideoProcessor.from_pretrained(folder)
    return ExportedVideoPipeline(model=model, video_processor=video_processor, device=model.device)
