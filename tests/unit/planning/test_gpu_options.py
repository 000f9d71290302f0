"""The training on other numbers of its GPUs: real machines, the plan's own figures for the plan's own number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.core.frozen import Unknown
from gpuplan.planning.advice.critical_batch import CriticalBatch
from gpuplan.planning.replan import more_gpus, replan
from gpuplan_job.contract import Measured

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.advice.critical_batch import GpuOption
    from gpuplan.planning.plan import LaunchPlan

AWS: dict[str, object] = {"launch.backend": "sagemaker", "workload.data": "fake:3x32x32:10:57024"}


def on(instance: str, **more: object) -> dict[str, object]:
    return AWS | {"launch.instance": instance} | more


def machines(plan: LaunchPlan) -> dict[int, tuple[str | None, int, int | None]]:
    return {one.gpus: (one.instance_type, one.instances, one.instance_gpus) for one in plan.gpu_options}


def own(plan: LaunchPlan) -> GpuOption:
    return next(one for one in plan.gpu_options if one.batch == plan.batch.train)


def seconds(step: float) -> Measured:
    return Measured(step_seconds=step, samples_per_second=1.0, peak_gib=None, device="A10G")


def test_each_number_is_on_the_smallest_machine_that_has_as_many_of_the_gpu(make_plan: MakePlan) -> None:
    expected = {
        1: ("ml.g5.xlarge", 1, 1),
        2: ("ml.g5.12xlarge", 1, 4),
        4: ("ml.g5.12xlarge", 1, 4),
        8: ("ml.g5.48xlarge", 1, 8),
    }
    assert machines(make_plan(on("g5"))) == machines(make_plan(on("g5.48xlarge"))) == expected


def test_a_gpu_that_only_large_machines_have_is_paid_for_with_its_neighbours(make_plan: MakePlan) -> None:
    assert set(machines(make_plan(on("p4d"))).values()) == {("ml.p4d.24xlarge", 1, 8)}


def test_more_gpus_than_any_machine_has_are_several_of_the_training_s(make_plan: MakePlan) -> None:
    assert machines(make_plan(on("g6")))[8] == ("ml.g6.12xlarge", 2, 8)


def test_the_plan_s_own_number_is_on_the_plan_s_own_machines(make_plan: MakePlan) -> None:
    plan = make_plan(on("g5", **{"launch.nodes": 3}))
    assert machines(plan)[12] == ("ml.g5.12xlarge", 3, 12)
    assert [one.gpus for one in plan.gpu_options] == [1, 2, 4, 8, 12]


@pytest.mark.parametrize("instance", ["g5", "p4d"])
def test_its_figures_are_the_training_s(make_plan: MakePlan, instance: str) -> None:
    plan = make_plan(on(instance))
    train, option = plan.step("train"), own(plan)
    assert train is not None
    assert option.time_hours == train.time_hours
    assert option.rate_usd_per_hour == train.rate_usd_per_hour
    assert option.measured_scale == train.measured_scale
    assert option.optimizer_steps == train.optimizer_steps


def test_the_planned_row_costs_what_the_new_plan_says(make_plan: MakePlan) -> None:
    plan = make_plan(on("g5"))
    advice, new = more_gpus(plan, 784.0, seconds(0.2)), replan(plan, seconds(0.2))
    assert isinstance(advice, CriticalBatch)
    assert new is not None
    (row,) = [row for row in advice.rows if row.reference]
    assert (row.time_hours, row.cost_usd) == (new.time_hours, new.cost_usd)
    assert row.examples == plan.data.train_samples * plan.workload.epochs
    assert advice.speed == "measured"


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_finder_on_another_gpu_leaves_the_estimates(make_plan: MakePlan, schedule: str) -> None:
    plan = make_plan(on("p4d", **{"workload.accumulate": 4, "workload.batch_schedule": schedule}))
    advice, train = more_gpus(plan, 784.0, seconds(99.0)), plan.step("train")
    assert isinstance(advice, CriticalBatch)
    assert train is not None
    assert advice.speed == "estimated"
    assert next(row for row in advice.rows if row.reference).cost_usd == train.cost_usd


def test_a_batch_that_the_data_do_not_fill_has_no_time(make_plan: MakePlan) -> None:
    plan = make_plan(on("g5", **{"workload.data": "fake:3x32x32:10:300"}))
    by_gpus = {one.gpus: one for one in plan.gpu_options}
    assert isinstance(by_gpus[8].time_hours, Unknown)
    assert "fewer than one global batch of 512" in by_gpus[8].time_hours.unknown
    advice = more_gpus(plan, 100.0, seconds(0.2))
    assert isinstance(advice, CriticalBatch)
    assert isinstance(advice.rows[-1].time_hours, Unknown)


def test_this_machine_runs_no_more_processes_than_it_has(make_plan: MakePlan) -> None:
    plan = make_plan({"launch.world_size": 1})
    more = next(one for one in plan.gpu_options if one.gpus == 8)
    assert isinstance(more.time_hours, Unknown)
    assert "no machine here has 8" in more.time_hours.unknown


def test_a_given_learning_rate_leaves_nothing_to_advise_by(make_plan: MakePlan) -> None:
    assert make_plan(on("g5", **{"lr.learning_rate": 0.1})).gpu_options == ()


def test_a_range_test_alone_has_them_too(make_plan: MakePlan) -> None:
    assert make_plan(on("g5", **{"launch.pipeline": "lr"})).gpu_options == make_plan(on("g5")).gpu_options


def test_a_noise_scale_without_signal_says_so(make_plan: MakePlan) -> None:
    unknown = more_gpus(make_plan(on("g5")), None, seconds(0.2))
    assert isinstance(unknown, Unknown)
    assert "no signal" in unknown.unknown
