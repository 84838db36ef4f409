# SPDX-License-Identifier: Apache-2.0
"""`tubevit report`: what it writes and prints, whose model card it leaves alone, and what it refuses in one line."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel, create_model_card
from tubevit_hf.cli import app
from tubevit_hf.inference import running
from tubevit_hf.report import measurement as measurement_module

from ..report.conftest import class_folders, model_folder
from ..support.tiny import LABELS, randomize, tiny_config, tiny_video_processor


__all__ = ["class_folders", "model_folder"]
OWN_CARD = "---\nlicense: mit\n---\n\n# Mine\n"


def report(*arguments: object):
    return CliRunner().invoke(app, ["report", *map(str, arguments), "--workers", "0"])


def in_one_line(text: str) -> str:
    """Without the frame and the line breaks that depend on the terminal's width."""
    return " ".join(text.replace("│", " ").split())


def test_page_numbers_and_card(model_folder, class_folders):
    result = report(model_folder, class_folders)
    assert result.exit_code == 0, result.output
    numbers = json.loads((model_folder / "report.json").read_text())
    assert len(numbers["videos"]) == 12
    assert numbers["labels"] == LABELS
    accuracy = numbers["accuracy"]
    assert accuracy["of"] == 12
    page = (model_folder / "report.html").read_text(encoding="utf-8")
    for value in (accuracy["value"], numbers["calibration"]["error"]):
        assert f"{value:.1%}" in page and f"{value:.1%}" in result.stdout
    for limit in numbers["limits"]:
        assert limit in result.stdout
    for name in ("report.html", "report.json", "README.md"):
        assert str(model_folder / name) in result.stdout
    # nothing half-written
    assert not list(model_folder.glob("*unfinished*"))

    card = ModelCard.load(model_folder / "README.md")
    found = {entry.metric_type: entry.metric_value for entry in card.data.eval_results}
    assert found["accuracy"] == accuracy["value"]
    assert {entry.dataset_name for entry in card.data.eval_results} == {class_folders.name}
    low, high = (f"{accuracy[end]:.4g}" for end in ("low", "high"))
    assert f"| accuracy | {accuracy['value']:.4g} | {low} to {high} |" in card.text
    assert "\n## Limits\n\n- " in card.text
    assert "\n## Environment\n\n| | |\n" in card.text
    # what others need not know of this machine
    assert str(class_folders.parent) not in str(card) and str(model_folder.parent) not in str(card)
    assert "\n\n\n" not in card.text


def test_labels_with_texts_as_numbers(model_folder, class_folders):
    """As Transformers' example scripts write them into `config.json`."""
    path = model_folder / "config.json"
    names = {name: str(number) for number, name in enumerate(LABELS)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "label2id": names}))
    result = report(model_folder, class_folders)
    assert result.exit_code == 0, result.output
    assert json.loads((model_folder / "report.json").read_text())["labels"] == LABELS


def test_card_tells_of_the_training(model_folder, class_folders):
    found = {"source": "/home/me/vit", "videos": {"train": 12}, "classes": {"train": {"fall": 3, "jump": 9}}}
    (model_folder / "results.json").write_text(json.dumps({**found, "division": "by group"}))
    report(model_folder, class_folders)
    text = ModelCard.load(model_folder / "README.md").text
    assert "\n## Training\n\nFrom `vit`. Videos: 12 train, divided by group.\n" in text
    assert "\n| class | train |\n|---|---|\n| fall | 3 |\n| jump | 9 |\n| roll | 0 |\n" in text


def test_groups_of_names_and_of_a_pattern(model_folder, class_folders):
    report(model_folder, class_folders, "--groups", r"_(\d)\.mp4")
    numbers = json.loads((model_folder / "report.json").read_text())
    assert (numbers["num_groups"], numbers["videos"][0]["group"]) == (3, "0")
    report(model_folder, class_folders)
    # the names have the person
    numbers = json.loads((model_folder / "report.json").read_text())
    assert (numbers["num_groups"], numbers["videos"][0]["group"]) == (2, "person0")


def test_other_places(model_folder, class_folders, tmp_path):
    before = sorted(model_folder.iterdir())
    result = report(
        model_folder, class_folders, "--out", tmp_path / "p.html", "--json", tmp_path / "n.json", "--card",
        tmp_path / "c.md",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert all((tmp_path / name).exists() for name in ("p.html", "n.json", "c.md"))
    assert sorted(model_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("card", "is_replaced"),
    [
        (None, True),
        ("", True),
        (OWN_CARD, False),
        ("ours", True),
        ("ours, changed", False),
        ("ours, other metadata", False),
    ],
)
def test_cards_of_users_stay(model_folder, class_folders, card, is_replaced):
    path = model_folder / "README.md"
    if card is not None and card.startswith("ours"):
        create_model_card(tiny_config(), "my_model", 1_234, metrics={"accuracy": 0.5}).save(path)
        if card == "ours, changed":
            path.write_text(path.read_text().replace("# my_model", "# my_model\n\nFilmed by us."))
        elif card == "ours, other metadata":
            path.write_text(path.read_text().replace("apache-2.0", "mit"))
    elif card is not None:
        path.write_text(card)
    before = path.read_text() if path.exists() else None
    result = report(model_folder, class_folders)
    assert result.exit_code == 0, result.output
    assert (path.read_text() != before) == is_replaced
    assert ("was written or changed by somebody and stays" in result.stdout) == (not is_replaced)
    if is_replaced:
        # and once more, as it is ours now
        path.write_text(path.read_text())
        assert "by somebody" not in report(model_folder, class_folders).stdout
    else:
        refused = report(model_folder, class_folders, "--card", path)
        assert refused.exit_code == 2
        assert "somebody wrote this card" in refused.stderr


def test_a_broken_video_ends_with_exit_code_1(model_folder, class_folders, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(class_folders / "validation", folder)
    (folder / "fall" / "person0_fall_0.mp4").write_text("no video")
    result = report(model_folder, folder)
    assert result.exit_code == 1
    assert "failed: " in result.stderr and "person0_fall_0.mp4" in result.stderr
    assert len(json.loads((model_folder / "report.json").read_text())["videos"]) == 11
    assert "Nothing tells which videos the model was trained on" in result.stdout


def test_several_labels(model_folder, class_folders):
    config = tiny_config(problem_type="multi_label_classification")
    randomize(TubeViTForVideoClassification(config)).save_pretrained(model_folder)
    files = sorted((class_folders / "validation").rglob("*.mp4"))
    rows = [f"{path},{path.parent.name};wave,,validation" for path in files]
    (model_folder / "splits.csv").write_text("\n".join(["file,label,group,split", *rows]))
    result = report(model_folder, class_folders)
    assert result.exit_code == 0, result.output
    numbers = json.loads((model_folder / "report.json").read_text())
    assert numbers["several"] and numbers["confusion"] is None
    assert numbers["videos"][0]["labels"] == ["fall", "wave"]
    precisions = [one["average_precision"] for one in numbers["classes"]]
    assert precisions[LABELS.index("wave")] == 1.0
    assert numbers["mean_average_precision"][0] == pytest.approx(sum(precisions) / 5)
    assert "average precision" in (model_folder / "report.html").read_text()


def test_stopped_by_the_user(model_folder, class_folders, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurement_module, "score_classes", stop)
    before = sorted(model_folder.iterdir())
    result = report(model_folder, class_folders)
    assert result.exit_code == 130
    assert "Stopped. No page was written." in result.stderr
    assert sorted(model_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "{videos}/missing"], "there is no such folder"),
        (["{model}", "{videos}/train/fall"], "holds no videos in folders of the model's classes; looked for 'fall'"),
        (["{videos}", "{videos}"], "Invalid value for MODEL"),
        (["{model}/missing", "{videos}"], "Invalid value for MODEL"),
        (["{image}", "{videos}"], "Invalid value for MODEL"),
        (["{headless}", "{videos}"], "the model has no classifier of videos"),
        (["{other}", "{videos}"], "the model does not know the classes 'fall', 'jump', 'roll', 'spin'"),
        (["{model}", "{videos}", "--out", "{model}"], "it is a folder; name a file"),
        (
            ["{model}", "{videos}", "--out", "{model}/missing/a.html"],
            "it cannot be written (No such file or directory)",
        ),
        (["{model}", "{videos}", "--json", "{model}/config.json/a"], "it cannot be written (Not a directory)"),
        (["{model}", "{videos}", "--out", "{model}/a.json"], "page, JSON and card need a file each"),
        (["{model}", "{videos}", "--groups", "("], "no regular expression"),
        (["{model}", "{videos}", "--groups", "camera"], "finds no group in this path"),
        (["{model}", "{videos}", "--views", "4"], "must be clips x crops"),
    ],
)
def test_bad_input(model_folder, class_folders, vit, tmp_path, arguments, message):
    names = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    places = {"model": model_folder, "videos": class_folders, "image": vit}
    for name, made in (("headless", TubeViTModel), ("other", TubeViTForVideoClassification)):
        places[name] = tmp_path / name
        made(tiny_config(**names)).save_pretrained(places[name])
        tiny_video_processor().save_pretrained(places[name])
    before = sorted(model_folder.iterdir())
    result = report(*(part.format(**places) for part in arguments))
    assert result.exit_code == 2
    assert message in in_one_line(result.stderr)
    assert "Traceback" not in result.output
    assert sorted(model_folder.iterdir()) == before


def test_where_a_page_cannot_be_put_by_itself(class_folders, model_folder, monkeypatch, tmp_path):
    # as a repo id, which is no folder to write into
    monkeypatch.chdir(tmp_path)
    load = running.load_model
    monkeypatch.setattr(running, "load_model", lambda name, **settings: load(str(model_folder), **settings))
    result = report("org/model", class_folders)
    assert result.exit_code == 2
    assert "Name one with `--out`" in result.stderr
    result = report("org/model", class_folders, "--out", "a.html")
    assert result.exit_code == 0, result.output
    assert "card" not in result.stdout.splitlines()[-1]
