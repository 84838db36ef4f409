# SPDX-License-Identifier: Apache-2.0
"""`tubevit convert` and `tubevit scale-up`."""

import json
import os
import subprocess
import sys

from transformers.utils import logging
from typer.testing import CliRunner

from tubevit_hf import (
    TubeViTForVideoClassification,
    TubeViTModel,
)
from tubevit_hf.cli import app
from tubevit_hf.conversion import convert_vit, scale_up

from ..support.conversion_cases import assert_same_weights
from ..support.tiny import SMALL_TUBES, fill_hub_cache


def test_commands(vit, small, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    out = tmp_path / "out"
    result = run(app, ["convert", str(vit), "--out", str(out), "--layout", "sparse", "--num-frames", "8"])
    assert result.exit_code == 0, result.output
    assert "inflated from the patch embedding" in result.output
    expected, _ = convert_vit(vit, layout="sparse", num_frames=8)
    loaded = TubeViTForVideoClassification.from_pretrained(out)
    assert_same_weights(loaded, expected)

    result = run(app, ["convert", str(vit), "--out", str(out)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "it exists" in result.stderr

    tubes = tmp_path / "tubes.json"
    tubes.write_text(json.dumps(SMALL_TUBES))
    result = run(
        app, ["convert", str(vit), "--out", str(out), "--overwrite", "--tubes", str(tubes), "--no-classifier"]
    )
    assert result.exit_code == 0, result.output
    assert len(TubeViTModel.from_pretrained(out).config.tubes) == 3

    tubes.write_text("[{]")
    result = run(app, ["convert", str(vit), "--out", str(out), "--overwrite", "--tubes", str(tubes)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "tubes.json: it is no JSON" in result.stderr

    scale = ["scale-up", "--image-model", str(vit), "--tubes-from", str(small), "--out", str(tmp_path / "big")]
    result = run(app, [*scale, "--gate-layer", "1"])
    assert result.exit_code == 0, result.output
    assert TubeViTModel.from_pretrained(tmp_path / "big").config.gate_layer == 1
    result = run(app, [*scale, "--gate-layer", "2", "--overwrite"])
    assert result.exit_code == 2
    assert "from 0 to 1" in result.stderr
    # quiet while they load, and as before afterwards
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, has_bars)


def test_sources_and_tubes_by_repo_id(vit, small, tmp_path):
    """As downloads left them in the cache; what is not there is one line, here without a network."""
    fill_hub_cache(tmp_path / "hub", "org/vit", vit)
    fill_hub_cache(tmp_path / "hub", "org/tubevit", small)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def scale_up_by_id(tubes_from: str) -> subprocess.CompletedProcess:
        arguments = ["--image-model", "org/vit", "--tubes-from", tubes_from, "--gate-layer", "1", "--out", "big"]
        command = [sys.executable, "-c", "from tubevit_hf.cli import main; main()", "scale-up", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    missing = scale_up_by_id("org/missing")
    assert missing.returncode == 2
    assert missing.stderr.startswith("Error: org/missing: it is no TubeViT that can be read")
    assert missing.stderr.count("\n") == 1
    assert not (tmp_path / "big").exists()

    assert scale_up_by_id("org/tubevit").returncode == 0
    expected, _ = scale_up(vit, small, gate_layer=1)
    loaded = TubeViTForVideoClassification.from_pretrained(tmp_path / "big")
    assert_same_weights(loaded, expected)
