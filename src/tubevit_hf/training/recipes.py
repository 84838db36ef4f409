# SPDX-License-Identifier: Apache-2.0
"""The paper's training settings (Table 10), as data.

Names are `DATASET-SIZE`, such as `k400-b` or `ssv2-l`; `charades-SIZE-interpolated` has the tubes of Section 3.3 for
long clips. A value that the table does not give is that of the paper's text, or the field's default.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from ..model.configuration_tubevit import TubeViTConfig


# Section 3.3: one 8x8x8 kernel, resized to longer and larger regions at the strides of Table 12
INTERPOLATED_TUBES = [
    {"kernel_size": [16, 16, 16], "stride": [16, 32, 32]},
    {"kernel_size": [32, 8, 8], "stride": [6, 32, 32], "offset": [4, 8, 8]},
    {"kernel_size": [4, 32, 32], "stride": [16, 32, 32], "offset": [0, 16, 16]},
    {"kernel_size": [1, 16, 16], "stride": [32, 16, 16]},
]


@dataclass(frozen=True)
class Recipe:
    """One column of Table 10.

    Args:
        preset: size of the model, see [`TubeViTConfig.from_preset`].
        learning_rate: the highest; cosine schedule after a linear warm-up.
        weight_decay: of AdamW, whose decay is decoupled. The paper says Adam with weight decay.
        dropout: of the model.
        label_smoothing: what a class gives up to all of them.
        mixup: the alpha of MixUp; 0 for none.
        num_frames: of a clip.
        fps: frames a second of a clip.
        horizontal_flip: whether clips may be mirrored, where left and right mean nothing.
        model: other fields of the configuration.
        batch_size: clips of an optimizer step, of all devices together.
        steps, warmup_steps: optimizer steps.
        rand_augment_layers, rand_augment_magnitude: of RandAugment.
    """

    preset: str
    learning_rate: float
    weight_decay: float
    num_frames: int
    fps: float
    dropout: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    horizontal_flip: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 256
    steps: int = 300_000
    warmup_steps: int = 10_000
    rand_augment_layers: int = 2
    rand_augment_magnitude: int = 10

    def make_config(self, **kwargs: Any) -> TubeViTConfig:
        """Configuration of a model that is trained from scratch; `kwargs` override."""
        settings = {"num_frames": self.num_frames, "hidden_dropout_prob": self.dropout, **self.model, **kwargs}
        return TubeViTConfig.from_preset(self.preset, **settings)

    def accumulation_steps(self, clips_per_device: int, num_devices: int = 1) -> int:
        """How many batches make up the recipe's.

        Raises:
            ValueError: no whole number does.
        """
        together = clips_per_device * num_devices
        if together < 1 or self.batch_size % together:
            raise ValueError(
                f"The recipe's batch of {self.batch_size} clips is no multiple of {clips_per_device} on each of "
                f"{num_devices} device(s). Choose `per_device_train_batch_size` such that it is, or give "
                "`gradient_accumulation_steps`."
            )
        return self.batch_size // together

    def training_arguments(self) -> dict[str, Any]:
        """What the recipe says of `TrainingArguments`."""
        return {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "lr_scheduler_type": "cosine",
            "warmup_steps": self.warmup_steps,
            "max_steps": self.steps,
            "label_smoothing_factor": self.label_smoothing,
        }

    def clip_arguments(self) -> dict[str, Any]:
        """What the recipe says of clips, by the names of [`TrainingClip`]'s and [`VideoTrainer`]'s arguments."""
        return {
            "num_frames": self.num_frames,
            "fps": self.fps,
            "random_crop": True,
            "horizontal_flip": self.horizontal_flip,
            "rand_augment": [self.rand_augment_layers, self.rand_augment_magnitude],
            "mixup": self.mixup,
            "dropout": self.dropout,
        }


def make_recipes() -> dict[str, Recipe]:
    recipes = {}
    for size in ("b", "l", "h"):
        weight_decay = 1e-3 if size == "b" else 1e-5
        for dataset in ("k400", "k600", "k700"):
            learning_rate = 5e-5 if size == "b" else 1e-5
            recipes[f"{dataset}-{size}"] = Recipe(size, learning_rate, weight_decay, num_frames=64, fps=15)
        # "pushing from left to right" is another class than "from right to left"
        recipes[f"ssv2-{size}"] = Recipe(
            *(size, 2e-5, weight_decay),
            num_frames=32,
            fps=24,
            dropout=0.3,
            label_smoothing=0.3,
            mixup=0.3,
            horizontal_flip=False,
        )
        charades = Recipe(
            *(size, 1e-3, weight_decay),
            num_frames=128,
            fps=6,
            dropout=0.2,
            label_smoothing=0.1,
            batch_size=64,
        )
        recipes[f"charades-{size}"] = charades
        recipes[f"charades-{size}-interpolated"] = replace(
            charades, model={"tubes": INTERPOLATED_TUBES, "tube_kernels": "interpolated"}
        )
    return recipes


RECIPES = make_recipes()
