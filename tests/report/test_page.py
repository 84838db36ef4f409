# SPDX-License-Identifier: Apache-2.0
"""The page: whole, of itself, for every reader; and opened in a browser, on a phone and a desk, light and dark."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tubevit_hf.inference import load_model
from tubevit_hf.report import make_report, render_page
from tubevit_hf.report.filmstrips import NUM_CLIPS, NUM_FRAMES, Moment, Strip, encode
from tubevit_hf.report.history import Choice, History
from tubevit_hf.report.page import mark_code

from ..support.browser import SCREENS, THEMES, visit
from .conftest import make_measurement


CSS = (files("tubevit_hf.report") / "templates" / "page.css").read_text(encoding="utf-8")
# of text and what is behind it, by WCAG 2.2, level AA
CONTRAST = 4.5
HISTORY = History(
    {
        "loss": {"training": [(10, 2.0), (20, 1.0), (30, 0.5)], "validation": [(10, 2.1), (30, 0.9)]},
        "accuracy": {"validation": [(10, 0.3), (30, 0.8)]},
    },
    "layers 6+8, means+differences",
    [Choice("layers 6+8, means+differences", 0.98, 0.3, False), Choice("layers 6, means", 0.85, 0.6, True)],
    ["Held-out training videos: 97.9% right."],
    "a ViT",
    {"train": 96, "validation": 24},
    "by group",
    {"train": {"class 0": 40}, "validation": {"class 1": 3}},
)


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text of all."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def strips(measurement, number: int = 2) -> list[Strip]:
    # noise, which nothing is larger than
    picture = torch.randint(0, 256, (2 * 224, 224, 3)).float()
    address, width, height = encode(picture, 2)
    moments = [Moment(0.3 * place, address, width, height, 0.1 * place - 0.3) for place in range(NUM_FRAMES)]
    return [Strip(video, moments, explained=True) for video in measurement.mistakes[:number]]


def render(measurement) -> str:
    found = strips(measurement)
    return render_page(measurement, found[:1], found[1:])


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
@pytest.mark.parametrize("num_labels", [4, 40])
def test_page_is_whole(several, num_labels):
    measurement = make_measurement(num_videos=200, num_labels=num_labels, several=several, skill=1.0, history=HISTORY)
    text = render(measurement)
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert "width=device-width" in page.all("meta")[1]["content"]
    # headings in order, one of the first rank
    ranks = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert ranks[0] == 1 and ranks.count(1) == 1
    assert all(rank <= before + 1 for before, rank in pairwise(ranks))
    # links of the page lead somewhere in it
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"] for link in page.all("a")} <= {f"#{place}" for place in places}
    assert len(page.all("a")) == len(places)
    assert len(page.all("img")) == 16
    assert all(image["alt"] and image["width"] and image["height"] for image in page.all("img"))
    assert all(picture["aria-label"] and picture["role"] == "img" for picture in page.all("svg"))
    # what scrolls can be reached by keys, and has a name
    boxes = [attributes for _, attributes in page.tags if "scroll" in (attributes.get("class") or "").split()]
    assert boxes and all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert all(cell["scope"] for cell in page.all("th"))
    has_matrix = num_labels == 4 and not several
    assert ("matrix" in [table.get("class") for table in page.all("table")]) == has_matrix
    assert ("average precision" in page.text) == several
    for one in measurement.classes:
        assert one.label in page.text
    assert f"{measurement.accuracy.value:.1%}" in page.text
    assert "None" not in page.text and "nan" not in page.text


def test_page_needs_nothing_but_itself():
    text = render(make_measurement(history=HISTORY))
    page = Page(text)
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster") and value is not None
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/")) for address in addresses)
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "@import" not in text and "url(" not in text
    assert page.all("script") == [] and page.all("link") == []
    [policy] = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_names_of_files_and_classes_are_text():
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    measurement = make_measurement()
    videos = [replace(video, file=f"a/{evil}{index}.mp4") for index, video in enumerate(measurement.videos)]
    measurement = replace(
        measurement,
        model=evil,
        data=evil,
        how=evil,
        labels=[evil, *measurement.labels[1:]],
        warnings=[evil],
        failed=[evil],
        limits=[evil],
        videos=videos,
    )
    page = Page(render(measurement))
    assert page.all("script") == []
    assert {image["src"][:11] for image in page.all("img")} == {"data:image/"}
    assert page.text.count("alert(1)") >= 6


def test_numbers_are_those_of_the_measurement():
    measurement = make_measurement(skill=1.0)
    text = Page(render(measurement)).text
    assert f"{measurement.accuracy.count} of {measurement.accuracy.of} videos right" in text
    share = measurement.best_interval
    assert f"{100 * share.low:.1f} to {100 * share.high:.1f}%" in text
    assert f"{measurement.calibration.error:.1%}" in text
    assert "12.5 ms a video, to open" in text and "34.5 ms a video" in text and "1,234,567" in text
    rows = re.findall(r'<td class="shade\d[^"]*">(\d+)</td>', render(measurement))
    assert [int(number) for number in rows] == [count for row in measurement.confusion for count in row]


def test_commands_can_be_typed_as_they_are():
    measurement = make_measurement(model="my models/it's")
    text = Page(render(measurement)).text
    assert """tubevit predict FOLDER --model 'my models/it'"'"'s' --out labels.csv""" in text


def colours() -> Iterator[tuple[str, dict[str, str]]]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.S)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    yield "light", found
    yield "dark", {**found, **dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark))}


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("theme", "palette"), list(colours()), ids=THEMES)
def test_contrast(theme, palette):
    pairs = [(text, behind) for text in ("text", "muted", "accent") for behind in ("page", "raised")]
    pairs += [("text", f"shade{number}") for number in (1, 2, 3)] + [("on-shade4", "shade4"), ("muted", "page")]
    for text, behind in pairs:
        brighter, darker = sorted((luminance(palette[text]), luminance(palette[behind])), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= CONTRAST, (text, behind)
    # shades are told apart by brightness alone, so by everybody
    brightness = [luminance(palette[name]) for name in ("page", "shade1", "shade2", "shade3", "shade4")]
    assert brightness == sorted(brightness, reverse=theme == "light")
    assert min(abs(a - b) for a, b in pairwise(brightness)) > 0.01


@pytest.fixture(scope="session")
def pages(tmp_path_factory, checkpoint, class_folders) -> dict[str, Path]:
    """What the command writes, and pages of what is wide: many and long names."""
    folder = tmp_path_factory.mktemp("pages")
    written = make_report(
        str(checkpoint),
        load_model(str(checkpoint)),
        class_folders,
        folder / "tiny.html",
        card=folder / "README.md",
        num_workers=0,
    )
    long = "a_class_whose_name_nobody_would_have_thought_to_be_so_long"
    pages = {"tiny": written.page}
    for name, settings in {
        "wide": {"num_labels": 30, "model": f"models/{long * 3}", "name": long},
        "many": {"num_labels": 60, "num_videos": 300},
        "several": {"several": True},
    }.items():
        measurement = make_measurement(history=HISTORY, skill=1.0, **settings)
        pages[name] = folder / f"{name}.html"
        pages[name].write_text(render(measurement), encoding="utf-8")
    return pages


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["tiny", "wide", "many", "several"])
def test_in_a_browser(browser, pages, name, screen, theme):
    with visit(browser, pages[name], screen, theme) as opened:
        assert opened.requests == []
        assert opened.list_faults() == []
        look = opened.page.evaluate
        # nothing but the boxes that are for it scrolls sideways
        assert look("window.innerWidth") == SCREENS[screen][0]
        assert look("document.scrollingElement.scrollWidth") <= SCREENS[screen][0]
        # what stays where it is in such a box leaves room for what moves
        widest = "Math.max(...Array.from(document.querySelectorAll('th[scope=row]'), cell => cell.offsetWidth))"
        assert look(widest) <= SCREENS[screen][0] / 2
        # all pictures are there
        opened.load_pictures()
        assert look("Array.from(document.images).every(image => image.naturalWidth > 0 && image.alt)")
        assert look("document.images.length") >= 16
        # the theme that the reader has chosen
        background = look("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[theme]
        # letters that can be read
        smallest = (
            "Math.min(...Array.from(document.querySelectorAll('p, td, th, li, dd, figcaption, small, .moment'), "
            "element => parseFloat(getComputedStyle(element).fontSize)))"
        )
        assert look(smallest) >= 12
        assert opened.complaints == []


def test_every_box_and_link_can_be_reached_by_keys(browser, pages):
    with visit(browser, pages["tiny"]) as opened:
        number = opened.page.evaluate("document.querySelectorAll('a, [tabindex]').length")
        for _ in range(number):
            opened.page.keyboard.press("Tab")
            opened.page.evaluate("document.activeElement.dataset.reached = 1")
        assert opened.page.evaluate("document.querySelectorAll('[data-reached]').length") == number


def test_the_browser_sees_what_a_page_asks_for(browser, tmp_path):
    """Otherwise the tests above could not fail."""
    bad = tmp_path / "bad.html"
    bad.write_text('<body style="width: 900px"><img src="http://localhost:9/a.png"><link rel="icon" href="data:,">')
    with visit(browser, bad, "phone") as opened:
        assert opened.requests == ["http://localhost:9/a.png"]
        assert opened.complaints
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") > 390
        assert any(fault.startswith("image-alt") for fault in opened.list_faults())


def test_page_of_a_hundred_videos_is_small():
    measurement = make_measurement(num_videos=100, num_labels=30, skill=0.0, history=HISTORY)
    drawn = strips(measurement, 2 * NUM_CLIPS)
    assert len(drawn) == 12
    assert len(render_page(measurement, drawn[:NUM_CLIPS], drawn[NUM_CLIPS:])) < 5e6


def test_commands_in_sentences_stand_out_and_nothing_else_is_marked_up():
    assert str(mark_code("`--groups` finds <them>")) == "<code>--groups</code> finds &lt;them&gt;"
