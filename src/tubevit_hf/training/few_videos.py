# SPDX-License-Identifier: Apache-2.0
"""The recipe for few videos: a hundred clips of one's own, a pretrained image ViT, minutes on a laptop.

Each of eight frames goes through the ViT by itself, which stays as it is. Behind half of its layers and further on the
tokens are read by regions of space and time: what stands still, what changes, how, and how much at most anywhere. A
linear classifier on that is fitted in closed form to many random clips of each video; which layers and which of these
parts it reads, and how strongly it is held back, is chosen by cross-validation on the training videos. Layers behind
the last one that it reads are dropped.

The layout "sparse" gives the ViT sparse tubes of a longer clip in place of frames, all tokens together, and reads the
tokens of each tube in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from datasets import Dataset

from ..data import TrainingClip, get_names, is_multi_label
from ..evaluation.complexity import count_flops
from ..model.configuration_tubevit import TubeViTConfig
from ..model.modeling_tubevit import TubeViTForVideoClassification, TubeViTPreTrainedModel
from ..model.video_processing_tubevit import TubeViTVideoProcessor
from . import ridge
from .frozen import FrozenClips


# which tokens of a video the frozen layers see: frames one by one, or the tokens of all tubes together
Layout = Literal["frames", "sparse"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
# both are fitted, and the better one is kept
AUTO = "auto"
# of a clip in the layout frames
NUM_FRAMES = 8

# clips that cross-validation looks at, and those that the classifier is fitted to: the time for n of them grows as n^3
VALIDATION_CLIPS = 1_000
MAX_CLIPS = 6_000
MAX_VIDEOS = 3_000

# of the parts in the sum of products: means can be the place alone, and changes are few beside differences
WEIGHTS = {"means": 0.3, "changes": 1.5, "shares": 1.5, "differences": 1.0, "peaks": 3.0, "signed": 1.5}
# which of them may be read. Peaks are for what happens small and anywhere in a wide view, and signed changes tell a
# motion from its reverse; both cost a little elsewhere
MOVING = (
    ("differences",),
    ("changes", "shares", "differences"),
    ("means", "changes", "shares", "differences"),
    ("changes", "shares", "differences", "peaks"),
    ("means", "changes", "shares", "differences", "peaks"),
    ("changes", "shares", "differences", "signed"),
    ("means", "changes", "shares", "differences", "signed"),
)
STILL = ("means",)


@dataclass(frozen=True)
class FewVideosRecipe:
    """Settings of the recipe.

    Args:
        num_frames: of a clip, spread over all of a video; by default 8 in the layout `"frames"`, and the model's in
            the layout `"sparse"`.
        depths: shares of the encoder's layers, behind which tokens may be read.
        pooling_grid: regions of time, height and width; of time no more than the steps of the finest sparse tube.
        copies: random clips of each video, at most.
        crop_scale, time_scale, color_jitter, horizontal_flip: of these, see [`TrainingClip`].
        eval_clips, eval_crops, eval_mirror: views that are averaged, see [`EvaluationViews`].
        layout: `"frames"`, the tube that sees a single frame, each frame by itself; or `"sparse"`, all of the model's
            tubes together.
    """

    num_frames: int | None = None
    depths: tuple[float, ...] = (1 / 2, 2 / 3, 3 / 4, 1)
    pooling_grid: tuple[int, int, int] = (8, 3, 3)
    copies: int = 30
    crop_scale: tuple[float, float] = (0.4, 1.0)
    time_scale: float = 0.7
    color_jitter: float = 0.4
    horizontal_flip: bool = True
    eval_clips: int = 2
    eval_crops: int = 3
    eval_mirror: bool = True
    layout: Layout = "frames"

    def count_copies(self, num_videos: int) -> int:
        """As many random clips of each video as the closed form takes of so many."""
        return max(1, min(self.copies, MAX_CLIPS // max(1, num_videos)))

    def clip_arguments(self) -> dict[str, Any]:
        """What the recipe says of clips, by the names of the example's arguments."""
        return {
            "num_frames": self.num_frames,
            "crop_scale": self.crop_scale[0],
            "time_scale": self.time_scale,
            "color_jitter": self.color_jitter,
            "horizontal_flip": self.horizontal_flip,
            "eval_clips": self.eval_clips,
            "eval_crops": self.eval_crops,
            "eval_mirror": self.eval_mirror,
        }

    def clip_length(self, config: TubeViTConfig) -> int:
        """Frames of a clip for a TubeViT.

        Raises:
            ValueError: the TubeViT is of this recipe already, and was fitted to clips of another length.
        """
        if config.pooling_type != "grid":
            by_default = NUM_FRAMES if self.layout == "frames" else config.num_frames
            return by_default if self.num_frames is None else self.num_frames
        if self.num_frames not in (None, config.num_frames):
            raise ValueError(
                f"The model was fitted to clips of {config.num_frames} frames, and cannot be fitted to clips of "
                f"{self.num_frames}. Leave out `num_frames`, or start from the model that it was made of."
            )
        return config.num_frames

    def make_config(self, config: TubeViTConfig) -> TubeViTConfig:
        """Configuration of the model that is fitted, of a TubeViT's: its first layers and the tubes of the layout.

        Raises:
            ValueError: the TubeViT has no such tubes, none that fits such clips, or was fitted to clips of another
                length.
        """
        check_layout(config, self.layout)
        num_frames = self.clip_length(config)
        settings = config.to_dict()
        if config.pooling_type == "grid":
            # of this recipe already
            return TubeViTConfig(**settings)
        steps, rows, columns = self.pooling_grid
        if self.layout == "frames":
            patch = next(tube for tube in config.resolved_tubes if tube.sees_one_frame)
            tube = replace(patch, stride=(1, *patch.stride[1:]), offset=(0, *patch.offset[1:]))
            settings |= {"tubes": [tube.to_dict()], "gate_layer": None}
        else:
            grids = config.token_grids(num_frames)
            if not any(all(grid) for tube, grid in zip(config.resolved_tubes, grids) if not tube.sees_one_frame):
                raise ValueError(
                    f"A clip of {num_frames} frame(s) is too short for the model's tubes over several, which the "
                    "layout sparse reads. Give more `num_frames`, or choose the layout frames."
                )
            # more regions of time than steps would repeat them
            steps = min(steps, max(grid[0] for grid in grids))
        numbers = sorted({max(1, round(depth * config.num_hidden_layers)) for depth in self.depths})
        settings |= {
            "num_frames": num_frames,
            "joint_layer": numbers[-1] if self.layout == "frames" else 0,
            "joint_pooling": [1, 1],
            "pooling_type": "grid",
            "pooling_grid": [steps, rows, columns],
            "pooling_statistics": list(WEIGHTS),
            # of a checkpoint that was training without labels
            "pretraining": None,
        }
        return TubeViTConfig(**settings | read_layers(settings, numbers))

    def start(self, source: TubeViTPreTrainedModel) -> TubeViTForVideoClassification:
        """A model with the weights of a TubeViT as far as it reads them, whose head is to be fitted.

        Raises:
            ValueError: as `make_config`, or the TubeViT has learned positions for other clips.
        """
        old = source.base_model
        config = self.make_config(old.config)
        model = TubeViTForVideoClassification(config)
        names: dict[str, str] = {}
        if self.layout == "frames":
            # of several tubes one is left
            patch = next(index for index, tube in enumerate(old.config.resolved_tubes) if tube.sees_one_frame)
            names = {f"embeddings.{part}.{patch}": f"embeddings.{part}.0" for part in ("tubes", "position_embeddings")}
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in old.state_dict().items():
            begin = next((before for before in names if name == before or name.startswith(f"{before}.")), None)
            tensors[name if begin is None else names[begin] + name.removeprefix(begin)] = tensor
        wanted = model.tubevit.state_dict()
        for name, parameter in wanted.items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise ValueError(
                    f"the model's `position_embedding_type` {old.config.position_embedding_type!r} does not go with "
                    f"clips of {config.num_frames} frames: {name} cannot be taken over."
                )
        model.tubevit.load_state_dict({name: tensors[name] for name in wanted})
        return model.eval()

    def training_clip(self, processor: TubeViTVideoProcessor, config: TubeViTConfig) -> TrainingClip:
        """Random clips for a TubeViT, or for the model that `start` made of it."""
        return TrainingClip(
            processor,
            self.clip_length(config),
            random_crop=True,
            crop_scale=self.crop_scale,
            time_scale=self.time_scale,
            color_jitter=self.color_jitter,
            horizontal_flip=self.horizontal_flip,
        )


