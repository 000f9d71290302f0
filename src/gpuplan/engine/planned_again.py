"""What follows from find-batch's end: the run planned again at the batch that it found, within budget and memory.

Called by `engine.run`, which makes the answers durable. Making a plan needs profiles and traces, so whoever drives the
engine brings the planner.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.errors import GpuplanError, OverBudgetError, StoreError
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import usd
from gpuplan.engine.account import spent
from gpuplan.planning.money.cost import beside_instance
from gpuplan.planning.plan import FoundBatch, LaunchPlan
from gpuplan.planning.refuse import refuse_size
from gpuplan.store import events as ev

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.plan import StepPlan
    from gpuplan.store.record import RunRecord

Planner = Callable[[LaunchPlan, FoundBatch], LaunchPlan]
"""Returns what a plan becomes at a batch that was found."""


def nobody(plan: LaunchPlan, found: FoundBatch) -> LaunchPlan:
    """Stand in for a planner where no step of a run asks for one.

    Raises:
        StoreError: one does.
    """
    raise StoreError(f"{plan.pipeline} is to be planned again at batch {found.per_gpu}, and nobody here can")


def follow_ups(record: RunRecord, step: StepPlan, planner: Planner) -> Iterator[ev.Event]:
    """Yield the events that a finished find-batch asks for and that are not yet recorded; none after another step.

    A plan that may not be carried out is recorded all the same, with its refusal: the run then shows what it would be.
    """
    result = record.batch_found()
    if step.search is None or result is None:
        return
    last = record.step(step.name).last
    attempt = last.number if last else 1
    plan = record.plan
    try:
        if plan.provenance.found_batch is None:
            found = FoundBatch(per_gpu=result.chosen, start=_start(plan), peak_gib=result.measured.peak_gib)
            plan = planner(plan, found)
            yield ev.PlannedAgain(plan=plan)
        if any(record.step(one.name).attempts for one in plan.steps if one.name != step.name):
            return  # it was accepted when the next step began
        refuse_size(plan)
        _refuse_cost(record, plan)
    except StoreError:
        raise
    except GpuplanError as error:
        yield ev.Failed(
            step=step.name,
            attempt=attempt,
            exit_code=error.exit_code,
            message=f"at the found batch of {result.chosen} per GPU: {error.what}",
            why=error.why,
            fix=error.fix,
        )


def _start(plan: LaunchPlan) -> int:
    return plan.provenance.settings.workload.per_gpu_batch


def _refuse_cost(record: RunRecord, plan: LaunchPlan) -> None:
    """Return if what was spent and the p90 of the steps to come stay within the limit.

    Raises:
        OverBudgetError: they do not, or one of them is not known.
    """
    limit = plan.provenance.settings.launch.max_cost
    if limit is None:
        return
    coming = [step for step in plan.steps if not record.step(step.name).done]
    beside, _ = beside_instance(charge for step in coming for charge in step.charges)
    before, p90 = spent(record), beside.p90
    fix = "a smaller --largest-batch, fewer --epochs, another --instance, or a higher --max-cost"
    for amount in (before, *(step.cost_usd for step in coming)):
        if isinstance(amount, Unknown):
            raise OverBudgetError(
                f"--max-cost {usd(limit)} cannot be kept: the cost is not known", why=amount.unknown, fix=fix
            )
        p90 += Decimal(0) if isinstance(amount, Decimal) else amount.p90
    if isinstance(before, Decimal) and before + p90 > limit:
        raise OverBudgetError(
            f"the steps to come cost {usd(p90)} at p90, with {usd(before)} spent: over --max-cost {usd(limit)}",
            why="find-batch measured the batch; nothing else was started",
            fix=fix,
        )
