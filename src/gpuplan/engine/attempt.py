"""What one attempt of a step is given: limits that fit what is left of the budget, and the time it must be over by.

Called by `engine.run` before the intent is recorded; for an attempt whose intent stands, the answer is the recorded
one, so that the request comes out the same.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.backends.base import JobSpec
from gpuplan.core.errors import OverBudgetError
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import duration, usd
from gpuplan.engine.account import spent
from gpuplan.planning.limits import affordable_seconds, within

if TYPE_CHECKING:
    from datetime import datetime

    from gpuplan.planning.plan import Limits, StepPlan
    from gpuplan.store.record import RunRecord
    from gpuplan_job.contract import JobInput

_LEAST_SECONDS = 300
"""Less is gone before a training has begun: instances start in minutes."""
_STOPPING = timedelta(minutes=10)
"""What AWS may take to end a job and to upload what it wrote."""
_START = timedelta(hours=24)
"""What a job may wait for capacity before its time starts to run."""


def job_spec(record: RunRecord, step: StepPlan, job: JobInput, now: datetime) -> JobSpec:
    """Return what to submit for an attempt.

    Raises:
        OverBudgetError: what is left of --max-cost does not pay for it.
    """
    intent = next((a for a in record.step(step.name).attempts if a.number == job.attempt), None)
    if intent is not None:
        limits = step.limits
        if limits is not None and intent.max_runtime_seconds is not None:
            limits = within(limits, intent.max_runtime_seconds)
        return JobSpec.of(step, job, owner=record.owner, limits=limits, expires_at=intent.expires_at)
    limits = _affordable(record, step)
    expires = None
    if limits is not None:
        longest = timedelta(seconds=limits.max_wait_seconds or limits.max_runtime_seconds)
        expires = (now + longest + _START + _STOPPING).replace(microsecond=0)
    return JobSpec.of(step, job, owner=record.owner, limits=limits, expires_at=expires)


def _affordable(record: RunRecord, step: StepPlan) -> Limits | None:
    budget = record.plan.provenance.settings.launch.max_cost
    if step.limits is None or budget is None:
        return step.limits
    before = spent(record)
    if isinstance(before, Unknown):
        raise OverBudgetError(
            f"--max-cost {usd(budget)} cannot be kept: what was spent is not known", why=before.unknown
        )
    seconds = affordable_seconds(step, budget - before)
    if seconds is None:
        return step.limits
    if seconds < _LEAST_SECONDS:
        raise OverBudgetError(
            f"{usd(max(Decimal(0), budget - before))} is left of --max-cost {usd(budget)}: "
            f"{duration(seconds / 3600)} of {step.instance_type}",
            why=f"{usd(before)} is spent",
            fix="launch again with a higher --max-cost, and --lr if a learning rate was found",
        )
    return within(step.limits, seconds)
