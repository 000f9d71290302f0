"""Find the LR on one GPU, carry it over, train on all of them; with --lr or --lr-from only the training remains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.pipelines.base import assemble, batches, lr_is_known
from gpuplan.planning.steps import find_finder, lr_find_step, train_step

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan


def build(inputs: PlanInputs) -> LaunchPlan:
    """Return the plan: lr-find unless the learning rate is known, then train."""
    batch = batches(inputs)
    finder = find_finder(inputs, batch) if not lr_is_known(inputs) else None
    steps = [train_step(inputs, batch, finder)]
    if finder is not None:
        steps.insert(0, lr_find_step(inputs, batch, finder))
    return assemble(inputs, "lr-then-train", batch, steps, finder)
