"""How an epoch is cut into optimizer steps, micro-batches and ranks: each training sample once, none padded.

The client counts steps with it and the job draws batches with it, so the two agree by construction. Standard library
only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochLayout:
    """The cut of `samples` positions of a shuffled epoch.

    A step takes `per_gpu * world_size * accumulation` positions. The last, ragged step is split as evenly as possible,
    so ranks differ by at most one sample; if it cannot give every rank two samples (BatchNorm needs two), it joins the
    step before.
    """

    samples: int
    per_gpu: int
    world_size: int
    accumulation: int

    def __post_init__(self) -> None:
        """Refuse a layout that has no full step or no positive size."""
        if min(self.samples, self.per_gpu, self.world_size, self.accumulation) < 1:
            raise ValueError("samples, per_gpu, world_size and accumulation must be at least 1")
        if self.samples < self.global_batch:
            raise ValueError(f"{self.samples} samples do not fill one global batch of {self.global_batch}")

    @property
    def global_batch(self) -> int:
        """Samples in a full optimizer step."""
        return self.per_gpu * self.world_size * self.accumulation

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        full, rest = divmod(self.samples, self.global_batch)
        return full + (1 if rest >= self._least_step else 0)

    @property
    def _least_step(self) -> int:
        """Samples below which a ragged step is not worth a step: two a rank, or one where per_gpu is one."""
        return min(2, self.per_gpu) * self.world_size

    def micro_batches(self, rank: int) -> list[MicroBatch]:
        """Return the micro-batches of one rank in order, `accumulation` for each full step.

        The same call on every rank yields lists of equal length whose positions together cover 0 .. samples - 1 once.
        """
        result: list[MicroBatch] = []
        for step in range(self.steps):
            start = step * self.global_batch
            stop = self.samples if step == self.steps - 1 else start + self.global_batch
            result.extend(self._cut_step(rank, start, stop))
        return result

    def micro_batches_before(self, step: int) -> int:
        """Return how many of a rank's micro-batches lie before an optimizer step of the epoch; ranks have as many."""
        if step < self.steps:
            return step * self.accumulation
        last = self.steps - 1
        return last * self.accumulation + len(self._cut_step(0, last * self.global_batch, self.samples))

    def _cut_step(self, rank: int, start: int, stop: int) -> list[MicroBatch]:
        size = stop - start
        # A ragged step uses only as many micro-batches as it can fill.
        filled = -(-size // (self.per_gpu * self.world_size))
        parts = max(1, min(self.accumulation, filled, size // self._least_step))
        cells = parts * self.world_size
        result = []
        for part in range(parts):
            cell = part * self.world_size + rank
            low, high = start + size * cell // cells, start + size * (cell + 1) // cells
            result.append(MicroBatch(low, high, size, last_of_step=part == parts - 1))
        return result


@dataclass(frozen=True)
class MicroBatch:
    """Positions `start .. stop - 1` of a shuffled epoch, for one rank; `step_samples` in the whole optimizer step."""

    start: int
    stop: int
    step_samples: int
    last_of_step: bool
