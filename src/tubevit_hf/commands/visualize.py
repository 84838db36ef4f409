# SPDX-License-Identifier: Apache-2.0
"""`tubevit visualize`: how a model works, in pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tables import say
from .common import DeviceOption, OutOption, OverwriteOption, one_line_errors, share_cores


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inference.passage import Passage
    from ..model.configuration_tubevit import TubeViTConfig
    from ..model.modeling_tubevit import TubeViTPreTrainedModel
    from ..visualization import Theme
    from ..visualization.gallery import Picture


def visualize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or repo id of a TubeViT, trained or not.")],
    out: OutOption,
    video: Annotated[
        str | None,
        typer.Argument(metavar="[VIDEO]", help="A video (file or URL); for a model of one frame an image."),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
) -> None:
    """Draw how a model works: what its tubes cover, its kernels, its positions, what inflating made of the kernel of
    images and, with a VIDEO, an animation of the clip on its way through the model.

    Each picture is written for light and for dark pages, and index.html shows them."""
    share_cores()
    with one_line_errors():
        from ..folders import check_folder, written_whole
        from ..inference.passage import follow_clip, read_frames
        from ..inference.running import get_processes, load_model
        from ..visualization.gallery import render_gallery

        check_folder(out, overwrite)
        loaded = clip = None
        if video is None:
            network = find_class(model).from_pretrained(model).eval()
        else:
            loaded = load_model(model, auto=find_class(model), device=device or get_processes().device)
            network, clip = loaded.model, read_frames(loaded, video)
        with written_whole(out, overwrite) as folder:
            passage = None if loaded is None or clip is None else follow_clip(loaded, clip, watching("scores"))
            pictures, notes = draw_all(network, passage, folder)
            title = f"How {Path(model).name or model} works"
            page = render_gallery(title, pictures, notes)
            (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")

    say(f"{out / 'index.html'} shows:")
    for picture in pictures:
        say(f"  {', '.join(picture.files)}\n    {picture.caption}")
    for note in notes:
        say(note)


def find_class(name: str) -> Any:
    """Which class of Transformers loads a TubeViT with the head that it was saved with, if any.

    Raises:
        OSError, ValueError: there is no such model, or it is no TubeViT.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification

    from ..folders import MODEL_INFO
    from ..inference.running import is_classifier
    from ..model.configuration_tubevit import TubeViTConfig

    if Path(name, MODEL_INFO).exists():
        raise ValueError(f"{name}: it is an exported graph, whose parts have no names: give the model it was made of.")
    config = AutoConfig.from_pretrained(name)
    if not isinstance(config, TubeViTConfig):
        raise ValueError(f"{name}: it is no TubeViT, but a model of the type {config.model_type!r}.")
    return AutoModelForVideoClassification if is_classifier(config) else AutoModel


