# SPDX-License-Identifier: Apache-2.0
"""Which rows make the batches of an epoch: of one dataset, or of several that are trained jointly.

The order depends on the seed and the epoch alone, so that a run that is resumed goes on where it was, and any number
of processes sees what a single one would see. Each pass over the batches is the next epoch, unless `set_epoch` says
otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler


class ShuffledBatches(Sampler[list[int]]):
    """Batches of an epoch in random order, dealt out to processes; every row comes once.

    The last batch is smaller; the rows that are too few to give each process one make the batch before larger.

    Args:
        num_rows: of the dataset.
        batch_size: rows of a batch on one process.
        seed: of the order.
        process_index, num_processes: which of how many processes asks.
        drop_last: whether the rows that do not fill a batch of all processes are left out; other rows in each epoch.

    Raises:
        ValueError: the rows are too few for the processes or, with `drop_last`, for a batch of all of them.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self.process_index, self.num_processes, self.drop_last = process_index, num_processes, drop_last
        self.epoch = 0
        if num_rows < num_processes:
            raise ValueError(f"{num_rows} row(s) are too few for {num_processes} processes.")
        together = batch_size * num_processes
        self.num_batches = count_batches(num_rows, together, drop_last)
        if not drop_last and self.num_batches > 1 and num_rows - (self.num_batches - 1) * together < num_processes:
            self.num_batches -= 1

    def __len__(self) -> int:
        return self.num_batches

    def draw(self, generator: torch.Generator) -> list[Any]:
        """The rows of an epoch, in order."""
        return torch.randperm(self.num_rows, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[Any]]:
        order = self.draw(make_generator(self.seed, self.epoch))
        self.epoch += 1
        together = self.batch_size * self.num_processes
        for number in range(self.num_batches):
            is_rest = number == self.num_batches - 1 and not self.drop_last
            end = None if is_rest else (number + 1) * together
            yield order[number * together : end][self.process_index :: self.num_processes]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class BalancedBatches(ShuffledBatches):
    """As [`ShuffledBatches`], but an epoch has as many rows of each class, one more or less, and as many in all as the
    dataset.

    Of a large class an epoch has some of the rows, others in the next; those of a small one come several times, as
    `(row, repeat)`, of which a [`ClipDataset`] makes another clip each time.

    Args:
        labels: class of each row.
        batch_size, seed, process_index, num_processes, drop_last: as of [`ShuffledBatches`].
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        super().__init__(len(labels), batch_size, seed, process_index, num_processes, drop_last)
        of_class: dict[int, list[int]] = {}
        for row, label in enumerate(labels):
            of_class.setdefault(label, []).append(row)
        self.classes = [of_class[label] for label in sorted(of_class)]

    def draw(self, generator: torch.Generator) -> list[tuple[int, int]]:
        share, rest = divmod(self.num_rows, len(self.classes))
        # the classes that get one more are others in each epoch
        places = torch.randperm(len(self.classes), generator=generator).tolist()
        drawn: list[tuple[int, int]] = []
        for rows, place in zip(self.classes, places):
            endless = shuffle_forever(len(rows), generator)
            for number in range(share + (place < rest)):
                drawn.append((rows[next(endless)], number // len(rows)))
        return [drawn[index] for index in torch.randperm(len(drawn), generator=generator).tolist()]


class JointDataset(Dataset[dict[str, Any]]):
    """Datasets that have names; a row is named by dataset and index.

    Args:
        datasets: each a [`ClipDataset`] with a `name`, or a `Subset` or `ConcatDataset` of such.

    Raises:
        ValueError: a dataset has no name, or that of another one.
    """

    def __init__(self, datasets: Sequence[Dataset[dict[str, Any]]]):
        self.datasets: dict[str, Any] = {}
        for dataset in datasets:
            names = {getattr(part, "name", None) for part in list_parts(dataset)}
            name = names.pop() if len(names) == 1 else None
            if name is None:
                raise ValueError("each of the joint datasets needs a `name`: that of the head that classifies it.")
            if name in self.datasets:
                raise ValueError(f"two of the joint datasets have the name {name!r}: put them into a `ConcatDataset`.")
            self.datasets[name] = dataset

    def __len__(self) -> int:
        return sum(map(len, self.datasets.values()))

    def __getitem__(self, index: tuple[str, int]) -> dict[str, Any]:
        if not isinstance(index, tuple):
            raise ValueError(
                f"a row of a JointDataset is a name and a number, got {index!r}: `JointBatches` make such, and one by "
                "one the datasets are in `datasets`."
            )
        name, row = index
        return self.datasets[name][row]

    def set_epoch(self, epoch: int | None) -> None:
        for dataset in self.datasets.values():
            set_epoch(dataset, epoch)


class JointBatches(Sampler[list[tuple[str, int]]]):
    """Batches of rows of a [`JointDataset`], each of one dataset, drawn by weight.

    A dataset is gone through in random order, and again in another one when it is at its end. An epoch has as many
    batches as the datasets' rows make. At each step all processes have the same dataset, and so train the same head.

    Args:
        lengths: number of rows of each dataset.
        weights: share of batches of each dataset, up to a factor.
        batch_size, seed, process_index, num_processes: as of [`ShuffledBatches`].
        drop_last: whether an epoch has no batch for the rows that do not fill one of all processes.

    Raises:
        ValueError: the weights are not of the same datasets or not positive; or, with `drop_last`, there is no batch.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        weights: Mapping[str, float],
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        if lengths.keys() != weights.keys() or min(weights.values()) <= 0:
            raise ValueError(f"`weights` must give each of {', '.join(lengths)} a share above 0, got {dict(weights)}.")
        self.lengths, self.weights, self.batch_size, self.seed = dict(lengths), dict(weights), batch_size, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.num_batches = count_batches(sum(lengths.values()), batch_size * num_processes, drop_last)
        self.epoch = 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[str, int]]]:
        generator = make_generator(self.seed, self.epoch)
        self.epoch += 1
        names = list(self.lengths)
        weights = torch.tensor([self.weights[name] for name in names], dtype=torch.float64)
        rows = {name: shuffle_forever(length, generator) for name, length in self.lengths.items()}
        # every process draws the batches of all, and keeps its own
        for _ in range(len(self)):
            name = names[int(torch.multinomial(weights, 1, generator=generator))]
            together = [(name, next(rows[name])) for _ in range(self.batch_size * self.num_processes)]
            yield together[self.process_index :: self.num_processes]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def list_parts(dataset: object) -> list[Any]:
    """The datasets that one is made of, however deep: of a [`JointDataset`], of datasets by name, and of what holds
    others as its `dataset` or `datasets`, as PyTorch's `Subset` and `ConcatDataset` do."""
    inner = dataset if isinstance(dataset, Mapping) else getattr(dataset, "datasets", None)
    if inner is None:
        return list_parts(dataset.dataset) if hasattr(dataset, "dataset") else [dataset]
    return [part for one in (inner.values() if isinstance(inner, Mapping) else inner) for part in list_parts(one)]


def set_epoch(dataset: object, epoch: int | None) -> None:
    """Tells a dataset and all its parts which epoch it is, if they ask for it."""
    for part in (dataset, *list_parts(dataset)):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


def count_batches(num_rows: int, batch_size: int, drop_last: bool) -> int:
    if drop_last and num_rows < batch_size:
        raise ValueError(
            f"{num_rows} row(s) are too few for a batch of {batch_size}, and `drop_last` (`dataloader_drop_last`) "
            "leaves none: choose a smaller batch."
        )
    return num_rows // batch_size if drop_last else ceil(num_rows / batch_size)


def make_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def shuffle_forever(length: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(length, generator=generator).tolist()
