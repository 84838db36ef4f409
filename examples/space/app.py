# SPDX-License-Identifier: Apache-2.0
"""A page to try a model on: drop a video, and see what the model says, what it looked at, and when.

    python examples/space/app.py MODEL

MODEL is a folder or repo id of a TubeViT for video classification; by default what `make demo` left. The same files
run as a Space of Hugging Face: see README.md beside this one.
"""
# ruff: noqa: E402  the environment comes before what reads it

import atexit
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


# Strangers' videos are decoded in processes of their own, and call no address of this network. Nobody is told that the
# page runs. What visitors send lies in one folder, which goes when the page goes
FOLDER = Path(tempfile.mkdtemp(prefix="tubevit_space_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ.update(TUBEVIT_ISOLATED="1", TUBEVIT_PRIVATE_ADDRESSES="0")
os.environ.update(GRADIO_TEMP_DIR=str(FOLDER), GRADIO_ANALYTICS_ENABLED="False")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import gradio as gr
from answers import answer, open_model
from components import ClosedDoors, Words, take_as_it_is
from showing import CSS, MOST_LABELS, show_error, show_heading, show_status
from starlette.middleware import Middleware
from transformers import HfArgumentParser
from visits import Gone, Limits, Refusal, Visitors, explain_failure

from tubevit_hf.data.listing import list_folder
from tubevit_hf.inference import LoadedModel


DEMO = Path(__file__).parents[2] / "demo"
FILE_TYPES = ["video", "image", ".mkv", ".webm", ".avi", ".mov", ".ts", ".flv", ".wmv", ".mpg", ".mxf"]
# letters that every system has, and greys and blues that can be read on what is behind them
THEME = gr.themes.Default(
    primary_hue="blue", neutral_hue="gray", font=["system-ui", "sans-serif"], font_mono=["monospace"]
).set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    color_accent="*primary_700",
)


def make_page(model: LoadedModel, name: str, limits: Limits, examples: list[Path]) -> gr.Blocks:
    visitors = Visitors(FOLDER, limits)
    labels = [str(label) for label in model.model.config.id2label.values()]
    taken = (
        f"Videos (MP4, MOV, MKV, WebM, AVI and others) and images (PNG, JPEG, WebP) are taken, up to "
        f"{limits.max_megabytes} MB and {limits.max_minutes:g} minutes."
    )

    def welcome(visitor: str, file: str | Path, is_ours: bool = False) -> None:
        try:
            visitors.welcome(visitor, Path(file), is_ours)
        except Refusal as error:
            raise gr.Error(str(error)) from None

    # each gives nothing, which clears the place for the next file
    def take_upload(file: str, request: gr.Request) -> None:
        welcome(str(request.session_hash), file)

    def take_example(example: Path) -> Callable[[gr.Request], None]:
        def take(request: gr.Request) -> None:
            welcome(str(request.session_hash), example, is_ours=True)

        return take

    def see(request: gr.Request) -> Iterator[tuple[str, ...]]:
        """Each part of the page, as soon as it is there."""
        visit = visitors.visits.get(str(request.session_hash))
        if visit is None or not visit.begin():
            return
        parts = ["", "", ""]
        doing = [f"Reading {visit.name} ...", "Looking for what counted ...", "Looking through all of it ..."]
        try:
            yield show_status(doing[0]), *parts
            for number, part in enumerate(answer(model, visit)):
                parts[number] = part
                yield show_status(doing[min(number + 1, 2)]), *parts
            yield show_status("Done. Nothing of your file is kept."), *parts
        except Gone:
            pass
        except Exception as error:
            if visit.is_over.is_set():
                return
            if not isinstance(error, ValueError):
                traceback.print_exc()
            why = explain_failure(error, visit.path)
            yield show_status("No answer."), *parts[:2], show_error(visit.name, why, taken)
        finally:
            visit.finish()

    def leave(request: gr.Request) -> None:
        visitors.dismiss(str(request.session_hash))

    with gr.Blocks(title=f"Try {name}", analytics_enabled=False) as page:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                Words(show_heading(name, labels))
                with gr.Tab("Video or image"):
                    upload = take_as_it_is(
                        gr.File(label="Drop a video or an image", file_types=FILE_TYPES, height=180)
                    )
                with gr.Tab("Camera"):
                    # without sound, which the model does not hear
                    recording = take_as_it_is(
                        gr.Video(label="Record a short clip", sources=["webcam"], include_audio=False)
                    )
                Words(f'<p class="hint">{taken} Nothing is kept.</p>')
                buttons: list[gr.Button] = []
                if examples:
                    Words('<h2 class="hint">Or try one of these</h2>')
                    with gr.Row(elem_classes="examples"):
                        buttons = [gr.Button(example.parent.name, size="sm") for example in examples]
                top = gr.Slider(1, MOST_LABELS, 5, step=1, label="Labels to show")
            with gr.Column(scale=3, min_width=320):
                status = Words(show_status("The answer comes here."), js_on_load=ANNOUNCE)
                with gr.Column(elem_classes="answers"):
                    parts = [Words() for _ in range(3)]

        taking = [
            (upload.upload, take_upload, upload),
            (recording.stop_recording, take_upload, recording),
            *((button.click, take_example(example), None) for button, example in zip(buttons, examples)),
        ]
        # what is sent while an answer is worked on ends that one, and is not lost
        settings: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "multiple"}
        for event, take, place in taking:
            event(take, place, place, queue=False, **settings).success(see, None, [status, *parts], **settings)
        top.change(None, top, js="number => { document.body.dataset.labels = number; }")
        page.unload(leave)
    return page.queue(max_size=limits.max_waiting, default_concurrency_limit=limits.at_once)


# what changes there is read out by screen readers
ANNOUNCE = "element.setAttribute('role', 'status');"


def find_examples(folder: Path, most: int = 12) -> list[Path]:
    """A video of each class folder."""
    listing = list_folder(folder)
    return [one.files[0] for one in listing.classes if one.files and listing.kind == "videos"][:most]


def main() -> None:
    parser = HfArgumentParser(Limits, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default=os.environ.get("TUBEVIT_MODEL", str(DEMO / "tubevit")))
    parser.add_argument("--examples", type=Path, help="Folder with a folder of videos for each class, to click on.")
    limits, arguments = parser.parse_args_into_dataclasses()
    if arguments.model == str(DEMO / "tubevit") and not Path(arguments.model).exists():
        sys.exit(
            f"Error: {arguments.model} is not there. `make demo` trains it, in some minutes; or name a model of yours."
        )
    try:
        model = open_model(arguments.model)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"Error: {' '.join(str(error).split())}")
    if arguments.examples is None and arguments.model == str(DEMO / "tubevit"):
        arguments.examples = DEMO / "moving_digits" / "validation"
    examples = [] if arguments.examples is None else find_examples(arguments.examples)
    page = make_page(model, Path(arguments.model).resolve().name, limits, examples)
    # a server that is told to stop removes what visitors sent
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _, address, _ = page.launch(
        theme=THEME,
        head=f"<style>{CSS}</style>",
        share=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=limits.max_megabytes * 2**20,
        app_kwargs={"middleware": [Middleware(ClosedDoors)]},
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"The page is at {address}", flush=True)
    page.block_thread()


if __name__ == "__main__":
    main()
