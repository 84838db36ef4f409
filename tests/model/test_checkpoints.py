# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint folder must give back: the same model, in every class that it can be loaded as."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from tubevit_hf import (
    TubeViTConfig,
    TubeViTForImageClassification,
    TubeViTForVideoClassification,
    TubeViTImageProcessor,
    TubeViTImageProcessorPil,
    TubeViTModel,
    TubeViTVideoProcessor,
)

from ..support.tiny import REPO_ID, randomize, tiny_config, tiny_video_processor


AUTO_CLASSES = {
    TubeViTModel: AutoModel,
    TubeViTForVideoClassification: AutoModelForVideoClassification,
    TubeViTForImageClassification: AutoModelForImageClassification,
}
HEADS = [TubeViTForVideoClassification, TubeViTForImageClassification]

# together they have every kind of parameter
VARIANTS = {
    "plain": {},
    "extra_tokens": {"use_cls_token": True, "num_register_tokens": 2, "pooling_type": "cls"},
    "extra_layers": {"use_layer_scale": True, "use_pre_layernorm": True, "gate_layer": 1, "pooling_type": "mean"},
    "interpolated": {"tube_kernels": "interpolated", "base_kernel_size": [2, 3, 4], "qkv_bias": False},
    "learned": {"position_embedding_type": "learned"},
    "pretrained": {"position_embedding_type": "pretrained", "position_embedding_scale": 0.5},
    "spatial": {"position_embedding_type": "spatial"},
}


def make_model(model_class, seed=0, **overrides):
    return randomize(model_class(tiny_config(**overrides)), seed=seed)


