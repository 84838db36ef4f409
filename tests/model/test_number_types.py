# SPDX-License-Identifier: Apache-2.0
"""A CPU that only imitates bfloat16 is told of, where bfloat16 is asked for."""

import logging

import pytest
import torch
from transformers import TrainingArguments
from transformers.utils import logging as transformers_logging

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.model import number_types_tubevit as number_types
from tubevit_hf.training import VideoTrainer


MESSAGE = "this CPU has no units for bfloat16. A matrix product took 6.5 times as long"


@pytest.fixture
def warnings(monkeypatch, caplog) -> pytest.LogCaptureFixture:
    """What is warned of on a CPU without units, whose products take 6.5 times as long in bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.setattr(number_types, "seconds_of_product", lambda dtype: 6.5 if dtype == torch.bfloat16 else 1.0)
    monkeypatch.setattr(transformers_logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(number_types, "logger", logging.getLogger("transformers.tubevit"))
    monkeypatch.setattr(logging.Logger, "warning_once", logging.Logger.warning, raising=False)
    number_types.bfloat16_slowdown.cache_clear()
    yield caplog
    number_types.bfloat16_slowdown.cache_clear()


def test_a_model_that_is_loaded_in_bfloat16(checkpoint, warnings):
    TubeViTForVideoClassification.from_pretrained(checkpoint)
    assert MESSAGE not in warnings.text
    TubeViTForVideoClassification.from_pretrained(checkpoint, dtype=torch.bfloat16)
    assert f"The model is in bfloat16: {MESSAGE}" in warnings.text
    assert "Use float32; to be faster than that, `tubevit export --int8`" in warnings.text


def test_training_in_bfloat16(checkpoint, warnings, tmp_path):
    model = TubeViTForVideoClassification.from_pretrained(checkpoint)
    VideoTrainer(model, TrainingArguments(tmp_path, use_cpu=True))
    assert MESSAGE not in warnings.text
    VideoTrainer(model, TrainingArguments(tmp_path, use_cpu=True, bf16=True))
    assert f"`bf16`: {MESSAGE}" in warnings.text


def test_no_warning_where_there_are_units_or_it_is_no_slower(checkpoint, warnings, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(number_types, "seconds_of_product", lambda dtype: 1.0 if dtype == torch.float32 else 0.9)
        number_types.warn_of_emulation("x")
    number_types.bfloat16_slowdown.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    number_types.warn_of_emulation("x")
    assert warnings.text == ""


def test_devices_that_are_no_cpu():
    assert number_types.has_bfloat16_units(torch.device("mps"))
    assert number_types.seconds_of_product(torch.float32) > 0
