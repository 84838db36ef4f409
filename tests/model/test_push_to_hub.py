# SPDX-License-Identifier: Apache-2.0
"""What pushing puts on the Hub, seen by a Hub that is a local folder."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, ModelCard, RepoUrl
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    Trainer,
    TrainingArguments,
)

from tubevit_hf import (
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTImageProcessor,
    TubeViTModel,
    create_model_card,
)
from tubevit_hf.model.model_card_tubevit import may_be_replaced
from tubevit_hf.training import VideoTrainer

from ..support.tiny import randomize, tiny_config, tiny_video_processor


REPO_ID = "org/tubevit-tiny"

MODEL_FILES = {
    "attention_tubevit.py",
    "checkpoint_files_tubevit.py",
    "config.json",
    "configuration_checks_tubevit.py",
    "configuration_tubevit.py",
    "frozen_tubevit.py",
    "hub_tubevit.py",
    "inputs_tubevit.py",
    "loss_tubevit.py",
    "model.safetensors",
    "model_card_tubevit.py",
    "modeling_tubevit.py",
    "moments_tubevit.py",
    "number_types_tubevit.py",
    "packing_tubevit.py",
    "patches_tubevit.py",
    "pooling_tubevit.py",
    "positions_tubevit.py",
    "pretraining_tubevit.py",
    "stages_tubevit.py",
    "store_tubevit.py",
    "tubes_tubevit.py",
}
IMAGE_PROCESSOR_FILES = {
    "image_processing_tubevit.py",
    "preprocessor_config.json",
    "processing_limits_tubevit.py",
}
PROCESSOR_FILES = IMAGE_PROCESSOR_FILES | {
    "video_animations_tubevit.py",
    "video_colours_tubevit.py",
    "video_decoding_tubevit.py",
    "video_fields_tubevit.py",
    "video_index_tubevit.py",
    "video_isolation_tubevit.py",
    "video_matroska_tubevit.py",
    "video_preprocessor_config.json",
    "video_processing_tubevit.py",
    "video_sampling_tubevit.py",
    "video_sources_tubevit.py",
}

USER_CARD = """---
license: mit
tags:
- mine
---

# My model

Accuracy 12.3.
"""


class Hub:
    """Stands in for the Hub's API: a folder for each repository, and a list of what each commit brought."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.commits = []

    def repository(self, repo_id: str = REPO_ID) -> Path:
        return self.folder / repo_id

    def files(self, repo_id: str = REPO_ID) -> set[str]:
        root = self.repository(repo_id)
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    def card(self, repo_id: str = REPO_ID) -> ModelCard:
        return ModelCard.load(self.repository(repo_id) / "README.md")

    def create_repo(self, api, repo_id, **kwargs):
        assert repo_id.count("/") == 1
        self.repository(repo_id).mkdir(parents=True, exist_ok=True)
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, api, repo_id, operations, *, commit_message, **kwargs):
        for operation in operations:
            assert isinstance(operation, CommitOperationAdd)
            target = self.repository(repo_id) / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operation.path_or_fileobj, target)
        self.commits.append((commit_message, {operation.path_in_repo for operation in operations}))
        return CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}/commit/0123456789",
            commit_message=commit_message,
            commit_description="",
            oid="0123456789",
        )

    def upload_folder(self, api, *, repo_id, folder_path, commit_message, ignore_patterns, **kwargs):
        folder = Path(folder_path)
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        operations = [
            CommitOperationAdd(path_or_fileobj=str(folder / file), path_in_repo=file)
            for file in filter_repo_objects(files, ignore_patterns=ignore_patterns)
        ]
        return self.create_commit(api, repo_id, operations, commit_message=commit_message)

    def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, commit_message, **kwargs):
        operation = CommitOperationAdd(path_or_fileobj=path_or_fileobj, path_in_repo=path_in_repo)
        return self.create_commit(None, repo_id, [operation], commit_message=commit_message)

    def download_card(self, repo_id, filename, **kwargs):
        path = self.repository(repo_id) / filename
        if not path.is_file():
            raise LocalEntryNotFoundError(f"{repo_id} has no {filename}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    for name in ("create_repo", "create_commit", "upload_folder"):
        method = getattr(hub, name)
        monkeypatch.setattr(huggingface_hub.HfApi, name, lambda api, *args, _m=method, **kw: _m(api, *args, **kw))
    monkeypatch.setattr(huggingface_hub.repocard, "hf_hub_download", hub.download_card)
    monkeypatch.setattr(huggingface_hub.repocard, "upload_file", hub.upload_file)
    # asks the Hub whether the metadata is well-formed
    monkeypatch.setattr(ModelCard, "validate", lambda *args, **kwargs: None)
    return hub


def make_model(model_class=TubeViTForVideoClassification):
    return randomize(model_class(tiny_config(gate_layer=1)))


def push(thing, how, folder, **kwargs):
    if how == "push_to_hub":
        thing.push_to_hub(REPO_ID, **kwargs)
    else:
        thing.save_pretrained(folder, push_to_hub=True, repo_id=REPO_ID, **kwargs)


def assert_loads(repository, model):
    """What lies in the repository gives the same answers as `model`, and serves every class."""
    config = json.loads((repository / "config.json").read_text())
    assert config["auto_map"].keys() == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageClassification",
        "AutoModelForPreTraining",
        "AutoModelForVideoClassification",
    }
    clip = torch.randn(2, 7, 3, 40, 56)
    for auto_class in (AutoModelForVideoClassification, AutoModelForImageClassification):
        loaded, info = auto_class.from_pretrained(repository, output_loading_info=True)
        assert not any(info.values())
        with torch.no_grad():
            assert torch.equal(loaded(clip).logits, model.eval()(clip).logits)


