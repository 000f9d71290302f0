"""The dollars of a run at any moment: what has ended, and what has been running since when. Pure values.

Made from a record by `account.spending`, followed by displays that see events and not records, so that a line of
progress costs no look at the store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan.store.events import Observed

if TYPE_CHECKING:
    from datetime import datetime

    from gpuplan.planning.plan import LaunchPlan, StepPlan
    from gpuplan.store.events import Event


@dataclass(frozen=True)
class Running:
    """An attempt that has been seen running and not yet ended."""

    step: str
    attempt: int
    usd_per_hour: Decimal | Unknown
    """Of all its instances."""
    since: datetime


@dataclass(frozen=True)
class Spending:
    """What a run has cost and what it costs now."""

    ended: Decimal | Unknown
    """US dollars of all attempts that have ended."""
    running: tuple[Running, ...]

    def at(self, now: datetime) -> Decimal | Unknown:
        """Return the US dollars up to a moment, or why they are not known."""
        total = self.ended
        for one in self.running:
            total = _sum(total, dollars(one.usd_per_hour, (now - one.since).total_seconds()))
        return total

    def after(self, event: Event, plan: LaunchPlan, now: datetime) -> Spending:
        """Return the spending once an event of the plan's run has happened."""
        if not isinstance(event, Observed):
            return self
        mine = [one for one in self.running if (one.step, one.attempt) == (event.step, event.attempt)]
        planned = plan.step(event.step)
        if event.state is JobState.RUNNING and not mine and planned is not None:
            begun = Running(event.step, event.attempt, usd_per_hour(planned), now)
            return replace(self, running=(*self.running, begun))
        if not event.state.terminal:
            return self
        cost = event.cost_usd if event.cost_usd is not None else Spending(Decimal(0), tuple(mine)).at(now)
        return Spending(_sum(self.ended, cost), tuple(one for one in self.running if one not in mine))


def _sum(one: Decimal | Unknown, other: Decimal | Unknown) -> Decimal | Unknown:
    if isinstance(one, Unknown):
        return one
    return other if isinstance(other, Unknown) else one + other


def usd_per_hour(step: StepPlan) -> Decimal | Unknown:
    """Return what a step's instances cost an hour together."""
    rate = step.rate_usd_per_hour
    return rate if isinstance(rate, Unknown) else rate.amount * step.instances


def dollars(rate: Decimal | Unknown, seconds: float) -> Decimal | Unknown:
    """Return the US dollars of so many seconds at a rate an hour."""
    return rate if isinstance(rate, Unknown) else rate * Decimal(str(seconds)) / SECONDS_PER_HOUR
