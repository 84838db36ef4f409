# SPDX-License-Identifier: Apache-2.0
"""Probes on features: against plain loops, over groups, and the same as on what a model gives at once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from datasets import Dataset, DatasetDict, load_from_disk
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from tubevit_hf import TubeViTModel
from tubevit_hf.commands.probe import probe as probe_command
from tubevit_hf.inference import probes
from tubevit_hf.inference.feature_folders import FeaturesError, open_features, read_groups
from tubevit_hf.inference.probes import AttentiveProbe, make_folds, probe, probe_features

from ..support.features import write_features
from ..support.tiny import randomize, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close


app = typer.Typer()
app.command()(probe_command)
NAMES = ["fall", "jump", "roll"]


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def random_clips(num_clips: int = 90, dim: int = 7, noise: float = 1.0):
    """Features of two clips of each video, whose scales differ; files, labels."""
    generator = np.random.default_rng(0)
    videos = np.arange(num_clips) // 2
    labels = videos % 3
    centres = generator.normal(size=(3, dim))
    scales = np.geomspace(0.1, 30, dim)
    features = (centres[labels] + noise * generator.normal(size=(num_clips, dim))) * scales + 3
    files = [f"{NAMES[label]}/person{video % 11}_{video}.mp4" for video, label in zip(videos, labels)]
    return features.astype(np.float32), files, labels


def count_right(estimator, features, labels) -> int:
    return (estimator.predict(features) == labels).sum()


def naive_linear(features, labels, groups, folds):
    """Scikit-learn's own search, of each fold."""
    predictions, chosen = np.full(len(labels), -1), []
    for fold in np.unique(folds):
        seen = folds != fold
        inner = make_folds(labels[seen], groups[seen], 3)
        grid = {"logisticregression__C": list(probes.STRENGTHS)}
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        # the folds differ by a clip or two, and the mean of their accuracies is another than the share of clips
        search = GridSearchCV(
            pipeline, grid, cv=PredefinedSplit(inner), scoring=lambda e, x, y: (e.predict(x) == y).sum()
        )
        search.fit(features[seen], labels[seen])
        predictions[~seen] = search.predict(features[~seen])
        chosen.append(search.best_params_["logisticregression__C"])
    return predictions, chosen


def naive_neighbours(features, labels, seen, held_out, number):
    """The class that most of the nearest have, of two the first."""
    predictions = []
    for clip in held_out:
        angles = []
        for other in seen:
            product = sum(float(a) * float(b) for a, b in zip(features[clip], features[other]))
            angles.append(product / (np.linalg.norm(features[clip]) * np.linalg.norm(features[other])))
        nearest = np.array(seen)[np.argsort(angles)[::-1][:number]]
        votes = [int((labels[nearest] == label).sum()) for label in range(3)]
        predictions.append(votes.index(max(votes)))
    return predictions


@pytest.mark.parametrize("by", ["video", "person"])
def test_linear_is_scikit_learns_search(by):
    features, files, labels = random_clips()
    videos = np.unique(files, return_inverse=True)[1]
    persons = np.unique([file.split("/")[1].split("_")[0] for file in files], return_inverse=True)[1]
    groups = {"video": videos, "person": persons}[by]
    report = probe(features.__getitem__, labels, NAMES, groups, videos, "linear", 4)
    predictions, chosen = naive_linear(features, labels, groups, report.folds)
    assert report.predictions.tolist() == predictions.tolist()
    assert report.chosen == chosen
    # or the choice would not have been tested; with few persons each fold may choose the same
    assert by == "person" or len(set(chosen)) > 1
    assert 0.5 < report.mean < 1


