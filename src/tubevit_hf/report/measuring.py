# SPDX-License-Identifier: Apache-2.0
"""A model run over the videos that it is measured on."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import BaseVideoProcessor, PreTrainedModel

from ..data.known_files import stamp_of
from ..evaluation.views import list_labels, to_scores
from ..folders import read_json
from ..inference.prediction import read_logits
from ..inference.reading import Reading, make_load, read_files
from ..inference.running import LoadedModel, Runner
from ..model.configuration_tubevit import TubeViTConfig
from .history import read_history
from .limits import list_limits
from .machine import describe_environment, measure_speed
from .measurement import MeasuredVideo, Measurement, summarize
from .videos import LabelledVideo, ReportError, Selection


# decimals of scores that are kept, so that what is read back is what was measured
DECIMALS = 6
# wraps what is iterated over, such as in a progress bar, and is told how much it is
Watch = Callable[[Iterable[Any], int], Iterable[Any]]


class Scores(NamedTuple):
    """Of a file: the scores of all labels, its length in seconds, and by what it is known again."""

    values: list[float]
    length: float | None
    mark: list[int]


def check_model(model: str, loaded: LoadedModel) -> None:
    """Raises a `ReportError` if a model is none that classifies videos."""
    if not isinstance(loaded.processor, BaseVideoProcessor):
        raise ReportError(f"{model}: it is for images, and a report is about a model that classifies videos.")
    if loaded.model.config.problem_type == "regression":
        raise ReportError(f"{model}: it gives numbers (`problem_type` is 'regression'), and no classes to count.")


def takes_several(loaded: LoadedModel) -> bool:
    return loaded.model.config.problem_type == "multi_label_classification"


def measure(
    model: str,
    loaded: LoadedModel,
    data: str,
    selection: Selection,
    *,
    views: tuple[int, int] = (1, 1),
    batch_size: int | None = None,
    num_workers: int | None = None,
    kept: Path | None = None,
    watch: Watch | None = None,
) -> Measurement:
    """Measures a model on chosen videos.

    Args:
        model: its folder or repo id.
        loaded: the same, as `load_model` gives it.
        data: the folder of the videos.
        selection: which of them, see [`choose_videos`].
        views: clips in time and crops of each, whose scores are averaged.
        batch_size, num_workers: as of [`predict_files`].
        kept: the JSON of an earlier measurement, if there is one: what the same model said of the same files is taken
            from there.
        watch: shows how far it is.

    Raises:
        ReportError: the model does not classify videos, or none of them can be read.
    """
    check_model(model, loaded)
    config = loaded.model.config
    files = [video.file for video in selection.videos]
    load = make_load(loaded.processor, config.num_frames, views)
    made_with = {"weights": loaded.weights, "views": list(views), "processor": loaded.processor.to_dict()}
    # as they come back from a file
    made_with = json.loads(json.dumps(made_with))
    scores = {} if kept is None else read_kept(kept, made_with, files)
    missing = [file for file in files if file not in scores]
    runner = Runner(loaded.model, read_logits, batch_size)
    readings: Iterable[Reading] = read_files(missing, load, num_workers, runner.batch_size)
    if watch is not None:
        readings = watch(readings, len(missing))
    failed: list[str] = []
    for reading, logits in runner.run(readings):
        if logits is None:
            failed.append(str(reading.error))
            continue
        of_views = to_scores(logits, config.problem_type).mean(dim=0)
        if not of_views.isfinite().all():
            raise ReportError(f"{model}: its scores of {reading.file} are not finite numbers; its weights are broken.")
        values = [round(value, DECIMALS) for value in of_views.tolist()]
        scores[reading.file] = Scores(values, reading.length, list(stamp_of(reading.file) or ()))
    if not scores:
        raise ReportError(f"{data}: none of the {len(files)} videos can be read. {failed[0]}")
    labels = list_labels(config)
    measured = [judge(video, labels, scores[video.file]) for video in selection.videos if video.file in scores]
    several = takes_several(loaded)
    is_model = isinstance(loaded.model, PreTrainedModel)
    measurement = summarize(
        measured,
        labels,
        several,
        model=model,
        data=data,
        how=selection.how,
        warnings=selection.warnings,
        views=views,
        failed=failed,
        made_with=made_with,
        parameters=loaded.model.num_parameters() if is_model else None,
        tokens=config.num_tokens() if isinstance(config, TubeViTConfig) else None,
        environment=describe_environment(loaded.model.device),
        speed=measure_speed(loaded, load, [video.file for video in measured]),
        history=read_history(Path(model)),
    )
    return replace(measurement, limits=list_limits(measurement))


def judge(video: LabelledVideo, labels: Sequence[str], found: Scores) -> MeasuredVideo:
    """What the scores say of a video."""
    best = int(np.argmax(found.values))
    return MeasuredVideo(
        file=video.file,
        labels=video.labels,
        group=video.group,
        predicted=labels[best],
        confidence=found.values[best],
        right=labels[best] in video.labels,
        length=found.length,
        scores=tuple(found.values),
        mark=tuple(found.mark),
    )


def read_kept(path: Path, made_with: dict[str, Any], files: Sequence[str]) -> dict[str, Scores]:
    """What an earlier measurement of the same model and settings says of files that have not changed; nothing if it is
    of others, or no such file."""
    try:
        found = read_json(path)
        videos = {one["file"]: one for one in found["videos"]} if found["made_with"] == made_with else {}
        return {
            file: Scores(videos[file]["scores"], videos[file]["length"], videos[file]["mark"])
            for file in files
            if file in videos and (stamp := stamp_of(file)) is not None and videos[file]["mark"] == list(stamp)
        }
    except (OSError, ValueError, LookupError, TypeError):
        return {}
