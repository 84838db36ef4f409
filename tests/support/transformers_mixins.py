# SPDX-License-Identifier: Apache-2.0
"""transformers' own shared test classes, for our test modules to subclass.

They are read from where `fetch_transformers_tests.py` put them, as a package `transformers_tests`. What they import
but the source distribution lacks has a stand-in here.
"""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from .fetch_transformers_tests import FOLDER, VERSION


# skipping here would turn a broken set-up green
if not FOLDER.is_dir():
    pytest.fail(
        f"The shared tests of transformers {VERSION} are missing. Fetch them once, with a network:\n\n"
        "    python tests/support/fetch_transformers_tests.py\n",
        pytrace=False,
    )


class ExportTesterMixin:
    """Stands in for transformers' export tests."""


class GenerationTesterMixin:
    """Stands in for the tests of models that generate text."""


# one value for each field of `PreTrainedConfig` that is not its default
COMMON_CONFIG_FIELDS = {
    "architectures": ["TubeViTModel"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "fall", 1: "jump", 2: "roll"},
    "label2id": {"fall": 0, "jump": 1, "roll": 2},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}


def photograph(url: str) -> str:
    """Path of a photograph that comes with scikit-learn, whichever one is asked for: tests have no network."""
    return str(Path(find_spec("sklearn").origin).parent / "datasets" / "images" / "china.jpg")


def _add_module(name: str, **attributes) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    return module


# a failing `assert` in them shows its values, as in our own tests
pytest.register_assert_rewrite("transformers_tests")
_add_module("transformers_tests", __path__=[str(FOLDER)])
for _name, _attributes in {
    "exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
    "generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
    "utils.test_configuration_utils": {"config_common_kwargs": COMMON_CONFIG_FIELDS},
}.items():
    _add_module(f"transformers_tests.{_name.split('.')[0]}", __path__=[])
    _add_module(f"transformers_tests.{_name}", **_attributes)
# transformers puts the folder of this one on `sys.path`
_add_module("fetch_hub_objects_for_ci", url_to_local_path=photograph)

with warnings.catch_warnings():
    # transformers registers its marks in a configuration of its own
    warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
    from transformers_tests.test_configuration_common import ConfigTester
    from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin
    from transformers_tests.test_modeling_common import ModelTesterMixin
    from transformers_tests.test_video_processing_common import VideoProcessingTestMixin, prepare_video_inputs


__all__ = [
    "ConfigTester",
    "ImageProcessingTestMixin",
    "ImageProcessingTester",
    "ModelTesterMixin",
    "VideoProcessingTestMixin",
    "prepare_video_inputs",
]