def test_neighbours_are_those_of_a_plain_loop():
    features, files, labels = random_clips(noise=1.5)
    groups = np.unique(files, return_inverse=True)[1]
    report = probe(features.__getitem__, labels, NAMES, groups, groups, "knn", 3)
    for fold, number in zip(np.unique(report.folds), report.chosen):
        seen, held_out = np.flatnonzero(report.folds != fold), np.flatnonzero(report.folds == fold)
        assert report.predictions[held_out].tolist() == naive_neighbours(features, labels, seen, held_out, int(number))
        # in the folds of what was seen
        inner = make_folds(labels[seen], groups[seen], 3)
        right = {}
        for candidate in probes.NEIGHBOURS:
            right[candidate] = 0
            for part in range(3):
                others, out = seen[inner != part], seen[inner == part]
                found = naive_neighbours(features, labels, others, out, candidate)
                right[candidate] += int((np.array(found) == labels[out]).sum())
        assert number == max(right, key=right.get)


def test_attentive_probe_in_plain_loops():
    torch.manual_seed(0)
    model = randomize(AttentiveProbe(5, 3)).double()
    tokens = torch.randn(2, 7, 5, dtype=torch.float64)
    found = model(tokens)
    for clip in range(2):
        normed = [model.norm(token) for token in tokens[clip]]
        means = []
        for query in model.queries:
            weights = [torch.exp(sum(query[i] * token[i] for i in range(5))) for token in normed]
            means.append(sum(weight * token for weight, token in zip(weights, normed)) / sum(weights))
        expected = model.classifier.weight @ torch.cat(means) + model.classifier.bias
        assert_close(found[clip], expected, "float64")


def write_needles(folder: Path) -> Path:
    """Tokens of noise, one of which tells the class at a random place, beside its negative at another: the mean of
    all tells nothing."""
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(120, 13, 8)) * 0.5
    labels = np.arange(120) % 3
    signs = np.eye(8)[[0, 1, 2]] * 4
    for clip, label in enumerate(labels):
        first, second = generator.choice(13, 2, replace=False)
        tokens[clip, first] += signs[label] + np.eye(8)[5] * 4
        tokens[clip, second] -= signs[label] + np.eye(8)[5] * 4
    files = [f"{clip}.mp4" for clip in range(120)]
    return write_features(folder, files, labels.tolist(), tokens=tokens.astype(np.float32))


def test_attentive_finds_what_the_mean_hides(tmp_path):
    rows = open_features(write_needles(tmp_path / "features"))
    attentive, linear = probe_features(rows, ["attentive", "linear"], num_folds=3)
    assert attentive.mean > 0.9
    assert linear.mean < 0.6
    again = probe_features(rows, ["attentive"], num_folds=3)[0]
    assert again.predictions.tolist() == attentive.predictions.tolist()
    assert attentive.chosen == []


def test_clips_of_a_group_are_never_on_both_sides(tmp_path):
    """What tells the person tells the class of videos of the same person, and nothing of others."""
    generator = np.random.default_rng(1)
    persons = np.arange(360) // 2 % 36
    labels = persons % 3
    features = np.eye(36)[persons] + 0.01 * generator.normal(size=(360, 36))
    files = [f"person{person:02d}/{clip // 2}.mp4" for clip, person in enumerate(persons)]
    rows = open_features(
        write_features(tmp_path / "features", files, labels.tolist(), features=features.astype(np.float32))
    )
    for method in ("linear", "knn"):
        by_video, by_person = (probe_features(rows, [method], 3, groups)[0] for groups in (None, r"person(\d+)"))
        assert by_video.mean == 1
        assert by_person.mean < 0.5
        for report, numbers in ((by_video, read_groups(rows)), (by_person, persons)):
            assert all(len(set(report.folds[numbers == number])) == 1 for number in set(numbers))


def test_two_groups_and_two_folds(tmp_path):
    """Strength and number are then chosen over the videos of the one group that is seen."""
    features, files, labels = random_clips(noise=0.2)
    files = [f"scene{index % 4 // 2}/{file}" for index, file in enumerate(files)]
    rows = open_features(write_features(tmp_path / "features", files, labels.tolist(), features=features))
    for report in probe_features(rows, ["linear", "knn"], 2, r"(scene\d)"):
        assert report.folds.tolist() in (
            [[0, 0, 1, 1][i % 4] for i in range(90)],
            [[1, 1, 0, 0][i % 4] for i in range(90)],
        )
        assert report.mean > 0.8


