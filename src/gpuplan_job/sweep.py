"""One sweep of an LR range test: a bare loop that raises the LR geometrically, once per optimizer step.

Called by `lr_find` with a fresh network. It must not smooth, judge or store the curve; it stops early only where going
on would be wasted.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan_job import optim, runtime
from gpuplan_job.contract import Curve

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import Tensor, nn

    from gpuplan_job.contract import StopReason, SweepSpec, WorkloadSpec
    from gpuplan_job.pace import Pace

    Batch = tuple[Tensor, Tensor]

_BLOWN_UP = 2.0
"""Multiple of the starting loss that ends a sweep. The edge that rules read lies at half the fall, so well before; a
lower multiple would leave the smoothing no points beyond the edge, a higher one pays for steps that nobody reads."""
_START_POINTS = 5
_MEDIAN_DECADES = 0.3
"""LR range whose median loss is held against the start: one outlying batch ends no sweep."""
_LEAST_MEDIAN_POINTS = 3
_MOST_SKIPS = 20
"""Steps in a row that the GradScaler may skip. It starts at 2^16 and halves: past 20 the gradients are not finite."""


@dataclass(frozen=True)
class Sweeper:
    """Runs single sweeps of one workload on one device."""

    workload: WorkloadSpec
    spec: SweepSpec
    device: torch.device
    pace: Pace

    def learning_rate(self, index: int) -> float:
        """Return the LR of optimizer step `index`: geometric, `lr_min` at the first step, `lr_max` at the last."""
        if index == self.spec.iterations - 1:
            return self.spec.lr_max
        return float(self.spec.lr_min * (self.spec.lr_max / self.spec.lr_min) ** (index / (self.spec.iterations - 1)))

    def sweep(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        steps: Iterable[list[Batch]],
        seed: int,
    ) -> Curve:
        """Train `network` in place and return the curve; an item of `steps` holds the micro-batches of one step.

        A loss is the mean over all samples of the step, before the step is taken. `optimizer` stands at `lr_min`; its
        parameter groups keep the ratios of their LRs. A step that the scaler skips is tried again at the same LR on the
        next data.
        """
        network.train()
        shares = [group["lr"] / self.spec.lr_min for group in optimizer.param_groups]
        rates: list[float] = []
        losses: list[float] = []
        skipped = 0
        rate = self.spec.lr_min

        def ended(reason: StopReason) -> Curve:
            return Curve(rates, losses, reason, rate, seed)

        for batches in steps:
            self.pace.arrived()
            rate = self.learning_rate(len(rates))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            loss, taken = self._step(network, optimizer, scaler, batches)
            self.pace.stepped(rate, loss, taken=taken)
            if not math.isfinite(loss):
                return ended("non-finite")
            if not taken:
                skipped += 1
                if skipped > _MOST_SKIPS:
                    return ended("non-finite")
                continue
            skipped = 0
            rates.append(rate)
            losses.append(loss)
            if self._blown_up(losses):
                return ended("diverged")
            if len(rates) == self.spec.iterations:
                break
        return ended("completed")

    def _step(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        batches: list[Batch],
    ) -> tuple[float, bool]:
        """Take one optimizer step; return its loss, and whether the GradScaler let it happen."""
        samples = sum(len(targets) for _, targets in batches)
        parts: list[Tensor] = []
        optimizer.zero_grad(set_to_none=True)
        for inputs, targets in batches:
            on_device = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            with runtime.autocast(self.workload.precision, self.device):
                logits = network(on_device[0])
                part = optim.loss(logits, on_device[1], self.workload.label_smoothing, "sum") / samples
            scaler.scale(part).backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
            parts.append(part.detach())
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        # Reading the loss waits for the device, so the step's time is complete; no earlier wait is needed, because a
        # loss that is not finite ends the sweep whatever it did to the weights.
        loss = math.fsum(part.item() for part in parts)
        return loss, scaler.get_scale() >= before

    def _blown_up(self, losses: list[float]) -> bool:
        if len(losses) <= _START_POINTS:
            return False
        per_decade = (self.spec.iterations - 1) / math.log10(self.spec.lr_max / self.spec.lr_min)
        window = max(_LEAST_MEDIAN_POINTS, round(per_decade * _MEDIAN_DECADES))
        return statistics.median(losses[-window:]) > _BLOWN_UP * statistics.median(losses[:_START_POINTS])
