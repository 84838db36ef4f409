# SPDX-License-Identifier: Apache-2.0
"""How good is a TubeViT on few filmed videos that begins with a pretrained image ViT?

    python benchmarks/real_videos.py VIT VIDEOS --group 'seq(\\d+)' --set 'set(\\d)' --without pointing

The videos lie in folders of classes; a group in their names, such as who was filmed, keeps what belongs together on
one side of a split. Measured: folds of groups, and training on each set alone with the test on the other. The recipe
chooses by cross-validation on groups of the training videos, and never sees the others.

What the frozen layers give is computed once for all videos and kept in `--folder`, and so is every result: the same
command goes on where it was.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import RESULTS, Runs, describe_machine, report
from datasets import ClassLabel, Dataset, Features, Value
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModel, set_seed

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForVideoClassification,
    TubeViTModel,
    TubeViTVideoProcessor,
    convert_vit,
    read_video,
)
from tubevit_hf.data import ClipDataset, EvaluationViews, read_groups
from tubevit_hf.data.listing import find_videos
from tubevit_hf.data.splits import path_of
from tubevit_hf.model.modeling_tubevit import TubeViTPreTrainedModel
from tubevit_hf.model.number_types_tubevit import has_bfloat16_units
from tubevit_hf.model.video_decoding_tubevit import VideoSource
from tubevit_hf.training.few_videos import (
    FEW_VIDEOS,
    NUM_FRAMES,
    Choice,
    FewVideosRecipe,
    fit_few_videos,
    list_choices,
    read_features,
)
from tubevit_hf.training.frozen import FrozenClips, cache_frozen


NUM_FOLDS = 5
# a view and its mirror image
MIRRORED = {"num_clips": 1, "num_crops": 1, "mirror": True}
SEEDS = (0, 1, 2)


class Videos(NamedTuple):
    rows: Dataset
    groups: np.ndarray
    sets: np.ndarray


class Task(NamedTuple):
    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: of it.
        recipe: what is fitted.
        copies: how many of the recipe's random clips of each video are used; `None` for all.
        depth: the only of the recipe's depths whose layers may be read, by its place; `None` for all.
        parts: the only parts that may be read; `None` for all.
        random_weights: whether the ViT has random weights instead of its own.
        order: of the frames at test time.
        source: folder of a TubeViT that is read, instead of one that is made of the image ViT.
        positions: of one that is made for sparse tubes, see [`convert_vit`].
        views: of a test video, beside the pipeline's one; `None` for the recipe's.
    """

    name: str
    recipe: FewVideosRecipe = FEW_VIDEOS
    copies: int | None = None
    depth: int | None = None
    parts: tuple[str, ...] | None = None
    random_weights: bool = False
    order: str = "as filmed"
    source: str | None = None
    positions: str | None = None
    views: dict[str, Any] | None = None

    def choices(self, config: TubeViTConfig) -> list[Choice]:
        chosen = {
            replace(choice, parts=self.parts or choice.parts)
            for choice in list_choices(config)
            if self.depth is None or choice.layers == (config.pooling_layers[self.depth],)
        }
        return sorted(chosen, key=str)