def test_very_few_clips():
    """One of each class is seen: nothing can be held out of them, and no more neighbours be asked than there are."""
    features = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.2], [0.2, 1.0]], dtype=np.float32)
    labels, groups, videos = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), np.arange(4)
    for method, value in (("linear", 0.1), ("knn", 1)):
        report = probe(features.__getitem__, labels, ["a", "b"], groups, videos, method, 2)
        assert report.predictions.tolist() == [0, 1, 0, 1]
        assert report.chosen == [value, value]


@pytest.fixture
def folder(tmp_path) -> Path:
    features, files, labels = random_clips(60, noise=0.8)
    tokens = np.stack([features, features + 1], axis=1)
    return write_features(tmp_path / "features", files, labels.tolist(), features=features, tokens=tokens)


def test_labels_may_be_strings(folder, tmp_path):
    rows = open_features(folder)
    names = rows.features["label"].names
    strings = rows.remove_columns("label").add_column("label", [names[label] for label in rows["label"]])
    strings.save_to_disk(tmp_path / "strings")
    [expected] = probe_features(rows, ["knn"], 3)
    [found] = probe_features(open_features(tmp_path / "strings"), ["knn"], 3)
    assert found.names == expected.names == NAMES
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.predictions.tolist() == expected.predictions.tolist()


def test_stored_features_give_the_answers_of_those_at_once(tmp_path):
    """The probe on a folder is the probe on what the model gives of the clips themselves."""
    model = randomize(TubeViTModel(tiny_config(use_cls_token=True)), std=0.2)
    processor = tiny_video_processor()
    generator = np.random.default_rng(0)
    labels = np.arange(36) % 3
    pooled, tokens = [], []
    for label in labels:
        # noise, lighter at the side that the class says
        clip = generator.integers(0, 120, size=(7, 40, 56, 3), dtype=np.uint8)
        clip[:, :, 18 * label : 18 * label + 12] += 100
        with torch.inference_mode():
            outputs = model(**processor(clip, do_sample_frames=False, return_tensors="pt"))
        pooled.append(outputs.pooler_output[0].numpy())
        tokens.append(outputs.last_hidden_state[0].numpy())
    online = {"features": np.stack(pooled), "tokens": np.stack(tokens)}
    groups = np.arange(36)
    files = [f"{index:02d}.mp4" for index in groups]
    rows = open_features(write_features(tmp_path / "features", files, labels.tolist(), **online))
    for method, column in (("linear", "features"), ("knn", "features"), ("attentive", "tokens")):
        expected = probe(online[column].__getitem__, labels, NAMES, groups, groups, method, 3)
        [found] = probe_features(rows, [method], 3)
        assert found.predictions.tolist() == expected.predictions.tolist()
        assert found.chosen == expected.chosen
        assert found.mean > 0.5, method


# The command


def test_json(folder):
    result = run(folder, "--method", "linear", "--method", "knn", "--folds", 3, "--groups", r"(person\d+)_", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["clips"], found["videos"], found["groups"]) == (60, 30, 11)
    assert found["classes"] == NAMES
    assert found["largest_class"] == pytest.approx(1 / 3)
    reports = probe_features(open_features(folder), ["linear", "knn"], 3, r"(person\d+)_")
    assert [entry["method"] for entry in found["probes"]] == ["linear", "knn"]
    for entry, report in zip(found["probes"], reports):
        right = report.predictions == report.labels
        shares = [right[report.folds == fold].mean() for fold in range(3)]
        assert entry["folds"] == pytest.approx(shares)
        assert entry["accuracy"] == pytest.approx(sum(shares) / 3)
        assert entry["spread"] == pytest.approx(np.sqrt(np.mean((shares - np.mean(shares)) ** 2)))
        pairs = list(zip(report.labels.tolist(), report.predictions.tolist()))
        assert entry["confusion"] == [[pairs.count((i, j)) for j in range(3)] for i in range(3)]
        assert len(set(shares)) > 1


