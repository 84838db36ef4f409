# SPDX-License-Identifier: Apache-2.0
"""Names and labels are printed and written as they are, whatever is in them: markup, commands of terminals, bytes that
are no UTF-8, formulas, secrets in addresses."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from rich.console import Console
from typer.testing import CliRunner

from tubevit_hf.cli import app
from tubevit_hf.commands.predict import show
from tubevit_hf.commands.probe import confusion_table
from tubevit_hf.data.labelled import load_labelled
from tubevit_hf.inference.prediction import CSV_COLUMNS, TEXT, Prediction, PredictionFile
from tubevit_hf.inference.probes import ProbeReport
from tubevit_hf.inference.segments import Segment, format_srt
from tubevit_hf.report.making import in_markdown
from tubevit_hf.tables import PlainConsole, PlainTable
from tubevit_hf.visualization import draw_timeline

from ..model.test_video_limits import serving
from ..support.tiny import LABELS


STRANGE = ["[b]bold[/b]", "[/x] :smile:", "a|b, $x$ <i>", 'quote"d\n-> 2', "\x1b[31mred\u202e"]
SHOWN = ["[b]bold[/b]", "[/x] :smile:", "a|b, $x$ <i>", 'quote"d\\n-> 2', "\\x1b[31mred\\u202e"]
# as some systems write names; a file system of a Mac takes none
NO_UTF8 = os.fsdecode(b"caf\xe9.mp4")
needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 here")


@pytest.fixture(scope="module")
def strange_model(checkpoint, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("strange") / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(STRANGE))
    config["label2id"] = {label: number for number, label in enumerate(STRANGE)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(videos, tmp_path) -> Path:
    """Of two classes, one of whose videos has a name that is no UTF-8."""
    for label in ("run", "walk"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for number in range(2):
            shutil.copy(videos[number], tmp_path / "videos" / label / f"{number}.mp4")
    if sys.platform == "linux":
        shutil.copy(videos[2], tmp_path / "videos" / "walk" / NO_UTF8)
    return tmp_path / "videos"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cells_of(table: str) -> set[str]:
    return {cell.strip() for line in table.splitlines() for cell in line.split("│")}


@pytest.mark.parametrize("console", [PlainConsole, Console])
def test_cells_are_texts(console):
    table = PlainTable(*STRANGE, title=STRANGE[1])
    table.add_row(*STRANGE)
    out = io.StringIO()
    console(file=out, width=200).print(table)
    lines = out.getvalue().splitlines()
    assert SHOWN[1] in lines[0]
    assert [cell.strip() for cell in lines[2].strip("┃").split("┃")] == SHOWN
    assert [cell.strip() for cell in lines[4].strip("│").split("│")] == SHOWN


def test_lines_are_texts():
    out = io.StringIO()
    PlainConsole(file=out, width=200).print("first\n" + STRANGE[0] + STRANGE[1] + STRANGE[4])
    assert out.getvalue() == "first\n" + SHOWN[0] + SHOWN[1] + SHOWN[4] + "\n"


def test_predictions_in_a_table(strange_model, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    for name in ("Cat [dqw4w9wgxcq].mp4", "a [", "a [/b].mp4", "\x1b[31m\n.mp4"):
        Path(name).mkdir() if name == "a [" else shutil.copy(videos[0], name)
    result = run("predict", ".", "--model", strange_model, "--workers", 0)
    assert result.exit_code == 0 and result.stderr == ""
    assert {"Cat [dqw4w9wgxcq].mp4", "a [/b].mp4", "\\x1b[31m\\n.mp4", *SHOWN} <= cells_of(result.stdout)


def test_segments_in_a_table_and_in_subtitles(strange_model, videos, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    result = run(
        *("timeline", videos[0], "--model", strange_model, "--window", "1s", "--threshold", 0.001),
        *("--picture", tmp_path / "a.png"),
    )
    assert result.exit_code == 0
    assert set(SHOWN) <= cells_of(result.stdout)


def test_confusions_in_a_table():
    report = ProbeReport("knn", STRANGE, np.arange(5), np.arange(5), np.zeros(5, dtype=int), [1.0])
    out = io.StringIO()
    PlainConsole(file=out, width=300).print(confusion_table(report))
    assert set(SHOWN) <= cells_of(out.getvalue().replace("┃", "│"))


def test_labels_of_subtitles():
    """No empty line within an entry, no tags, no commands."""
    labels = ["a\n\n2\n00:00:01,000 --> 00:00:02,000\nb", "<i>{\\an8}c", "d\x1b[0m"]
    text = format_srt([Segment(0, 1, label, 0.5) for label in labels])
    shown = ["a 2 00:00:01,000 --› 00:00:02,000 b (50%)", "‹i›(/an8)c (50%)", "d\\x1b[0m (50%)"]  # noqa: RUF001
    assert text.split("\n\n") == [
        f"{number}\n00:00:00,000 --> 00:00:01,000\n{label}" + "\n" * (number == 3)
        for number, label in enumerate(shown, start=1)
    ]


def test_labels_of_pictures_are_no_mathematics():
    figure = draw_timeline(np.array([[0.0, 1.0]]), np.array([[0.5, 0.5]]), ["$\\frac{$", "a $5$"], [])
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["$\\frac{$", "a $5$"]


def test_labels_in_markdown():
    assert in_markdown("a|b [c](d) <script> `e`\n") == "a\\|b \\[c\\](d) \\<script\\> \\`e\\`\\\\n"


@needs_bytes
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_predictions_of_names_that_are_no_utf8(checkpoint, folder, tmp_path, suffix):
    """They are written so that they can be found again, and a second run has nothing to do."""
    out = tmp_path / f"out.{suffix}"
    arguments = ("predict", folder, "--model", checkpoint, "--out", out, "--top-k", 1, "--workers", 0)
    assert run(*arguments).exit_code == 0
    written = out.read_bytes()
    if suffix == "csv":
        with out.open(**TEXT) as file:
            files = [row["video"] for row in csv.DictReader(file)]
        assert os.fsencode(str(folder / "walk" / NO_UTF8)) in written
    else:
        files = [json.loads(line)["video"] for line in written.decode().splitlines()]
    assert str(folder / "walk" / NO_UTF8) in files and all(Path(file).exists() for file in files)
    assert run(*arguments).exit_code == 0
    assert out.read_bytes() == written


@pytest.mark.parametrize("name", ['a,"b"\r.mp4', "a\n.mp4", "a\u2028b\x85.mp4", "=1+1.mp4", " a.mp4"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_strange_names_in_a_file_of_predictions(name, suffix, tmp_path):
    path = tmp_path / f"out.{suffix}"
    file = PredictionFile(path, [name, "b.mp4"])
    assert file.start({}) == [name, "b.mp4"]
    for _ in file.write([Prediction(name, [{"label": name, "score": 0.5}])]):
        pass
    file.finish()
    assert PredictionFile(path, [name, "b.mp4"]).start({}) == ["b.mp4"]
    # what is put together anew stays as it is
    (tmp_path / f"out.{suffix}.part-0").write_text("")
    assert PredictionFile(path, [name, "b.mp4"]).start({}) == ["b.mp4"]
    if suffix == "csv":
        with path.open(**TEXT) as written:
            assert list(csv.reader(written)) == [list(CSV_COLUMNS), [name, "1", name, "0.5", ""]]


@needs_bytes
def test_features_of_names_that_are_no_utf8(checkpoint, folder, tmp_path):
    result = run("embed", folder, "--model", checkpoint, "--out", tmp_path / "features", "--workers", 0)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "failed: walk/caf\\udce9.mp4: its name is no UTF-8, which tables of data need; rename it." in result.stderr
    assert sorted(load_from_disk(str(tmp_path / "features"))["file"]) == [
        f"{label}/{number}.mp4" for label in ("run", "walk") for number in range(2)
    ]


@needs_bytes
def test_training_on_names_that_are_no_utf8(folder, caplog):
    rows = load_labelled(folder)
    assert sorted(rows["file"]) == [f"{label}/{number}.mp4" for label in ("run", "walk") for number in range(2)]
    assert f"{folder}/walk/caf\\udce9.mp4: its name is no UTF-8, which tables of data need; rename it" in caplog.text
    (folder / "run").rename(os.fsdecode(os.fsencode(folder) + b"/\xe9"))
    with pytest.raises(ValueError, match=r"/\\udce9: its name is no UTF-8"):
        load_labelled(folder)
    result = run("doctor", folder, "--workers", 0)
    assert "name: its name is no UTF-8" in result.stdout and "walk/caf\\udce9.mp4" in result.stdout


@needs_bytes
def test_any_terminal_shows_any_name(checkpoint, videos, tmp_path):
    """In a process: what is printed depends on how it starts."""
    shutil.copy(videos[0], tmp_path / NO_UTF8)
    shutil.copy(videos[0], tmp_path / "ü.mp4")
    command = [sys.executable, "-m", "tubevit_hf.cli", "predict", ".", "--model", checkpoint, "--workers", "0"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert b"caf\\udce9.mp4" in result.stdout and b"\\xfc.mp4" in result.stdout


@pytest.mark.parametrize("arguments", [["--json"], ["--jsonl"], ["--csv"], [], ["--out"]])
def test_no_output_tells_a_secret(checkpoint, videos, tmp_path, arguments):
    with serving() as server:
        pages = [f"/{name}?token=s3cret{number}" for number, name in enumerate(("a.mp4", "a.mp4", "none.mp4"))]
        server.pages |= {page: Path(videos[0]).read_bytes() for page in pages[:2]}
        addresses = [server.url.replace("//", "//me:s3cret@") + page for page in pages]
        out = [tmp_path / "out.csv"] if arguments == ["--out"] else []
        command = ("predict", *addresses, "--model", checkpoint, "--workers", 0, *arguments, *out)
        result = run(*command)
        assert result.exit_code == 1
        told = result.output + "".join(path.read_text() for path in tmp_path.iterdir())
        assert "s3cret" not in told and "me:" not in told
        if out:
            # which are told apart, and known again
            calls = len(server.calls)
            assert len({line.split(",")[0] for line in out[0].read_text().splitlines()[1:]}) == 3
            assert run(*command).exit_code == 0 and len(server.calls) == calls


def test_csv_on_a_screen_is_that_of_a_file(monkeypatch):
    name = 'caf\udce9 "ü".mp4'
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show([Prediction(name, [{"label": LABELS[0], "score": 0.5}])], "csv")
    stream.flush()
    expected = ",".join(CSV_COLUMNS).encode() + b'\n"caf\xe9 ""\xc3\xbc"".mp4",1,fall,0.5,\n'
    assert stream.buffer.getvalue() == expected