ONE_FRAME = replace(FEW_VIDEOS, num_frames=1, pooling_grid=(1, *FEW_VIDEOS.pooling_grid[1:]))
ROWS = (
    Row("the recipe"),
    Row("test clips in reversed order", order="reversed"),
    Row("test clips shuffled", order="shuffled"),
    Row("1 random clip of each video", copies=1),
    Row("10 random clips of each video", copies=10),
    Row("behind half of the layers only", depth=0),
    Row("behind two thirds only", depth=1),
    Row("behind three quarters only", depth=2),
    Row("behind all only", depth=3),
    Row("means over time only", parts=("means",)),
    Row("differences only", parts=("differences",)),
    Row("changes and shares only", parts=("changes", "shares")),
    Row("peaks only", parts=("peaks",)),
    Row("means and differences only", parts=("means", "differences")),
    Row("one frame of each clip", ONE_FRAME, parts=("means",)),
    Row("random weights", random_weights=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument("--without", nargs="*", default=[], help="classes that a second table leaves out")
    parser.add_argument("--folder", type=Path, default=Path("build/real_videos"), help="caches and finished runs")
    parser.add_argument("--name", default=None, help="of the results; default: the videos' folder's")
    arguments = parser.parse_args()
    name = arguments.name or arguments.videos.name
    folder, videos, runs = open_study(arguments, name)

    tables = {"all classes": np.arange(len(videos.rows))}
    if arguments.without:
        labels = np.array([videos.rows.features["label"].int2str(label) for label in videos.rows["label"]])
        kept = np.flatnonzero(~np.isin(labels, arguments.without))
        tables[f"without {', '.join(arguments.without)}"] = kept

    rows = []
    for title, chosen in tables.items():
        for probe, values in probe_frames(arguments.source, videos, chosen, runs, title).items():
            rows.append({"classes": title, "what": probe, "seed": "", **values})
    for row in ROWS:
        for seed in SEEDS if row.name == "the recipe" else SEEDS[:1]:
            features = Cached(arguments.source, videos, row, seed, folder)
            # what is left out is left out of the first table only
            for title, chosen in list(tables.items())[: None if row.name == "the recipe" else 1]:
                results = [
                    runs.get(
                        f"{row.name} {title} {seed} {task.name}", partial(run_task, features, videos, row, task, seed)
                    )
                    for task in make_tasks(videos, chosen)
                ]
                rows.append({"classes": title, "what": row.name, "seed": seed, **summarise(results)})
    title = f"Accuracy (%) on {name}: {len(videos.rows)} videos, {NUM_FOLDS} folds of groups"
    report(f"real_videos_{name}", title, describe_machine(torch.device("cpu")), rows)
    draw(rows, title).savefig(RESULTS / f"real_videos_{name}.png", dpi=120)


def add_videos(parser: argparse.ArgumentParser) -> None:
    """Arguments that say what is measured."""
    parser.add_argument("source", help="folder or repo id of the image ViT")
    parser.add_argument("videos", type=Path, help="folder of folders of classes")
    parser.add_argument("--group", default=r"^(.*)\.", help="regular expression: the group in a file's name")
    parser.add_argument("--set", default=None, help="regular expression: the set in a file's name")


def open_study(arguments: argparse.Namespace, name: str) -> tuple[Path, Videos, Runs]:
    """Folder of the caches and finished runs of some videos, these videos, and the runs."""
    folder = arguments.folder / name
    return folder, find_rows(arguments.videos, arguments.group, arguments.set), Runs(folder / "runs.json")


def find_rows(folder: Path, group: str, of_set: str | None) -> Videos:
    files = find_videos(folder)
    if not files:
        raise SystemExit(f"{folder} holds no videos")
    names = sorted({file.relative_to(folder).parts[0] for file in files})
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    labels = [names.index(file.relative_to(folder).parts[0]) for file in files]
    rows = Dataset.from_dict({"video": list(map(str, files)), "label": labels}, features=features)
    # without a pattern all are of one set
    sets = [""] * len(rows) if of_set is None else read_groups(rows, of_set)
    return Videos(rows, np.array(read_groups(rows, group)), np.array(sets))


def make_tasks(videos: Videos, chosen: np.ndarray) -> list[Task]:
    """Folds that take as many of the groups of each set, in the order of their names; then each set alone."""
    folds = np.zeros(len(videos.rows), dtype=int)
    for name in np.unique(videos.sets):
        groups = np.unique(videos.groups[videos.sets == name])
        for number, part in enumerate(np.array_split(groups, NUM_FOLDS)):
            folds[(videos.sets == name) & np.isin(videos.groups, part)] = number
    tasks = [
        Task(f"fold {number}", chosen[folds[chosen] != number], chosen[folds[chosen] == number])
        for number in range(NUM_FOLDS)
    ]
    names = np.unique(videos.sets)
    if len(names) == 2:
        for train, test in (names, names[::-1]):
            of_set = videos.sets[chosen]
            tasks.append(Task(f"set {train} to {test}", chosen[of_set == train], chosen[of_set == test]))
    return tasks


class OrderedViews(EvaluationViews):
    """Views whose frames come in another order."""

    def __init__(self, order: str, processor: TubeViTVideoProcessor, num_frames: int, **settings: Any):
        super().__init__(processor, num_frames, **settings)
        orders = {
            "as filmed": torch.arange(num_frames),
            "reversed": torch.arange(num_frames).flip(0),
            "shuffled": torch.randperm(num_frames, generator=torch.Generator().manual_seed(0)),
        }
        self.order = orders[order]

    def __call__(self, video: VideoSource) -> torch.Tensor:
        return super().__call__(video)[:, self.order]

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"order": self.order.tolist()}


class Views(ClipDataset):
    """Each view of a video as one of its copies."""

    def __init__(self, rows: Dataset, views: OrderedViews):
        super().__init__(rows, views, copies=views.num_views)

    def get_pixels(self, index: int, epochs: Sequence[int]) -> torch.Tensor:
        return self.load(path_of(self.rows[index]))[list(epochs)]


class Cached:
    """What the frozen layers give of all videos, computed when first asked for."""

    def __init__(self, source: str, videos: Videos, row: Row, seed: int, folder: Path):
        self.source, self.videos, self.row, self.seed = source, videos, row, seed
        recipe = row.recipe
        num_frames = NUM_FRAMES if recipe.num_frames is None else recipe.num_frames
        kind = f"{num_frames}-frames-{'random' if row.random_weights else 'own'}-weights"
        if recipe.layout == "sparse":
            of_model = Path(row.source).name if row.source else row.positions
            kind = f"sparse-{recipe.num_frames or 'own'}-frames-{of_model}"
        self.folder = folder / kind

    @cached_property
    def loaded(self) -> tuple[TubeViTForVideoClassification, FrozenClips, FrozenClips, FrozenClips]:
        """The model, its training clips, views, and the one view that the pipeline sees."""
        recipe, rows = self.row.recipe, self.videos.rows
        set_seed(self.seed)
        model, processor = self.make_model()
        if self.row.random_weights:
            model = type(model)(model.config)
        model = recipe.start(model)
        num_frames = model.config.num_frames
        bf16 = has_bfloat16_units()
        keep = partial(cache_frozen, model, num_workers=1, bf16=bf16)
        copies = recipe.count_copies(len(rows))
        clips = ClipDataset(rows, recipe.training_clip(processor, model.config), seed=self.seed, copies=copies)
        order = self.row.order
        views = {"num_clips": recipe.eval_clips, "num_crops": recipe.eval_crops, "mirror": True}
        several = OrderedViews(order, processor, num_frames, **(self.row.views or views))
        one = OrderedViews(order, processor, num_frames)
        return (
            model,
            keep(clips, folder=self.folder / f"clips-{self.seed}"),
            keep(Views(rows, several), folder=self.folder / f"views {order}"),
            keep(Views(rows, one), folder=self.folder / f"view {order}"),
        )

    def make_model(self) -> tuple[TubeViTPreTrainedModel, TubeViTVideoProcessor]:
        row = self.row
        if row.source is not None:
            return TubeViTModel.from_pretrained(row.source), TubeViTVideoProcessor.from_pretrained(row.source)
        layout = "frames" if row.recipe.layout == "frames" else "interleaved"
        model, conversion = convert_vit(self.source, layout=layout, positions=row.positions)
        num_frames = row.recipe.clip_length(model.config)
        return model, TubeViTVideoProcessor(**conversion.preprocessing, num_frames=num_frames)


def run_task(features: Cached, videos: Videos, row: Row, task: Task, seed: int) -> dict:
    model, clips, views, view = features.loaded
    start = time.perf_counter()
    clips = clips.select(task.train.tolist(), row.copies)
    clips.rows = keep_classes(clips.rows)
    fitted, found = fit_few_videos(model, clips, videos.groups[task.train].tolist(), row.choices(model.config))
    seconds = time.perf_counter() - start
    kept = read_features(model.config, found.chosen)
    names = videos.rows.features["label"].names
    labels = torch.tensor([fitted.config.label2id[names[videos.rows[index]["label"]]] for index in task.test.tolist()])
    validation = found.validations[found.chosen]
    result = {
        "chosen": str(found.chosen),
        "validation": 100 * validation.accuracy,
        "validation loss": validation.loss,
        "strength": validation.strength,
        "seconds": seconds,
        "videos": len(task.test),
    }
    for name, cached in (("one view", view), ("views", views)):
        found_labels = []
        for index in task.test.tolist():
            of_views = torch.stack([cached.get_output(index, copy) for copy in range(cached.copies)])
            logits = fitted(frozen_output=of_views[:, kept]).logits
            found_labels.append(logits.softmax(dim=1).mean(dim=0).argmax())
        result[name] = 100 * (torch.stack(found_labels) == labels).double().mean().item()
    return result


def keep_classes(rows: Dataset) -> Dataset:
    """Without the classes of which no video is left."""
    label = rows.features["label"]
    names = [name for number, name in enumerate(label.names) if number in set(rows["label"])]
    labels = [names.index(label.int2str(number)) for number in rows["label"]]
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"video": rows["video"], "label": labels}, features=features)


