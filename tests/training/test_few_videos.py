# SPDX-License-Identifier: Apache-2.0
"""The recipe for few videos: its closed form against scikit-learn, what it chooses, and whole runs by the example."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict, List
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from transformers import TrainingArguments, pipeline

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTModel, convert_vit, save_converted
from tubevit_hf.conversion.tubes import interleaved_tubes
from tubevit_hf.data import ClipDataset, load_folder, read_groups
from tubevit_hf.data.annotations import AnnotationError
from tubevit_hf.data.moving_digits import write_video
from tubevit_hf.evaluation import count_flops
from tubevit_hf.training import FEW_VIDEOS, cache_frozen, check_videos, fit_few_videos, ridge
from tubevit_hf.training.arguments import ChangeArguments, ClipArguments
from tubevit_hf.training.few_videos import (
    STILL,
    Choice,
    FewVideosReport,
    choose_layout,
    feature_blocks,
    feature_weights,
    find_layouts,
    list_choices,
    read_features,
    settle_layouts,
)
from tubevit_hf.training.few_videos import WEIGHTS as PART_WEIGHTS
from tubevit_hf.training.runs import fit_small, list_ignored, small_recipe, start_small

from ..conversion.test_conversion import TRANSFORMERS
from ..support.conversion_cases import random_source
from ..support.tiny import rows_of, tiny_config, tiny_video_processor, vit_classifier
from .test_training_runs import QUIET, run


SMALL = replace(FEW_VIDEOS, copies=3, pooling_grid=(4, 2, 2))
SPARSE = replace(SMALL, layout="sparse")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory) -> Path:
    """Videos of a light square that moves right or left from where chance will have it, in front of noise that stands
    still: no single frame tells which."""
    folder = tmp_path_factory.mktemp("few") / "blobs"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 6)):
        for name, step in (("left", -1), ("right", 1)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                frames = np.repeat(rng.integers(0, 60, (1, 32, 32, 3), dtype=np.uint8), 16, axis=0)
                row, column = rng.integers(4, 20, 2)
                for time in range(16):
                    place = (column + step * 2 * time) % 28
                    frames[time, row : row + 8, place : place + 6] = 230
                write_video(folder / split / name / f"actor{number % 4}_{number}.mp4", frames, frames_per_second=10)
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    torch.manual_seed(0)
    vit_classifier().save_pretrained(folder / "vit")
    save_converted(*convert_vit(folder / "vit"), folder / "tubevit")
    return folder / "tubevit"


@pytest.fixture(scope="module")
def with_tubes(tmp_path_factory) -> Path:
    """A ViT with tubes of one, four and eight frames."""
    folder = tmp_path_factory.mktemp("few")
    torch.manual_seed(0)
    vit_classifier().save_pretrained(folder / "vit")
    save_converted(*convert_vit(folder / "vit", tubes=interleaved_tubes((8, 8)), num_frames=16), folder / "tubevit")
    return folder / "tubevit"


# The closed form


# of features that weigh unlike
WEIGHTS = torch.linspace(0.2, 3, 17)


def random_samples() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of three copies of ten videos, which video each is of, and labels."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(17, generator=generator) * 3 + 0.1
    features = torch.randn(30, 17, generator=generator) * scales + 5 * torch.randn(17, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 1])
    return features, torch.arange(10).repeat_interleave(3), labels


def test_ridge_is_scikit_learns(monkeypatch):
    monkeypatch.setattr(ridge, "CHUNK", 7)
    features, videos, labels = random_samples()
    standardization = ridge.standardize(features.__getitem__, torch.ones(30), WEIGHTS)
    [product] = ridge.products(features.__getitem__, 30, standardization, [[slice(0, 17)]])
    scaled = StandardScaler().fit_transform(features.double().numpy()) * np.sqrt(WEIGHTS.numpy())
    np.testing.assert_allclose(product.numpy(), scaled @ scaled.T, atol=1e-4)

    validation = ridge.Validation(accuracy=0.0, strength=0.3, temperature=0.25, loss=0.0)
    weight, bias = ridge.fit(
        features.__getitem__, product, standardization, labels[videos], torch.ones(30), 3, validation
    )
    targets = np.eye(3)[labels[videos]]
    expected = Ridge(alpha=0.3 * np.mean(np.diag(scaled @ scaled.T))).fit(scaled, targets).predict(scaled)
    found = (features @ weight.T + bias) * 0.25
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_weighted_ridge_is_scikit_learns():
    """Samples that count unlike: a class' errors by its weight."""
    features, videos, labels = random_samples()
    importance = torch.tensor([0.4, 2.0, 1.2])[labels[videos]]
    importance = importance / importance.mean()
    counts = importance.double().numpy()
    standardization = ridge.standardize(features.__getitem__, importance, WEIGHTS)
    [product] = ridge.products(features.__getitem__, 30, standardization, [[slice(0, 17)]])
    scaled = StandardScaler().fit(features.double().numpy(), sample_weight=counts).transform(features.double().numpy())
    scaled = scaled * np.sqrt(WEIGHTS.numpy())
    np.testing.assert_allclose(product.numpy(), scaled @ scaled.T, atol=1e-4)

    validation = ridge.Validation(accuracy=0.0, strength=0.3, temperature=0.25, loss=0.0)
    weight, bias = ridge.fit(features.__getitem__, product, standardization, labels[videos], importance, 3, validation)
    alpha = 0.3 * np.mean(counts * np.sum(scaled**2, axis=1))
    expected = Ridge(alpha=alpha).fit(scaled, np.eye(3)[labels[videos]], sample_weight=counts).predict(scaled)
    found = (features @ weight.T + bias) * 0.25
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_sample_that_counts_twice_is_as_two(monkeypatch):
    """Also where strength and temperature are chosen."""
    features, videos, labels = random_samples()
    twice = labels == 1
    groups = torch.arange(10)
    found = []
    for importance, repeats in ((1.0 + twice, 1), (torch.ones(10), 2)):
        index = torch.cat([torch.arange(30), torch.arange(30)[twice[videos]]]) if repeats == 2 else torch.arange(30)
        read = features[index].__getitem__
        counts = importance[videos[index]]
        counts = counts / counts.mean()
        standardization = ridge.standardize(read, counts, WEIGHTS)
        [product] = ridge.products(read, len(index), standardization, [[slice(0, 17)]])
        # a sum of more errors is held back by as much more
        strength = 0.3 * len(index) / 30
        validation = ridge.Validation(accuracy=0.0, strength=strength, temperature=1.0, loss=0.0)
        found.append(ridge.fit(read, product, standardization, labels[videos[index]], counts, 3, validation))
        if repeats == 1:
            chosen = ridge.cross_validate(product, videos, labels, groups, importance, 3)
            right = chosen.accuracy * float(importance.sum())
            assert right == pytest.approx(round(right), abs=1e-4)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_products_of_parts_add_up():
    features, _, _ = random_samples()
    standardization = ridge.standardize(features.__getitem__, torch.ones(30), WEIGHTS)
    parts = [[slice(0, 5)], [slice(9, 17), slice(5, 6)], [slice(0, 6), slice(9, 17)]]
    first, second, both = ridge.products(features.__getitem__, 30, standardization, parts)
    torch.testing.assert_close(first + second, both, rtol=1e-4, atol=1e-4)


