"""Find the largest safe batch of a training on one GPU of its kind; train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.pipelines.base import assemble, at_batch
from gpuplan.planning.find_batch import plan_search

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan


def build(inputs: PlanInputs) -> LaunchPlan:
    """Return the plan of a batch search alone.

    Raises:
        UsageError: a learning rate was given, which this pipeline has no use for, or spot capacity asked for.
    """
    if inputs.settings.lr.learning_rate is not None:
        raise UsageError("--lr: --pipeline find-batch trains nothing", fix="drop --lr")
    if inputs.settings.launch.spot:
        raise UsageError(
            "--spot: find-batch writes no checkpoint, so an interruption would lose all of it",
            why="it takes minutes on one GPU",
            fix="drop --spot",
        )
    search = plan_search(inputs)
    return assemble(inputs, "find-batch", at_batch(inputs, search.per_gpu), [search.step], search=search.told)
