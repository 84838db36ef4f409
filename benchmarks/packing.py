# SPDX-License-Identifier: Apache-2.0
"""What does padding cost? Training steps on batches of clips of 8 to 64 frames, in turn: each batch padded to its
longest clip with a `frame_mask`, packed into one row of tokens, and packed with a mask over the whole row.

    python benchmarks/packing.py

Real tokens are those of the clips; padding counts as none. All three ways give the same loss, which is checked. Clips
are random numbers, of random lengths.
"""

import argparse
import random
from copy import deepcopy

import torch
from common import describe_machine, report, summarise, time_interleaved
from torch import nn
from transformers.masking_utils import create_bidirectional_mask, packed_sequence_mask_function

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.data import collate_clips, pack_clips
from tubevit_hf.model import packing_tubevit


SHORTEST, LONGEST = 8, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="Ti")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rng = random.Random(0)

    config = TubeViTConfig.from_preset(arguments.preset, num_frames=LONGEST, image_size=arguments.image_size)
    model = TubeViTForVideoClassification(config).to(device).train()
    masked = TubeViTForVideoClassification(deepcopy(config)).to(device).train()
    masked.load_state_dict(model.state_dict())
    keep_apart = packing_tubevit.keep_apart

    def mask_one_model(config: TubeViTConfig, row: torch.Tensor, lengths: list[int]):
        return (
            (mask_of_clips(config, row, lengths), {}) if config is masked.config else keep_apart(config, row, lengths)
        )

    packing_tubevit.keep_apart = mask_one_model

    seconds: dict[str, list[float]] = {}
    real, padded = [], []
    for number in range(arguments.batches):
        lengths = [rng.randint(SHORTEST, LONGEST) for _ in range(arguments.batch_size)]
        clips = [make_clip(length, arguments.image_size) for length in lengths]
        steps = {
            "padded": make_step(model, collate_clips(clips)),
            "packed": make_step(model, pack_clips(clips)),
            "packed, one mask": make_step(masked, pack_clips(clips)),
        }
        if number == 0:
            check_losses([step() for step in steps.values()])
        for name, found in time_interleaved(steps, device, 1, warm_up=int(number == 0)).items():
            seconds.setdefault(name, []).extend(found)
        counts = [config.num_tokens(length, arguments.image_size, arguments.image_size) for length in lengths]
        real.append(sum(counts))
        padded.append(len(counts) * max(counts))

    rows = []
    for name, found in seconds.items():
        ratios = summarise([before / now for before, now in zip(seconds["padded"], found)])
        rows.append(
            {
                "clips are": name,
                "real tokens a second": sum(real) / sum(found),
                "times as many": sum(seconds["padded"]) / sum(found),
                "of a batch, median": ratios["median"],
                "from": ratios["min"],
                "to": ratios["max"],
                "tokens in all / real": sum(padded) / sum(real) if name == "padded" else 1.0,
            }
        )
    title = (
        f"Training TubeViT-{arguments.preset}, {arguments.batches} batches of {arguments.batch_size} clips of "
        f"{SHORTEST} to {LONGEST} frames of {arguments.image_size}x{arguments.image_size}, float32"
    )
    report(f"packing_{device.type}", title, describe_machine(device), rows)


def make_clip(num_frames: int, image_size: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(num_frames, 3, image_size, image_size), "labels": torch.tensor(0)}


def make_step(model: nn.Module, batch: dict):
    """Forward and backward pass of a batch, which gives its loss."""
    on_device = {
        name: [clip.to(model.device) for clip in value] if isinstance(value, list) else value.to(model.device)
        for name, value in batch.items()
    }

    def step() -> float:
        loss = model(**on_device).loss
        loss.backward()
        model.zero_grad()
        return loss.item()

    return step


def mask_of_clips(config: TubeViTConfig, row: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """A block for each clip, by transformers' own mask of packed sequences."""
    clip_of = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None].to(row.device)
    same_clip = packed_sequence_mask_function(clip_of)
    return create_bidirectional_mask(config, row, None, and_mask_function=same_clip)


def check_losses(losses: list[float]) -> None:
    if max(losses) - min(losses) > 1e-5:
        raise SystemExit(f"the losses differ: {losses}")


if __name__ == "__main__":
    main()
