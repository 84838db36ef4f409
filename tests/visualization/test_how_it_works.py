# SPDX-License-Identifier: Apache-2.0
"""Pictures of how a model works, held against plain loops, and each changes when what it shows changes."""

import io
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from PIL import Image

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.visualization import (
    DARK,
    LIGHT,
    animate_passage,
    draw_inflation,
    draw_kernels,
    draw_positions,
    draw_tubes,
    to_png,
)
from tubevit_hf.visualization.gallery import Picture, render_gallery
from tubevit_hf.visualization.kernels import tube_kernels
from tubevit_hf.visualization.passage import Stage
from tubevit_hf.visualization.positions import choose_tokens, compare_positions
from tubevit_hf.visualization.space import View, cut_boxes, kernel_boxes
from tubevit_hf.visualization.theme import MAX_BYTES, encode, name_tube, to_image

from ..support import naive
from ..support.tiny import randomize, tiny_config


def pixels(figure) -> np.ndarray:
    return np.asarray(to_image(figure))


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def tiny_model(**overrides) -> TubeViTModel:
    return randomize(TubeViTModel(tiny_config(**overrides)))


def with_tube(index: int, **changes) -> list[dict]:
    tubes = tiny_config().tubes
    tubes[index] = {**tubes[index], **changes}
    return tubes


def naive_boxes(values: dict, size: tuple[int, int, int]) -> list:
    """Of each token a list of its kernel applications, each its first and last corner, by loops over all places."""
    tube = naive.read_tube(values, 24)
    return [
        [[list(corner), [begin + length for begin, length in zip(corner, tube[0])]] for corner in product(*starts)]
        for _, starts in naive.tokens_of(tube, size)
    ]


@pytest.mark.parametrize("size", [(7, 40, 56), (11, 33, 70), (4, 40, 56), (1, 16, 24)])
def test_corners_of_boxes_are_those_of_a_plain_loop(size):
    config = tiny_config(tubes=with_tube(1, space_to_depth=[1, 2, 2], stride=[2, 12, 10]))
    for tube, values, grid in zip(config.resolved_tubes, config.tubes, config.token_grids(*size)):
        boxes = kernel_boxes(tube, grid)
        assert boxes.shape == (prod(grid), prod(tube.space_to_depth), 2, 3)
        assert boxes.tolist() == naive_boxes(values, size)


def test_boxes_are_cut_in_time():
    boxes = np.array([[[0, 1, 2], [4, 5, 6]], [[3, 0, 0], [9, 1, 1]], [[8, 0, 0], [9, 1, 1]]])
    parts, kept, whole = cut_boxes(boxes, 3, 8)
    assert kept.tolist() == [True, True, False]
    assert parts[:, :, 0].tolist() == [[3, 4], [3, 8]]
    assert parts[:, :, 1:].tolist() == boxes[:2, :, 1:].tolist()
    # the first begins before, and the second ends after
    assert whole.tolist() == [[False, True], [True, False]]


def test_the_nearest_box_is_drawn_last():
    """Nearer is what is later, higher up and farther to the left; and its faces are those that point at the viewer."""
    view = View((8, 40, 56))
    away = np.array([[4, 20, 20], [5, 30, 30]])
    nearer = np.stack([away, away + np.eye(3)[0], away - 10 * np.eye(3)[1], away - 10 * np.eye(3)[2]])
    for box in nearer[1:]:
        assert view.order(np.stack([box, away])).tolist() == [1, 0]
    np.testing.assert_allclose(view.project(view.towards), 0, atol=1e-12)
    # a step along each axis goes where the picture says: time right and down, height down, width right and up
    right, down = view.project(np.eye(3)).T
    assert (np.sign(right).tolist(), np.sign(down).tolist()) == ([1, 0, 1], [1, 1, -1])


