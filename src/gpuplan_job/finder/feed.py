"""Feeds sweeps from anyone's loader: the micro-batches of one optimizer step after the other, in an order by seed.

Called by `finder.search`. It must not draw from the loader but through its iterator.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from gpuplan_job import runtime
from gpuplan_job.finder.errors import FindLrError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


def samples_in(batch: object) -> int | None:
    """Return how many samples a batch holds: the length of the first tensor in it, None where there is none."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.dim() else None
    items: Iterable[object] = ()
    if isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        items = batch
    return next((size for item in items if (size := samples_in(item)) is not None), None)


def loader_of(data: object) -> Iterable[Any]:
    """Return the loader of training batches in what a user handed over: a Lightning data module, or the loader itself.

    Raises:
        FindLrError: it can be iterated only once, or not at all.
    """
    if hasattr(data, "train_dataloader"):
        for name, arguments in (("prepare_data", ()), ("setup", ("fit",))):
            getattr(data, name, lambda *_: None)(*arguments)
        data = data.train_dataloader()
    if isinstance(data, Iterator):
        raise FindLrError(
            "the data can be iterated only once, and every sweep starts anew",
            "pass the DataLoader, or a list of batches, in place of an iterator",
        )
    several = data.values() if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else ()
    if any(isinstance(item, DataLoader) for item in several):
        raise FindLrError("there are several training loaders", "pass the one whose batches the step takes")
    if not hasattr(data, "__iter__"):
        raise FindLrError(
            f"{type(data).__name__} holds no batches", "pass a DataLoader, a list of batches or a data module"
        )
    return data


@dataclass(frozen=True)
class Feed:
    """A loader with what one optimizer step takes from it."""

    loader: Iterable[Any]
    batch_size: int
    """Samples of a full micro-batch."""

    @property
    def batches(self) -> int | None:
        """Micro-batches of an epoch; None where the loader does not know."""
        with suppress(TypeError, NotImplementedError):
            return len(self.loader)  # type: ignore[arg-type] # asked for forgiveness
        return None

    def steps(self, accumulation: int, seed: int) -> Generator[list[Any]]:
        """Yield the micro-batches of one optimizer step after the other, epoch after epoch, without end.

        Ragged ends of an epoch are left out where it has a full step: their losses scatter more than their neighbours'.

        Raises:
            FindLrError: the loader gave nothing.
        """
        epoch = 0
        while True:
            full = False
            step: list[Any] = []
            for batch in self._epoch(seed, epoch):
                step.append(batch)
                if len(step) == accumulation:
                    full = True
                    yield step
                    step = []
            if not full:
                if not step:
                    raise FindLrError(
                        "the loader gave no full batch", "check its data set, its batch size and drop_last"
                    )
                yield step
            epoch += 1

    def full_batches(self, seed: int) -> Iterator[Any]:
        """Yield the full micro-batches of one epoch."""
        return (batch for batch in self._epoch(seed, 0) if samples_in(batch) == self.batch_size)

    def _epoch(self, seed: int, epoch: int) -> Iterator[Any]:
        drawn = runtime.derived_seed(seed, "epoch", epoch) % 2**31
        for sampler in (getattr(self.loader, "sampler", None), getattr(self._batch_sampler, "sampler", None)):
            if sampler is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(drawn)
        order: Iterable[Any] = self.loader
        if isinstance(self.loader, list | tuple):
            order = random.Random(drawn).sample(self.loader, len(self.loader))  # noqa: S311 - an order of batches
        # Only a loader that states its batch size has a ragged last batch; others vary on purpose.
        ragged = isinstance(getattr(self.loader, "batch_size", None), int) and (self.batches or 2) > 1
        for batch in order:
            if not (ragged and (samples_in(batch) or self.batch_size) < self.batch_size):
                yield batch

    @property
    def _batch_sampler(self) -> object:
        return getattr(self.loader, "batch_sampler", None)