def assert_is_our_card(card):
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "video-classification"
    assert "@inproceedings{piergiovanni2023rethinking," in card.text
    assert "2212.03229" in card.text
    # the snippet can be pasted as it is
    assert f'pipeline("video-classification", model="{REPO_ID}", trust_remote_code=True)' in card.text


def numbers_in(card, leave_out=()):
    text = re.sub("<!-- .* -->", "", card.text)
    for part in (REPO_ID, "apache-2.0", "2212.03229", "clip.mp4", "piergiovanni2023rethinking", *leave_out):
        text = text.replace(part, "")
    return re.findall(r"\d[\d.,]*(?<![.,])", text)


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
@pytest.mark.parametrize("model_class", [TubeViTModel, TubeViTForVideoClassification, TubeViTForImageClassification])
def test_model(hub, model_class, how, tmp_path):
    model = make_model(model_class)
    push(model, how, tmp_path / "saved", commit_message="First")
    assert hub.commits == [("First", MODEL_FILES | {"README.md"})]
    assert_is_our_card(hub.card())
    if model_class is not TubeViTModel:
        assert_loads(hub.repository(), model)


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_video_processor_brings_the_image_processor(hub, how, tmp_path):
    push(tiny_video_processor(), how, tmp_path / "saved", commit_message="First")
    assert hub.files() - {"README.md"} == PROCESSOR_FILES
    assert {message for message, _ in hub.commits} == {"First"}
    assert AutoVideoProcessor.from_pretrained(hub.repository()).crop_size == {"height": 40, "width": 56}
    assert AutoImageProcessor.from_pretrained(hub.repository()).image_mean == (0.3, 0.5, 0.6)


def test_image_processor_alone(hub):
    TubeViTImageProcessor(size={"shortest_edge": 44}).push_to_hub(REPO_ID)
    assert hub.files() - {"README.md"} == IMAGE_PROCESSOR_FILES


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
@pytest.mark.parametrize("order", [("model", "processor"), ("processor", "model")], ids="-".join)
def test_model_and_processor(hub, order, how, tmp_path):
    things = {"model": make_model(), "processor": tiny_video_processor()}
    for name in order:
        push(things[name], how, tmp_path / "saved")
    assert hub.files() == MODEL_FILES | PROCESSOR_FILES | {"README.md"}
    assert_is_our_card(hub.card())
    assert_loads(hub.repository(), things["model"])


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_users_card_is_left_alone(hub, how, tmp_path):
    hub.create_repo(None, REPO_ID)
    (hub.repository() / "README.md").write_text(USER_CARD)
    push(make_model(), how, tmp_path / "saved")
    push(tiny_video_processor(), how, tmp_path / "saved")
    assert (hub.repository() / "README.md").read_text() == USER_CARD


