# SPDX-License-Identifier: Apache-2.0
"""A checkpoint carries the code that loads it: it must work, with the same answers, where the package is missing."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_relative_imports

import tubevit_hf
from tubevit_hf import TubeViTForPreTraining

from ..support import checkpoint_answers
from ..support.tiny import REPO_ID, randomize, tiny_config


SHIPPED = sorted(Path(tubevit_hf.__file__).with_name("model").glob("*_tubevit.py"))
ALLOWED = {"PIL", "av", "huggingface_hub", "numpy", "safetensors", "torch", "torchvision", "transformers"}


@pytest.fixture(scope="module")
def answers(checkpoint, videos, images):
    """What this process, where the package is imported, says."""
    tensors, texts, _ = checkpoint_answers.collect(str(checkpoint), videos, images)
    return tensors, texts


def run_elsewhere(reference, folder, videos, images, *arguments, hub_cache=None):
    """Runs `checkpoint_answers.py` in a process with empty caches but `hub_cache`; returns the folder of answers."""
    output = folder / "answers"
    output.mkdir()
    home = folder / "home"
    caches = {"HF_HOME": home, "HF_HUB_CACHE": hub_cache or home / "hub", "HF_MODULES_CACHE": home / "modules"}
    command = [sys.executable, checkpoint_answers.__file__, reference, output, "--videos", *videos]
    result = subprocess.run(
        [*map(str, command), "--images", *images, *map(str, arguments)],
        env={**os.environ, **{name: str(path) for name, path in caches.items()}},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return output


def assert_same_answers(output, name, expected):
    tensors, texts = load_file(output / f"{name}.safetensors"), json.loads((output / f"{name}.json").read_text())
    expected_tensors, expected_texts = expected
    assert tensors.keys() == expected_tensors.keys()
    for key, value in expected_tensors.items():
        assert torch.equal(tensors[key], value), f"{key} differs by up to {(tensors[key] - value).abs().max()}"
    for key, value in expected_texts.items():
        assert texts[key] == value, key
    return texts


@pytest.mark.parametrize("source", ["folder", "repo_id"])
def test_answers_where_the_package_is_missing(source, answers, checkpoint, hub_cache, videos, images, tmp_path):
    saved_again = tmp_path / "saved-again"
    reference, cache = (checkpoint, None) if source == "folder" else (REPO_ID, hub_cache)
    output = run_elsewhere(reference, tmp_path, videos, images, "--save-to", saved_again, hub_cache=cache)

    for name in ("first", "again"):
        texts = assert_same_answers(output, name, answers)
        assert "trust_remote_code=True" in texts["refusal"]
        # all of it came out of the checkpoint
        assert texts["imported"]
        assert all(module.startswith("transformers_modules.") for module in texts["imported"])
        origin = "saved_hyphen_again" if name == "again" else {"folder": "tubevit_hyphen_tiny"}.get(source, "org.")
        for module in texts["modules"].values():
            assert module.startswith(f"transformers_modules.{origin}"), module

    # the second checkpoint is the first, byte by byte
    files = {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in saved_again.iterdir() if path.name != "__pycache__"} == files
    for name in files:
        assert (saved_again / name).read_bytes() == (checkpoint / name).read_bytes(), name


def test_answers_by_repo_id_where_the_package_is_imported(answers, hub_cache, videos, images, tmp_path):
    output = run_elsewhere(REPO_ID, tmp_path, videos, images, "--import-package", hub_cache=hub_cache)
    texts = assert_same_answers(output, "first", answers)
    # the package wins over the checkpoint's code
    assert all(module.split(".")[0] == "tubevit_hf" for module in texts["imported"])


def test_blocker_blocks():
    # the tests above show nothing if the package can be imported after all
    code = (
        f"import sys; sys.path.insert(0, {str(Path(checkpoint_answers.__file__).parent)!r})\n"
        "from checkpoint_answers import Blocker; sys.meta_path.insert(0, Blocker)\n"
        "import tubevit_hf.model.tubes_tubevit"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'tubevit_hf'" in result.stderr


def test_pretraining_where_the_package_is_missing(tmp_path):
    model = TubeViTForPreTraining(tiny_config(pretraining={"target": "pixels", "decoder_layers": 1}))
    folder, cache = tmp_path / "tubevit-tiny", tmp_path / "modules"
    randomize(model).save_pretrained(folder)
    clip = torch.randn(1, 7, 3, 40, 56)
    tokens = {"visible_tokens": torch.arange(60), "target_tokens": torch.arange(50, 74)}
    save_file({"clip": clip, **tokens}, tmp_path / "inputs.safetensors")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(checkpoint_answers.__file__).parent)!r})\n"
        "from checkpoint_answers import Blocker; sys.meta_path.insert(0, Blocker)\n"
        "from safetensors.torch import load_file, save_file\n"
        "from transformers import AutoModel, AutoModelForPreTraining\n"
        f"inputs = load_file({str(tmp_path / 'inputs.safetensors')!r})\n"
        "clip = inputs.pop('clip')\n"
        f"model = AutoModelForPreTraining.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"encoder = AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "answers = {'predictions': model(clip, **inputs).predictions, 'pooled': encoder(clip).pooler_output}\n"
        f"save_file(answers, {str(tmp_path / 'answers.safetensors')!r})"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    answers = load_file(tmp_path / "answers.safetensors")
    assert torch.equal(answers["predictions"], model(clip, **tokens).predictions)
    assert torch.equal(answers["pooled"], model.tubevit(clip).pooler_output)


def test_checkpoint_holds_all_shipped_files(checkpoint):
    # the processor without torchvision is not named by a checkpoint
    expected = {path.name for path in SHIPPED} - {"image_processing_pil_tubevit.py"}
    assert {path.name for path in checkpoint.glob("*.py")} == expected
    assert len(expected) == 32


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_self_contained(path):
    siblings = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"line {node.lineno} reaches above the folder"
            # transformers silently leaves out `from . import x`, and refuses `from .a.b import x`
            assert node.module, f"line {node.lineno} imports a module, not a name of it"
            assert path.with_name(f"{node.module}.py") in SHIPPED, node.module
            siblings.add(node.module)
            continue
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            assert top in ALLOWED or top in sys.stdlib_module_names, f"line {node.lineno} imports {module}"
    # transformers reads the files line by line, docstrings included: it must find the same siblings
    assert set(get_relative_imports(path)) == siblings