def outputs_of(model):
    """What a model says about two clips and two images."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(2, 7, 3, 40, 56, generator=generator)
    with torch.no_grad():
        answers = [model(clips), model(clips[:, 3])]
    return [value for answer in answers for value in answer.values()]


def assert_identical(actual, expected):
    assert len(actual) == len(expected) > 0
    for index, (one, other) in enumerate(zip(actual, expected)):
        assert one.isfinite().all()
        assert torch.equal(one, other), f"output {index} differs by up to {(one - other).abs().max()}"


def settings_of(config):
    """All that a config says; where it came from is no part of it."""
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_class", AUTO_CLASSES)
def test_round_trip(model_class, variant, tmp_path):
    model = make_model(model_class, **VARIANTS[variant])
    model.save_pretrained(tmp_path)
    for loader in (model_class, AUTO_CLASSES[model_class]):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is model_class
        assert not any(info.values()), info
        assert not loaded.training
        state, expected = loaded.state_dict(), model.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert settings_of(loaded.config) == settings_of(model.config)
        assert_identical(outputs_of(loaded), outputs_of(model))


def test_weights_count_for_the_output():
    # what the comparisons here rest on: other weights or another clip give a clearly different answer
    model, other = make_model(TubeViTForVideoClassification), make_model(TubeViTForVideoClassification, seed=1)
    video_logits, image_logits = outputs_of(model)
    assert (video_logits - outputs_of(other)[0]).abs().max() > 0.5
    assert (video_logits[0] - video_logits[1]).abs().max() > 0.1
    assert (video_logits - image_logits).abs().max() > 0.1


@pytest.mark.parametrize("variant", ["plain", "extra_tokens"])
@pytest.mark.parametrize("saved_class", HEADS)
def test_checkpoint_of_a_classifier_serves_every_class(saved_class, variant, tmp_path):
    saved = make_model(saved_class, **VARIANTS[variant])
    saved.save_pretrained(tmp_path)
    for loaded_class, auto_class in AUTO_CLASSES.items():
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is loaded_class
        is_bare = loaded_class is TubeViTModel
        # the bare model has no use for the head; nothing may be missing, or it would be random
        assert info.pop("unexpected_keys") == ({"classifier.weight", "classifier.bias"} if is_bare else set())
        assert not any(info.values()), info
        assert_identical(outputs_of(loaded), outputs_of(saved.tubevit if is_bare else saved))


@pytest.mark.parametrize("loaded_class", HEADS)
def test_checkpoint_of_the_bare_model_lacks_only_the_classifier(loaded_class, tmp_path):
    saved = make_model(TubeViTModel)
    saved.save_pretrained(tmp_path)
    loaded, info = AUTO_CLASSES[loaded_class].from_pretrained(tmp_path, output_loading_info=True)
    assert info.pop("missing_keys") == {"classifier.weight", "classifier.bias"}
    assert not any(info.values()), info
    assert_identical(outputs_of(loaded.tubevit), outputs_of(saved))


def test_other_number_of_labels_replaces_only_the_classifier(checkpoint):
    arguments = {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForVideoClassification.from_pretrained(checkpoint, **arguments)
    loaded, info = AutoModelForVideoClassification.from_pretrained(
        checkpoint, ignore_mismatched_sizes=True, output_loading_info=True, **arguments
    )
    assert {key for key, *_ in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert not info["missing_keys"]
    assert loaded.classifier.weight.shape == (3, 24)
    assert_identical(outputs_of(loaded.tubevit), outputs_of(AutoModel.from_pretrained(checkpoint)))


def test_sharded_checkpoint(tmp_path):
    model = make_model(TubeViTForVideoClassification)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_identical(outputs_of(AutoModelForVideoClassification.from_pretrained(tmp_path)), outputs_of(model))


def test_auto_config(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint)
    assert type(config) is TubeViTConfig
    expected = settings_of(tiny_config(use_cls_token=True, num_register_tokens=2, gate_layer=1))
    expected |= {"architectures": ["TubeViTForVideoClassification"], "dtype": "float32"}
    assert settings_of(config) == expected
    assert config.auto_map == {
        "AutoConfig": "configuration_tubevit.TubeViTConfig",
        "AutoModel": "modeling_tubevit.TubeViTModel",
        "AutoModelForPreTraining": "pretraining_tubevit.TubeViTForPreTraining",
        "AutoModelForVideoClassification": "modeling_tubevit.TubeViTForVideoClassification",
        "AutoModelForImageClassification": "modeling_tubevit.TubeViTForImageClassification",
    }


@pytest.mark.parametrize(
    ("backend", "expected_class"), [("torchvision", TubeViTImageProcessor), ("pil", TubeViTImageProcessorPil)]
)
def test_auto_image_processor(checkpoint, images, backend, expected_class, tmp_path):
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend=backend)
    assert type(processor) is expected_class
    settings = {"size": {"shortest_edge": 44}, "crop_size": {"height": 40, "width": 56}}
    settings |= {"image_mean": [0.3, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    pixels = processor(Image.open(images[0]), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 40, 56)
    expected = expected_class(**settings)(Image.open(images[0]), return_tensors="pt").pixel_values
    assert torch.equal(pixels, expected)

    processor.save_pretrained(tmp_path)
    reloaded = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert type(reloaded) is expected_class
    assert reloaded.to_dict() == processor.to_dict()


def test_auto_video_processor(checkpoint, videos, tmp_path):
    processor = AutoVideoProcessor.from_pretrained(checkpoint)
    assert type(processor) is TubeViTVideoProcessor
    pixels = processor(videos, return_tensors="pt").pixel_values
    assert pixels.shape == (3, 7, 3, 40, 56)
    assert torch.equal(pixels, tiny_video_processor()(videos, return_tensors="pt").pixel_values)

    processor.save_pretrained(tmp_path)
    assert AutoVideoProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_frames_and_images_are_processed_alike(checkpoint):
    # one set of weights serves both, so a frame must look the same through either processor
    frames = np.random.default_rng(0).integers(0, 256, size=(7, 50, 75, 3), dtype=np.uint8)
    from_video = AutoVideoProcessor.from_pretrained(checkpoint)(frames, return_tensors="pt").pixel_values[0]
    image_processor = AutoImageProcessor.from_pretrained(checkpoint)
    from_images = image_processor([Image.fromarray(frame) for frame in frames], return_tensors="pt").pixel_values
    assert torch.equal(from_video, from_images)


def load_through_meta(model_class, folder, assign):
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_pretrained(folder))
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=assign)
    return model.eval()


LOADERS = {
    "from_pretrained": lambda model_class, folder: model_class.from_pretrained(folder),
    "auto_class": lambda model_class, folder: AUTO_CLASSES[model_class].from_pretrained(folder),
    "device_map": lambda model_class, folder: model_class.from_pretrained(folder, device_map="cpu"),
    "loading_info": lambda model_class, folder: model_class.from_pretrained(folder, output_loading_info=True)[0],
    "meta_assigned": lambda model_class, folder: load_through_meta(model_class, folder, assign=True),
    "meta_copied": lambda model_class, folder: load_through_meta(model_class, folder, assign=False),
}


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("model_class", [TubeViTModel, TubeViTForVideoClassification])
def test_freezing_survives_loading(model_class, loader, layer, tmp_path):
    model = make_model(model_class, **VARIANTS["extra_tokens"])
    model.freeze_before(layer)
    prefix = "" if model_class is TubeViTModel else "tubevit."
    frozen = (f"{prefix}embeddings.", *(f"{prefix}layers.{index}." for index in range(layer)))
    expected = {name for name, _ in model.named_parameters() if not name.startswith(frozen)}
    assert trainable(model) == expected

    model.save_pretrained(tmp_path)
    loaded = LOADERS[loader](model_class, tmp_path)
    assert loaded.config.freeze_before == layer
    assert trainable(loaded) == expected
    assert_identical(outputs_of(loaded), outputs_of(model))


def test_freezing_by_an_argument_and_thawing(checkpoint, tmp_path):
    loaded = AutoModelForVideoClassification.from_pretrained(checkpoint, freeze_before=1)
    every = {name for name, _ in loaded.named_parameters()}
    assert every - trainable(loaded) == {
        name for name in every if name.startswith(("tubevit.embeddings.", "tubevit.layers.0."))
    }
    loaded.freeze_before(None)
    loaded.save_pretrained(tmp_path)
    thawed = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert thawed.config.freeze_before is None
    assert trainable(thawed) == every


def encoder_shapes():
    """Names and shapes of the layers of `tiny_config`, as in transformers' own ViT."""
    shapes = {"layernorm.weight": (24,), "layernorm.bias": (24,)}
    for layer in range(3):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"layers.{layer}.attention.{name}.weight"] = (24, 24)
            shapes[f"layers.{layer}.attention.{name}.bias"] = (24,)
        for name in ("layernorm_before", "layernorm_after"):
            shapes[f"layers.{layer}.{name}.weight"] = (24,)
            shapes[f"layers.{layer}.{name}.bias"] = (24,)
        shapes[f"layers.{layer}.mlp.fc1.weight"], shapes[f"layers.{layer}.mlp.fc1.bias"] = (40, 24), (40,)
        shapes[f"layers.{layer}.mlp.fc2.weight"], shapes[f"layers.{layer}.mlp.fc2.bias"] = (24, 40), (24,)
    return shapes


