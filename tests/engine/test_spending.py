"""The dollars of a run as a display follows them: the same as the record tells, event by event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from engine.test_account import PRICE, planned
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.engine.spending import Running, Spending, dollars
from gpuplan.planning.limits import at_most
from gpuplan.store.events import Observed, Resumed

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOTHING = Spending(Decimal(0), ())


def seen(state: JobState, cost: Decimal | Unknown | None = None, attempt: int = 1) -> Observed:
    return Observed(step="train", attempt=attempt, state=state, cost_usd=cost)


def test_money_runs_from_when_a_job_was_first_seen_to_run() -> None:
    spending = NOTHING.after(seen(JobState.STARTING), planned(), START)
    assert spending.at(START + HOUR) == 0
    spending = spending.after(seen(JobState.RUNNING), planned(), START)
    spending = spending.after(seen(JobState.RUNNING), planned(), START + HOUR)
    assert spending.at(START + 2 * HOUR) == 2 * PRICE


def test_the_end_brings_what_the_service_billed_and_where_it_has_not_said_the_time_seen() -> None:
    running = NOTHING.after(seen(JobState.RUNNING), planned(), START)
    billed = running.after(seen(JobState.SUCCEEDED, Decimal("3.50")), planned(), START + HOUR)
    assert billed.at(START + 9 * HOUR) == Decimal("3.50")
    assert running.after(seen(JobState.FAILED), planned(), START + HOUR).at(START + 9 * HOUR) == PRICE


def test_what_is_unknown_stays_unknown() -> None:
    unknown = Unknown(unknown="no price")
    spending = NOTHING.after(seen(JobState.SUCCEEDED, unknown), planned(), START)
    spending = spending.after(seen(JobState.RUNNING, attempt=2), planned(), START)
    assert spending.at(START + HOUR) == unknown
    assert Spending(Decimal(1), (Running("train", 1, unknown, START),)).at(START) == unknown
    assert dollars(unknown, 3600) == unknown


def test_other_events_change_nothing() -> None:
    assert NOTHING.after(Resumed(), planned(), START) is NOTHING


@given(st.lists(st.floats(0, 1e6), max_size=5), st.floats(0, 1e6))
def test_it_never_shrinks_while_jobs_run(starts: list[float], later: float) -> None:
    running = tuple(Running("train", n, Decimal(7), START + timedelta(seconds=s)) for n, s in enumerate(starts))
    spending = Spending(Decimal(1), running)
    now = START + timedelta(seconds=1e6)
    first, second = spending.at(now), spending.at(now + timedelta(seconds=later))
    assert not isinstance(first, Unknown)
    assert not isinstance(second, Unknown)
    assert first <= second


def test_what_the_limits_allow_is_the_bound_that_the_plan_shows() -> None:
    most = at_most(planned())
    total = planned().total.cost_usd
    assert most is not None
    assert not isinstance(total, Unknown)
    assert not isinstance(total.worst_case, Unknown)
    assert most >= total.worst_case > 0
    assert at_most(planned("local")) is None
