# SPDX-License-Identifier: Apache-2.0
"""The graphs that `torch.compile` makes of forward passes and training steps under bfloat16 autocast: their number, a
fused attention for every layer, and nothing that CUDA graphs refuse."""

from collections.abc import Callable

import pytest
import torch
import transformers.masking_utils
from functorch.compile import make_boxed_func
from packaging.version import Version
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._inductor.utils import get_first_incompatible_cudagraph_node
from torch.fx import GraphModule, Node

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification

from ..support.modeling_cases import POOLING, TUBES, build, mask_of, random_clip
from ..support.tolerances import assert_close


# clips of 158, 276 and 438 tokens: no other dimension of the models is as long
SIZES = [(9, 43, 57), (11, 47, 60), (12, 59, 73)]
# the kind of the labels is said: a loss that infers it notes it, and the first graph would be compiled again
BASE = {"tubes": TUBES["plain"], "problem_type": "single_label_classification"}
GATE = {"gate_layer": 1, "use_layer_scale": True}
PREFIX = POOLING["cls_with_registers"]
JOINT = {"joint_layer": 1, "joint_pooling": [2, 2], **POOLING["cls"]}

# attention that is not fused
IN_FULL = {"aten.bmm", "aten.baddbmm", "aten._softmax", "aten._safe_softmax", "aten._softmax_backward_data"}
# what makes the host wait for the device, or copies to it
HOST = {"aten._local_scalar_dense", "aten.lift_fresh_copy", "aten.nonzero", "prims.device_put"}


class Captured:
    """A backend of `torch.compile` that keeps the graphs after autograd and runs them as they are."""

    def __init__(self) -> None:
        self.forward: list[GraphModule] = []
        self.backward: list[GraphModule] = []
        self.backend = aot_autograd(
            fw_compiler=self.keep_in(self.forward),
            inference_compiler=self.keep_in(self.forward),
            bw_compiler=self.keep_in(self.backward),
        )

    @staticmethod
    def keep_in(graphs: list[GraphModule]) -> Callable:
        def keep(graph: GraphModule, example_inputs: object) -> Callable:
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        return keep


def make(**settings) -> TubeViTForVideoClassification:
    return build(dtype=torch.float32, **{**BASE, **settings})


def clip_of(size: tuple[int, int, int], batch: int = 2) -> dict[str, torch.Tensor]:
    return {"pixel_values": random_clip(size, batch=batch, dtype=torch.float32), "labels": torch.arange(batch) % 3}


def run(model: Callable, training: bool, device: str = "cpu", **inputs: torch.Tensor) -> torch.Tensor:
    """A training step without its optimizer, or a forward pass; the loss, or the logits."""
    inputs = {name: value.to(device) for name, value in inputs.items()}
    with torch.set_grad_enabled(training), torch.autocast("cpu" if device == "meta" else device, torch.bfloat16):
        outputs = model(**inputs)
    if not training:
        return outputs.logits
    outputs.loss.backward()
    return outputs.loss.detach()


def capture(
    model: TubeViTForVideoClassification, training: bool, device: str = "cpu", **inputs: torch.Tensor
) -> Captured:
    captured = Captured()
    compiled = torch.compile(model.train(training), fullgraph=True, dynamic=False, backend=captured.backend)
    run(compiled, training, device, **inputs)
    assert (len(captured.forward), len(captured.backward)) == (1, int(training))
    return captured


def name_of(node: Node) -> str:
    return str(node.target).rsplit(".", 1)[0]


def tensors(value: object) -> list[torch.Tensor]:
    """The tensors, without their numbers, that come of a node or of an argument that is none."""
    found = value.meta.get("val") if isinstance(value, Node) else value
    parts = found if isinstance(found, (tuple, list)) else [found]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def attentions(graph: GraphModule, backward: bool = False) -> list[Node]:
    """The calls of a fused attention, whichever kernel it is."""
    fused = [node for node in graph.graph.nodes if "scaled_dot_product" in name_of(node)]
    return [node for node in fused if name_of(node).endswith("_backward") == backward]


