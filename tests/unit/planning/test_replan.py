"""A measured step time replaces the guess, where it was measured on the GPU of the training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Cost, cost
from gpuplan.planning.replan import Replan, replan
from gpuplan_job.contract import Measured

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan

G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
A_MOMENT = st.floats(1e-4, 1e3)
SHARED = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixture is a factory without state."""


def measured(step_seconds: float) -> Measured:
    return Measured(step_seconds=step_seconds, samples_per_second=1.0, peak_gib=None, device="A10G")


def again(plan: LaunchPlan, step_seconds: float) -> Replan:
    found = replan(plan, measured(step_seconds))
    assert found is not None
    return found


@SHARED
@given(A_MOMENT)
def test_time_is_steps_times_the_measured_step_and_the_start_up(make_plan: MakePlan, seconds: float) -> None:
    plan = make_plan(G5)
    train = plan.step("train")
    assert train is not None
    assert train.measured_scale is not None
    hours = again(plan, seconds).time_hours
    busy = train.optimizer_steps * max(train.measured_scale * seconds, train.loading_seconds) / 3600
    assert hours.p50 == pytest.approx(busy + train.startup_minutes[0] / 60)
    assert hours.p90 > busy + train.startup_minutes[1] / 60


@SHARED
@given(A_MOMENT, A_MOMENT)
def test_a_slower_step_never_gives_a_shorter_or_cheaper_training(make_plan: MakePlan, one: float, other: float) -> None:
    plan = make_plan(G5)
    slow, fast = again(plan, max(one, other)), again(plan, min(one, other))
    assert slow.time_hours.p50 >= fast.time_hours.p50
    assert isinstance(slow.cost_usd, Cost)
    assert isinstance(fast.cost_usd, Cost)
    assert slow.cost_usd.p90 >= fast.cost_usd.p90


@SHARED
@given(A_MOMENT)
def test_the_cost_is_the_rate_times_the_new_hours(make_plan: MakePlan, seconds: float) -> None:
    plan = make_plan(G5)
    train = plan.step("train")
    assert train is not None
    found = again(plan, seconds)
    assert found.cost_usd == cost(train.rate_usd_per_hour, found.time_hours)


def test_accumulation_takes_as_many_micro_batches_and_fewer_all_reduces(make_plan: MakePlan) -> None:
    def hours(accumulate: int) -> float:
        values = G5 | {"workload.accumulate": accumulate, "workload.data": "fake:3x32x32:10:57024"}
        return again(make_plan(values), 100.0).time_hours.p50

    assert 0.5 * hours(1) < hours(2) < hours(1)


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
@pytest.mark.parametrize("seconds", [1e-6, 1.0])
def test_a_growing_batch_takes_about_as_long_as_a_constant_one(
    make_plan: MakePlan, schedule: str, seconds: float
) -> None:
    def hours(schedule: str) -> float:
        values = {"workload.data": "imagenet", "workload.model": "resnet50", "workload.epochs": 20}
        values |= {"workload.accumulate": 4, "workload.batch_schedule": schedule}
        return again(make_plan(G5 | values), seconds).time_hours.p50

    assert hours(schedule) == pytest.approx(hours("constant"), rel=0.03)


def test_a_finder_that_waits_for_data_does_not_slow_the_training_down(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"workload.data": "imagenet", "workload.model": "resnet50"})
    starved = replace(measured(10.0), busy_seconds=0.2)
    assert replan(plan, starved) == replan(plan, measured(0.2))


def test_the_training_s_own_data_loading_is_the_least_a_step_takes(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"workload.data": "imagenet", "workload.model": "resnet50"})
    train = plan.step("train")
    assert train is not None
    assert train.loading_seconds > 0
    hours = again(plan, 1e-6).time_hours.p50 - train.startup_minutes[0] / 60
    assert hours == pytest.approx(train.loading_seconds * train.optimizer_steps / 3600)


def test_a_measured_peak_moves_the_training_s_by_as_much_as_it_missed_its_own_estimate(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"workload.data": "fake:3x224x224:10:57024"})
    finder, train = plan.step("lr-find"), plan.step("train")
    assert finder is not None
    assert train is not None
    assert isinstance(finder.memory, MemoryEstimate)
    assert isinstance(train.memory, MemoryEstimate)
    context = next(item.gib for item in finder.memory.items if item.name == "context")
    seen = replace(measured(1.0), peak_gib=finder.memory.peak_gib - context + 0.5)
    found = replan(plan, seen)
    assert found is not None
    assert isinstance(found.memory, MemoryEstimate)
    assert found.memory.peak_gib == pytest.approx(train.memory.peak_gib + 0.5)
    assert sum(item.gib for item in found.memory.items) == pytest.approx(found.memory.peak_gib)
    assert found.memory.verdict == "fits"


def test_a_measured_peak_over_the_card_is_tight_because_cached_blocks_are_given_back(make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    found = replan(plan, replace(measured(1.0), peak_gib=22.0))
    assert found is not None
    assert isinstance(found.memory, MemoryEstimate)
    assert found.memory.verdict == "tight"


def test_without_a_measured_peak_the_memory_is_not_known_anew(make_plan: MakePlan) -> None:
    assert isinstance(again(make_plan(G5), 1.0).memory, Unknown)


def test_a_price_that_is_not_known_stays_unknown(make_plan: MakePlan) -> None:
    assert isinstance(again(make_plan(G5 | {"aws.region": "nowhere-1"}), 1.0).cost_usd, Unknown)


@pytest.mark.parametrize("values", [{"launch.instance": "p4d"}, {**G5, "launch.pipeline": "lr"}], ids=str)
def test_a_measurement_that_says_nothing_of_the_training_changes_nothing(
    make_plan: MakePlan, values: dict[str, object]
) -> None:
    assert replan(make_plan(values | {"workload.per_gpu_batch": 32}), measured(1.0)) is None
