# SPDX-License-Identifier: Apache-2.0
"""From a visitor's file to the parts of an answer."""

import io
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from PIL import Image
from showing import MOST_LABELS, show_explanation, show_scores, show_timeline
from visits import Visit, look_at, watch

from tubevit_hf import TubeViTForVideoClassification, TubeViTVideoProcessor, read_video
from tubevit_hf.evaluation.views import to_scores
from tubevit_hf.inference import LoadedModel, explain_video, find_segments, load_model, scan_timeline
from tubevit_hf.inference.prediction import list_best
from tubevit_hf.inference.reading import read_by_settings


# a video that is longer is also shown over time, in so many windows at most, each as long as `tubevit timeline` has it
LONG_SECONDS, MOST_WINDOWS, WINDOW, STRIDE = 8, 60, 2.0, 0.5


def open_model(name: str) -> LoadedModel:
    """
    Raises:
        ValueError: it is not there, or no model that can be explained.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(name, device=device)
    if not isinstance(model.model, TubeViTForVideoClassification) or not isinstance(
        model.processor, TubeViTVideoProcessor
    ):
        raise ValueError(f"{name} is no TubeViT for video classification; exported ones cannot be explained either.")
    watch(model.model)
    # the first process that decodes takes some seconds to start; better now than when a visitor waits
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "png")
    read_video(picture.getvalue())
    return model


def answer(model: LoadedModel, visit: Visit) -> Iterator[str]:
    """Parts of the answer to a visitor's file, as they come: labels, why, and for a long video when."""
    classifier: Any = model.model
    # `open_model` has seen to it
    processor = cast(TubeViTVideoProcessor, model.processor)
    file = str(visit.path)
    with visit.at_work():
        began = time.perf_counter()
        seconds, num_frames = look_at(visit.path, visit.limits)
        inputs, metadata = read_by_settings(processor, file, classifier.config.num_frames)
        reading = time.perf_counter() - began
        began = time.perf_counter()
        clips = inputs.pop("pixel_values")
        masks = {name: mask.to(classifier.device) for name, mask in inputs.items()}
        with torch.inference_mode():
            logits = classifier(clips.to(classifier.device, classifier.dtype), **masks).logits.float().cpu()
        running = time.perf_counter() - began
    tokens = len(clips) * classifier.config.num_tokens(clips.shape[1], *clips.shape[3:])
    seen = "an image" if num_frames == 1 else f"{len(clips) * clips.shape[1]} of {num_frames} frames, {seconds:.1f} s"
    facts = [seen, f"{tokens} tokens", f"{1000 * reading:.0f} ms to read", f"{1000 * running:.0f} ms in the model"]
    if num_lost := len(getattr(metadata, "stand_ins", [])):
        facts.append(f"{num_lost} of them are damaged, and others stand in")
    scores = to_scores(logits, classifier.config.problem_type).mean(dim=0)
    yield show_scores(visit.name, list_best(scores, classifier.config, MOST_LABELS), facts)

    with visit.at_work():
        why = show_explanation(explain_video(model, file), is_image=num_frames == 1)
    yield why

    if seconds > LONG_SECONDS:
        stride = max(STRIDE, round((seconds - WINDOW) / (MOST_WINDOWS - 1) + 0.05, 1))
        with visit.at_work():
            found = scan_timeline(classifier, processor, file, WINDOW, stride)
        segments = find_segments(found.times, found.scores, found.labels)
        yield show_timeline(found, WINDOW, stride, segments)