def summarise(results: list[dict]) -> dict:
    """Columns of the table, of the results of all tasks: accuracy by the pipeline's one view, and by several."""
    folds, sets = results[:NUM_FOLDS], results[NUM_FOLDS:]
    columns = {}
    for view in ("one view", "views"):
        videos = sum(fold["videos"] for fold in folds)
        columns[f"folds, {view}"] = sum(fold[view] * fold["videos"] for fold in folds) / videos
        for number, result in enumerate(sets):
            columns[f"set {number + 1} to {2 - number}, {view}"] = result[view]
    columns["seconds a fold"] = max(result["seconds"] for result in results)
    return columns


def probe_frames(source: str, videos: Videos, chosen: np.ndarray, runs: Runs, title: str) -> dict[str, dict]:
    """Logistic regressions on what the frozen ViT gives of eight frames in order, each video and its mirror image."""
    found = {}
    labels = np.array(videos.rows["label"])
    for number, name in enumerate(PROBES):

        def run(task: Task, number: int = number) -> dict:
            features = probe_features(source, tuple(map(path_of, videos.rows)))[number]
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=3e-3, max_iter=500))
            probe.fit(features[task.train].reshape(-1, features.shape[-1]), np.repeat(labels[task.train], 2))
            scores = [probe.predict_log_proba(features[task.test, mirrored]) for mirrored in (0, 1)]
            accuracies = [
                100 * float((probe.classes_[score.argmax(axis=1)] == labels[task.test]).mean())
                for score in (scores[0], scores[0] + scores[1])
            ]
            return {"one view": accuracies[0], "views": accuracies[1], "videos": len(task.test), "seconds": 0.0}

        results = [
            runs.get(f"probe {name} {title} {task.name}", partial(run, task)) for task in make_tasks(videos, chosen)
        ]
        found[f"frozen probe: {name}"] = summarise(results)
    return found


