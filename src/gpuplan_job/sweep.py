"""Single sweeps of a workload on one device.

Called by `lr_find` with a learner of fresh weights; the loop itself is `climb`. It must not smooth, judge or store the
curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan_job import optim
from gpuplan_job.climb import Climb, Subject
from gpuplan_job.finder.feed import samples_in
from gpuplan_job.learner import Batch, Learner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import torch
    from torch import Tensor

    from gpuplan_job.contract import Curve, SweepSpec
    from gpuplan_job.pace import Pace


@dataclass(frozen=True)
class Sweeper:
    """Runs single sweeps of one workload on one device."""

    spec: SweepSpec
    pace: Pace

    def learning_rate(self, index: int) -> float:
        """Return the LR of optimizer step `index`."""
        return Climb(self.spec, self.pace).learning_rate(index)

    def sweep(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        steps: Iterable[Sequence[Batch]],
        seed: int,
    ) -> Curve:
        """Train the learner's network in place and return the curve; an item of `steps` is the micro-batches of a step.

        A loss is the mean over all samples of the step. `optimizer` stands at `lr_min`; its parameter groups keep the
        ratios of their LRs.
        """
        shares = [group["lr"] / self.spec.lr_min for group in optimizer.param_groups]
        subject = _Workload(optimizer, scaler, shares, learner)
        with learner.attached(self.spec.reference_steps):
            return Climb(self.spec, self.pace).curve(subject, steps, seed)


class _Workload(Subject[Batch]):
    """The steps that the training will take."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        shares: Sequence[float],
        learner: Learner,
    ) -> None:
        super().__init__(optimizer, scaler, shares)
        self.learner = learner

    def losses(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Yield each micro-batch's share of the mean loss over the samples of the step."""
        sizes = [samples_in(batch) or 1 for batch in batches]
        for index, (batch, size) in enumerate(zip(batches, sizes, strict=True)):
            yield self.learner.loss(batch, index) * (size / sum(sizes))

    def gradients_ready(self) -> None:
        """Clip the gradient as the training will."""
        optim.clip(self.optimizer, self.scaler, self.learner.workload.clip_norm)
