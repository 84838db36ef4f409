# SPDX-License-Identifier: Apache-2.0
"""Where others expect a model to fit: columns of Datasets, TorchCodec's decoders, Sentence Transformers, MTEB."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, Video
from PIL import Image as PILImage
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from tubevit_hf import TubeViTModel, read_video
from tubevit_hf.data import ClipDataset, EvaluationViews, TrainingClip
from tubevit_hf.folders import FolderError
from tubevit_hf.inference.sentence_folders import to_sentence_transformer

from ..support.tiny import rows_of, tiny_video_processor
from ..support.tolerances import assert_close


def needs(*names: str) -> None:
    """Skips a test whose libraries are not installed; they are imported in a process of its own only."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


def run_alone(code: str, folder: Path, *arguments: object, **environment: object) -> dict:
    """What a script prints as JSON in its last line, run with empty caches."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    home = {"HF_HOME": folder / "home", "HF_MODULES_CACHE": folder / "home" / "modules"}
    result = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in (home | environment).items()}},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@torch.inference_mode()
def embed(checkpoint, **inputs: torch.Tensor) -> np.ndarray:
    return TubeViTModel.from_pretrained(checkpoint)(**inputs).pooler_output.numpy()


# Datasets


@pytest.fixture
def columns(videos, tmp_path) -> dict[str, Dataset]:
    """The three videos with labels: by their paths, and in the data set itself."""
    features = Features({"video": Value("string"), "label": ClassLabel(names=["a", "b"])})
    paths = Dataset.from_dict({"video": videos, "label": [0, 1, 0]}, features=features)
    rows = [{"path": None, "bytes": Path(video).read_bytes()} for video in videos]
    inside = Dataset.from_dict({"video": rows, "label": [0, 1, 0]}, features=Features({**features, "video": Video()}))
    return {"paths": paths.cast_column("video", Video()), "bytes": inside}


@pytest.mark.parametrize("kind", ["paths", "bytes"])
def test_rows_of_videos_go_where_files_go(columns, kind, videos, checkpoint):
    rows = columns[kind].cast_column("video", Video(decode=False))
    row = rows[0]["video"]
    assert set(row) == {"path", "bytes"}
    assert (row["bytes"] is None) == (kind == "paths")
    processor = tiny_video_processor()
    expected = processor(videos, return_tensors="pt").pixel_values
    assert_close(processor(list(rows["video"]), return_tensors="pt").pixel_values, expected, "exact")
    assert_close(processor(rows[1]["video"], return_tensors="pt").pixel_values, expected[1:2], "exact")
    mixed = [videos[0], rows[1]["video"], Path(videos[2])]
    assert_close(processor(mixed, return_tensors="pt").pixel_values, expected, "exact")

    classify = pipeline("video-classification", model=str(checkpoint))
    answers = classify(videos)
    assert [classify(entry["video"]) for entry in rows] == answers
    assert list(classify(KeyDataset(rows, "video"))) == answers
    assert answers[0] != answers[1]


@pytest.mark.parametrize("kind", ["paths", "bytes"])
@pytest.mark.parametrize("decode", [True, False])
def test_clips_of_rows_that_would_be_decoded(columns, kind, decode, videos):
    """Without TorchCodec: our own reader decodes, and no more than it needs."""
    rows = columns[kind].cast_column("video", Video(decode=decode))
    processor = tiny_video_processor()
    for load in (TrainingClip(processor, 4, random_crop=True), EvaluationViews(processor, 4)):
        expected = ClipDataset(rows_of(videos, [0, 1, 0]), load, seed=3)
        found = ClipDataset(rows, load, seed=3)
        for dataset in (expected, found):
            dataset.set_epoch(0)
        for index in range(3):
            assert_close(found[index]["pixel_values"], expected[index]["pixel_values"], "exact")
            assert found[index]["labels"] == expected[index]["labels"]


def test_a_row_without_a_video():
    with pytest.raises(ValueError, match="neither a path nor bytes"):
        tiny_video_processor()([{"path": None, "bytes": None}])


class FakeDecoder:
    """What of TorchCodec's `VideoDecoder` is used, with frames at hand."""

    def __init__(self, frames: torch.Tensor, fps: float = 10.0):
        self.frames = frames
        self.asked: list[int] = []
        height, width = frames.shape[2:] if frames.shape[1] == 3 else frames.shape[1:3]
        self.metadata = SimpleNamespace(
            num_frames=len(frames), average_fps=fps, width=width, height=height, duration_seconds=len(frames) / fps
        )

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        self.asked += indices
        return SimpleNamespace(data=self.frames[indices])


