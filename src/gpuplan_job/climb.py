"""The loop of an LR range test: raise the LR geometrically, once per optimizer step, and keep the losses.

Shared by the job (`sweep`, on gpuplan's own workloads) and by `finder` (on anyone's module). It must not smooth, judge
or store the curve; it stops early only where going on would be wasted.
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from gpuplan_job.contract import Curve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from gpuplan_job.contract import StopReason, SweepSpec
    from gpuplan_job.pace import Pace

Batch = TypeVar("Batch")

_BLOWN_UP = 2.0
"""Multiple of the starting loss that ends a sweep. The edge that rules read lies at half the fall, so well before; a
lower multiple would leave the smoothing no points beyond the edge, a higher one pays for steps that nobody reads."""
_START_POINTS = 5
_MEDIAN_DECADES = 0.3
"""LR range whose median loss is held against the start: one outlying batch ends no sweep."""
_LEAST_MEDIAN_POINTS = 3
_MOST_SKIPS = 20
"""Steps in a row that the GradScaler may skip. It starts at 2^16 and halves: past 20 the gradients are not finite."""


class Subject(ABC, Generic[Batch]):
    """What a sweep trains, in place: an optimizer over weights that stand where the sweep is to start."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, shares: Sequence[float] | None = None
    ) -> None:
        """Take the optimizer; a parameter group's LR is `shares` times the sweep's, by default the sweep's."""
        self.optimizer = optimizer
        self.scaler = scaler
        self.shares = shares if shares is not None else [1.0] * len(optimizer.param_groups)

    @abstractmethod
    def losses(self, batches: Sequence[Batch]) -> Iterator[Tensor]:
        """Yield each micro-batch's part of the step's loss, with its graph; their sum is the loss of the step."""

    def gradients_ready(self) -> None:
        """Do what comes between the last backward pass and the optimizer: nothing, unless a subclass knows better."""

    def agreed(self, loss: float, *, taken: bool) -> tuple[float, bool]:
        """Return loss and outcome of a step as all processes see it: there is one, unless a subclass knows better."""
        return loss, taken

    def set_learning_rate(self, rate: float) -> None:
        """Set every parameter group's LR, keeping their ratios."""
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share

    def step(self, batches: Sequence[Batch]) -> tuple[float, bool]:
        """Take one optimizer step; return its loss, and whether the GradScaler let it happen."""
        parts: list[Tensor] = []
        self.optimizer.zero_grad(set_to_none=True)
        for part in self.losses(batches):
            self.scaler.scale(part).backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
            parts.append(part.detach())
        self.gradients_ready()
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Reading the loss waits for the device, so the step's time is complete; no earlier wait is needed, because a
        # loss that is not finite ends the sweep whatever it did to the weights.
        return self.agreed(math.fsum(part.item() for part in parts), taken=self.scaler.get_scale() >= before)


@dataclass(frozen=True)
class Climb:
    """A sweep over the range of `spec`, reported to `pace`."""

    spec: SweepSpec
    pace: Pace

    def learning_rate(self, index: int) -> float:
        """Return the LR of optimizer step `index`: geometric, `lr_min` at the first step, `lr_max` at the last."""
        if index == self.spec.iterations - 1:
            return self.spec.lr_max
        return float(self.spec.lr_min * (self.spec.lr_max / self.spec.lr_min) ** (index / (self.spec.iterations - 1)))

    def curve(self, subject: Subject[Batch], steps: Iterable[Sequence[Batch]], seed: int) -> Curve:
        """Train the subject in place and return the curve; an item of `steps` holds the micro-batches of one step.

        A loss is that of the step before it is taken. A step that the scaler skips is tried again at the same LR on the
        next data.
        """
        rates: list[float] = []
        losses: list[float] = []
        skipped = 0
        rate = self.spec.lr_min

        def ended(reason: StopReason) -> Curve:
            return Curve(rates, losses, reason, rate, seed)

        for batches in steps:
            self.pace.arrived()
            rate = self.learning_rate(len(rates))
            subject.set_learning_rate(rate)
            loss, taken = subject.step(batches)
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

    def _blown_up(self, losses: list[float]) -> bool:
        if len(losses) <= _START_POINTS:
            return False
        per_decade = (self.spec.iterations - 1) / math.log10(self.spec.lr_max / self.spec.lr_min)
        window = max(_LEAST_MEDIAN_POINTS, round(per_decade * _MEDIAN_DECADES))
        return statistics.median(losses[-window:]) > _BLOWN_UP * statistics.median(losses[:_START_POINTS])
