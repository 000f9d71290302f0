"""Find the largest safe batch, then the LR at it on one GPU, then train at it on all.

Until find-batch has run, lr-find and train are planned at the batch that the memory model predicts; then again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.pipelines.base import assemble, at_batch, lr_is_known
from gpuplan.planning.find_batch import corrected, plan_search
from gpuplan.planning.steps import find_finder, lr_find_step, train_step

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan


def build(inputs: PlanInputs) -> LaunchPlan:
    """Return the plan: find-batch, lr-find unless the learning rate is given, then train."""
    search = plan_search(inputs)
    batch = at_batch(inputs, search.per_gpu)
    finder = find_finder(inputs, batch) if not lr_is_known(inputs) else None
    steps = [train_step(inputs, batch, finder)]
    if finder is not None:
        steps.insert(0, lr_find_step(inputs, batch, finder))
    steps = [search.step, *(corrected(step, search) for step in steps)]
    return assemble(inputs, "batch-then-lr-then-train", batch, steps, finder, search=search.told)
