"""Practices of a training in its plan: what cannot be had together, what grows, what it costs in memory and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.job_input import job_input
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSpec

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan, StepPlan

BASE: dict[str, object] = {
    "launch.instance": "g5",
    "workload.model": "resnet50",
    "workload.data": "imagenet",
    "workload.epochs": 6,
    "workload.accumulate": 4,
}


def plan(**workload: Any) -> LaunchPlan:  # noqa: ANN401 - any setting
    values = BASE | {f"workload.{name}": value for name, value in workload.items()}
    return plan_from(Given(values, dict.fromkeys(values, "the test"), None)).plan


def train(**workload: Any) -> StepPlan:  # noqa: ANN401 - as above
    step = plan(**workload).step("train")
    assert step is not None
    return step


def peak(**workload: Any) -> float:  # noqa: ANN401 - as above
    memory = train(**workload).memory
    assert not isinstance(memory, Unknown)
    return memory.peak_gib


def hours(**workload: Any) -> float:  # noqa: ANN401 - as above
    time = train(**workload).time_hours
    assert not isinstance(time, Unknown)
    return time.p50


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"optimizer": "own"}, "resnet50 is a torchvision network", "--optimizer sgd"),
        (
            {"schedule": "own"},
            "goes with the optimizer that the model configures",
            "--schedule onecycle",
        ),
        ({"batch_schedule": "linear", "accumulate": 1}, "has nothing to grow", "--accumulate 4"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_a_way_out(
    settings: dict[str, object], what: str, fix: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan(**settings)
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("schedule", ["linear", "exponential"])
def test_a_growing_batch_has_more_steps_more_hours_and_shares_of_the_rate(schedule: Any) -> None:  # noqa: ANN401 - a literal
    growing = plan(batch_schedule=schedule)
    layout = TrainingLayout.of(growing.data.train_samples, BatchSpec(64, 4, 4), schedule, 6)
    step = growing.step("train")
    assert step is not None
    assert step.optimizer_steps == layout.steps > 6 * growing.batch.steps_per_epoch
    assert hours(batch_schedule=schedule) >= hours()
    job = job_input(growing, step, run_id="run", attempt=1, learning_rate=0.1, multiplier=2.0)
    assert job.train is not None
    assert job.train.lr_shares[0] == pytest.approx(0.5), "sqrt of a quarter of the batch"
    assert job.train.lr_shares[-1] == 1.0
    assert job.train.lr_shares == sorted(job.train.lr_shares)


def test_a_warm_up_lasts_its_epochs_at_the_batch_that_they_have() -> None:
    constant, growing = plan().lr.warmup, plan(batch_schedule="linear").lr.warmup
    assert constant is not None
    assert growing is not None
    assert growing.epochs == constant.epochs
    assert growing.steps == pytest.approx(4 * constant.steps, rel=0.01)


def test_averaged_weights_take_their_memory_and_their_time() -> None:
    weights_gib = 4 * 25.6e6 / 2**30
    assert peak(ema_decay=0.999) - peak() == pytest.approx(weights_gib, rel=0.3)
    assert hours(ema_decay=0.999) > hours()


def test_adaptive_optimizers_keep_two_moments() -> None:
    assert peak(optimizer="lamb") == pytest.approx(peak(optimizer="adamw"))
    assert peak(optimizer="lamb") > peak()


def codes(found: LaunchPlan) -> dict[str, str]:
    return {warning.code: warning.fix for warning in found.warnings}


def test_a_small_batchnorm_can_be_synchronised() -> None:
    assert "--sync-batchnorm" in codes(plan(per_gpu_batch=8))["small-batchnorm"]
    assert "small-batchnorm" not in codes(plan(per_gpu_batch=8, sync_batchnorm=True))
    assert "small-batchnorm" in codes(plan(per_gpu_batch=2, sync_batchnorm=True))


def test_a_huge_batch_asks_for_lamb_and_is_content_with_it() -> None:
    huge = {"per_gpu_batch": 256, "accumulate": 16}
    assert "--optimizer lamb" in codes(plan(**huge))["large-global-batch"]
    assert "large-global-batch" not in codes(plan(**huge, optimizer="lamb"))
