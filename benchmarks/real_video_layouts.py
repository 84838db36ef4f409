# SPDX-License-Identifier: Apache-2.0
"""How should a pretrained image ViT read few filmed videos when it is trained by gradients, at equal seconds?

    python benchmarks/real_video_layouts.py VIT VIDEOS --group 'seq(\\d+)' --set 'set(\\d)'

The layouts of `tubevit convert` with all layers trained and with the last quarter, with and without the paper's gate;
and the shapes of VideoMAE and ViViT with the same ViT in them, their kernels inflated over two frames as ViViT's
authors do. Each trains for `--seconds` of all cores (counted as the process' own time, so that what else the machine
does makes no difference) on the same clips, three random ones of each video that are decoded before,
with MixUp, and is tested with one view of each video. What frozen layers give of these clips is computed before,
uncounted. The same command goes on where it was.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Runs, count_clip, describe_machine, report
from real_videos import Task, Videos, add_videos, find_rows, make_tasks
from torch import nn
from torchvision.transforms import v2
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTModel,
    VivitConfig,
    VivitForVideoClassification,
    set_seed,
)

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor, convert_vit
from tubevit_hf.data import ClipDataset, EvaluationViews, TrainingClip


COPIES = 3
BATCH_SIZE = 8
RATES = {"head": 1e-3, "encoder": 1e-4}
# by the number of frames
DECODED: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


@dataclass(frozen=True)
class Setting:
    """What is trained, and on how many frames."""

    num_frames: int
    layout: str
    new_tubes: str = "inflated"
    freeze: float | None = None  # share of the layers
    gate: bool = False


SETTINGS = {
    "frames, all layers": Setting(8, "frames"),
    "frames, last quarter": Setting(8, "frames", freeze=3 / 4),
    "sparse, inflated, all layers": Setting(32, "sparse"),
    "sparse, random, all layers": Setting(32, "sparse", new_tubes="random"),
    "sparse, inflated, last quarter": Setting(32, "sparse", freeze=3 / 4),
    "sparse, inflated, last quarter and gate": Setting(32, "sparse", freeze=3 / 4, gate=True),
    "sparse, inflated, pooling only": Setting(32, "sparse", freeze=1.0),
    "VideoMAE's shape": Setting(16, "videomae"),
    "ViViT's shape": Setting(16, "vivit"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument("--tasks", nargs="*", default=None, help="which folds and sets; default: all")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--folder", type=Path, default=Path("build/real_video_layouts"), help="finished runs")
    arguments = parser.parse_args()
    name = arguments.videos.name
    videos = find_rows(arguments.videos, arguments.group, arguments.set)
    tasks = make_tasks(videos, np.arange(len(videos.rows)))
    if arguments.tasks:
        tasks = [task for task in tasks if task.name in arguments.tasks]
    runs = Runs(arguments.folder / name / "runs.json")
    rows = []
    for title, setting in SETTINGS.items():
        results = [
            runs.get(
                f"{title} {arguments.seconds} {task.name}",
                partial(train_and_test, arguments.source, videos, setting, task, arguments.seconds),
            )
            for task in tasks
        ]
        row = {"layout": title, "frames": setting.num_frames}
        row |= {key: results[0][key] for key in ("tokens", "GFLOPs")}
        row["epochs"] = float(np.mean([result["epochs"] for result in results]))
        rows.append({**row, **{task.name: result["accuracy"] for task, result in zip(tasks, results)}})
    title = f"Accuracy (%) on {name} after {arguments.seconds:.0f} s of training by gradients, one view"
    report(f"real_video_layouts_{name}", title, describe_machine(torch.device("cpu")), rows)


def train_and_test(source: str, videos: Videos, setting: Setting, task: Task, seconds: float) -> dict:
    set_seed(0)
    labels = torch.tensor(videos.rows["label"])
    num_labels = int(labels.max()) + 1
    model = build(source, setting, num_labels)
    clips, views = decode(source, videos, setting.num_frames)
    frozen = isinstance(model, TubeViTForVideoClassification) and model.config.freeze_before is not None
    inputs, name = clips[task.train].flatten(0, 1), "pixel_values"
    if frozen:
        with torch.autocast("cpu", torch.bfloat16):
            inputs = torch.cat([model.tubevit.encode_frozen(part.float()) for part in inputs.split(BATCH_SIZE)])
        name = "frozen_output"
    steps = train(model, name, inputs, labels[task.train].repeat_interleave(COPIES), num_labels, seconds)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([model(part.float()).logits for part in views[task.test].split(BATCH_SIZE)]).argmax(dim=1)
    result = {"accuracy": 100 * (found == labels[task.test]).double().mean().item()}
    return {**result, "epochs": steps * BATCH_SIZE / len(task.train), **measure(model, setting)}


def train(
    model: nn.Module, name: str, inputs: torch.Tensor, labels: torch.Tensor, num_labels: int, seconds: float
) -> int:
    """Trains for a time of all cores, with a warm-up and a cosine over it; gives the number of steps."""
    model.train()
    groups: dict[str, list[nn.Parameter]] = {"head": [], "encoder": []}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["head" if "pooler" in key or "classifier" in key else "encoder"].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": RATES[kind], "rate": RATES[kind]} for kind, group in groups.items()],
        weight_decay=0.05,
    )
    mix = v2.MixUp(alpha=0.4, num_classes=num_labels)
    start, steps = time.process_time(), 0
    while (done := (time.process_time() - start) / (seconds * torch.get_num_threads())) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(done / 0.1, 0.5 * (1 + math.cos(math.pi * done)))
        batch = torch.randint(len(inputs), (BATCH_SIZE,))
        values = inputs[batch].float()
        mixed, targets = mix(values.flatten(1)[:, None, None], labels[batch])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**{name: mixed.view_as(values)}).logits
        loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps


def decode(source: str, videos: Videos, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random clips `(videos, COPIES, frames, ...)` and one view `(videos, frames, ...)` of each video, in bfloat16."""
    if num_frames in DECODED:
        return DECODED[num_frames]
    _, conversion = convert_vit(source)
    processor = TubeViTVideoProcessor(**conversion.preprocessing, num_frames=num_frames)
    clip = TrainingClip(
        processor, num_frames, random_crop=True, horizontal_flip=True, time_scale=0.7, color_jitter=0.4
    )
    clips = ClipDataset(videos.rows, clip, copies=COPIES)
    view = ClipDataset(videos.rows, EvaluationViews(processor, num_frames))
    found, views = [], []
    for index in tqdm(range(len(videos.rows)), desc=f"clips of {num_frames} frames", disable=None):
        found.append(clips.get_pixels(index, range(COPIES)).bfloat16())
        views.append(view[index]["pixel_values"][0].bfloat16())
    DECODED[num_frames] = torch.stack(found), torch.stack(views)
    return DECODED[num_frames]