def masks_of(graph: GraphModule) -> list[torch.Tensor]:
    """The masks of the fused attentions that have one: by position or by name, as the kernel takes it."""
    arguments = [[*node.args[3:], *node.kwargs.values()] for node in attentions(graph)]
    return [tensor for of_node in arguments for part in of_node for tensor in tensors(part) if tensor.ndim == 4]


def check_attention(captured: Captured, config: TubeViTConfig, num_tokens: int, masked: bool = False) -> None:
    """Every layer and the attention pooling have a fused attention in bfloat16; nothing is as large as the products of
    queries and keys, but for a mask."""
    expected = config.num_hidden_layers + (config.pooling_type == "attention")
    (forward,) = captured.forward
    lengths = set()
    for graphs, backward in ((captured.forward, False), (captured.backward, True)):
        for graph in graphs:
            fused = attentions(graph, backward)
            assert len(fused) == expected
            # of a backward pass the gradient comes before them
            inputs = [tensor for node in fused for part in node.args[: 3 + backward] for tensor in tensors(part)]
            assert {tensor.dtype for tensor in inputs} == {torch.bfloat16}
            lengths |= {tensor.shape[-2] for tensor in inputs} - {1}
    if config.joint_layer == 0:
        assert lengths == {num_tokens}
    for graph in captured.forward + captured.backward:
        for node in graph.graph.nodes:
            assert name_of(node) not in IN_FULL, f"attention in full: {node.format_node()}"
            large = [tensor for tensor in tensors(node) if tensor.ndim > 1 and set(tensor.shape[-2:]) <= lengths]
            assert masked or not large, f"tokens x tokens: {node.format_node()}"
    assert masked or not masks_of(forward)


@pytest.mark.parametrize(
    ("training", "settings"),
    [(False, {}), (True, {}), (True, GATE | PREFIX), (True, JOINT)],
    ids=["forward", "step", "gate and prefix", "joint"],
)
def test_attention_is_fused_and_in_bfloat16(training, settings, fresh_compiler):
    model = make(**settings)
    captured = capture(model, training, **clip_of(SIZES[0]))
    check_attention(captured, model.config, model.config.num_tokens(*SIZES[0]))


def test_attention_of_images_is_fused(fresh_compiler):
    model = make()
    inputs = clip_of(SIZES[2])
    captured = capture(model, True, **inputs | {"pixel_values": inputs["pixel_values"][:, 0]})
    check_attention(captured, model.config, model.config.num_tokens(1, *SIZES[2][1:]))


@pytest.mark.parametrize("settings", [{}, JOINT], ids=["attention", "joint"])
def test_attention_of_padded_clips_is_fused(settings, fresh_compiler):
    """Kernels of GPUs refuse a mask that is expanded along its last axis, and attention is computed in full."""
    model = make(**settings)
    frames = SIZES[0][0]
    captured = capture(model, True, frame_mask=mask_of([frames, frames - 2], frames), **clip_of(SIZES[0]))
    check_attention(captured, model.config, model.config.num_tokens(*SIZES[0]), masked=True)
    assert {mask.stride(-1) for mask in masks_of(captured.forward[0])} == {1}


def test_clips_without_padding_have_no_mask(fresh_compiler, monkeypatch):
    """Before 2.14 PyTorch says of each graph that it compiles that it is exported (pytorch/pytorch#176347), and there
    transformers makes a mask of nothing but True. It is expanded along its last axis: a GPU then computes attention
    in full, and in float32."""
    monkeypatch.setattr(transformers.masking_utils, "is_torchdynamo_exporting", lambda: True)
    model = make()
    captured = capture(model, False, **clip_of(SIZES[0]))
    check_attention(captured, model.config, model.config.num_tokens(*SIZES[0]))