def drawn_polygons(axes) -> np.ndarray:
    return np.concatenate(
        [
            np.stack([path.vertices[:4] for path in collection.get_paths()])
            for collection in axes.collections
            if type(collection).__name__ == "PolyCollection" and len(collection.get_paths()) > 1
        ]
    )


def test_tubes_are_drawn_where_they_lie():
    config = tiny_config()
    figure = draw_tubes(config)
    view = View((7, 40, 56))
    for index, axes in enumerate(figure.axes[1:]):
        boxes = np.array(naive_boxes(config.tubes[index], (7, 40, 56))).reshape(-1, 2, 3)
        shown = {tuple(point) for point in drawn_polygons(axes).reshape(-1, 2).round(6)}
        # of the eight corners of each box the hidden one is not drawn
        for box in boxes:
            for corner in product(*box.T):
                hidden = corner == (box[0, 0], box[1, 1], box[1, 2])
                if not hidden:
                    assert tuple(view.project(np.array(corner)).round(6)) in shown


@pytest.mark.parametrize("size", [(7, 40, 56), (2, 64, 48)])
def test_legends_count_tokens_as_the_config_does(size):
    config = tiny_config()
    grids = config.token_grids(*size)
    words = texts(draw_tubes(config, size=size))
    assert f"{sum(map(prod, grids))} tokens of a clip of {size[0]} frames" in words
    for tube, grid in zip(config.resolved_tubes, grids):
        frames, height, width = tube.kernel_size
        line = f"{frames} frame{'s' * (frames > 1)}, {height} by {width} pixels"
        assert line in words
        assert (f"{prod(grid)} tokens" if prod(grid) else "does not fit: no tokens") in words.split(line)[1]
    assert "2 together make a token" in words


def test_shapes_have_names():
    names = [name_tube(tube) for tube in tiny_config(tubes=None, num_frames=32, image_size=224).resolved_tubes]
    assert names == ["cube", "long and thin", "short and wide", "image patch"]


def test_the_picture_of_tubes_changes_with_what_it_shows():
    config = tiny_config()
    frames = torch.randint(0, 256, (7, 3, 40, 56), dtype=torch.uint8)
    first = pixels(draw_tubes(config))
    assert first.shape[1] == 1660
    other_frames = frames.clone()
    other_frames[0] = 255 - other_frames[0]
    others = [
        draw_tubes(tiny_config(tubes=with_tube(1, stride=[2, 12, 20]))),
        draw_tubes(tiny_config(tubes=with_tube(0, offset=[0, 4, 0]))),
        draw_tubes(config, theme=DARK),
        draw_tubes(config, frames),
        draw_tubes(config, other_frames),
    ]
    seen = [first.tobytes(), *(pixels(figure).tobytes() for figure in others)]
    assert len(set(seen)) == len(seen)
    assert first.tobytes() == pixels(draw_tubes(tiny_config())).tobytes()


def shown_kernels(figure) -> list[np.ndarray]:
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("overrides", [{}, {"tube_kernels": "interpolated"}, {"num_channels": 1}])
def test_strips_are_the_kernels_of_the_model(overrides):
    model = tiny_model(**overrides)
    state = {name: value.double() for name, value in model.state_dict().items()}
    shown = iter(shown_kernels(draw_kernels(model)))
    base = state.get("embeddings.base_kernel")
    for index, tube in enumerate(model.config.resolved_tubes):
        if base is None:
            kernels = strengths = state[f"embeddings.tubes.{index}.weight"]
        else:
            kernels = naive.trilinear(base, tube.kernel_size)[: tube.out_channels]
            strengths = base[: tube.out_channels]
        # the strongest first; of a shared kernel the same ones of each tube
        order = sorted(range(len(kernels)), key=lambda row: -strengths[row].norm().item())
        across = 16 // tube.kernel_size[0]
        for row in order[: 4 * across]:
            kernel = kernels[row] if len(kernels[row]) == 3 else kernels[row].repeat(3, 1, 1, 1)
            for step in range(tube.kernel_size[0]):
                expected = 0.5 + 0.5 * kernel[:, step] / kernel.abs().max()
                np.testing.assert_allclose(next(shown), expected.permute(1, 2, 0), atol=1e-5)
    assert next(shown, None) is None


