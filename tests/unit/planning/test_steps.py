"""What a step is planned with beyond its machine: spot capacity, and only where an interruption loses little."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli.options import Given
from gpuplan.cli.planning import built, gather, over_defaults, resolve_profile, said, settled
from gpuplan.core.errors import UsageError
from gpuplan.planning.batch import StepBatch, plan_batches
from gpuplan.planning.money.cost import Cost
from gpuplan.planning.range_test import range_test
from gpuplan.planning.speed.throughput import Hours
from gpuplan.planning.steps import train_step
from gpuplan_job.code_check import CodeCheck, OwnOptimizer

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import LaunchPlan, StepPlan
    from gpuplan_job.code_check import OptimizerKind

G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
SPOT: dict[str, object] = G5 | {"launch.spot": True}
IMAGES: dict[str, object] = G5 | {
    "workload.model": "resnet50",
    "workload.data": "imagenet",
    "lr.iterations": 60,  # how long a range test is by itself is not what is looked at here
}


def inputs(values: dict[str, object]) -> PlanInputs:
    """Return what a plan is a function of."""
    upper = said(Given(values, dict.fromkeys(values, "the test"), None))
    profile = resolve_profile("g5")
    return gather(settled(over_defaults(upper, profile)), profile)


def hours(step: StepPlan) -> Hours:
    assert isinstance(step.time_hours, Hours)
    return step.time_hours


def naive(plan: LaunchPlan) -> Cost:
    assert plan.finder is not None
    assert isinstance(plan.finder.naive_cost_usd, Cost)
    return plan.finder.naive_cost_usd


def test_spot_is_for_the_training_alone(make_plan: MakePlan) -> None:
    # A range test writes no checkpoint.
    assert [(step.name, step.spot) for step in make_plan(SPOT).steps] == [("lr-find", False), ("train", True)]
    assert not any(step.spot for step in make_plan(G5).steps)


def test_spot_is_priced_as_on_demand(make_plan: MakePlan) -> None:
    spot, plain = make_plan(SPOT), make_plan(G5)
    assert [step.cost_usd for step in spot.steps] == [step.cost_usd for step in plain.steps]
    # It saves more often, which makes more requests to S3.
    assert spot.total.time_hours == plain.total.time_hours


@pytest.mark.parametrize("backend", ["local", "fake"])
def test_a_backend_without_spot_capacity_refuses_it(make_plan: MakePlan, backend: str) -> None:
    with pytest.raises(UsageError, match=f"backend {backend} has no spot capacity") as caught:
        make_plan(SPOT | {"launch.backend": backend})
    assert caught.value.fix == "drop --spot"


def test_a_training_of_one_epoch_may_run_on_spot_for_it_saves_within_it(make_plan: MakePlan) -> None:
    step = make_plan(SPOT | {"workload.epochs": 1}).steps[-1]
    assert step.spot
    assert step.checkpoints is not None
    assert step.checkpoints.interval_minutes < 30


def test_a_pipeline_of_a_range_test_alone_refuses_spot(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="lr-find writes no checkpoint"):
        make_plan(SPOT | {"launch.pipeline": "lr"})


def test_a_step_knows_the_gpu_that_its_image_must_support(make_plan: MakePlan) -> None:
    # lr-find for p4d runs on another GPU than the training.
    plan = make_plan({"launch.instance": "p4d", "launch.backend": "sagemaker"})
    assert [step.compute_capability for step in plan.steps] == ["8.9", "8.0"]
    assert [step.compute_capability for step in make_plan(G5).steps] == ["8.6", "8.6"]


@pytest.mark.parametrize(("kind", "momentum", "as_if"), [("sgd", 0.0, "sgd"), ("adamw", 0.0, "adamw")])
def test_an_optimizer_of_a_users_own_takes_time_and_checkpoints_as_the_check_has_found_it(
    kind: OptimizerKind, momentum: float, as_if: str
) -> None:
    known = inputs(IMAGES | {"workload.momentum": momentum, "workload.optimizer": as_if})
    workload = known.settings.workload.model_copy(update={"optimizer": "own", "momentum": 0.9})
    found = OwnOptimizer("Theirs", kind, momentum, 0.0, rate_at="lr", follows=True)
    own = replace(
        known,
        settings=known.settings.model_copy(update={"workload": workload}),
        checked=CodeCheck(known.data, [], "lightning", [], found, "", []),
    )
    batches = plan_batches(known.data.train_samples, StepBatch.of(64, 4), epochs=2)
    ours, theirs = train_step(known, batches), train_step(own, batches)
    assert theirs.time_hours == ours.time_hours
    assert theirs.checkpoints == ours.checkpoints
    assert range_test(own, batches) == range_test(known, batches)


def test_data_on_s3_are_streamed_to_a_range_test_and_copied_to_a_training(make_plan: MakePlan) -> None:
    for data in ("imagenet", "imagenet:s3://bucket/x", "imagefolder:s3://bucket/x?train=9999&val=99&classes=9&bytes=9"):
        plan = make_plan(IMAGES | {"workload.data": data})
        assert [step.s3_data for step in plan.steps] == ["streamed", "copied"]
    for values in ({"workload.data": "digits"}, {"launch.backend": "fake"}):
        plan = make_plan(IMAGES | values)
        assert [step.s3_data for step in plan.steps] == [None, None]


def test_shards_on_s3_are_copied_to_both_steps_and_counted_as_the_objects_they_are(make_plan: MakePlan) -> None:
    data = "webdataset:s3://bucket/x?train=100000&val=1000&classes=9&bytes=110000&shards=101"
    plan = make_plan(IMAGES | {"workload.data": data})
    assert [step.s3_data for step in plan.steps] == ["copied", "copied"]
    reads = [charge.how for step in plan.steps for charge in step.charges if charge.name == "s3-reads"]
    assert [how.partition(",")[0] for how in reads] == ["101 objects of data"] * 2
    assert [step.workers for step in plan.steps] == [3, 11], "nobody waits for S3"


def test_a_copy_is_billed_time_before_the_first_step(make_plan: MakePlan) -> None:
    local = "fake:3x224x224:1000:1281167"
    there, here = (make_plan(IMAGES | {"workload.data": data}).steps[1] for data in ("imagenet", local))
    # 146 GB at AWS's 6 s a GB, p90 twice that; 4 and 7 min of start-up without it.
    low, high = there.startup_minutes
    assert low - here.startup_minutes[0] == pytest.approx(14.6, abs=0.1)
    assert high - here.startup_minutes[1] == pytest.approx(29.3, abs=0.1)


def test_the_copy_is_in_the_time_of_the_training_and_not_in_that_of_the_range_test() -> None:
    known = inputs(IMAGES)
    shape = known.profile.train.model_copy(update={"network_gbps": None})
    unknown = replace(known, profile=known.profile.model_copy(update={"train": shape}))
    (finder, with_copy), (same_finder, without) = built(known).steps, built(unknown).steps
    assert hours(finder) == hours(same_finder)
    minutes = with_copy.startup_minutes[0] - without.startup_minutes[0]
    assert without.startup_minutes == (4.0, 7.0)
    assert hours(with_copy).p50 - hours(without).p50 == pytest.approx(minutes / 60)
    assert [w.code for w in built(unknown).warnings if w.code == "unknown-copy"] == ["unknown-copy"]
    assert "unknown-copy" not in {warning.code for warning in built(known).warnings}


def test_a_range_test_on_s3_waits_for_the_list_and_for_each_image(make_plan: MakePlan) -> None:
    there, here = make_plan(IMAGES), make_plan(IMAGES | {"workload.data": "fake:3x224x224:1000:1281167"})
    step = there.steps[0]
    assert step.startup_minutes[0] - here.steps[0].startup_minutes[0] == pytest.approx(1332 * 0.1 / 60)
    assert step.bound == "start-up"
    assert step.samples_per_second == pytest.approx(160)
    assert naive(there).p50 > naive(here).p50, "the naive finder waits for both, too"


def test_what_a_measured_step_is_scaled_by_does_not_depend_on_where_the_images_are(make_plan: MakePlan) -> None:
    # lr-find measures its steps without the wait for data, so that wait must not be in the ratio.
    on_s3, local = make_plan(IMAGES), make_plan(IMAGES | {"launch.backend": "fake", "launch.device": "cuda"})
    assert on_s3.steps[1].measured_scale == local.steps[1].measured_scale is not None
    assert on_s3.steps[1].loading_seconds == local.steps[1].loading_seconds
