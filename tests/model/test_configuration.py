# SPDX-License-Identifier: Apache-2.0
"""The configuration: presets and their sizes, what is saved and loaded, token counts, and what it refuses."""

import contextlib
import copy
import enum
import json
import logging
import pickle
import threading
from collections import OrderedDict

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification
from tubevit_hf.model import tubes_tubevit
from tubevit_hf.model.configuration_tubevit import AUTO_MAP, PRESETS, TABLE_12_TUBES
from tubevit_hf.model.tubes_tubevit import Tube, resolve_tubes

from ..support.tolerances import assert_close


PATCH = {"kernel_size": [1, 16, 16], "stride": [32, 16, 16]}


@contextlib.contextmanager
def refused(error: type[Exception], *fragments: str):
    """Expects `error` with a message that holds all `fragments`: the field, what was got, what is allowed.

    Strict dataclasses wrap what their validators raise; the kind of error is then the one inside.
    """
    with pytest.raises((error, StrictDataclassError)) as caught:
        yield
    message = str(caught.value)
    cause = caught.value.__cause__ if isinstance(caught.value, StrictDataclassError) else caught.value
    assert type(cause) is error, message
    for fragment in fragments:
        assert fragment in message, f"{fragment!r} is not in {message!r}"


def test_checks_between_fields_raise_a_plain_value_error():
    with pytest.raises(ValueError, match="use_cls_token"):
        TubeViTConfig(pooling_type="cls")


# Millions: layers and final norm, tubes, pooling, all of it with a head of 400 classes
@pytest.mark.parametrize(
    ("preset", "layers", "tubes", "pooling", "total"),
    [
        ("Ti", 5.3, 0.7, 0.15, 6.2),
        ("S", 21.3, 1.3, 0.6, 23.4),
        ("B", 85.1, 2.7, 2.4, 90.4),
        ("L", 302.3, 3.5, 4.2, 310.5),
        ("H", 629.7, 4.4, 6.6, 641.2),
    ],
)
def test_presets_have_the_documented_number_of_parameters(preset, layers, tubes, pooling, total):
    config = TubeViTConfig.from_preset(preset, num_labels=400)
    with torch.device("meta"):
        model = TubeViTForVideoClassification(config)

    def millions(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6

    base = model.tubevit
    assert_close(torch.tensor(millions(base.layers, base.layernorm)), layers, "millions", "layers")
    assert_close(torch.tensor(millions(base.embeddings)), tubes, "millions", "tubes")
    assert_close(torch.tensor(millions(base.pooler)), pooling, "millions", "pooling")
    assert_close(torch.tensor(millions(model)), total, "millions", "together")
    # and nothing is outside these parts
    assert millions(base.layers, base.layernorm, base.embeddings, base.pooler, model.classifier) == millions(model)


# Table 11, and the usual Ti and S: layers, width, MLP, heads
@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("Ti", (12, 192, 768, 3)),
        ("S", (12, 384, 1536, 6)),
        ("B", (12, 768, 3072, 12)),
        ("L", (24, 1024, 4096, 16)),
        ("H", (32, 1280, 5120, 16)),
    ],
)
def test_presets_are_those_of_table_11(preset, expected):
    for name in (preset, preset.lower(), preset.upper()):
        config = TubeViTConfig.from_preset(name)
        got = (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)
        assert got == expected
    assert set(PRESETS) == {"Ti", "S", "B", "L", "H"}


def test_default_is_tubevit_b_on_32_frames():
    default, preset = TubeViTConfig(), TubeViTConfig.from_preset("B")
    assert default.to_dict() == preset.to_dict()
    assert default.native_size == (32, 224, 224)
    assert (default.use_cls_token, default.pooling_type, default.gate_layer) == (False, "attention", None)
    assert (default.tube_kernels, default.base_kernel_size) == ("separate", [8, 8, 8])
    assert (default.position_embedding_type, default.position_embedding_scale) == ("tube_center", 1.0)


