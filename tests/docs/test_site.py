# SPDX-License-Identifier: Apache-2.0
"""The site: built without a warning and without network, whole, and opened in a browser from the disk."""

import importlib
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from ..support.browser import SCREENS, THEMES, visit
from ..support.public_api import MODULES, public_names


ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), ROOT / "examples" / "README.md", ROOT / "SECURITY.md"])
# of the site, as a page of hand-written text, with wide tables, with signatures, with errors, with code alone
OPENED = ("index.html", "performance.html", "api/model.html", "errors.html", "examples/demo.py.html")
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<path>[^)\s]+)\)")


# anything that asks the network fails
OFFLINE = """
import socket, sys

def refuse(*arguments):
    raise OSError("the site must be built without network")

socket.create_connection = socket.getaddrinfo = socket.socket.connect = refuse
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess:
    """As `make docs` builds it."""
    arguments = ("build", "--strict", "--config-file", str(config), "--site-dir", str(folder))
    return subprocess.run([sys.executable, "-c", OFFLINE, *arguments], capture_output=True, text=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(folder)
    assert result.returncode == 0, result.stderr
    return folder


class Links(HTMLParser):
    """What a page of the site leads to, shows and loads, and where it can be entered."""

    def __init__(self, path: Path):
        super().__init__()
        self.places: set[str] = set()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if found.get("id"):
            self.places.add(found["id"])
        if tag == "a" and found.get("href"):
            self.targets.append(found["href"])
        elif tag in ("img", "script", "iframe") and found.get("src"):
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.append(found["href"])


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, Links]:
    # the page for what is not found belongs to a server, at whose root it is
    return {path: Links(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_page_is_there(site, pages):
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    named = re.findall(r"[\w/]+\.md", str(nav))
    assert len(named) == len(set(named)) > 25
    assert all(site / Path(name).with_suffix(".html") in pages for name in named)


def test_strict_means_strict(tmp_path):
    """With the site's settings a broken link or anchor, and a page that nobody finds, end the build."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    settings |= {"nav": ["index.md"], "plugins": ["search", "offline"]}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    shutil.copytree(DOCS / "theme", tmp_path / "docs" / "theme")
    for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# A page\n")
    (tmp_path / "docs" / "index.md").write_text("# A page\n\n[a](nowhere.md) [b](index.md#nothing)\n")
    (tmp_path / "docs" / "lost.md").write_text("# A page\n")
    result = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert result.returncode != 0
    for complaint in ("nowhere.md", "#nothing", "lost.md"):
        assert complaint in result.stderr, result.stderr