def draw_all(
    network: TubeViTPreTrainedModel, passage: Passage | None, folder: Path
) -> tuple[list[Picture], list[str]]:
    """Writes each picture that there is; gives those, and a sentence for each that there is not."""
    from ..conversion.tubes import find_inflated
    from ..visualization import animate_passage, draw_inflation, draw_kernels, draw_positions, draw_tubes
    from ..visualization.gallery import Picture
    from ..visualization.kernels import tube_kernels
    from ..visualization.theme import THEMES, describe_tube, to_png

    config: TubeViTConfig = network.config
    frames = None if passage is None else passage.frames
    size = config.native_size if frames is None else (len(frames), frames.shape[2], frames.shape[3])
    tubes = config.resolved_tubes
    kinds = "; ".join(
        ": ".join((name, ", ".join(rest)))
        for name, *rest in (describe_tube(tube, grid) for tube, grid in zip(tubes, config.token_grids(*size)))
    )
    pictures: list[Picture] = []
    notes: list[str] = []

    def add(picture: Picture, draw: Callable[[Theme], Figure]) -> None:
        for theme in THEMES:
            (folder / f"{picture.name}_{theme.name}.png").write_bytes(to_png(draw(theme)))
        pictures.append(picture)

    def tell(note: str) -> None:
        notes.append(note)

    if passage is None:
        tell("No animation: give a VIDEO to see it pass through the model.")
    elif len(passage.frames) == 1:
        tell("No animation: the model reads single images, in which nothing moves.")
    else:
        caption, alt = tell_passage(config, passage)
        for theme in THEMES:
            heat_title = "what counts in it" if passage.labels else "where it attends"
            moving, still = animate_passage(
                config,
                passage.frames,
                passage.heat,
                passage.scores,
                passage.labels,
                passage.weights,
                heat_title=heat_title,
                theme=theme,
                watch=watching(f"animation, {theme.name}"),
            )
            (folder / f"passage_{theme.name}.webp").write_bytes(moving)
            (folder / f"passage_{theme.name}.png").write_bytes(still)
        pictures.append(Picture("passage", caption, alt, moves=True))
        if passage.weights is None:
            why = f"pools by {config.pooling_type!r}"
            if config.pooling_type == "attention":
                why = f"joins single frames at `joint_layer` {config.joint_layer}"
            tell(
                f"The model {why}, so that no attention weighs single tokens: the animation ends with all of them "
                "alike."
            )
    add(
        Picture(
            "tubes",
            "What the tubes cover: a clip as a block of frames, height and width, and each kind of tube alone, with "
            "one of its tokens.",
            f"A clip of {size[0]} frames of {size[1]} by {size[2]} pixels as a block, and in it the tubes. {kinds}.",
        ),
        lambda theme: draw_tubes(config, frames, theme=theme),
    )
    add(
        Picture(
            "kernels",
            "Kernels with the largest weights: grey is no weight, and each is as bright as its own largest.",
            f"Strips of small squares, a row for some kernels of each tube, a square for each frame. {kinds}.",
        ),
        lambda theme: draw_kernels(network, theme),
    )
    if config.position_embedding_type == "none":
        tell('No positions: `position_embedding_type` is "none", so that all tokens have the same.')
    else:
        add(
            Picture(
                "positions",
                f"How alike positions of the kind {config.position_embedding_type!r} are: bright where a token's is "
                "like that in the ring.",
                "Maps of the tokens of each tube over time, coloured by the cosine similarity of their positions and "
                "that of the token in the ring, which is 1.",
            ),
            lambda theme: draw_positions(network, size=size, theme=theme),
        )
    kernels = tube_kernels(network)
    patch, inflated = find_inflated(tubes, kernels)
    if inflated:
        add(
            Picture(
                "inflation",
                "What inflating makes of the kernel of images: resized to the tube, an equal share for each frame.",
                "Some kernels of the image patch, and beside each the strip of frames that it became in each tube.",
            ),
            lambda theme: draw_inflation(
                kernels[patch][:, :, 0],
                [tubes[index] for index in inflated],
                list(inflated.values()),
                [kernels[index] for index in inflated],
                theme,
            ),
        )
    else:
        tell("No inflation: no tube has a kernel that was inflated from the image patch.")
    return pictures, notes


def tell_passage(config: TubeViTConfig, passage: Passage) -> tuple[str, str]:
    """Caption and alternative text of the animation."""
    num_frames = len(passage.frames)
    caption = "A clip on its way through the model: tubes that cover the frame light up, and tokens appear behind it"
    alt = f"{num_frames} frames of a clip pass through a block of tubes, one after another, and tokens fill up."
    if passage.scores is None:
        return f"{caption}; in amber where the attention of all layers lies.", alt
    best = int(passage.scores[-1].argmax())
    caption += "; in amber what counts; bars tell what the model would say if the clip stood still from there on."
    first = int(passage.scores[0].argmax())
    alt += (
        f" Bars of scores move with them: after the first frame {passage.labels[first]} leads with "
        f"{passage.scores[0, first]:.0%}, at the end {passage.labels[best]} with {passage.scores[-1, best]:.0%}."
    )
    return caption, alt


def watching(what: str) -> Callable[[Iterable[int]], Iterable[int]]:
    """A progress bar, where somebody watches."""
    from tqdm import tqdm

    return lambda steps: tqdm(steps, desc=what, leave=False, disable=not sys.stderr.isatty())
