# SPDX-License-Identifier: Apache-2.0
"""The page to try a model on, as visitors use it: in a browser, with files of all kinds, and nothing of them stays."""

import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from tubevit_hf.inference import load_model

from ..support.browser import SCREENS, THEMES
from ..support.space import (
    PATIENCE,
    SPACE,
    Server,
    expect,
    http,
    read_answer,
    send,
    serving,
    until,
    visiting,
    wait_for,
)
from ..support.tiny import write_video


pytest.importorskip("gradio", reason="the extra `space` brings it")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")
# Gradio's own code says so of itself, in the browser's console
GRADIOS = ("Method not implemented.",)


@pytest.fixture(scope="module")
def server(checkpoint, examples, tmp_path_factory) -> Iterator[Server]:
    with serving(checkpoint, tmp_path_factory.mktemp("space") / "usual", "--examples", examples) as wait:
        yield wait()


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for number, name in enumerate(("jump", "wave")):
        (folder / name).mkdir()
        write_video(folder / name / "0.mp4", 14, 48, 72, seed=20 + number)
    return folder


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("screen", SCREENS)
def test_a_video(browser, server, checkpoint, videos, screen, theme):
    with visiting(browser, server, screen, theme) as opened:
        page = opened.page
        assert opened.list_faults() == []
        send(page, videos[0])
        wait_for(page, "Done", "0.mp4")
        assert read_answer(page) == expect(checkpoint, videos[0])
        facts = page.locator(".facts").inner_text()
        # 7 frames: 9 + 30 + 35 tokens, a CLS token and two registers
        assert "7 of 20 frames, 2.0 s" in facts and "77 tokens" in facts and "ms in the model" in facts
        assert page.locator(".frames li").count() == 7
        assert page.locator(".moving").get_attribute("src").startswith("data:image/webp")
        assert (
            "Without" in page.locator(".answers").inner_text() or "No single" in page.locator(".answers").inner_text()
        )
        assert opened.list_faults() == []
        opened.load_pictures()
        look = page.evaluate
        assert look(
            "Array.from(document.querySelectorAll('.card img')).every(image => image.naturalWidth && image.alt)"
        )
        assert look("document.scrollingElement.scrollWidth") <= SCREENS[screen][0]
        dark = look("getComputedStyle(document.querySelector('.card')).color").removeprefix("rgb(").split(",")
        assert (int(dark[0]) > 128) == (theme == "dark")
        # nobody else is asked for anything, and what Gradio keeps is of no visitor
        assert [url for url in opened.requests if not url.startswith((server.url, "data:", "blob:"))] == []
        assert [words for words in opened.complaints if words not in GRADIOS] == []
    assert until(lambda: server.list_files() == [])


def test_the_number_of_labels_is_chosen_by_who_reads(browser, server, videos):
    with visiting(browser, server) as opened:
        send(opened.page, videos[1])
        wait_for(opened.page, "Done", "1.mp4")
        assert opened.page.locator(".scores li:visible").count() == 5
        opened.page.get_by_label("number input for Labels to show").fill("2")
        opened.page.keyboard.press("Tab")
        opened.page.wait_for_function("document.body.dataset.labels === '2'")
        assert opened.page.locator(".scores li:visible").count() == 2


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_an_image(browser, server, suffix, tmp_path):
    # noise, so that a JPEG file is large: FFmpeg takes the name of a large one for a pattern of names
    pixels = torch.randint(0, 256, (300, 400, 3), generator=torch.Generator().manual_seed(0)).byte()
    Image.fromarray(pixels.numpy()).save(tmp_path / f"picture{suffix}")
    with visiting(browser, server) as opened:
        send(opened.page, tmp_path / f"picture{suffix}")
        wait_for(opened.page, "Done", f"picture{suffix}")
        assert "an image" in opened.page.locator(".facts").inner_text()
        assert "in which nothing moves: the model saw it 7 times" in opened.page.locator(".answers").inner_text()
        assert opened.page.locator(".frames li").count() == 1
        assert opened.page.locator(".moving").count() == 0


