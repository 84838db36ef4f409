# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and processors as a hostile or careless stranger would write them, and what becomes of each.

    python tests/support/hostile_checkpoints.py

Each ends in one error that names what is wrong; the table tells how long that took and how far the peak of memory
rose. Linux only, for `/proc`.
"""

import argparse
import json
import os
import pickle
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForVideoClassification, AutoVideoProcessor, logging

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor


BIG = 10**9
TUBE = {"kernel_size": [1, 8, 8], "stride": [4, 8, 8]}
NAN, INFINITE = float("nan"), float("inf")


class Case(NamedTuple):
    """A folder that is spoilt.

    Args:
        name: of the case.
        spoil: changes the files of a sound checkpoint.
        message: a regular expression that its error has.
        load: what is done with the folder.
    """

    name: str
    spoil: Callable[[Path], None]
    message: str
    load: Callable[[Path], Any] = AutoModelForVideoClassification.from_pretrained


def settings(file: str = "config.json", **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / file
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, **changes}))

    return spoil


def tube(**changes: Any) -> Callable[[Path], None]:
    return settings(tubes=[{**TUBE, **changes}])


def without(file: str, name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        del values[name]
        (folder / file).write_text(json.dumps(values))

    return spoil


def content(file: str, data: str | bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / file).write_bytes(data.encode() if isinstance(data, str) else data)

    return spoil


def header(values: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> Callable[[Path], None]:
    """A safetensors file with this header."""
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return content("model.safetensors", struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"tubevit.layernorm.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def index(weight_map: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "elsewhere.bin")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return spoil


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def pickled(file: str, remove: bool = True) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if remove:
            (folder / "model.safetensors").unlink()
        (folder / file).write_bytes(pickle.dumps(Bomb(str(folder / "exploded"))))

    return spoil


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def few_tensors(folder: Path) -> None:
    settings(hidden_size=8192, intermediate_size=32768, num_attention_heads=64)(folder)
    save_file({"tubevit.layernorm.weight": torch.ones(24)}, folder / "model.safetensors", {"format": "pt"})


def call(**arguments: Any) -> Callable[[Path], Any]:
    """The processor loaded, and called with a video."""

    def load(folder: Path) -> Any:
        processor = AutoVideoProcessor.from_pretrained(folder)
        return processor(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), return_tensors="pt", **arguments)

    return load


DEEP = json.dumps({"model_type": "tubevit", "tubes": [{"kernel_size": json.loads("[" * 400 + "]" * 400)}]})
VIDEO = "video_preprocessor_config.json"
IMAGE = "preprocessor_config.json"
processor = AutoVideoProcessor.from_pretrained
image_processor = AutoImageProcessor.from_pretrained

CASES = [
    # sizes
    *(
        Case(f"{name} {BIG:.0e}", settings(**{name: BIG}), f"`{name}` is 1e\\+09, and more than")
        for name in (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size"),
            *("num_frames", "num_channels", "num_register_tokens"),
        )
    ),
    Case("num_hidden_layers 100,000", settings(num_hidden_layers=10**5), "`num_hidden_layers` is 100000, and more"),
    Case("10,000 tubes", settings(tubes=[TUBE] * 10**4), "`tubes` is 10000, and more than 256"),
    Case("num_labels 10^7", settings(num_labels=10**7, id2label=None), "`num_labels` is 1e\\+07, and more"),
    Case("num_labels negative", settings(num_labels=-5, id2label=None), "`num_labels` must not be negative"),
    Case("id2label of 2 million", settings(id2label={i: str(i) for i in range(2 * 10**6)}), "`num_labels` is 2e\\+06"),
    Case("kernel of 10^6 frames", tube(kernel_size=[10**6, 8, 8]), r"`tubes\[0\]\['kernel_size'\]` is 1e\+06"),
    Case("kernel of 10^12 elements", tube(kernel_size=[60000] * 3), "`number of parameters` is"),
    Case("stride 10^30", tube(stride=[10**30, 8, 8]), r"`tubes\[0\]\['stride'\]` is 1e\+30"),
    Case("offset 10^30", tube(offset=[0, 0, 10**30]), r"`tubes\[0\]\['offset'\]` is 1e\+30"),
    Case(
        "learned table of 10^12 elements",
        settings(position_embedding_type="learned", num_frames=60000, image_size=32000, tubes=[TUBE]),
        "`number of parameters` is",
    ),
    Case("pooling_grid 10^9", settings(pooling_grid=[BIG, 1, 1]), "`pooling_grid` is 1e\\+09"),
    Case("base_kernel_size 10^9", settings(base_kernel_size=[BIG, 1, 1]), "`base_kernel_size` is 1e\\+09"),
    Case("joint_pooling 10^9", settings(joint_layer=1, joint_pooling=[BIG, 1]), "`joint_pooling` is 1e\\+09"),
    Case("heads, 10,000", settings(heads={str(i): {"labels": ["a"]} for i in range(10**4)}), "`heads` is 10000"),
    # numbers that are none
    *(
        Case(f"{name} {value}", settings(**{name: value}), f"`{name}` must be a finite number")
        for name in ("layer_norm_eps", "initializer_range", "position_embedding_scale")
        for value in (NAN, INFINITE)
    ),
    Case("dropout NaN", settings(hidden_dropout_prob=NAN), "`hidden_dropout_prob` must be at least 0"),
    # types
    Case("hidden_size a list", settings(hidden_size=[24]), "hidden_size"),
    Case("hidden_size a text", settings(hidden_size="24"), "hidden_size"),
    Case("tubes a number", settings(tubes=5), "tubes"),
    Case("tubes of numbers", settings(tubes=[5]), "tubes"),
    Case("a tube of lists in lists", tube(kernel_size=[[[[1]]]]), "'kernel_size', which must hold numbers"),
    Case("a tube of texts", tube(kernel_size=["a", "b", "c"]), "kernel_size"),
    Case("id2label a list", settings(id2label=["a", "b"]), "id2label"),
    Case("id2label with gaps", settings(id2label={0: "a", 2: "b"}), "`id2label` must number 2 classes"),
    Case("id2label negative", settings(id2label={-1: "a", 0: "b"}), "`id2label` must number 2 classes"),
    Case("id2label of texts", settings(id2label={"first": "a"}), "`id2label` must have the numbers of the classes"),
    Case("id2label of numbers", settings(id2label={0: 1, 1: 2}), "id2label"),
    Case("num_labels a text", settings(num_labels="many", id2label=None), "`num_labels` must be of the type int"),
    Case("auto_map a list", settings(auto_map=["a"]), "auto_map|list"),
    Case("heads of anything", settings(heads={"a": {"labels": 5}}), r"`heads\['a'\]` must have a list of texts"),
    Case("heads a list", settings(heads=[1]), "heads"),
    Case("heads of lists", settings(heads={"a": [1]}), "heads"),
    Case("dtype of nothing", settings(dtype="float99"), "`dtype` must be a type of torch"),
    Case("dtype a function", settings(dtype="load"), "`dtype` must be a type of torch"),
    Case("model_type of nothing", settings(model_type="nothing"), "custom code|nothing"),
    Case("config deep as a well", content("config.json", '{"tubes": ' + "[" * 10**5), "recursion|valid JSON"),
    Case("config deep, but read", content("config.json", DEEP), "tubes|recursion"),
    Case("config no JSON", content("config.json", "{"), "config.json|JSON"),
    Case("config a list", content("config.json", "[]"), "config|list"),
    Case("config of bytes", content("config.json", b"\xff\xfe\x00"), "config.json|JSON|decode"),
    # the shapes of known holes
    *(
        Case(f"{key} of a repository (CVE-2026-4372)", settings(**{key: "attacker/kernels"}), f"`{key}` 'attacker/ker")
        for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
    ),
    Case(
        "trusts itself (CVE-2026-5241)",
        settings(trust_remote_code=True, auto_map={"AutoConfig": "attacker/repo--code.Config"}),
        "",
    ),
    # weights
    Case("header longer than the file", header(b"{}", length=2**40), r"model\.safetensors is no sound safetensors"),
    Case("header of no JSON", header(b"{nonsense"), r"model\.safetensors is no sound safetensors"),
    Case("header deep as a well", header(b'{"a":' + b"[" * 10**5), r"model\.safetensors is no sound safetensors"),
    Case("shape of 10^18", header(tensor([BIG, BIG], [0, 4]), bytes(4)), "is no sound safetensors"),
    Case("shape beyond the file", header(tensor([24], [0, 96])), "is no sound safetensors"),
    Case("offsets that go back", header(tensor([24], [96, 0]), bytes(96)), "is no sound safetensors"),
    Case("type of nothing", header(tensor([24], [0, 96], "F99"), bytes(96)), "is no sound safetensors"),
    Case("empty file of weights", content("model.safetensors", b""), "is no sound safetensors"),
    Case("weights cut off", truncated, "is no sound safetensors"),
    Case("weights of another model", few_tensors, "do not belong together"),
    Case("weights missing", lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    Case(
        "index that points above", index({"a": "../secret.safetensors"}), "names '../secret.safetensors', which is no"
    ),
    Case("index that points to the root", index({"a": "/etc/passwd"}), "names '/etc/passwd', which is no"),
    Case("index to a pickle", index({"a": "elsewhere.bin"}), "names 'elsewhere.bin', which is no safetensors"),
    Case("index of a list", index(["a"]), "is no index of weights"),
    Case("index of numbers", index({"a": 5}), "names 5|is no index"),
    Case("index to what is not there", index({"a": "model-1.safetensors"}), "model-1.safetensors"),
    # pickles
    Case("a pickle", pickled("pytorch_model.bin"), "holds its weights as a pickle only"),
    Case("a pickle called safetensors", pickled("model.safetensors", remove=False), "is no sound safetensors"),
    Case("a pickle with an index", pickled("pytorch_model-00001-of-00002.bin"), "as a pickle only"),
    # processors
    Case("num_frames 10^9", settings(VIDEO, num_frames=BIG), "`num_frames` is 1000000000", processor),
    Case("num_clips 10^9", settings(VIDEO, num_clips=BIG), "`num_clips` is 1000000000", processor),
    Case(
        "size 10^9", settings(VIDEO, size={"shortest_edge": BIG}), "`size` has 'shortest_edge' 1000000000", processor
    ),
    Case("size -1", settings(VIDEO, size={"height": -1, "width": 5}), "`size` has 'height' -1", processor),
    Case("crop_size 10^9", settings(VIDEO, crop_size={"height": BIG, "width": BIG}), "`crop_size` has", processor),
    Case("sampling of nothing", settings(VIDEO, frame_sampling="best"), "`frame_sampling` must be one of", processor),
    Case("short clips of nothing", settings(VIDEO, short_clips="stretch"), "`short_clips` must be one of", processor),
    Case("image_std 0", settings(VIDEO, image_std=[0, 0, 0]), "`image_std`", processor),
    Case("image_mean NaN", settings(VIDEO, image_mean=[NAN] * 3), "`image_mean` must be of finite", processor),
    Case("rescale_factor infinite", settings(VIDEO, rescale_factor=INFINITE), "`rescale_factor` must be", processor),
    Case("called with 10^9 frames", lambda folder: None, "`num_frames` is 1000000000", call(num_frames=BIG)),
    Case(
        "images of 10^9", settings(IMAGE, size={"shortest_edge": BIG}), "`size` has 'shortest_edge'", image_processor
    ),
    Case(
        "images crop of 10^9", settings(IMAGE, crop_size={"height": BIG, "width": 1}), "`crop_size`", image_processor
    ),
]


def make_checkpoint(folder: Path) -> None:
    """A small sound one."""
    config = TubeViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        num_frames=8,
        tubes=[TUBE],
        id2label={0: "a", 1: "b", 2: "c"},
    )
    TubeViTForVideoClassification(config).save_pretrained(folder)
    TubeViTVideoProcessor(num_frames=8, crop_size=32, size={"shortest_edge": 32}).save_pretrained(folder)


def run(case: Case, sound: Path, folder: Path) -> tuple[Exception | None, float, int]:
    """The error, the seconds that it took, and by how many bytes the peak of memory rose."""
    folder.mkdir()
    for path in sound.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    case.spoil(folder)
    before = peak_memory(reset=True)
    start = time.perf_counter()
    error = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.load(folder)
    except Exception as caught:
        error = caught
    return error, time.perf_counter() - start, peak_memory() - before


def peak_memory(reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        sound = Path(name, "sound")
        make_checkpoint(sound)
        # what is imported with the first of each
        for load in (AutoConfig.from_pretrained, CASES[0].load, processor, image_processor):
            load(sound)
        print(f"{'case':44}{'seconds':>9}{'MiB':>7}  error")
        for number, case in enumerate(CASES):
            error, seconds, memory = run(case, sound, Path(name, str(number)))
            text = "none: loaded as if it were not there" if error is None else f"{type(error).__name__}: {error}"
            print(f"{case.name:44}{seconds:9.2f}{memory / 2**20:7.0f}  {' '.join(text.split())[:150]}")


if __name__ == "__main__":
    sys.exit(main())
