# SPDX-License-Identifier: Apache-2.0
"""Class folders, data sets on disk, and what is wrong with them."""

from pathlib import Path

import pytest
from datasets import ClassLabel, DatasetDict, List

from tubevit_hf.data import (
    AnnotationError,
    ClipDataset,
    TrainingClip,
    drop_unreadable,
    get_names,
    holds_images,
    load_by_name,
    load_folder,
)

from ..support.tiny import rows_of, tiny_video_processor


def write_folder(folder: Path, files: list[str], **splits: list[str]) -> Path:
    for split, classes in splits.items():
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / Path(files[0]).name).symlink_to(files[0])
    return folder


def test_class_folders(tmp_path, videos):
    splits = load_folder(write_folder(tmp_path, videos, train=["run", "fall"], validation=["fall", "run"]))
    assert get_names(splits["train"]) == ["fall", "run"]
    assert not holds_images(splits["train"])
    assert ClipDataset(splits["train"], TrainingClip(tiny_video_processor(), 4))[0]["pixel_values"].shape[0] == 4


def test_names_of_folders_mean_no_split(tmp_path, videos):
    """Classes may be called like splits, their videos lie deeper, be links, or of any format that FFmpeg reads."""
    classes = ["training dog", "validation", "dev"]
    folder = write_folder(tmp_path, videos, train=classes, validation=classes)
    (folder / "train" / "dev" / "deeper").mkdir()
    (folder / "train" / "dev" / "deeper" / "b.webm").symlink_to(videos[1])
    (folder / "train_extra" / "dev").mkdir(parents=True)
    (folder / "train_extra" / "dev" / "c.mp4").symlink_to(videos[1])
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "d.mp4").symlink_to(videos[2])
    for split in ("train", "validation"):
        (folder / split / "linked").symlink_to(folder / "elsewhere")
    splits = load_folder(folder)
    assert get_names(splits["train"]) == ["dev", "linked", "training dog", "validation"]
    assert splits["train"]["label"][:] == [0, 0, 1, 2, 3]
    assert splits["validation"]["label"][:] == [0, 1, 2, 3]
    assert all(f"/{split}/" in row["video"] for split in splits for row in splits[split])


def test_class_folders_of_images(tmp_path, images):
    splits = load_folder(write_folder(tmp_path, images, train=["cat", "dog"], validation=["cat", "dog"]))
    assert holds_images(splits["train"])
    # an image is a clip of one frame
    clip = ClipDataset(splits["train"], TrainingClip(tiny_video_processor(), 1))[0]["pixel_values"]
    assert clip.shape == (1, 3, 40, 56)


def test_folders_that_lack_something(tmp_path, videos):
    with pytest.raises(AnnotationError, match=r"train: it holds 0 folder\(s\) of classes"):
        load_folder(tmp_path)
    folder = write_folder(tmp_path / "a", videos, train=["run", "fall", "jump"], validation=["jump", "fall"])
    with pytest.raises(AnnotationError, match=r"the splits have other classes.*one of the two has: run"):
        load_folder(folder)
    (folder / "train" / "run" / Path(videos[0]).name).unlink()
    with pytest.raises(AnnotationError, match=r"run: it holds no videos"):
        load_folder(folder)


def test_datasets_on_disk(tmp_path, videos):
    DatasetDict(train=rows_of(videos, [0, 1, 2]), validation=rows_of(videos, [0, 1, 2])).save_to_disk(tmp_path / "d")
    assert get_names(load_by_name(str(tmp_path / "d"))["train"]) == ["a", "b", "c"]
    DatasetDict(train=rows_of(videos, [0, 1, 2])).save_to_disk(tmp_path / "e")
    with pytest.raises(AnnotationError, match="it has no split 'validation', only train"):
        load_by_name(str(tmp_path / "e"))
    rows_of(videos, [0, 1, 2]).save_to_disk(tmp_path / "f")
    with pytest.raises(AnnotationError, match="one dataset without splits; save a DatasetDict with train and valid"):
        load_by_name(str(tmp_path / "f"))


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, -1, 2], None, "validation: row 1 has the label -1; allowed are 0 to 2"),
        ([0, 1, None], None, "validation: row 2 has the label None"),
        ([[0], [1], []], List(ClassLabel(names=["a", "b", "c"])), "one split have a label each, those of the other"),
    ],
)
def test_labels_that_would_fail_in_evaluation_fail_at_once(labels, feature, message, tmp_path, videos):
    validation = rows_of(videos, labels) if feature is None else rows_of(videos, labels, feature)
    DatasetDict(train=rows_of(videos, [0, 1, 2]), validation=validation).save_to_disk(tmp_path)
    with pytest.raises(AnnotationError, match=message):
        load_by_name(str(tmp_path))


def test_unreadable_videos_are_passed_over_and_reported(tmp_path, videos, caplog):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows = rows_of([videos[0], str(tmp_path / "broken.mp4"), videos[1]], [0, 1, 2])
    usable = drop_unreadable(rows, "train")
    assert usable["label"][:] == [0, 2]
    assert "1 video(s) of train are passed over" in caplog.text
    assert "broken.mp4: " in caplog.text
    (tmp_path / "text.png").write_text("no image")
    assert len(drop_unreadable(rows_of([str(tmp_path / "text.png"), *videos[:2]], [0, 1, 2]), "train")) == 2
    assert "text.png" in caplog.text
    with pytest.raises(AnnotationError, match="none of the 1 videos of train can be read"):
        drop_unreadable(rows.select([1]), "train")
