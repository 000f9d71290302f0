"""Find the learning rate on one GPU and say what it would be on all of them; train nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.pipelines.base import assemble, batches
from gpuplan.planning.placement import place_training
from gpuplan.planning.steps import find_finder, lr_find_step

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan


def build(inputs: PlanInputs) -> LaunchPlan:
    """Return the plan of a range test alone.

    Raises:
        UsageError: a learning rate was given, so there is nothing to find.
    """
    if inputs.settings.lr.learning_rate is not None:
        raise UsageError(
            "--lr gives the learning rate that --pipeline lr would look for",
            fix="drop --lr, or: gpuplan launch --pipeline train --lr " + format(inputs.settings.lr.learning_rate, "g"),
        )
    if inputs.lr_source is not None:
        raise UsageError(
            f"--lr-from {inputs.lr_source.run_id} takes the learning rate that --pipeline lr would look for",
            fix=f"gpuplan suggest {inputs.lr_source.run_id}    or drop --lr-from",
        )
    if inputs.settings.launch.spot:
        raise UsageError(
            "--spot: lr-find writes no checkpoint, so an interruption would lose all of it",
            why="it takes minutes on one GPU; the other pipelines run it on demand and the training on spot",
            fix="drop --spot",
        )
    batch = batches(inputs, inputs.settings.lr.carry_to_gpus or place_training(inputs).hardware.gpus)
    finder = find_finder(inputs, batch)
    return assemble(inputs, "lr", batch, [lr_find_step(inputs, batch, finder)], finder)
