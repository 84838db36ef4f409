# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and processors of strangers end in one clear error, at once and in little memory."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForVideoClassification, TrainingArguments

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor, VideoLimits, read_video
from tubevit_hf.data import ClipDataset, TrainingClip
from tubevit_hf.model import checkpoint_files_tubevit
from tubevit_hf.training import VideoTrainer

from ..support.hostile_checkpoints import CASES, Bomb, make_checkpoint, run
from ..support.tiny import rows_of, tiny_config, tiny_video_processor
from ..support.video_corpus import Case, write


# what a case may take, with room for a slow machine; the table of the script tells what it does
SECONDS, MEMORY = 10, 600 * 2**20
ERRORS = (ValueError, TypeError, OSError, RecursionError, StrictDataclassError)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "checkpoint"
    make_checkpoint(folder)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_clear_error(case, sound, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: "n")
    error, seconds, memory = run(case, sound, tmp_path / "hostile")
    if case.message:
        assert isinstance(error, ERRORS)
        assert re.search(case.message, str(error)), error
    else:
        assert error is None
    assert seconds < SECONDS
    assert memory < MEMORY
    assert not (tmp_path / "hostile" / "exploded").exists()


def test_there_are_many(sound):
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    # and the sound one is none of them
    AutoModelForVideoClassification.from_pretrained(sound)


def test_a_bomb_explodes_where_it_is_unpickled(tmp_path):
    """Or the tests above would show nothing."""
    pickle.loads(pickle.dumps(Bomb(str(tmp_path / "exploded")))).close()
    assert (tmp_path / "exploded").exists()


def test_limits_can_be_lifted(monkeypatch):
    settings = {"num_frames": 2**16 + 1}
    with pytest.raises(ValueError, match=r"`num_frames` is 65537, and more than 65536.*TUBEVIT_ANY_CONFIG=1"):
        TubeViTConfig(**settings)
    monkeypatch.setenv("TUBEVIT_ANY_CONFIG", "1")
    assert TubeViTConfig(**settings).num_frames == 2**16 + 1


def test_parameters_are_counted_about(tmp_path):
    for settings in (
        {},
        {"position_embedding_type": "learned"},
        {"tube_kernels": "interpolated", "pooling_type": "mean", "id2label": dict(enumerate("abcdefg"))},
    ):
        config = tiny_config(hidden_size=96, intermediate_size=192, **settings)
        exact = TubeViTForVideoClassification(config).num_parameters()
        assert config.count_about() == pytest.approx(exact, rel=0.05)


def test_classes_may_share_a_name():
    """As two cranes do in ImageNet, a bird and a machine."""
    assert TubeViTConfig(id2label={0: "crane", 1: "crane"}).num_labels == 2


def test_what_a_call_overrides_is_checked(sound):
    with pytest.raises(ValueError, match="`gate_layer` must be from 0 to 1"):
        AutoModelForVideoClassification.from_pretrained(sound, gate_layer=99)
    with pytest.raises(ValueError, match="`num_attention_heads` must divide"):
        TubeViTConfig.from_pretrained(sound, num_attention_heads=7)


def test_a_new_classifier_may_be_missing(sound, tmp_path, monkeypatch):
    """And where weights do not fit, that is transformers' to say."""
    model = AutoModelForVideoClassification.from_pretrained(sound, num_labels=50, ignore_mismatched_sizes=True)
    assert model.classifier.out_features == 50
    monkeypatch.setattr(checkpoint_files_tubevit, "MISSING", 10)
    with pytest.raises(ValueError, match=r"config\.json describes a model of about .*, and its weights have"):
        config = TubeViTConfig.from_pretrained(sound, id2label={number: str(number) for number in range(10**4)})
        AutoModelForVideoClassification.from_pretrained(sound, config=config, ignore_mismatched_sizes=True)


def test_a_sharded_checkpoint_loads(sound, tmp_path):
    model = AutoModelForVideoClassification.from_pretrained(sound)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForVideoClassification.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert again.state_dict()[name].equal(tensor)


# Resumed training


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_resumed_training_unpickles_nothing(name, videos, tmp_path):
    """The Trainer reads these with `weights_only`."""

    def trainer() -> VideoTrainer:
        arguments = TrainingArguments(
            tmp_path / "out",
            max_steps=2,
            save_steps=1,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        config = tiny_config(id2label={0: "a", 1: "b", 2: "c"})
        clips = ClipDataset(rows_of(videos, [0, 1, 2]), TrainingClip(tiny_video_processor(), 7))
        return VideoTrainer(model=TubeViTForVideoClassification(config), args=arguments, train_dataset=clips)

    trainer().train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    assert (checkpoint / name).exists()
    # each in the two ways that torch reads
    torch.save(Bomb(str(tmp_path / "exploded")), checkpoint / name)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        trainer().train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / name).write_bytes(pickle.dumps(Bomb(str(tmp_path / "exploded"))))
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        trainer().train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "exploded").exists()


# Frames


def test_frames_that_are_asked_for_have_a_limit(tmp_path):
    path = write(Case("video.mp4"), tmp_path)
    with pytest.raises(ValueError, match="100000000 frames are wanted of a video that has 40"):
        read_video(path, range(10**8))
    assert len(read_video(path, [3] * 1000)[0]) == 1000
    with pytest.raises(ValueError, match=r"40 frames of 96 x 64 pixels take 737280 bytes; at most 700000 are kept"):
        read_video(path, limits=VideoLimits(max_decoded=700_000))
    # a processor without `num_frames` takes all
    settings = json.loads(TubeViTVideoProcessor().to_json_string())
    processor = TubeViTVideoProcessor(**{**settings, "num_frames": None, "fps": None})
    assert processor(str(path), return_tensors="pt")["pixel_values"].shape[1] == 40
