"""What an attempt cost, kept with the event of its end: what the service bills, else the time this client saw.

Called by the engine and by `cancel`; reports read the sums here.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.engine.spending import Running, Spending, dollars, usd_per_hour
from gpuplan.store.events import Observed

if TYPE_CHECKING:
    from datetime import datetime

    from gpuplan.backends.base import JobStatus
    from gpuplan.planning.plan import StepPlan
    from gpuplan.store.record import RunRecord


def observed(record: RunRecord, step: str, attempt: int, status: JobStatus, now: datetime) -> Observed:
    """Return the event of a job's state, with the attempt's cost in USD where the state is terminal."""
    cost = _cost(record, step, attempt, status, now) if status.state.terminal else None
    return Observed(
        step=step,
        attempt=attempt,
        state=status.state,
        detail=status.detail,
        cost_usd=cost,
        billable_seconds=status.billable_seconds,
    )


def spent(record: RunRecord) -> Decimal | Unknown:
    """Return the US dollars of all attempts that have ended, or why they are not known."""
    costs = [attempt.cost_usd for step in record.steps for attempt in step.attempts if attempt.cost_usd is not None]
    missing = next((cost for cost in costs if isinstance(cost, Unknown)), None)
    return missing or sum((cost for cost in costs if isinstance(cost, Decimal)), Decimal(0))


def spending(record: RunRecord) -> Spending:
    """Return what a run's attempts that ended have cost, and those that run, each since it was seen to run."""
    running = [
        Running(step.name, attempt.number, usd_per_hour(planned), attempt.running_since)
        for step in record.steps
        if (planned := record.plan.step(step.name)) is not None
        for attempt in step.attempts
        if attempt.running_since is not None and not attempt.ended_at
    ]
    return Spending(spent(record), tuple(running))


def so_far(record: RunRecord, now: datetime) -> Decimal | Unknown:
    """Return the US dollars of the run up to now: attempts that ended, and running ones since they were seen to run."""
    return spending(record).at(now)


def _cost(record: RunRecord, step: str, attempt: int, status: JobStatus, now: datetime) -> Decimal | Unknown:
    planned = record.plan.step(step)
    if planned is None or not status.exists:
        return Decimal(0)
    if status.billable_seconds is not None:
        return _dollars(planned, status.billable_seconds)
    tried = next(a for a in record.step(step).attempts if a.number == attempt)
    if planned.limits is not None and tried.running_since is None:
        return Decimal(0)  # billing starts when the job begins to download, and this one never was seen to
    return _dollars(planned, (now - (tried.running_since or tried.started_at)).total_seconds())


def _dollars(step: StepPlan, seconds: float) -> Decimal | Unknown:
    return dollars(usd_per_hour(step), seconds)
