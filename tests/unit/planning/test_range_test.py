"""What lr-find is told: how long its sweeps are, which training they are for, and at which other batches it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import UsageError
from gpuplan_job import sweep_design
from gpuplan_job.contract import BatchSpec
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan_job.contract import SweepSpec

SAMPLES = 4500
"""Nine tenths of 5,000: fake data hold the rest for validation."""
FOUR_GPUS: dict[str, object] = {
    "launch.instance": "g5",
    "workload.data": "fake:3x32x32:10:5000",
    "workload.per_gpu_batch": 64,
    "workload.epochs": 7,
}
ON_ONE_GPU = 7 * EpochLayout(SAMPLES, 64, 1, 1).steps
ON_FOUR = 7 * EpochLayout(SAMPLES, 64, 4, 1).steps


def sweep(plan: LaunchPlan) -> SweepSpec:
    step = plan.step("lr-find")
    assert step is not None
    assert step.sweep is not None
    return step.sweep


def test_sweeps_are_designed_for_the_training_on_one_gpu(make_plan: MakePlan) -> None:
    for epochs in (7, 70, 1):
        spec = sweep(make_plan(FOUR_GPUS | {"workload.epochs": epochs}))
        steps = epochs * EpochLayout(SAMPLES, 64, 1, 1).steps
        assert spec.reference_steps == steps
        assert spec.iterations == sweep_design.iterations(steps)
        assert (spec.lr_min, spec.lr_max) == sweep_design.lr_range("sgd", 0.9)


def test_what_the_user_says_of_a_sweep_goes_over_its_design(make_plan: MakePlan) -> None:
    own = {"lr.iterations": 77, "lr.lr_min": 1e-6, "lr.lr_max": 3.0, "lr.runs": 5}
    spec = sweep(make_plan(FOUR_GPUS | own))
    assert (spec.iterations, spec.lr_min, spec.lr_max, spec.runs) == (77, 1e-6, 3.0, 5)


@pytest.mark.parametrize("limits", [{"lr.lr_min": 50.0}, {"lr.lr_max": 1e-7}], ids=str)
def test_a_limit_beyond_the_other_ones_design_is_refused_before_anything_is_paid(
    make_plan: MakePlan, limits: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="would sweep from") as caught:
        make_plan(FOUR_GPUS | limits)
    assert "both --lr-min and --lr-max" in caught.value.fix


def test_the_target_is_the_training_on_all_gpus(make_plan: MakePlan) -> None:
    target = sweep(make_plan(FOUR_GPUS | {"lr.rule": "minimum"})).target
    assert (target.rule, target.global_batch, target.steps, target.fixed) == ("minimum", 256, ON_FOUR, "epochs")


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "sqrt"),
        ({"lr.fixed": "steps"}, "none"),
        ({"lr.fixed": "steps", "lr.transfer": "sqrt"}, "sqrt"),
        ({"lr.transfer": "linear"}, "linear"),
    ],
    ids=str,
)
def test_the_policy_follows_from_what_the_training_fixes_unless_it_is_named(
    make_plan: MakePlan, given: dict[str, object], policy: str
) -> None:
    plan = make_plan(FOUR_GPUS | given)
    assert sweep(plan).target.transfer == plan.lr.transfer == policy
    default = f"the default where the {plan.lr.fixed} are fixed"
    assert plan.lr.transfer_why == ("as given" if "lr.transfer" in given else default)


def test_where_the_steps_are_fixed_one_gpu_would_take_as_many(make_plan: MakePlan) -> None:
    spec = sweep(make_plan(FOUR_GPUS | {"lr.fixed": "steps", "lr.compare_batches": (32,)}))
    assert spec.reference_steps == spec.target.steps == ON_FOUR
    assert [at.reference_steps for at in spec.compare] == [ON_FOUR]


def test_there_is_no_check_unless_asked_for(make_plan: MakePlan) -> None:
    plan = make_plan(FOUR_GPUS)
    assert sweep(plan).check is None
    assert plan.lr.check is False


@pytest.mark.parametrize("given", [{"lr.check": True}, {"lr.transfer": "accumulate"}], ids=str)
def test_a_check_accumulates_the_trainings_own_global_batch_on_one_gpu(
    make_plan: MakePlan, given: dict[str, object]
) -> None:
    plan = make_plan(FOUR_GPUS | {"workload.accumulate": 2} | given)
    check = sweep(plan).check
    assert check is not None
    assert check.batch == BatchSpec(per_gpu=64, world_size=1, accumulation=8)
    assert check.batch.global_batch == plan.batch.train.global_batch
    assert check.reference_steps == sweep(plan).target.steps
    assert check.runs == sweep_design.CHECK_RUNS
    assert check.iterations == sweep_design.iterations(check.reference_steps)
    assert plan.lr.check is True


def test_a_check_costs_what_its_samples_cost(make_plan: MakePlan) -> None:
    def planned(more: dict[str, object]) -> float:
        step = make_plan(FOUR_GPUS | {"launch.backend": "sagemaker", "workload.model": "resnet50"} | more).steps[0]
        assert step.sweep is not None
        assert not hasattr(step.time_hours, "unknown")
        hours: float = step.time_hours.p50
        return hours * 60 - step.startup_minutes[0]

    spec = sweep(make_plan(FOUR_GPUS | {"lr.check": True}))
    assert spec.check is not None
    noise = 16
    own, check = spec.runs * spec.iterations, spec.check.runs * spec.check.iterations * 4
    assert planned({"lr.check": True}) / planned({}) == pytest.approx((own + check + noise) / (own + noise), rel=0.02)


def test_one_gpu_has_nothing_to_check(make_plan: MakePlan) -> None:
    plan = make_plan(FOUR_GPUS | {"launch.world_size": 1, "lr.check": True})
    assert sweep(plan).check is None
    assert plan.lr.check is False


@pytest.mark.parametrize("given", [{"lr.check": True}, {"lr.transfer": "accumulate"}], ids=str)
def test_a_check_that_cannot_be_accumulated_is_refused_and_not_left_out(
    make_plan: MakePlan, given: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=r"256 cannot be made of lr-find's batches of 48") as caught:
        make_plan(FOUR_GPUS | {"lr.finder_batch": 48} | given)
    assert "--finder-batch" in caught.value.fix
    assert sweep(make_plan(FOUR_GPUS | {"lr.finder_batch": 48})).check is None


def test_batches_to_compare_have_their_own_reference_and_leave_out_lr_finds(make_plan: MakePlan) -> None:
    spec = sweep(make_plan(FOUR_GPUS | {"lr.compare_batches": (32, 64, 128)}))
    assert [at.batch for at in spec.compare] == [BatchSpec(32, 1, 1), BatchSpec(128, 1, 1)]
    assert [at.reference_steps for at in spec.compare] == [7 * EpochLayout(SAMPLES, b, 1, 1).steps for b in (32, 128)]
    assert {(at.runs, at.iterations) for at in spec.compare} == {(spec.runs, spec.iterations)}
    assert spec.samples(BatchSpec(64, 1, 1)) == spec.runs * spec.iterations * (64 + 32 + 128)


def test_a_batch_larger_than_the_data_is_not_compared(make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match=r"--compare-batches 4501: the data have 4,500 training samples") as caught:
        make_plan(FOUR_GPUS | {"lr.compare_batches": (4501,)})
    assert "at most 4500" in caught.value.fix


def test_lr_find_needs_the_memory_of_the_largest_batch_it_sweeps_at(make_plan: MakePlan) -> None:
    def peak(*batches: int) -> float:
        memory = make_plan(FOUR_GPUS | {"workload.model": "resnet50", "lr.compare_batches": batches}).steps[0].memory
        assert not hasattr(memory, "unknown")
        gib: float = memory.peak_gib
        return gib

    assert peak(16, 32) == peak()
    assert peak(16, 512) > 2 * peak()


def test_objects_read_from_s3_are_those_of_all_sweeps(make_plan: MakePlan) -> None:
    from_s3: dict[str, object] = {
        "launch.instance": "g5",
        "launch.backend": "sagemaker",
        "workload.data": "imagenet:s3://my-data/imagenet",
    }
    for more in ({}, {"lr.check": True}, {"lr.compare_batches": (32, 128)}):
        plan = make_plan(from_s3 | more)
        spec, batch = sweep(plan), plan.batch.lr_find
        reads = next(charge for charge in plan.steps[0].charges if charge.name == "s3-reads")
        opened = spec.samples(BatchSpec(batch.per_gpu, 1, 1)) + spec.noise_micro_batches * batch.per_gpu
        assert f"{opened:,} objects opened" in reads.how


@pytest.mark.parametrize("gpus", [1, 16])
def test_a_range_test_alone_is_for_as_many_gpus_as_it_is_told(make_plan: MakePlan, gpus: int) -> None:
    target = sweep(make_plan(FOUR_GPUS | {"launch.pipeline": "lr", "lr.carry_to_gpus": gpus})).target
    assert target.global_batch == 64 * gpus
    assert target.steps == 7 * EpochLayout(SAMPLES, 64, gpus, 1).steps


@pytest.mark.parametrize("pipeline", ["lr-then-train", "train"])
def test_a_training_is_not_told_how_many_gpus_its_learning_rate_is_for(make_plan: MakePlan, pipeline: str) -> None:
    with pytest.raises(UsageError, match="--carry-to-gpus is for a range test alone") as caught:
        make_plan(FOUR_GPUS | {"launch.pipeline": pipeline, "lr.carry_to_gpus": 8, "lr.learning_rate": 0.1})
    assert "--world-size" in caught.value.fix