def test_a_preset_can_be_overridden():
    config = TubeViTConfig.from_preset("S", num_hidden_layers=5, num_frames=16)
    assert (config.hidden_size, config.num_hidden_layers, config.num_frames) == (384, 5, 16)
    # and leaves the preset as it was
    assert TubeViTConfig.from_preset("S").num_hidden_layers == 12


def test_tubes_are_kept_as_given_and_completed_where_they_are_used(tmp_path):
    given = [{"kernel_size": (2, 4, 6), "stride": 8, "space_to_depth": (2, 1, 1)}, {"kernel_size": 3, "stride": 5}]
    config = TubeViTConfig(hidden_size=48, num_attention_heads=4, tubes=given)
    assert config.tubes == given
    assert config.resolved_tubes == (
        Tube(kernel_size=(2, 4, 6), stride=(8, 8, 8), offset=(0, 0, 0), space_to_depth=(2, 1, 1), out_channels=24),
        Tube(kernel_size=(3, 3, 3), stride=(5, 5, 5), offset=(0, 0, 0), space_to_depth=(1, 1, 1), out_channels=48),
    )
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["tubes"]
    assert saved == [{"kernel_size": [2, 4, 6], "stride": 8, "space_to_depth": [2, 1, 1]}, given[1]]
    # what the caller holds is not touched, and does not touch
    given[1]["stride"] = 7
    assert config.tubes[1]["stride"] == 5


