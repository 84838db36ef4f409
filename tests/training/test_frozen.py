# SPDX-License-Identifier: Apache-2.0
"""What frozen layers give is computed once: the same losses and weights as without, or a refusal."""

import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from tubevit_hf import TubeViTForVideoClassification
from tubevit_hf.data import ClipDataset, TrainingClip
from tubevit_hf.data import clips as clips_module
from tubevit_hf.training import FrozenCacheMismatch, VideoTrainer, cache_frozen, frozen_size
from tubevit_hf.training import frozen as frozen_module

from ..support.tiny import randomize, rows_of, tiny_config, tiny_video_processor
from ..support.tolerances import assert_close


def make_model(seed: int = 0, **settings) -> TubeViTForVideoClassification:
    config = tiny_config(**{"freeze_before": 2, "gate_layer": 2, "id2label": {0: "a", 1: "b", 2: "c"}, **settings})
    return randomize(TubeViTForVideoClassification(config), seed=seed, std=0.1)


def make_clips(videos: list[str], **settings) -> ClipDataset:
    clip = TrainingClip(tiny_video_processor(), 7, random_crop=True, horizontal_flip=True, time_scale=0.6)
    return ClipDataset(rows_of(videos * 2, [0, 1, 2, 1, 0, 2]), clip, **{"seed": 3, "copies": 2, **settings})


def test_clips_of_different_lengths_are_refused(videos, tmp_path):
    clips = ClipDataset(
        rows_of(videos, [0, 1, 2]), TrainingClip(tiny_video_processor(), 7, short_clips="pad"), copies=2
    )
    with pytest.raises(ValueError, match=r'has `short_clips="pad"`.*choose `short_clips="repeat"`'):
        cache_frozen(make_model(), clips, tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()


def losses_and_weights(model, dataset, folder: Path, mixup: float) -> tuple[list[float], dict[str, torch.Tensor]]:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=3,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=5,
    )
    trainer = VideoTrainer(model=model, args=arguments, train_dataset=dataset, mixup=mixup)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], model.state_dict()


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gate_layer": None, "freeze_before": 3},
        {
            "tubes": [
                {"kernel_size": [1, 8, 8], "stride": [2, 8, 8]},
                {"kernel_size": [3, 8, 8], "stride": [4, 16, 16]},
            ],
            "joint_layer": 2,
            "joint_pooling": [2, 2],
        },
        {
            "tubes": [{"kernel_size": [1, 8, 8], "stride": [1, 8, 8]}],
            "gate_layer": None,
            "joint_layer": 3,
            "freeze_before": 3,
            "pooling_type": "grid",
            "pooling_grid": [3, 2, 2],
        },
        {"gate_layer": None, "freeze_before": 3, "pooling_type": "grid", "pooling_grid": [3, 2, 2]},
    ],
    ids=["gate", "all_layers", "joint", "grid", "grid_of_tubes"],
)
def test_training_is_the_same_with_and_without(settings, mixup, videos, tmp_path):
    losses, weights = losses_and_weights(make_model(**settings), make_clips(videos), tmp_path / "without", mixup)
    model = make_model(**settings)
    kept = cache_frozen(model, make_clips(videos), tmp_path / "frozen", batch_size=3)
    found, found_weights = losses_and_weights(model, kept, tmp_path / "with", mixup)
    assert len(losses) == 6
    assert len(set(losses)) > 1
    # the Trainer rounds what it logs to four digits or so
    assert found == pytest.approx(losses, abs=1e-4)
    start = make_model(**settings).state_dict()
    moved = [name for name in weights if not weights[name].equal(start[name])]
    assert moved
    for name in weights:
        assert_close(found_weights[name], weights[name], "frozen_cache", name)


def test_copies_come_again(videos, tmp_path):
    clips = make_clips(videos)
    model = make_model()
    kept = cache_frozen(model, clips, tmp_path)
    assert len(kept) == 6
    for epoch in (0, 1, 2):
        kept.set_epoch(epoch)
        expected = model.tubevit.encode_frozen(clips[4]["pixel_values"][None])[0]
        assert_close(kept[4]["frozen_output"], expected, "float32")
        assert kept[4]["labels"] == 0
    assert not kept.get_output(4, 0).equal(kept.get_output(4, 1))
    some = kept.select([4, 1], copies=1)
    assert len(some) == 2
    some.set_epoch(1)
    assert some[0]["frozen_output"].equal(kept.get_output(4, 0))
    # workers that are spawned read the same
    copied = pickle.loads(pickle.dumps(kept))
    assert copied[4]["frozen_output"].equal(kept[4]["frozen_output"])
    batches = frozen_module.Copies(clips, [1, 2, 5], batch_size=2)
    assert pickle.loads(pickle.dumps(batches))[0].equal(batches[0])
    with pytest.raises(ValueError, match="`copies` must be at least 1, got 0"):
        make_clips(videos, copies=0)
    with pytest.raises(ValueError, match="has no `copies`"):
        cache_frozen(model, make_clips(videos, copies=None), tmp_path)


