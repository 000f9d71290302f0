"""What an attempt cost: what the service bills, else the time it was seen to run, and nothing while it waited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.backends.base import JobStatus
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.engine.account import observed, so_far, spent
from gpuplan.planning.money.cost import Rate
from gpuplan.store import events as ev
from gpuplan.store.record import fold

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord

RUN = "digits-0000000000001"
START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PRICE = Decimal("7.09")
"""USD an hour of an ml.g5.12xlarge in us-east-1."""


@cache
def planned(backend: str = "sagemaker", nodes: int = 1, region: str = "us-east-1") -> LaunchPlan:
    values: dict[str, object] = {
        "launch.instance": "g5",
        "launch.backend": backend,
        "launch.nodes": nodes,
        "aws.region": region,
        "lr.learning_rate": 0.05,
        "workload.per_gpu_batch": 16,
    }
    return plan_from(Given(values, dict.fromkeys(values, "the test"), None)).plan


def record(plan: LaunchPlan, *events: tuple[timedelta, ev.Event]) -> RunRecord:
    """Return the record of a run whose training is submitted at the start and whose other events follow."""
    name = f"{RUN}-train-1"
    submitting = ev.Submitting(step="train", attempt=1, job_name=name, handle=f"x://{name}", request_sha256="")
    log: list[tuple[timedelta, ev.Event]] = [(-HOUR, ev.Planned(plan=plan)), (timedelta(0), submitting), *events]
    return fold(RUN, [ev.Stored(seq=seq, at=START + after, event=event) for seq, (after, event) in enumerate(log)])


def seen(state: JobState) -> ev.Observed:
    return ev.Observed(step="train", attempt=1, state=state)


RUNNING_AFTER_AN_HOUR = (HOUR, seen(JobState.RUNNING))
STOPPED = JobStatus(JobState.STOPPED, "Stopped")


def cost(run: RunRecord, status: JobStatus, after: timedelta) -> Decimal | Unknown | None:
    return observed(run, "train", 1, status, START + after).cost_usd


def test_a_job_that_has_not_ended_has_no_cost_yet() -> None:
    assert cost(record(planned()), JobStatus(JobState.RUNNING), HOUR) is None


@given(st.integers(0, 28 * 24 * 3600), st.sampled_from([1, 3]))
def test_what_the_service_bills_counts_on_every_instance(seconds: int, nodes: int) -> None:
    run = record(planned(nodes=nodes), RUNNING_AFTER_AN_HOUR)
    status = JobStatus(JobState.SUCCEEDED, "Completed", billable_seconds=seconds)
    event = observed(run, "train", 1, status, START + 99 * HOUR)
    assert event.cost_usd == PRICE * nodes * seconds / 3600
    assert event.billable_seconds == seconds, "the evidence is kept"


def test_without_a_bill_the_time_since_it_was_seen_to_run_counts() -> None:
    run = record(
        planned(), (HOUR / 2, seen(JobState.STARTING)), RUNNING_AFTER_AN_HOUR, (2 * HOUR, seen(JobState.RUNNING))
    )
    assert cost(run, STOPPED, 3 * HOUR) == 2 * PRICE


def test_waiting_for_capacity_costs_nothing() -> None:
    waited = record(planned(), (HOUR, seen(JobState.PENDING)), (2 * HOUR, seen(JobState.STARTING)))
    assert cost(waited, STOPPED, 50 * HOUR) == 0


def test_an_interruption_does_not_start_the_account_anew() -> None:
    run = record(
        planned(), RUNNING_AFTER_AN_HOUR, (2 * HOUR, seen(JobState.STARTING)), (3 * HOUR, seen(JobState.RUNNING))
    )
    assert cost(run, STOPPED, 4 * HOUR) == 3 * PRICE


def test_a_job_that_never_was_costs_nothing() -> None:
    never = JobStatus(JobState.STOPPED, "never created", exists=False)
    assert cost(record(planned(), RUNNING_AFTER_AN_HOUR), never, 9 * HOUR) == 0


def test_a_price_that_is_not_known_is_not_known_whatever_is_billed() -> None:
    run = record(planned(region="nowhere-1"), RUNNING_AFTER_AN_HOUR)
    for status in (STOPPED, JobStatus(JobState.SUCCEEDED, billable_seconds=60)):
        found = cost(run, status, 2 * HOUR)
        assert isinstance(found, Unknown)
        assert "nowhere-1" in found.unknown


def test_this_machine_is_free_and_counts_from_the_submission() -> None:
    assert cost(record(planned("fake")), STOPPED, HOUR) == 0
    plan = planned("fake")
    priced = plan.steps[0].model_copy(update={"rate_usd_per_hour": Rate(amount=PRICE, source="the test")})
    assert cost(record(plan.model_copy(update={"steps": (priced,)})), STOPPED, HOUR) == PRICE


def ended(cost_usd: Decimal | Unknown, attempt: int = 1) -> ev.Observed:
    return ev.Observed(step="train", attempt=attempt, state=JobState.STOPPED, cost_usd=cost_usd)


def second_attempt() -> ev.Submitting:
    return ev.Submitting(step="train", attempt=2, job_name="2", handle="x://2", request_sha256="")


def test_all_attempts_count_failed_ones_too() -> None:
    run = record(planned(), (HOUR, ended(Decimal("1.5"))), (HOUR, second_attempt()), (2 * HOUR, ended(Decimal(2), 2)))
    assert spent(run) == Decimal("3.5")
    assert spent(record(planned())) == 0


def test_one_cost_that_is_not_known_makes_the_sum_unknown() -> None:
    gap = Unknown(unknown="no price")
    run = record(planned(), (HOUR, ended(Decimal("1.5"))), (HOUR, second_attempt()), (2 * HOUR, ended(gap, 2)))
    assert spent(run) == so_far(run, START + 9 * HOUR) == gap


def test_the_dollars_so_far_are_those_of_ended_attempts_and_of_the_running_time_of_the_open_one() -> None:
    again = ev.Observed(step="train", attempt=2, state=JobState.RUNNING)
    run = record(planned(), (HOUR, ended(Decimal("1.5"))), (HOUR, second_attempt()), (2 * HOUR, again))
    assert so_far(run, START + 4 * HOUR) == Decimal("1.5") + 2 * PRICE
    assert spent(run) == Decimal("1.5")


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.STARTING, JobState.UNKNOWN])
def test_an_open_attempt_that_was_not_seen_to_run_has_cost_nothing_so_far(state: JobState) -> None:
    assert so_far(record(planned(), (HOUR, seen(state))), START + 9 * HOUR) == 0


def test_an_open_attempt_at_an_unknown_price_has_an_unknown_cost_so_far() -> None:
    run = record(planned(region="nowhere-1"), RUNNING_AFTER_AN_HOUR)
    assert isinstance(so_far(run, START + 2 * HOUR), Unknown)
