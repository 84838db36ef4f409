# SPDX-License-Identifier: Apache-2.0
"""The page about the examples: each has a row, and its commands have arguments that there are."""

import dataclasses
import re
import shlex
import subprocess
import sys

import pytest
from transformers import TrainingArguments

from tubevit_hf.data.moving_digits import create_moving_digits
from tubevit_hf.training.arguments import ClipArguments

from .test_examples import EXAMPLES


PAGE = (EXAMPLES / "README.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python ")
]


def test_each_example_has_a_row():
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("notebooks/*.ipynb")]:
        assert any(f"]({path.relative_to(EXAMPLES).as_posix()})" in row for row in rows), path.name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[1])
def test_commands_have_arguments_that_there_are(command):
    source = (EXAMPLES.parent / command[1]).read_text()
    known = set(re.findall(r'add_argument\("--(\w+)"', source)) | set(re.findall(r"^    (\w+): ", source, re.M))
    if "TrainingArguments" in source:
        known |= {field.name for field in dataclasses.fields(TrainingArguments)}
    if "ClipArguments" in source:
        known |= {field.name for field in dataclasses.fields(ClipArguments)}
    given = {word.removeprefix("--") for word in command if word.startswith("--")}
    assert given and given <= known


def test_there_is_a_command_for_each_script():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert {command[1].removeprefix("examples/") for command in COMMANDS} == scripts


def test_the_demo_refuses_a_folder_of_another_size(tmp_path):
    create_moving_digits(tmp_path / "moving_digits", {"train": 1, "validation": 1})
    command = [sys.executable, EXAMPLES / "demo.py", "--folder", tmp_path, "--quick"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"Error: {tmp_path / 'moving_digits'} exists and does not hold")
    assert not (tmp_path / "config").exists()