def test_channels_follow_the_width(tmp_path):
    TubeViTConfig().save_pretrained(tmp_path)
    wide = TubeViTConfig.from_pretrained(tmp_path, hidden_size=1536)
    assert [tube.out_channels for tube in wide.resolved_tubes] == [768, 384, 1536, 1536]
    # unless the user says otherwise, who is then held to it
    TubeViTConfig(tubes=[{**PATCH, "out_channels": 768}]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`tubes\[0\].out_channels` is 768"):
        _ = TubeViTConfig.from_pretrained(tmp_path, hidden_size=1536).resolved_tubes


@pytest.fixture
def parses(monkeypatch):
    """Names of the tubes that are parsed, one for each time; the cache is empty at first."""
    names = []

    def from_dict(values, hidden_size, name="tube", parse=Tube.from_dict):
        names.append(name)
        return parse(values, hidden_size, name)

    tubes_tubevit._read_frozen.cache_clear()
    monkeypatch.setattr(Tube, "from_dict", from_dict)
    return names


def test_equal_tubes_are_parsed_once(parses, tmp_path):
    config = TubeViTConfig()
    tubes = config.resolved_tubes
    for other in (
        config,
        TubeViTConfig(),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        TubeViTConfig.from_dict(config.to_dict()),
        TubeViTConfig(tubes=[{key: tuple(value) for key, value in tube.items()} for tube in TABLE_12_TUBES]),
    ):
        assert other.resolved_tubes is tubes
    config.num_tokens()
    config.token_grids()
    assert parses == ["tubes[0]", "tubes[1]", "tubes[2]", "tubes[3]"]
    # a file has its keys in another order
    config.save_pretrained(tmp_path)
    parses.clear()
    loaded = [TubeViTConfig.from_pretrained(tmp_path).resolved_tubes for _ in range(3)]
    assert loaded == [tubes] * 3
    assert len(parses) == 4


def test_the_order_of_keys_does_not_matter():
    tube = {"kernel_size": [1, 16, 16], "stride": [4, 8, 8], "offset": 2}
    backwards = dict(reversed(tube.items()))
    assert TubeViTConfig(tubes=[tube]).resolved_tubes == TubeViTConfig(tubes=[backwards]).resolved_tubes
    # and values do not change places
    swapped = TubeViTConfig(tubes=[{"stride": [1, 16, 16], "kernel_size": [4, 8, 8], "offset": 2}])
    assert swapped.resolved_tubes[0].kernel_size == (4, 8, 8)


def test_resolved_tubes_follow_every_change():
    config = TubeViTConfig(tubes=[PATCH, {**PATCH, "kernel_size": 8}])
    before = config.resolved_tubes
    config.tubes[0]["stride"] = 8
    assert config.resolved_tubes[0].stride == (8, 8, 8)
    config.tubes[1]["stride"][2] = 4
    assert config.resolved_tubes[1].stride == (32, 16, 4)
    config.tubes[0]["offset"] = [1, 2, 3]
    assert config.resolved_tubes[0].offset == (1, 2, 3)
    config.tubes.append({**PATCH, "stride": 2})
    assert len(config.resolved_tubes) == 3
    config.hidden_size = 96
    assert [tube.out_channels for tube in config.resolved_tubes] == [96] * 3
    config.tubes[0]["out_channels"] = 97
    assert config.resolved_tubes[0].out_channels == 97
    del config.tubes[0]["stride"]
    with pytest.raises(ValueError, match=r"`tubes\[0\]` lacks 'stride'"):
        _ = config.resolved_tubes
    # and back
    config.tubes, config.hidden_size = [PATCH, {**PATCH, "kernel_size": 8}], 768
    assert config.resolved_tubes == before


def test_copies_are_apart():
    config = TubeViTConfig(tubes=[PATCH])
    others = copy.deepcopy(config), pickle.loads(pickle.dumps(config)), TubeViTConfig.from_dict(config.to_dict())
    for other in others:
        other.tubes[0]["stride"][0] = 2
        assert other.resolved_tubes[0].stride == (2, 16, 16)
        assert config.resolved_tubes[0].stride == (32, 16, 16)


def test_resolved_tubes_are_no_part_of_a_config():
    used, fresh = TubeViTConfig(), TubeViTConfig()
    before = (repr(used), used.to_json_string(), used.to_dict(), pickle.dumps(used))
    _ = used.resolved_tubes
    assert (repr(used), used.to_json_string(), used.to_dict(), pickle.dumps(used)) == before
    assert used == fresh
    assert "resolved_tubes" not in used.to_json_string()


# 1 == True == 1.0, and so do their hashes
@pytest.mark.parametrize("one", [True, 1.0, "1", None, b"1", 1j, torch.tensor(1), {1}, [1], {"t": 1}, object()])
def test_what_is_like_a_cached_number_is_refused_still(one):
    good = {"kernel_size": [1, 1, 1], "stride": 1, "offset": 1, "space_to_depth": [1, 1, 1], "out_channels": 1}
    for size in (1, [1, 1, 1], (1, 1, 1)):
        resolve_tubes([{**good, "kernel_size": size}], 1)
    sizes = [("kernel_size", [one, 1, 1]), ("kernel_size", (1, 1, one)), ("space_to_depth", [1, one, 1])]
    # `None` leaves the channels to the width, and a list is a size, which must have three numbers
    numbers = [] if one is None or isinstance(one, list) else [(key, one) for key in ("stride", "out_channels")]
    for _ in range(2):
        for key, value in sizes + numbers:
            with pytest.raises(TypeError, match=rf"`tubes\[0\].{key}` must be made of whole numbers, got"):
                resolve_tubes([{**good, key: value}], 1)
        with pytest.raises(TypeError, match="`hidden_size` must be made of whole numbers, got"):
            resolve_tubes([good], one)


@pytest.mark.parametrize("junk", [None, 5, "patch", {"kernel_size": 1}, {1}, object(), iter([PATCH]), torch.ones(2)])
def test_tubes_that_are_no_list_of_dicts_are_refused(junk):
    with pytest.raises(TypeError, match="`tubes` must be a list of dicts, got"):
        resolve_tubes(junk, 768)
    with pytest.raises(TypeError, match=r"`tubes\[1\]` must be a dict of"):
        resolve_tubes([PATCH, [junk]], 768)


def test_errors_quote_what_was_given_and_are_not_cached(parses):
    given = {"kernel_size": (1, 16, 16)}
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            resolve_tubes([given], 768)
        assert str(given) in str(caught.value)
        assert caught.value.__context__ is None
    assert tubes_tubevit._read_frozen.cache_info().currsize == 0
    given["stride"] = 16
    assert resolve_tubes([given], 768)[0].stride == (16, 16, 16)


class Sixteen(enum.IntEnum):
    SIXTEEN = 16


@pytest.mark.parametrize(
    "tube",
    [
        {"kernel_size": [1, Sixteen.SIXTEEN, 16], "stride": Sixteen.SIXTEEN},
        OrderedDict(kernel_size=[1, 16, 16], stride=16),
        {"kernel_size": type("Sizes", (list,), {})([1, 16, 16]), "stride": 16},
    ],
)
def test_subclasses_work_without_the_cache(tube):
    expected = resolve_tubes([{"kernel_size": [1, 16, 16], "stride": 16}], 768)
    held = tubes_tubevit._read_frozen.cache_info().currsize
    assert resolve_tubes([tube], 768) == expected
    assert tubes_tubevit._read_frozen.cache_info().currsize == held


def test_the_cache_is_bounded():
    for stride in range(1, 400):
        assert resolve_tubes([{**PATCH, "stride": stride}], 768)[0].stride == (stride,) * 3
    information = tubes_tubevit._read_frozen.cache_info()
    assert information.currsize <= information.maxsize <= 256


def test_threads_see_their_own_tubes():
    wrong = []

    def change_and_read(number: int) -> None:
        config = TubeViTConfig(tubes=[PATCH])
        for stride in range(1, 300):
            config.tubes[0]["stride"] = [stride, number, 1]
            if config.resolved_tubes[0].stride != (stride, number, 1):
                wrong.append((number, stride))

    threads = [threading.Thread(target=change_and_read, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_compilation_traces_past_the_cache(recwarn):
    config = TubeViTConfig(tubes=[PATCH])

    def scale(tensor: torch.Tensor) -> torch.Tensor:
        return tensor * config.num_tokens()

    compiled = torch.compile(scale, backend="eager", fullgraph=True)
    assert compiled(torch.ones(1)).item() == config.num_tokens()
    assert not [warning for warning in recwarn if "cache" in str(warning.message)]


def test_finer_strides_change_nothing_but_strides():
    config = TubeViTConfig(tubes=[{**PATCH, "offset": 0}])
    config.refine_strides((1, 2, 2))
    assert config.tubes == [{**PATCH, "offset": 0, "stride": [32, 8, 8]}]


def test_the_default_tubes_are_not_shared_between_configs():
    config = TubeViTConfig()
    config.tubes[0]["stride"][0] = 99
    config.base_kernel_size[0] = 99
    assert TubeViTConfig().tubes[0]["stride"] == [16, 32, 32]
    assert TABLE_12_TUBES[0]["stride"] == [16, 32, 32]
    assert TubeViTConfig().base_kernel_size == [8, 8, 8]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_size": (96, 128), "base_kernel_size": (4, 5, 6), "tube_kernels": "interpolated"},
        {"hidden_size": 20, "num_attention_heads": 2, "tubes": [{**PATCH, "space_to_depth": 2, "out_channels": 3}]},
        {"use_cls_token": True, "pooling_type": "cls", "gate_layer": 3, "freeze_before": 3, "num_labels": 7},
    ],
)
def test_what_is_saved_is_what_is_loaded(settings, tmp_path):
    config = TubeViTConfig(**settings)
    as_dict = config.to_dict()
    assert TubeViTConfig.from_dict(as_dict).to_dict() == as_dict
    own = {name: as_dict[name] for name in TubeViTConfig.__annotations__}
    # JSON knows no tuples: anything else than lists would come back changed
    assert json.loads(json.dumps(own)) == own
    config.save_pretrained(tmp_path)
    loaded = TubeViTConfig.from_pretrained(tmp_path)
    # label names have whole numbers as keys, which transformers restores on its own
    assert loaded.id2label == config.id2label
    assert {name: getattr(loaded, name) for name in own} == own
    assert loaded.resolved_tubes == config.resolved_tubes


def test_every_checkpoint_names_all_its_classes():
    config = TubeViTConfig(auto_map={"AutoImageProcessor": "somewhere.Else"})
    assert config.auto_map == {"AutoImageProcessor": "somewhere.Else", **AUTO_MAP}
    assert len(AUTO_MAP) == 5


@pytest.mark.parametrize(
    ("image_size", "native_size", "patches"),
    [(224, (32, 224, 224), 196), ([96, 160], (32, 96, 160), 60), ((160, 96), (32, 160, 96), 60)],
)
def test_image_size_is_one_number_or_height_and_width(image_size, native_size, patches):
    config = TubeViTConfig(image_size=image_size)
    assert config.native_size == native_size
    assert config.num_tokens(num_frames=1) == patches
    rows, columns = native_size[1] // 16, native_size[2] // 16
    assert config.token_grids()[3] == (1, rows, columns)


def test_none_means_the_native_size_and_zero_means_zero():
    config = TubeViTConfig(use_cls_token=True, num_register_tokens=4)
    assert config.num_tokens() == 5 + 539
    assert config.num_tokens(64) == 5 + 1176
    assert config.num_tokens(1) == 5 + 196
    assert config.num_tokens(num_frames=None, height=224) == 5 + 539
    assert config.token_grids(height=112)[3] == (1, 7, 14)
    assert config.token_grids(width=112)[3] == (1, 14, 7)
    nothing = [(0, 0, 0)] * 4
    for size in ({"num_frames": 0}, {"height": 0}, {"width": 0}):
        assert config.token_grids(**size) == nothing
        assert config.num_tokens(**size) == 5


@pytest.mark.parametrize(
    ("settings", "error", "fragments"),
    [
        # inside a tube
        pytest.param({"tubes": []}, ValueError, ["`tubes`", "empty", "kernel_size"], id="no-tubes"),
        pytest.param(
            {"tubes": [PATCH, {**PATCH, "kernal_size": 3}]},
            ValueError,
            ["tubes[1]", "'kernal_size'", "'space_to_depth'", "'out_channels'", "Did you mean 'kernel_size'?"],
            id="unknown-key",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "xyz": 3}]}, ValueError, ["tubes[0]", "'xyz'", "'stride'"], id="unknown-key-no-guess"
        ),
        pytest.param(
            {"tubes": [{"stride": 4}]}, ValueError, ["tubes[0]", "'kernel_size'", "[t, h, w]"], id="no-kernel"
        ),
        pytest.param(
            {"tubes": [{"kernel_size": 4}]}, ValueError, ["tubes[0]", "'stride'", "[t, h, w]"], id="no-stride"
        ),
        pytest.param(
            {"tubes": [{**PATCH, "kernel_size": [1, 16]}]},
            ValueError,
            ["tubes[0].kernel_size", "[1, 16]", "[t, h, w]"],
            id="kernel-of-two",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "kernel_size": [1, 16, 1.5]}]},
            TypeError,
            ["tubes[0].kernel_size", "1.5", "float", "whole"],
            id="kernel-float",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "stride": [32, 16, True]}]},
            TypeError,
            ["tubes[0].stride", "True", "bool", "whole"],
            id="stride-bool",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "stride": "16"}]}, TypeError, ["tubes[0].stride", "'16'", "str"], id="stride-str"
        ),
        pytest.param(
            {"tubes": [{**PATCH, "stride": [0, 16, 16]}]},
            ValueError,
            ["tubes[0].stride", "at least 1", "got 0"],
            id="stride-zero",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "offset": [0, -2, 0]}]},
            ValueError,
            ["tubes[0].offset", "at least 0", "got -2"],
            id="offset-negative",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "space_to_depth": [1, 1, 3]}]},
            ValueError,
            ["tubes[0].space_to_depth", "[1, 1, 3]", "divide the stride", "[32, 16, 16]"],
            id="space-to-depth-and-stride",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "stride": 15, "space_to_depth": [1, 5, 1]}]},
            ValueError,
            ["tubes[0].space_to_depth", "[1, 5, 1]", "divide the width of 768", "`hidden_size`", "at least 154"],
            id="space-to-depth-and-width",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "space_to_depth": [2, 1, 1], "out_channels": 383}]},
            ValueError,
            ["tubes[0].out_channels", "383", "766", "768", "at least 384"],
            id="out-channels-too-few",
        ),
        pytest.param(
            {"tubes": [{**PATCH, "out_channels": 768.0}]},
            TypeError,
            ["tubes[0].out_channels", "768.0", "float"],
            id="out-channels-float",
        ),
        pytest.param({"tubes": [[1, 16, 16]]}, TypeError, ["tubes", "[1, 16, 16]", "dict"], id="tube-is-no-dict"),
        pytest.param({"tubes": PATCH}, TypeError, ["tubes", "list"], id="tubes-is-no-list"),
        # wrong types
        pytest.param({"hidden_size": 768.0}, TypeError, ["hidden_size", "768.0", "int"], id="float-for-int"),
        pytest.param({"hidden_size": "768"}, TypeError, ["hidden_size", "'768'", "int"], id="str-for-int"),
        pytest.param({"num_frames": None}, TypeError, ["num_frames", "None", "int"], id="none-for-int"),
        pytest.param({"qkv_bias": 1}, TypeError, ["qkv_bias", "1", "bool"], id="int-for-bool"),
        pytest.param({"image_size": "224"}, TypeError, ["image_size", "'224'", "int"], id="image-size-str"),
        pytest.param({"image_size": [224, 224.0]}, TypeError, ["image_size", "224.0", "int"], id="image-size-float"),
        pytest.param({"gate_layer": 1.0}, TypeError, ["gate_layer", "1.0", "int"], id="gate-layer-float"),
        pytest.param({"tubes": "patch"}, TypeError, ["tubes", "'patch'", "list"], id="tubes-str"),
        pytest.param({"base_kernel_size": 8}, TypeError, ["base_kernel_size", "8", "list"], id="base-kernel-int"),
        pytest.param(
            {"pooling_type": "max"},
            TypeError,
            ["pooling_type", "max", "attention", "cls", "mean"],
            id="pooling-unknown",
        ),
        pytest.param(
            {"tube_kernels": "shared"}, TypeError, ["tube_kernels", "shared", "separate", "interpolated"], id="kernels"
        ),
        pytest.param(
            {"position_embedding_type": "sincos"},
            TypeError,
            ["position_embedding_type", "sincos", "tube_center", "tube_index", "learned", "pretrained", "spatial"],
            id="position-unknown",
        ),
        # out of range
        pytest.param({"hidden_size": 0}, ValueError, ["`hidden_size`", "at least 1", "got 0"], id="width-zero"),
        pytest.param(
            {"num_hidden_layers": 0}, ValueError, ["`num_hidden_layers`", "at least 1", "got 0"], id="no-layers"
        ),
        pytest.param({"num_attention_heads": 0}, ValueError, ["`num_attention_heads`", "at least 1"], id="no-heads"),
        pytest.param(
            {"num_attention_heads": 7}, ValueError, ["`num_attention_heads`", "7", "divide", "768"], id="heads"
        ),
        pytest.param({"num_channels": 0}, ValueError, ["`num_channels`", "at least 1", "got 0"], id="no-channels"),
        pytest.param({"num_register_tokens": -1}, ValueError, ["`num_register_tokens`", "got -1"], id="registers"),
        pytest.param({"layer_norm_eps": 0}, ValueError, ["`layer_norm_eps`", "above 0", "got 0"], id="eps"),
        pytest.param({"initializer_range": -0.1}, ValueError, ["`initializer_range`", "-0.1"], id="initializer"),
        pytest.param({"hidden_act": "nope"}, ValueError, ["`hidden_act`", "gelu", "'nope'"], id="activation"),
        pytest.param(
            {"hidden_dropout_prob": 1.0}, ValueError, ["`hidden_dropout_prob`", "below 1", "1.0"], id="dropout"
        ),
        pytest.param(
            {"attention_probs_dropout_prob": -0.1},
            ValueError,
            ["`attention_probs_dropout_prob`", "at least 0", "-0.1"],
            id="attention-dropout",
        ),
        pytest.param({"num_frames": 0}, ValueError, ["`num_frames`", "at least 1", "got 0"], id="no-frames"),
        pytest.param({"image_size": [224, 0]}, ValueError, ["`image_size`", "at least 1", "[224, 0]"], id="no-width"),
        pytest.param(
            {"image_size": [224]}, ValueError, ["`image_size`", "[height, width]", "[224]"], id="image-size-one"
        ),
        pytest.param({"base_kernel_size": [8, 8]}, ValueError, ["`base_kernel_size`", "[8, 8]"], id="base-kernel-two"),
        pytest.param(
            {"base_kernel_size": [8, 0, 8]}, ValueError, ["`base_kernel_size`", "at least 1"], id="base-kernel-0"
        ),
        # what must fit together
        pytest.param({"gate_layer": 12}, ValueError, ["`gate_layer`", "0 to 11", "got 12"], id="gate-above"),
        pytest.param({"gate_layer": -1}, ValueError, ["`gate_layer`", "0 to 11", "got -1"], id="gate-below"),
        pytest.param({"freeze_before": 13}, ValueError, ["`freeze_before`", "0 to 12", "got 13"], id="freeze-above"),
        pytest.param({"freeze_before": -1}, ValueError, ["`freeze_before`", "0 to 12", "got -1"], id="freeze-below"),
        pytest.param(
            {"pooling_type": "cls"},
            ValueError,
            ["`pooling_type`", "'cls'", "`use_cls_token=True`", "'attention'", "'mean'"],
            id="cls-without-token",
        ),
        pytest.param(
            {"position_embedding_type": "learned", "num_frames": 19},
            ValueError,
            ["tubes[1]", "16x20x20", "[4, 8, 8]", "19x224x224", "'learned'"],
            id="learned-needs-native-grid",
        ),
        pytest.param(
            {"position_embedding_type": "pretrained", "image_size": [64, 15]},
            ValueError,
            ["tubes[3]", "1x16x16", "64x15", "'pretrained'"],
            id="pretrained-needs-native-grid",
        ),
        pytest.param(
            {"position_embedding_type": "pretrained", "tubes": [{"kernel_size": [2, 16, 16], "stride": 16}]},
            ValueError,
            ["`position_embedding_type`", "'pretrained'", "kernel time 1"],
            id="pretrained-needs-a-patch",
        ),
        pytest.param(
            {"tube_kernels": "interpolated", "tubes": [{**PATCH, "out_channels": 800}]},
            ValueError,
            ["tubes[0].out_channels", "800", "768", "`hidden_size`"],
            id="interpolated-has-too-few-rows",
        ),
    ],
)
def test_bad_input_is_refused(settings, error, fragments):
    with refused(error, *fragments):
        TubeViTConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"gate_layer": 0, "freeze_before": 0},
        {"gate_layer": 11, "freeze_before": 12},
        {"pooling_type": "cls", "use_cls_token": True},
        # 20 frames hold the deepest tube: 4 + 16
        {"position_embedding_type": "learned", "num_frames": 20},
        {"position_embedding_type": "pretrained", "image_size": [64, 16], "num_frames": 1},
        {"tubes": [{**PATCH, "space_to_depth": [2, 1, 1], "out_channels": 384}]},
        # cut to the width
        {"tubes": [{**PATCH, "stride": 15, "space_to_depth": [1, 5, 1], "out_channels": 154}]},
        {"tube_kernels": "interpolated", "tubes": [{**PATCH, "out_channels": 768}]},
        {"hidden_dropout_prob": 0, "initializer_range": 1, "layer_norm_eps": 1},
    ],
)
def test_what_is_just_allowed(settings):
    config = TubeViTConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ((1, 1, 1), 539),
        # the first tube has space-to-depth in time, the second in space
        ((2, 1, 1), 2 * 7 * 7 + 5 * 7 * 7 + 4 * 7 * 7 + 2 * 14 * 14),
        ((1, 2, 2), 2 * 14 * 14 + 3 * 7 * 7 + 2 * 13 * 13 + 27 * 27),
    ],
)
def test_finer_strides_give_more_tokens(factors, expected):
    config = TubeViTConfig()
    config.refine_strides(factors)
    assert config.num_tokens() == expected
    assert TubeViTConfig(**config.to_dict()).num_tokens() == expected


