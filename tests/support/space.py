# SPDX-License-Identifier: Apache-2.0
"""The page of examples/space, run as `make space` does, and visitors of it.

    python -m tests.support.space demo docs/images

writes the pictures of docs/space.md: what visitors at a desk and with a phone see of a video that `make demo` left in
the folder `demo`.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from PIL import Image

from tubevit_hf.inference import load_model, predict_files

from .browser import Visit, find_chromium, open_browser, visit


if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SPACE = Path(__file__).parents[2] / "examples" / "space"
# that an answer of a small model may take at most, in milliseconds, however busy the machine is
PATIENCE = 120_000
http = httpx.Client(timeout=PATIENCE / 1000)
# of a picture, in pixels: what is below shows more of the same
HEIGHTS = {"desk": 1300, "phone": 1500}


@dataclass
class Server:
    """The page, run as `make space` does, with a folder for temporary files of its own."""

    process: subprocess.Popen
    url: str
    folder: Path

    def list_files(self) -> list[str]:
        """What visitors have left."""
        return [str(path) for path in self.folder.rglob("*") if path.is_file() and path.name != "vibe_edit_history"]

    def list_decoders(self) -> list[int]:
        return [
            pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if read_parent(pid) == self.process.pid
        ]

    def list_open_files(self) -> list[str]:
        """Visitors' files that the server, or a process that decodes for it, has open."""
        found = []
        for pid in (self.process.pid, *self.list_decoders()):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    found.append(os.readlink(link))
                except OSError:
                    continue
        return [path for path in found if path.startswith(f"{self.folder}/")]


def read_parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def hold_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile. On Linux a server may bind it all the same, with `SO_REUSEADDR` as
    Gradio's does, since this socket does not listen."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def serving(model: Path, folder: Path, *options: object) -> Iterator[Callable[[], Server]]:
    """Starts the page at once; what is given waits until it is there."""
    folder.mkdir()
    command = [sys.executable, SPACE / "app.py", model, *options]
    environment = {**os.environ, "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    log = folder.with_suffix(".log")

    def wait() -> Server:
        for _ in range(3600):
            if found := re.search(r"The page is at (http\S+)", log.read_text()):
                return Server(process, found[1], folder)
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        raise TimeoutError(log.read_text())

    with hold_port() as port, log.open("w") as output:
        environment["GRADIO_SERVER_PORT"] = str(port)
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield wait
            server = wait()
            decoders = server.list_decoders()
            assert decoders
        finally:
            # as who runs it in a container does
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                # one that does not stop is a fault, and must not take memory from other tests
                process.kill()
    # nothing is left when it ends
    assert list(folder.glob("tubevit_space_*")) == []
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders))


def until(holds: Callable[[], bool], seconds: float = PATIENCE / 1000) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def visiting(browser: Browser, server: Server, screen: str = "desk", theme: str = "light") -> Iterator[Visit]:
    with visit(browser, server.url, screen, theme) as opened:
        opened.page.wait_for_selector("h1")
        yield opened


def send(page: Page, path: Path | str) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


def wait_for(page: Page, words: str, name: str = "") -> None:
    """Until the page says so, and what is shown is the answer for the file of this name."""
    page.wait_for_function(
        "([words, name]) => document.querySelector('.status').textContent.includes(words)"
        " && document.querySelector('.answers').textContent.includes(name)",
        arg=[words, name],
        timeout=PATIENCE,
    )


def read_answer(page: Page) -> tuple[str, str]:
    """The best label, and its score as it is written."""
    return page.locator(".scores .label").first.inner_text(), page.locator(".scores .score").first.inner_text()


def expect(model: Path, path: Path | str) -> tuple[str, str]:
    (found,) = predict_files(load_model(str(model)), [str(path)], top_k=1, num_workers=0)
    assert found.predictions is not None
    return found.predictions[0]["label"], f"{found.predictions[0]['score']:.1%}"


def main() -> None:
    demo, out = map(Path, sys.argv[1:])
    chromium = find_chromium()
    if chromium is None:
        sys.exit("There is no Chromium here.")
    videos = demo / "moving_digits" / "validation"
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(demo / "tubevit", Path(folder) / "files", "--examples", videos) as wait,
        open_browser(chromium) as browser,
    ):
        server = wait()
        for screen, theme in (("desk", "light"), ("phone", "dark")):
            with visiting(browser, server, screen, theme) as opened:
                send(opened.page, videos / "turn_left" / "0001.mp4")
                wait_for(opened.page, "Done", "0001.mp4")
                # in an animation no moment is the same; this is where most counts
                opened.page.locator(".card [type=checkbox]").check()
                opened.load_pictures()
                picture = Image.open(io.BytesIO(opened.page.screenshot(full_page=True)))
                path = out / f"space_{screen}_{theme}.webp"
                picture.crop((0, 0, picture.width, min(picture.height, HEIGHTS[screen]))).save(path, quality=85)
                print(path, f"{path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