def test_the_picture_of_kernels_changes_with_what_it_shows():
    model = tiny_model()
    first, words = pixels(draw_kernels(model)), texts(draw_kernels(model))
    assert "2 frames, 8 by 8 pixels; 12 of 12 kernels, time to the right" in words
    assert "1 frame, 8 by 8 pixels; 24 of 24 kernels" in words
    assert not np.array_equal(first, pixels(draw_kernels(model, DARK)))
    with torch.no_grad():
        model.embeddings.tubes[1].weight[:, :, 2] *= -1
    changed = pixels(draw_kernels(model))
    assert changed.shape == first.shape
    assert not np.array_equal(first, changed)
    shared = texts(draw_kernels(tiny_model(tube_kernels="interpolated")))
    assert "One kernel of 8 frames, 8 by 8 pixels is resized to the shape of each tube." in shared


@pytest.mark.parametrize("kind", ["tube_center", "tube_index", "learned", "pretrained"])
@pytest.mark.parametrize("size", [(7, 40, 56), (9, 48, 40)])
def test_similarities_are_those_of_a_plain_loop(kind, size):
    model = tiny_model(position_embedding_type=kind)
    state = {name: value.double() for name, value in model.state_dict().items()}
    grids = model.config.token_grids(*size)

    def embedding(index, place):
        tube = naive.read_tube(model.config.tubes[index], 24)
        (token,) = [token for token in naive.tokens_of(tube, size) if token[0] == tuple(place)]
        return naive.position(state, model.config.to_dict(), index, tube, token, grids[index])

    for token in [(1, 1, 2, 3), (2, 0, 1, 2)]:
        own = embedding(token[0], token[1:])
        found = compare_positions(model, token, size)
        assert list(found) == [0, 1, 2]
        assert found[token[0]][token[1:]] == pytest.approx(1, abs=1e-5)
        for index, grid in enumerate(grids):
            assert found[index].shape == grid
            for place in product(*map(range, grid)):
                other = embedding(index, place)
                cosine = own @ other / ((own @ own) * (other @ other)).sqrt()
                assert found[index][place] == pytest.approx(cosine.item(), abs=1e-4)


def test_the_picture_of_positions_changes_with_what_it_shows():
    model = tiny_model(position_embedding_type="learned")
    first = pixels(draw_positions(model))
    assert first.shape[1] == 1660
    assert not np.array_equal(first, pixels(draw_positions(model, theme=DARK)))
    assert not np.array_equal(first, pixels(draw_positions(model, [(0, 0, 0, 0), (2, 0, 1, 1)])))
    with torch.no_grad():
        model.embeddings.position_embeddings.get_parameter("2")[0, 0, 0] *= -1
    assert not np.array_equal(first, pixels(draw_positions(model)))


def test_maps_stand_at_the_time_of_their_tokens():
    model = tiny_model()
    figure = draw_positions(model)
    maps = [axes for axes in figure.axes if axes.images and axes.images[0].get_array().ndim == 2]
    left, width = 1.3, (8.3 - 1.3 - 0.15 - 0.3) / 2
    ours = [axes for axes in maps if axes.get_position().x1 * 8.3 < left + width + 0.01]
    # one step of the first tube, two of the second, centred on frames 2, 2.5 and 4.5
    middles = [(axes.get_position().x0 + axes.get_position().x1) / 2 * 8.3 for axes in ours]
    grids = model.config.token_grids()
    assert [grid[0] for grid in grids] == [1, 2, 1]
    assert middles[1:3] == pytest.approx([left + width * frame / 7 for frame in (2.5, 4.5)], abs=0.01)