TUBE_BIASES = {
    "embeddings.tubes.0.bias": (12,),
    "embeddings.tubes.1.bias": (24,),
    "embeddings.tubes.2.bias": (24,),
}
TUBE_WEIGHTS = {
    "embeddings.tubes.0.weight": (12, 3, 2, 8, 8),
    "embeddings.tubes.1.weight": (24, 3, 3, 4, 6),
    "embeddings.tubes.2.weight": (24, 3, 1, 8, 8),
}
POOLER = {
    "pooler.query": (1, 1, 24),
    **{f"pooler.{name}_proj.weight": (24, 24) for name in "qkvo"},
    **{f"pooler.{name}_proj.bias": (24,) for name in "qkvo"},
}
EXTRA_SHAPES = {
    "plain": {**TUBE_WEIGHTS, **POOLER},
    "extra_tokens": {**TUBE_WEIGHTS, "embeddings.cls_token": (1, 1, 24), "embeddings.register_tokens": (1, 2, 24)},
    "extra_layers": {
        **TUBE_WEIGHTS,
        "embeddings.layernorm.weight": (24,),
        "embeddings.layernorm.bias": (24,),
        "layers.1.gate": (1,),
        **{f"layers.{layer}.layer_scale{branch}.lambda1": (24,) for layer in range(3) for branch in (1, 2)},
    },
    "interpolated": {"embeddings.base_kernel": (24, 3, 2, 3, 4), **POOLER},
    "learned": {
        **TUBE_WEIGHTS,
        **POOLER,
        "embeddings.position_embeddings.0": (1, 1, 3, 3, 24),
        "embeddings.position_embeddings.1": (1, 2, 3, 5, 24),
        "embeddings.position_embeddings.2": (1, 1, 5, 7, 24),
    },
    "pretrained": {**TUBE_WEIGHTS, **POOLER, "embeddings.position_embeddings.2": (1, 5, 7, 24)},
    "spatial": {
        **TUBE_WEIGHTS,
        **POOLER,
        "embeddings.position_embeddings.0": (1, 3, 3, 24),
        "embeddings.position_embeddings.1": (1, 3, 5, 24),
        "embeddings.position_embeddings.2": (1, 5, 7, 24),
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_class", AUTO_CLASSES)
def test_state_dict_contract(model_class, variant, tmp_path):
    # others convert weights to these names: a change here breaks every checkpoint out there
    expected = {**encoder_shapes(), **TUBE_BIASES, **EXTRA_SHAPES[variant]}
    if not VARIANTS[variant].get("qkv_bias", True):
        expected = {
            key: shape
            for key, shape in expected.items()
            if not key.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))
        }
    if model_class is not TubeViTModel:
        expected = {f"tubevit.{key}": shape for key, shape in expected.items()}
        expected |= {"classifier.weight": (5, 24), "classifier.bias": (5,)}
    make_model(model_class, **VARIANTS[variant]).save_pretrained(tmp_path)
    saved = {key: tuple(value.shape) for key, value in load_file(tmp_path / "model.safetensors").items()}
    assert saved == expected


