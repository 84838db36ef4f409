# SPDX-License-Identifier: Apache-2.0
"""Is gathering the tubes' pixels and one matrix product faster than conv3d?

    python benchmarks/tokenizer.py --batch_size 8

Both give the tokens of TubeViT-B's tubes (Table 12) for 32x224x224 clips, in turn, and are first checked against each
other. `of matmul` is the share of the machine's own rate at a large square matrix product that the gathering reaches;
what is missing goes into moving pixels.
"""

import argparse

import torch
from common import describe_machine, report, summarise, time_interleaved
from torch import nn

from tubevit_hf import TubeViTConfig, TubeViTModel
from tubevit_hf.evaluation.complexity import count_flops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        config = TubeViTConfig(num_hidden_layers=1)
        embeddings = TubeViTModel(config).embeddings.to(device, dtype)
        pixel_values = torch.randn(arguments.batch_size, *clip_shape(config), device=device, dtype=dtype)
        channels_first = pixel_values.transpose(1, 2).contiguous()
        grids = config.token_grids()
        side = 4096 if device.type == "cuda" else 1024
        square = torch.randn(side, side, device=device, dtype=dtype)

        def gather(embeddings=embeddings, pixel_values=pixel_values):
            return [tube(pixel_values) for tube in embeddings.tubes]

        def convolve(embeddings=embeddings, channels_first=channels_first, grids=grids):
            return [conv3d_tokens(tube, channels_first, grid) for tube, grid in zip(embeddings.tubes, grids)]

        with torch.no_grad():
            for ours, theirs in zip(gather(), convolve()):
                torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)
            functions = {"gather": gather, "conv3d": convolve, "matmul": lambda square=square: square @ square}
            seconds = time_interleaved(functions, device, arguments.rounds)
        ratios = [slow / fast for slow, fast in zip(seconds["conv3d"], seconds["gather"])]
        rate = count_flops(config)["tubes"] * arguments.batch_size / summarise(seconds["gather"])["median"]
        limit = 2 * len(square) ** 3 / summarise(seconds["matmul"])["median"]
        rows.append(
            {
                "dtype": str(dtype).removeprefix("torch."),
                "batch": arguments.batch_size,
                "gather (ms)": 1e3 * summarise(seconds["gather"])["median"],
                "conv3d (ms)": 1e3 * summarise(seconds["conv3d"])["median"],
                "conv3d / gather": summarise(ratios)["median"],
                "min": summarise(ratios)["min"],
                "max": summarise(ratios)["max"],
                "of matmul": rate / limit,
            }
        )
    name = f"tokenizer_{device.type}"
    report(name, "Tokens of 32x224x224 clips, TubeViT-B", describe_machine(device), rows)


def clip_shape(config: TubeViTConfig) -> tuple[int, ...]:
    num_frames, height, width = config.native_size
    return (num_frames, config.num_channels, height, width)


def conv3d_tokens(embedding: nn.Module, channels_first: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The same tokens by a convolution: `(batch, channels, frames, height, width) -> (batch, tokens, hidden_size)`."""
    tube = embedding.tube
    frames, rows, columns = (slice(start, None) for start in tube.offset)
    outputs = nn.functional.conv3d(
        channels_first[:, :, frames, rows, columns], embedding.weight, embedding.bias, stride=tube.kernel_stride
    )
    factors = tube.space_to_depth
    # (batch, out_channels, t * ft, h * fh, w * fw) -> (batch, tokens, neighbours * out_channels)
    outputs = outputs[:, :, : grid[0] * factors[0], : grid[1] * factors[1], : grid[2] * factors[2]]
    outputs = outputs.unflatten(4, (grid[2], -1)).unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))
    return outputs.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)[..., : embedding.hidden_size]


if __name__ == "__main__":
    main()
