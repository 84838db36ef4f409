# SPDX-License-Identifier: Apache-2.0
"""Gradio's components and server, with what a page for strangers needs: files come from visitors only, nobody but this
package decodes them, and no doors are open that the page does not use."""

from functools import partial
from pathlib import Path
from typing import TypeVar

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


# what Gradio serves besides: it would have FFmpeg read what is sent, keep it, or call others
CLOSED = ("/process_recording", "/deep_link", "/proxy=", "/stream/", "/monitoring", "/vibe")


# without Gradio's style for texts: page.css has ours
Words = partial(gr.HTML, apply_default_css=False)
ComponentT = TypeVar("ComponentT", gr.File, gr.Video)


def take_as_it_is(component: ComponentT) -> ComponentT:
    """A component that gives the path of what was sent, and does nothing with it: Gradio's own leave empty files
    behind, have FFmpeg change what a camera recorded, and call whatever address a visitor makes up.

    It is the component that is changed, not its class: Gradio would write a file of types beside each class of ours.
    """

    def preprocess(payload: gr.FileData | None) -> str | None:
        return None if payload is None else payload.path

    async def move(path: str | Path | None) -> str | None:
        if path is not None and not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
            raise gr.Error("Only files that were sent here are taken.")
        return None if path is None else str(path)

    component.preprocess = preprocess
    component.async_move_resource_to_block_cache = move
    return component


class ClosedDoors:
    """Refuses what the page does not use."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(door in scope["path"] for door in CLOSED):
            await PlainTextResponse("This is closed here.", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
