# SPDX-License-Identifier: Apache-2.0
"""Classes as Transformers' example scripts write them, with texts as numbers, are whole numbers inside."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForVideoClassification

from tubevit_hf import TubeViTConfig, TubeViTForJointClassification, TubeViTForVideoClassification

from ..support.tiny import LABELS, tiny_config


NAMES = ["cat", "dog", "eel"]
ID2LABEL, LABEL2ID = dict(enumerate(NAMES)), {name: number for number, name in enumerate(NAMES)}
TEXTS = {
    "id2label": {str(number): name for number, name in ID2LABEL.items()},
    "label2id": {name: str(number) for name, number in LABEL2ID.items()},
}


def labels_of(config: TubeViTConfig) -> tuple[dict[int, str], dict[str, int], int]:
    return config.id2label, config.label2id, config.num_labels


def assign(config: TubeViTConfig, **labels) -> TubeViTConfig:
    for name, value in labels.items():
        setattr(config, name, value)
    return config


def backwards(labels: dict) -> dict:
    return dict(reversed(labels.items()))


@pytest.mark.parametrize("order", [dict, backwards])
@pytest.mark.parametrize("labels", [TEXTS, {"id2label": TEXTS["id2label"]}], ids=["both", "one"])
@pytest.mark.parametrize("more", [{}, {"num_labels": 3}])
def test_texts_are_numbers_wherever_they_come_from(labels, more, order, checkpoint):
    labels = order({**labels, **more})
    fresh = {"ignore_mismatched_sizes": True}
    made = [
        TubeViTConfig(**labels),
        TubeViTConfig.from_preset("Ti", **labels),
        AutoConfig.for_model("tubevit", **labels),
        TubeViTConfig.from_dict({"hidden_size": 192, "num_attention_heads": 3, **labels}),
        TubeViTConfig.from_pretrained(checkpoint, **labels),
        AutoConfig.from_pretrained(checkpoint, **labels),
        TubeViTForVideoClassification.from_pretrained(checkpoint, **labels, **fresh).config,
        AutoModelForVideoClassification.from_pretrained(checkpoint, **labels, **fresh).config,
        assign(tiny_config(), **labels),
    ]
    for config in made:
        assert labels_of(config) == (ID2LABEL, LABEL2ID, 3)
        assert [type(number) for number in (*config.id2label, *config.label2id.values())] == [int] * 6


def test_names_alone_number_the_classes():
    assert labels_of(TubeViTConfig(label2id=TEXTS["label2id"])) == (ID2LABEL, LABEL2ID, 3)
    assert labels_of(TubeViTConfig(label2id=LABEL2ID, num_labels=3)) == (ID2LABEL, LABEL2ID, 3)


def test_another_number_of_classes_has_no_names(checkpoint):
    config = TubeViTConfig.from_pretrained(checkpoint, num_labels=3)
    assert config.id2label == {number: f"LABEL_{number}" for number in range(3)}
    assert config.label2id == {f"LABEL_{number}": number for number in range(3)}
    assert labels_of(TubeViTConfig.from_pretrained(checkpoint, num_labels=5))[0] == dict(enumerate(LABELS))


def test_names_follow_unless_the_user_set_them():
    config = assign(tiny_config(), id2label=ID2LABEL)
    assert config.label2id == LABEL2ID
    # whatever comes first
    assert labels_of(assign(tiny_config(), label2id=LABEL2ID, id2label=ID2LABEL)) == (ID2LABEL, LABEL2ID, 3)
    assert assign(config, num_labels=2).label2id == {"LABEL_0": 0, "LABEL_1": 1}
    # two of ImageNet's classes have one name
    assert TubeViTConfig(id2label={0: "crane", 1: "crane"}).label2id == {"crane": 1}


def rewrite(folder: Path, **labels) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **labels}))
    return folder


def test_files_with_texts(tmp_path):
    config = tiny_config(id2label=ID2LABEL)
    config.save_pretrained(tmp_path)
    assert labels_of(AutoConfig.from_pretrained(rewrite(tmp_path, **TEXTS))) == (ID2LABEL, LABEL2ID, 3)
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (saved["id2label"], saved["label2id"]) == (TEXTS["id2label"], LABEL2ID)


@pytest.mark.parametrize("stale", [{"LABEL_0": 0, "LABEL_1": 1}, {**LABEL2ID, "cat": 2}, {"cat": "x"}, ["cat"]])
def test_files_whose_names_do_not_fit_load_as_before(stale, tmp_path):
    """They were written where a call had replaced `id2label` alone, which counts."""
    tiny_config(id2label=ID2LABEL).save_pretrained(tmp_path)
    rewrite(tmp_path, label2id=stale)
    for given in ({}, {"num_labels": 3}, {"id2label": ID2LABEL}):
        assert labels_of(AutoConfig.from_pretrained(tmp_path, **given)) == (ID2LABEL, LABEL2ID, 3)


def test_heads_of_joint_models():
    heads = {"motions": {"labels": ["up", "down", "left"]}, "pictures": {"labels": ["cat", "dog"]}}
    model = TubeViTForJointClassification(tiny_config(heads=heads, **TEXTS))
    assert labels_of(model.config) == (ID2LABEL, LABEL2ID, 3)
    assert labels_of(model.head_config("pictures")) == ({0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "`num_labels` is 3, but 2 classes have names"),
        ({"num_labels": 3, "label2id": {"a": 0, "b": 1}}, "`num_labels` is 3, but 2 classes have names"),
        ({"id2label": {"0": "a", "00": "b"}}, "`id2label` names class 0 twice, 'a' and 'b'"),
        ({"id2label": {"0": "a", 0: "b"}}, "`id2label` names class 0 twice, 'a' and 'b'"),
        ({"id2label": {"0": "a", "2": "b"}}, r"must number 2 classes from 0 to 1, without gaps; got \[0, 2\]"),
        ({"id2label": {"1": "a", "2": "b"}}, r"must number 2 classes from 0 to 1, without gaps; got \[1, 2\]"),
        ({"id2label": {"zero": "a"}}, "`id2label` must have the numbers of the classes as keys, got 'zero'"),
        ({"id2label": {0.0: "a", 1.0: "b"}}, "must have the numbers of the classes as keys, got 0.0"),
        ({"id2label": ["a", "b"]}, r"`id2label` must be a dict of numbers and names, got \['a', 'b'\]"),
        ({"label2id": {"a": "first"}}, "`label2id` must have the numbers of the classes as values, got 'first'"),
        ({"label2id": {"a": 0, "b": 0}}, "`label2id` must give each name a number of its own"),
        ({"label2id": {"a": 0, "b": 2}}, r"from 0 to 1, without gaps; got \[0, 2\]|`label2id` must give each name"),
        (
            {"id2label": ID2LABEL, "label2id": {"cat": 1, "dog": 0, "eel": 2}},
            "`label2id` must give each name of `id2label`",
        ),
        ({"id2label": ID2LABEL, "label2id": {"cat": 0}}, "`label2id` must give each name of `id2label` its number"),
    ],
)
def test_what_contradicts_itself_is_refused(labels, message, checkpoint):
    for make in (TubeViTConfig, lambda **given: TubeViTConfig.from_pretrained(checkpoint, **given)):
        with pytest.raises((ValueError, TypeError), match=message):
            make(**labels)
    if "id2label" in labels and len(labels) == 1:
        with pytest.raises((ValueError, TypeError), match=message):
            tiny_config().id2label = labels["id2label"]
