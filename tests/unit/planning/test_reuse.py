"""A learning rate from another run's range test: only under the same conditions, whatever the GPUs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from gpuplan.backends.fake import synthetic_results
from gpuplan.cli.options import Given
from gpuplan.cli.planning import build, built, gather, over_defaults, resolve_profile, said, settled
from gpuplan.core.errors import NoResultError, UsageError
from gpuplan.planning.job_input import job_input
from gpuplan.planning.plan import LaunchPlan
from gpuplan.planning.reuse import LrSource
from gpuplan_job.contract import LR_RESULT_FILE, LrResult
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from collections.abc import Callable

BASE: dict[str, object] = {
    "launch.backend": "fake",
    "launch.instance": "g5",
    "workload.data": "fake:3x32x32:10:5000",
    "workload.per_gpu_batch": 64,
    "workload.epochs": 3,
}
DIFFERENT: dict[str, tuple[object, str, str, str]] = {
    "workload.model": ("resnet34", "--model", "resnet18", "resnet34"),
    "workload.data": ("fake:3x32x32:10:6000", "the data's train samples", "4500", "5400"),
    "workload.image_size": (64, "--image-size", "the data's own", "64"),
    "workload.optimizer": ("adamw", "--optimizer", "sgd", "adamw"),
    "workload.momentum": (0.8, "--momentum", "0.9", "0.8"),
    "workload.weight_decay": (1e-4, "--weight-decay", "0.0005", "0.0001"),
    "workload.label_smoothing": (0.1, "--label-smoothing", "0.0", "0.1"),
    "workload.precision": ("fp32", "precision", "bf16-mixed", "fp32"),
    "workload.schedule": ("constant", "--schedule", "onecycle", "constant"),
    "workload.seed": (1, "--seed", "0", "1"),
    "workload.per_gpu_batch": (32, "batch per GPU x accumulated", "64 x 1", "32 x 1"),
    "workload.epochs": (6, "T, optimizer steps on one GPU", "213", "426"),
    "lr.fixed": ("steps", "T, optimizer steps on one GPU", "213", "54"),
    "lr.iterations": (120, "--lr-iterations", "100", "120"),
    "lr.lr_min": (1e-6, "--lr-min", "1e-05", "1e-06"),
    "lr.lr_max": (3.0, "--lr-max", "10.0", "3.0"),
    "lr.runs": (5, "--runs", "3", "5"),
    "lr.check": (True, "check", "none", "batch 256, 54 steps"),
    "lr.compare_batches": ((32,), "--compare-batches", "[64]", "[32]"),
}
ALIKE: dict[str, object] = {
    "launch.instance": "p4d",
    "launch.world_size": 2,
    "workload.workers": 3,
    "workload.accumulate": 2,
    "lr.rule": "minimum",
    "lr.transfer": "sqrt",
    "lr.runs": 1,
    "lr.compare_batches": (64,),
}


def planned(values: dict[str, object], source: LrSource | None = None) -> LaunchPlan:
    given = BASE | values
    upper = said(Given(given, dict.fromkeys(given, "the test"), None))
    profile = resolve_profile(str(given["launch.instance"]))
    inputs = gather(settled(over_defaults(upper, profile)), profile)
    return built(replace(inputs, lr_source=source))


def stored(change: Callable[[LrResult], LrResult] = lambda r: r, settings: dict[str, object] | None = None) -> LrSource:
    """Return the range test that a run of the base's settings would have stored."""
    plan = planned({"launch.pipeline": "lr", "workload.precision": "bf16-mixed"} | (settings or {}))
    job = job_input(plan, plan.steps[0], run_id="found-0000000000001", attempt=1, learning_rate=None)
    result = change(LrResult.from_json(synthetic_results(job)[LR_RESULT_FILE]))
    return LrSource(run_id="found-0000000000001", data=plan.data, result=json.loads(result.to_json()))


def test_under_the_same_conditions_the_training_starts_at_once_with_the_carried_learning_rate() -> None:
    source = stored()
    plan = planned({}, source)
    assert [step.name for step in plan.steps] == ["train"]
    assert plan.lr.reused is not None
    assert plan.lr.reused.run_id == source.run_id
    assert plan.lr.reused.decision == decide(source.measured())
    assert plan.lr.learning_rate == plan.lr.reused.decision.training_learning_rate


@pytest.mark.parametrize("key", DIFFERENT)
def test_under_another_condition_it_is_refused_with_both_values(key: str) -> None:
    value, what, there, here = DIFFERENT[key]
    with pytest.raises(UsageError, match="under other conditions") as caught:
        planned({key: value}, stored())
    assert f"{what}: {there} there, {here} here" in caught.value.why
    assert "gpuplan suggest found-0000000000001" in caught.value.fix