@pytest.mark.parametrize(
    ("settings", "factors", "fragments"),
    [
        ({}, (1, 2), ["three", "(1, 2)"]),
        ({}, (1, 0, 1), ["at least 1", "(1, 0, 1)"]),
        ({}, (1, 3, 1), ["[16, 32, 32]", "[1, 3, 1]"]),
        ({"position_embedding_type": "learned"}, (2, 1, 1), ["'learned'", "'tube_center'"]),
        ({"position_embedding_type": "tube_index"}, (2, 1, 1), ["'tube_index'", "'tube_center'"]),
        ({"position_embedding_type": "pretrained"}, (1, 2, 2), ["'pretrained'", "'tube_center'"]),
        ({"position_embedding_type": "spatial"}, (1, 2, 2), ["'spatial'", "'tube_center'"]),
    ],
)
def test_strides_that_cannot_be_finer(settings, factors, fragments):
    config = TubeViTConfig(**settings)
    before = config.num_tokens()
    with refused(ValueError, *fragments):
        config.refine_strides(factors)
    assert config.num_tokens() == before


@pytest.mark.parametrize("kind", ["pretrained", "spatial"])
def test_tables_in_space_allow_finer_strides_in_time(kind):
    config = TubeViTConfig(position_embedding_type=kind)
    config.refine_strides((2, 1, 1))
    assert config.num_tokens() > 539


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"'XL'.*Ti, S, B, L, H"):
        TubeViTConfig.from_preset("XL")


