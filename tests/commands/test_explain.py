# SPDX-License-Identifier: Apache-2.0
"""`tubevit explain`: what it writes and prints, and bad input."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.cli import app

from ..support.tiny import randomize, tiny_config


def explain(*arguments: object):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_pictures_and_numbers(checkpoint, videos, tmp_path):
    result = explain(videos[0], "--model", checkpoint, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "explanation.gif",
        "explanation.json",
        "explanation.png",
    ]
    values = json.loads((tmp_path / "out" / "explanation.json").read_text())
    best = values["predictions"][0]
    lines = result.stdout.splitlines()
    assert lines[0].split() == [best["label"], f"{best['score']:.3f}"]
    assert lines[5].startswith("What counts ")
    assert f"Alt text: {values['alt_text']}" in lines
    assert lines[-1].startswith("Written: ")
    with Image.open(tmp_path / "out" / "explanation.gif") as animation:
        assert animation.n_frames == 7
        assert animation.info["loop"] == 0
        shown = []
        for number in range(7):
            animation.seek(number)
            shown.append(animation.info["duration"])
    # as long as the video shows each, and the last one longer
    seconds = np.diff(values["seconds"])
    assert shown[:-1] == pytest.approx(1000 * seconds[:-1], abs=10)
    assert shown[-1] > 1000 * seconds[-1] + 500
    assert (tmp_path / "out" / "explanation.gif").stat().st_size <= 2_000_000
    with Image.open(tmp_path / "out" / "explanation.png") as sheet:
        assert min(sheet.size) > 400


def test_rollout_of_a_label(checkpoint, videos, tmp_path):
    result = explain(
        *(videos[1], "--model", checkpoint, "--out", tmp_path / "out"),
        *("--method", "rollout", "--label", "roll", "--windows", 3),
    )
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert (values["label"], values["method"], len(values["drops"])) == ("roll", "rollout", 3)


def test_a_model_without_attention_pooling(checkpoint, videos, tmp_path):
    folder = tmp_path / "mean"
    shutil.copytree(checkpoint, folder)
    randomize(TubeViTForVideoClassification(tiny_config(pooling_type="mean"))).save_pretrained(folder)
    result = explain(videos[0], "--model", folder, "--out", tmp_path / "out", "--method", "attention")
    assert result.exit_code == 2
    assert "Error: the model has no attention pooling (`pooling_type` is 'mean')" in result.stderr
    assert '"gradient" or "rollout"' in result.stderr
    assert not (tmp_path / "out").exists()
    assert explain(videos[0], "--model", folder, "--out", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{video}", "--label", "jmup"], "the model has no label 'jmup'; near are 'jump'"),
        (["{folder}/missing.mp4"], "missing.mp4: it cannot be read (No such file or directory)"),
        (["{video}", "--model", "{folder}"], "Error: "),
        (["{video}", "--out", "{folder}"], "it exists. Choose another folder, or replace it with `--overwrite`."),
        (["{video}", "--out", "{folder}/file/out"], "out: it cannot be written ("),
    ],
)
def test_bad_input(checkpoint, videos, tmp_path, arguments, message):
    (tmp_path / "file").write_text("in the way")
    arguments = [argument.format(video=videos[0], folder=tmp_path) for argument in arguments]
    defaults = {"--model": checkpoint, "--out": tmp_path / "out"}
    for name, value in defaults.items():
        if name not in arguments:
            arguments += [name, value]
    result = explain(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_earlier_explanation_is_replaced_if_wanted(checkpoint, videos, tmp_path):
    arguments = (videos[2], "--model", checkpoint, "--out", tmp_path / "out")
    assert explain(*arguments).exit_code == 0
    assert explain(*arguments).exit_code == 2
    assert explain(*arguments, "--overwrite").exit_code == 0
