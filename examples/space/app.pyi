# SPDX-License-Identifier: Apache-2.0
"""A page to try a model on: drop a video, and see what the model says, what it looked at, and when.

    python examples/space/app.py MODEL

MODEL is a folder or repo id of a TubeViT for video classification; by default what `make demo` left. The same files run
as a Space of Hugging Face: see README.md beside this one.
"""
# ruff: noqa: E402  the environment comes before what reads it

import atexit
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path


# Strangers' videos are decoded in processes of their own, and call no address of this network. Nobody is told that the
# page runs. What visitors send lies in one folder, which goes when the page goes
FOLDER = Path(tempfile.mkdtemp(prefix="tubevit_space_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ.update(TUBEVIT_ISOLATED="1", TUBEVIT_PRIVATE_ADDRESSES="0")
os.environ.update(GRADIO_TEMP_DIR=str(FOLDER), GRADIO_ANALYTICS_ENABLED="False")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import gradio as gr
import torch
from showing import (
    CSS,
    MOST_LABELS,
    show_error,
    show_explanation,
    show_heading,
    show_scores,
    show_status,
    show_timeline,
)
from transformers import HfArgumentParser
from visits import Gone, Limits, Refusal, Visit, Visitors, explain_failure, look_at, watch

from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.evaluation.views import to_scores
from tubevit_hf.inference import LoadedModel, explain_video, find_segments, load_model, scan_timeline
from tubevit_hf.inference.prediction import list_best
from tubevit_hf.inference.reading import read_by_settings


DEMO = Path(__file__).parents[2] / "demo"
# a video that is longer is also shown over time, in so many windows at most, each as long as `tubevit timeline` has it
LONG_SECONDS, MOST_WINDOWS, WINDOW, STRIDE = 8, 60, 2.0, 0.5
FILE_TYPES = ["video", "image", ".mkv", ".webm", ".avi", ".mov", ".ts", ".flv", ".wmv", ".mpg", ".mxf"]
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])

from gradio.events import Dependency

class Upload(gr.File):
    """Gradio's, but it never calls an address that a visitor made up, and leaves no file behind."""

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return refuse_addresses(url_or_file_path)

    def preprocess(self, payload: gr.FileData | None) -> str | None:
        return None if payload is None else payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class Recording(gr.Video):
    """Gradio's, but what comes from a camera is not decoded by anybody else."""

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return refuse_addresses(url_or_file_path)

    def preprocess(self, payload: gr.FileData | None) -> str | None:
        return None if payload is None else payload.path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def refuse_addresses(path: str | Path | None) -> str | None:
    if path is not None and not Path(path).resolve().is_relative_to(FOLDER.resolve()):
        raise gr.Error("Only files that were sent here are taken.")
    return None if path is None else str(path)


def answer(model: LoadedModel, visit: Visit) -> Iterator[str]:
    """Parts of the answer to a visitor's file, as they come: labels, why, and for a long video when."""
    classifier, processor = model.model, model.processor
    file = str(visit.path)
    with visit.at_work():
        began = time.perf_counter()
        seconds, num_frames = look_at(visit.path, visit.limits)
        inputs, _ = read_by_settings(processor, file, classifier.config.num_frames)
        reading = time.perf_counter() - began
        began = time.perf_counter()
        with torch.inference_mode():
            logits = classifier(**{name: values.to(classifier.device) for name, values in inputs.items()}).logits
        running = time.perf_counter() - began
    clips = inputs["pixel_values"]
    tokens = len(clips) * classifier.config.num_tokens(clips.shape[1], *clips.shape[3:])
    seen = "an image" if num_frames == 1 else f"{len(clips) * clips.shape[1]} of {num_frames} frames, {seconds:.1f} s"
    facts = [seen, f"{tokens} tokens", f"{1000 * reading:.0f} ms to read", f"{1000 * running:.0f} ms in the model"]
    scores = to_scores(logits.float(), classifier.config.problem_type).mean(dim=0).cpu()
    yield show_scores(visit.path.name, list_best(scores, classifier.config, MOST_LABELS), facts)

    with visit.at_work():
        yield show_explanation(explain_video(model, file), is_image=num_frames == 1)

    if seconds > LONG_SECONDS:
        stride = max(STRIDE, round((seconds - WINDOW) / (MOST_WINDOWS - 1) + 0.05, 1))
        with visit.at_work():
            found = scan_timeline(classifier, processor, file, WINDOW, stride)
        segments = find_segments(found.times, found.scores, found.labels)
        yield show_timeline(found, WINDOW, stride, segments)


