"""What a plan says of a batch search: where, from where, up to where, and what it expects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli.planning import gather, resolve_profile
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.pipelines import base as pipelines
from gpuplan.planning.job_input import job_input
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan_job.batch_search import Search, aligned

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import FindBatchPlan, LaunchPlan, StepPlan
    from gpuplan_job.step_trace import TraceRequest

SEARCH: dict[str, object] = {"launch.pipeline": "find-batch", "launch.backend": "sagemaker", "launch.instance": "g5"}
ALL: dict[str, object] = SEARCH | {"launch.pipeline": "batch-then-lr-then-train"}
IMAGENET: dict[str, object] = {"workload.model": "resnet50", "workload.data": "imagenet", "workload.epochs": 90}


def parts(plan: LaunchPlan) -> tuple[FindBatchPlan, StepPlan]:
    step = plan.step("find-batch")
    assert step is not None
    assert plan.find_batch is not None
    return plan.find_batch, step


@pytest.mark.parametrize(
    ("instance", "machine", "idle"),
    [("g5", "ml.g5.xlarge", False), ("g6e", "ml.g6e.xlarge", False), ("p4d", "ml.p4d.24xlarge", True)],
)
def test_it_runs_on_one_gpu_of_the_trainings_kind_and_never_on_another(
    make_plan: MakePlan, instance: str, machine: str, *, idle: bool
) -> None:
    plan = make_plan(ALL | IMAGENET | {"launch.instance": instance})
    told, step = parts(plan)
    assert (step.instance_type, step.gpus, step.gpu_model) == (machine, 1, plan.gpu)
    assert ("idle" in told.reason) is idle


def test_later_steps_are_planned_at_the_batch_that_the_search_finds_on_the_memory_model(make_plan: MakePlan) -> None:
    plan = make_plan(ALL | IMAGENET)
    told, step = parts(plan)
    assert isinstance(told.predicted, int)
    assert plan.batch.train.per_gpu == plan.batch.lr_find.per_gpu == told.predicted == aligned(told.predicted)
    assert told.predicted in step.tries
    train = plan.step("train")
    assert train is not None
    assert isinstance(train.memory, MemoryEstimate)
    assert 0.7 * train.memory.capacity_gib < train.memory.peak_gib <= 0.8 * train.memory.capacity_gib


def test_a_smaller_share_or_a_smaller_card_leads_to_a_smaller_batch(make_plan: MakePlan) -> None:
    whole = make_plan(ALL | IMAGENET).batch.train.per_gpu
    assert make_plan(ALL | IMAGENET | {"find_batch.memory_share": 0.5}).batch.train.per_gpu < whole
    assert make_plan(ALL | IMAGENET | {"find_batch.memory_gib": 8.0}).batch.train.per_gpu < whole


@pytest.mark.parametrize(
    ("values", "largest", "why"),
    [
        ({"workload.epochs": 20}, 1437 * 20 // 100 // 4, "100 steps"),
        ({"workload.epochs": 1}, 64, "few steps already"),
        ({"find_batch.largest": 50}, 50, "--largest-batch"),
        ({"find_batch.largest": 5000}, 1437 // 4, "1,437 training samples"),
        ({"workload.accumulate": 2, "find_batch.largest": 5000}, 1437 // 8, "1,437 training samples"),
        ({"workload.epochs": 5000}, 1437 // 4, "1,437 training samples"),
    ],
)
def test_the_bound_is_that_of_data_steps_or_setting_and_says_so(
    make_plan: MakePlan, values: dict[str, object], largest: int, why: str
) -> None:
    told, step = parts(make_plan(SEARCH | values))
    assert step.search is not None
    assert told.largest == step.search.largest == largest
    assert why in told.largest_why
    assert max(step.tries) <= largest


def test_the_job_is_told_where_to_start_and_what_the_training_is(make_plan: MakePlan) -> None:
    plan = make_plan(SEARCH | IMAGENET | {"workload.accumulate": 2, "workload.per_gpu_batch": 24})
    job = job_input(plan, plan.steps[0], run_id="r-1", attempt=1, learning_rate=None)
    assert job.batch_search is not None
    assert (job.batch.per_gpu, job.batch.world_size) == (24, 1)
    assert (job.batch_search.world_size, job.batch_search.accumulation) == (4, 2)
    assert Search(job.batch_search, job.batch.per_gpu, 24.0).next_batch() == plan.steps[0].tries[0] == 24


def test_a_model_whose_memory_is_not_known_is_planned_at_the_batch_in_the_settings(make_plan: MakePlan) -> None:
    class Untraced:
        def find(self, request: TraceRequest) -> Unknown:
            return Unknown(unknown=f"{request.model} has no trace")

    known = make_plan(ALL | IMAGENET).provenance.settings
    inputs = replace(gather(known, resolve_profile("g5")), traces=Untraced())
    plan = pipelines.load("batch-then-lr-then-train").build(inputs)
    told, step = parts(plan)
    assert told.predicted == told.estimated_peak_gib == Unknown(unknown="resnet50 has no trace")
    assert plan.batch.train.per_gpu == known.workload.per_gpu_batch
    assert step.tries == ()
    assert isinstance(step.time_hours, Unknown)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"lr.finder_batch": 32}, "--finder-batch"),
        ({"launch.spot": True}, "--spot"),
        ({"lr.learning_rate": 0.1}, "--lr"),
    ],
)
def test_what_contradicts_the_search_is_refused(make_plan: MakePlan, values: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(SEARCH | values)
    assert named in caught.value.what


def test_the_search_costs_time_and_dollars_before_the_training_does(make_plan: MakePlan) -> None:
    plan = make_plan(ALL | IMAGENET)
    assert [step.name for step in plan.steps] == ["find-batch", "lr-find", "train"]
    _, step = parts(plan)
    assert not isinstance(step.cost_usd, Unknown)
    assert not isinstance(plan.total.cost_usd, Unknown)
    assert 0 < step.cost_usd.p50 < step.cost_usd.p90 < plan.total.cost_usd.p50
    assert step.limits is not None
    assert step.alternatives == ()
