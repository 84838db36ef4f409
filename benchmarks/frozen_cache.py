# SPDX-License-Identifier: Apache-2.0
"""What does it save to run frozen layers once? An epoch of a TubeViT whose last three layers train, of a ViT-B's size,
from clips and from what the frozen layers gave of them, in turn.

    python benchmarks/frozen_cache.py

Clips are random numbers: decoding, which the cache saves too, is not counted.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import describe_machine, report, summarise, time_interleaved
from datasets import ClassLabel, Dataset, Features, Value
from torch import nn

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset, collate_clips
from tubevit_hf.training import FrozenClips, cache_frozen, frozen_size


class RandomClip:
    def __init__(self, size: tuple[int, int, int]):
        self.size = size

    def __call__(self, video: str) -> torch.Tensor:
        num_frames, height, width = self.size
        return torch.rand(num_frames, 3, height, width)

    def describe(self) -> dict:
        return {"size": self.size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    config = TubeViTConfig.from_preset(
        "B",
        num_frames=8,
        tubes=[{"kernel_size": [1, 16, 16], "stride": [1, 16, 16]}],
        use_cls_token=True,
        joint_layer=9,
        joint_pooling=[2, 2],
        freeze_before=9,
    )
    model = TubeViTForVideoClassification(config).to(device)
    features = Features({"video": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"video": ["none"] * arguments.clips, "label": [0, 1] * (arguments.clips // 2)}, features)
    clips = ClipDataset(rows, RandomClip(config.native_size), copies=1)
    with tempfile.TemporaryDirectory() as folder:
        frozen = cache_frozen(model, clips, Path(folder, "frozen"), batch_size=arguments.batch_size)
        epochs = {
            "from clips": partial(run_epoch, model, clips, arguments.batch_size),
            "from what the frozen layers gave": partial(run_epoch, model, frozen, arguments.batch_size),
        }
        seconds = time_interleaved(epochs, device, arguments.rounds)
    first = seconds["from clips"]
    table = []
    for name, found in seconds.items():
        ratio = summarise([a / b for a, b in zip(first, found)])
        table.append(
            {
                "an epoch": name,
                "times as fast": ratio["median"],
                "from": ratio["min"],
                "to": ratio["max"],
                "MB a clip": 0.0 if name == "from clips" else frozen_size(model, clips) / arguments.clips / 1e6,
            }
        )
    title = "TubeViT-B, 8 frames of 224x224, the last three layers train, float32"
    report(f"frozen_cache_{device.type}", title, describe_machine(device), table)


def run_epoch(model: nn.Module, dataset: ClipDataset | FrozenClips, batch_size: int) -> None:
    model.train()
    for start in range(0, len(dataset), batch_size):
        batch = collate_clips([dataset[index] for index in range(start, min(len(dataset), start + batch_size))])
        loss = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).loss
        loss.backward()
        model.zero_grad()


if __name__ == "__main__":
    main()
