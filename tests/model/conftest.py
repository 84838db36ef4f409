# SPDX-License-Identifier: Apache-2.0
"""What the tests of compiled models share."""

import os

import pytest
import torch


@pytest.fixture
def fresh_compiler():
    """What one test compiled must not count against the recompile limit of the next."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def cuda():
    """Skips where there is no GPU, unless `FAIL_WITHOUT_CUDA=1` says that there must be one."""
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            pytest.fail("FAIL_WITHOUT_CUDA=1, but torch finds no CUDA device")
        pytest.skip("needs a GPU")
    return torch.device("cuda")
