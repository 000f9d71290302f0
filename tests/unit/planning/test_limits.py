"""The limits sent with jobs: roomy by default, never dearer together than the budget, never less than a good run."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.limits import (
    ORDINARY_LONGEST_SECONDS,
    affordable_seconds,
    limit_steps,
    within,
    worst_case,
)
from gpuplan.planning.money.cost import LOCAL_RATE, Cost, Rate, cost
from gpuplan.planning.plan import LONGEST_SECONDS, Limits, StepPlan
from gpuplan.planning.speed.throughput import Hours
from gpuplan_job.contract import DataDescription, LrTarget, SweepSpec

if TYPE_CHECKING:
    from conftest import MakePlan

DAY = 24 * 3600
G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker", "workload.workers": 2}
SWEEP = SweepSpec(
    runs=3,
    iterations=100,
    lr_min=1e-5,
    lr_max=10.0,
    reference_steps=1000,
    noise_micro_batches=16,
    target=LrTarget("edge", "noise-scale", 256, 250),
)
DIGITS = DataDescription(
    train_samples=1437, val_samples=360, channels=1, height=8, width=8, classes=10, bytes_per_sample=64.0
)
NO_TIME = Unknown(unknown="no such model")
NO_PRICE = Unknown(unknown="no such price")


def step(
    hours: float | Unknown = 1.0,
    rate: Decimal | Unknown = Decimal("7.09"),
    *,
    name: Literal["lr-find", "train"] = "train",
    instances: int = 1,
    spot: bool = False,
    storage: int | None = None,
) -> StepPlan:
    """Return a step that takes `hours` at p90."""
    time = hours if isinstance(hours, Unknown) else Hours(p50=hours * 0.8, p90=hours)
    hourly = rate if isinstance(rate, Unknown) else Rate(amount=rate, source="the test")
    return StepPlan(
        name=name,
        instance_type="ml.g5.12xlarge",
        instances=instances,
        gpus=4 * instances,
        spot=spot,
        local_storage_gb=storage,
        batch=StepBatch.of(32, 4 * instances),
        optimizer_steps=100,
        sweep=SWEEP if name == "lr-find" else None,
        memory=Unknown(unknown="not asked here"),
        time_hours=time,
        samples_per_second=1.0,
        startup_minutes=(4.0, 7.0),
        rate_usd_per_hour=hourly,
        cost_usd=cost(hourly, time, instances),
    )


def limited(
    *steps: StepPlan,
    data: DataDescription = DIGITS,
    max_cost: Decimal | None = None,
    max_hours: float | None = None,
) -> list[StepPlan]:
    return limit_steps(steps, data=data, max_cost=max_cost, max_hours=max_hours)


def limits(planned: StepPlan) -> Limits:
    assert planned.limits is not None
    return planned.limits


def seconds(planned: StepPlan) -> int:
    return limits(planned).max_runtime_seconds


def dollars(planned: StepPlan) -> Fraction:
    """Return the exact worst case of a step."""
    assert isinstance(planned.rate_usd_per_hour, Rate)
    return Fraction(planned.rate_usd_per_hour.amount) * planned.instances * seconds(planned) / 3600


def p90(steps: list[StepPlan]) -> Decimal:
    return sum((planned.cost_usd.p90 for planned in steps if isinstance(planned.cost_usd, Cost)), Decimal(0))


def p90_seconds(planned: StepPlan) -> float:
    assert isinstance(planned.time_hours, Hours)
    return planned.time_hours.p90 * 3600


RATES = st.decimals("0.1", "120", places=6)
FINDERS = st.builds(step, st.floats(0.12, 5), RATES, name=st.just("lr-find"), spot=st.just(value=False))
TRAININGS = st.builds(step, st.floats(0.12, 600), RATES, instances=st.integers(1, 16), spot=st.booleans())
PIPELINES = st.one_of(
    st.tuples(FINDERS, TRAININGS), st.tuples(TRAININGS), st.tuples(FINDERS), st.tuples(FINDERS, FINDERS, TRAININGS)
)
HOURS = st.none() | st.floats(0.01, 672)


@given(PIPELINES)
def test_by_default_every_step_has_its_p90_and_room_above_it(steps: tuple[StepPlan, ...]) -> None:
    for planned in limited(*steps):
        assert p90_seconds(planned) * 1.5 + 900 <= seconds(planned) or seconds(planned) == LONGEST_SECONDS
        assert seconds(planned) % 60 == 0


@given(PIPELINES, st.decimals("0", "10000", places=2), HOURS)
def test_all_limits_together_cost_no_more_than_the_budget(
    steps: tuple[StepPlan, ...], more: Decimal, max_hours: float | None
) -> None:
    budget = p90(list(steps)) + more
    found = limited(*steps, max_cost=budget, max_hours=max_hours)
    assert sum(map(dollars, found)) <= Fraction(budget) + Fraction(1, 10**20), "but for the 28th digit"


@given(PIPELINES, st.decimals("0", "10000", places=2))
def test_a_budget_that_pays_for_the_p90_leaves_every_step_its_p90(steps: tuple[StepPlan, ...], more: Decimal) -> None:
    for planned in limited(*steps, max_cost=p90(list(steps)) + more):
        assert seconds(planned) >= math.floor(p90_seconds(planned)) - 1


@given(FINDERS, TRAININGS)
def test_a_range_test_never_takes_what_the_training_needs(finder: StepPlan, training: StepPlan) -> None:
    budget = p90([finder, training])
    finder, training = limited(finder, training, max_cost=budget)
    assert dollars(finder) <= Fraction(p90([finder])) + Fraction(1, 10**20)
    assert seconds(training) >= math.floor(p90_seconds(training)) - 1


@given(FINDERS, TRAININGS, st.decimals("1", "10000", places=2))
def test_the_training_may_use_up_what_is_left_of_the_budget(
    finder: StepPlan, training: StepPlan, more: Decimal
) -> None:
    budget = p90([finder, training]) + more
    finder, training = limited(finder, training, max_cost=budget)
    assert isinstance(training.rate_usd_per_hour, Rate)
    a_second = Fraction(training.rate_usd_per_hour.amount) * training.instances / 3600
    unused = Fraction(budget) - dollars(finder) - dollars(training)
    assert unused < a_second * 2 or seconds(training) >= ORDINARY_LONGEST_SECONDS


def test_a_budget_alone_asks_for_no_more_than_the_five_days_that_every_account_has() -> None:
    (short,) = limited(step(hours=1.0), max_cost=Decimal(100_000))
    (long,) = limited(step(hours=200.0), max_cost=Decimal(100_000))
    (told,) = limited(step(hours=1.0), max_cost=Decimal(100_000), max_hours=200.0)
    assert seconds(short) == ORDINARY_LONGEST_SECONDS == 5 * DAY
    assert seconds(long) == 300 * 3600 + 900
    assert seconds(told) == 200 * 3600


@given(PIPELINES, st.floats(0.05, 672), st.none() | st.decimals("1", "10000", places=2))
def test_max_hours_bounds_the_training_and_nothing_else(
    steps: tuple[StepPlan, ...], max_hours: float, max_cost: Decimal | None
) -> None:
    free, bound = limited(*steps, max_cost=max_cost), limited(*steps, max_cost=max_cost, max_hours=max_hours)
    for before, after in zip(free, bound, strict=True):
        if before.name == "train":
            assert seconds(after) <= max(60, math.ceil(max_hours * 3600))
        elif len(steps) > 1:
            assert after.limits == before.limits


def test_max_hours_may_give_a_training_more_time_than_the_estimate_would() -> None:
    [planned] = limited(step(1.0), max_hours=40.0)
    assert seconds(planned) == 40 * 3600


@given(PIPELINES, st.none() | st.decimals("0.01", "1000000", places=2), HOURS)
def test_nothing_is_over_28_days_or_under_a_minute(
    steps: tuple[StepPlan, ...], max_cost: Decimal | None, max_hours: float | None
) -> None:
    for planned in limited(*steps, max_cost=max_cost, max_hours=max_hours):
        assert 60 <= seconds(planned) <= LONGEST_SECONDS == 28 * DAY


@given(PIPELINES, st.none() | st.decimals("0.01", "1000", places=2), HOURS)
def test_spot_alone_has_a_limit_of_waiting_which_is_longer_than_that_of_running(
    steps: tuple[StepPlan, ...], max_cost: Decimal | None, max_hours: float | None
) -> None:
    for planned in limited(*steps, max_cost=max_cost, max_hours=max_hours):
        wait = limits(planned).max_wait_seconds
        assert (wait is not None) == planned.spot
        assert wait is None or wait >= seconds(planned) + DAY


@given(st.integers(1, 10**7), st.floats(1, 1e6), st.none() | st.integers(1, 30_000))
def test_the_volume_holds_the_data_or_is_all_that_the_instance_has(
    samples: int, size: float, storage: int | None
) -> None:
    data = replace(DIGITS, train_samples=samples, bytes_per_sample=size)
    [planned] = limited(step(storage=storage), data=data)
    volume = limits(planned).volume_gb
    assert volume >= 1
    assert volume == storage or volume * 1e9 >= 30e9 + samples * size
    assert storage is None or volume <= storage


@given(runtime=st.integers(60, LONGEST_SECONDS), left=st.integers(1, LONGEST_SECONDS), spot=st.booleans())
def test_tightening_shortens_the_running_time_alone(runtime: int, left: int, *, spot: bool) -> None:
    before = Limits(max_runtime_seconds=runtime, max_wait_seconds=runtime + DAY if spot else None, volume_gb=30)
    after = within(before, left)
    assert after.max_runtime_seconds == min(runtime, left)
    assert after.volume_gb == before.volume_gb
    assert after.max_wait_seconds == (after.max_runtime_seconds + DAY if spot else None)
    assert within(after, after.max_runtime_seconds) == after, "the recorded limit gives the same request again"
    assert within(before, LONGEST_SECONDS) == before


@given(st.decimals("0", "10000", places=4), RATES, st.integers(1, 16))
def test_what_is_affordable_costs_at_most_the_budget_and_a_second_more_does_not_fit(
    budget: Decimal, rate: Decimal, instances: int
) -> None:
    found = affordable_seconds(step(rate=rate, instances=instances), budget)
    assert found is not None
    a_second = Fraction(rate) * instances / 3600
    assert found * a_second <= Fraction(budget) < (found + 1) * a_second


@given(st.decimals("-1000", "-0.01", places=2))
def test_a_budget_that_is_overdrawn_affords_nothing(budget: Decimal) -> None:
    assert affordable_seconds(step(), budget) == 0


def test_what_costs_nothing_or_nobody_knows_what_is_not_bounded_by_money() -> None:
    free = step().model_copy(update={"rate_usd_per_hour": LOCAL_RATE})
    assert affordable_seconds(free, Decimal(1)) is None
    assert affordable_seconds(step(rate=NO_PRICE), Decimal(1)) is None
    assert limited(step(rate=NO_PRICE), max_cost=Decimal("0.01")) == limited(step(rate=NO_PRICE))


def test_a_time_that_is_not_known_is_limited_to_a_day() -> None:
    assert [seconds(planned) for planned in limited(step(NO_TIME, name="lr-find"), step(NO_TIME))] == [DAY, DAY]


@given(TRAININGS)
def test_the_worst_case_is_the_limit_on_all_instances(planned: StepPlan) -> None:
    [found] = limited(planned)
    assert abs(Fraction(worst_case(found)) - dollars(found)) < Fraction(1, 10**15)  # type: ignore[arg-type] # a Decimal


def test_the_worst_case_of_what_is_not_known_is_not_known() -> None:
    assert worst_case(limited(step(rate=NO_PRICE))[0]) == NO_PRICE
    without = worst_case(step())
    assert isinstance(without, Unknown)
    assert "no time limit" in without.unknown
    assert worst_case(step().model_copy(update={"rate_usd_per_hour": LOCAL_RATE})) == 0


@pytest.mark.parametrize("runtime", [0, -1, LONGEST_SECONDS + 1])
def test_limits_that_no_job_may_have_are_no_limits(runtime: int) -> None:
    with pytest.raises(ValidationError):
        Limits(max_runtime_seconds=runtime, volume_gb=1)


def test_every_step_that_aws_bills_is_limited_and_the_total_says_the_most_it_can_cost(make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    assert all(planned.limits for planned in plan.steps)
    total = plan.total.cost_usd
    assert not isinstance(total, Unknown)
    worst = [worst_case(planned) for planned in plan.steps]
    assert isinstance(total.worst_case, Decimal)
    assert total.worst_case == sum(amount for amount in worst if isinstance(amount, Decimal))
    assert total.p90 < total.worst_case


def test_with_a_budget_the_most_it_can_cost_is_the_budget(make_plan: MakePlan) -> None:
    budget = Decimal("12.50")
    total = make_plan(G5 | {"launch.max_cost": budget}).total.cost_usd
    assert not isinstance(total, Unknown)
    assert isinstance(total.worst_case, Decimal)
    assert budget - Decimal("0.01") < total.worst_case <= budget


@pytest.mark.parametrize("backend", ["local", "fake"])
def test_a_backend_that_enforces_nothing_has_no_limits_and_takes_none(make_plan: MakePlan, backend: str) -> None:
    assert not any(planned.limits for planned in make_plan(G5 | {"launch.backend": backend}).steps)
    with pytest.raises(UsageError, match="enforces no time limit"):
        make_plan(G5 | {"launch.backend": backend, "launch.max_hours": 1.0})


def test_the_disks_of_the_planned_instance_bound_the_volume(make_plan: MakePlan) -> None:
    # 900 GB on a g4dn.12xlarge; 147 GB of images with room, and 1,100 GB.
    values = {"launch.instance": "g4dn", "workload.per_gpu_batch": 8, "lr.finder_instance": "g4dn.xlarge"}
    _, training = make_plan(G5 | values | {"workload.data": "imagenet"}).steps
    assert 200 < limits(training).volume_gb < 900
    large = "imagefolder:s3://bucket/large?train=10000000&val=1000&classes=10&bytes=110000"
    _, training = make_plan(G5 | values | {"workload.data": large}).steps
    assert limits(training).volume_gb == 900


def test_the_volume_of_a_range_test_that_streams_holds_no_data(make_plan: MakePlan) -> None:
    values = {"launch.instance": "g4dn", "workload.per_gpu_batch": 8, "lr.finder_instance": "g4dn.xlarge"}
    finder, _ = make_plan(G5 | values | {"workload.data": "imagenet"}).steps
    assert limits(finder).volume_gb == 30


def test_a_larger_budget_is_more_time_for_the_training(make_plan: MakePlan) -> None:
    plans = [make_plan(G5 | {"launch.max_cost": Decimal(budget)}) for budget in (5, 10, 20)]
    given_to_training = [seconds(plan.steps[-1]) for plan in plans]
    assert given_to_training == sorted(set(given_to_training))