@pytest.mark.parametrize(("training", "settings"), [(False, GATE), (True, JOINT)], ids=["forward", "joint step"])
def test_one_graph_for_each_size(training, settings, fresh_compiler):
    model = make(**settings).train(training)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    counters.clear()
    for number, size in enumerate(SIZES[:2], start=1):
        run(compiled, training, **clip_of(size))
        assert counter.frame_count == number
    # no graph depends on what an eager pass keeps for the next
    for size in (SIZES[2], SIZES[0]):
        run(model, training, **clip_of(size))
    for size in (SIZES[1], SIZES[0]):
        run(compiled, training, **clip_of(size))
    assert counter.frame_count == 2
    assert not counters["graph_break"]


def test_the_graph_of_a_second_size_serves_others(fresh_compiler):
    """By itself `torch.compile` makes a graph for the first size and, when another comes, one for all."""
    model = make().train()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    counters.clear()
    for batch, size in ((2, SIZES[0]), (3, SIZES[1]), (4, SIZES[2]), (2, SIZES[0])):
        run(compiled, True, **clip_of(size, batch))
    # older ones compile a few sizes anew, see `test_one_graph_serves_all_sizes`
    assert counter.frame_count == 2 or Version(torch.__version__) < Version("2.14")
    assert not counters["graph_break"]


@pytest.mark.parametrize(
    ("training", "settings"),
    [(False, {}), (True, GATE | PREFIX), (True, JOINT)],
    ids=["forward", "step", "joint step"],
)
@pytest.mark.filterwarnings("ignore:aten..nll_loss")
def test_nothing_in_the_way_of_cuda_graphs(training, settings, fresh_compiler):
    """Checks what Inductor asks of a graph before it records it. On the meta device whatever is on the CPU shows."""
    captured = capture(make(**settings).to("meta"), training, "meta", **clip_of(SIZES[0]))
    for graph in captured.forward + captured.backward:
        assert get_first_incompatible_cudagraph_node(graph) is None
        for node in graph.graph.nodes:
            assert {tensor.device.type for tensor in tensors(node)} <= {"meta"}, f"on the host: {node.format_node()}"
            assert node.op != "get_attr" and name_of(node) not in HOST, f"from the host: {node.format_node()}"
            schema = getattr(node.target, "_schema", None)
            assert schema is None or not schema.is_mutable, f"changes its input: {node.format_node()}"
        (outputs,) = graph.graph.find_nodes(op="output")
        assert all(isinstance(part, Node) or part is None for part in outputs.args[0])


@pytest.mark.parametrize("training", [False, True], ids=["forward", "step"])
def test_cuda_graphs_equal_eager(cuda, training, fresh_compiler):
    """`mode="reduce-overhead"` warms up in its first call, records in the second and replays from the third."""
    model = make(hidden_size=64, std=0.1, **GATE).to(cuda).train(training)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, mode="reduce-overhead")
    counters.clear()
    for size in 3 * SIZES[:2]:
        found = []
        for called in (model, compiled):
            model.zero_grad()
            torch.compiler.cudagraph_mark_step_begin()
            output = run(called, training, "cuda", **clip_of(size)).clone()
            parameters = model.named_parameters()
            found.append(
                {name: each.grad.clone() for name, each in parameters if each.grad is not None} | {"": output}
            )
        expected, graph = found
        assert graph.keys() == expected.keys()
        for name in expected:
            assert_close(graph[name].float(), expected[name].float(), "bfloat16", name)
    assert counters["inductor"]["cudagraph_skips"] == 0


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_a_compiled_step_is_fused_on_a_gpu(cuda, masked, fresh_compiler):
    """Which kernel takes an attention is chosen while a graph is traced, by the GPU and the mask's strides."""
    model = make(hidden_size=64).to(cuda)
    frames = SIZES[0][0]
    inputs = {"frame_mask": mask_of([frames, frames - 2], frames)} if masked else {}
    captured = capture(model, True, "cuda", **inputs, **clip_of(SIZES[0]))
    check_attention(captured, model.config, model.config.num_tokens(*SIZES[0]), masked)