def test_cross_validation_holds_groups_out():
    """In plain loops: each group's scores are of a classifier that saw none of it."""
    features, videos, labels = random_samples()
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    standardization = ridge.standardize(features.__getitem__, torch.ones(30), WEIGHTS)
    [product] = ridge.products(features.__getitem__, 30, standardization, [[slice(0, 17)]])
    found = ridge.cross_validate(product, videos, labels, groups, torch.ones(10), 3)

    scaled = ((features - standardization.mean) / standardization.scale).double().numpy()
    alone = {}
    for strength in ridge.STRENGTHS:
        scores = np.zeros((30, 3))
        for group in range(3):
            test = np.isin(videos, np.flatnonzero(groups == group))
            targets = np.eye(3)[labels[videos]]
            # through the origin of what all samples are centred by
            mean = targets[~test].mean(axis=0)
            penalty = strength * np.mean(np.sum(scaled[~test] ** 2, axis=1))
            fitted = Ridge(alpha=penalty, fit_intercept=False).fit(scaled[~test], targets[~test] - mean)
            scores[test] = fitted.predict(scaled[test]) + mean
        losses = []
        for temperature in ridge.TEMPERATURES.tolist():
            logits = scores / temperature
            log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            losses.append(-np.mean(log_probabilities[np.arange(30), labels[videos]]))
        alone[strength] = min(losses)
    assert found.strength == min(alone, key=alone.get)
    assert found.loss == pytest.approx(alone[found.strength], rel=1e-4)


