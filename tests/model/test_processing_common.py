# SPDX-License-Identifier: Apache-2.0
"""transformers' shared tests of image and video processors."""

import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from tubevit_hf import TubeViTConfig, TubeViTImageProcessor, TubeViTImageProcessorPil, TubeViTVideoProcessor

from ..support.transformers_mixins import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    VideoProcessingTestMixin,
    prepare_video_inputs,
)


# The crop is not square and fits every resized picture; colours differ in mean and deviation
SETTINGS = {
    "do_resize": True,
    "size": {"shortest_edge": 20},
    "do_center_crop": True,
    "crop_size": {"height": 17, "width": 20},
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "do_convert_rgb": True,
}


class TubeViTImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, batch_size=3, max_resolution=90, **SETTINGS)

    def _get_image_processing_classes(self):
        # transformers looks in the tables of its own models only
        return IMAGE_PROCESSOR_MAPPING[TubeViTConfig]


class TubeViTImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = TubeViTImageProcessingTester
    test_cast_dtype = True

    def test_both_backends_are_tested(self):
        self.assertEqual(
            self.image_processing_classes, {"torchvision": TubeViTImageProcessor, "pil": TubeViTImageProcessorPil}
        )

    # transformers 5.20 has this test in place of the next one, and looks for the classes inside transformers
    test_pil_can_load_without_torchvision = None

    # The shared test loads without `trust_remote_code` and is slow, so it does not run by default
    def test_pil_can_run_without_torchvision(self):
        script = """if True:
            import sys
            sys.modules["torchvision"] = None  # an import of it now fails
            import numpy as np
            from transformers import AutoImageProcessor
            folder = sys.argv[1]
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=True)
            outputs = processor(np.load(folder + "/image.npy"), return_tensors="np")
            np.save(folder + "/outputs.npy", outputs["pixel_values"])
            assert "tubevit_hf" not in sys.modules
        """
        processor = TubeViTImageProcessorPil(**self.image_processor_dict)
        [image] = self.image_processor_tester.prepare_image_inputs(batch_size=1, numpify=True)
        with tempfile.TemporaryDirectory() as folder:
            processor.save_pretrained(folder)
            np.save(f"{folder}/image.npy", image)
            environment = {**os.environ, "HF_MODULES_CACHE": f"{folder}/modules"}
            subprocess.run([sys.executable, "-c", script, folder], check=True, env=environment)
            outputs = np.load(f"{folder}/outputs.npy")
        np.testing.assert_equal(outputs, processor(image, return_tensors="np")["pixel_values"])

    # The shared test wants a class to declare or filter its arguments; since transformers v5 the typed ones do that
    def test_image_processor_preprocess_arguments(self):
        for image_processing_class in self.image_processing_classes.values():
            with self.assertRaisesRegex(TypeError, "extra_argument"):
                image_processing_class()(self.image_processor_tester.prepare_image_inputs(), extra_argument=True)

    # The shared test wants `size` to be a dict and `image_mean` a list; since transformers v5 they are neither
    def test_override_instance_attributes_does_not_affect_other_instances(self):
        for image_processing_class in self.image_processing_classes.values():
            check_instances_are_independent(self, image_processing_class)


class TubeViTVideoProcessingTester:
    def __init__(self):
        self.batch_size = 3
        self.num_frames = 5
        self.num_channels = 3

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=30,
            max_resolution=70,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )

    def expected_output_video_shape(self, videos):
        return self.num_frames, self.num_channels, *SETTINGS["crop_size"].values()


class TubeViTVideoProcessingTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = TubeViTVideoProcessor
    input_name = "pixel_values"
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = TubeViTVideoProcessingTester()

    @property
    def video_processor_dict(self):
        return {**SETTINGS, "num_frames": self.video_processor_tester.num_frames}

    # The shared test writes the sizes down, with a square crop
    def test_video_processor_from_dict_with_kwargs(self):
        video_processor = TubeViTVideoProcessor.from_dict(self.video_processor_dict)
        self.assertEqual(video_processor.size, SETTINGS["size"])
        self.assertEqual(video_processor.crop_size, SETTINGS["crop_size"])

        video_processor = TubeViTVideoProcessor.from_dict(self.video_processor_dict, size=42, crop_size=84)
        self.assertEqual(video_processor.size, {"shortest_edge": 42})
        self.assertEqual(video_processor.crop_size, {"height": 84, "width": 84})

    # The shared test wants a class to declare or filter its arguments; since transformers v5 the typed ones do that
    def test_video_processor_preprocess_arguments(self):
        with self.assertRaisesRegex(TypeError, "extra_argument"):
            TubeViTVideoProcessor()(self.video_processor_tester.prepare_video_inputs(), extra_argument=True)

    # The shared test wants `size` to be a dict and `image_mean` a list; since transformers v5 they are neither
    def test_override_instance_attributes_does_not_affect_other_instances(self):
        check_instances_are_independent(self, TubeViTVideoProcessor)


def check_instances_are_independent(test: unittest.TestCase, processor_class: type) -> None:
    """What is changed in one processor, in place too, is not changed in another."""
    changed, other = processor_class(), processor_class()
    before = other.to_dict()
    changed.size["shortest_edge"] = 3
    changed.crop_size["height"] = 4
    changed.image_mean = [0.1, 0.2, 0.3]
    test.assertEqual(changed.to_dict()["size"]["shortest_edge"], 3)
    test.assertEqual(other.to_dict(), before)
    test.assertEqual(processor_class().to_dict(), before)
