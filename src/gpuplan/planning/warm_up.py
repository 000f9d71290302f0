"""How long the training's learning rate rises at first, from how much its batch grows over lr-find's. Pure.

Called by the pipelines; the job is told the steps. The rule of the length is `advice.parts`, as in `gpuplan advise`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Frozen
from gpuplan.planning.advice import parts
from gpuplan.planning.batch import LARGE_BATCH
from gpuplan.planning.range_test import policy
from gpuplan_job import transfer
from gpuplan_job.contract import OWN
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from gpuplan.planning.batch import BatchPlan
    from gpuplan.workload.schema import Settings

_FROM_NOTHING = 1 / 25
"""Share of the learning rate to start at where it was not carried over: one-cycle's own (Smith 2018)."""


class WarmUpPlan(Frozen):
    """A linear rise of the learning rate over the training's first optimizer steps; 0 steps are none."""

    steps: int = 0
    epochs: float = 0.0
    start: float = 1.0
    """Share of the learning rate at which it starts: the inverse of the batch's growth (Goyal et al. 2017)."""
    asked: bool = False
    """Whether the user named the length."""
    why: str

    def for_lr(self, multiplier: float | None) -> WarmUpPlan:
        """Return what holds once the learning rate is known: none where it does not grow and nobody asked for one.

        `multiplier` is the learning rate over that of one GPU; None: it was given.
        """
        if self.asked or not self.steps or multiplier is None or multiplier > 1:
            return self
        return WarmUpPlan(why="the learning rate does not grow with the batch")


def warm_up(settings: Settings, batches: BatchPlan) -> WarmUpPlan:
    """Return the warm-up of a training: the user's, or the one that the growth of the batch asks for.

    Raises:
        UsageError: it would not end within the training.
    """
    asked, epochs = settings.lr.warmup_epochs, settings.workload.epochs
    given = settings.lr.learning_rate is not None
    before, after = batches.lr_find.global_batch, batches.train.global_batch
    growth = after / before
    grows = not given and growth > 1
    if asked is not None:
        if asked >= epochs:
            raise UsageError(
                f"--warmup-epochs {asked:g} does not end within {epochs} epoch{'s' if epochs > 1 else ''}",
                why="the learning rate would never be reached",
                fix=f"--warmup-epochs {parts.warm_up_epochs(epochs):g}, or leave it out",
            )
        start = 1 / growth if grows else _FROM_NOTHING
        return _of(asked, batches, start if asked else 1.0, "as asked", asked=True)
    if settings.workload.schedule == OWN:
        return WarmUpPlan(why="the schedule is the model's own")
    if given:
        return WarmUpPlan(why="the learning rate is given: --warmup-epochs sets one")
    if parts.warm_up_verdict(growth, large=after > LARGE_BATCH) == "no":
        grown = f"grows {growth:.3g} x" if growth > 1 else "does not grow"
        return WarmUpPlan(why=f"the batch {grown}: up to {parts.NO_WARM_UP_TO:g} x trains without")
    name = policy(settings.lr)
    rule, change = transfer.load(name), Transfer(before, after, None)
    if rule.can_say(change) and rule.multiplier(change) <= 1:
        return WarmUpPlan(why=f"the learning rate does not grow with the batch: transfer {name}")
    return _of(parts.warm_up_epochs(epochs), batches, 1 / growth, f"the batch grows {growth:.3g} x")


def _of(epochs: float, batches: BatchPlan, start: float, why: str, *, asked: bool = False) -> WarmUpPlan:
    steps = parts.warm_up_steps(epochs, batches.first_epoch_steps) if epochs else 0
    return WarmUpPlan(steps=steps, epochs=epochs, start=start, why=why, asked=asked)
