"""Laws that every file in `gpuplan/pipelines` keeps, whatever is in the folder."""

from __future__ import annotations

from itertools import product

import pytest

from gpuplan.cli.planning import resolve_profile
from gpuplan.core.errors import UsageError
from gpuplan.pipelines import base
from gpuplan.planning.inputs import PlanInputs
from gpuplan.planning.job_input import job_input
from gpuplan.planning.plan import LaunchPlan
from gpuplan.planning.traces.source import Shipped
from gpuplan.workload.load import Layers, validate
from gpuplan_job import data
from gpuplan_job.contract import JobInput
from gpuplan_job.document import ContractError

PIPELINES = base.names()
INSTANCES = ("local", "g5", "p4de")
EVERY_PIPELINE = pytest.mark.parametrize("name", PIPELINES)
EVERY_PLAN = pytest.mark.parametrize(("name", "instance"), list(product(PIPELINES, INSTANCES)))


def inputs(instance: str, **lr: object) -> PlanInputs:
    """Return what a pipeline is a function of."""
    profile = resolve_profile(instance)
    layers = Layers()
    layers.add(
        {
            "launch.instance": instance,
            "launch.backend": profile.defaults.backend,
            "aws.region": profile.defaults.region or "none",
            "workload.per_gpu_batch": 32,
            "workload.precision": profile.defaults.precision,
            "workload.workers": 2,
            "workload.accumulate": 2,
        },
        "the test",
    )
    layers.add({f"lr.{key}": value for key, value in lr.items()}, "the test")
    return PlanInputs(
        settings=validate(layers),
        profile=profile,
        data=data.describe("digits"),
        traces=Shipped(),
        payload_sha256="0" * 64,
        gpuplan_version="0",
    )


def build(name: str, instance: str = "g5") -> LaunchPlan:
    """Return a plan of the pipeline, with a learning rate given if it wants one."""
    pipeline = base.load(name)
    try:
        return pipeline.build(inputs(instance))
    except UsageError:
        return pipeline.build(inputs(instance, learning_rate=0.05))


def test_there_are_pipelines() -> None:
    assert {"batch-then-lr-then-train", "find-batch", "lr", "lr-then-train", "train"} <= set(PIPELINES)


@EVERY_PLAN
def test_the_same_inputs_make_the_same_plan(name: str, instance: str) -> None:
    assert build(name, instance).plan_id == build(name, instance).plan_id


@EVERY_PIPELINE
def test_the_payload_that_will_run_is_part_of_the_plan(name: str) -> None:
    plan = build(name)
    assert plan.provenance.payload_sha256 == "0" * 64
    assert plan.provenance.profile_sha256 == resolve_profile("g5").digest()


@EVERY_PLAN
def test_a_plan_names_its_pipeline_and_its_steps_in_the_order_in_which_they_run(name: str, instance: str) -> None:
    plan = build(name, instance)
    assert plan.pipeline == name
    steps = [step.name for step in plan.steps]
    assert steps
    assert steps == [step for step in ("find-batch", "lr-find", "train") if step in steps]


@EVERY_PLAN
def test_lr_find_and_train_use_the_same_per_gpu_batch(name: str, instance: str) -> None:
    plan = build(name, instance)
    assert plan.batch.lr_find.per_gpu == plan.batch.train.per_gpu == 32
    for step in plan.steps:
        assert step.gpus == step.batch.world_size
        if step.name != "find-batch":
            assert step.batch.per_gpu == 32
            assert step.batch == (plan.batch.lr_find if step.name == "lr-find" else plan.batch.train)


@EVERY_PLAN
def test_a_step_has_a_sweep_when_and_only_when_it_is_lr_find(name: str, instance: str) -> None:
    for step in build(name, instance).steps:
        assert (step.sweep is not None) == (step.name == "lr-find")
        assert (step.search is not None) == (step.name == "find-batch")


@EVERY_PLAN
def test_every_step_can_be_told_to_a_job(name: str, instance: str) -> None:
    plan = build(name, instance)
    for step in plan.steps:
        job = job_input(plan, step, run_id="r-1", attempt=1, learning_rate=0.05)
        assert JobInput.from_json(job.to_json()) == job
        assert (job.train is not None) == (step.name == "train")
        assert (job.sweep, job.batch_search) == (step.sweep, step.search)
        assert job.plan_id == plan.plan_id


@EVERY_PLAN
def test_json_and_back_is_the_same_plan(name: str, instance: str) -> None:
    plan = build(name, instance)
    assert LaunchPlan.model_validate_json(plan.canonical_json()) == plan


@EVERY_PIPELINE
@pytest.mark.parametrize("learning_rate", [None, 0.05])
def test_a_pipeline_builds_or_says_what_it_needs(name: str, learning_rate: float | None) -> None:
    try:
        plan = base.load(name).build(inputs("g5", learning_rate=learning_rate))
    except UsageError as error:
        assert "--" in error.what + error.fix  # noqa: PT017 - both outcomes are right
    else:
        assert (plan.step("lr-find") is None) or learning_rate is None, "what is given is not looked for"


@EVERY_PIPELINE
def test_too_little_data_is_refused(name: str) -> None:
    few = inputs("g5", learning_rate=0.05 if name == "train" else None)
    few = PlanInputs(few.settings, few.profile, data.describe("fake:1x8x8:2:8"), few.traces, few.payload_sha256, "0")
    with pytest.raises(UsageError, match="fewer than one global batch"):
        base.load(name).build(few)


def test_an_unknown_pipeline_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        base.load("lr-then-trian")
    assert caught.value.why == "did you mean 'lr-then-train'?"


def test_a_job_refuses_a_training_that_is_not_bound() -> None:
    plan = build("train")
    with pytest.raises((ValueError, ContractError), match="learning rate"):
        job_input(plan, plan.steps[-1], run_id="r-1", attempt=1, learning_rate=None)
