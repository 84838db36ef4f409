# SPDX-License-Identifier: Apache-2.0
"""`tubevit visualize`: what it writes and prints, and bad input."""

import re
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from tubevit_hf import TubeViTForVideoClassification, TubeViTModel
from tubevit_hf.cli import app
from tubevit_hf.conversion import convert_vit

from ..support.tiny import SMALL_TUBES, randomize, tiny_config, tiny_video_processor


STILLS = ["kernels", "positions", "tubes"]


def visualize(*arguments: object):
    return CliRunner().invoke(app, ["visualize", *map(str, arguments)])


def save(model, folder):
    randomize(model).save_pretrained(folder)
    tiny_video_processor(num_frames=model.config.num_frames).save_pretrained(folder)
    return folder


def files_of(*names: str) -> list[str]:
    return sorted(["index.html", *(f"{name}_{theme}.png" for name in names for theme in ("dark", "light"))])


def listed(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def shown(checkpoint, videos, tmp_path_factory):
    """What is printed, and the folder that is written, of a model and a video."""
    out = tmp_path_factory.mktemp("shown") / "out"
    result = visualize(checkpoint, videos[0], "--out", out)
    assert result.exit_code == 0, result.output
    return result.stdout, out


def test_pictures_of_a_model_and_a_video(shown):
    printed, out = shown
    assert listed(out) == sorted([*files_of("passage", *STILLS), "passage_dark.webp", "passage_light.webp"])
    for name in files_of("passage", *STILLS)[1:]:
        with Image.open(out / name) as image:
            assert image.width == 1660
    for theme in ("light", "dark"):
        with Image.open(out / f"passage_{theme}.webp") as animation:
            assert animation.n_frames == 7 + 1
        assert (out / f"passage_{theme}.webp").stat().st_size <= 2_000_000
    for name in ("passage", *STILLS):
        assert (out / f"{name}_light.png").read_bytes() != (out / f"{name}_dark.png").read_bytes()
    page = (out / "index.html").read_text()
    used = set(re.findall(r'(?:src|srcset)="([^"]+)"', page))
    # all that is written is shown, and nothing else
    assert used | {"index.html"} == set(listed(out))
    assert len(re.findall(r'alt="[^"]{40,}"', page)) == 4
    lines = printed.splitlines()
    assert lines[0] == f"{out / 'index.html'} shows:"
    assert "  tubes_light.png, tubes_dark.png" in lines
    assert lines[-1] == "No inflation: no tube has a kernel that was inflated from the image patch."


def test_pictures_change_with_the_video(shown, checkpoint, videos, tmp_path):
    assert visualize(checkpoint, videos[1], "--out", tmp_path / "other").exit_code == 0
    for name in ("tubes_light.png", "passage_light.png", "passage_light.webp"):
        assert (shown[1] / name).read_bytes() != (tmp_path / "other" / name).read_bytes()
    for name in ("kernels_light.png", "positions_light.png"):
        assert (shown[1] / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_without_a_video(tmp_path):
    """A model without processor and positions, whose head was trained for images."""
    model = randomize(TubeViTForVideoClassification(tiny_config(position_embedding_type="none")))
    model.save_pretrained(tmp_path / "model")
    result = visualize(tmp_path / "model", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert listed(tmp_path / "out") == files_of("kernels", "tubes")
    assert "No animation: give a VIDEO to see it pass through the model." in result.stdout
    assert 'No positions: `position_embedding_type` is "none", so that all tokens have the same.' in result.stdout
    assert "No animation: give a VIDEO" in (tmp_path / "out" / "index.html").read_text()


def test_a_model_without_head_and_attention_pooling_says_what_is_shown(videos, tmp_path):
    model = TubeViTModel(tiny_config(pooling_type="mean"))
    result = visualize(save(model, tmp_path / "model"), videos[0], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "in amber where the attention of all layers lies." in result.stdout
    assert "bars" not in result.stdout
    assert (
        "The model pools by 'mean', so that no attention weighs single tokens: the animation ends with all of them "
        "alike." in result.stdout
    )


def test_a_converted_model_shows_its_inflation(vit, tmp_path):
    model, _ = convert_vit(vit, tubes=SMALL_TUBES, num_frames=8)
    model.save_pretrained(tmp_path / "model")
    result = visualize(tmp_path / "model", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert listed(tmp_path / "out") == files_of("inflation", *STILLS)
    assert "No inflation" not in result.stdout


def test_images_are_for_models_of_one_frame(images, videos, checkpoint, tmp_path):
    tubes = [{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}]
    model = save(TubeViTForVideoClassification(tiny_config(num_frames=1, tubes=tubes)), tmp_path / "model")
    result = visualize(model, images[0], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert listed(tmp_path / "out") == files_of(*STILLS)
    assert "No animation: the model reads single images, in which nothing moves." in result.stdout
    for arguments, message in [
        ((model, videos[0]), "the model reads single images (`num_frames` is 1): give an image, such as a .png."),
        ((checkpoint, images[0]), "it is an image, but the model reads clips of 7 frames: give a video"),
    ]:
        result = visualize(*arguments, "--out", tmp_path / "other")
        assert_refused(result, message, tmp_path / "other")


def assert_refused(result, message: str, out) -> None:
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "{folder}/missing.mp4"], "missing.mp4: it cannot be read (No such file or directory)"),
        (["{model}", "{folder}/broken.mp4"], "broken.mp4: "),
        (["{folder}/nothing"], "nothing"),
        (["{folder}/config"], "no file named model.safetensors"),
        (["{vit}"], "it is no TubeViT, but a model of the type 'vit'."),
        (["{model}", "--out", "{folder}"], "it exists. Choose another folder, or replace it with `--overwrite`."),
        (["{model}", "--out", "{folder}/broken.mp4"], "it is a file, not a folder."),
        (["{model}", "--out", "{folder}/broken.mp4/out"], "out: it cannot be written ("),
    ],
)
def test_bad_input(checkpoint, vit, tmp_path, arguments, message):
    (tmp_path / "broken.mp4").write_text("no video at all")
    tiny_config().save_pretrained(tmp_path / "config")
    arguments = [argument.format(model=checkpoint, vit=vit, folder=tmp_path) for argument in arguments]
    before = sorted(tmp_path.rglob("*"))
    if "--out" not in arguments:
        arguments += ["--out", tmp_path / "out"]
    assert_refused(visualize(*arguments), message, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_exported_graphs_are_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "model_info.json").write_text("{}")
    result = visualize(tmp_path / "model", "--out", tmp_path / "out")
    assert_refused(result, "it is an exported graph, whose parts have no names", tmp_path / "out")


def test_nothing_half_written_is_left(checkpoint, videos, tmp_path, monkeypatch):
    """Neither by a failure in the middle nor over an earlier folder."""
    out = tmp_path / "out"
    assert visualize(checkpoint, "--out", out).exit_code == 0
    earlier = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tubevit_hf.visualization.draw_positions", fail)
    result = visualize(checkpoint, "--out", out, "--overwrite")
    assert result.exit_code == 2
    assert "out: it cannot be written (No space left on device)." in result.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == earlier
    assert listed(tmp_path) == ["out"]
