# SPDX-License-Identifier: Apache-2.0
"""Help comes without PyTorch and Transformers, and Python alone without them too."""

import subprocess
import sys

import pytest

from tubevit_hf.cli import app


COMMANDS = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
HEAVY = ("torch", "transformers", "torchvision", "datasets", "av", "numpy")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    code += f"\nimport sys; print('imported:', *[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda arguments: " ".join(arguments))
def test_help_imports_no_heavy_library(arguments):
    code = "from tubevit_hf.cli import app\ntry: app()\nexcept SystemExit: pass"
    output = run(code, *arguments, "--help").stdout
    assert "Usage:" in output
    assert output.endswith("imported:\n")


def test_commands():
    assert [
        *("info", "convert", "scale-up", "train", "pretrain", "predict", "embed", "probe"),
        *("search", "timeline", "explain", "visualize", "report", "export", "plan", "doctor"),
    ] == COMMANDS


@pytest.mark.parametrize("order", ["tubevit_hf, transformers", "transformers, tubevit_hf"])
def test_classes_are_registered_whichever_is_imported_first(order):
    code = (
        f"import {order}\nconfig = transformers.AutoConfig.for_model('tubevit', num_hidden_layers=1)\n"
        "print(type(transformers.AutoModelForVideoClassification.from_config(config)).__module__)"
    )
    assert run(code).stdout.startswith("tubevit_hf.model.modeling_tubevit\n")


def test_the_package_by_itself_is_cheap():
    assert run("import tubevit_hf; print(tubevit_hf.__version__, 'TubeViTModel' in dir(tubevit_hf))").stdout == (
        "0.1.0 True\nimported:\n"
    )