@pytest.mark.parametrize("how", ["argument", "model_tags"])
def test_users_tags_are_kept(hub, how):
    model = make_model()
    if how == "argument":
        model.push_to_hub(REPO_ID, tags=["sports", "tubevit"])
    else:
        model.add_model_tags(["sports", "tubevit"])
        model.push_to_hub(REPO_ID)
    assert_is_our_card(hub.card())
    assert sorted(hub.card().data.tags) == ["image-classification", "sports", "tubevit", "video-classification"]


def test_card_without_evaluation_has_only_the_models_own_numbers(hub):
    model = make_model()
    model.push_to_hub(REPO_ID)
    card = hub.card()
    assert "No evaluation was recorded" in card.text
    assert card.data.eval_results is None
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    # parameters, layers, width, frames, height, width, tokens, year of the citation
    assert numbers_in(card) == [f"{num_parameters:,}", "3", "24", "7", "40", "56", "74", "2023"]


@pytest.mark.parametrize("kind", [float, np.float64, np.float32], ids=lambda kind: kind.__name__)
def test_card_with_evaluation_has_the_given_numbers(kind, tmp_path):
    # metric libraries return NumPy's numbers
    metrics = {"accuracy": kind(0.90625), "top_5_accuracy": kind(1.0)}
    make_model().create_model_card(REPO_ID, metrics=metrics, dataset="Moving digits").save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert_is_our_card(card)
    assert "No evaluation" not in card.text
    assert "Measured on Moving digits" in card.text
    table = re.findall(r"^\| (\w+) \| ([\d.]+) \|$", card.text, flags=re.MULTILINE)
    assert dict(table) == {"accuracy": "0.9062", "top_5_accuracy": "1"}
    assert numbers_in(card, leave_out=["top_5"])[-3:] == ["0.9062", "1", "2023"]
    assert {(result.metric_type, result.metric_value) for result in card.data.eval_results} == {
        ("accuracy", 0.90625),
        ("top_5_accuracy", 1.0),
    }
    assert {result.dataset_name for result in card.data.eval_results} == {"Moving digits"}
    assert card.data.model_name == "tubevit-tiny"
    assert "numpy" not in str(card)


def test_card_lines_are_whole():
    # Jinja's blocks leave empty or joined lines behind where a dash is missing
    card = create_model_card(tiny_config(), REPO_ID, num_parameters=1_234, metrics={"a": 0.25, "b": 0.5})
    table = card.text[card.text.index("| metric") :].split("\n\n")[0]
    assert table.splitlines() == ["| metric | value |", "|---|---|", "| a | 0.25 |", "| b | 0.5 |"]
    assert "\n# tubevit-tiny\n\nA [TubeViT]" in card.text
    assert "\n\n\n" not in card.text
    assert "{{" not in card.text and "{%" not in card.text