# What it is fitted to


def test_the_model_reads_frames_and_keeps_their_layers(vit):
    source, _ = convert_vit(vit, layout="sparse")
    model = SMALL.start(source)
    config = model.config
    assert config.native_size == (8, 32, 32)
    assert (config.num_hidden_layers, config.joint_layer, config.pooling_layers) == (2, 2, [1, 2])
    assert config.pooled_size == 2 * ((4 + 4) * 4 + 3) * 24
    assert not any(parameter.requires_grad for parameter in model.tubevit.parameters())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = model.tubevit(image).last_hidden_state
        expected = source.tubevit(image).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # and once more of its own
    again = SMALL.start(model)
    assert again.config.to_dict() == config.to_dict()


def test_the_sparse_layout_keeps_the_tubes(vit):
    source, _ = convert_vit(vit, layout="sparse")
    model = SPARSE.start(source)
    config = model.config
    assert (config.num_frames, config.tubes) == (32, source.config.tubes)
    assert (config.num_hidden_layers, config.joint_layer, config.pooling_layers) == (2, 0, [1, 2])
    # the finest of the tubes has three steps
    assert [grid[0] for grid in config.token_grids()] == [2, 3, 2, 1]
    assert config.pooling_grid == [3, 2, 2]
    assert config.pooled_size == 2 * ((4 + 3) * 4 + 2) * 24
    assert not any(parameter.requires_grad for parameter in model.tubevit.parameters())
    clip = torch.randn(1, 32, 3, 32, 32)
    with torch.no_grad():
        found = model.tubevit(clip).last_hidden_state
        expected = source.tubevit(clip).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert SPARSE.start(model).config.to_dict() == config.to_dict()
    # shorter clips have fewer steps
    assert replace(SPARSE, num_frames=16).make_config(source.config).pooling_grid == [1, 2, 2]


def test_a_gate_stays_with_its_layer(videos, tmp_path):
    source = TubeViTModel(tiny_config(gate_layer=1, num_hidden_layers=4))
    model = SPARSE.start(source)
    assert (model.config.num_hidden_layers, model.config.gate_layer) == (4, 1)
    clips = ClipDataset(
        rows_of(videos * 4, [0, 1, 2] * 4), SPARSE.training_clip(tiny_video_processor(), model.config), copies=1
    )
    frozen = cache_frozen(model, clips, tmp_path)
    for layers, gate_layer in (((2, 3), 1), ((2,), 1)):
        assert fit_few_videos(model, frozen, choices=[Choice(layers, ("means",))])[0].config.gate_layer == gate_layer
    early = SPARSE.start(TubeViTModel(tiny_config(gate_layer=2, num_hidden_layers=4)))
    assert (early.config.gate_layer, early.config.pooling_layers) == (2, [2, 3, 4])
    frozen = cache_frozen(early, clips, tmp_path, overwrite=True)
    assert fit_few_videos(early, frozen, choices=[Choice((2,), ("means",))])[0].config.gate_layer is None


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_family_can_begin(name, videos, tmp_path):
    """Whatever its tokens, norms and picture size are, and those of its processor."""
    random_source(TRANSFORMERS[name]()).save_pretrained(tmp_path / "vit")
    source, _ = convert_vit(tmp_path / "vit")
    model = SMALL.start(source)
    processor = tiny_video_processor(crop_size={"height": 48, "width": 64}, size={"shortest_edge": 64})
    clips = ClipDataset(rows_of(videos * 4, [0, 1, 2] * 4), SMALL.training_clip(processor, model.config), copies=2)
    fitted, _ = fit_few_videos(model, cache_frozen(model, clips, tmp_path / "frozen"))
    clip = clips[0]["pixel_values"][None]
    with torch.no_grad():
        logits = fitted(clip).logits
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()


