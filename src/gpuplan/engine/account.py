"""What an attempt cost, from its submission to its end as this client saw them, kept with the event of its end."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan.planning.cost import Rate
from gpuplan.store.events import Observed

if TYPE_CHECKING:
    from datetime import datetime

    from gpuplan.backends.base import JobStatus
    from gpuplan.core.frozen import Unknown
    from gpuplan.store.record import RunRecord


def observed(record: RunRecord, step: str, attempt: int, status: JobStatus, now: datetime) -> Observed:
    """Return the event of a job's state, with the attempt's cost in USD where the state is terminal."""
    cost = _cost(record, step, attempt, now) if status.state.terminal else None
    return Observed(step=step, attempt=attempt, state=status.state, detail=status.detail, cost_usd=cost)


def _cost(record: RunRecord, step: str, attempt: int, now: datetime) -> Decimal | Unknown:
    planned = record.plan.step(step)
    started = next(a.started_at for a in record.step(step).attempts if a.number == attempt)
    rate = planned.rate_usd_per_hour if planned else Rate(amount=Decimal(0), source="no such step")
    if not isinstance(rate, Rate):
        return rate
    return rate.amount * Decimal(str((now - started).total_seconds())) / SECONDS_PER_HOUR
