# SPDX-License-Identifier: Apache-2.0
"""Features to files: the model's own, and the same bytes whatever workers, kills and processes."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModel

from tubevit_hf.data.listing import find_videos
from tubevit_hf.inference import embedding
from tubevit_hf.inference.embedding import Embedding
from tubevit_hf.inference.identity import OutputMismatch
from tubevit_hf.inference.running import LoadedModel, load_model

from ..support.stopping import stop_at
from ..support.tolerances import assert_close
from .conftest import ENVIRONMENT, command, tubevit


@pytest.fixture(scope="module")
def loaded(checkpoint) -> LoadedModel:
    return load_model(str(checkpoint), auto=AutoModel)


@pytest.fixture
def folder(video_folder, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(video_folder, tmp_path / "videos"))


def embed(loaded, folder: Path, out: Path, *, workers: int = 0, stop: int | None = None, **settings) -> list[str]:
    """Names of the files that were read, up to `stop` of them."""
    writer = Embedding(loaded, folder, out, name="tiny", **{"batch_size": 2, "shard_size": 3, **settings})
    read = []
    for reading in writer.run(workers):
        read.append(Path(reading.file).name)
        if len(read) == stop:
            break
    return read


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("num_clips", [1, 3])
def test_rows_are_what_the_model_gives(loaded, video_folder, tmp_path, tokens, num_clips):
    embed(loaded, video_folder, tmp_path / "out", tokens=tokens, num_clips=num_clips)
    rows = load_from_disk(str(tmp_path / "out"))
    files = [path for path in find_videos(video_folder) if path.name != "1.mp4"]
    expected = [str(path.relative_to(video_folder)) for path in files for _ in range(num_clips)]
    assert rows["file"][:] == expected
    assert rows["label"][:] == [file.split("/")[0] for file in expected]
    for place, path in enumerate(files):
        metadata, clips = read_clips(loaded, str(path), num_clips)
        of_file = rows.select(range(place * num_clips, (place + 1) * num_clips))
        with torch.no_grad():
            output = loaded.model(clips)
        wanted = output.last_hidden_state if tokens else output.pooler_output
        assert_close(torch.tensor(np.array(of_file["tokens" if tokens else "features"][:])), wanted, "float32")
        for row, seconds in zip(of_file, metadata):
            # ten frames a second
            assert (row["start"], row["end"]) == pytest.approx((seconds[0] / 10, seconds[-1] / 10))


def read_clips(loaded, file: str, num_clips: int) -> tuple[list[list[int]], torch.Tensor]:
    """Frame numbers of each clip, and the clips; frames evenly from all of the video."""
    frames = loaded.processor(file, do_sample_frames=False, return_tensors="pt")["pixel_values"][0]
    total = len(frames)
    every = [place * total // (7 * num_clips) for place in range(7 * num_clips)]
    numbers = [every[clip::num_clips] for clip in range(num_clips)]
    return numbers, torch.stack([frames[indices] for indices in numbers])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_same_bytes_after_a_stop(loaded, folder, tmp_path, workers):
    embed(loaded, folder, tmp_path / "whole")
    for stop in (1, 3, 4, 7):
        out = tmp_path / f"stopped-{stop}"
        first = embed(loaded, folder, out, workers=workers, stop=stop)
        rest = embed(loaded, folder, out, workers=workers)
        assert bytes_of(out) == bytes_of(tmp_path / "whole")
        # the last shard at most is read again
        assert len(first) == stop and len(rest) <= 7 - stop // 3 * 3 + 3
        assert embed(loaded, folder, out, workers=workers) in ([], ["1.mp4"])


def test_only_what_is_new_is_read(loaded, folder, tmp_path, caplog):
    late = (folder / "c" / "5.mp4").rename(tmp_path / "5.mp4")
    mended = (folder / "a" / "3.mp4").read_bytes()
    embed(loaded, folder, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    # another comes, the broken one is mended, one is replaced
    late.rename(folder / "c" / "5.mp4")
    (folder / "b" / "1.mp4").write_bytes(mended)
    (folder / "a" / "0.mp4").write_bytes(mended)
    assert embed(loaded, folder, tmp_path / "out") == ["1.mp4", "5.mp4"]
    assert "1 file(s) are others than when they were read, such as a/0.mp4" in caplog.text
    after = bytes_of(tmp_path / "out")
    assert {name: after[name] for name in before if name.endswith(".arrow")} == {
        name: data for name, data in before.items() if name.endswith(".arrow")
    }
    assert sorted(load_from_disk(str(tmp_path / "out"))["file"][:]) == [
        str(path.relative_to(folder)) for path in find_videos(folder)
    ]
    assert embed(loaded, folder, tmp_path / "out") == []


def test_a_fast_process_takes_nothing_from_a_slow_one(loaded, video_folder, tmp_path, monkeypatch):
    """Which shards are whose is settled before any is written."""
    embeddings = []
    for index in range(2):
        state = SimpleNamespace(
            process_index=index, num_processes=2, is_main_process=index == 0, wait_for_everyone=lambda: None
        )
        monkeypatch.setattr(embedding, "get_processes", lambda state=state: state)
        embeddings.append(Embedding(loaded, video_folder, tmp_path / "out", name="tiny", shard_size=1))
    read = [[Path(reading.file).name for reading in one.run(0)] for one in embeddings]
    assert [len(names) for names in read] == [4, 3]
    assert sorted(name for names in read for name in names) == sorted(path.name for path in find_videos(video_folder))


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_taken_up_again(checkpoint, loaded, folder, tmp_path, processes):
    """The command, killed where a shard is there and another half written, and by several processes."""
    arguments = ["embed", folder, "--model", checkpoint, "--batch-size", 2, "--shard-size", 3, "--workers", 0]
    out = tmp_path / "out"
    stop = stop_at("datasets.arrow_writer:ArrowWriter.finalize", 2)
    line = command(*arguments, "--out", out, processes=processes, stop=stop)
    killed = subprocess.run(line, env=ENVIRONMENT, start_new_session=True, capture_output=True)
    assert killed.returncode != 0
    assert list(out.glob("*.arrow")) and list(out.glob("*.unfinished-0"))
    again = tubevit(*arguments, "--out", out, processes=processes)
    output, errors = again.communicate()
    assert again.returncode in (0, 1), errors
    whole = tubevit(*arguments, "--out", tmp_path / "whole", processes=processes)
    output, errors = whole.communicate()
    assert whole.returncode == 1 and "1.mp4: " in errors
    if processes == 1:
        assert f"{tmp_path / 'whole'}: 6 video(s) read, 7 in all." in output
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_an_output_made_otherwise_is_refused(checkpoint, loaded, video_folder, tmp_path):
    out = tmp_path / "out"
    embed(loaded, video_folder, out)
    with pytest.raises(OutputMismatch, match="tokens is false, now true"):
        embed(loaded, video_folder, out, tokens=True)
    with pytest.raises(OutputMismatch, match="weights is "):
        embed(loaded._replace(weights="others"), video_folder, out)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        embed(loaded, video_folder, tmp_path / "else")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no videos"):
        embed(loaded, tmp_path / "empty", tmp_path / "new")
    assert not (tmp_path / "new").exists()