def find_layouts(config: TubeViTConfig) -> tuple[Layout, ...]:
    """The layouts in which the recipe can read a TubeViT. First comes the one that it reads by default: frames, if one
    of the tubes reads whole frames."""
    if config.pooling_type == "grid":
        # of this recipe already
        return ("frames",) if config.joint_layer > 0 else ("sparse",)
    single = [tube for tube in config.resolved_tubes if tube.sees_one_frame]
    found: list[Layout] = ["frames"] if single else []
    if len(single) < len(config.resolved_tubes):
        whole = any(all(step <= size for step, size in zip(tube.stride[1:], tube.extent[1:])) for tube in single)
        found.insert(1 if whole else 0, "sparse")
    return tuple(found)


def settle_layouts(config: TubeViTConfig, layout: str | None) -> tuple[Layout, ...]:
    """The layouts in which a TubeViT is to be fitted.

    Args:
        layout: that is asked for, `"auto"` for all, or `None` for the one by default, see `find_layouts`.

    Raises:
        ValueError: the recipe cannot read it in one of them.
    """
    if layout is None:
        return find_layouts(config)[:1]
    # pyrefly: ignore[bad-assignment]  `check_layout` knows whether it is one
    layouts: tuple[Layout, ...] = LAYOUTS if layout == AUTO else (layout,)
    for one in layouts:
        check_layout(config, one)
    return layouts