def build(source: str, setting: Setting, num_labels: int) -> PreTrainedModel:
    if setting.layout in BUILDERS:
        return BUILDERS[setting.layout](source, setting.num_frames, num_labels)
    converted, _ = convert_vit(
        source, layout=setting.layout, new_tubes=setting.new_tubes, num_frames=setting.num_frames
    )
    layers = converted.config.num_hidden_layers
    before = None if setting.freeze is None else round(setting.freeze * layers)
    settings = converted.config.to_dict() | {
        "id2label": {number: str(number) for number in range(num_labels)},
        "label2id": {str(number): number for number in range(num_labels)},
        "pooling_type": "attention",
        "freeze_before": before,
        "gate_layer": before if setting.gate else None,
    }
    model = TubeViTForVideoClassification(TubeViTConfig(**settings))
    state = converted.base_model.state_dict()
    missing, unexpected = model.tubevit.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.startswith("pooler.") or key.endswith(".gate") for key in missing)
    return model


def build_videomae(source: str, num_frames: int, num_labels: int) -> PreTrainedModel:
    vit = ViTModel.from_pretrained(source)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**sizes(vit, num_frames, num_labels)))
    kernel = vit.embeddings.patch_embeddings.projection.weight
    renamed = {
        "attention.q_proj.weight": "attention.attention.query.weight",
        "attention.q_proj.bias": "attention.attention.query.bias",
        # a bias of the keys makes no difference, and VideoMAE has none
        "attention.k_proj.weight": "attention.attention.key.weight",
        "attention.v_proj.weight": "attention.attention.value.weight",
        "attention.v_proj.bias": "attention.attention.value.bias",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    tensors = {
        "videomae.embeddings.patch_embeddings.projection.weight": inflate(kernel),
        "videomae.embeddings.patch_embeddings.projection.bias": vit.embeddings.patch_embeddings.projection.bias,
        "fc_norm.weight": vit.layernorm.weight,
        "fc_norm.bias": vit.layernorm.bias,
    }
    for key, tensor in vit.state_dict().items():
        if key.startswith("layers.") and not key.endswith("k_proj.bias"):
            number, rest = key.removeprefix("layers.").split(".", 1)
            for old, new in renamed.items():
                rest = new + rest.removeprefix(old) if rest.startswith(old) else rest
            tensors[f"videomae.encoder.layer.{number}.{rest}"] = tensor
    load_all_but(model, tensors, "classifier.")
    # the source's positions, the same at every time, instead of sine-cosine
    steps = num_frames // 2
    model.videomae.embeddings.position_embeddings = (
        vit.embeddings.position_embeddings[:, 1:].detach().repeat(1, steps, 1)
    )
    return model


def build_vivit(source: str, num_frames: int, num_labels: int) -> PreTrainedModel:
    vit = ViTModel.from_pretrained(source)
    model = VivitForVideoClassification(
        VivitConfig(**sizes(vit, num_frames, num_labels), tubelet_size=[2, 16, 16], hidden_act="gelu")
    )
    tensors = {f"vivit.{key}": tensor for key, tensor in vit.state_dict().items() if not key.startswith("pooler.")}
    kernel = "vivit.embeddings.patch_embeddings.projection.weight"
    tensors[kernel] = inflate(tensors[kernel])
    table = tensors["vivit.embeddings.position_embeddings"]
    repeated = table[:, 1:].repeat(1, num_frames // 2, 1)
    tensors["vivit.embeddings.position_embeddings"] = torch.cat([table[:, :1], repeated], dim=1)
    load_all_but(model, tensors, "classifier.")
    return model


BUILDERS: dict[str, Callable[[str, int, int], PreTrainedModel]] = {"videomae": build_videomae, "vivit": build_vivit}


def sizes(vit: ViTModel, num_frames: int, num_labels: int) -> dict:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size")
    settings = {name: getattr(vit.config, name) for name in names}
    return {
        **settings,
        "num_frames": num_frames,
        "num_labels": num_labels,
        "layer_norm_eps": vit.config.layer_norm_eps,
    }


def inflate(kernel: torch.Tensor) -> torch.Tensor:
    """`(hidden_size, channels, h, w) -> (hidden_size, channels, 2, h, w)`: the mean of two frames."""
    return kernel.detach()[:, :, None].repeat(1, 1, 2, 1, 1) / 2


def load_all_but(model: nn.Module, tensors: dict[str, torch.Tensor], new: str) -> None:
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    assert all(key.startswith(new) for key in missing), missing


@torch.no_grad()
def measure(model: PreTrainedModel, setting: Setting) -> dict:
    """Tokens of the first layer, and operations of a clip's forward pass."""
    config = model.config
    if isinstance(config, TubeViTConfig):
        return count_clip(config)
    tokens = setting.num_frames // 2 * (config.image_size // 16) ** 2 + (setting.layout == "vivit")
    # an encoder of as many tokens costs the same in any of these models; the kernels are a thousandth of it
    width = config.hidden_size
    layer = tokens * (4 * width**2 + 2 * width * config.intermediate_size) + 2 * tokens**2 * width
    return {"tokens": tokens, "GFLOPs": 2 * config.num_hidden_layers * layer / 1e9}


if __name__ == "__main__":
    main()
