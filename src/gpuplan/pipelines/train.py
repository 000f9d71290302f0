"""Train on all GPUs with a learning rate that the user gives, or that another run's range test gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.pipelines.base import assemble, batches, lr_is_known
from gpuplan.planning.steps import train_step

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan


def build(inputs: PlanInputs) -> LaunchPlan:
    """Return the plan of a training alone.

    Raises:
        UsageError: no learning rate was given.
    """
    if not lr_is_known(inputs):
        raise UsageError(
            "--pipeline train needs a learning rate",
            why="this pipeline does not look for one",
            fix="--lr 0.05, --lr-from RUN, or let gpuplan find it: --pipeline lr-then-train",
        )
    batch = batches(inputs)
    return assemble(inputs, "train", batch, [train_step(inputs, batch)])
