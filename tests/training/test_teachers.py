# SPDX-License-Identifier: Apache-2.0
"""What frozen models say of a student's clips: through their own size and normalisation, or a refusal."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.training.teachers import (
    FrameReader,
    Normalization,
    TeacherError,
    even_frames,
    load_feature_teacher,
    load_logit_teacher,
    spread_frames,
)

from ..support.tiny import randomize, tiny_config, tiny_video_processor, vit_classifier
from ..support.tolerances import assert_close


SIZE = (8, 32, 40)
ENCODER = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
MEAN, STD = [0.4, 0.45, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(scope="module")
def student():
    return tiny_video_processor(crop_size={"height": 32, "width": 40}, num_frames=8)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "vit"
    randomize(vit_classifier(), std=0.3).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def videomae(tmp_path_factory) -> Path:
    """Of clips of 4 frames, with cells of 2 frames and 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("teacher") / "videomae"
    config = transformers.VideoMAEConfig(
        **ENCODER, image_size=[32, 40], patch_size=8, num_frames=4, tubelet_size=2, num_labels=4
    )
    randomize(transformers.VideoMAEForVideoClassification(config), std=0.3).save_pretrained(folder)
    transformers.VideoMAEVideoProcessor(
        size={"height": 32, "width": 40}, do_center_crop=False, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vivit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "vivit"
    config = transformers.VivitConfig(**ENCODER, image_size=32, tubelet_size=[2, 16, 16], num_frames=6, num_labels=4)
    randomize(transformers.VivitForVideoClassification(config), std=0.3).save_pretrained(folder)
    transformers.VivitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def make_pixels(student, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips from 0 to 1, and as the student's processor normalises them."""
    raw = torch.rand(2, SIZE[0], 3, *SIZE[1:], generator=torch.Generator().manual_seed(seed))
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (student.image_mean, student.image_std))
    return raw, (raw - mean) / std


def normalize(raw: torch.Tensor) -> torch.Tensor:
    return (raw - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def standardized(token: torch.Tensor) -> torch.Tensor:
    token = token.double()
    return ((token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()).float()


# Normalisation and frames


def test_normalizations_are_those_of_the_processors(student, videomae, vivit):
    colour = np.array([10, 120, 250], dtype=np.uint8)
    frames = np.tile(colour[None, :, None, None], (8, 1, 36, 44))
    for processor in (student, *map(AutoVideoProcessor.from_pretrained, (videomae, vivit))):
        inputs = processor([frames], return_tensors="pt", do_sample_frames=False, input_data_format="channels_first")
        found = inputs[processor.model_input_names[0]][0, 0, :, 5, 7]
        scale, shift = Normalization.of(processor)
        assert_close(torch.tensor(colour / 255).float() * scale + shift, found, "float32", type(processor).__name__)


def test_pixels_are_converted_and_resized(student):
    raw, pixel_values = make_pixels(student)
    teacher = Normalization(1 / torch.tensor(STD), -torch.tensor(MEAN) / torch.tensor(STD))
    reader = FrameReader([1, 4, 6], (32, 40), Normalization.of(student), teacher)
    assert_close(reader(pixel_values), normalize(raw[:, [1, 4, 6]]), "float32")
    # a picture of half the size, which bilinear resizing with antialiasing averages by a triangle
    half = FrameReader([1, 4, 6], (16, 20), Normalization.of(student), teacher)(pixel_values)
    weights = torch.tensor([1.0, 3, 3, 1]) / 8
    patch = normalize(raw)[1, 4, 2, 7:11, 13:17]
    assert_close(half[1, 1, 2, 4, 7], weights @ patch @ weights, "float32")
    same = FrameReader([0, 7], (32, 40), Normalization.of(student), Normalization.of(student))
    assert_close(same(pixel_values), pixel_values[:, [0, 7]], "exact")


def test_frames_that_are_seen():
    def tubes(*settings: tuple[int, int, int]):
        """Kernel, stride and offset in time."""
        return tiny_config(
            num_frames=32,
            tubes=[
                {"kernel_size": [kernel, 8, 8], "stride": [stride, 8, 8], "offset": [offset, 0, 0]}
                for kernel, stride, offset in settings
            ],
        ).resolved_tubes

    def spread(num_frames: int, *settings: tuple[int, int, int]) -> list[int]:
        return spread_frames(tubes(*settings), (num_frames, 8, 8))

    # where each tube of `--layout interleaved` begins and ends; the clip's end cuts some
    interleaved = (1, 4, 0), (4, 4, 0)
    assert spread(32, *interleaved) == [0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23, 24, 27, 28, 31]
    assert spread(16, *interleaved) == [0, 3, 4, 7, 8, 11, 12, 15]
    # one too many, and one is interpolated: not one that the tube of one frame sees
    assert spread(30, *interleaved) == [0, 3, 4, 7, 8, 11, 12, 16, 19, 20, 23, 24, 27, 28, 29]
    # fewer than eight, and eight evenly, which meet the first
    assert spread(32, (1, 16, 1)) == [1, 5, 9, 13, 16, 17, 21, 25, 29, 31]
    assert spread(32, (8, 8, 3)) == [3, 7, 10, 11, 15, 18, 19, 23, 26, 27, 31]
    assert spread(5, (2, 4, 0)) == [0, 1, 2, 3, 4]
    assert spread_frames((), (32, 8, 8)) == [2, 6, 10, 14, 18, 22, 26, 30]
    # all begin and end somewhere else, and half of the frames are enough
    many = spread(32, (1, 8, 5), (2, 2, 0), (2, 2, 1))
    assert len(many) == 16 and {5, 13, 21, 29} < set(many) and max(np.diff(many)) <= 4
    # but what tubes of one frame see is seen
    assert spread(32, (1, 1, 0)) == list(range(32))
    assert even_frames(4, 8) == [1, 3, 5, 7]
    assert even_frames(4, 3) == [0, 1, 1, 2]


# Features


def test_features_of_an_image_vit(student, vit):
    """Frame by frame through the source's own code."""
    tubes = tiny_config(num_frames=8, tubes=[{"kernel_size": [1, 8, 8], "stride": [3, 8, 8]}]).resolved_tubes
    teacher = load_feature_teacher(str(vit), student, tubes, SIZE, [0.5, 1.0])
    assert teacher.layers == [1, 2] and teacher.grid == (1, 4, 5) and teacher.num_features == 24
    assert teacher.positions == [0, 1, 2, 3, 4, 5, 6, 7]
    raw, pixel_values = make_pixels(student)
    found = teacher(pixel_values)
    assert found.shape == (2, 2, 8, 4, 5, 24) and not found.requires_grad
    model = AutoModel.from_pretrained(vit).eval()
    for clip, frame in ((0, 0), (1, 5)):
        with torch.no_grad():
            outputs = model(
                normalize(raw[clip, frame])[None], output_hidden_states=True, interpolate_pos_encoding=True
            )
            for index, number in enumerate((1, 2)):
                states = outputs.hidden_states[number] if number == 1 else outputs.last_hidden_state
                states = model.layernorm(states)[0, 1:] if number == 1 else states[0, 1:]
                for row in range(4):
                    for column in range(5):
                        expected = standardized(states[row * 5 + column])
                        assert_close(found[clip, index, frame, row, column], expected, "float32")


def test_a_picture_that_patches_do_not_tile_is_resized(student, vit):
    teacher = load_feature_teacher(str(vit), student, (), (8, 30, 43), [1.0])
    assert teacher.grid == (1, 4, 5) and teacher.reader.size == (32, 40)
    assert teacher(torch.randn(1, 8, 3, 30, 43)).shape == (1, 1, 8, 4, 5, 24)


@pytest.mark.parametrize("kind", ["videomae", "vivit"])
def test_features_of_video_encoders(kind, student, request):
    folder = request.getfixturevalue(kind)
    teacher = load_feature_teacher(str(folder), student, (), SIZE, [2 / 3, 1.0])
    _, pixel_values = make_pixels(student)
    found = teacher(pixel_values)
    steps, rows, columns = teacher.grid
    frames = [1, 3, 5, 7] if kind == "videomae" else [0, 2, 3, 4, 6, 7]
    assert teacher.grid == ((2, 4, 5) if kind == "videomae" else (3, 2, 2))
    assert teacher.positions == [(frames[2 * step] + frames[2 * step + 1]) / 2 for step in range(steps)]
    assert found.shape == (2, 2, steps, rows, columns, 20)
    model = AutoModel.from_pretrained(folder).eval()
    reader = FrameReader(
        frames,
        (32, 8 * columns if kind == "videomae" else 32),
        Normalization.of(student),
        Normalization.of(AutoVideoProcessor.from_pretrained(folder)),
    )
    with torch.no_grad():
        outputs = model(reader(pixel_values), output_hidden_states=True)
        norm = torch.nn.Identity() if kind == "videomae" else model.layernorm
        for index, states in enumerate((norm(outputs.hidden_states[2]), outputs.last_hidden_state)):
            states = states if kind == "videomae" else states[:, 1:]
            for step, row, column in ((0, 0, 1), (1, 1, 0), (steps - 1, rows - 1, columns - 1)):
                token = states[1, (step * rows + row) * columns + column]
                assert_close(found[1, index, step, row, column], standardized(token), "float32")


# Logits


def test_logits_of_classifiers(student, vit, videomae, tmp_path):
    raw, pixel_values = make_pixels(student)
    teacher = load_logit_teacher(str(videomae), student, SIZE)
    model = AutoModelForVideoClassification.from_pretrained(videomae).eval()
    with torch.no_grad():
        assert_close(teacher(pixel_values), model(normalize(raw[:, [1, 3, 5, 7]])).logits, "float32")

    # of images, the mean over frames
    teacher = load_logit_teacher(str(vit), student, (8, 32, 32))
    model = AutoModelForImageClassification.from_pretrained(vit).eval()
    with torch.no_grad():
        of_frames = [model(normalize(raw[:, frame, ..., 4:36])).logits for frame in range(8)]
        assert_close(teacher(pixel_values[..., 4:36]), sum(of_frames) / 8, "float32")

    # a TubeViT whose own processor normalises otherwise
    folder = tmp_path / "tubevit"
    model = randomize(TubeViTForVideoClassification(tiny_config(image_size=[32, 40])), std=0.2)
    model.save_pretrained(folder)
    sizes = {"size": {"height": 32, "width": 40}, "do_center_crop": False}
    tiny_video_processor(**sizes, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    teacher = load_logit_teacher(str(folder), student, SIZE)
    with torch.no_grad():
        expected = model(normalize(raw[:, even_frames(7, 8)])).logits
    assert_close(teacher(pixel_values), expected, "float32")


# What is refused


def test_teachers_that_do_not_suit(student, vit, videomae, tmp_path):
    def refuse(message: str, load, name: Path, *arguments: object) -> None:
        with pytest.raises(TeacherError, match=message) as error:
            load(str(name), student, *arguments)
        assert str(name) in str(error.value)

    tubevit = tmp_path / "tubevit"
    TubeViTForVideoClassification(tiny_config()).save_pretrained(tubevit)
    refuse("it is a TubeViT, whose tokens are no grid", load_feature_teacher, tubevit, (), SIZE, [1.0])
    refuse(
        "it reads clips of 4 frames, too many for the model's 1", load_feature_teacher, videomae, (), (1, 9, 9), [1]
    )
    refuse("it cannot be read", load_logit_teacher, tmp_path / "nowhere", SIZE)
    encoder = tmp_path / "encoder"
    AutoModel.from_pretrained(vit).save_pretrained(encoder)
    texts = tmp_path / "texts"
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.BertForSequenceClassification(config).save_pretrained(texts)
    refuse("it classifies neither videos nor images", load_logit_teacher, texts, SIZE)
    refuse(r"it is no classifier \(ViTModel\)", load_logit_teacher, encoder, SIZE)
    classifier = AutoModelForImageClassification.from_pretrained(vit, problem_type="multi_label_classification")
    classifier.save_pretrained(tmp_path / "several")
    refuse("several labels each", load_logit_teacher, tmp_path / "several", SIZE)
    classifier = AutoModelForImageClassification.from_pretrained(vit)
    classifier.save_pretrained(tmp_path / "bare")
    refuse("does not tell how its pictures are prepared", load_logit_teacher, tmp_path / "bare", SIZE)
