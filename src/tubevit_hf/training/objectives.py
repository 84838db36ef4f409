# SPDX-License-Identifier: Apache-2.0
"""What a student learns from clips without labels: features of a teacher, its logits, or hidden pixels.

Each objective makes targets of clips, measures their statistics once before the training, and says how far a student
is from them: by the loss, and by the squared error beside that of a baseline, which predicts the mean target of the
training clips and sees nothing of the clip.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.nn.functional import kl_div, log_softmax, softmax
from transformers.utils import ModelOutput

from ..model.pretraining_tubevit import pixel_targets
from ..model.tubes_tubevit import Size, Tube, as_size
from .teachers import FeatureTeacher, LogitTeacher
from .tube_masks import draw_tube_mask
from .tube_targets import tube_targets


# size of a hidden cuboid, as a share of the clip's: 16 of 32 frames, and 64 of 224 pixels
BLOCK = (1 / 2, 2 / 7, 2 / 7)
# smallest standard deviation of a feature, as a share of that of all, by which it is divided
LEAST_SCALE = 1e-3


class Batch(NamedTuple):
    """What a student is run on.

    Args:
        inputs: of its `forward`, by name.
        targets: what its output is held against.
    """

    inputs: dict[str, Any]
    targets: torch.Tensor


class Mask:
    """Hides a share of the volume of a clip from the student, which predicts what lies in it.

    Args:
        tubes: of the student.
        size: of its clips, in frames and pixels.
        ratio: share of the volume that is hidden; 0 for nothing: then all tokens are seen, and all are predicted.
    """

    def __init__(self, tubes: tuple[Tube, ...], size: Size, ratio: float):
        if not 0 <= ratio < 1:
            raise ValueError(f"`mask_ratio` must be from 0 to below 1, got {ratio}.")
        self.tubes, self.size, self.ratio = tubes, size, ratio
        self.block = as_size(max(1, round(share * length)) for share, length in zip(BLOCK, size))

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """`visible_tokens` and `target_tokens` of a student's `forward`; none where nothing is hidden."""
        if not self.ratio:
            return {}
        mask = draw_tube_mask(self.tubes, self.size, self.ratio, generator, self.block)
        return {"visible_tokens": mask.visible, "target_tokens": mask.target}