def test_clips_are_as_long_as_the_layout_has_them():
    config, processor = tiny_config(), tiny_video_processor()
    for recipe, length in (
        (SMALL, 8),
        (SPARSE, 7),
        (replace(SMALL, num_frames=5), 5),
        (replace(SPARSE, num_frames=5), 5),
    ):
        made = recipe.make_config(config)
        assert recipe.clip_length(config) == made.num_frames == length
        assert recipe.training_clip(processor, config).settings["num_frames"] == length
        # a model that was fitted keeps its own, whatever the layout's is, and takes no other
        again = replace(recipe, num_frames=None)
        assert again.make_config(made).num_frames == length
        assert again.training_clip(processor, made).settings["num_frames"] == length
        with pytest.raises(
            ValueError, match=rf"fitted to clips of {length} frames, and cannot be fitted to clips of 4\."
        ):
            replace(recipe, num_frames=4).make_config(made)
    assert small_recipe(ClipArguments(), "sparse").clip_length(config) == 7
    assert small_recipe(ClipArguments(num_frames=9), "sparse").clip_length(config) == 9
    # a tube of two frames that is folded to four, and one of three frames from the second on
    assert replace(SPARSE, num_frames=4).make_config(config).pooling_grid == [1, 2, 2]
    with pytest.raises(ValueError, match=r"A clip of 3 frame.s. is too short for the model's tubes over several"):
        replace(SPARSE, num_frames=3).make_config(config)


@pytest.mark.parametrize("statistics", [["peaks"], ["changes"], ["means"], ["means", "peaks"]])
def test_a_model_without_the_statistics_is_refused(statistics, tmp_path):
    """Before its frozen layers run."""
    config = tiny_config(pooling_type="grid", pooling_statistics=statistics)
    message = f"`pooling_statistics` are {', '.join(statistics)}, and the recipe for few videos reads differences or "
    with pytest.raises(ValueError, match=message):
        list_choices(config)
    TubeViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        start_small(str(tmp_path), SPARSE, TrainingArguments(tmp_path, use_cpu=True))


def test_choices_are_of_the_statistics_that_there_are():
    config = tiny_config(pooling_type="grid", pooling_layers=[1, 3], pooling_statistics=["means", "differences"])
    assert {choice.parts for choice in list_choices(config)} == {("differences",), STILL}
    assert len(list_choices(config)) == 2 * 3


def test_the_layouts_that_are_fitted():
    several, interleaved = tiny_config(), tiny_config(tubes=interleaved_tubes((8, 8)))
    assert settle_layouts(several, None) == ("frames",)
    assert settle_layouts(interleaved, None) == ("sparse",)
    assert settle_layouts(interleaved, "frames") == ("frames",)
    assert settle_layouts(several, "auto") == ("frames", "sparse")
    with pytest.raises(ValueError, match="fitted in the layout sparse, and cannot be read in the layout frames"):
        settle_layouts(SPARSE.make_config(several), "auto")


def test_what_it_cannot_start_from():
    tubes = [{"kernel_size": [2, 8, 8], "stride": [2, 8, 8]}]
    assert find_layouts(tiny_config()) == ("frames", "sparse")
    assert find_layouts(tiny_config(tubes=tubes)) == ("sparse",)
    single = tiny_config(tubes=[{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}])
    assert find_layouts(single) == ("frames",)
    # a tube of one frame that leaves out patches is no picture of a frame
    assert find_layouts(tiny_config(tubes=interleaved_tubes((8, 8)))) == ("sparse", "frames")
    assert find_layouts(tiny_config(tubes=interleaved_tubes((8, 4))[:1])) == ("frames",)
    with pytest.raises(ValueError, match="All of the model's tubes see a single frame"):
        SPARSE.make_config(single)
    for recipe, other in ((SMALL, SPARSE), (SPARSE, SMALL)):
        with pytest.raises(
            ValueError, match=f"fitted in the layout {recipe.layout}, and cannot be read in the layout"
        ):
            other.make_config(recipe.make_config(tiny_config()))
    with pytest.raises(ValueError, match="`layout` must be one of frames, sparse, got 'tubes'"):
        replace(SMALL, layout="tubes").make_config(single)
    with pytest.raises(ValueError, match="None of the model's tubes sees a single frame"):
        SMALL.start(TubeViTModel(tiny_config(tubes=tubes)))
    with pytest.raises(ValueError, match="'learned' does not go with clips of 8 frames"):
        SMALL.start(TubeViTModel(tiny_config(position_embedding_type="learned")))