def test_decoders_decode_what_is_sampled(videos):
    frames = [read_video(video)[0] for video in videos]
    processor = tiny_video_processor()
    expected = processor(videos, return_tensors="pt").pixel_values
    decoders = [FakeDecoder(each) for each in frames]
    assert_close(processor(decoders, return_tensors="pt").pixel_values, expected, "exact")
    assert [len(decoder.asked) for decoder in decoders] == [7, 7, 7]
    # of the frames' axes in another order, and alone
    last = FakeDecoder(frames[0].permute(0, 2, 3, 1))
    assert_close(processor(last, return_tensors="pt").pixel_values, expected[:1], "exact")
    # windows need the rate, and a video that is too short repeats as a file does
    window = {"frame_sampling": "spaced", "num_frames": 3, "fps": 5, "num_clips": 2, "return_tensors": "pt"}
    assert_close(
        processor(FakeDecoder(frames[0]), **window).pixel_values, processor(videos[0], **window).pixel_values, "exact"
    )
    everything = processor(FakeDecoder(frames[1]), do_sample_frames=False, return_tensors="pt").pixel_values
    assert_close(everything, processor(videos[1], do_sample_frames=False, return_tensors="pt").pixel_values, "exact")
    with pytest.raises(ValueError, match="files beside arrays or others"):
        processor([videos[0], FakeDecoder(frames[1])])
    with pytest.raises(ValueError, match="decoders beside arrays or others"):
        processor([FakeDecoder(frames[1]), frames[0]])


def link_ffmpeg(folder: Path) -> Path:
    """PyAV's FFmpeg by the names that TorchCodec looks for, where the system has none."""
    folder.mkdir()
    libraries = Path(av.__file__).parents[1] / "av.libs"
    if not libraries.is_dir():
        pytest.skip("PyAV did not come as a wheel")
    for library in libraries.iterdir():
        (folder / library.name).symlink_to(library)
        match = re.fullmatch(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+).*", library.name)
        if match:
            (folder / f"{match[1]}{match[2]}").symlink_to(library)
    return folder


def test_columns_that_torchcodec_decodes(videos, checkpoint, tmp_path):
    """Its colours are a level off; its frames are ours, so the answers are the same."""
    needs("torchcodec")
    code = """
        import json, sys
        import numpy as np
        from datasets import Dataset, Features, Video
        from transformers import AutoVideoProcessor, pipeline
        import tubevit_hf
        checkpoint, *videos = sys.argv[1:]
        rows = Dataset.from_dict({"video": videos}, features=Features({"video": Video()}))
        decoders = [row["video"] for row in rows]
        processor = AutoVideoProcessor.from_pretrained(checkpoint)
        plain = {"do_normalize": False, "do_rescale": False, "return_tensors": "pt"}
        found, expected = (processor(batch, **plain).pixel_values.float() for batch in (decoders, videos))
        apart = (found - expected).abs()
        # beside the frames that come before
        moved = (expected[:, 1:] - expected[:, :-1]).abs().mean()
        classify = pipeline("video-classification", model=checkpoint)
        labels = [[answer[0]["label"] for answer in classify(batch)] for batch in (decoders, videos)]
        print(json.dumps({"kind": type(decoders[0]).__module__, "mean": apart.mean().item(),
                          "moved": moved.item(), "labels": labels}))
    """
    found = run_alone(code, tmp_path, checkpoint, *videos, LD_LIBRARY_PATH=link_ffmpeg(tmp_path / "ffmpeg"))
    assert found["kind"].startswith("torchcodec.")
    assert found["mean"] < 1 < 10 < found["moved"]
    assert found["labels"][0] == found["labels"][1]


# Pipelines for images


def test_image_pipelines_on_a_column(checkpoint, images):
    features = Features({"image": Image()})
    rows = Dataset.from_dict({"image": images}, features=features)
    for task in ("image-classification", "image-feature-extraction"):
        run = pipeline(task, model=str(checkpoint))
        expected = [run(image) for image in images]
        assert list(run(KeyDataset(rows, "image"))) == expected
        assert run([PILImage.open(image) for image in images]) == expected
        assert expected[0] != expected[1]