def test_a_long_video_is_shown_over_time(browser, server, tmp_path):
    path = write_video(tmp_path / "long.mp4", 200, 48, 72, seed=3)
    with visiting(browser, server, "phone") as opened:
        send(opened.page, path)
        wait_for(opened.page, "Done", "Over time")
        assert "37 windows of 2 s, one every 0.5 s" in opened.page.locator(".answers").inner_text()
        strips = opened.page.locator(".strips .strip")
        assert strips.count() >= 1 and strips.first.locator("i").count() == 37
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= SCREENS["phone"][0]
        assert opened.list_faults() == []


def test_what_is_no_video_is_refused_in_words(browser, server, tmp_path, videos):
    secret = Path(shutil.copy(videos[2], tmp_path / "secret.mp4"))
    cases = {
        "text.mp4": b"no video",
        "empty.mp4": b"",
        "cut.mp4": Path(videos[0]).read_bytes()[:900],
        # playlists that name a file of this machine, whatever they are called
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile {secret}\n".encode(),
        "x<img src=x onerror=document.title='owned'>${1+1}{{value}}.mp4": b"no video",
    }
    with visiting(browser, server) as opened:
        for name, content in cases.items():
            payload = {"name": name, "mimeType": "video/mp4", "buffer": content}
            send(opened.page, payload)
            wait_for(opened.page, "No answer", f"No answer for {name.split('<')[0][:4]}")
            said = opened.page.locator(".refused").inner_text()
            assert "It cannot be read as a video or an image" in said and "up to 100 MB and 10 minutes" in said
            # neither where it lay here, nor what only a programmer can do
            assert (
                str(server.folder) not in said and "/tmp" not in said and "limits=" not in said and "clip" not in said
            )
            assert opened.page.locator(".scores").count() == 0
        assert opened.page.title() != "owned"
        assert opened.page.locator(".card img").count() == 0
    assert until(lambda: server.list_files() == [])


def test_two_visitors_at_once_get_their_own(browser, server, checkpoint, videos):
    # also of the same content and name, which Gradio lays into the same place
    for files in ((videos[0], videos[1]), (videos[0], videos[0])):
        with visiting(browser, server) as one, visiting(browser, server) as other:
            for opened, file in zip((one, other), files):
                send(opened.page, file)
            for opened, file in zip((one, other), files):
                wait_for(opened.page, "Done", Path(file).name)
                assert read_answer(opened.page) == expect(checkpoint, file)
                assert opened.page.locator(".file").inner_text() == Path(file).name


def test_by_keys_alone(browser, server, checkpoint, videos, examples):
    with visiting(browser, server) as opened:
        page = opened.page

        def go_to(words: str) -> None:
            for _ in range(40):
                page.keyboard.press("Tab")
                label = page.evaluate(
                    "(e => (e.getAttribute('aria-label') || '') + e.innerText + (e.type || '') + e.tagName)"
                    "(document.activeElement)"
                )
                if words in label:
                    # and who sees knows where it is
                    assert page.evaluate(
                        "(s => s.outlineStyle !== 'none' || s.boxShadow !== 'none')"
                        "(getComputedStyle(document.activeElement))"
                    ), label
                    return
            pytest.fail(f"{words} cannot be reached by keys.")

        go_to("Click to upload")
        choosers = []
        page.on("filechooser", lambda chooser: choosers.append(chooser))
        # a page that is still being built shows what does not hear keys yet
        for _ in range(PATIENCE // 500):
            page.keyboard.press("Enter")
            page.wait_for_timeout(500)
            if choosers:
                break
        choosers[0].set_files(videos[0])
        wait_for(page, "Done", "0.mp4")
        go_to("wave")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "score => document.querySelector('.scores .score')?.textContent === score",
            arg=expect(checkpoint, examples / "wave" / "0.mp4")[1],
        )
        wait_for(page, "Done")
        # the example is still there, the visitor's copy is not
        assert (examples / "wave" / "0.mp4").exists()
        go_to("checkbox")
        assert page.locator(".moving").is_visible() and not page.locator(".still").is_visible()
        page.keyboard.press("Space")
        assert page.locator(".still").is_visible() and not page.locator(".moving").is_visible()


