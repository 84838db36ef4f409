# SPDX-License-Identifier: Apache-2.0
"""A model becomes a graph whose token grids follow the size of the clip, and the graph is held against the model."""

import copy
import logging
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

import torch
from torch.export import Dim
from torch.fx.experimental import _config as symbolic_shapes
from transformers.exporters import (
    DynamoConfig,
    DynamoExporter,
    ExportedModel,
    ExportQuantizer,
    OnnxConfig,
    OnnxExporter,
    OpenVINOConfig,
    OpenVINOExporter,
)

from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import ModelT, TubeViTPreTrainedModel
from ..model.tubes_tubevit import Size, as_size
from .sizes import SizeRange, far_end


EXPORTERS = {
    "onnx": (OnnxExporter, OnnxConfig),
    "openvino": (OpenVINOExporter, OpenVINOConfig),
    "torch": (DynamoExporter, DynamoConfig),
}
# otherwise OpenVINO computes in bfloat16 where the CPU has units for it, three digits instead of seven
RUNTIME_ARGUMENTS: dict[str, dict[str, Any]] = {"openvino": {"config": {"INFERENCE_PRECISION_HINT": "f32"}}}

# of the largest number that the model gives
TOLERANCE = 1e-5
# a sum in another order is off by as much as float32 is off float64, give or take
ROUNDING = 8

Inputs = dict[str, torch.Tensor]


def trace(
    model: TubeViTPreTrainedModel,
    runtime: str,
    sizes: SizeRange,
    image: bool,
    frame_mask: bool,
    quantizer: ExportQuantizer | None = None,
) -> ExportedModel:
    """Makes the graph, for any batch and every size of the range.

    Args:
        model: in evaluation mode.
        runtime: `"onnx"`, `"openvino"` or `"torch"`.
        sizes: that it is for.
        image: takes `(batch, channels, height, width)`, else `(batch, num_frames, channels, height, width)`.
        frame_mask: takes `frame_mask` too.
        quantizer: of the exporter.
    """
    model = with_own_kernels(model)
    inputs = make_inputs(model, size_to_trace(model, sizes), 2, image, frame_mask)
    axes: dict[str, dict[int, Any]] = {
        "pixel_values": dict.fromkeys((0, 2, 3) if image else (0, 1, 3, 4), Dim.AUTO),
        "frame_mask": dict.fromkeys((0, 1), Dim.AUTO),
    }
    exporter, settings = EXPORTERS[runtime]
    hook = model.register_forward_hook(HoldSizes(sizes), with_kwargs=True)
    try:
        # without it, one token along an axis would be another graph than two
        # pyrefly: ignore[missing-attribute]  each of torch's files of settings gets it at import
        with quiet(), symbolic_shapes.patch(backed_size_oblivious=True):
            exported = exporter().export(
                model,
                {**inputs},
                settings(dynamic=True, dynamic_shapes={name: axes[name] for name in inputs}, quantizer=quantizer),
            )
            return exported.to("cpu", **RUNTIME_ARGUMENTS.get(runtime, {}))
    finally:
        hook.remove()


def with_own_kernels(model: ModelT) -> ModelT:
    """The model or, where its tubes share a kernel, a copy that holds what each makes of it."""
    if model.config.tube_kernels == "separate":
        return model
    config = TubeViTConfig.from_dict({**model.config.to_dict(), "tube_kernels": "separate"})
    embeddings = model.base_model.embeddings
    base_kernel = embeddings.base_kernel
    assert base_kernel is not None
    separate = type(model)(config).eval()
    weights = {name: value for name, value in model.state_dict().items() if not name.endswith("base_kernel")}
    prefix = "" if separate.base_model is separate else f"{separate.base_model_prefix}."
    for index, tube in enumerate(embeddings.tubes):
        weights[f"{prefix}embeddings.tubes.{index}.weight"] = tube.resize_kernel(base_kernel).detach()
    separate.load_state_dict(weights)
    return separate.to(model.dtype)


