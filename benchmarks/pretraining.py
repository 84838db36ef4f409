# SPDX-License-Identifier: Apache-2.0
"""How do sparse tubes read few filmed videos, beside frames one by one, with and without pre-training?

    tubevit pretrain OTHER_VIDEOS --from VIT --out pretrained
    python benchmarks/pretraining.py VIT VIDEOS --group 'seq(\\d+)' --set 'set(\\d)' --pretrained pretrained

Each row is the recipe for few videos on another reading of the same ViT: eight frames one by one; sparse tubes that
are not trained, of 32 and of 24 frames, with the source's positions read where each tube lies, and with the paper's
sine-cosine; and each TubeViT of `--pretrained`, which must not have seen test videos. Beside them stand logistic
regressions on what the ViT gives of eight frames. Folds, sets and caches are as in `real_videos.py`, with fewer random
clips and views, so that two sets can be compared in an hour or two on two cores. The time of a clip is beside that of
frames, run by turns. `--pair sit stand` adds a table of two classes that are each other's reverse, and `--labelled 5
10` tables of as many training clips of each class, drawn at random. The same command goes on where it was.

A TubeViT that was pre-trained on the training videos of a fold may be tested in that fold only. `--write-folds` links
these videos, `--of-folds` takes one TubeViT for each of the first folds, and all rows are compared there too:

    python benchmarks/pretraining.py VIT VIDEOS --write-folds build/folds
    tubevit pretrain build/folds/0 --from VIT --out pretrained-0
    python benchmarks/pretraining.py VIT VIDEOS --of-folds pretrained-0
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import count_clip, describe_machine, divide, report, time_interleaved
from real_videos import (
    MIRRORED,
    NUM_FOLDS,
    Cached,
    Row,
    Task,
    Videos,
    add_videos,
    make_tasks,
    open_study,
    probe_frames,
    run_task,
    summarise,
)

from tubevit_hf import TubeViTModel, convert_vit
from tubevit_hf.data.splits import path_of
from tubevit_hf.model.number_types_tubevit import has_bfloat16_units
from tubevit_hf.training.few_videos import FEW_VIDEOS, FewVideosRecipe


ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument("--pretrained", nargs="*", default=[], help="folders of TubeViTs with sparse tubes")
    parser.add_argument("--of-folds", nargs="*", default=[], help="folders of TubeViTs, one for each first fold")
    parser.add_argument("--write-folds", type=Path, default=None, help="folder for links to their training videos")
    parser.add_argument("--pair", nargs=2, default=None, help="two classes that are compared by themselves too")
    parser.add_argument("--labelled", nargs="*", type=int, default=[], help="training clips of each class")
    parser.add_argument("--copies", type=int, default=6, help="random clips of each video")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of the random clips")
    parser.add_argument("--rows", default="", help="regular expression: rows to run, by name; default: all")
    parser.add_argument("--folder", type=Path, default=Path("build/pretraining"), help="caches and finished runs")
    arguments = parser.parse_args()
    name = arguments.videos.name
    folder, videos, runs = open_study(arguments, name)
    every = np.arange(len(videos.rows))
    tasks = make_tasks(videos, every)
    if arguments.write_folds:
        write_folds(arguments.videos, videos, tasks[:NUM_FOLDS], arguments.write_folds)
        return

    frames = replace(FEW_VIDEOS, copies=arguments.copies)
    sparse = replace(frames, layout="sparse")
    rows = [
        Row("frames one by one", frames, views=MIRRORED),
        Row("sparse tubes, untrained", sparse, positions="spatial", views=MIRRORED),
        Row("sparse tubes, untrained, 24 frames", replace(sparse, num_frames=24), positions="spatial", views=MIRRORED),
        Row("sparse tubes, untrained, sine-cosine positions", sparse, positions="tube_center", views=MIRRORED),
    ]
    rows += [Row(f"sparse tubes, {Path(it).name}", sparse, source=it, views=MIRRORED) for it in arguments.pretrained]
    rows += [replace(row, name=f"{row.name}, test clips reversed", order="reversed") for row in rows[:2]]

    rows = [row for row in rows if re.search(arguments.rows, row.name)]
    recipes = {name_recipe(row.recipe): row.recipe for row in rows}
    of_classes = {"all classes": every}
    if arguments.pair:
        classes = videos.rows.features["label"].names
        pair = [classes.index(one) for one in arguments.pair]
        of_classes[" against ".join(arguments.pair)] = every[np.isin(videos.rows["label"], pair)]
    tables = {title: make_tasks(videos, chosen) for title, chosen in of_classes.items()}
    for number in arguments.labelled:
        tables[f"{number} training clips of each class"] = [draw_labelled(videos, task, number) for task in tasks]

    costs = runs.get(f"costs of {', '.join(recipes)}", partial(measure_costs, arguments.source, recipes))
    found = []

    def measure(row: Row, seed: int, title: str, tasks: list[Task], key: str | None = None) -> None:
        features = Cached(arguments.source, videos, row, seed, folder)
        results = [
            runs.get(
                f"{row.name} {key or title} {seed} {task.name}", partial(run_task, features, videos, row, task, seed)
            )
            for task in tasks
        ]
        cost = costs[name_recipe(row.recipe)]
        found.append({"classes": title, "what": row.name, "seed": seed, **cost, **summarise(results)})

    for title, chosen in of_classes.items():
        for probe, values in probe_frames(arguments.source, videos, chosen, runs, title).items():
            found.append({"classes": title, "what": probe, "seed": "", **values})
    for row, seed in product(rows, arguments.seeds):
        for title, of_table in tables.items():
            measure(row, seed, title, of_table)
    for task, pretrained in zip(tasks, arguments.of_folds):
        of_fold = Row(f"sparse tubes, {Path(pretrained).name}", sparse, source=pretrained, views=MIRRORED)
        for row, seed in product([*rows, of_fold], arguments.seeds):
            measure(row, seed, f"{task.name} alone", [task], key="all classes")
    title = f"Accuracy (%) on {name}: {len(videos.rows)} videos, {arguments.copies} random clips of each"
    report(f"pretraining_{name}", title, describe_machine(torch.device("cpu")), found)


def write_folds(source: Path, videos: Videos, folds: list[Task], folder: Path) -> None:
    """Links to the training videos of each fold, in a folder that has its number."""
    for number, task in enumerate(folds):
        for row in videos.rows.select(task.train.tolist()):
            link = folder / str(number) / Path(path_of(row)).relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path_of(row)).resolve())


def draw_labelled(videos: Videos, task: Task, number: int) -> Task:
    """A task with so many of its training clips of each class, the same for every row."""
    generator = np.random.default_rng(0)
    labels = np.array(videos.rows["label"])[task.train]
    drawn = [generator.permutation(task.train[labels == label])[:number] for label in np.unique(labels)]
    return task._replace(train=np.sort(np.concatenate(drawn)))


def name_recipe(recipe: FewVideosRecipe) -> str:
    return f"{recipe.layout} {recipe.num_frames or 'of the model'}"


def measure_costs(source: str, recipes: dict[str, FewVideosRecipe]) -> dict[str, dict[str, float]]:
    """Of a clip of each recipe, with all layers that it may read: tokens, GFLOPs and time beside frames."""
    starts = {
        layout: convert_vit(source, layout="frames" if layout == "frames" else "interleaved")[0]
        for layout in ("frames", "sparse")
    }
    reference = name_recipe(FEW_VIDEOS)
    recipes = {reference: FEW_VIDEOS, **recipes}
    models = {name: recipe.start(starts[recipe.layout]) for name, recipe in recipes.items()}
    seconds = time_interleaved(
        {name: run_clip(model.tubevit) for name, model in models.items()}, torch.device("cpu"), ROUNDS
    )
    return {
        name: {
            **count_clip(model.config),
            "time": divide(seconds[name], seconds[reference])["median"],
        }
        for name, model in models.items()
    }


def run_clip(model: TubeViTModel) -> Callable[[], None]:
    clip = torch.randn(1, model.config.num_frames, 3, *model.config.native_size[1:])

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16_units()):
            model(clip)

    return run


if __name__ == "__main__":
    main()