def test_who_wants_less_motion_sees_none(browser, server, videos):
    with visiting(browser, server) as opened:
        opened.page.emulate_media(reduced_motion="reduce")
        send(opened.page, videos[0])
        wait_for(opened.page, "Done", "0.mp4")
        assert opened.page.locator(".still").is_visible() and not opened.page.locator(".moving").is_visible()


def test_a_browser_that_closes_in_the_middle(browser, server, videos, tmp_path):
    path = write_video(tmp_path / "long.mp4", 3000, 48, 72, seed=3)

    def find_visitors() -> set[str]:
        files = [file.partition("/visitors/")[2] for file in server.list_files() if "/visitors/" in file]
        return {file.partition("/")[0] for file in files}

    # of other tests, not swept up yet
    before, visitors = find_visitors(), set[str]()

    def have_come(number: int) -> bool:
        visitors.update(find_visitors() - before)
        return len(visitors) == number

    with visiting(browser, server) as opened, visiting(browser, server) as waits:
        send(opened.page, path)
        opened.page.wait_for_selector(".scores")
        assert until(lambda: have_come(1))
        send(waits.page, path)
        # an upload of somebody who is gone before it was taken stays until it is swept up
        assert until(lambda: have_come(2))
    # neither of who was at it nor of who waited is anything left, and nobody decodes it any more
    assert until(lambda: server.list_files() == [] and server.list_open_files() == [])
    assert len(server.list_decoders()) <= 2
    with visiting(browser, server) as opened:
        send(opened.page, videos[0])
        wait_for(opened.page, "Done", "0.mp4")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/video.mp4", "/etc/passwd"])
def test_only_what_was_sent_here_is_opened(server, path):
    """A visitor may write a question of their own, which names what it likes."""
    config = http.get(f"{server.url}config").json()
    (upload,) = [one for one in config["dependencies"] if any(target[1] == "upload" for target in one["targets"])]
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "video.mp4"}
    question = {"data": [file], "fn_index": upload["id"], "session_hash": "stranger"}
    answer = http.post(f"{server.url}gradio_api/run/predict", json=question)
    if answer.status_code == 404:
        http.post(f"{server.url}gradio_api/queue/join", json=question).raise_for_status()
        with http.stream("GET", f"{server.url}gradio_api/queue/data?session_hash=stranger") as stream:
            said = next(line for line in stream.iter_lines() if "process_completed" in line)
    else:
        said = answer.text
    assert '"success":true' not in said.replace(" ", "")
    assert ("Only files that were sent here" in said) == path.startswith("http")


def test_doors_that_nobody_needs_are_closed(server):
    for door in ("process_recording", "deep_link", "proxy=http://127.0.0.1:9/"):
        assert http.post(f"{server.url}gradio_api/{door}").status_code == 403
    assert http.get(f"{server.url}gradio_api/file={server.folder.parent}").status_code == 403


@pytest.fixture
def parts(monkeypatch):
    """The page's own modules, as `app.py` imports them."""
    monkeypatch.syspath_prepend(str(SPACE))
    return import_module("visits"), import_module("answers")


