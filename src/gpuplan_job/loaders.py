"""Which sample goes to which rank and when: batch samplers over `sampling.EpochLayout`, and the loaders around them.

Called by `lr_find` and `train`. It must not pad, drop or repeat a sample; what it brings depends on seed and epoch
alone, not on what was drawn before, so that a training can go on at any epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gpuplan_job import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sized

    from gpuplan_job.batch_growth import TrainingLayout
    from gpuplan_job.data import Samples

    Loader = DataLoader[Any]


class DataSets(NamedTuple):
    """Training and validation samples, map-style, each with what makes a batch of them: None for PyTorch's own."""

    train: Samples
    val: Samples
    train_collate: Callable[[list[Any]], Any] | None = None
    val_collate: Callable[[list[Any]], Any] | None = None


def sample_count(data: Samples) -> int:
    """Return the number of samples of a map-style data set.

    Raises:
        TypeError: the data set has no length.
    """
    sized: Sized = data  # type: ignore[assignment] # torch declares no __len__, map-style data sets have one
    return len(sized)


def permutation(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order [samples] of an epoch, a function of its arguments alone: every rank draws the same."""
    generator = torch.Generator().manual_seed(runtime.derived_seed(seed, "epoch", epoch))
    return torch.randperm(samples, generator=generator)


class Draw(list[int]):
    """A micro-batch to load: its samples in order, with the seed of what is random in preparing them."""

    def __init__(self, indices: Iterable[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed


class EpochBatches(Sampler[list[int]]):
    """Batch sampler of one rank: its micro-batches of the epoch set last, in order."""

    def __init__(self, training: TrainingLayout, seed: int, rank: int) -> None:
        self.training = training
        self.seed = seed
        self.rank = rank
        self.epoch = 0
        self.layout = training.epochs[0]
        """Of the epoch."""
        self.micro_batches = self.layout.micro_batches(rank)

    def set_epoch(self, epoch: int) -> None:
        """Choose the cut and the permutation that the next iteration draws from; past the last epoch its cut stays."""
        self.epoch = epoch
        layout = self.training.epochs[min(epoch, len(self.training.epochs) - 1)]
        if layout != self.layout:
            self.layout, self.micro_batches = layout, layout.micro_batches(self.rank)

    def __iter__(self) -> Iterator[Draw]:
        order = permutation(self.layout.samples, self.seed, self.epoch)
        for batch in self.micro_batches:
            seed = runtime.derived_seed(self.seed, "prepare", self.epoch, batch.start)
            yield Draw(order[batch.start : batch.stop].tolist(), seed)

    def __len__(self) -> int:
        return len(self.micro_batches)


class _Prepared(Dataset[tuple[Tensor, int]]):
    """A data set whose augmentation follows the draw, whichever process loads it and whatever it loaded before."""

    def __init__(self, data: Samples) -> None:
        self.data = data

    def __getitems__(self, draw: Draw) -> list[tuple[Tensor, int]]:
        with runtime.seeded(draw.seed):
            return [self.data[index] for index in draw]

    def __len__(self) -> int:
        return sample_count(self.data)


class RankShard(Sampler[int]):
    """Sampler of rank r of N: positions r, r + N, r + 2 N, ... and nothing to make the ranks equal."""

    def __init__(self, samples: int, rank: int, world_size: int) -> None:
        self.samples = samples
        self.positions = range(rank, samples, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


def training_loader(data: DataSets, batches: EpochBatches, workers: int, device: torch.device) -> Loader:
    """Return the loader of a rank's training micro-batches; `batches.set_epoch` before each epoch."""
    return DataLoader(
        _Prepared(data.train),
        batch_sampler=batches,
        collate_fn=data.train_collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # Of its own, so that starting an epoch draws nothing from the generator that dropout draws from.
        generator=torch.Generator().manual_seed(0),
    )


def validation_loader(data: DataSets, shard: RankShard, batch: int, workers: int, device: torch.device) -> Loader:
    """Return the loader of a rank's share of the validation set, `batch` samples at a time."""
    return DataLoader(
        data.val,
        collate_fn=data.val_collate,
        batch_size=batch,
        sampler=shard,
        num_workers=workers,
        # Kept between epochs they would double the processes, and their memory, while the training goes on.
        persistent_workers=False,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )
