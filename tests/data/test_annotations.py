# SPDX-License-Identifier: Apache-2.0
"""Readers of annotations, on short excerpts in the formats that the authors of the datasets distribute."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel

from tubevit_hf.data import AnnotationError, read_annotations
from tubevit_hf.data.annotations import VideoFiles


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def touch(folder: Path, *videos: str) -> Path:
    """Files that only have to exist: nothing is decoded here."""
    for video in videos:
        (folder / video).parent.mkdir(parents=True, exist_ok=True)
        (folder / video).touch()
    return folder


def rows(dataset, folder: Path) -> list[tuple[str, object]]:
    """Relative path and the names of the label or labels of each row."""
    feature = dataset.features["label"]
    names = getattr(feature, "feature", feature)
    return [(Path(row["video"]).relative_to(folder).as_posix(), names.int2str(row["label"])) for row in dataset]


KINETICS = """\
label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,train
"dancing, ballroom",--3ouPhoy2A,20,30,train
testifying,-0IErS_cisg,0.0,9.6,train
abseiling,missing1234,1,11,train
"""


def test_kinetics(tmp_path):
    write(tmp_path, {"train.csv": KINETICS})
    videos = touch(
        tmp_path / "videos",
        "testifying/---QUuC4vJs_000084_000094.mp4",
        "dancing, ballroom/--3ouPhoy2A_000020_000030.mkv",
        "-0IErS_cisg_000000_000009.webm",
        "testifying/notes.txt",
    )
    dataset, missing = read_annotations("kinetics", tmp_path / "train.csv", videos)
    assert rows(dataset, videos) == [
        ("testifying/---QUuC4vJs_000084_000094.mp4", "testifying"),
        ("dancing, ballroom/--3ouPhoy2A_000020_000030.mkv", "dancing, ballroom"),
        ("-0IErS_cisg_000000_000009.webm", "testifying"),
    ]
    # a class without a file stays a class: another download of the same list has the same numbers
    assert dataset.features["label"] == ClassLabel(names=["abseiling", "dancing, ballroom", "testifying"])
    assert missing == ["missing1234_000001_000011"]


def test_ucf101(tmp_path):
    write(
        tmp_path,
        {
            "classInd.txt": "1 YoYo\r\n2 Archery\r\n",
            "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 2\r\nYoYo/v_YoYo_g08_c02.avi 1\r\n",
            "testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
        },
    )
    archery = [f"a/Archery/v_Archery_{clip}.avi" for clip in ("g08_c01", "g01_c01")]
    videos = touch(tmp_path, *archery, "v_YoYo_g08_c02.avi")
    dataset, missing = read_annotations("ucf101", tmp_path / "trainlist01.txt", videos)
    assert [label for _, label in rows(dataset, videos)] == ["Archery", "YoYo"]
    # numbered as the authors do
    assert dataset["label"][:] == [1, 0]
    assert not missing
    dataset, _ = read_annotations("ucf101", tmp_path / "testlist01.txt", videos)
    assert rows(dataset, videos) == [(archery[1], "Archery")]


def test_hmdb51(tmp_path):
    write(
        tmp_path / "splits",
        {
            "brush_hair_test_split1.txt": "A_brush_hair.avi 1 \nB_brush_hair.avi 2 \nC_brush_hair.avi 0 \n",
            "brush_hair_test_split2.txt": "A_brush_hair.avi 2 \n",
            "cartwheel_test_split1.txt": "#20_Rhythm_clap!_f_nm.avi 1 \n",
        },
    )
    videos = touch(
        tmp_path / "videos",
        *("brush_hair/A_brush_hair.avi", "brush_hair/B_brush_hair.avi", "brush_hair/C_brush_hair.avi"),
        "cartwheel/#20_Rhythm_clap!_f_nm.avi",
    )
    pattern = tmp_path / "splits" / "*_test_split1.txt"
    dataset, _ = read_annotations("hmdb51", pattern, videos)
    assert rows(dataset, videos) == [
        ("brush_hair/A_brush_hair.avi", "brush_hair"),
        ("cartwheel/#20_Rhythm_clap!_f_nm.avi", "cartwheel"),
    ]
    dataset, _ = read_annotations("hmdb51", pattern, videos, train=False)
    assert rows(dataset, videos) == [("brush_hair/B_brush_hair.avi", "brush_hair")]
    assert dataset.features["label"].names == ["brush_hair", "cartwheel"]


def test_something_something(tmp_path):
    entries = [
        {
            "id": "78687",
            "label": "holding potato next to vicks vaporub bottle",
            "template": "Holding [something] next to [something]",
            "placeholders": ["potato", "vicks vaporub bottle"],
        },
        {"id": "42326", "label": "spinning cube", "template": "Spinning [something]", "placeholders": ["cube"]},
    ]
    labels = {"Holding something next to something": "1", "Spinning something": "0"}
    write(
        tmp_path,
        {
            "something-something-v2-train.json": json.dumps(entries),
            "something-something-v2-labels.json": json.dumps(labels),
        },
    )
    videos = touch(tmp_path / "20bn", "78687.webm", "42326.webm")
    dataset, _ = read_annotations("ssv2", tmp_path / "something-something-v2-train.json", videos)
    assert rows(dataset, videos) == [
        ("78687.webm", "Holding something next to something"),
        ("42326.webm", "Spinning something"),
    ]
    assert dataset["label"][:] == [1, 0]


CHARADES = """\
id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length
46GP8,HR43,Kitchen,6,7,Yes,"A person, cooking.",food;stove,"Cooks, ""laughs"".",c001 11.90 21.20;c000 0.0 12.6,24.8
N11GT,0KZ7,Stairs,5,7,No,One walks.,,,"",30.3
"""


def test_charades(tmp_path):
    write(
        tmp_path,
        {
            "Charades_v1_train.csv": CHARADES,
            "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Putting clothes somewhere\n",
        },
    )
    videos = touch(tmp_path / "Charades_v1_480", "46GP8.mp4", "N11GT.mp4")
    dataset, _ = read_annotations("charades", tmp_path / "Charades_v1_train.csv", videos)
    # nothing may be going on in a video
    assert rows(dataset, videos) == [
        ("46GP8.mp4", ["Holding some clothes", "Putting clothes somewhere"]),
        ("N11GT.mp4", []),
    ]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_own_lists(ending, tmp_path):
    entries = [{"video": "a/1.mp4", "label": "run"}, {"video": "b/1.mp4", "label": "fall"}]
    text = {
        "csv": "label,video\nrun,a/1.mp4\nfall,b/1.mp4\n",
        "json": json.dumps(entries),
        "jsonl": "\n".join(map(json.dumps, entries)),
    }
    write(tmp_path, {f"list.{ending}": text[ending]})
    videos = touch(tmp_path / "videos", "a/1.mp4", "b/1.mp4")
    dataset, _ = read_annotations("list", tmp_path / f"list.{ending}", videos)
    # equal names in two folders are two videos
    assert rows(dataset, videos) == [("a/1.mp4", "run"), ("b/1.mp4", "fall")]
    assert dataset.features["label"].names == ["fall", "run"]


def test_a_path_in_a_list_means_this_file(tmp_path):
    videos = touch(tmp_path / "videos", "run/1.mp4", "fall/1.mp4", "a/b/2.mp4", "3.webm", "3.mp4", "deep/4.mkv")
    lines = ["./run/1.mp4,run", f"{videos}/fall/1.mp4,fall", "b/2.mp4,run", "3.webm,fall", "4,run", "jump/1.mp4,run"]
    write(tmp_path, {"list.csv": "\n".join(["video,label", *lines])})
    dataset, missing = read_annotations("list", tmp_path / "list.csv", videos)
    assert rows(dataset, videos) == [
        ("run/1.mp4", "run"),
        ("fall/1.mp4", "fall"),
        ("a/b/2.mp4", "run"),
        ("3.webm", "fall"),
        ("deep/4.mkv", "run"),
    ]
    assert missing == ["jump/1.mp4"]


def test_exact_names_come_first(tmp_path):
    """BORIS and SimBA name files without suffix, and a name may have a dot."""
    speeds = [f"speed_{speed}" for speed in ("0", "0.5", "1", "1.5")]
    videos = touch(tmp_path / "videos", *(f"{speed}.mp4" for speed in speeds), "2.5.webm")
    lines = [f"{speed},a{speed}" for speed in (*speeds, "speed_2.5", "2", "2.5")]
    write(tmp_path, {"list.csv": "\n".join(["video,label", *lines])})
    dataset, missing = read_annotations("list", tmp_path / "list.csv", videos)
    assert rows(dataset, videos) == [*((f"{speed}.mp4", f"a{speed}") for speed in speeds), ("2.5.webm", "a2.5")]
    assert missing == ["speed_2.5", "2"]


FOUND = [
    # names in a table, files in the folder, and the file that is meant: none, or several
    (["x.avi"], ["x.mp4"], None),
    (["x.avi"], ["x.avi.mp4"], None),
    (["x.mp4"], ["x.MP4"], "x.MP4"),
    (["x"], ["x.mp4"], "x.mp4"),
    (["x"], ["x.mp4", "x.jpg"], "x.mp4"),
    (["x"], ["x.mp4", "x.webm"], "could be .*x.mp4 or .*x.webm"),
    (["Walk/X.mp4"], ["walk/x.mp4"], "walk/x.mp4"),
    (["Walk/X.mp4"], ["walk/x.mp4", "Walk/X.mp4"], "Walk/X.mp4"),
    (["X.mp4"], ["a/x.mp4", "b/x.mp4"], "could be"),
    (["e\u0301.mp4"], ["\u00e9.mp4"], "\u00e9.mp4"),
    (["\u00e9.mp4"], ["e\u0301.mp4"], "e\u0301.mp4"),
    (["\u00e9.mp4"], ["\u00e9.mp4", "a/e\u0301.mp4"], "\u00e9.mp4"),
    (["walk\\x.mp4"], ["walk/x.mp4", "run/x.mp4"], "walk/x.mp4"),
    ([" ./walk//x.mp4 "], ["walk/x.mp4"], "walk/x.mp4"),
    (["walk/../run/x.mp4"], ["run/x.mp4", "walk/y.mp4"], "run/x.mp4"),
    (["videos/walk/x.mp4"], ["walk/x.mp4"], "walk/x.mp4"),
    (["jump/x.mp4"], ["walk/x.mp4"], None),
    (["jump/x.mp4"], ["x.mp4"], None),
    (["C:\\data\\x.mp4"], ["x.mp4"], "x.mp4"),
    (["C:\\data\\x.mp4"], ["walk/x.mp4"], "walk/x.mp4"),
    (["C:\\data\\x.mp4"], ["walk/x.mp4", "run/x.mp4"], "could be"),
    (["C:\\data\\walk\\x.mp4"], ["walk/x.mp4", "run/x.mp4"], "walk/x.mp4"),
    (["c:/data/walk/x"], ["walk/x.mp4", "run/x.mp4"], "walk/x.mp4"),
    (["\\\\server\\walk\\X.MP4"], ["walk/x.mp4", "run/x.mp4"], "walk/x.mp4"),
    (["/home/anna/walk/x.mp4"], ["day1/walk/x.mp4", "run/x.mp4"], "day1/walk/x.mp4"),
    (["/home/anna/day1/walk/x.mp4"], ["walk/x.mp4", "day1/run/x.mp4"], "walk/x.mp4"),
    # where other rows tell how its folders were called, a missing video is not taken for that of another class
    (["/home/anna/jump/x.mp4", "/home/anna/walk/y.mp4"], ["walk/x.mp4", "walk/y.mp4"], None),
]


@pytest.mark.parametrize(("names", "files", "meant"), FOUND)
def test_which_file_a_name_means(names, files, meant, tmp_path):
    folder = touch(tmp_path / "videos", *files)
    found = VideoFiles(folder, names)
    if meant is not None and meant.startswith("could be"):
        with pytest.raises(AnnotationError, match=f"here: .* {meant}"):
            found.find("here", names[0])
    else:
        assert found.find("here", names[0]) == (None if meant is None else folder / meant)


def test_names_of_this_machine(tmp_path, monkeypatch):
    """Absolute, through a link or relative: a file is what the list of the folder has."""
    folder = touch(tmp_path / "videos", "walk/x.mp4", "run/x.mp4")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for given in (Path("videos"), folder):
        files = VideoFiles(given)
        for name in (f"{folder}/walk/x.mp4", f"{tmp_path}/link/walk/x.mp4", "walk/x.mp4", "run/../walk/x.mp4"):
            assert files.find("here", name) == given / "walk/x.mp4"
    # one that lies elsewhere is meant all the same
    touch(tmp_path, "other.mp4")
    assert VideoFiles(folder).find("here", f"{tmp_path}/other.mp4") == tmp_path / "other.mp4"
    assert VideoFiles(folder).find("here", "x" * 5000) is None
    assert VideoFiles(folder).find("here", "") is None


def test_a_file_by_two_names_has_one_label(tmp_path):
    videos = touch(tmp_path / "videos", "x.mp4", "y.mp4")
    write(tmp_path, {"list.csv": "video,label\nx.mp4,run\ny.mp4,walk\nX.mp4,walk\n"})
    with pytest.raises(AnnotationError, match=r"line 4: 'X.mp4' means .*x.mp4, and so does 'x.mp4' in .*line 2, with"):
        read_annotations("list", tmp_path / "list.csv", videos)
    write(tmp_path, {"list.csv": "video,label\nx.mp4,run\ny.mp4,walk\nx.mp4,walk\n"})
    with pytest.raises(AnnotationError, match=r"line 4: 'x.mp4' means .*'x.mp4' in .*line 2, with other labels: walk"):
        read_annotations("list", tmp_path / "list.csv", videos)
    write(tmp_path, {"list.csv": "video,label\nx.mp4,run\ny.mp4,walk\nX.mp4,run\n"})
    assert len(read_annotations("list", tmp_path / "list.csv", videos)[0]) == 3


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffvideo,label\r\n001,run\r\n1,walk\r\n1.0,"a, b"\r\n',
        "video;label\n001;run\n\n1;walk\n1.0;a, b\n",
        "label\tvideo\nrun\t001\nwalk\t1\na, b\t1.0\n",
        '# by Anna, 2024\n video , label ,seen\n001,run\n,,\n# unsure\n1, walk ,,\n1.0,"a, b",\n',
    ],
    ids=["mark", "semicolons", "tabs", "comments"],
)
def test_tables_as_programs_write_them(text, tmp_path):
    """Nothing is taken for a number."""
    write(tmp_path, {"list.csv": text})
    videos = touch(tmp_path / "videos", "001.mp4", "1.mp4", "1.0.mp4")
    dataset, _ = read_annotations("list", tmp_path / "list.csv", videos)
    assert rows(dataset, videos) == [("001.mp4", "run"), ("1.mp4", "walk"), ("1.0.mp4", "a, b")]


def test_videos_of_the_same_name_in_two_folders_of_hmdb51(tmp_path):
    write(tmp_path, {f"{name}_test_split1.txt": "a.avi 1\n" for name in ("run", "walk")})
    videos = touch(tmp_path / "videos", "run/a.avi", "walk/a.avi")
    dataset, _ = read_annotations("hmdb51", str(tmp_path / "*_test_split1.txt"), videos)
    assert rows(dataset, videos) == [("run/a.avi", "run"), ("walk/a.avi", "walk")]


def test_todays_names_of_something_something(tmp_path):
    write(tmp_path, {"train.json": '[{"id": 7, "template": "Run [fast]"}]', "labels.json": '{"Run fast": "0"}'})
    dataset, _ = read_annotations("ssv2", tmp_path / "train.json", touch(tmp_path / "videos", "7.webm"))
    assert rows(dataset, tmp_path / "videos") == [("7.webm", "Run fast")]


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", "])
def test_numbered_lists(separator, tmp_path):
    lines = ["dance/a b.mp4 2", "jump/v_1.mp4 0", "gone.mp4 2"]
    write(tmp_path, {"train.txt": "\n".join(separator.join(line.rsplit(" ", 1)) for line in lines) + "\n"})
    videos = touch(tmp_path / "videos", "dance/a b.mp4", "jump/v_1.mp4", "dance/v_1.mp4")
    dataset, missing = read_annotations("numbered", tmp_path / "train.txt", videos)
    assert rows(dataset, videos) == [("dance/a b.mp4", "2"), ("jump/v_1.mp4", "0")]
    # 1 has no video, and 2 is the third class all the same
    assert dataset.features["label"] == ClassLabel(names=["0", "1", "2"])
    assert dataset["label"][:] == [2, 0]
    assert missing == ["gone.mp4"]


def test_numbered_lists_with_names_and_several_labels(tmp_path):
    write(tmp_path, {"train.txt": "a.mp4 1 3\nb.mp4 0\n", "label_map_own.txt": "eat\nfall down\njump\nrun\n"})
    videos = touch(tmp_path / "videos", "a.mp4", "b.mp4")
    dataset, _ = read_annotations("numbered", tmp_path / "train.txt", videos)
    assert rows(dataset, videos) == [("a.mp4", ["fall down", "run"]), ("b.mp4", ["eat"])]
    write(tmp_path, {"val.txt": "b.mp4 2\n"})
    # one label each: the map is the same
    dataset, _ = read_annotations("numbered", tmp_path / "val.txt", videos)
    assert rows(dataset, videos) == [("b.mp4", "jump")]
    write(tmp_path, {"label_map_other.txt": "eat\n"})
    with pytest.raises(AnnotationError, match="several label maps beside it"):
        read_annotations("numbered", tmp_path / "val.txt", videos)


def test_several_labels_in_a_list(tmp_path):
    write(tmp_path, {"list.json": json.dumps([{"video": "1.mp4", "label": ["run", "fall"]}])})
    dataset, _ = read_annotations("list", tmp_path / "list.json", touch(tmp_path, "1.mp4"))
    assert dataset["label"][:] == [[1, 0]]


def test_the_other_split_has_the_same_classes(tmp_path):
    write(tmp_path, {"train.csv": "video,label\n1.mp4,run\n2.mp4,fall\n", "val.csv": "video,label\n1.mp4,run\n"})
    videos = touch(tmp_path, "1.mp4", "2.mp4")
    train, _ = read_annotations("list", tmp_path / "train.csv", videos)
    names = train.features["label"].names
    validation, _ = read_annotations("list", tmp_path / "val.csv", videos, names=names)
    assert validation.features == train.features
    with pytest.raises(AnnotationError, match=r"train\.csv, line 3: the class 'fall' is none of the 1 known"):
        read_annotations("list", tmp_path / "train.csv", videos, names=["run"])


@pytest.mark.parametrize(
    ("format", "files", "message"),
    [
        (
            "kinetics",
            {"a.csv": "label,youtube_id\n"},
            r"a\.csv: it lacks time_start, time_end; it has label, youtube_id",
        ),
        (
            "kinetics",
            {"a.csv": "label,youtube_id,time_start,time_end\nrun,x,0,10\nrun,y,soon,10\n"},
            r"a\.csv, line 3: time_start and time_end must be seconds",
        ),
        (
            "kinetics",
            {"a.csv": "label,youtube_id,time_start,time_end\nrun,x\n"},
            r"a\.csv, line 2: it has fewer columns",
        ),
        ("kinetics", {"a.csv": "label,youtube_id,time_start,time_end\n"}, r"a\.csv: it names no videos"),
        ("ucf101", {"a.csv": "v_YoYo_g08_c02.avi 1\n"}, r"a\.csv, line 1: expected CLASS/VIDEO"),
        ("ucf101", {"a.csv": "YoYo/v_YoYo_g08_c02.avi 1\n"}, r"classInd\.txt: it cannot be read"),
        ("hmdb51", {"a.csv": "x.avi 1\nx.avi\n"}, r"a\.csv, line 2: expected VIDEO and 0, 1 or 2"),
        ("hmdb51", {}, r"a\.csv: there is no such file; give a pattern"),
        ("ssv2", {"a.csv": "[]", "something-something-v2-labels.json": "{"}, r"labels\.json: it is no JSON"),
        (
            "ssv2",
            {"a.csv": '[{"id": "1", "template": "Run"}, {"id": "2"}]', "something-something-v2-labels.json": "{}"},
            r"a\.csv, entry 2: it lacks template",
        ),
        (
            "charades",
            {"a.csv": "id,actions\nX,c009 0 1\n", "Charades_v1_classes.txt": "c000 Holding\n"},
            r"a\.csv, line 2: there is no class 'c009'",
        ),
        ("charades", {"a.csv": "", "Charades_v1_classes.txt": "c000\n"}, r"classes\.txt, line 1: expected a code and"),
        ("ssv2", {"a.csv": "[]", "something-something-v2-labels.json": "[1]"}, r"labels\.json: expected an object of"),
        ("list", {"a.csv": "video,label\na,b.mp4,run\n"}, r"line 2: it has more columns than the header.*quotes"),
        ("list", {"a.csv": "video,label\n9.mp4,\n"}, r"a\.csv, line 2: a label must be a text that is not empty"),
        ("list", {"a.jsonl": '{"video": "1.mp4", "label": 3}'}, r"line 1: a label must be a text.* got 3"),
        ("list", {"a.jsonl": '{"video": 1, "label": "run"}'}, r"line 1: the video must be a name or a path, got 1"),
        (
            "list",
            {"a.jsonl": '{"video": "1.mp4", "label": ["run"]}\n{"video": "2.mp4", "label": "run"}'},
            r"line 2: either all videos have one label or all a list of them, got 'run'",
        ),
        ("list", {"a.csv": "video,label\n1.mp4,run\n", "x/1.mp4": "", "y/1.mp4": ""}, "could be .*x.*y.*by its path"),
        ("list", {"a.csv": "video,label\n9.mp4,run\n"}, r"none of its 1 videos lies under .*looked for 9\.mp4"),
        ("list", {}, r"a\.csv: it cannot be read"),
        ("list", {"a.csv": "video,label,label\n1.mp4,run,walk\n"}, r"a\.csv: it has several columns label\."),
        ("numbered", {"a.csv": "a.mp4 0\nb.mp4\n"}, r"a\.csv, line 2: expected PATH NUMBER, got 'b\.mp4'"),
        ("numbered", {"a.csv": "some/frames 163 1\n"}, r"line 1: .* a folder of frames .* Name video files"),
        (
            "numbered",
            {"a.csv": "a.mp4 2\n", "label_map.txt": "x\ny\n"},
            r"the class 2, and .*label_map\.txt names 2, from",
        ),
        ("avi", {}, "`format` must be one of kinetics, ucf101, .* got 'avi'"),
    ],
)
def test_bad_annotations_name_file_and_line(format, files, message, tmp_path):
    write(tmp_path, files)
    source = tmp_path / ("a.jsonl" if "a.jsonl" in files else "a.csv")
    with pytest.raises(AnnotationError, match=message):
        read_annotations(format, source, tmp_path)


def test_a_pattern_of_several_splits(tmp_path):
    write(tmp_path, {f"run_test_split{number}.txt": "a.avi 1\n" for number in (1, 2)})
    with pytest.raises(AnnotationError, match="takes in several splits"):
        read_annotations("hmdb51", str(tmp_path / "*_test_split*.txt"), tmp_path)