def test_a_model_stops_where_nobody_waits(parts, checkpoint, tmp_path):
    visits, _ = parts
    model = load_model(str(checkpoint)).model
    visits.watch(model)
    clips = torch.rand(1, 7, 3, 40, 56)
    passes = []
    model.base_model.layers[1].register_forward_hook(lambda *_: passes.append(1))

    def run(visit) -> None:
        with visit.at_work():
            model(clips)

    visit = visits.Visit(tmp_path / "one" / "clip", "my.mp4", visits.Limits())
    assert visit.begin()
    run(visit)
    assert len(passes) == 1
    # what is over is stopped within a pass
    model.base_model.layers[0].register_forward_hook(lambda *_: visit.is_over.set())
    with pytest.raises(visits.Gone):
        run(visit)
    assert len(passes) == 1
    late = visits.Visit(tmp_path / "two" / "clip", "my.mp4", visits.Limits(max_work_seconds=0))
    assert late.begin() and not late.begin()
    with pytest.raises(visits.Refusal, match="longer than 0 seconds"):
        run(late)
    # and others than visitors may use the model as ever
    model(clips)
    assert len(passes) == 2


def test_visitors_have_folders_of_their_own(parts, tmp_path, monkeypatch):
    visits, _ = parts
    monkeypatch.setattr(visits, "GRACE", 0.1)
    visitors = visits.Visitors(tmp_path / "files", visits.Limits())

    def upload(content: str) -> Path:
        path = tmp_path / "files" / content / "my.mp4"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        return path

    # a name that a browser made up
    one, other = visitors.welcome("../../x", upload("a")), visitors.welcome("other", upload("b"))
    assert (one.path.read_text(), other.path.read_text()) == ("a", "b")
    assert one.path.is_relative_to(tmp_path / "files") and one.name == "my.mp4"
    # the upload goes a little later: somebody else may have sent the same in this moment
    assert until(lambda: not (tmp_path / "files" / "a").exists() and not (tmp_path / "files" / "b").exists())
    upload("a")
    visits.remove_upload(tmp_path / "files" / "a" / "my.mp4", taken=time.time() - 1)
    assert (tmp_path / "files" / "a" / "my.mp4").exists()
    # who sends another file does not wait for the first one any more
    again = visitors.welcome("other", upload("c"))
    assert other.is_over.is_set() and not other.path.exists() and again.path.read_text() == "c"
    assert not one.is_over.is_set()
    visitors.dismiss("other")
    assert again.is_over.is_set() and not again.path.exists()
    with pytest.raises(visits.Refusal, match="send it again"):
        visitors.welcome("late", tmp_path / "files" / "gone.mp4")
    # what nobody has asked about for long is swept up, and nothing else
    old = upload("e")
    os.utime(old, (0, 0))
    os.utime(old.parent, (0, 0))
    new = upload("f")
    visitors.sweep()
    assert not old.exists() and new.exists() and one.path.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_minutes": 0.01}, "It is 0.0 minutes long; up to 0.01"),
        ({"max_gigapixels": 1e-5}, "Its 20 frames of 72x48 pixels are too much"),
        ({"max_megabytes": 0}, "up to 0 MB"),
    ],
)
def test_what_is_too_much_is_said(parts, videos, settings, words):
    visits, _ = parts
    assert visits.look_at(Path(videos[0]), visits.Limits()) == (2.0, 20)
    with pytest.raises(visits.Refusal, match=re.escape(words)):
        visits.look_at(Path(videos[0]), visits.Limits(**settings))


def test_frames_that_are_too_large(parts, tmp_path):
    visits, _ = parts
    # written by hand: Pillow would take a byte of memory for each bit
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(20_000 * (1 + 20_000 // 8)))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    (tmp_path / "large.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )
    with pytest.raises(visits.Refusal, match="larger than 67 megapixels"):
        visits.look_at(tmp_path / "large.png", visits.Limits())


def test_an_image_model_is_refused(parts, vit):
    _, answers = parts
    with pytest.raises(ValueError, match=r"vit"):
        answers.open_model(str(vit))


def test_without_the_demo_it_says_what_to_do(tmp_path):
    shutil.copytree(SPACE, tmp_path / "examples" / "space")
    command = [sys.executable, str(tmp_path / "examples" / "space" / "app.py")]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 1
    assert "`make demo` trains it" in result.stderr and len(result.stderr.strip().splitlines()) == 1
