"""What an attempt is given: never more time than the budget has left, and the same again however often it is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.errors import ExitCode, OverBudgetError
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.engine.attempt import job_spec
from gpuplan.planning.job_input import job_input
from gpuplan.planning.money.cost import Rate
from gpuplan.store import events as ev
from gpuplan.store.record import RunRecord, fold

if TYPE_CHECKING:
    from gpuplan.backends.base import JobSpec
    from gpuplan.planning.plan import LaunchPlan, StepPlan
    from gpuplan_job.contract import JobInput

RUN = "digits-0000000000001"
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
BUDGET = Decimal("20.00")
MONEY = st.decimals("0", "25", places=4)


@cache
def planned(max_cost: Decimal | None = BUDGET, *, spot: bool = False, backend: str = "sagemaker") -> LaunchPlan:
    values: dict[str, object] = {
        "launch.instance": "g5",
        "launch.backend": backend,
        "launch.spot": spot,
        "workload.epochs": 9,
    }
    values |= {"launch.max_cost": max_cost} if max_cost is not None else {}
    return plan_from(Given(values, dict.fromkeys(values, "the test"), None)).plan


def record(plan: LaunchPlan, *events: ev.Event) -> RunRecord:
    """Return the record of a run launched by ada, with an event a minute, as it would be read from a store."""
    log = [ev.Planned(plan=plan, owner="ada"), *events]
    stored = [
        ev.Stored(
            seq=seq,
            at=NOW + timedelta(minutes=seq),
            event=ev.EVENT.validate_json(ev.EVENT.dump_json(event, by_alias=True, exclude_none=True)),
        )
        for seq, event in enumerate(log)
    ]
    return fold(RUN, stored)


def tried(step: str, attempt: int, cost: Decimal | Unknown) -> list[ev.Event]:
    """Return the events of an attempt that failed after it cost something."""
    name = f"{RUN}-{step}-{attempt}"
    return [
        ev.Submitting(
            step=step, attempt=attempt, job_name=name, handle=f"sagemaker://us-east-1/{name}", request_sha256=""
        ),
        ev.Submitted(step=step, attempt=attempt),
        ev.Observed(step=step, attempt=attempt, state=JobState.FAILED, cost_usd=cost),
    ]


def step(plan: LaunchPlan, name: str = "train") -> StepPlan:
    found = plan.step(name)
    assert found is not None
    return found


def job(plan: LaunchPlan, attempt: int = 1, name: str = "train") -> JobInput:
    return job_input(plan, step(plan, name), run_id=RUN, attempt=attempt, learning_rate=0.05)


def spec(run: RunRecord, attempt: int = 1, name: str = "train", now: datetime = NOW) -> JobSpec:
    return job_spec(run, step(run.plan, name), job(run.plan, attempt, name), now)


def seconds(made: JobSpec) -> int:
    assert made.limits is not None
    return made.limits.max_runtime_seconds


def intent(made: JobSpec) -> ev.Submitting:
    """Return the event that the engine records before it submits."""
    return ev.Submitting(
        step=made.job_input.step,
        attempt=made.job_input.attempt,
        job_name=made.name,
        handle=f"sagemaker://us-east-1/{made.name}",
        request_sha256="",
        max_runtime_seconds=seconds(made),
        expires_at=made.expires_at,
    )


def test_an_attempt_is_the_planned_step_of_whoever_launched_the_run() -> None:
    plan = planned(None, spot=True)
    made = spec(record(plan))
    training = step(plan)
    assert made.owner == "ada"
    assert (made.instance_type, made.instances, made.spot) == ("ml.g5.12xlarge", 1, True)
    assert made.compute_capability == "8.6"
    assert made.limits == training.limits, "without a budget the plan's"


@given(st.lists(MONEY, max_size=3))
def test_what_is_left_of_the_budget_bounds_an_attempt_or_forbids_it(costs: list[Decimal]) -> None:
    plan = planned()
    events = [event for number, cost in enumerate(costs, 1) for event in tried("train", number, cost)]
    rate = step(plan).rate_usd_per_hour
    assert isinstance(rate, Rate)
    left = (Fraction(BUDGET) - Fraction(sum(costs, Decimal(0)))) * 3600 / Fraction(rate.amount)
    run = record(plan, *events)
    if left < 300:
        with pytest.raises(OverBudgetError, match="--max-cost"):
            spec(run, len(costs) + 1)
        return
    limits = step(plan).limits
    assert limits is not None
    assert seconds(spec(run, len(costs) + 1)) == min(limits.max_runtime_seconds, int(left))


def test_too_little_left_says_how_much_and_what_to_do() -> None:
    run = record(planned(), *tried("lr-find", 1, Decimal("19.50")))
    with pytest.raises(OverBudgetError, match=r"\$0\.50 is left of --max-cost \$20\.00") as caught:
        spec(run)
    assert "$19.50 is spent" in caught.value.why
    assert "higher --max-cost" in caught.value.fix
    assert caught.value.exit_code is ExitCode.OVER_BUDGET
    with pytest.raises(OverBudgetError, match=r"\$0\.00+ is left"):
        spec(record(planned(), *tried("lr-find", 1, Decimal(21))))


def test_what_nobody_knows_the_cost_of_leaves_no_budget_to_keep() -> None:
    run = record(planned(), *tried("lr-find", 1, Unknown(unknown="no price of it")))
    with pytest.raises(OverBudgetError, match="what was spent is not known") as caught:
        spec(run)
    assert caught.value.why == "no price of it"
    free = record(planned(None), *tried("lr-find", 1, Unknown(unknown="no price of it")))
    assert spec(free).limits == step(planned(None)).limits


@pytest.mark.parametrize("spot", [False, True])
@given(spent=st.decimals("0", "15", places=4), later=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_an_intent_gives_the_same_request_again_whatever_happened_since(
    spent: Decimal, later: timedelta, *, spot: bool
) -> None:
    plan = planned(spot=spot)
    before = tried("lr-find", 1, spent)
    first = spec(record(plan, *before))
    # Another attempt's bill comes late, so that less is left than when the intent was recorded.
    since = ev.Observed(step="lr-find", attempt=1, state=JobState.FAILED, cost_usd=Decimal(19))
    again = spec(record(plan, *before, intent(first), since), now=NOW + later)
    assert again == first


def test_a_new_attempt_is_given_limits_of_its_own() -> None:
    plan = planned()
    first = spec(record(plan))
    failed = ev.Observed(step="train", attempt=1, state=JobState.FAILED, cost_usd=Decimal(10))
    second = spec(record(plan, intent(first), failed), attempt=2, now=NOW + timedelta(days=1))
    assert seconds(second) < seconds(first)
    assert first.expires_at is not None
    assert second.expires_at is not None
    assert second.expires_at > first.expires_at


@pytest.mark.parametrize("spot", [False, True])
def test_a_job_expires_after_anything_its_limits_allow(*, spot: bool) -> None:
    made = spec(record(planned(spot=spot)))
    assert made.limits is not None
    assert made.expires_at is not None
    longest = max(made.limits.max_runtime_seconds, made.limits.max_wait_seconds or 0)
    assert made.expires_at >= NOW + timedelta(seconds=longest, hours=24)
    assert made.expires_at.microsecond == 0
    assert made.expires_at.tzinfo is UTC


def test_where_nothing_enforces_limits_none_are_given() -> None:
    made = spec(record(planned(backend="fake")))
    assert made.limits is None
    assert made.expires_at is None
