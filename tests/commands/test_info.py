# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""`tubevit info`, and what is no command."""

import pytest
from typer.testing import CliRunner

from tubevit_hf.cli import app


def test_info_prints_parameters_tokens_and_the_papers_figures():
    result = CliRunner().invoke(app, ["info", "b"])
    assert result.exit_code == 0
    for expected in ("539", "85.06", "2.66", "2.36", "90.38", "86 M", "90 M", "0.87"):
        assert expected in result.output
    result = CliRunner().invoke(app, ["info", "L", "--num-frames", "64"])
    for expected in ("1,176", "302.31", "311 M"):
        assert expected in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "XXL"], "choose one of Ti, S, B, L, H"),
        (["info", "B", "--num-frames", "0"], "--num-frames"),
        (["info", "B", "--num-frames", "many"], "--num-frames"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_arguments_exit_with_2(arguments, message):
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_help_suffices():
    result = CliRunner().invoke(app, ["info", "--help"])
    assert result.exit_code == 0
    for expected in ("Ti, S, B, L, H", "--num-frames", "--image-size", "--num-labels"):
        assert expected in result.output
