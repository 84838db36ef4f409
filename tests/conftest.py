# SPDX-License-Identifier: Apache-2.0
"""What all tests share: no network, the same random numbers for every test, and one tiny checkpoint."""

import faulthandler
import os
import tempfile


# read when transformers and torch are imported
os.environ["HF_HUB_OFFLINE"] = "1"
# what is known of the tests' videos is not the user's
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp()
# threads that spin while they wait make tests that share the cores several times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from tubevit_hf import TubeViTForVideoClassification

from .support.browser import find_chromium, open_browser
from .support.tiny import (
    REPO_ID,
    SMALL_TUBES,
    fill_hub_cache,
    randomize,
    tiny_config,
    tiny_video_processor,
    vit_classifier,
    write_video,
)


if TYPE_CHECKING:
    from playwright.sync_api import Browser


def count_killed_for_memory() -> int:
    """Processes that Linux killed for want of memory since it started."""
    counts = Path("/proc/vmstat")
    lines = counts.read_text().splitlines() if counts.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


killed_before = count_killed_for_memory()
# where each process of tests writes what it was doing when it crashed
CRASHES = "TUBEVIT_TEST_CRASHES"
traces = []


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(CRASHES, tempfile.mkdtemp())
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        # kept open: a crash cannot open a file
        traces.append((Path(os.environ[CRASHES]) / worker).open("w"))


def pytest_unconfigure() -> None:
    if not traces:
        shutil.rmtree(os.environ.pop(CRASHES), ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # again before each test, as what a test imports may set handlers of its own
    if traces:
        faulthandler.enable(traces[0])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says what ended a process of tests that died, where xdist says only which test ran."""
    if not error:
        return
    try:
        code = node.gateway._io.popen.wait(60)
        ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    except subprocess.TimeoutExpired:
        ended = "it runs on and does not answer"
    killed = count_killed_for_memory() - killed_before
    trace = Path(os.environ[CRASHES]) / node.gateway.id
    print(
        f"\n[{node.gateway.id}] {ended}; Linux has killed {killed} processes for want of memory meanwhile",
        trace.read_text() if trace.exists() else "",
        sep="\n",
        flush=True,
    )


@pytest.fixture(autouse=True)
def _reproducible():
    """Each test sees the same random numbers, whichever tests run before it, and leaves none of its own behind."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session", autouse=True)
def _assets():
    yield
    shutil.rmtree(os.environ["HF_ASSETS_CACHE"], ignore_errors=True)


# of a module: Playwright's event loop runs while it is open, and lets tests of others start none
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    if not os.environ.get("CI"):
        pytest.importorskip("playwright")
    path = find_chromium()
    if path is None:
        reason = "there is no Chromium here; `apt-get install chromium` brings one."
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with open_browser(path) as found:
        yield found


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A saved `TubeViTForVideoClassification` with its video processor, which writes the image processor too."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tubevit-tiny"
    config = tiny_config(use_cls_token=True, num_register_tokens=2, gate_layer=1)
    randomize(TubeViTForVideoClassification(config)).save_pretrained(folder)
    tiny_video_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> list[str]:
    """Three .mp4 files that are not square and differ in length and size; the last has fewer frames than a clip."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = [(20, 48, 72), (13, 64, 96), (5, 90, 60)]
    return [str(write_video(folder / f"{index}.mp4", *size, seed=index)) for index, size in enumerate(sizes)]


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> list[str]:
    """Two image files that are not square and differ in size."""
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for index, (height, width) in enumerate([(50, 75), (83, 47)]):
        pixels = np.random.default_rng(index).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        paths.append(str(folder / f"{index}.png"))
    return paths


@pytest.fixture(scope="session")
def hub_cache(checkpoint, tmp_path_factory) -> Path:
    """A Hub cache that holds the checkpoint as `REPO_ID`."""
    cache = tmp_path_factory.mktemp("hub")
    fill_hub_cache(cache, REPO_ID, checkpoint)
    return cache


@pytest.fixture
def vit(tmp_path) -> Path:
    """An image classifier of Transformers, 24 wide."""
    randomize(vit_classifier(), std=0.3).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def small(tmp_path) -> Path:
    """A trained TubeViT of half the width, one of whose tubes uses space-to-depth already."""
    config = tiny_config(
        hidden_size=12,
        num_attention_heads=2,
        image_size=32,
        num_frames=8,
        tubes=[{**SMALL_TUBES[0], "space_to_depth": [2, 1, 1]}, *SMALL_TUBES[1:]],
    )
    randomize(TubeViTForVideoClassification(config)).save_pretrained(tmp_path / "small")
    return tmp_path / "small"
