"""Which sample goes to which rank and when: batch samplers over `sampling.EpochLayout`, and the loaders around them.

Called by `lr_find` and `train`. It must not pad, drop or repeat a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Sampler

from gpuplan_job.document import sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from gpuplan_job.data import Samples
    from gpuplan_job.sampling import EpochLayout

    Loader = DataLoader[tuple[torch.Tensor, int]]


def sample_count(data: Samples) -> int:
    """Return the number of samples of a map-style data set.

    Raises:
        TypeError: the data set has no length.
    """
    sized: Sized = data  # type: ignore[assignment] # torch declares no __len__, map-style data sets have one
    return len(sized)


def permutation(samples: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order [samples] of an epoch, a function of its arguments alone: every rank draws the same."""
    return torch.randperm(samples, generator=_generator(seed, "epoch", epoch))


class EpochBatches(Sampler[list[int]]):
    """Batch sampler of one rank: its micro-batches of the epoch set last, in order."""

    def __init__(self, layout: EpochLayout, seed: int, rank: int) -> None:
        self.layout = layout
        self.seed = seed
        self.rank = rank
        self.epoch = 0
        self.micro_batches = layout.micro_batches(rank)

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation that the next iteration draws from."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = permutation(self.layout.samples, self.seed, self.epoch)
        for batch in self.micro_batches:
            yield order[batch.start : batch.stop].tolist()

    def __len__(self) -> int:
        return len(self.micro_batches)


class RankShard(Sampler[int]):
    """Sampler of rank r of N: positions r, r + N, r + 2 N, ... and nothing to make the ranks equal."""

    def __init__(self, samples: int, rank: int, world_size: int) -> None:
        self.positions = range(rank, samples, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


def training_loader(data: Samples, batches: EpochBatches, workers: int, device: torch.device) -> Loader:
    """Return the loader of a rank's training micro-batches; `batches.set_epoch` before each epoch."""
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # torch seeds each worker, Python's and NumPy's generators with it, from this one: ranks augment differently.
        generator=_generator(batches.seed, "rank", batches.rank),
    )


def validation_loader(data: Samples, shard: RankShard, batch: int, workers: int, device: torch.device) -> Loader:
    """Return the loader of a rank's share of the validation set, `batch` samples at a time."""
    return DataLoader(
        data,
        batch_size=batch,
        sampler=shard,
        num_workers=workers,
        # Kept between epochs they would double the processes, and their memory, while the training goes on.
        persistent_workers=False,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    # A digest keeps neighbouring numbers and other purposes from sharing a stream.
    return torch.Generator().manual_seed(int(sha256_hex(f"{seed}/{purpose}/{number}")[:15], 16))
