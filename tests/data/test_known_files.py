# SPDX-License-Identifier: Apache-2.0
"""What is known of files: what does not change is opened once, and nothing that happens to the store is an error."""

import multiprocessing
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tubevit_hf.data import drop_unreadable, facts, known_files
from tubevit_hf.data.facts import Looked, Opened, open_video, recall_looked, recall_opened
from tubevit_hf.data.known_files import KnownFiles, recall, stamp_of

from ..support.tiny import rows_of, write_video


@pytest.fixture
def store(tmp_path) -> KnownFiles:
    return KnownFiles(tmp_path / "store.sqlite3")


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The files that are opened in this process, in any order."""
    files: list[str] = []

    def note(source: str) -> Opened:
        files.append(source)
        return open_video(source)

    monkeypatch.setattr(facts, "open_video", note)
    return files


@pytest.fixture
def folder(tmp_path, videos) -> list[str]:
    """Two videos, and a file that is none."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    copies = [shutil.copy(video, str(tmp_path / Path(video).name)) for video in videos[:2]]
    return [*copies, str(tmp_path / "broken.mp4")]


def test_files_are_opened_once(store, opened, folder):
    first = recall_opened(folder, "", store=store)
    assert sorted(opened) == sorted(folder)
    assert [first[path] for path in folder] == [open_video(path) for path in folder]
    assert first[folder[0]] == Opened(None, 20, 20 / 10, 10.0, 72, 48, "h264")
    assert first[folder[2]].fault == "FFmpeg cannot read it (Invalid data found when processing input)."
    # another reader of the same store, and the path from elsewhere
    assert recall_opened(folder, "", store=KnownFiles(store.path)) == first
    nearby = [os.path.relpath(path) for path in folder]
    assert list(recall_opened(nearby, "", store=store).values()) == list(first.values())
    assert len(opened) == 3


def test_what_changes_is_opened_again(store, opened, folder):
    recall_opened(folder, "", store=store)
    opened.clear()
    # another size, and the same size at another time
    write_video(Path(folder[0]), 7, 48, 72, seed=0)
    os.utime(folder[2], ns=(0, 10**18))
    assert recall_opened(folder, "", store=store)[folder[0]].num_frames == 7
    assert sorted(opened) == sorted([folder[0], folder[2]])
    # of another version, or read within other limits
    opened.clear()
    store.reader = "another"
    recall_opened(folder, "", store=store)
    assert len(opened) == 3


def test_limits_are_part_of_what_is_known(store, opened, folder, monkeypatch):
    monkeypatch.setenv("TUBEVIT_MAX_PIXELS", "100")
    assert "too large" in (recall_opened(folder, "", store=KnownFiles(store.path))[folder[0]].fault or "")
    monkeypatch.delenv("TUBEVIT_MAX_PIXELS")
    assert recall_opened(folder, "", store=KnownFiles(store.path))[folder[0]].fault is None


def test_a_start_after_a_start(opened, folder, caplog):
    """What the examples do, with the user's store."""
    rows = rows_of(folder, [0, 1, 2])
    for _ in range(2):
        caplog.clear()
        assert drop_unreadable(rows, "train")["video"][:] == folder[:2]
        assert "1 video(s) of train are passed over" in caplog.text
        assert caplog.text.count("broken.mp4: FFmpeg cannot read it") == 1
    assert len(opened) == 3


def test_what_is_no_file_is_never_known(store, opened, tmp_path):
    for _ in range(2):
        assert recall_opened([str(tmp_path / "nothing.mp4")], "", store=store)[str(tmp_path / "nothing.mp4")].fault
    assert len(opened) == 2