def make_page(model: LoadedModel, name: str, limits: Limits, examples: list[Path]) -> gr.Blocks:
    visitors = Visitors(FOLDER, limits)
    labels = [str(label) for label in model.model.config.id2label.values()]
    taken = (
        f"Videos (MP4, MOV, MKV, WebM, AVI and others) and images (PNG, JPEG, WebP) are taken, up to "
        f"{limits.max_megabytes} MB and {limits.max_minutes:g} minutes."
    )

    def welcome(upload: str | None, request: gr.Request) -> None:
        """Clears the place for the next file, which this one has left."""
        if upload is not None:
            try:
                visitors.welcome(str(request.session_hash), upload)
            except Refusal as error:
                raise gr.Error(str(error)) from None

    def see(request: gr.Request) -> Iterator[tuple[str, str, str, str]]:
        """Each part of the page, as soon as it is there."""
        visit = visitors.visits.get(str(request.session_hash))
        if visit is None:
            return
        visit.begin()
        parts = ["", "", ""]
        doing = [f"Reading {visit.path.name} ...", "Looking for what counted ...", "Looking through all of it ..."]
        try:
            yield show_status(doing[0]), *parts
            for number, part in enumerate(answer(model, visit)):
                parts[number] = part
                yield show_status(doing[min(number + 1, 2)]), *parts
            yield show_status(f"Done. {visit.path.name} has been removed here."), *parts
        except Gone:
            pass
        except Exception as error:
            if not isinstance(error, ValueError):
                traceback.print_exc()
            why = explain_failure(error, visit.path)
            yield show_status("No answer."), *parts[:2], show_error(visit.path.name, why, taken)
        finally:
            visit.finish()

    def leave(request: gr.Request) -> None:
        visitors.dismiss(str(request.session_hash))

    with gr.Blocks(title=f"Try {name}", analytics_enabled=False, delete_cache=(60, int(limits.forget_after))) as page:
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                gr.HTML(show_heading(name, labels))
                with gr.Tab("Video or image"):
                    upload = Upload(label="Drop a video or an image", file_types=FILE_TYPES, height=180)
                with gr.Tab("Camera"):
                    # without sound, which the model does not hear
                    recording = Recording(label="Record a short clip", sources=["webcam"], include_audio=False)
                gr.HTML(f'<p class="hint">{taken} Nothing is kept.</p>')
                buttons = []
                if examples:
                    gr.HTML('<h2 class="hint">Or try one of these</h2>')
                    with gr.Row(elem_classes="examples"):
                        buttons = [gr.Button(example.parent.name, size="sm") for example in examples]
                top = gr.Slider(1, MOST_LABELS, 5, step=1, label="Labels to show")
            with gr.Column(scale=3, min_width=320):
                status = gr.HTML(show_status("The answer comes here."), js_on_load=ANNOUNCE)
                parts = [gr.HTML() for _ in range(3)]

        hidden = {"api_visibility": "private"}
        for place, event in ((upload, upload.upload), (recording, recording.stop_recording)):
            event(welcome, place, place, queue=False, **hidden).success(see, None, [status, *parts], **hidden)
        for button, example in zip(buttons, examples):

            def take_example(request: gr.Request, example: Path = example) -> None:
                visitors.welcome(str(request.session_hash), str(example), copy=True)

            button.click(take_example, queue=False, **hidden).success(see, None, [status, *parts], **hidden)
        top.change(None, top, js="number => { document.body.dataset.labels = number; }")
        page.unload(leave)
    return page.queue(max_size=limits.max_waiting, default_concurrency_limit=limits.at_once)


# what changes there is read out by screen readers
ANNOUNCE = "element.setAttribute('role', 'status');"


def open_model(name: str) -> LoadedModel:
    """
    Raises:
        ValueError: it is not there, or no model that can be explained.
    """
    if name == str(DEMO / "tubevit") and not Path(name).exists():
        raise ValueError(f"{name} is not there: `make demo` trains that model, in some minutes; or name one of yours.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(name, device=device)
    if not isinstance(model.model, TubeViTForVideoClassification) or not isinstance(
        model.processor, TubeViTVideoProcessor
    ):
        raise ValueError(f"{name} is no TubeViT for video classification; exported ones cannot be explained either.")
    watch(model.model)
    return model


def find_examples(folder: Path, most: int = 12) -> list[Path]:
    """A video of each class folder."""
    found = [next(iter(sorted(one.glob("*.mp4"))), None) for one in sorted(folder.glob("*/"))]
    return [path for path in found if path is not None][:most]


def main() -> None:
    parser = HfArgumentParser(Limits, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default=os.environ.get("TUBEVIT_MODEL", str(DEMO / "tubevit")))
    parser.add_argument("--examples", type=Path, default=DEMO / "moving_digits" / "validation", help="class folders")
    limits, arguments = parser.parse_args_into_dataclasses()
    try:
        model = open_model(arguments.model)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"Error: {' '.join(str(error).split())}")
    examples = find_examples(arguments.examples) if arguments.model == parser.get_default("model") else []
    page = make_page(model, Path(arguments.model).name, limits, examples)
    page.launch(
        theme=THEME,
        css=CSS,
        share=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=limits.max_megabytes * 1_000_000,
    )


if __name__ == "__main__":
    main()
class Words(gr.HTML):
    """Gradio's, without its style for texts: page.css has ours."""

    is_template = True

    def __init__(self, value: str = "", **settings: Any):
        super().__init__(value, apply_default_css=False, **settings)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

    