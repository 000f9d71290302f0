"""The warm-up that a training gets: by the growth of its batch, by the policy, or as asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuplan.core.errors import UsageError
from gpuplan.planning.job_input import job_input
from gpuplan_job.contract import TrainSpec

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.planning.warm_up import WarmUpPlan

G5: dict[str, object] = {
    "launch.instance": "g5",
    "launch.backend": "sagemaker",
    "workload.data": "fake:3x32x32:10:51200",
    "workload.epochs": 90,
}
SHARED = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixture is a factory without state."""


def warmup(plan: LaunchPlan) -> WarmUpPlan:
    assert plan.lr.warmup is not None
    return plan.lr.warmup


def told(plan: LaunchPlan, multiplier: float | None = None) -> TrainSpec:
    step = plan.step("train")
    assert step is not None
    job = job_input(plan, step, run_id="run", attempt=1, learning_rate=0.1, multiplier=multiplier)
    assert job.train is not None
    return replace(job.train, mean_seconds_between_failures=None)


def test_sixteen_times_the_batch_warms_up_for_five_epochs_from_a_sixteenth(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"launch.nodes": 4})
    found = warmup(plan)
    assert (found.epochs, found.start, found.why) == (5.0, 1 / 16, "the batch grows 16 x")
    assert found.steps == 5 * plan.batch.steps_per_epoch
    assert told(plan, 9.0) == TrainSpec(0.1, found.steps, 1 / 16)


@SHARED
@given(st.integers(1, 16), st.integers(1, 200))
def test_a_warm_up_is_at_most_five_epochs_and_a_tenth_of_the_training(
    make_plan: MakePlan, nodes: int, epochs: int
) -> None:
    plan = make_plan(G5 | {"launch.nodes": nodes, "workload.epochs": epochs})
    found = warmup(plan)
    assert found.epochs == min(5.0, 0.1 * epochs)
    assert found.steps == max(1, round(found.epochs * plan.batch.steps_per_epoch))
    assert found.start == 1 / (4 * nodes)


@pytest.mark.parametrize("gpus", [1, 2])
def test_up_to_twice_the_batch_trains_without(make_plan: MakePlan, gpus: int) -> None:
    plan = make_plan(G5 | {"launch.world_size": gpus})
    assert warmup(plan).steps == 0
    assert told(plan, 2.0) == TrainSpec(0.1)


@pytest.mark.parametrize("more", [{"lr.transfer": "none"}, {"lr.fixed": "steps"}], ids=str)
def test_a_policy_that_keeps_the_learning_rate_needs_none(make_plan: MakePlan, more: dict[str, object]) -> None:
    found = warmup(make_plan(G5 | more))
    assert found.steps == 0
    assert found.why == "the learning rate does not grow with the batch: transfer none"


@pytest.mark.parametrize("multiplier", [1.0, 0.7])
def test_a_learning_rate_that_turns_out_not_to_grow_needs_none(make_plan: MakePlan, multiplier: float) -> None:
    plan = make_plan(G5)
    assert warmup(plan).steps > 0
    assert told(plan, multiplier) == TrainSpec(0.1)
    assert told(plan, 1.01).warmup_steps == warmup(plan).steps


def test_a_given_learning_rate_has_none_unless_asked(make_plan: MakePlan) -> None:
    assert warmup(make_plan(G5 | {"lr.learning_rate": 0.1})).steps == 0
    plan = make_plan(G5 | {"lr.learning_rate": 0.1, "lr.warmup_epochs": 2.0})
    assert told(plan) == TrainSpec(0.1, 2 * plan.batch.steps_per_epoch, 1 / 25)


def test_what_is_asked_for_holds_whatever_the_learning_rate_does(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"lr.warmup_epochs": 1.0})
    assert told(plan, 0.5) == TrainSpec(0.1, plan.batch.steps_per_epoch, 1 / 4)
    assert warmup(plan).why == "as asked"


def test_none_can_be_asked_for(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"lr.warmup_epochs": 0.0})
    assert (warmup(plan).steps, warmup(plan).asked) == (0, True)
    assert told(plan, 3.0) == TrainSpec(0.1)


def test_a_warm_up_that_does_not_end_is_refused_with_one_that_does(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match=r"--warmup-epochs 90 does not end within 90 epochs") as caught:
        make_plan(G5 | {"lr.warmup_epochs": 90.0})
    assert "--warmup-epochs 5" in caught.value.fix