@pytest.fixture
def logged_warnings():
    """Messages of the package's loggers; transformers stops them from reaching the root logger, and so `caplog`."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("tubevit_hf")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_an_unknown_field_is_a_warning(logged_warnings):
    TubeViTConfig(hidden_siz=192, nonsense=1)
    assert len(logged_warnings) == 2
    by_field = {
        field: text for text in logged_warnings for field in ("hidden_siz", "nonsense") if f"`{field}`" in text
    }
    assert "no effect" in by_field["hidden_siz"]
    assert "Did you mean `hidden_size`?" in by_field["hidden_siz"]
    assert "Did you mean" not in by_field["nonsense"]


def test_what_transformers_passes_is_no_warning(logged_warnings, tmp_path):
    config = TubeViTConfig.from_preset(
        "Ti",
        num_labels=3,
        id2label={0: "a", 1: "b", 2: "c"},
        label2id={"a": 0, "b": 1, "c": 2},
        problem_type="regression",
        attn_implementation="eager",
        output_hidden_states=True,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        TubeViTForVideoClassification(config)
    config.save_pretrained(tmp_path)
    TubeViTConfig.from_pretrained(tmp_path, num_frames=16)
    assert logged_warnings == []


@pytest.mark.parametrize(
    "settings",
    [{"pooling_grid": (4, 3, 3)}, {"base_kernel_size": (4, 8, 8)}, {"image_size": (96, 128)}],
    ids=lambda settings: next(iter(settings)),
)
def test_tuples_become_lists_however_they_are_set(settings, tmp_path):
    ((name, value),) = settings.items()
    TubeViTConfig().save_pretrained(tmp_path)
    changed = TubeViTConfig()
    setattr(changed, name, value)
    for config in (TubeViTConfig(**settings), TubeViTConfig.from_pretrained(tmp_path, **settings), changed):
        assert getattr(config, name) == list(value)
        assert config.to_dict() == TubeViTConfig(**settings).to_dict()