def test_what_was_found_before_a_stop_is_kept(store, folder):
    def stop_at_third(paths: Sequence[str]) -> Iterator[Opened]:
        yield from map(open_video, paths[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recall(folder, Opened, stop_at_third, store)
    stamps = {path: stamp for path in folder if (stamp := stamp_of(path)) is not None}
    assert list(store.find(stamps, Opened)) == folder[:2]
    # of each kind what was found of that kind
    assert store.find(stamps, Looked) == {}


def keep_many(path: Path, start: int) -> None:
    store = KnownFiles(path)
    for number in range(start, start + 200):
        store.keep([(f"{number}.mp4", known_files.Stamp(1, 2), Opened(num_frames=number))])


def test_two_processes_and_threads_at_once(store):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=keep_many, args=(store.path, start)) for start in (0, 100)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep_many, [store.path] * 4, [250, 400, 450, 600]))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    stamps = {f"{number}.mp4": known_files.Stamp(1, 2) for number in range(1000)}
    found = store.find(stamps, Opened)
    assert {path: found[path].num_frames for path in found} == {
        f"{number}.mp4": number for number in [*range(300), *range(250, 800)]
    }


@pytest.mark.parametrize("damage", ["nonsense", "overwritten"])
def test_a_damaged_store_begins_anew(damage, store, opened, folder, caplog):
    recall_opened(folder, "", store=store)
    data = bytearray(store.path.read_bytes())
    if damage == "nonsense":
        data[:] = b"nonsense" * 1000
    else:
        data[100:4000] = bytes(3900)
    store.path.write_bytes(data)
    assert recall_opened(folder, "", store=KnownFiles(store.path))[folder[0]].num_frames == 20
    assert caplog.text.count("it was damaged") == 1 and "begins anew" in caplog.text
    opened.clear()
    recall_opened(folder, "", store=KnownFiles(store.path))
    assert opened == []
    # what is understood, but makes no sense
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE files SET facts = 'no JSON'")
    connection.close()
    assert recall_opened(folder, "", store=KnownFiles(store.path))[folder[0]].num_frames == 20
    assert len(opened) == 3


def test_a_store_that_cannot_be_written_is_a_warning(folder, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    store = KnownFiles(tmp_path / "file" / "store.sqlite3")
    for _ in range(2):
        assert recall_opened(folder, "", store=store)[folder[0]].num_frames == 20
    assert caplog.text.count("so all are opened") == 1


def test_a_locked_store_is_a_warning(store, folder, monkeypatch, caplog):
    monkeypatch.setattr(known_files, "PATIENCE", 0.01)
    recall_opened(folder[:1], "", store=store)
    other = sqlite3.connect(store.path)
    other.execute("BEGIN EXCLUSIVE")
    assert len(recall_opened(folder, "", store=KnownFiles(store.path))) == 3
    other.close()
    assert caplog.text.count("so all are opened (database is locked)") == 1
    assert store.path.exists()


def test_names_of_any_bytes(store, tmp_path, videos):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff'\n.mp4")
    try:
        shutil.copy(videos[0], path)
    except OSError:
        pytest.skip("the file system wants names that are text")
    assert recall_opened([path], "", store=store)[path].num_frames == 20
    assert KnownFiles(store.path).find({path: stamp_of(path)}, Opened)[path].num_frames == 20


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_are_looked_at_once(num_workers, store, folder, monkeypatch):
    looked = recall_looked(folder, num_workers, store)
    assert [looked[path].num_frames for path in folder] == [20, 13, 0]
    assert looked[folder[2]].fault == open_video(folder[2]).fault
    assert len({found.sha256 for found in looked.values()}) == 3
    monkeypatch.setattr(facts, "look_at", None)
    assert recall_looked(folder, num_workers, store) == looked


@pytest.mark.skipif(sys.platform == "win32", reason="workers are spawned, and know nothing of the test's function")
def test_a_file_that_kills_a_worker_is_named(store, folder, monkeypatch):
    look_at = facts.look_at

    def die(path: str, isolated: bool = False) -> Looked:
        if path == folder[1]:
            if isolated:
                return Looked("the decoding process died (SIGSEGV).")
            os._exit(1)
        return look_at(path, isolated)

    monkeypatch.setattr(facts, "look_at", die)
    more = [shutil.copy(folder[0], f"{folder[0]}.{number}.mp4") for number in range(8)]
    looked = recall_looked([*folder, *more], 2, store)
    assert looked[folder[1]].fault == "the decoding process died (SIGSEGV)."
    # the same frames, whoever decodes them
    seen = {replace(looked[path], rotation=0) for path in (folder[0], *more)}
    assert len(seen) == 1