def test_choices_are_columns():
    config = TubeViTConfig(
        hidden_size=6,
        num_attention_heads=2,
        num_hidden_layers=3,
        joint_layer=3,
        tubes=[{"kernel_size": [1, 16, 16], "stride": [1, 16, 16]}],
        pooling_type="grid",
        pooling_grid=[3, 1, 2],
        pooling_layers=[1, 3],
        pooling_statistics=list(PART_WEIGHTS),
    )
    blocks = feature_blocks(config)
    assert {name: (block.start, block.stop) for name, block in blocks.items()} == {
        (1, "means"): (0, 12),
        (1, "changes"): (12, 24),
        (1, "shares"): (24, 36),
        (1, "differences"): (36, 72),
        (1, "peaks"): (72, 84),
        (1, "signed"): (84, 96),
        (3, "means"): (96, 108),
        (3, "changes"): (108, 120),
        (3, "shares"): (120, 132),
        (3, "differences"): (132, 168),
        (3, "peaks"): (168, 180),
        (3, "signed"): (180, 192),
    }
    assert read_features(config, Choice((3,), ("means",))).tolist() == list(range(96, 192))
    # a part weighs as much whatever its length
    weights = feature_weights(config)
    assert {name: weights[block].sum().item() for name, block in blocks.items()} == pytest.approx(
        {(layer, part): PART_WEIGHTS[part] for layer in (1, 3) for part in PART_WEIGHTS}
    )


def test_the_layout_of_the_lower_loss_is_kept():
    choice = Choice((3,), ("differences",))
    fitted = {}
    for layout, accuracy, loss in (("frames", 0.9, 0.4), ("sparse", 0.8, 0.3)):
        model = TubeViTForVideoClassification(tiny_config())
        fitted[layout] = (
            model,
            FewVideosReport(choice, {choice: ridge.Validation(accuracy, 0.1, 1.0, loss)}, ["first"], layout),
        )
    model, report = choose_layout(fitted)
    assert model is fitted["sparse"][0]
    assert report.layout == "sparse"
    assert {layout: (found.accuracy, found.loss) for layout, found in report.layouts.items()} == {
        "frames": (0.9, 0.4),
        "sparse": (0.8, 0.3),
    }
    assert report.layouts["frames"].tokens == 74
    assert report.layouts["frames"].flops == sum(count_flops(model.config).values())
    first, of_frames, of_sparse, kept = report.notes
    assert first == "first"
    assert of_frames.startswith(
        "Layout frames: 90.0% of the held-out training videos right, log loss 0.400; 74 tokens"
    )
    assert of_sparse.startswith("Layout sparse: 80.0% of")
    assert "The layout sparse is kept" in kept
    assert json.loads(json.dumps(report.to_dict()))["layouts"]["sparse"]["loss"] == 0.3
    # of one layout there is nothing to compare, but a cost
    model, report = choose_layout({"frames": fitted["frames"]})
    assert model is fitted["frames"][0]
    cost = of_frames.partition("; ")[2]
    assert (report.notes, report.layouts) == (["first", f"Layout frames: {cost}"], {})