# Sentence Transformers


@pytest.fixture
def sentence_folder(checkpoint, tmp_path) -> Path:
    to_sentence_transformer(checkpoint, tmp_path / "sentence")
    return tmp_path / "sentence"


def test_folder_for_sentence_transformers(sentence_folder, checkpoint, videos):
    """It is a checkpoint still, and says what module opens it."""
    modules = json.loads((sentence_folder / "modules.json").read_text())
    assert modules == [{"idx": 0, "name": "0", "path": "", "type": "sentence_tubevit.TubeViTSentenceModule"}]
    assert (sentence_folder / "sentence_tubevit.py").exists()
    pixel_values = tiny_video_processor()(videos, return_tensors="pt").pixel_values
    assert np.array_equal(
        embed(sentence_folder, pixel_values=pixel_values), embed(checkpoint, pixel_values=pixel_values)
    )
    with pytest.raises(FolderError, match="it exists"):
        to_sentence_transformer(checkpoint, sentence_folder)
    to_sentence_transformer(checkpoint, sentence_folder, overwrite=True)


def test_a_file_that_ships_imports_none_of_the_package(sentence_folder):
    code = (sentence_folder / "sentence_tubevit.py").read_text()
    imported = set(re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE))
    assert {name.partition(".")[0] for name in imported} == {
        "collections",
        "sentence_transformers",
        "torch",
        "transformers",
        "typing",
    }


def test_sentence_transformers_embed_videos_and_images(sentence_folder, checkpoint, videos, images, tmp_path):
    """Where this package is missing, as the model does; saved and opened again too."""
    needs("sentence_transformers")
    code = """
        import json, sys
        sys.modules["tubevit_hf"] = None
        import numpy as np
        import torch
        from PIL import Image
        from sentence_transformers import SentenceTransformer
        folder, again, *files = sys.argv[1:]
        videos, images = files[:3], files[3:]
        model = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
        answers = {
            "dimension": model.get_embedding_dimension(),
            "videos": model.encode(videos, batch_size=2).tolist(),
            "named": model.encode([{"video": video} for video in videos]).tolist(),
            "one": model.encode(videos[2]).tolist(),
            "rows": model.encode([{"video": {"path": video, "bytes": None}} for video in videos]).tolist(),
            "images": model.encode(images).tolist(),
            "pictures": model.encode([Image.open(image) for image in images]).tolist(),
            "unit": np.linalg.norm(model.encode(videos, normalize_embeddings=True), axis=1).tolist(),
            "similar": model.similarity(model.encode(videos), model.encode(images)).tolist(),
        }
        array = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 3, 48, 70), dtype=np.uint8))
        answers["array"] = model.encode(array).tolist()
        answers["metadata"] = model.encode([{"array": array, "video_metadata": {"fps": 5}}])[0].tolist()
        answers["refusals"] = []
        for wrong in (["a text"], [videos[0], Image.open(images[0])]):
            try:
                model.encode(wrong)
            except ValueError as error:
                answers["refusals"].append(str(error))
        try:
            model.encode(videos, prompt="find: ")
        except ValueError as error:
            answers["refusals"].append(str(error))
        model.save_pretrained(again)
        reopened = SentenceTransformer(again, trust_remote_code=True, device="cpu")
        answers["again"] = reopened.encode(videos, batch_size=2).tolist()
        answers["code"] = type(reopened[0]).__module__
        # what Sentence Transformers trains
        features = reopened.preprocess(videos)
        reopened(features)["sentence_embedding"].sum().backward()
        answers["gradients"] = sum(parameter.grad is not None for parameter in reopened.parameters())
        print(json.dumps(answers))
    """
    found = run_alone(code, tmp_path, sentence_folder, tmp_path / "again", *videos, *images)
    processor = tiny_video_processor()
    of_videos = embed(checkpoint, pixel_values=processor(videos, return_tensors="pt").pixel_values)
    pictures = [PILImage.open(image) for image in images]
    of_images = embed(checkpoint, **processor.to_image_processor()(pictures, return_tensors="pt"))
    assert found["dimension"] == of_videos.shape[1] == 24
    for name, expected in (
        ("videos", of_videos),
        ("named", of_videos),
        ("rows", of_videos),
        ("again", of_videos),
        ("one", of_videos[2]),
        ("images", of_images),
        ("pictures", of_images),
        ("unit", np.ones(3)),
    ):
        assert_close(torch.tensor(found[name]), torch.from_numpy(expected), "float32", name)
    array = np.random.default_rng(0).integers(0, 256, (9, 3, 48, 70), dtype=np.uint8)
    expected = embed(checkpoint, pixel_values=processor(array, return_tensors="pt").pixel_values)[0]
    for name in ("array", "metadata"):
        assert_close(torch.tensor(found[name]), torch.from_numpy(expected), "float32", name)
    cosines = torch.nn.functional.cosine_similarity(
        torch.from_numpy(of_videos)[:, None], torch.from_numpy(of_images)[None], dim=2
    )
    assert_close(torch.tensor(found["similar"]), cosines, "float32")
    text, mixed, prompt = found["refusals"]
    assert "'text' is not supported" in text
    assert "image, video" in mixed
    assert "A prompt is for text" in prompt
    assert found["code"].startswith("transformers_modules.")
    assert found["gradients"] == len(list(TubeViTModel.from_pretrained(checkpoint).parameters()))