def test_links_and_anchors_lead_somewhere(site, pages):
    broken, away = [], set()
    for path, links in pages.items():
        for target in links.targets:
            if target.startswith("data:image/"):
                # a notebook's pictures are in its page
                continue
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                away.add(target)
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not place.is_file() or (parts.fragment and unquote(parts.fragment) not in pages[place].places):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert not broken, "\n".join(broken)
    # others are not asked whether they are there
    assert all(re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", target) for target in away), away


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, links in pages.items():
        for target in links.loaded:
            if target.startswith("data:image/"):
                # a notebook's pictures are in its page
                continue
            parts = urlsplit(target)
            assert not parts.scheme and not parts.netloc, f"{path.relative_to(site)} loads {target}"
            assert (path.parent / unquote(parts.path)).resolve().is_file(), f"{path.relative_to(site)}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text("utf-8")), sheet


def test_what_the_repository_has_is_in_the_site(site, pages):
    """Files outside docs/ that pages link to, byte for byte or on a page that shows them."""
    linked = {
        (page.parent / path).resolve()
        for page in [*DOCS.rglob("*.md"), ROOT / "examples" / "README.md"]
        for path in re.findall(r"\]\((?!https?://)([^)#\s]+)", page.read_text("utf-8"))
    }
    outside = [path for path in linked if not path.is_relative_to(DOCS) and path.suffix != ".md"]
    assert len(outside) > 15
    for path in outside:
        name = path.relative_to(ROOT)
        if (site / name).exists():
            assert (site / name).read_bytes() == path.read_bytes()
        else:
            assert site / f"{name}.html" in pages, name


def test_every_public_name_has_one_place():
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = Counter(place_of(*path.rsplit(".", 1)) for path in re.findall(r"(?m)^::: (\S+)$", pages))
    wanted = {place_of(module, name) for module in MODULES for name in public_names(importlib.import_module(module))}
    assert wanted - set(documented) == set(), "give each a line `::: NAME` in a page of docs/api/"
    assert set(documented) - wanted == set(), "these lines of docs/api/ name nothing public"
    assert [place for place, count in documented.items() if count > 1] == []


def place_of(module: str, name: str) -> str:
    """Where a class or function is written; a constant is where it is imported from."""
    value = getattr(importlib.import_module(module), name)
    written = getattr(value, "__module__", None)
    if not str(written).startswith("tubevit_hf") or not hasattr(value, "__qualname__"):
        return f"{module}.{name}"
    return f"{written}.{value.__qualname__}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_say_what_they_show_and_what_makes_them(page):
    """In words for those who do not see them, and by a command in the same section."""
    for section in re.split(r"(?m)^#+ ", page.read_text("utf-8")):
        for match in PICTURE.finditer(section):
            assert len(match["alt"]) > 20 and not match["alt"].endswith(".png"), match["path"]
            assert re.search(r"`python benchmarks/|tubevit \w+ |make (demo|bench)|draw_\w+\(", section), match["path"]


def test_pages_open_from_the_disk(site, browser):
    """Without a request elsewhere or a complaint of the browser, with all pictures, no wider than the window."""
    for name in OPENED:
        for screen in SCREENS:
            with visit(browser, site / name, screen) as opened:
                opened.load_pictures()
                assert opened.complaints == []
                assert all(url.startswith(site.as_uri()) for url in opened.requests), opened.requests
                assert opened.page.evaluate("Array.from(document.images).every(image => image.naturalWidth > 0)")
                width = opened.page.evaluate("document.documentElement.scrollWidth")
                assert width <= SCREENS[screen][0], f"{name} is {width} pixels wide on a {screen}"


def test_themes_follow_the_system_and_can_be_chosen(site, browser):
    # of the background, from 0 to 255
    lightness = "Math.min(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3))"
    for theme in THEMES:
        with visit(browser, site / "index.html", theme=theme) as opened:
            assert (opened.page.evaluate(lightness) > 128) == (theme == "light")
    with visit(browser, site / "index.html", theme="light") as opened:
        for _ in range(2):
            opened.page.locator("form[data-md-component=palette] label:visible").click()
        assert opened.page.evaluate(lightness) < 128


@pytest.mark.parametrize("screen", SCREENS)
def test_search_finds_a_word(site, browser, screen):
    with visit(browser, site / "api" / "model.html", screen) as opened:
        page = opened.page
        if screen == "phone":
            page.locator("label.md-header__button[for=__search]").click()
        page.locator(".md-search__input").click()
        page.keyboard.type("inflated")
        results = page.locator(".md-search-result__item a")
        results.first.wait_for(state="visible")
        page.locator(".md-search-result__item a[href*='conversion.html?h=inflated']").first.click()
        page.wait_for_load_state()
        assert page.locator("article mark").count() > 0
        assert all(url.startswith(site.as_uri()) for url in opened.requests if not url.startswith("about:"))


@pytest.mark.parametrize("name", ["index.html", "few_videos.html"])
def test_pages_are_for_everybody(site, browser, name):
    for screen, theme in (("desk", "light"), ("phone", "dark")):
        with visit(browser, site / name, screen, theme) as opened:
            assert opened.list_faults() == []
