# SPDX-License-Identifier: Apache-2.0
"""The nearest videos: against a plain loop, in little memory, and only with the model that made the features."""

import hashlib
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel, TubeViTVideoProcessor
from tubevit_hf.commands.search import search as search_command
from tubevit_hf.data import EvaluationViews
from tubevit_hf.inference import neighbours
from tubevit_hf.inference.feature_folders import FeaturesError, open_features
from tubevit_hf.inference.identity import hash_weights
from tubevit_hf.inference.neighbours import find_rows, search

from ..support.features import write_features
from ..support.tiny import randomize, tiny_config, tiny_video_processor


app = typer.Typer()
app.command()(search_command)


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def random_features(num_clips: int = 53, dim: int = 9) -> tuple[np.ndarray, list[str]]:
    """Of one to four clips of each video, whose clips do not all follow each other; lengths differ widely."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(num_clips, dim)) * np.geomspace(0.01, 100, num_clips)[:, None]
    files = [f"{number}.mp4" for number in generator.integers(0, 23, num_clips)]
    return features.astype(np.float32), files


def naive_search(features, files, query, top_k):
    """Of each video the best of all pairs of clips."""
    best = {}
    for number, (clip, file) in enumerate(zip(features.astype(float), files)):
        for wanted in query.astype(float):
            product = sum(a * b for a, b in zip(clip, wanted))
            similarity = product / (sum(a * a for a in clip) ** 0.5 * sum(b * b for b in wanted) ** 0.5)
            if file not in best or similarity > best[file][1]:
                best[file] = (file, similarity, number)
    return sorted(best.values(), key=lambda entry: -entry[1])[:top_k]


@pytest.mark.parametrize("block_size", [1, 7, 16, 53, 1000])
@pytest.mark.parametrize(("num_queries", "top_k"), [(1, 1), (1, 5), (3, 5), (2, 99)])
def test_search_is_a_plain_loop(tmp_path, monkeypatch, block_size, num_queries, top_k):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", block_size)
    features, files = random_features()
    rows = open_features(write_features(tmp_path / "features", files, features=features))
    query = np.random.default_rng(5).normal(size=(num_queries, 9)).astype(np.float32) * 30
    expected = naive_search(features, files, query, top_k)
    found = search(rows, torch.from_numpy(query), top_k)
    assert [neighbour.file for neighbour in found] == [file for file, _, _ in expected]
    for neighbour, (_, similarity, number) in zip(found, expected):
        assert neighbour.similarity == pytest.approx(similarity, abs=1e-6)
        assert (neighbour.start, neighbour.end, neighbour.label) == (rows[number]["start"], rows[number]["end"], None)
    assert len(found) == min(top_k, len(set(files)))


def test_a_video_can_come_back_in_a_later_block(tmp_path, monkeypatch):
    """Its first clip is far, its last the nearest of all."""
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 2)
    features = np.array([[0, 1], [1, 1], [1, 0.5], [1, 0.2], [1, 0]], dtype=np.float32)
    rows = open_features(write_features(tmp_path / "features", ["a", "b", "c", "d", "a"], features=features))
    found = search(rows, np.array([1.0, 0.0]), 2)
    assert [(neighbour.file, neighbour.start) for neighbour in found] == [("a", 1.0), ("d", 0.0)]
    assert found[0].similarity == pytest.approx(1, abs=1e-6)


def test_equals_come_in_order_and_nothing_is_like_zeros(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 3)
    features = np.array([[0, 0], [2, 0], [1, 0], [3, 0], [-1, 0]], dtype=np.float32)
    folder = write_features(tmp_path / "features", list("vwxyz"), [0, 0, 1, 2, 0], features=features)
    found = search(open_features(folder), np.array([[4.0, 0.0]]), 4)
    assert [neighbour.file for neighbour in found] == ["w", "x", "y", "v"]
    assert [neighbour.similarity for neighbour in found] == [1, 1, 1, 0]
    assert [neighbour.label for neighbour in found] == ["fall", "jump", "roll", "fall"]


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 256)
    features = np.random.default_rng(0).normal(size=(20_000, 96)).astype(np.float32)
    rows = open_features(write_features(tmp_path / "features", ["a.mp4"] * 20_000, features=features))
    search(rows.select(range(600)), features[0], 3)
    tracemalloc.start()
    search(rows, features[0], 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a block is 0.1 MB and copied a few times; all features are 7.7 MB
    assert peak < 1.5e6 < features.nbytes


def test_clips_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK_SIZE", 5)
    features, files = random_features()
    rows = open_features(write_features(tmp_path / "features", files, features=features))
    for file in set(files):
        expected = features[[number for number, other in enumerate(files) if other == file]]
        assert np.array_equal(find_rows(rows, file), expected)
    assert find_rows(rows, "missing.mp4") is None


def test_bad_requests(tmp_path):
    features, files = random_features()
    rows = open_features(write_features(tmp_path / "features", files, features=features))
    with pytest.raises(FeaturesError, match="The query has 4 features, and the clips have 9"):
        search(rows, np.ones(4))
    with pytest.raises(FeaturesError, match="`top_k` must be at least 1, got 0"):
        search(rows, np.ones(9), 0)
    tokens = open_features(write_features(tmp_path / "tokens", files, tokens=np.ones((53, 3, 9), np.float32)))
    with pytest.raises(FeaturesError, match="needs pooled ones"):
        search(tokens, np.ones(9))
    with pytest.raises(FeaturesError, match="needs pooled ones"):
        find_rows(tokens, files[0])


# With a model


@pytest.fixture(scope="module")
def model(checkpoint) -> TubeViTModel:
    return TubeViTModel.from_pretrained(checkpoint)


@torch.inference_mode()
def embed(model, videos: list[str], num_clips: int) -> np.ndarray:
    processor = tiny_video_processor()
    views = EvaluationViews(processor, 7, num_clips=num_clips)
    clips = [
        processor(video, return_tensors="pt").pixel_values if num_clips == 1 else views(video) for video in videos
    ]
    return torch.cat([model(pixel_values).pooler_output for pixel_values in clips]).numpy()


@pytest.fixture(params=[1, 3])
def embedded(request, model, checkpoint, videos, tmp_path) -> Path:
    """Features of the three videos in one or three clips each, by the model in `checkpoint`."""
    features = embed(model, videos, request.param)
    files = [Path(video).name for video in videos for _ in range(request.param)]
    weights = hash_weights(model)
    return write_features(
        tmp_path / "features",
        files,
        features=features,
        model=str(checkpoint),
        weights=weights,
        num_clips=request.param,
    )


def test_a_video_finds_itself(embedded, videos, model, tmp_path):
    shutil.copy(videos[1], tmp_path / "query.mp4")
    result = run(tmp_path / "query.mp4", "--features", embedded, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found[0]["file"] == "1.mp4"
    assert found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert {entry["file"] for entry in found[1:]} == {"0.mp4", "2.mp4"}
    assert found[1]["similarity"] < 0.99
    num_clips = json.loads((embedded / "embedding.json").read_text())["num_clips"]
    rows = open_features(embedded)
    expected = naive_search(np.array(rows["features"]), rows["file"], embed(model, videos[1:2], num_clips), 3)
    assert [entry["file"] for entry in found] == [file for file, _, _ in expected]
    assert [entry["similarity"] for entry in found] == pytest.approx([entry[1] for entry in expected], abs=1e-5)


def test_an_image_is_a_query(embedded, images, model):
    result = run(images[0], "--features", embedded, "--json", "--top-k", 2)
    assert result.exit_code == 0, result.stderr
    processor = tiny_video_processor().to_image_processor()
    with torch.inference_mode():
        query = model(**processor(Image.open(images[0]), return_tensors="pt")).pooler_output.numpy()
    rows = open_features(embedded)
    expected = naive_search(np.array(rows["features"]), rows["file"], query, 2)
    found = json.loads(result.stdout)
    assert [entry["file"] for entry in found] == [file for file, _, _ in expected]
    assert [entry["similarity"] for entry in found] == pytest.approx([entry[1] for entry in expected], abs=1e-5)


def test_a_row_needs_no_model(embedded, monkeypatch):
    """And does not find itself."""
    monkeypatch.setattr(neighbours, "AutoModel", None)
    (embedded / "embedding.json").unlink()
    monkeypatch.setenv("COLUMNS", "200")
    result = run("2.mp4", "--features", embedded)
    assert result.exit_code == 0, result.stderr
    lines = [line.strip("│").split("│") for line in result.stdout.splitlines() if "│" in line]
    rows = open_features(embedded)
    query = find_rows(rows, "2.mp4")
    others = [number for number, file in enumerate(rows["file"]) if file != "2.mp4"]
    expected = naive_search(np.array(rows["features"])[others], [rows["file"][i] for i in others], query, 9)
    assert [[cell.strip() for cell in line[:2]] for line in lines] == [
        [file, f"{similarity:.4f}"] for file, similarity, _ in expected
    ]
    assert len(lines) == 2


def test_another_model_is_refused(embedded, videos, tmp_path):
    """By the difference; where the right one is now, it may be said."""
    folder = tmp_path / "other"
    other = randomize(TubeViTForVideoClassification(tiny_config(use_cls_token=True, num_register_tokens=2)), seed=1)
    other.save_pretrained(folder)
    tiny_video_processor().save_pretrained(folder)
    result = run(videos[0], "--features", embedded, "--model", folder)
    assert result.exit_code == 2
    assert result.stdout == ""
    recorded = json.loads((embedded / "embedding.json").read_text())
    assert hash_weights(TubeViTModel.from_pretrained(folder))[:12] in result.stderr
    assert recorded["weights"][:12] in result.stderr
    assert len(result.stderr.splitlines()) == 1

    moved = tmp_path / "moved"
    shutil.copytree(recorded["model"], moved)
    recorded["model"] = "missing/model"
    (embedded / "embedding.json").write_text(json.dumps(recorded))
    assert run(videos[0], "--features", embedded).exit_code == 2
    result = run(videos[0], "--features", embedded, "--model", moved, "--json")
    assert json.loads(result.stdout)[0]["file"] == "0.mp4"


@pytest.mark.parametrize(
    ("query", "described", "message"),
    [
        ("missing.mp4", None, "missing.mp4: there is no such file, neither on the disk nor among the features"),
        ("text.mp4", None, "text.mp4: FFmpeg cannot read it"),
        ("text.mp4", "", "embedding.json: it cannot be read"),
        ("text.mp4", "[]", "it names no model and weights"),
    ],
)
def test_bad_queries_end_in_one_line(embedded, tmp_path, query, described, message):
    (tmp_path / "text.mp4").write_text("no video")
    if described is not None:
        (embedded / "embedding.json").write_text(described)
    result = run(tmp_path / query, "--features", embedded)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_hash_of_weights(model):
    """Of names and values, whatever class holds them; anything that changes changes it."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert hash_weights(model) == digest.hexdigest()
    halves = TubeViTModel(tiny_config()).bfloat16()
    before = hash_weights(halves)
    assert before == hash_weights(halves)
    with torch.no_grad():
        halves.layers[1].mlp.fc1.weight[3, 5] += 1
    assert hash_weights(halves) != before


def test_what_the_processor_says_goes(embedded, checkpoint, videos, tmp_path):
    """A query goes through the processor that lies beside the model."""
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint, moved)
    TubeViTVideoProcessor.from_pretrained(moved, image_mean=[0.9, 0.1, 0.1]).save_pretrained(moved)
    similarities = []
    for folder in (checkpoint, moved):
        result = run(videos[0], "--features", embedded, "--model", folder, "--json")
        similarities.append(json.loads(result.stdout)[0]["similarity"])
    assert similarities[0] == pytest.approx(1, abs=1e-5)
    assert similarities[1] < 0.9999