def check_layout(config: TubeViTConfig, layout: Layout) -> None:
    """Raises a `ValueError` if the recipe cannot read a TubeViT in a layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    if layout in find_layouts(config):
        return
    if config.pooling_type == "grid":
        raise ValueError(
            f"The model was fitted in the layout {find_layouts(config)[0]}, and cannot be read in the layout "
            f"{layout}. Start from the model that it was made of."
        )
    if layout == "frames":
        raise ValueError(
            "None of the model's tubes sees a single frame, as an image ViT's patches do; the layout frames reads "
            "such. Start from an image ViT, by `tubevit convert`, or choose the layout sparse."
        )
    raise ValueError(
        "All of the model's tubes see a single frame; the layout sparse reads tubes over several. Start from an image "
        "ViT, which gets such tubes, or choose the layout frames."
    )


def read_layers(settings: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Settings of a frozen model that ends with the last of the layers that are read."""
    last, gate_layer = numbers[-1], settings["gate_layer"]
    return {
        "num_hidden_layers": last,
        "joint_layer": last if settings["joint_layer"] else 0,
        "freeze_before": last,
        "gate_layer": gate_layer if gate_layer is not None and gate_layer < last else None,
        "pooling_layers": list(numbers),
    }


@dataclass(frozen=True)
class Choice:
    """What of the features is read: behind which layers, and which parts, see [`TubeViTConfig.pooling_parts`]."""

    layers: tuple[int, ...]
    parts: tuple[str, ...]

    def __str__(self) -> str:
        return f"layers {'+'.join(map(str, self.layers))}, {'+'.join(self.parts)}"