def test_tables(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = run(folder, "--folds", 3)
    assert result.exit_code == 0, result.stderr
    [report] = probe_features(open_features(folder), ["linear"], 3)
    assert "60 clips of 30 videos in 30 groups; the largest class has 33.3% of the clips." in result.stdout
    assert f"{report.mean:.1%}" in result.stdout
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in result.stdout.splitlines() if "│" in line
    ]
    for name, counts in zip(NAMES, report.confusion):
        assert [name, *(str(count) if count else "" for count in counts)] in rows


def test_many_classes_list_the_most_frequent_mistakes(tmp_path):
    """Each class is taken for the one before it, whose features it has."""
    labels = [label for label in range(24) for _ in range(4)]
    features = np.eye(24, dtype=np.float32)[labels]
    # three of the four clips of the last class look like the first
    features[-3:] = features[0]
    names = [f"class{label:02d}" for label in range(24)]
    files = [f"{index}.mp4" for index in range(96)]
    folder = write_features(tmp_path / "features", files, labels, names, features=features)
    result = run(folder, "--folds", 2, "--method", "knn")
    assert result.exit_code == 0, result.stderr
    assert "most frequent mistakes" in result.stdout
    mistakes = [line for line in result.stdout.splitlines() if "class23" in line]
    assert len(mistakes) == 1
    assert [cell.strip() for cell in mistakes[0].strip("│").split("│")][:2] == ["class23", "class00"]


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"labels": None}, [], "The features have no labels. Embed a folder that has a folder for each class"),
        ({"labels": [1] * 12}, [], "All 12 clips are of one class, 'jump'"),
        ({"labels": [0, 1, None] * 4}, [], "4 of 12 clips have no label"),
        ({}, ["--folds", 13], "There are 12 groups for 13 folds"),
        ({}, ["--groups", "(.)"], "There are 2 groups for 5 folds"),
        ({"labels": [0, 1, 2] * 4}, ["--folds", 5], "No class has more than 4 clips, which are too few for 5 folds"),
        ({}, ["--method", "attentive"], "needs a column `tokens`, and these features are pooled"),
        ({}, ["--groups", "(z)"], "'(z)' finds no group in the path of this video"),
        ({}, ["--groups", "("], "'(' is no regular expression"),
        ({}, ["--groups", r"0(x)?\d"], "finds no group in the path of this video"),
        ({"labels": [0] * 6 + [1] * 6}, ["--groups", "(.)", "--folds", 2], "there are clips of one class only"),
    ],
)
def test_bad_features_end_in_one_line(tmp_path, settings, arguments, message):
    files = [f"{index // 6}{index:02d}.mp4" for index in range(12)]
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    given = {"labels": [0, 1] * 6, "features": features, **settings}
    result = run(write_features(tmp_path / "features", files, **given), *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_folders_of_something_else(tmp_path):
    (tmp_path / "empty").mkdir()
    plain = Dataset.from_dict({"video": ["a.mp4"]})
    plain.save_to_disk(tmp_path / "plain")
    DatasetDict({"train": plain}).save_to_disk(tmp_path / "splits")
    Dataset.from_dict({"file": ["a.mp4"]}).save_to_disk(tmp_path / "bare")
    rows = load_from_disk(write_features(tmp_path / "some", ["a.mp4"], [0], features=np.ones((1, 3))))
    rows.select([]).save_to_disk(tmp_path / "none")
    for name, message in (
        ("missing", "it holds no features; `tubevit embed` writes such folders"),
        ("empty", "it holds no features"),
        ("plain", "it holds a data set, but no features"),
        ("splits", "it holds a data set, but no features"),
        ("bare", "it has neither a column `features` nor `tokens`, only file"),
        ("none", "it holds no"),
    ):
        result = run(tmp_path / name)
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_an_unknown_method(folder):
    with pytest.raises(FeaturesError, match="must be one of linear, knn, attentive, got 'svm'"):
        probe_features(open_features(folder), ["svm"])
    with pytest.raises(FeaturesError, match="at least 2 folds, got 1"):
        probe_features(open_features(folder), ["knn"], 1)
    assert run(folder, "--method", "svm").exit_code == 2


def test_scikit_learn_is_an_extra(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.model_selection", None)
    result = run(folder)
    assert result.exit_code == 2
    assert 'pip install "tubevit_hf[demo]"' in result.stderr
