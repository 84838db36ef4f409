# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium that opens a page as people do: on a phone or a desk, light or dark.

    python -m tests.support.chromium page.html FOLDER

writes a picture of the page in each of these into FOLDER, to look at. Chromium is spoken to by its DevTools protocol
through pipes, which needs no library.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from pathlib import Path


NAMES = ("chromium", "chromium-browser", "google-chrome")
# of the window, in CSS pixels
SCREENS = {"phone": (390, 844), "desk": (1280, 900)}
THEMES = ("light", "dark")
# a page of this height is caught in one picture
MAX_HEIGHT = 16_000
# that an answer may take
SECONDS = 60


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One window. Use it as a context manager."""

    def __init__(self, path: str):
        self.path = path
        self.number = 0
        self.events: list[dict] = []
        self.session: str | None = None

    def __enter__(self) -> "Chromium":
        self.folder = tempfile.mkdtemp()
        their_in, self.out = os.pipe()
        self.into, their_out = os.pipe()
        self.buffer = bytearray()
        # Chromium reads from 3 and writes to 4; first out of the way of these numbers
        free = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (their_in, their_out)]
        command = [
            self.path,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.folder}",
            "about:blank",
        ]
        actions = [
            (os.POSIX_SPAWN_DUP2, free[0], 3),
            (os.POSIX_SPAWN_DUP2, free[1], 4),
            *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)),
        ]
        self.process = os.posix_spawn(self.path, command, os.environ, file_actions=actions)
        for descriptor in (their_in, their_out, *free):
            os.close(descriptor)
        pages = [target for target in self.ask("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        attached = self.ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.session = None
        try:
            self.ask("Browser.close")
        except RuntimeError:
            os.kill(self.process, signal.SIGKILL)
        finally:
            os.waitpid(self.process, 0)
            os.close(self.out)
            os.close(self.into)
            # helpers of it may still be writing there
            shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method: str, **parameters: object) -> dict:
        """Sends a command and waits for its answer; what happens in between is in `events`."""
        self.number += 1
        message: dict = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.into], [], [], SECONDS)
            data = os.read(self.into, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("Chromium has ended." if ready else f"Chromium has said nothing for {SECONDS} s.")
            self.buffer += data
        message, _, rest = self.buffer.partition(b"\0")
        self.buffer = rest
        return json.loads(message)

    def open(self, page: Path, screen: str, theme: str) -> None:
        """Shows a page, with all of its pictures, and waits until it is complete."""
        width, height = SCREENS[screen]
        on_phone = screen == "phone"
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=on_phone
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.events.clear()
        answer = self.ask("Page.navigate", url=page.absolute().as_uri())
        if "errorText" in answer:
            raise RuntimeError(f"{page}: {answer['errorText']}")
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def evaluate(self, expression: str) -> object:
        """The value of an expression of JavaScript, of which a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """What the page has asked for, but for what is within itself."""
        urls = [event["params"]["request"]["url"] for event in self.of("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """What the browser logged about the page."""
        return [event["params"]["entry"]["text"] for event in self.of("Log.entryAdded")]

    def of(self, method: str) -> list[dict]:
        return [event for event in self.events if event.get("method") == method]

    def picture(self, path: Path) -> None:
        """All of the page, not only what a window shows."""
        # pictures beyond the window are not loaded before somebody scrolls there
        self.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        self.evaluate("Promise.all(Array.from(document.images, image => image.decode()))")
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], MAX_HEIGHT), "scale": 1}
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))


def main() -> None:
    page, folder = map(Path, sys.argv[1:])
    chromium = find_chromium()
    if chromium is None:
        sys.exit(f"There is none of {', '.join(NAMES)} here.")
    with Chromium(chromium) as browser:
        for screen in SCREENS:
            for theme in THEMES:
                browser.open(page, screen, theme)
                browser.picture(folder / f"{screen}_{theme}.png")
                print(folder / f"{screen}_{theme}.png")


if __name__ == "__main__":
    main()
