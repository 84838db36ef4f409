# SPDX-License-Identifier: Apache-2.0
"""What does image-to-video scaling cost, against full fine-tuning?

    python benchmarks/scaling.py

A training step of TubeViT-B, 32x224x224 clips: all of it, and with everything frozen before layer 9 of 12, where a
gate lets the tokens in again (Section 3.6); in turn, in one process. The peak of memory is measured in processes of
their own: how far building the model and two steps raise it (Linux; of the device where it is a GPU). And converting a
ViT-L-sized checkpoint, saving included: its peak, against the size of the checkpoint.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from common import (
    describe_machine,
    in_a_new_process,
    peak_memory,
    report,
    summarise,
    time_interleaved,
    training_step,
)
from transformers import ViTConfig, ViTModel

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, convert_vit, save_converted


GATE_LAYER = 9
SETTINGS = {"full": None, f"gate at {GATE_LAYER}": GATE_LAYER}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    rows = [row for size in arguments.batch_sizes for row in measure_training(size, device, arguments.rounds)]
    report(f"scaling_{device.type}", "A training step of TubeViT-B, 32x224x224", describe_machine(device), rows)

    with tempfile.TemporaryDirectory() as folder:
        size = in_a_new_process(write_large_vit, folder)
        growth = in_a_new_process(memory_of_conversion, folder)
    rows = [{"checkpoint (MiB)": size, "peak of conversion (MiB)": growth, "ratio": growth / size}]
    report("conversion_cpu", "Converting a ViT-L", describe_machine(torch.device("cpu")), rows)


def measure_training(batch_size: int, device: torch.device, rounds: int) -> list[dict]:
    steps = {name: make_step(gate_layer, batch_size, device.type) for name, gate_layer in SETTINGS.items()}
    seconds = time_interleaved(steps, device, rounds)
    memory = {
        name: in_a_new_process(memory_of_training, gate_layer, batch_size, device.type)
        for name, gate_layer in SETTINGS.items()
    }
    rows = []
    for name in SETTINGS:
        ratio = summarise([ours / theirs for ours, theirs in zip(seconds[name], seconds["full"])])
        rows.append(
            {
                "batch": batch_size,
                "training": name,
                "s a step": summarise(seconds[name])["median"],
                "/ full": ratio["median"],
                "min": ratio["min"],
                "max": ratio["max"],
                "peak (MiB)": memory[name],
                "peak / full": memory[name] / memory["full"],
            }
        )
    return rows


def make_step(gate_layer: int | None, batch_size: int, device: str):
    """A function that does one training step, of a model with random weights."""
    config = TubeViTConfig(gate_layer=gate_layer, freeze_before=gate_layer, num_labels=400)
    model = TubeViTForVideoClassification(config).to(device)
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-5)
    return training_step(model, optimizer, torch.randn(batch_size, config.num_frames, 3, 224, 224, device=device))


def memory_of_training(gate_layer: int | None, batch_size: int, device: str) -> float:
    """Peak of the process (or of the GPU) in MiB, weights, gradients and optimizer included."""
    before = peak_memory()
    step = make_step(gate_layer, batch_size, device)
    for _ in range(2):
        step()
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_memory() - before


def write_large_vit(folder: str) -> float:
    """Saves a ViT-L with random weights, and gives its size in MiB."""
    config = ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    ViTModel(config).save_pretrained(Path(folder, "vit"))
    return Path(folder, "vit", "model.safetensors").stat().st_size / 2**20


def memory_of_conversion(folder: str) -> float:
    """MiB by which a conversion raises the peak of this process, once a small one has loaded all that is needed."""
    with tempfile.TemporaryDirectory() as warm_up:
        config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
        ViTModel(config).save_pretrained(Path(warm_up, "vit"))
        save_converted(*convert_vit(Path(warm_up, "vit")), Path(warm_up, "tubevit"))
    Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    before = peak_memory()
    save_converted(*convert_vit(Path(folder, "vit")), Path(folder, "tubevit"))
    return peak_memory() - before


if __name__ == "__main__":
    main()