def sine_cosine_positions(config, tube, grid):
    """Eq. 3 to 7 at the centres of the tube's extents, one channel after the other, in float64."""
    bands = config.hidden_size // 6
    stride, offset = tube["stride"], tube["offset"]
    extent = [
        kernel + (factor - 1) * step // factor
        for kernel, factor, step in zip(tube["kernel_size"], tube["space_to_depth"], stride)
    ]
    table = np.zeros((*grid, config.hidden_size))
    for index in np.ndindex(*grid):
        t, y, x = (offset[axis] + index[axis] * stride[axis] + extent[axis] / 2 for axis in range(3))
        for band in range(bands):
            omega = 10_000 ** (-band / bands)
            table[index][6 * band : 6 * band + 6] = [
                function(omega * position) for position in (t, x, y) for function in (np.sin, np.cos)
            ]
    return torch.from_numpy(table).flatten(0, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_loading_in_another_dtype(checkpoint, dtype, tmp_path):
    loaded = AutoModelForVideoClassification.from_pretrained(checkpoint, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    in_float32 = AutoModelForVideoClassification.from_pretrained(checkpoint)
    assert_identical(outputs_of(loaded), outputs_of(in_float32.to(dtype)))

    # what was saved in a dtype comes back in it
    loaded.save_pretrained(tmp_path)
    reloaded = AutoModelForVideoClassification.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in reloaded.parameters()} == {dtype}
    assert_identical(outputs_of(reloaded), outputs_of(loaded))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fixed_positions_are_exact_in_every_dtype(checkpoint, dtype):
    embeddings = AutoModel.from_pretrained(checkpoint, dtype=dtype).embeddings
    with torch.no_grad():
        for parameter in embeddings.tubes.parameters():
            parameter.zero_()  # what remains of a token is its position
        # a wide clip: bfloat16 can't tell pixel 300 from 301
        tokens = embeddings(torch.randn(1, 7, 3, 40, 600))[0, embeddings.num_prefix_tokens :]
    config = embeddings.config
    tubes = [tube.to_dict() for tube in config.resolved_tubes]
    expected = torch.cat(
        [sine_cosine_positions(config, tube, grid) for tube, grid in zip(tubes, config.token_grids(width=600))]
    )
    assert tokens.dtype == dtype
    assert tokens.shape == expected.shape
    # rounding of values up to 1 to the dtype, and of angles up to 600 in float32
    tolerance = torch.finfo(dtype).eps / 4 + 600 * torch.finfo(torch.float32).eps
    assert (tokens.double() - expected).abs().max() < tolerance


def test_folder_without_weights(checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    for auto_class in AUTO_CLASSES.values():
        with pytest.raises(OSError, match=r"model\.safetensors") as error:
            auto_class.from_pretrained(tmp_path)
        assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_folder_with_a_pickle_only(checkpoint, name, tmp_path):
    # a pickle can run code when it is read
    shutil.copy(checkpoint / "config.json", tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    torch.save(weights, tmp_path / name)
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    if name != "pytorch_model.bin":
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for auto_class in AUTO_CLASSES.values():
        with pytest.raises(OSError, match=re.escape(name)) as error:
            auto_class.from_pretrained(tmp_path)
        assert str(tmp_path) in str(error.value)
        assert "safetensors" in str(error.value)


def test_repo_id(checkpoint, hub_cache, videos, images):
    for model_class, auto_class in AUTO_CLASSES.items():
        loaded = auto_class.from_pretrained(REPO_ID, cache_dir=hub_cache)
        assert type(loaded) is model_class
        assert_identical(outputs_of(loaded), outputs_of(auto_class.from_pretrained(checkpoint)))
    video_processor = AutoVideoProcessor.from_pretrained(REPO_ID, cache_dir=hub_cache)
    assert video_processor(videos, return_tensors="pt").pixel_values.shape == (3, 7, 3, 40, 56)
    image_processor = AutoImageProcessor.from_pretrained(REPO_ID, cache_dir=hub_cache)
    assert image_processor(Image.open(images[0]), return_tensors="pt").pixel_values.shape == (1, 3, 40, 56)
