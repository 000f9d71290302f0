"""The global batch over the epochs of a training: constant, or growing by accumulation; and the steps that it makes.

The client counts steps with it and the job draws batches with it. Standard library only. The per-GPU batch never
changes: what grows is how many micro-batches make an optimizer step.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from gpuplan_job.contract import BatchSchedule, BatchSpec


def accumulations(schedule: BatchSchedule, accumulation: int, epochs: int) -> list[int]:
    """Return the micro-batches of an optimizer step in each epoch, from 1 up to `accumulation` where the batch grows.

    With e = 0 .. E - 1 and the last epoch at the full batch: linear 1 + (A - 1) e / (E - 1), exponential A^(e / (E -
    1)), rounded (Smith et al. 2018, arXiv 1711.00489, grow the batch where others lower the learning rate).
    """
    if schedule == "constant" or epochs == 1:
        return [accumulation] * epochs
    shares = [epoch / (epochs - 1) for epoch in range(epochs)]
    if schedule == "linear":
        return [round(1 + (accumulation - 1) * share) for share in shares]
    return [round(accumulation**share) for share in shares]


@dataclass(frozen=True)
class TrainingLayout:
    """The cuts of all epochs of a training."""

    epochs: tuple[EpochLayout, ...]

    @classmethod
    def of(cls, samples: int, batch: BatchSpec, schedule: BatchSchedule, epochs: int, parts: int = 1) -> TrainingLayout:
        """Return the layout of a training over `samples` samples; each planned micro-batch is taken in `parts`.

        Raises:
            ValueError: the samples do not fill one global batch.
        """
        cut = [
            EpochLayout(
                samples,
                batch.per_gpu // parts,
                batch.world_size,
                accumulation * parts,
                planned_per_gpu=batch.per_gpu if parts > 1 else None,
            )
            for accumulation in accumulations(schedule, batch.accumulation, epochs)
        ]
        return cls(tuple(cut))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Optimizer steps before each epoch, and after the last."""
        return tuple(accumulate((layout.steps for layout in self.epochs), initial=0))

    @property
    def steps(self) -> int:
        """Optimizer steps of the training."""
        return self.starts[-1]

    def epoch_of(self, step: int) -> int:
        """Return the epoch, counted from 0, of an optimizer step; of those after the last, the last."""
        return min(bisect_right(self.starts, step), len(self.epochs)) - 1

    @property
    def grows(self) -> bool:
        """Whether epochs differ."""
        return len({layout.accumulation for layout in self.epochs}) > 1