def test_models_without_positions_have_no_such_picture():
    with pytest.raises(ValueError, match="no position embeddings"):
        draw_positions(tiny_model(position_embedding_type="none"))
    with pytest.raises(ValueError, match=r"there is no token \(0, 9, 0\) of tube 2"):
        draw_positions(tiny_model(), [(2, 0, 9, 0)])


def test_tokens_to_show_are_of_tubes_that_fit():
    assert choose_tokens([(0, 0, 0), (2, 3, 4), (1, 5, 7)]) == [(1, 1, 1, 2), (2, 0, 1, 1)]


def test_inflation_shows_source_result_and_what_training_made_of_it():
    tube = tiny_config(tubes=with_tube(0, space_to_depth=1)).resolved_tubes[0]
    patch = torch.randn(6, 3, 8, 8)
    made = torch.randn(6, 3, 2, 8, 8)
    untouched = draw_inflation(patch, [tube], [made], [made])
    chosen = sorted(range(6), key=lambda row: -patch[row].norm().item())[:2]
    # of each: the image kernel, then its two frames
    expected = []
    for row in chosen:
        expected += [patch[row], made[row, :, 0], made[row, :, 1]]
    shown = shown_kernels(untouched)
    assert len(shown) == 6
    for number, picture in enumerate(shown):
        largest = (patch if number % 3 == 0 else made)[chosen[number // 3]].abs().max()
        np.testing.assert_allclose(
            picture, 0.5 + 0.5 * (expected[number] / largest).permute(1, 2, 0).numpy(), atol=1e-6
        )
    assert "after training" not in texts(untouched)
    trained = draw_inflation(patch, [tube], [made], [made + 0.1 * torch.randn_like(made)])
    assert len(shown_kernels(trained)) == 2 * 5
    assert texts(trained).count("after training") == 2


@pytest.fixture(scope="module")
def passage() -> dict:
    torch.manual_seed(1)
    scores = torch.rand(7, 5)
    config = tiny_config()
    return {
        "config": config,
        "frames": torch.randint(0, 256, (7, 3, 40, 56), dtype=torch.uint8),
        "heat": torch.rand(7, 40, 56),
        "scores": (scores / scores.sum(dim=1, keepdim=True)).numpy(),
        "labels": ["fall", "jump", "roll", "spin", "wave"],
        "weights": torch.rand(config.num_tokens()).numpy(),
    }


def make_stage(passage: dict, **changes) -> Stage:
    values = {**passage, "heat_title": "what counts in it", "theme": LIGHT, **changes}
    return Stage(**values)


def test_the_animation_has_a_page_for_each_frame_and_the_end(passage):
    seen = []

    def watch(steps):
        for step in steps:
            seen.append(step)
            yield step

    moving, still = animate_passage(**passage, watch=watch)
    assert seen == list(range(8))
    assert len(moving) <= 2_000_000
    with Image.open(io.BytesIO(moving)) as animation:
        assert (animation.format, animation.n_frames, animation.size) == ("WEBP", 8, (1660, 860))
        assert animation.info["loop"] == 0
    with Image.open(io.BytesIO(still)) as end:
        assert end.size == (1660, 860)
        expected = pixels(make_stage(passage).draw(7)).astype(int)
        # but for the colours that a palette leaves out
        assert np.abs(np.asarray(end.convert("RGB")).astype(int) - expected).mean() < 3


def test_a_large_animation_is_made_smaller(passage, monkeypatch):
    monkeypatch.setattr("tubevit_hf.visualization.passage.MAX_BYTES", 60_000)
    moving, still = animate_passage(**passage)
    assert 20_000 < len(moving) <= 60_000
    with Image.open(io.BytesIO(moving)) as animation, Image.open(io.BytesIO(still)) as end:
        assert animation.n_frames == 8
        assert animation.size[0] < end.size[0] == 1660


def test_pages_change_with_what_they_show(passage):
    first = pixels(make_stage(passage).draw(3)).tobytes()
    other_frames, other_heat = passage["frames"].clone(), passage["heat"].clone()
    other_frames[3] = 255 - other_frames[3]
    other_heat[3] = 1 - other_heat[3]
    pages = [
        make_stage(passage, theme=DARK).draw(3),
        make_stage(passage, frames=other_frames).draw(3),
        make_stage(passage, heat=other_heat).draw(3),
        make_stage(passage, scores=passage["scores"][::-1].copy()).draw(2),
        make_stage(passage, scores=None).draw(3),
        make_stage(passage, config=tiny_config(tubes=with_tube(1, stride=[2, 12, 20])), weights=None).draw(3),
        make_stage(passage).draw(4),
        make_stage(passage).draw(7),
        make_stage(passage, weights=passage["weights"][::-1].copy()).draw(7),
        make_stage(passage, weights=None).draw(7),
    ]
    seen = [first, *(pixels(page).tobytes() for page in pages)]
    assert len(set(seen)) == len(seen)
    # what is still to come is not seen yet
    other_frames = passage["frames"].clone()
    other_frames[4:] = 255 - other_frames[4:]
    assert pixels(make_stage(passage, frames=other_frames).draw(3)).tobytes() == first


@pytest.mark.parametrize("frame", range(7))
def test_tokens_appear_once_their_tubes_have_been_passed(passage, frame):
    config = passage["config"]
    ends = []
    for values in config.tubes:
        ends += [max(last[0] for _, last in boxes) for boxes in naive_boxes(values, (7, 40, 56))]
    words = texts(make_stage(passage).draw(frame))
    assert f"frame {frame + 1} of 7" in words
    assert f"{sum(end <= frame + 1 for end in ends)} of {config.num_tokens()} tokens" in words


def test_bars_are_the_scores(passage):
    stage = make_stage(passage)
    assert [stage.labels[place] for place in range(5)] == [
        passage["labels"][index] for index in np.argsort(-passage["scores"][-1])
    ]
    axes = stage.draw(2).axes[-1]
    bars = [patch.get_width() for patch in axes.patches[1::2]]
    assert bars == pytest.approx(passage["scores"][2, stage.shown].tolist())
    assert f"{passage['scores'][2, stage.shown[0]]:.0%}" in [text.get_text() for text in axes.texts]


def test_paper_keeps_its_colour_where_colours_are_few():
    noise = np.random.default_rng(0).integers(0, 256, size=(400, 500, 3), dtype=np.uint8)
    noise[:100] = (13, 17, 23)
    data = encode(Image.fromarray(noise))
    assert len(data) < noise.nbytes / 2
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        assert (np.asarray(image.convert("RGB"))[:100] == (13, 17, 23)).all()
    small = np.zeros((50, 50, 3), dtype=np.uint8)
    small[:, 10] = 200
    with Image.open(io.BytesIO(encode(Image.fromarray(small)))) as image:
        assert (np.asarray(image) == small).all()
    assert MAX_BYTES < 300_000


def test_pngs_are_crisp_at_the_width_of_a_readme():
    with Image.open(io.BytesIO(to_png(draw_tubes(tiny_config())))) as image:
        assert image.size[0] == 2 * 830


def test_a_gallery_escapes_what_it_is_given():
    page = render_gallery("<b>", [Picture("a", "x < y", 'a "quoted" text', moves=True)], ["1 & 2"])
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "x &lt; y" in page and "1 &amp; 2" in page
    assert 'alt="a &#34;quoted&#34; text"' in page
    assert "a_light.webp" in page and "prefers-reduced-motion" in page


def test_kernels_are_of_any_model():
    classifier = randomize(TubeViTForVideoClassification(tiny_config()))
    assert [tuple(kernel.shape) for kernel in tube_kernels(classifier)] == [
        (12, 3, 2, 8, 8),
        (24, 3, 3, 4, 6),
        (24, 3, 1, 8, 8),
    ]