def test_every_difference_is_listed() -> None:
    with pytest.raises(UsageError) as caught:
        planned({"workload.optimizer": "adamw", "workload.seed": 7, "workload.momentum": 0.5}, stored())
    assert caught.value.why.count(" there, ") == 3


@pytest.mark.parametrize("key", ALIKE)
def test_gpus_instance_rule_and_policy_may_differ_and_are_applied_to_this_training(key: str) -> None:
    source = stored()
    given = {"workload.precision": "bf16-mixed", "workload.per_gpu_batch": 64} | {key: ALIKE[key]}
    plan = planned(given, source)
    assert plan.lr.reused is not None
    told = source.measured().sweep.target
    train = plan.batch.train
    target = replace(
        told,
        rule=plan.lr.rule,
        transfer=plan.lr.transfer,
        global_batch=train.global_batch,
        steps=plan.batch.steps_per_epoch * 3,
    )
    assert plan.lr.reused.decision == decide(source.measured(), target)


def test_data_that_grew_under_the_same_name_are_other_data() -> None:
    source = stored()
    grown = source.model_copy(update={"data": replace(source.data, train_samples=4000, classes=9)})
    with pytest.raises(UsageError) as caught:
        planned({}, grown)
    assert "train samples: 4000 there, 4500 here" in caught.value.why
    assert "classes: 9 there, 10 here" in caught.value.why


def test_validation_data_may_differ() -> None:
    source = stored()
    assert planned({}, source.model_copy(update={"data": replace(source.data, val_samples=1)})).lr.reused


def test_the_precision_that_counts_is_the_one_that_ran() -> None:
    on_cpu = stored(lambda r: replace(r, precision="bf16-mixed"), {"workload.precision": "16-mixed"})
    with pytest.raises(UsageError, match="under other conditions") as caught:
        planned({"workload.precision": "16-mixed"}, on_cpu)
    assert "precision: bf16-mixed there, 16-mixed here" in caught.value.why
    assert planned({"workload.precision": "16-mixed", "launch.device": "cpu"}, on_cpu).lr.reused


def test_a_check_made_for_this_training_is_used_and_one_for_another_is_refused() -> None:
    source = stored(settings={"lr.check": True})
    plan = planned({"lr.transfer": "accumulate"}, source)
    assert plan.lr.reused is not None
    assert plan.lr.learning_rate == plan.lr.reused.decision.checked_learning_rate
    with pytest.raises(UsageError, match="under other conditions") as caught:
        planned({"lr.transfer": "accumulate", "launch.world_size": 2}, source)
    assert "check: batch 256, 54 steps there, batch 128, 108 steps here" in caught.value.why
    without = planned({"launch.world_size": 2}, source)
    assert without.lr.reused is not None
    assert without.lr.reused.decision.checked_learning_rate is None


def test_curves_that_give_no_learning_rate_give_none_here_either() -> None:
    def flat(result: LrResult) -> LrResult:
        return replace(result, curves=[replace(c, losses=[2.3] * len(c.losses)) for c in result.curves])

    with pytest.raises(NoResultError, match="gives no learning rate by rule normalised: flat") as caught:
        planned({}, stored(flat))
    assert caught.value.why


def test_a_learning_rate_is_given_or_taken_from_a_run_not_both() -> None:
    with pytest.raises(UsageError, match="both say what the learning rate is"):
        planned({"lr.learning_rate": 0.1}, stored())


def test_a_range_test_alone_takes_none_from_elsewhere() -> None:
    with pytest.raises(UsageError, match="that --pipeline lr would look for") as caught:
        planned({"launch.pipeline": "lr"}, stored())
    assert "gpuplan suggest" in caught.value.fix


def test_the_pipeline_that_only_trains_takes_one() -> None:
    assert planned({"launch.pipeline": "train"}, stored()).lr.reused
    with pytest.raises(UsageError, match="needs a learning rate") as caught:
        planned({"launch.pipeline": "train"})
    assert "--lr-from RUN" in caught.value.fix


def test_a_range_test_of_another_version_is_no_source() -> None:
    source = stored()
    with pytest.raises(ValidationError, match="lr-result/1"):
        LrSource(run_id="x", data=source.data, result=source.result | {"schema": "gpuplan.lr-result/1"})


def test_the_plan_holds_the_range_test_so_it_can_be_made_again_anywhere() -> None:
    plan = planned({}, stored())
    read = LaunchPlan.model_validate_json(plan.canonical_json())
    assert read == plan
    assert read.plan_id == plan.plan_id
    held = read.provenance
    assert build(held.settings, held.live_prices, held.lr_source).plan_id == plan.plan_id
