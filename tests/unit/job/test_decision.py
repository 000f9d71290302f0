"""From a curve to the training's learning rate: job and client come to the same bits, and say what else there was."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.backends.fake import synthetic_results
from gpuplan_job import rules, transfer
from gpuplan_job.contract import (
    LR_RESULT_FILE,
    BatchSpec,
    Curve,
    JobInput,
    LrResult,
    LrTarget,
    NoiseScale,
    SweepAt,
    SweepSpec,
    WorkloadSpec,
)
from gpuplan_job.decision import MOST_DISAGREEMENT, decide
from gpuplan_job.suggestion import Suggestion, suggest, suggest_at
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from typing import Literal

EVERY_WAY = pytest.mark.parametrize(("rule", "policy"), list(product(rules.names(), transfer.names())))
BATCHES = st.integers(1, 10**6)
FEW = settings(max_examples=25)
"""For each rule with each policy."""
OPTIMIZERS: tuple[Literal["sgd"], Literal["adamw"]] = ("sgd", "adamw")
TARGET = LrTarget("edge", "noise-scale", 256, 34)
CHECK = SweepAt(BatchSpec(32, 1, 8), runs=2, iterations=60, reference_steps=34)


@cache
def healthy(
    optimizer: Literal["sgd", "adamw"] = "sgd", target: LrTarget = TARGET, check: SweepAt | None = None
) -> LrResult:
    workload = WorkloadSpec(
        model="resnet18",
        data="digits",
        optimizer=optimizer,
        momentum=0.9,
        weight_decay=0.0,
        schedule="onecycle",
        label_smoothing=0.0,
        epochs=6,
        precision="fp32",
        seed=0,
        workers=0,
    )
    sweep = SweepSpec(3, 60, 1e-5, 10.0, reference_steps=270, noise_micro_batches=16, target=target, check=check)
    job = JobInput(
        run_id="digits-1",
        step="lr-find",
        attempt=1,
        plan_id="0" * 64,
        workload=workload,
        batch=BatchSpec(32, 1, 1),
        device="cpu",
        sweep=sweep,
    )
    return LrResult.from_json(synthetic_results(job)[LR_RESULT_FILE])


def without_a_fall(curves: list[Curve]) -> list[Curve]:
    return [replace(curve, losses=[2.3] * len(curve.losses), stop_reason="completed") for curve in curves]


def flat() -> LrResult:
    return replace(healthy(), curves=without_a_fall(healthy().curves))


def at_other_rates(curves: list[Curve], factor: float) -> list[Curve]:
    """Return curves of a training whose best learning rate is `factor` times as high."""
    return [
        replace(
            curve,
            learning_rates=[rate * factor for rate in curve.learning_rates],
            stopped_at_lr=curve.stopped_at_lr * factor,
        )
        for curve in curves
    ]


def checked(factor: float = 1.0, policy: str = "noise-scale") -> LrResult:
    """Return a range test whose check finds `factor` times the learning rate that it would find by itself."""
    result = healthy(target=replace(TARGET, transfer=policy), check=CHECK)
    assert result.check is not None
    return replace(result, check=replace(result.check, curves=at_other_rates(result.check.curves, factor)))


@EVERY_WAY
@FEW
@given(BATCHES)
def test_the_decision_is_the_rules_and_the_policys_own_arithmetic(rule: str, policy: str, batch: int) -> None:
    decision = decide(healthy(), replace(TARGET, rule=rule, transfer=policy, global_batch=batch))
    found = suggest(healthy(), rule)
    assert isinstance(found, Suggestion)
    change = Transfer(healthy().batch.global_batch, batch, 64.0)
    multiplier = transfer.load(policy).multiplier(change)
    assert decision.learning_rate == found.learning_rate
    assert (decision.band, decision.divergence_lr) == (found.band, found.divergence_lr)
    assert decision.multiplier == pytest.approx(multiplier, rel=1e-5)
    assert decision.training_learning_rate == float(f"{found.learning_rate * multiplier:.4g}")
    assert (decision.rule, decision.transfer, decision.verdict) == (rule, policy, "ok")
    assert decision.note == (transfer.load(policy).note(change) or "")


@EVERY_WAY
@settings(max_examples=40)
@given(
    batch=BATCHES,
    factor=st.floats(0.05, 20),
    noise=st.none() | st.builds(NoiseScale, st.floats(-1, 1e3), st.floats(0, 1e6), st.just(16), st.just(32)),
)
def test_the_client_gets_the_jobs_own_bits_from_what_the_job_wrote(
    rule: str, policy: str, batch: int, factor: float, noise: NoiseScale | None
) -> None:
    told = checked(factor)
    target = replace(TARGET, rule=rule, transfer=policy, global_batch=batch)
    told = replace(told, sweep=replace(told.sweep, target=target), noise_scale=noise)
    written = replace(told, decision=decide(told)).to_json()
    read = LrResult.from_json(written)
    assert decide(read) == read.decision
    assert read.to_json() == written


@EVERY_WAY
def test_without_a_usable_curve_there_is_no_learning_rate_but_a_reason(rule: str, policy: str) -> None:
    decision = decide(flat(), replace(TARGET, rule=rule, transfer=policy))
    assert decision.verdict == "flat"
    assert decision.learning_rate is None
    assert decision.training_learning_rate is None
    assert decision.multiplier is None
    assert decision.band is None
    assert decision.by_policy == {}
    assert decision.reason
    assert decision.fix


@pytest.mark.parametrize("policy", transfer.names())
def test_the_same_batch_keeps_the_learning_rate(policy: str) -> None:
    decision = decide(healthy(), replace(TARGET, transfer=policy, global_batch=healthy().batch.global_batch))
    assert decision.training_learning_rate == decision.learning_rate
    assert set(decision.by_policy.values()) == {decision.learning_rate}


def test_what_each_policy_would_give_is_told_for_those_that_have_what_they_go_by() -> None:
    decision = decide(checked())
    assert set(decision.by_policy) == set(transfer.names())
    assert decision.by_policy["noise-scale"] == decision.training_learning_rate
    assert decision.by_policy["none"] == decision.learning_rate
    for policy, rate in decision.by_policy.items():
        assert decide(checked(), replace(TARGET, transfer=policy)).training_learning_rate == rate


def test_a_policy_that_has_nothing_to_go_by_gives_no_figure_of_its_own() -> None:
    assert "accumulate" not in decide(healthy()).by_policy
    assert "noise-scale" not in decide(replace(healthy(), noise_scale=None)).by_policy


def test_accumulate_takes_what_the_check_found() -> None:
    result = checked(3.0, "accumulate")
    assert result.check is not None
    found = suggest_at(result, result.check, "edge")
    assert isinstance(found, Suggestion)
    decision = decide(result)
    assert decision.training_learning_rate == decision.checked_learning_rate == found.learning_rate
    assert decision.warning == decision.note == ""


@pytest.mark.parametrize(("noise", "instead"), [(True, "gradient noise scale"), (False, "square root")])
def test_accumulate_without_a_check_falls_back_and_says_to_what(noise: bool, instead: str) -> None:  # noqa: FBT001 - a parameter of the test
    result = checked(policy="accumulate")
    assert result.check is not None
    for nothing in (None, replace(result.check, curves=without_a_fall(result.check.curves))):
        bare = replace(result, check=nothing, noise_scale=result.noise_scale if noise else None)
        decision = decide(bare)
        fallen = decide(bare, replace(TARGET, transfer="noise-scale" if noise else "sqrt"))
        assert decision.training_learning_rate == fallen.training_learning_rate
        assert instead in decision.note
        assert decision.checked_learning_rate is None
        assert "accumulate" not in decision.by_policy


def test_a_policy_and_a_check_that_disagree_by_more_than_twice_are_a_warning_with_both_figures() -> None:
    agreed = decide(checked()).training_learning_rate
    found = decide(checked()).checked_learning_rate
    assert agreed is not None
    assert found is not None
    same = agreed / found
    for factor, warned in ((0.45, True), (0.55, False), (1.9, False), (2.1, True)):
        decision = decide(checked(same * factor))
        assert decision.checked_learning_rate is not None
        apart = agreed / decision.checked_learning_rate
        assert (max(apart, 1 / apart) > MOST_DISAGREEMENT) == warned == bool(decision.warning)
        if warned:
            assert f"{agreed:.2g}" in decision.warning
            assert f"{decision.checked_learning_rate:.2g}" in decision.warning
            assert "batch 256" in decision.warning


@pytest.mark.parametrize("other", [replace(TARGET, global_batch=512), replace(TARGET, steps=68)], ids=str)
def test_a_check_of_another_training_says_nothing(other: LrTarget) -> None:
    decision = decide(checked(10.0), other)
    assert decision.checked_learning_rate is None
    assert decision.warning == ""
    assert "accumulate" not in decision.by_policy


@pytest.mark.parametrize("noise", [None, NoiseScale(-1.0, 64.0, 16, 32), NoiseScale(0.0, 64.0, 16, 32)], ids=str)
def test_a_noise_scale_without_signal_is_none_and_the_fall_back_is_told(noise: NoiseScale | None) -> None:
    decision = decide(replace(healthy(), noise_scale=noise))
    assert decision.noise_scale is None
    assert "square root" in decision.note
    assert decision.multiplier == pytest.approx((256 / 32) ** 0.5, rel=1e-5)


def test_a_noise_scale_beyond_all_numbers_is_no_signal_and_no_crash() -> None:
    # Both figures are finite and so pass the contract; their quotient is not.
    result = replace(healthy(), noise_scale=NoiseScale(1e-310, 1e5, 16, 32))
    assert decide(LrResult.from_json(result.to_json())).noise_scale is None


def test_the_optimizer_of_the_sweep_decides_what_the_curve_means() -> None:
    sgd, adamw = (decide(healthy(optimizer)) for optimizer in OPTIMIZERS)
    assert sgd.learning_rate is not None
    assert adamw.learning_rate is not None
    assert sgd.learning_rate > adamw.learning_rate


def test_a_rule_or_a_policy_nobody_has_heard_of_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="edge"):
        decide(healthy(), replace(TARGET, rule="steepness"))
    with pytest.raises(LookupError, match="noise-scale"):
        decide(healthy(), replace(TARGET, transfer="cubic"))