class Objective(ABC):
    """What a student learns.

    Args:
        teacher: frozen, or `None` where there is none.
        mask: what is hidden, or `None` where a student sees all and predicts no token.
    """

    # of a target, whose errors are told apart
    parts: tuple[str, ...]

    def __init__(self, teacher: FeatureTeacher | LogitTeacher | None, mask: Mask | None):
        self.teacher, self.mask = teacher, mask
        # of the training clips' targets, see `fit`
        self.statistics: dict[str, torch.Tensor] = {}

    @abstractmethod
    def make_targets(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the teacher says of clips, a row each. It depends on the clips alone, and can be kept."""

    @abstractmethod
    def fit(self, targets: Iterable[torch.Tensor]) -> None:
        """Measures the statistics of targets that `make_targets` gave, batch by batch."""

    @abstractmethod
    def prepare(self, pixel_values: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator) -> Batch:
        """What the student is run on.

        Args:
            pixel_values: `(batch, num_frames, channels, height, width)`.
            targets: of these clips, where they are known already.
            generator: draws what is hidden.
        """

    def loss(self, outputs: ModelOutput, targets: torch.Tensor) -> torch.Tensor:
        """Of a student's output, the mean over the batch."""
        return outputs["loss"]

    @abstractmethod
    def errors(self, outputs: ModelOutput, batch: Batch) -> torch.Tensor:
        """Errors of the student and of the baseline, `(batch, parts, 2)`."""


def select_targets(targets: torch.Tensor, inputs: dict[str, Any], axis: int) -> torch.Tensor:
    """Of targets of all tokens, along an axis, those that are predicted."""
    chosen = inputs.get("target_tokens")
    return targets if chosen is None else targets.index_select(axis, chosen.to(targets.device))


class FeatureObjective(Objective):
    """Each token predicts a teacher's features over its own place and time: their mean, and their change until the
    next token of its tube begins, see [`tube_targets`].

    Features are standardised: from the mean over all training clips and tokens, in units of the standard deviation,
    channel by channel; changes in units of their root mean square over tokens that have any. So the mean and the
    change, which is far smaller, count alike.

    Args:
        teacher: frozen.
        tubes: of the student.
        size: of its clips, in frames and pixels.
        mask: what is hidden.
    """

    parts = ("mean", "change")

    def __init__(self, teacher: FeatureTeacher, tubes: tuple[Tube, ...], size: Size, mask: Mask):
        super().__init__(teacher, mask)
        self.tubes, self.size, self.positions, self.grid = tubes, size, teacher.positions, teacher.grid
        self.num_features, self.hide = teacher.num_features, mask.draw
        self.ask: Callable[[torch.Tensor], torch.Tensor] = teacher

    @property
    def target_size(self) -> int:
        """Values that a token predicts after each layer."""
        return 2 * self.num_features

    def make_targets(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, layers, 2 * features)`, not standardised."""
        height = self.size[1] / self.grid[1]
        width = self.size[2] / self.grid[2]
        states = self.ask(pixel_values)
        of_layers = [
            tube_targets(states[:, layer], self.positions, (height, width), self.tubes, self.size)
            for layer in range(states.shape[1])
        ]
        return torch.stack(of_layers, dim=2)

    def fit(self, targets: Iterable[torch.Tensor]) -> None:
        total = squares = torch.zeros(1, dtype=torch.float64)
        number = 0
        for batch in targets:
            batch = batch.cpu().double()
            total, number = total + batch.sum(0), number + len(batch)
            squares = squares + batch.square().sum(0)
        half = self.num_features
        # (tokens, layers, 2 * features)
        means, squares = total / number, squares / number
        # some tokens have none, such as those of the clip's last frame alone
        changes = squares[..., half:].flatten(1).sum(1) > 0
        center, scale = means.mean(0), torch.empty_like(means[0])
        center[:, half:] = 0
        scale[:, :half] = (squares.mean(0) - center.square())[:, :half]
        scale[:, half:] = squares[..., half:].sum(0) / changes.sum().clamp_min(1)
        scale = scale.clamp_min(0).sqrt()
        for part in (scale[:, :half], scale[:, half:]):
            # channels that never change would be divided by rounding errors
            part.clamp_(min=max(LEAST_SCALE * float(part.square().mean().sqrt()), 1e-12))
        statistics = {"center": center, "scale": scale, "baseline": (means - center) / scale}
        self.statistics = {name: numbers.float() for name, numbers in statistics.items()} | {"changes": changes}

    def prepare(self, pixel_values: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator) -> Batch:
        inputs = self.hide(generator)
        targets = self.make_targets(pixel_values) if targets is None else targets
        targets = self.standardize(select_targets(targets.float(), inputs, 1))
        return Batch({"pixel_values": pixel_values, "targets": targets, **inputs}, targets)

    def standardize(self, targets: torch.Tensor) -> torch.Tensor:
        center, scale = (self.statistics[name].to(targets.device) for name in ("center", "scale"))
        return (targets - center) / scale

    def errors(self, outputs: ModelOutput, batch: Batch) -> torch.Tensor:
        targets = batch.targets
        baseline = select_targets(self.statistics["baseline"].to(targets.device), batch.inputs, 0)
        has_change = select_targets(self.statistics["changes"].to(targets.device), batch.inputs, 0)
        half = self.num_features
        both = []
        for predictions in (outputs["predictions"].float(), baseline[None]):
            squares = (predictions - targets).square()
            mean = squares[..., :half].flatten(1).mean(1)
            # a mask may hide no token that has one
            changes = squares[:, has_change][..., half:].flatten(1)
            change = changes.sum(1) / max(1, changes.shape[1])
            both.append(torch.stack([mean, change], dim=1))
        return torch.stack(both, dim=2)


class LogitObjective(Objective):
    """The student's classifier gives the teacher's probabilities: Kullback-Leibler divergence at a temperature, times
    its square, so that gradients do not shrink with it.

    Args:
        teacher: frozen.
        temperature: by which logits are divided; above 1 the teacher's small probabilities count more.
    """

    parts = ("logits",)

    def __init__(self, teacher: LogitTeacher, temperature: float):
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0, got {temperature}.")
        super().__init__(teacher, None)
        self.ask: Callable[[torch.Tensor], torch.Tensor] = teacher
        self.temperature = temperature

    def make_targets(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, classes)`."""
        return self.ask(pixel_values)

    def fit(self, targets: Iterable[torch.Tensor]) -> None:
        probabilities = [softmax(batch.cpu().double() / self.temperature, dim=1) for batch in targets]
        self.statistics = {"baseline": torch.cat(probabilities).mean(0).float()}

    def prepare(self, pixel_values: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator) -> Batch:
        targets = self.make_targets(pixel_values) if targets is None else targets
        return Batch({"pixel_values": pixel_values}, targets.float())

    def loss(self, outputs: ModelOutput, targets: torch.Tensor) -> torch.Tensor:
        return self.divergences(log_softmax(outputs["logits"].float() / self.temperature, dim=1), targets).mean()

    def errors(self, outputs: ModelOutput, batch: Batch) -> torch.Tensor:
        student = log_softmax(outputs["logits"].float() / self.temperature, dim=1)
        baseline = self.statistics["baseline"].to(student.device).log().expand_as(student)
        both = [self.divergences(logs, batch.targets) for logs in (student, baseline)]
        return torch.stack(both, dim=1)[:, None]

    def divergences(self, log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of each clip, `(batch,)`."""
        wanted = log_softmax(targets / self.temperature, dim=1)
        found = kl_div(log_probabilities, wanted, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * found


class PixelObjective(Objective):
    """Hidden tokens predict their own pixels, as masked autoencoders do.

    Args:
        tubes: of the student.
        pixel_size: `[t, h, w]` that a token's pixels are averaged to.
        mask: what is hidden.
    """

    parts = ("pixels",)

    def __init__(self, tubes: tuple[Tube, ...], pixel_size: list[int], mask: Mask):
        super().__init__(None, mask)
        self.tubes, self.pixel_size, self.hide = tubes, pixel_size, mask.draw

    def make_targets(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, values)`."""
        return pixel_targets(pixel_values, self.tubes, self.pixel_size)

    def fit(self, targets: Iterable[torch.Tensor]) -> None:
        means = [batch.cpu().double().mean(1) for batch in targets]
        self.statistics = {"baseline": torch.cat(means).mean(0).float()}

    def prepare(self, pixel_values: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator) -> Batch:
        # the student computes its targets itself
        return Batch({"pixel_values": pixel_values, **self.hide(generator)}, pixel_values)

    def errors(self, outputs: ModelOutput, batch: Batch) -> torch.Tensor:
        targets = select_targets(self.make_targets(batch.targets), batch.inputs, 1)
        baseline = self.statistics["baseline"].to(targets.device)
        # (batch, tokens, 1 layer, values) -> (batch, tokens, values)
        predictions = outputs["predictions"].float().squeeze(2)
        both = [(found - targets).square().flatten(1).mean(1) for found in (predictions, baseline)]
        return torch.stack(both, dim=1)[:, None]


__all__ = ["Batch", "FeatureObjective", "LogitObjective", "Mask", "Objective", "PixelObjective"]
