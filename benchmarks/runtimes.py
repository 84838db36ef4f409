# SPDX-License-Identifier: Apache-2.0
"""What do other runtimes and int8 gain on a CPU, and what does it cost on real videos?

    make demo
    python benchmarks/runtimes.py demo/tubevit demo/moving_digits/validation --name digits

Exports a trained model with `tubevit_hf.export`, for ONNX Runtime and OpenVINO, in float32 and int8, and runs eager
PyTorch and the graphs in turn on a clip of the videos. Accuracy is that of all videos that calibrated nothing, the
same for all rows; their folders are called as their classes. `eager / it` above 1 is faster than eager float32.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from common import describe_machine, report, summarise, time_interleaved
from tqdm import tqdm

from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.commands.export import read_clips
from tubevit_hf.export import ExportedTubeViT, export_model
from tubevit_hf.export.quantization import split_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a trained classifier")
    parser.add_argument("videos", type=Path, help="folder of videos, LABEL/*")
    parser.add_argument("--name", required=True, help="of the table")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()

    model = TubeViTForVideoClassification.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = TubeViTVideoProcessor.from_pretrained(arguments.model)
    clips = read_clips(arguments.videos, model, processor, images=False)
    _, judges = split_clips(clips, calibrates=True)
    run = {"eager float32": model}
    with tempfile.TemporaryDirectory() as folder:
        for runtime in ("onnx", "openvino"):
            for int8 in (False, True):
                name = f"{runtime} {'int8' if int8 else 'float32'}"
                out = Path(folder, name)
                settings = {"int8": int8, "clips": clips, "max_loss": 100.0}
                export_model(model, processor, out, runtime, **settings)
                run[name] = ExportedTubeViT.from_pretrained(out)
        with torch.no_grad():
            inputs = clips[0].inputs
            functions = {name: lambda called=called: called(**inputs) for name, called in run.items()}
            seconds = time_interleaved(functions, torch.device("cpu"), arguments.rounds, warm_up=3)
            rows = [describe(name, called, judges, seconds) for name, called in run.items()]
    title = f"{len(judges)} videos of {arguments.videos.name}, {arguments.name}"
    report(f"runtimes_{arguments.name}", title, describe_machine(torch.device("cpu")), rows)


def describe(name: str, called, judges: list, seconds: dict[str, list[float]]) -> dict:
    correct = sum(
        int(called(**clip.inputs).logits[0].argmax()) == clip.label for clip in tqdm(judges, desc=name, disable=None)
    )
    gain = summarise([eager / its for eager, its in zip(seconds["eager float32"], seconds[name])])
    return {
        "runtime": name,
        "ms": 1e3 * summarise(seconds[name])["median"],
        "eager / it": gain["median"],
        "min": gain["min"],
        "max": gain["max"],
        "accuracy (%)": 100 * correct / len(judges),
    }


if __name__ == "__main__":
    main()
