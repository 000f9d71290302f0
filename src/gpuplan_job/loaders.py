"""Which sample goes to which rank and when: batch samplers over `sampling.EpochLayout`, and the loaders around them.

Called by `lr_find` and `train`. It must not pad, drop or repeat a sample; what it brings, and what a step draws at
random, depends on seed, epoch and step alone, not on what was drawn before, so that a training can go on at any step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

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
        self.start_step = 0
        """Optimizer step of the epoch at which iterations begin."""

    def set_epoch(self, epoch: int, start_step: int | None = None) -> None:
        """Choose the cut and the permutation that the next iteration draws from; past the last epoch its cut stays.

        It begins at `start_step`; without one a new epoch at its beginning, and the same epoch where it began before.
        """
        if start_step is not None or epoch != self.epoch:
            self.start_step = start_step or 0
        self.epoch = epoch
        layout = self.training.epochs[min(epoch, len(self.training.epochs) - 1)]
        if layout != self.layout:
            self.layout, self.micro_batches = layout, layout.micro_batches(self.rank)

    def __iter__(self) -> Iterator[Draw]:
        order = permutation(self.layout.samples, self.seed, self.epoch)
        for batch in self.micro_batches[self.layout.micro_batches_before(self.start_step) :]:
            seed = runtime.derived_seed(self.seed, "prepare", self.epoch, batch.start)
            yield Draw(order[batch.start : batch.stop].tolist(), seed)

    def __len__(self) -> int:
        return len(self.micro_batches)


class _Prepared(Dataset[Any]):
    """A data set whose augmentation follows the draw, whichever process loads it and whatever it loaded before."""

    def __init__(self, data: Samples, collate: Callable[[list[Any]], Any] | None) -> None:
        self.data = data
        self.collate = collate or default_collate

    def __getitems__(self, draw: Draw) -> Any:  # noqa: ANN401 - a batch is what its collate makes
        with runtime.seeded(draw.seed):
            # Samples may be mixed at random while they are put together.
            return self.collate([self.data[index] for index in draw])

    def __len__(self) -> int:
        return sample_count(self.data)


class _DrawingLoader(DataLoader[Any]):
    """A loader that sets the random streams of a step, for dropout and whatever else draws, as it hands out its data.

    Here and in no hook: a module may draw at random while it moves a batch to its device, and after a step.
    """

    def __iter__(self) -> Any:  # noqa: ANN401 - PyTorch's iterator and ours have no common type
        return _drawing(super().__iter__(), cast("EpochBatches", self.batch_sampler))


def _drawing(loaded: Iterator[Any], batches: EpochBatches) -> Iterator[Any]:
    step, begins = batches.start_step, True
    cuts = batches.micro_batches[batches.layout.micro_batches_before(step) :]
    for cut, batch in zip(cuts, loaded, strict=True):
        if begins:
            # Ranks draw apart: dropout must not repeat on each.
            runtime.reseed(runtime.derived_seed(batches.seed, "draw", batches.epoch, step, batches.rank))
        begins = cut.last_of_step
        step += begins
        yield batch


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401 - a batch is what its collate makes
    return batch


class RankShard(Sampler[int]):
    """Sampler of rank r of N: positions r, r + N, r + 2 N, ... and nothing to make the ranks equal."""

    def __init__(self, samples: int, rank: int, world_size: int) -> None:
        self.positions = range(rank, samples, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


def training_loader(
    data: DataSets, batches: EpochBatches, workers: int, device: torch.device, *, sets_draws: bool = False
) -> Loader:
    """Return the loader of a rank's training micro-batches; `batches.set_epoch` before each epoch.

    One that `sets_draws` also sets this process's random streams, at each optimizer step.
    """
    kind = _DrawingLoader if sets_draws else DataLoader
    return kind(
        _Prepared(data.train, data.train_collate),
        batch_sampler=batches,
        collate_fn=_as_it_is,
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
