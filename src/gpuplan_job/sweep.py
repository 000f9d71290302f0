"""Single sweeps of gpuplan's own workloads: a network that classifies, with the workload's loss and precision.

Called by `lr_find` with a fresh network; the loop itself is `climb`. It must not smooth, judge or store the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gpuplan_job import optim, runtime
from gpuplan_job.climb import Climb, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor, nn

    from gpuplan_job.contract import Curve, SweepSpec, WorkloadSpec
    from gpuplan_job.pace import Pace

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Sweeper:
    """Runs single sweeps of one workload on one device."""

    workload: WorkloadSpec
    spec: SweepSpec
    device: torch.device
    pace: Pace

    def learning_rate(self, index: int) -> float:
        """Return the LR of optimizer step `index`."""
        return Climb(self.spec, self.pace).learning_rate(index)

    def sweep(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        steps: Iterable[list[Batch]],
        seed: int,
    ) -> Curve:
        """Train `network` in place and return the curve; an item of `steps` holds the micro-batches of one step.

        A loss is the mean over all samples of the step. `optimizer` stands at `lr_min`; its parameter groups keep the
        ratios of their LRs.
        """
        network.train()
        shares = [group["lr"] / self.spec.lr_min for group in optimizer.param_groups]
        subject = _Classification(network, optimizer, scaler, shares, self)
        return Climb(self.spec, self.pace).curve(subject, steps, seed)


class _Classification(Subject[Batch]):
    """A network under the cross-entropy of a workload."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        shares: Sequence[float],
        sweeper: Sweeper,
    ) -> None:
        super().__init__(optimizer, scaler, shares)
        self.network, self.workload, self.device = network, sweeper.workload, sweeper.device

    def losses(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Yield each micro-batch's sum of losses over the samples of the step."""
        samples = sum(len(targets) for _, targets in batches)
        for inputs, targets in batches:
            on_device = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            with runtime.autocast(self.workload.precision, self.device):
                logits = self.network(on_device[0])
                part = optim.loss(logits, on_device[1], self.workload.label_smoothing, "sum") / samples
            yield part