# MTEB


def test_mteb_evaluates_videos(checkpoint, videos, tmp_path):
    """A task of its kind `VideoClassification`, whose videos are decoders as Datasets gives them."""
    needs("mteb", "sentence_transformers", "torchcodec")
    code = """
        import json, sys
        import numpy as np
        import mteb
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Video
        from mteb.abstasks.classification import AbsTaskClassification
        from mteb.abstasks.task_metadata import TaskMetadata
        from mteb.models import EncoderProtocol
        from torch.utils.data import DataLoader
        from tubevit_hf.inference.mteb_encoder import TubeViTEncoder
        checkpoint, *videos = sys.argv[1:]
        features = Features({"video": Video(), "label": ClassLabel(names=["a", "b", "c"])})

        class Task(AbsTaskClassification):
            metadata = TaskMetadata(
                name="ThreeVideos", description="Three videos.", dataset={"path": "none/none", "revision": "1"},
                type="VideoClassification", category="v2c", eval_splits=["test"], eval_langs=["eng-Latn"],
                main_score="accuracy", modalities=["video"], reference=None, date=None, domains=None,
                task_subtypes=None, license=None, annotations_creators=None, dialect=None, sample_creation=None,
                bibtex_citation=None,
            )
            input_column_name = "video"
            n_experiments = 1

            def load_data(self, **kwargs):
                rows = Dataset.from_dict({"video": videos * 2, "label": [0, 1, 2] * 2}, features=features)
                self.dataset = DatasetDict(train=rows, test=rows)
                self.data_loaded = True

        model = TubeViTEncoder(checkpoint, device="cpu")
        assert isinstance(model, EncoderProtocol)
        rows = Dataset.from_dict({"video": videos}, features=Features({"video": Video()}))
        loader = DataLoader(rows, batch_size=2, collate_fn=lambda rows: {"video": [row["video"] for row in rows]})
        embeddings = model.encode(loader, task_metadata=Task.metadata, hf_split="test", hf_subset="default")
        results = mteb.evaluate(model, [Task()], cache=None)
        score = results.task_results[0].get_score()
        print(json.dumps({"embeddings": embeddings.tolist(), "score": score,
                          "name": model.mteb_model_meta.name, "modalities": model.mteb_model_meta.modalities}))
    """
    found = run_alone(code, tmp_path, checkpoint, *videos, LD_LIBRARY_PATH=link_ffmpeg(tmp_path / "ffmpeg"))
    expected = embed(checkpoint, pixel_values=tiny_video_processor()(videos, return_tensors="pt").pixel_values)
    embeddings = np.array(found["embeddings"])
    assert embeddings.shape == expected.shape
    # TorchCodec's colours are a level off
    assert np.abs(embeddings - expected).max() < 0.1 * np.abs(expected).max()
    # it is asked what it was taught
    assert found["score"] == 1
    assert found["name"] == f"local/{checkpoint.name}"
    assert found["modalities"] == ["video", "image"]
