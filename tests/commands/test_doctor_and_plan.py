# SPDX-License-Identifier: Apache-2.0
"""`tubevit doctor` and `tubevit plan`."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tubevit_hf.cli import app
from tubevit_hf.commands import doctor
from tubevit_hf.training import planning


def run(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_doctor_measures_and_advises():
    result = run("doctor")
    assert result.exit_code == 0
    assert re.search(r"float32 +│[^│]*│ +[1-9]\d* +│ 1\.00", result.output)
    assert f"torch {torch.__version__.split('+')[0]}" in result.output
    assert "On the CPU" in result.output


def test_doctor_advises_what_was_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert any("bfloat16 is 3.8 times as fast" in line for line in doctor.advise(3.8, True))
    assert any("use float32" in line for line in doctor.advise(0.2, False))
    assert any("use float32" in line for line in doctor.advise(0.9, True))
    monkeypatch.setattr(doctor, "version_of", lambda package: "not installed")
    assert any('pip install "tubevit_hf[openvino]"' in line for line in doctor.advise(1, False))
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert any("OMP_WAIT_POLICY=passive" in line for line in doctor.advise(1, False))


def test_plan(videos):
    result = run("plan", "ssv2-b", "--gpus", 4, "--gpus", 16, "--teraflops", 500, "--share", 0.5)
    assert result.exit_code == 0
    assert "4 GPUs" in result.output and "16 GPUs" in result.output
    assert "give --videos FOLDER" in result.output
    # 76.8 M clips of three times a forward pass, over 250 TFLOP/s
    forward = sum(planning.count_flops(planning.RECIPES["ssv2-b"].make_config(num_labels=174)).values())
    hours = 3 * forward * 300_000 * 256 / 250e12 / 3600
    assert f"{hours:,.0f}" in result.output
    assert f"{hours / 24 / 4:.2f}" in result.output and f"{hours / 24 / 16:.2f}" in result.output


def test_plan_measures_reading(videos, monkeypatch):
    monkeypatch.setattr(planning.measure_reading, "__defaults__", (0.1,))
    result = run("plan", "ssv2-b", "--gpus", 8, "--videos", Path(videos[0]).parent)
    assert result.exit_code == 0, result.output
    assert re.search(r"decoding cores a GPU +│ \d+", result.output)
    reading = planning.ReadingRate(clips_per_second=10, bytes_per_video=2**20)
    plan = planning.make_plan("k400-b", 8, 989, 0.4, reading)
    assert plan.cores_per_gpu == plan.clips_per_second / 10
    assert plan.storage_bytes == 240_000 * 2**20
    assert plan.memory_bytes == plan.state_bytes + 32 * plan.activation_bytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no recipe 'nothing'; there are k400-b"),
        (["k400-b", "--share", 1.5], "a share of it above 0 and up to 1, got 8, 989.0 and 1.5"),
        (["k400-b", "--gpus", 0], "needs one GPU or more"),
        (["k400-b", "--teraflops", -1], "a rate above 0"),
    ],
)
def test_bad_plans_end_in_one_line(arguments, message):
    result = run("plan", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_what_autograd_keeps_is_what_it_keeps():
    """Imitated tensors against real ones, in a batch of two less a batch of one."""
    config = planning.RECIPES["ssv2-b"].make_config(
        num_hidden_layers=2, hidden_size=48, num_attention_heads=4, intermediate_size=96, num_labels=3
    )

    def kept(batch_size: int) -> int:
        found = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model = planning.TubeViTForVideoClassification(config).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16):
                # alive while it is counted
                outputs = model(torch.randn(batch_size, 32, 3, 224, 224))
            assert outputs.logits.requires_grad
        return sum(found.values())

    assert planning.count_activations(config) == kept(2) - kept(1)
