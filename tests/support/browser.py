# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, by Playwright, that opens a page as people do: on a phone or a desk, light or dark.

    python -m tests.support.browser PAGE FOLDER

writes a picture of the page (a file or an address) in each of these into FOLDER, to look at, and prints what axe finds
wrong with it for people who use it by keys or a screen reader.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


NAMES = ("chromium", "chromium-browser", "google-chrome")
# of the window, in CSS pixels
SCREENS = {"phone": (390, 844), "desk": (1280, 900)}
THEMES = ("light", "dark")
# of what axe finds; its others are "minor" and "moderate"
SERIOUS = ("serious", "critical")


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    # here, so that tests without a browser need none
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # root, as in containers, has no sandbox; what is opened here is our own
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, what it has asked for besides itself, and what the browser complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def load_pictures(self) -> None:
        """Those beyond the window too, which wait until somebody scrolls there."""
        self.page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        self.page.evaluate("Promise.all(Array.from(document.images, image => image.decode()))")

    def take_picture(self, path: Path) -> None:
        """All of the page, not only what a window shows."""
        self.load_pictures()
        self.page.screenshot(path=path, full_page=True)

    def list_faults(self) -> list[str]:
        """What axe calls serious or critical, with the first place where it stands."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{fault['id']} ({len(fault['nodes'])}): {fault['help']}: {fault['nodes'][0]['html'][:300]}"
            for fault in found
            if fault["impact"] in SERIOUS
        ]


@contextmanager
def visit(browser: Browser, page: Path | str, screen: str = "desk", theme: str = "light") -> Iterator[Visit]:
    """A stranger with nothing in the browser's memory; `page` is a file or an address."""
    width, height = SCREENS[screen]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        is_mobile=screen == "phone",
        has_touch=screen == "phone",
    )
    # the machine may be busy
    context.set_default_timeout(120_000)
    opened = Visit(context.new_page())
    address = page.absolute().as_uri() if isinstance(page, Path) else page
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.on(
        "console",
        lambda message: opened.complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.goto(address)
    # what is within the page is not asked for
    opened.requests[:] = [url for url in opened.requests if not url.startswith("data:") and url != address]
    yield opened
    context.close()


def main() -> None:
    page, folder = sys.argv[1], Path(sys.argv[2])
    chromium = find_chromium()
    if chromium is None:
        sys.exit(f"There is none of {', '.join(NAMES)} here.")
    folder.mkdir(parents=True, exist_ok=True)
    with open_browser(chromium) as browser:
        for screen in SCREENS:
            for theme in THEMES:
                with visit(browser, Path(page) if os.path.exists(page) else page, screen, theme) as opened:
                    opened.take_picture(folder / f"{screen}_{theme}.png")
                    print(folder / f"{screen}_{theme}.png", *opened.list_faults(), sep="\n    ")


if __name__ == "__main__":
    main()
