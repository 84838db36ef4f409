# SPDX-License-Identifier: Apache-2.0
"""The page to try a model on, with tight limits.

A module of its own: a page takes a gigabyte with what decodes for it, and goes before the next one comes.
"""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tubevit_hf import TubeViTForVideoClassification

from ..support.space import PATIENCE, Server, expect, http, read_answer, send, serving, until, visiting, wait_for
from ..support.tiny import randomize, tiny_config, tiny_video_processor, write_video


pytest.importorskip("gradio", reason="the extra `space` brings it")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")


@pytest.fixture(scope="module")
def without_attention(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("without_attention")
    randomize(TubeViTForVideoClassification(tiny_config(pooling_type="mean"))).save_pretrained(folder)
    tiny_video_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tight(without_attention, tmp_path_factory) -> Iterator[Server]:
    """Of a model without attention pooling, with tight limits."""
    # a busy machine may take some seconds until it takes what was sent
    limits = ("--max_megabytes", 1, "--max_minutes", 0.1, "--max_waiting", 1, "--forget_after", 8)
    with serving(without_attention, tmp_path_factory.mktemp("space") / "tight", *limits) as wait:
        yield wait()


def test_limits(browser, tight, tmp_path, videos):
    write_video(tmp_path / "long.mp4", 100, 48, 72, seed=3)
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    with visiting(browser, tight) as opened:
        page = opened.page
        assert "up to 1 MB and 0.1 minutes" in page.locator("body").inner_text()
        send(page, tmp_path / "long.mp4")
        wait_for(page, "No answer", "long.mp4")
        assert "It is 0.2 minutes long; up to 0.1 are taken here" in page.locator(".refused").inner_text()
        send(page, tmp_path / "large.mp4")
        page.get_by_text("exceed the maximum allowed size").wait_for(timeout=PATIENCE)
        # and whoever does not ask the page is refused by the server
        with (tmp_path / "large.mp4").open("rb") as file:
            answer = http.post(f"{tight.url}gradio_api/upload", files={"files": ("large.mp4", file)})
        assert answer.status_code == 413
        # with all of this, the page goes on
        send(page, videos[0])
        wait_for(page, "Done", "0.mp4")
    assert until(lambda: tight.list_files() == [])


def test_a_model_without_attention_pooling(browser, tight, videos, without_attention):
    """What counts is told by gradients, for which no model needs a pooling of its own."""
    with visiting(browser, tight) as opened:
        send(opened.page, videos[1])
        wait_for(opened.page, "Done", "1.mp4")
        assert read_answer(opened.page) == expect(without_attention, videos[1])
        assert opened.page.locator(".frames li").count() == 7
        assert opened.page.locator(".moving").count() == 1


def test_an_upload_that_breaks_off_is_swept_up(tight):
    host, port = tight.url.removeprefix("http://").strip("/").split(":")
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + bytes(100_000)
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((host, int(port))) as line:
        line.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + body)
        assert until(lambda: tight.list_files() != [])
    assert until(lambda: tight.list_files() == [])
