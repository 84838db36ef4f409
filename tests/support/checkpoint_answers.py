# SPDX-License-Identifier: Apache-2.0
"""Loads a checkpoint in every way there is and writes down what it answers.

`test_remote_code.py` calls `collect` where the package is imported and runs this file as a script where it can't be:

    python checkpoint_answers.py REFERENCE OUTPUT --videos a.mp4 b.mp4 --images a.png --save-to FOLDER

It imports nothing from the package or from its tests.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path


PACKAGE = "tubevit_hf"


class Blocker:
    """Makes a package impossible to import, wherever and however it is installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def collect(reference, videos, images, **kwargs):
    """What each Auto class and each pipeline makes of a checkpoint.

    Returns:
        Tensors by name, other answers by name, and the objects that gave them by the name of their Auto class.
    """
    import torch
    import transformers
    from PIL import Image

    names = [
        "AutoConfig",
        "AutoImageProcessor",
        "AutoModel",
        "AutoModelForImageClassification",
        "AutoModelForVideoClassification",
        "AutoProcessor",
        "AutoVideoProcessor",
    ]
    loaded = {name: getattr(transformers, name).from_pretrained(reference, **kwargs) for name in names}
    opened = [Image.open(image) for image in images]
    clips = loaded["AutoVideoProcessor"](videos, return_tensors="pt").pixel_values
    pictures = loaded["AutoImageProcessor"](opened, return_tensors="pt").pixel_values
    tensors = {"clips": clips, "pictures": pictures}
    for name in names:
        if name.startswith("AutoModel"):
            with torch.no_grad():
                answers = {"of_clips": loaded[name](clips), "of_pictures": loaded[name](pictures)}
            tensors |= {f"{name}.{of}.{key}": value for of, answer in answers.items() for key, value in answer.items()}

    classify = transformers.pipeline("video-classification", model=reference, **kwargs)
    recognize = transformers.pipeline("image-classification", model=reference, **kwargs)
    extract = transformers.pipeline("image-feature-extraction", model=reference, **kwargs)
    texts = {
        "config": {key: value for key, value in loaded["AutoConfig"].to_dict().items() if key != "_name_or_path"},
        "image processor": loaded["AutoImageProcessor"].to_dict(),
        "video processor": loaded["AutoVideoProcessor"].to_dict(),
        "processor": loaded["AutoProcessor"].to_dict(),
        "classes": {name: type(value).__name__ for name, value in loaded.items()},
        "pipeline classes": [type(pipe.model).__name__ for pipe in (classify, recognize, extract)],
        "video-classification": classify(videos[0]),
        "video-classification, batched": classify(videos, batch_size=2),
        "video-classification, frames": classify(videos[0], num_frames=11),
        "image-classification": recognize(images),
        "image-feature-extraction": extract(images),
        "image-feature-extraction, pooled": extract(images, pool=True),
    }
    # JSON has no tuples and no numbers for keys
    return tensors, json.loads(json.dumps(texts)), loaded


def refusal(reference):
    """The error without leave to run code."""
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained(reference, trust_remote_code=False)
    except ValueError as error:
        return str(error)
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", help="folder or repository id")
    parser.add_argument("output", type=Path, help="folder for the answers")
    parser.add_argument("--videos", nargs="+", required=True)
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--save-to", help="save again here, load that, and answer once more")
    parser.add_argument("--import-package", action="store_true", help="import the package instead of blocking it")
    arguments = parser.parse_args()

    if arguments.import_package:
        importlib.import_module(PACKAGE)
        kwargs = {}
    else:
        sys.meta_path.insert(0, Blocker)
        kwargs = {"trust_remote_code": True}

    from safetensors.torch import save_file

    references = {"first": arguments.reference}
    if arguments.save_to:
        references["again"] = arguments.save_to
    for name, reference in references.items():
        tensors, texts, loaded = collect(reference, arguments.videos, arguments.images, **kwargs)
        texts["modules"] = {key: type(value).__module__ for key, value in loaded.items()}
        if not arguments.import_package:
            texts["refusal"] = refusal(reference)
        if name == "first" and arguments.save_to:
            loaded["AutoModelForVideoClassification"].save_pretrained(arguments.save_to)
            loaded["AutoVideoProcessor"].save_pretrained(arguments.save_to)
        texts["imported"] = sorted(module for module in sys.modules if "tubevit" in module)
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        save_file(tensors, arguments.output / f"{name}.safetensors")
        (arguments.output / f"{name}.json").write_text(json.dumps(texts))


if __name__ == "__main__":
    main()