@dataclass(frozen=True)
class LayoutResult:
    """What a layout is worth, by held-out training videos, and what it costs.

    Args:
        accuracy, loss: of the best choice, see [`ridge.Validation`].
        tokens: of a clip.
        flops: floating-point operations of a clip in the fitted model.
    """

    accuracy: float
    loss: float
    tokens: int
    flops: int

    @property
    def cost(self) -> str:
        return f"{self.tokens:,} tokens and {self.flops / 1e9:.3g} GFLOPs a clip"


@dataclass
class FewVideosReport:
    """How the choices did in cross-validation on the training videos.

    Args:
        chosen: the best by log loss, of those that read what changes over time.
        validations: of all choices.
        notes: what a user should know.
        layout: of the fitted model.
        layouts: of all layouts that were compared, if there were several.
    """

    chosen: Choice
    validations: dict[Choice, ridge.Validation]
    notes: list[str] = field(default_factory=list)
    layout: Layout = "frames"
    layouts: dict[Layout, LayoutResult] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "chosen": str(self.chosen),
            "choices": {str(choice): vars(found) for choice, found in self.validations.items()},
            "notes": self.notes,
            **self.describe_layouts(),
        }

    def describe_layouts(self) -> dict[str, Any]:
        return {"layout": self.layout, "layouts": {layout: vars(found) for layout, found in self.layouts.items()}}