@pytest.mark.parametrize("settings", [{}, {"time_scale": 1.0}, {"time_scale": 1.0, "fps": 4.0}])
def test_copies_share_what_is_decoded(settings, videos, monkeypatch):
    """Each the same as alone, from one opening of the file, with little memory too."""
    clip = TrainingClip(
        tiny_video_processor(),
        **{"num_frames": 7, "random_crop": True, "color_jitter": 0.4, "time_scale": 0.6, **settings},
    )
    clips = ClipDataset(rows_of(videos, [0, 1, 2]), clip, copies=5)
    alone = torch.stack([clips.get_clip(1, copy)["pixel_values"] for copy in (3, 0, 2, 4)])
    assert len({values.sum().item() for values in alone}) == 4
    opened, decoded = [], []
    reader = clips_module.VideoReader

    class Counting(reader):
        def __init__(self, source):
            opened.append(source)
            super().__init__(source)

        def get_frames(self, indices):
            decoded.append(len(indices))
            return super().get_frames(indices)

    monkeypatch.setattr(clips_module, "VideoReader", Counting)
    assert clips.get_pixels(1, [3, 0, 2, 4]).equal(alone)
    assert len(opened) == len(decoded) == 1
    monkeypatch.setattr(clips_module, "MAX_DECODED_BYTES", 1)
    assert clips.get_pixels(1, [3, 0, 2, 4]).equal(alone)
    assert (len(opened), len(decoded)) == (2, 5)


def test_size_is_foretold(videos, tmp_path):
    model, clips = make_model(), make_clips(videos)
    cache_frozen(model, clips, tmp_path)
    written = sum(np.load(path).nbytes for path in tmp_path.glob("clips-*.npy"))
    assert written == frozen_size(model, clips) > 0


@pytest.mark.parametrize("other", ["weights", "videos", "clip", "seed", "copies", "configuration", "file"])
def test_another_cache_is_never_used(other, videos, tmp_path):
    model, clips = make_model(), make_clips(videos)
    folder = tmp_path / "frozen"
    cache_frozen(model, clips, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    # the head and what trains make no difference
    torch.nn.init.ones_(model.classifier.weight)
    cache_frozen(model, make_clips(videos), folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    what = {
        "weights": "frozen weights",
        "videos": "list of videos",
        "clip": "kind of clip",
        "copies": "number of copies",
    }
    if other == "weights":
        torch.nn.init.zeros_(model.tubevit.layers[1].mlp.fc1.bias)
    elif other == "videos":
        clips = make_clips(videos[::-1])
    elif other == "clip":
        clips.load = TrainingClip(tiny_video_processor(), 7, random_crop=True)
    elif other == "configuration":
        model = make_model(layer_norm_eps=0.1)
    elif other == "file":
        os.utime(videos[0], (1, 1))
        what["file"] = "list of videos"
    else:
        clips = make_clips(videos, **{other: 1})
    with pytest.raises(FrozenCacheMismatch, match=re.escape(f"another {what.get(other, other)}. Remove it")):
        cache_frozen(model, clips, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    kept = cache_frozen(model, clips, folder, overwrite=True)
    expected = model.tubevit.encode_frozen(clips.get_clip(1, 0)["pixel_values"][None])[0]
    assert_close(kept.get_output(1, 0), expected, "float32")


def test_too_little_room_is_said_before(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_module, "frozen_bytes", lambda shape: 10**15)
    with pytest.raises(OSError, match=r"GB, and .* are free"):
        cache_frozen(make_model(), make_clips(videos), tmp_path / "frozen")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tests.training import test_frozen as cases
    from tubevit_hf.training import frozen

    frozen.SHARD_SIZE = 2
    replace, count = os.replace, 0

    def replace_and_die(*arguments):
        global count
        count += 1
        if count == 4:  # the note, two shards, and in the middle of the third
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)

    os.replace = replace_and_die
    cases.cache_frozen(cases.make_model(), cases.make_clips(sys.argv[2:]), Path(sys.argv[1]))
"""


def test_a_killed_run_goes_on(videos, tmp_path, monkeypatch):
    folder = tmp_path / "frozen"
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), folder, *videos], cwd=root)
    assert killed.returncode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in folder.glob("clips-*.npy")}
    assert len(done) == 2
    monkeypatch.setattr(frozen_module, "SHARD_SIZE", 2)
    kept = cache_frozen(make_model(), make_clips(videos), folder)
    assert len(list(folder.glob("clips-*.npy"))) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    anew = cache_frozen(make_model(), make_clips(videos), tmp_path / "anew")
    for index in range(6):
        for copy in range(2):
            assert_close(kept.get_output(index, copy), anew.get_output(index, copy), "float32")