class HoldSizes:
    """A forward hook that makes a graph fail outside of its sizes, where a runtime knows no guards: rows of unequal
    length are put together there. Inside, it adds zero to what the model gives."""

    def __init__(self, sizes: SizeRange):
        self.sizes = sizes

    def __call__(self, module: torch.nn.Module, arguments: tuple[Any, ...], inputs: Inputs, outputs: Any) -> Any:
        pixel_values = inputs["pixel_values"]
        axes = (1, 3, 4) if pixel_values.ndim == 5 else (None, 2, 3)
        zero = torch.zeros((), dtype=torch.int64, device=pixel_values.device)
        for axis, least, most in zip(axes, self.sizes.minimum, self.sizes.maximum):
            if axis is None:
                continue
            places = torch.arange(pixel_values.shape[axis], device=pixel_values.device)
            zero = zero + lowest_of_two(places[:least], torch.arange(least, device=places.device))
            if most is not None:
                torch._check(pixel_values.shape[axis] <= most)
                zero = zero + lowest_of_two(places, torch.arange(most, device=places.device)[: places.shape[0]])
        name = next(iter(outputs))
        outputs[name] = outputs[name] + zero.to(outputs[name].dtype)
        return outputs


def lowest_of_two(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The least number of two rows, which must be of one length."""
    # `torch.stack` is not as strict: runtimes cut a row of both in two halves
    return torch.cat([first[None], second[None]]).min()


def size_to_trace(model: TubeViTPreTrainedModel, sizes: SizeRange) -> Size:
    """A size at which each tube that fits gives two tokens or more along each axis, where the range allows it; its
    lengths differ, so that none is taken for another."""
    tubes = [tube for tube in model.config.resolved_tubes if all(tube.grid(sizes.minimum))]
    wanted = (
        max(far_end(tube)[axis] + tube.stride[axis] for tube in tubes) + extra for axis, extra in enumerate((2, 3, 8))
    )
    return sizes.clamp(as_size(wanted))


def make_inputs(
    model: TubeViTPreTrainedModel, size: Size, batch_size: int, image: bool, frame_mask: bool, seed: int = 0
) -> Inputs:
    """Noise of a size, and if wanted a mask of whole clips."""
    generator = torch.Generator().manual_seed(seed)
    num_frames, height, width = size
    pixel_values = torch.randn(batch_size, num_frames, model.config.num_channels, height, width, generator=generator)
    inputs = {"pixel_values": pixel_values[:, 0] if image else pixel_values}
    if frame_mask:
        inputs["frame_mask"] = torch.ones(batch_size, num_frames, dtype=torch.bool)
    return inputs


@dataclass(frozen=True)
class Check:
    """How one batch fared.

    Args:
        shape: of `pixel_values`.
        difference: the largest between model and graph.
        allowed: what rounding explains.
    """

    shape: list[int]
    difference: float
    allowed: float

    @property
    def agrees(self) -> bool:
        # a NaN does not
        return self.difference <= self.allowed

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def check_graph(
    model: TubeViTPreTrainedModel, run: Callable[..., Any], batches: Iterable[Inputs]
) -> Generator[Check, None, None]:
    """Runs model and graph on each batch. What float32 itself loses against float64 there is allowed eightfold, since
    some models amplify rounding: TOLERANCE of the largest number given, or more."""
    exact = copy.deepcopy(model).double()
    for inputs in batches:
        expected, best = first_output(model(**inputs)), first_output(exact(**to_double(inputs)))
        scale = best.abs().max().item()
        rounding = (expected - best).abs().max().item()
        difference = (first_output(run(**inputs)) - expected).abs().max().item()
        shape = list(inputs["pixel_values"].shape)
        yield Check(shape, difference, max(TOLERANCE * scale, ROUNDING * rounding))


def first_output(outputs: Any) -> torch.Tensor:
    """The logits or, of a model without a head, the tokens."""
    return outputs[0]


def to_double(inputs: Inputs) -> Inputs:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def check_batches(
    model: TubeViTPreTrainedModel, sizes: SizeRange, image: bool, frame_mask: bool
) -> Generator[Inputs, None, None]:
    """Noise of sizes over the range: its least, the model's own, longer, larger, odd and not square, in batches of one
    and more, and padded clips."""
    own = sizes.clamp(model.config.native_size)
    frames, height, width = own
    least = sizes.minimum
    wanted = [
        (own, 1),
        (own, 2),
        (least, 3),
        ((2 * frames, height, width), 1),
        ((frames + frames // 4 + 1, height, width), 1),
        ((least[0] + 1, height + 5, width), 1),
        ((frames, least[1] + 3, width + 9), 2),
        ((least[0], height + height // 3, least[2] + 1), 1),
    ]
    for seed, (size, batch_size) in enumerate(wanted):
        size = sizes.clamp(as_size(size))
        inputs = make_inputs(model, size, batch_size, image, frame_mask, seed)
        if frame_mask:
            # the first clips are whole, the last has as few frames as may be
            inputs["frame_mask"][-1, max(sizes.least_real_frames, size[0] - 1 - seed) :] = False
        yield inputs


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Without what exporters and runtimes say of their own insides."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
