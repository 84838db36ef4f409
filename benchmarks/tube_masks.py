# SPDX-License-Identifier: Apache-2.0
"""Do masks leak? Which share of the pixels of the tokens to predict do visible tokens see?

    python benchmarks/tube_masks.py

Random tokens, as masked autoencoders choose them, against cuboids (`draw_tube_mask`), for the paper's tubes, which
overlap, and for tubes side by side. Each number is a mean over draws. No video is read: it is geometry.
"""

import argparse
import statistics

import torch
from common import describe_machine, report
from tqdm.auto import tqdm

from tubevit_hf import TubeViTConfig
from tubevit_hf.model.tubes_tubevit import Size, Tube
from tubevit_hf.training.tube_masks import TubeMask, draw_tube_mask, measure_leak


# patches of single frames, and tubes of 4 and of 8 frames, each in places of its own
SIDE_BY_SIDE = [
    {"kernel_size": [1, 16, 16], "stride": [8, 32, 32], "offset": [3, 0, 0]},
    {"kernel_size": [4, 16, 16], "stride": [8, 32, 32], "offset": [2, 16, 16]},
    {"kernel_size": [8, 16, 16], "stride": [8, 32, 32], "offset": [0, 16, 0]},
]
RATIOS = (0.5, 0.75, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for layout, tubes in {"Table 12": None, "side by side": SIDE_BY_SIDE}.items():
        config = TubeViTConfig.from_preset("Ti", tubes=tubes)
        for ratio in tqdm(RATIOS, layout):
            for kind, draw in {"random tokens": draw_tokens, "cuboids": draw_tube_mask}.items():
                masks = [
                    draw(config.resolved_tubes, config.native_size, ratio, generator) for _ in range(arguments.draws)
                ]
                leaks = [
                    measure_leak(config.resolved_tubes, config.native_size, mask.visible, mask.target)
                    for mask in masks
                ]
                rows.append(
                    {
                        "tubes": layout,
                        "mask": kind,
                        "ratio": ratio,
                        "leak": statistics.mean(leaks),
                        "largest leak": max(leaks),
                        "visible tokens": statistics.mean(len(mask.visible) for mask in masks),
                        "target tokens": statistics.mean(len(mask.target) for mask in masks),
                        "of tokens": config.num_tokens(),
                    }
                )
    title = f"Share of the target tokens' pixels that visible tokens see, {arguments.draws} masks of 32x224x224"
    report("tube_masks_cpu", title, describe_machine(torch.device("cpu")), rows)


def draw_tokens(tubes: tuple[Tube, ...], size: Size, ratio: float, generator: torch.Generator) -> TubeMask:
    """Hides a share of the tokens, each as likely as any other."""
    num_tokens = TubeViTConfig.from_preset("Ti", tubes=[tube.to_dict() for tube in tubes]).num_tokens(*size)
    order = torch.randperm(num_tokens, generator=generator)
    num_visible = round(num_tokens * (1 - ratio))
    return TubeMask(order[:num_visible], order[num_visible:], ratio)


if __name__ == "__main__":
    main()