PROBES = ("CLS", "last layer, 2x4 regions")


@cache
def probe_features(source: str, files: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """`(videos, 2, features)` for each of `PROBES`."""
    model, processor = AutoModel.from_pretrained(source).eval(), AutoImageProcessor.from_pretrained(source)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    found = []
    for file in tqdm(files, desc="Frozen probes", disable=None):
        frames, _ = read_video(
            file, lambda metadata: [int((k + 0.5) * metadata.total_num_frames / 8) for k in range(8)]
        )
        size = (model.config.image_size,) * 2
        pictures = functional.interpolate(frames.float() / 255, size, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            tokens = model(torch.cat([pictures, pictures.flip(-1)]).sub(mean).div(std)).last_hidden_state
        side = int((tokens.shape[1] - 1) ** 0.5)
        patches = tokens[:, -side * side :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        regions = functional.adaptive_avg_pool2d(patches, (2, 4))
        found.append([tokens[:, 0].reshape(2, -1).numpy(), regions.reshape(2, -1).numpy()])
    return tuple(np.stack([of_file[number] for of_file in found]) for number in range(2))


def draw(rows: list[dict], title: str) -> Figure:
    """A bar for each row of the first table: folds, then the sets."""
    first = [row for row in rows if row["classes"] == rows[0]["classes"]]
    columns = [name for name in first[0] if name.endswith(", views")]
    figure = Figure(figsize=(9, 1.2 + 0.55 * len(first)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(columns)
    for number, column in enumerate(columns):
        places = [place + number * height for place in range(len(first))]
        axes.barh(places, [row[column] for row in first], height, label=column.removesuffix(", views"))
    names = [f"{row['what']}, seed {row['seed']}" if row["what"] == "the recipe" else row["what"] for row in first]
    axes.set_yticks([place + 0.3 for place in range(len(first))], names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="accuracy (%)")
    axes.legend(loc="lower right")
    figure.suptitle(title)
    return figure


if __name__ == "__main__":
    main()
