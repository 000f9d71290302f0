"""How often a training will save: from what saving takes and how often its machines are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.planning.checkpointing import Checkpoints, hours_between_failures, saves_within_epochs
from gpuplan.planning.job_input import job_input
from gpuplan.planning.speed.throughput import Hours
from gpuplan_job.checkpoint_interval import interval_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.planning.plan import LaunchPlan, StepPlan
    from gpuplan_job.contract import Expected

    MakePlan = Callable[..., LaunchPlan]

G5 = {"launch.instance": "g5", "workload.model": "resnet50", "workload.data": "imagenet", "launch.backend": "sagemaker"}


def saving(plan: LaunchPlan) -> Checkpoints:
    found = plan.steps[-1].checkpoints
    assert found is not None
    return found


def expected(plan: LaunchPlan, step: StepPlan) -> Expected:
    told = job_input(plan, step, run_id="r", attempt=1, learning_rate=0.1).expected
    assert told is not None
    return told


def test_spot_saves_more_often_than_on_demand_and_many_instances_more_often_than_one(make_plan: MakePlan) -> None:
    on_demand, spot = saving(make_plan(G5)), saving(make_plan(G5 | {"launch.spot": True}))
    eight = saving(make_plan(G5 | {"launch.spot": True, "launch.nodes": 8}))
    assert on_demand.interval_minutes == 30
    assert spot.interval_minutes == pytest.approx(
        interval_seconds(0.409, spot.hours_between_failures * 3600) / 60, 0.01
    )
    assert eight.interval_minutes < spot.interval_minutes < on_demand.interval_minutes
    assert eight.hours_between_failures == pytest.approx(spot.hours_between_failures / 8)
    assert hours_between_failures(1, spot=True) == pytest.approx(9.49, 0.01)


def test_what_is_asked_for_is_sent_and_what_is_not_the_job_works_out_for_itself(make_plan: MakePlan) -> None:
    for minutes, sent in ((None, None), (3, 180)):
        plan = make_plan(G5 | {"launch.checkpoint_minutes": minutes})
        train = job_input(plan, plan.steps[-1], run_id="r", attempt=1, learning_rate=0.1).train
        assert train is not None
        assert train.checkpoint_seconds == sent
        assert train.mean_seconds_between_failures == pytest.approx(saving(plan).hours_between_failures * 3600)
        assert saving(plan).asked == (minutes is not None)


def test_what_searches_saves_nothing_and_its_job_needs_no_room_for_it(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"launch.pipeline": "batch-then-lr-then-train"})
    assert [(step.name, step.checkpoints is None) for step in plan.steps] == [
        ("find-batch", True),
        ("lr-find", True),
        ("train", False),
    ]
    assert [expected(plan, step).checkpoint_gib is None for step in plan.steps] == [True, True, False]


def test_an_average_of_the_weights_is_saved_with_them(make_plan: MakePlan) -> None:
    plans = make_plan(G5), make_plan(G5 | {"workload.ema_decay": 0.999})
    plain, averaged = (expected(plan, plan.steps[-1]).checkpoint_gib for plan in plans)
    assert plain == pytest.approx((2 * 4 * 25_557_032 + 212_904) / 1024**3, rel=1e-3)
    assert averaged == pytest.approx((3 * 4 * 25_557_032 + 2 * 212_904) / 1024**3, rel=1e-3)


def test_each_job_is_told_the_batches_that_its_own_workers_hold(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"workload.data": "imagenet:s3://bucket/x", "workload.image_size": 224})
    batch_gib = plan.batch.train.per_gpu * 3 * 224 * 224 * 4 / 1024**3
    assert len({step.workers for step in plan.steps}) == 2
    for step in plan.steps:
        assert expected(plan, step).loader_gib == pytest.approx(step.workers * 2 * batch_gib, rel=1e-3)


def test_saves_within_an_epoch_are_those_that_its_own_does_not_make_needless(make_plan: MakePlan) -> None:
    plan = saving(make_plan(G5 | {"launch.checkpoint_minutes": 10}))
    assert saves_within_epochs(plan, Hours(p50=1.0, p90=2.0), 2) == (4, 10)
    assert saves_within_epochs(plan, Hours(p50=0.1, p90=0.2), 2) == (0, 0)