@pytest.mark.parametrize("recipe", [SMALL, SPARSE], ids=["frames", "sparse"])
@pytest.mark.parametrize(
    "choice",
    [
        Choice((1,), ("differences",)),
        Choice((1, 2), ("means", "changes", "shares", "differences", "peaks")),
        Choice((2,), ("changes", "signed")),
    ],
)
def test_the_fitted_model_gives_what_was_fitted(choice, recipe, blobs, converted, with_tubes, tmp_path, monkeypatch):
    """The model put together reads what was chosen, from pixels as from the cache."""
    monkeypatch.setattr("tubevit_hf.training.few_videos.list_choices", lambda config: [choice])
    monkeypatch.setattr("tubevit_hf.training.few_videos.notes_on", lambda *arguments: [])
    rows = load_folder(blobs)["train"]
    model = recipe.start(TubeViTModel.from_pretrained(converted if recipe is SMALL else with_tubes))
    processor = tiny_video_processor(crop_size={"height": 32, "width": 32}, num_frames=16)
    clips = ClipDataset(rows, recipe.training_clip(processor, model.config), copies=3)
    frozen = cache_frozen(model, clips, tmp_path)
    fitted, report = fit_few_videos(model, frozen, read_groups(rows, r"actor(\d)"))
    assert report.chosen == choice
    assert fitted.config.num_hidden_layers == choice.layers[-1]
    assert fitted.config.id2label == {0: "left", 1: "right"}
    for (_, part), block in feature_blocks(fitted.config).items():
        assert bool(fitted.classifier.weight[:, block].any()) == (part in choice.parts)
    kept = read_features(model.config, choice)
    clip = clips.get_clip(3, 1)["pixel_values"][None]
    with torch.no_grad():
        from_cache = fitted(frozen_output=frozen.get_output(3, 1)[None, kept]).logits
        torch.testing.assert_close(fitted(clip).logits, from_cache, rtol=1e-4, atol=1e-4)

    features = outputs(frozen, torch.arange(72))
    scaled = ridge.standardize(features.__getitem__, torch.ones(72), feature_weights(model.config))(features)
    columns = torch.cat(
        [
            torch.arange(model.config.pooled_size)[block]
            for (layer, part), block in feature_blocks(model.config).items()
            if layer in choice.layers and part in choice.parts
        ]
    )
    scaled = scaled[:, columns].double().numpy()
    validation = report.validations[choice]
    alpha = validation.strength * np.mean(np.sum(scaled**2, axis=1))
    targets = np.eye(2)[np.repeat(rows["label"], 3)]
    expected = Ridge(alpha=alpha).fit(scaled, targets).predict(scaled)
    with torch.no_grad():
        found = fitted(frozen_output=features[:, kept]).logits * validation.temperature
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


def outputs(frozen, samples: torch.Tensor) -> torch.Tensor:
    return torch.stack([frozen.get_output(*divmod(sample, frozen.copies)) for sample in samples.tolist()])


# Whole runs


def small_run(blobs: Path, converted: Path, out: Path, *arguments: object):
    return run(
        "run_video_classification.py",
        *("--recipe", "small", "--model_name_or_path", converted, "--data_dir", blobs, "--output_dir", out),
        *("--do_train", "--do_eval", "--copies", 4, "--horizontal_flip", "False", *QUIET[:-4], *arguments),
    )


def test_the_example_learns_a_motion_from_a_random_vit(blobs, converted, tmp_path):
    out = tmp_path / "out"
    result = small_run(blobs, converted, out, "--eval_mirror", "False", "--group_pattern", r"actor(\d)")
    assert result.returncode == 0, result.stderr
    assert "24 videos x 4 clips: 0.00 GB" in result.stdout
    assert "motion matters here" in result.stdout
    report = json.loads((out / "few_videos.json").read_text())
    assert len(report["choices"]) == 24
    assert report["chosen"] in report["choices"]
    # no single frame tells left from right
    assert json.loads((out / "eval_results.json").read_text())["eval_top_1_accuracy"] >= 0.9

    model = TubeViTForVideoClassification.from_pretrained(out)
    assert model.config.pooling_type == "grid"
    classify = pipeline("video-classification", model=str(out))
    for name in ("left", "right"):
        found = [classify(str(file), top_k=1)[0]["label"] for file in sorted((blobs / "validation" / name).iterdir())]
        assert found.count(name) >= 5

    # what the frozen layers gave is not computed again
    shards = {path: path.stat().st_mtime_ns for path in (out / "frozen").iterdir()}
    assert small_run(blobs, converted, out, "--eval_mirror", "False").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "frozen").iterdir()} == shards
    # and never that of others
    result = small_run(blobs, converted, out, "--seed", "7")
    assert (result.returncode, result.stderr.count("Error: ")) == (2, 1)
    assert "gave with another seed" in result.stderr


