# SPDX-License-Identifier: Apache-2.0
"""What do trained tubes give a wider frozen ViT? Section 3.6 with real weights, read on few filmed videos.

    tubevit pretrain OTHER_VIDEOS --from VIT --out small
    python benchmarks/scale_up_filmed.py VIT VIDEOS --small small --group 'seq(\\d+)' --set 'set(\\d)'

The larger ViT is made of VIT here, twice as wide (Net2Net, arXiv 1511.05641): channels and heads are duplicated, and
what reads them is halved, plus noise that has opposite signs for a channel and its duplicate. So it gives the same
logits, which is checked, and it knows no more than VIT. Three TubeViTs have its frozen layers: with the tubes of
`--small`, as `tubevit scale-up` gives them; with tubes of the same places, inflated from the patches; and with random
ones of the same shapes as the first. The recipe for few videos fits a classifier behind layers of each, which ends
before the gate. Folds and sets are as in `real_videos.py`. The same command goes on where it was.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import count_clip, describe_machine, report
from real_videos import MIRRORED, Cached, Row, add_videos, make_tasks, open_study, run_task, summarise
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, set_seed

from tubevit_hf import TubeViTConfig, convert_vit, scale_up
from tubevit_hf.conversion import ConversionReport, save_converted
from tubevit_hf.model.modeling_tubevit import TubeViTPreTrainedModel
from tubevit_hf.training.few_videos import FewVideosRecipe


# of the weights' standard deviation
NOISE = 0.1
# share of the layers before the gate, all frozen
GATE = 3 / 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument("--small", required=True, help="folder of a pretrained TubeViT, whose tubes are taken")
    parser.add_argument("--copies", type=int, default=2, help="random clips of each video")
    parser.add_argument("--folder", type=Path, default=Path("build/scale_up_filmed"), help="models, caches and runs")
    arguments = parser.parse_args()
    name = arguments.videos.name
    folder, videos, runs = open_study(arguments, name)
    wide = folder / "wide"
    difference = runs.get("widen", partial(widen, arguments.source, wide))["difference"]
    print(f"The logits of the widened ViT differ by at most {difference:.1e}.")
    tasks = make_tasks(videos, np.arange(len(videos.rows)))
    recipe = FewVideosRecipe(layout="sparse", copies=arguments.copies)
    rows = []
    for title, build in TUBES.items():
        model = folder / title.replace(" ", "_")
        if not model.exists():
            set_seed(0)
            save_converted(*build(wide, arguments.small), model)
        row = Row(title, recipe, source=str(model), views=MIRRORED)
        features = Cached(arguments.source, videos, row, 0, folder)
        results = [
            runs.get(f"{title} {arguments.copies} {task.name}", partial(run_task, features, videos, row, task, 0))
            for task in tasks
        ]
        costs = count_clip(recipe.make_config(TubeViTConfig.from_pretrained(model)))
        rows.append({"tubes": title, **costs, **summarise(results)})
    title = f"Accuracy (%) on {name}, {arguments.copies} random clips of each video, behind a widened ViT"
    report(f"scale_up_filmed_{name}", title, describe_machine(torch.device("cpu")), rows)


@torch.no_grad()
def widen(source: str, folder: Path) -> dict[str, float]:
    """Saves a ViT of twice the width that computes the same, and gives the largest difference of their logits."""
    narrow = ViTForImageClassification.from_pretrained(source).eval()
    doubled = {
        name: 2 * getattr(narrow.config, name) for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    }
    wide = ViTForImageClassification(ViTConfig(**narrow.config.to_dict() | doubled)).eval()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in narrow.state_dict().items():
        if name == "classifier.bias":
            tensors[name] = tensor
        elif name == "classifier.weight":
            tensors[name] = torch.cat([tensor, tensor], dim=1) / 2
        elif tensor.ndim == 2:
            half = torch.cat([tensor, tensor]) / 2
            noise = NOISE * tensor.std() * torch.randn(half.shape, generator=generator)
            # what reads a channel and its duplicate alike reads no noise
            tensors[name] = torch.cat([half + noise, half - noise], dim=1)
        else:
            # patches have their channels first, CLS and positions last
            axis = 0 if name.endswith("projection.weight") else -1
            tensors[name] = torch.cat([tensor, tensor], dim=axis)
    wide.load_state_dict(tensors)
    pictures = torch.randn(4, 3, narrow.config.image_size, narrow.config.image_size, generator=generator)
    logits = narrow(pictures).logits
    difference = (wide(pictures).logits - logits).abs().max().item()
    if difference > 1e-3 * logits.abs().max().item():
        raise RuntimeError(f"the widened ViT gives other logits: they differ by {difference}")
    wide.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(source).save_pretrained(folder)
    return {"difference": difference}


def taken_tubes(wide: Path, small: str) -> tuple[TubeViTPreTrainedModel, ConversionReport]:
    layers = ViTConfig.from_pretrained(wide).num_hidden_layers
    return scale_up(wide, small, gate_layer=round(GATE * layers), keep_classifier=False)


def inflated_tubes(wide: Path, small: str) -> tuple[TubeViTPreTrainedModel, ConversionReport]:
    # without the space-to-depth of the taken ones, whose kernels make part of a token
    tubes = [{**tube, "space_to_depth": 1, "out_channels": None} for tube in taken_tubes(wide, small)[0].config.tubes]
    return convert_vit(wide, tubes=tubes, positions="spatial", keep_classifier=False)


def random_tubes(wide: Path, small: str) -> tuple[TubeViTPreTrainedModel, ConversionReport]:
    tubes = taken_tubes(wide, small)[0].config.tubes
    return convert_vit(wide, tubes=tubes, new_tubes="random", positions="spatial", keep_classifier=False)


TUBES = {"of the small TubeViT": taken_tubes, "inflated": inflated_tubes, "random": random_tubes}


if __name__ == "__main__":
    main()
