# SPDX-License-Identifier: Apache-2.0
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