def test_the_example_compares_layouts(blobs, with_tubes, tmp_path):
    out = tmp_path / "out"
    result = small_run(blobs, with_tubes, out, "--eval_mirror", "False", "--layout", "auto")
    assert result.returncode == 0, result.stderr
    assert set(json.loads((out / "few_videos.json").read_text())["layouts"]) == {"frames", "sparse"}
    # by default as `tubevit train` reads such tubes, at their own length
    result = small_run(blobs, with_tubes, tmp_path / "alone", "--eval_mirror", "False")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "alone" / "few_videos.json").read_text())
    assert report["layout"] == "sparse"
    assert report["notes"][-1] in result.stdout and report["notes"][-1].startswith("Layout sparse: 33 tokens and ")
    assert TubeViTForVideoClassification.from_pretrained(tmp_path / "alone").config.num_frames == 16
    result = run("run_video_classification.py", "--layout", "sparse", "--do_train", "--output_dir", out, *QUIET[:-4])
    assert (result.returncode, result.stderr.count("Error: ")) == (2, 1)
    assert "--layout is of --recipe small with --do_train" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group_pattern", "sequence"], "'sequence' finds no group in the name of this video"),
        (["--group_pattern", "actor("], "is no regular expression"),
        (["--group_pattern", "actor"], "All training videos are of one group, 'actor'"),
        (["--copies", "1000"], "24 videos times 1000 copies are 24000 clips"),
    ],
)
def test_the_example_says_at_once_what_is_wrong(arguments, message, blobs, converted, tmp_path):
    result = small_run(blobs, converted, tmp_path / "out", *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "frozen").exists()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"mixup": 0.3}, "mixup"),
        ({"fps": 5.0}, "fps"),
        ({"dropout": 0.1}, "dropout"),
        ({"freeze_before": 0}, "freeze_before"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy"),
    ],
)
def test_what_the_closed_form_has_no_use_for_is_refused(given, name, tmp_path):
    """Nothing is read before."""
    parts = [ClipArguments(num_frames=8), ChangeArguments()]
    parts.append(TrainingArguments(tmp_path, use_cpu=True, seed=7, report_to="none", remove_unused_columns=False))
    for part in parts:
        for key in given.keys() & vars(part).keys():
            setattr(part, key, given[key])
    clips, changes, training_args = parts
    with pytest.raises(ValueError, match=f"the recipe small is a closed form without --{name}"):
        fit_small("nowhere", DatasetDict(), clips, training_args, changes=changes)
    assert list_ignored(ClipArguments(), ChangeArguments(), TrainingArguments(tmp_path, seed=3, bf16=False)) == []


def test_too_few_videos(videos):
    with pytest.raises(ValueError, match=r"The class 'b' has 1 training video"):
        check_videos(rows_of(videos * 2, [0, 0, 1, 2, 2, 0]), 2)
    several = rows_of(videos, [[0, 2], [], [1]], List(ClassLabel(names=["a", "b", "c"])))
    with pytest.raises(ValueError, match="one label a video"):
        check_videos(several, 2)
    rows = rows_of(videos * 2, [0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match="one for each of the 6 videos, got 1"):
        check_videos(rows, 2, ["a"])
    assert [FEW_VIDEOS.count_copies(number) for number in (2, 200, 300, 3000, 9000)] == [30, 30, 20, 2, 1]
    with pytest.raises(ValueError, match="3001 training videos are too many"):
        check_videos(rows_of(["none"] * 3001, [0, 1, 2] * 1000 + [0]), 1)
    assert read_groups(rows, ".mp4") == [".mp4"] * 6
    with pytest.raises(AnnotationError, match="finds no group"):
        read_groups(rows, "seq")


def test_a_checkpoint_of_pretraining_begins_the_recipe():
    """What it was trained for does not come along, in either layout."""
    config = tiny_config(pretraining={"target": "features", "target_size": 8, "layers": [2]})
    for recipe in (SMALL, SPARSE):
        model = recipe.start(TubeViTModel(config))
        assert model.config.pretraining is None
