# SPDX-License-Identifier: Apache-2.0
"""The example for Ray, on a local cluster of two actors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from transformers import AutoModel, AutoVideoProcessor

from tubevit_hf.data.listing import find_videos

from ..support.tiny import write_video
from ..support.tolerances import assert_close
from .test_examples import EXAMPLES


pytest.importorskip("ray", reason="the extra `test` brings it where it has a wheel")


def test_features_of_a_folder(checkpoint, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(5):
        write_video(folder / f"{number}.mp4", 9 + number, 48, 72, seed=number)
    (folder / "2.mp4").write_bytes(b"no video")
    command = ["--model", checkpoint, "--videos", folder, "--out", tmp_path / "out", "--actors", 2]
    result = subprocess.run(
        [sys.executable, EXAMPLES / "ray_embed.py", *map(str, command)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = load_dataset("parquet", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    rows = rows.sort("file")
    assert rows["file"][:] == [str(path) for path in find_videos(folder)]
    model, processor = AutoModel.from_pretrained(checkpoint), AutoVideoProcessor.from_pretrained(checkpoint)
    for row in rows:
        if Path(row["file"]).name == "2.mp4":
            assert row["features"] is None and "2.mp4: " in row["error"]
            continue
        with torch.no_grad():
            expected = model(**processor(row["file"], num_frames=7, return_tensors="pt")).pooler_output[0]
        assert_close(torch.tensor(np.array(row["features"], dtype=np.float32)), expected, "float32")
        assert row["error"] is None and row["start"] == 0
