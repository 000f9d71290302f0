"""The training's estimates again, with what lr-find measured on the same GPU. Pure; called by the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.planning.cost import Cost, cost
from gpuplan.planning.throughput import Hours, from_measured

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan_job.contract import Measured


class Replan(Frozen):
    """New time and cost of the training."""

    time_hours: Hours
    cost_usd: Cost | Unknown


def replan(plan: LaunchPlan, measured: Measured) -> Replan | None:
    """Return the training's time and cost from a measured step; None where the measurement does not carry over."""
    step = plan.step("train")
    if step is None or step.measured_scale is None:
        return None
    time = from_measured(
        measured.step_seconds * step.measured_scale,
        step.optimizer_steps,
        step.startup_minutes,
        step.batch.global_batch,
    )
    return Replan(time_hours=time.hours, cost_usd=cost(step.rate_usd_per_hour, time.hours, step.instances))