def fit_few_videos(
    model: TubeViTForVideoClassification,
    frozen: FrozenClips,
    groups: Sequence[str] | None = None,
    choices: Sequence[Choice] | None = None,
    class_weights: Sequence[float] | None = None,
) -> tuple[TubeViTForVideoClassification, FewVideosReport]:
    """Fits the classifier of a model that [`FewVideosRecipe.start`] made.

    Args:
        model: whose frozen layers gave what is fitted.
        frozen: the training videos, by [`cache_frozen`].
        groups: of each video, such as who or where it was filmed: videos of one group are held out together. By
            default each by itself.
        choices: what may be read of the features; by default all that `list_choices` gives.
        class_weights: how much an error in a video of each class counts, up to a factor; by default all alike.

    Returns:
        The fitted model, without the layers that are not read; and the report.

    Raises:
        ValueError: too few videos or groups to choose anything, too many for a closed form, videos with several
            labels, or a model that lacks the statistics that are read by default.
    """
    labels, numbers = check_videos(frozen.rows, frozen.copies, groups)
    num_labels = len(get_names(frozen.rows))
    blocks = feature_blocks(model.config)
    weights = feature_weights(model.config)
    choices = list_choices(model.config) if choices is None else choices
    importance = torch.ones(len(labels)) if class_weights is None else torch.tensor(class_weights)[labels]
    importance = importance / importance.mean()

    # which choice: a few copies of each video will do
    copies = max(1, min(VALIDATION_CLIPS // len(labels), frozen.copies))
    read = reader(frozen, copies)
    videos = torch.arange(len(labels)).repeat_interleave(copies)
    standardization = ridge.standardize(read, importance[videos], weights)
    names = list(blocks)
    products = dict(zip(names, ridge.products(read, len(videos), standardization, [[blocks[n]] for n in names])))
    validations = {
        choice: ridge.cross_validate(sum_products(products, choice), videos, labels, numbers, importance, num_labels)
        for choice in choices
    }
    # what stands still can be the place alone: those who are held out stood there too, and in another it says nothing
    moving = [choice for choice in choices if choice.parts != STILL] or choices
    chosen = min(moving, key=lambda choice: validations[choice].loss)
    [layout] = find_layouts(model.config)
    report = FewVideosReport(chosen, validations, notes_on(chosen, validations, num_labels), layout)

    # and then all of them
    read = reader(frozen, frozen.copies)
    videos = torch.arange(len(labels)).repeat_interleave(frozen.copies)
    standardization = ridge.standardize(read, importance[videos], weights)
    which = [blocks[name] for name in names if name[0] in chosen.layers and name[1] in chosen.parts]
    [product] = ridge.products(read, len(videos), standardization, [which])
    counts = importance[videos]
    weight, bias = ridge.fit(read, product, standardization, labels[videos], counts, num_labels, validations[chosen])
    unread = torch.ones(weight.shape[1], dtype=torch.bool)
    for block in which:
        unread[block] = False
    bias = bias + weight[:, unread] @ standardization.mean[unread]
    weight[:, unread] = 0
    return put_together(model, chosen, get_names(frozen.rows), weight, bias), report


def choose_layout(
    fitted: Mapping[Layout, tuple[TubeViTForVideoClassification, FewVideosReport]],
) -> tuple[TubeViTForVideoClassification, FewVideosReport]:
    """Of models that were fitted to the same videos in one or several layouts, the one with the lowest log loss of
    held-out training videos. Its report tells of all."""
    results: dict[Layout, LayoutResult] = {}
    for layout, (model, report) in fitted.items():
        found = report.validations[report.chosen]
        flops = sum(count_flops(model.config).values())
        results[layout] = LayoutResult(found.accuracy, found.loss, model.config.num_tokens(), flops)
    chosen = min(results, key=lambda layout: results[layout].loss)
    model, report = fitted[chosen]
    if len(results) == 1:
        return model, replace(report, notes=[*report.notes, f"Layout {chosen}: {results[chosen].cost}."])
    notes = [
        f"Layout {layout}: {result.accuracy:.1%} of the held-out training videos right, log loss {result.loss:.3f}; "
        f"{result.cost}."
        for layout, result in results.items()
    ]
    notes.append(f"The layout {chosen} is kept, whose log loss is the lowest.")
    return model, replace(report, layouts=results, notes=[*report.notes, *notes])


def check_videos(rows: Dataset, copies: int, groups: Sequence[str] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and groups as numbers; raises as [`fit_few_videos`]."""
    if is_multi_label(rows):
        raise ValueError("The recipe for few videos is for one label a video; these have several.")
    labels = torch.tensor(rows["label"])
    for label, name in enumerate(get_names(rows)):
        if (count := int((labels == label).sum())) < 2:
            raise ValueError(
                f"The class {name!r} has {count} training video(s), and two are the least to learn from and to check "
                "with. Add some, or remove the class."
            )
    if len(labels) > MAX_VIDEOS:
        raise ValueError(
            f"{len(labels)} training videos are too many for the closed form, which takes {MAX_VIDEOS}; with as many, "
            "training by gradients does well."
        )
    if (num_clips := len(labels) * copies) > MAX_CLIPS:
        raise ValueError(
            f"{len(labels)} videos times {copies} copies are {num_clips} clips; the closed form takes {MAX_CLIPS}. "
            f"Ask for {MAX_CLIPS // len(labels)} copies or fewer."
        )
    if groups is None:
        return labels, torch.arange(len(labels))
    if len(groups) != len(labels):
        raise ValueError(f"`groups` must name one for each of the {len(labels)} videos, got {len(groups)}.")
    known = sorted(set(groups))
    if len(known) < 2:
        raise ValueError(
            f"All training videos are of one group, {known[0]!r}, and nothing can be held out. Give groups that tell "
            "videos apart, or none."
        )
    return labels, torch.tensor([known.index(group) for group in groups])


def feature_blocks(config: TubeViTConfig) -> dict[tuple[int, str], slice]:
    """Where the parts of each layer's features lie."""
    blocks: dict[tuple[int, str], slice] = {}
    start = 0
    for layer in config.layers_read:
        for part, length in config.pooling_parts.items():
            blocks[layer, part] = slice(start, start + length)
            start += length
    return blocks


def feature_weights(config: TubeViTConfig) -> torch.Tensor:
    """How much each feature weighs: parts as `WEIGHTS` says, whatever their length."""
    weights = torch.zeros(config.pooled_size)
    for (_, part), block in feature_blocks(config).items():
        weights[block] = WEIGHTS[part] / max(1, block.stop - block.start)
    return weights


def list_choices(config: TubeViTConfig) -> list[Choice]:
    """What the recipe may read of a model's features.

    Raises:
        ValueError: the model lacks the statistics of all choices that read what changes.
    """
    # models of earlier versions have no signed changes
    possible = [parts for parts in (*MOVING, STILL) if config.pooling_parts.keys() >= set(parts)]
    if possible in ([], [STILL]):
        raise ValueError(
            f"The model's `pooling_statistics` are {', '.join(config.pooling_parts)}, and the recipe for few videos "
            f"reads {' or '.join('+'.join(parts) for parts in MOVING)}. Start from a model with all statistics of one "
            "of these, such as one that `tubevit convert` makes, or give `fit_few_videos` its `choices`."
        )
    layers = config.layers_read
    return [
        # layers that follow each other
        Choice(tuple(layers[first:last]), parts)
        for first in range(len(layers))
        for last in range(first + 1, len(layers) + 1)
        for parts in possible
    ]


def sum_products(products: dict[tuple[int, str], torch.Tensor], choice: Choice) -> torch.Tensor:
    total = sum(products[layer, part] for layer in choice.layers for part in choice.parts)
    assert isinstance(total, torch.Tensor)
    return total


def reader(frozen: FrozenClips, copies: int) -> ridge.ReadFeatures:
    def read(samples: torch.Tensor) -> torch.Tensor:
        return torch.stack([frozen.get_output(*divmod(sample, copies)) for sample in samples.tolist()])

    return read


def notes_on(chosen: Choice, validations: dict[Choice, ridge.Validation], num_labels: int) -> list[str]:
    notes = [
        f"Held-out training videos: {validations[chosen].accuracy:.1%} right with {chosen}; chance is about "
        f"{1 / num_labels:.1%}."
    ]
    still = max((found.accuracy for choice, found in validations.items() if choice.parts == STILL), default=None)
    moving = max((found.accuracy for choice, found in validations.items() if choice.parts != STILL), default=None)
    if still is None or moving is None:
        return notes
    if still >= moving:
        notes.append(
            f"What stands still in a video does as well ({still:.1%}) as what changes ({moving:.1%}): an image model "
            "on single frames may be all that these classes need."
        )
    else:
        notes.append(f"Without what changes over time it would be {still:.1%}: motion matters here.")
    return notes


def read_features(config: TubeViTConfig, chosen: Choice) -> torch.Tensor:
    """Which of the features are read by a choice of layers, all parts of each."""
    blocks = feature_blocks(config)
    features = torch.arange(config.pooled_size)
    return torch.cat([features[block] for (layer, _), block in blocks.items() if layer in chosen.layers])


def put_together(
    model: TubeViTForVideoClassification,
    chosen: Choice,
    labels: Sequence[str],
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> TubeViTForVideoClassification:
    """The model with the chosen layers only, and its classifier."""
    settings = model.config.to_dict()
    settings |= read_layers(settings, chosen.layers) | {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    smaller = TubeViTForVideoClassification(TubeViTConfig(**settings)).to(device=model.device, dtype=model.dtype)
    state = model.tubevit.state_dict()
    smaller.tubevit.load_state_dict({name: state[name] for name in smaller.tubevit.state_dict()})
    smaller.classifier.load_state_dict({"weight": weight[:, read_features(model.config, chosen)], "bias": bias})
    return smaller.eval()


FEW_VIDEOS = FewVideosRecipe()

__all__ = [
    "FEW_VIDEOS",
    "Choice",
    "FewVideosRecipe",
    "FewVideosReport",
    "check_videos",
    "fit_few_videos",
]
