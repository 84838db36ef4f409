# SPDX-License-Identifier: Apache-2.0
"""transformers' shared tests of a model: with the defaults, with every option and padded clips, and with images."""

import copy
import unittest
from unittest import mock

import torch
from transformers.models.auto import modeling_auto
from transformers.testing_utils import torch_device

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForImageClassification,
    TubeViTForPreTraining,
    TubeViTForVideoClassification,
    TubeViTModel,
)
from tubevit_hf.model.modeling_tubevit import as_video

from ..support.transformers_mixins import ModelTesterMixin


class TubeViTModelTester:
    """Makes a small config and clips for it. Grids are not square, and no two axes are alike."""

    is_training = True

    def __init__(self):
        # some shared tests take the first 7 clips
        self.batch_size = 7
        # heads are 16 wide, the least that every attention kernel takes
        self.hidden_size = 80
        self.num_attention_heads = 5
        self.num_hidden_layers = 2
        # 1 x 3 x 2, 2 x 2 x 3 and 1 x 5 x 6 tokens
        self.seq_length = 6 + 12 + 30

    def get_config(self, **overrides):
        settings = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 37,
            "image_size": [40, 48],
            "num_frames": 5,
            "tubes": [
                {"kernel_size": [2, 8, 8], "stride": [4, 16, 24], "space_to_depth": [2, 1, 1]},
                {"kernel_size": [3, 4, 6], "stride": [2, 14, 12], "offset": [0, 2, 3], "space_to_depth": [1, 2, 2]},
                {"kernel_size": [1, 8, 8], "stride": [5, 8, 8]},
            ],
        }
        return TubeViTConfig(**{**settings, **overrides})

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        size = (self.batch_size, config.num_frames, config.num_channels, *config.image_size)
        return config, {"pixel_values": torch.rand(size, device=torch_device)}


class TubeViTAllOptionsModelTester(TubeViTModelTester):
    """All that the defaults leave out, with clips that are padded."""

    def __init__(self):
        super().__init__()
        # CLS and 2 registers
        self.seq_length += 3

    def get_config(self):
        return super().get_config(
            use_cls_token=True,
            num_register_tokens=2,
            use_layer_scale=True,
            use_pre_layernorm=True,
            pooling_type="cls",
            gate_layer=1,
            qkv_bias=False,
            tube_kernels="interpolated",
            base_kernel_size=[3, 5, 4],
            position_embedding_type="pretrained",
        )

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        # the first clip, which some shared tests take alone, is padded too
        num_frames = torch.tensor([4, 5, 3, 5, 1, 2, 5], device=torch_device)
        frame_mask = torch.arange(config.num_frames, device=torch_device) < num_frames[:, None]
        return config, {**inputs, "frame_mask": frame_mask}


class TubeViTImageModelTester(TubeViTModelTester):
    """Images, through a model that has tubes for clips."""

    def __init__(self):
        super().__init__()
        # the patches
        self.seq_length = 30

    def get_config(self):
        return super().get_config(pooling_type="mean", position_embedding_type="learned")

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, {"pixel_values": inputs["pixel_values"][:, 0]}


class TubeViTJointModelTester(TubeViTModelTester):
    """Frames that are encoded by themselves in the first layer, and classified from regions of space and time."""

    def __init__(self):
        super().__init__()
        # of each of 3 frames a CLS token and 30 patches
        self.seq_length = 3 * 31

    def get_config(self):
        return super().get_config(
            tubes=[{"kernel_size": [1, 8, 8], "stride": [2, 8, 8]}],
            use_cls_token=True,
            joint_layer=2,
            pooling_type="grid",
            pooling_grid=[3, 2, 3],
            pooling_layers=[1, 2],
        )


class TubeViTPreTrainingModelTester(TubeViTModelTester):
    """Pixels of all tokens, which need no targets."""

    def get_config(self):
        return super().get_config(pretraining={"target": "pixels", "pixel_size": [2, 3, 4]})


class TubeViTModelTest(ModelTesterMixin, unittest.TestCase):
    model_tester_class = TubeViTModelTester
    all_model_classes = (TubeViTModel, TubeViTForVideoClassification, TubeViTForImageClassification)
    # there is no vocabulary whose embeddings could be resized
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = self.model_tester_class()
        # by these tables shared tests tell a classifier from a base model; of what is in none they test nothing
        for table, model_class in {
            "MODEL_MAPPING_NAMES": TubeViTModel,
            "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES": TubeViTForVideoClassification,
            "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": TubeViTForImageClassification,
            "MODEL_FOR_PRETRAINING_MAPPING_NAMES": TubeViTForPreTraining,
        }.items():
            names = mock.patch.dict(getattr(modeling_auto, table), {"tubevit": model_class.__name__})
            names.start()
            self.addCleanup(names.stop)

    def test_inputs_have_the_expected_tokens(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        num_frames = inputs["pixel_values"].shape[1] if inputs["pixel_values"].ndim == 5 else 1
        self.assertEqual(config.num_tokens(num_frames=num_frames), self.model_tester.seq_length)

    # The shared test wants an `nn.Embedding`; here pixels are embedded, by a module that is called as a whole
    def test_model_get_set_embeddings(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(copy.deepcopy(config)).to(torch_device)
            embeddings = model.get_input_embeddings()
            self.assertEqual(
                embeddings(as_video(inputs["pixel_values"])).shape,
                (self.model_tester.batch_size, self.model_tester.seq_length, self.model_tester.hidden_size),
            )
            other = copy.deepcopy(embeddings)
            model.set_input_embeddings(other)
            self.assertIs(model.get_input_embeddings(), other)
            self.assertIs(model.base_model.embeddings, other)
            self.assertIsNone(model.get_output_embeddings())

    # The shared test looks for the `weight` of the embeddings, which have one for each tube
    def test_enable_input_require_grads_with_gradient_checkpointing(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes[1:]:
            for use_reentrant in (False, True):
                with self.subTest(model_class.__name__, use_reentrant=use_reentrant):
                    model = model_class(copy.deepcopy(config)).to(torch_device).train()
                    model.base_model.embeddings.requires_grad_(False)
                    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
                    model.enable_input_require_grads()
                    model(**self._prepare_for_class(inputs, model_class, return_labels=True)).loss.backward()
                    for name, parameter in model.base_model.layers.named_parameters():
                        self.assertIsNotNone(parameter.grad, name)
                    self.assertGreater(model.base_model.layers[0].mlp.fc1.weight.grad.abs().sum().item(), 0)


class TubeViTAllOptionsModelTest(TubeViTModelTest):
    model_tester_class = TubeViTAllOptionsModelTester
    additional_model_inputs = ["frame_mask"]


class TubeViTImageModelTest(TubeViTModelTest):
    model_tester_class = TubeViTImageModelTester
    all_model_classes = (TubeViTModel, TubeViTForImageClassification)
    # an image gives no tokens to tubes that span several frames
    test_all_params_have_gradient = False


class TubeViTPreTrainingModelTest(TubeViTModelTest):
    model_tester_class = TubeViTPreTrainingModelTester
    all_model_classes = (TubeViTForPreTraining,)


class TubeViTJointModelTest(TubeViTModelTest):
    model_tester_class = TubeViTJointModelTester

    def test_attention_outputs(self):
        """Instead of the shared one: a frame's tokens attend to each other only."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        for model_class in self.all_model_classes:
            model = model_class(copy.deepcopy(config)).to(torch_device).eval()
            with torch.no_grad():
                attentions = model(**inputs, output_attentions=True).attentions
            self.assertEqual([tuple(weights.shape) for weights in attentions], [(7 * 3, 5, 31, 31)] * 2)