def test_card_with_intervals_limits_and_environment(tmp_path):
    card = create_model_card(
        tiny_config(),
        REPO_ID,
        num_parameters=1_234,
        metrics={"accuracy": 0.75, "error": 0.125},
        dataset="Clips",
        intervals={"accuracy": (0.5, 0.875)},
        split="All videos of validation.",
        limits=["Few videos.", "One\nplace."],
        environment={"CPU": "one", "torch": "2.9"},
        details="## Training\n\nFrom a ViT.\n",
    )
    text = re.sub("<!-- .* -->", "", card.text).strip()
    begin, end = text.index("## Evaluation"), text.index("## Citation")
    assert text[begin:end].strip().splitlines() == [
        *("## Evaluation", "", "Measured on Clips. All videos of validation.", ""),
        *("| metric | value | 95% interval |", "|---|---|---|"),
        *("| accuracy | 0.75 | 0.5 to 0.875 |", "| error | 0.125 |  |"),
        *("", "## Limits", "", "- Few videos.", "- One place."),
        *("", "## Environment", "", "| | |", "|---|---|", "| CPU | one |", "| torch | 2.9 |"),
        *("", "## Training", "", "From a ViT."),
    ]
    assert "\n\n\n" not in card.text
    card.save(tmp_path / "README.md")
    assert may_be_replaced(tmp_path / "README.md")
    # what a round trip through the Hub's library leaves as it was
    ModelCard.load(tmp_path / "README.md").save(tmp_path / "README.md")
    assert may_be_replaced(tmp_path / "README.md")
    for old, new in (("From a ViT.", "From two ViTs."), ("value: 0.75", "value: 0.95"), ("sha256: ", "sha256: 0")):
        changed = tmp_path / "changed.md"
        changed.write_text(str(card).replace(old, new))
        assert str(card) != changed.read_text()
        assert not may_be_replaced(changed)


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"pixel_values": torch.randn(7, 3, 40, 56), "labels": torch.tensor(index)}

    def set_epoch(self, epoch):
        """Each epoch has the same clips."""


def train(trainer_class, folder):
    """Two steps with a checkpoint after each."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        hub_model_id=REPO_ID,
        max_steps=2,
        per_device_train_batch_size=2,
        save_steps=1,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = make_model()
    before = model.classifier.weight.detach().clone()
    trainer = trainer_class(model, arguments, train_dataset=Clips(), processing_class=tiny_video_processor())
    trainer.train()
    assert not torch.equal(model.classifier.weight, before)
    return trainer


def test_trainer(hub, tmp_path, caplog):
    trainer = train(Trainer, tmp_path / "run")
    trainer.push_to_hub(license="apache-2.0")

    # nothing of the checkpoints on the way, which lie in the same folder; the arguments are Trainer's own addition
    assert (tmp_path / "run" / "checkpoint-1").is_dir()
    assert hub.files() == MODEL_FILES | PROCESSOR_FILES | {"README.md", "training_args.bin"}
    assert hub.card().data.license == "apache-2.0"
    caplog.clear()
    assert_loads(hub.repository(), trainer.model)
    # what Trainer writes into the config is no mistake of the user
    assert [record.message for record in caplog.records] == []
    processor = AutoVideoProcessor.from_pretrained(hub.repository())
    assert processor.to_dict() == trainer.processing_class.to_dict()
    assert AutoImageProcessor.from_pretrained(hub.repository()).image_std == (0.2, 0.3, 0.4)

    # Trainer writes a card of its own, without a citation; this is how ours takes its place
    card = trainer.model.create_model_card(REPO_ID, metrics={"accuracy": 0.25}, dataset="Clips")
    card.push_to_hub(REPO_ID)
    assert_is_our_card(hub.card())
    assert "| accuracy | 0.25 |" in hub.card().text


def test_trainer_of_the_examples(hub, tmp_path):
    trainer = train(VideoTrainer, tmp_path / "run")
    accuracies = [{"eval_top_1_accuracy": 0.125}, {"eval_top_1_accuracy": 0.75}, {"eval_loss": 3.5}]
    trainer.state.log_history += accuracies
    trainer.push_to_hub(dataset="Clips")

    assert hub.files() == MODEL_FILES | PROCESSOR_FILES | {"README.md", "training_args.bin"}
    assert_is_our_card(hub.card())
    # the last evaluation, and nothing that was not measured
    assert numbers_in(hub.card())[-2:] == ["0.75", "2023"]
    assert "Measured on Clips" in hub.card().text
    assert_loads(hub.repository(), trainer.model)


def test_bare_model_is_pushed_without_a_head(hub):
    make_model(TubeViTModel).push_to_hub(REPO_ID)
    _, info = AutoModel.from_pretrained(hub.repository(), output_loading_info=True)
    assert not any(info.values())
