"""From a curve to the training's learning rate: the client decides exactly as the job's own modules do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.backends.fake import synthetic_results
from gpuplan.planning.decision import Decision, decide
from gpuplan_job import rules, transfer
from gpuplan_job.contract import (
    LR_RESULT_FILE,
    BatchSpec,
    JobInput,
    LrResult,
    NoiseScale,
    SweepSpec,
    WorkloadSpec,
)
from gpuplan_job.suggestion import Suggestion, suggest
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from typing import Literal

EVERY_WAY = pytest.mark.parametrize(("rule", "policy"), list(product(rules.names(), transfer.names())))
BATCHES = st.integers(1, 10**6)
FEW = settings(max_examples=25)
"""For each rule with each policy."""


@cache
def healthy(optimizer: Literal["sgd", "adamw"] = "sgd") -> LrResult:
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
    sweep = SweepSpec(runs=3, iterations=60, lr_min=1e-5, lr_max=10.0, reference_steps=270, noise_micro_batches=16)
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


def flat() -> LrResult:
    curves = [replace(curve, losses=[2.3] * len(curve.losses), stop_reason="completed") for curve in healthy().curves]
    return replace(healthy(), curves=curves)


@EVERY_WAY
@FEW
@given(BATCHES)
def test_the_decision_is_the_jobs_own_arithmetic_to_the_last_bit(rule: str, policy: str, target: int) -> None:
    decision = decide(healthy(), rule, policy, target)
    found = suggest(healthy(), rule)
    assert isinstance(found, Suggestion)
    change = Transfer(healthy().batch.global_batch, target, "sgd", 64.0)
    multiplier = transfer.load(policy).multiplier(change)
    assert decision.learning_rate == found.learning_rate
    assert (decision.band, decision.divergence_lr) == (found.band, found.divergence_lr)
    assert decision.multiplier == multiplier
    assert decision.training_learning_rate == found.learning_rate * multiplier
    assert (decision.rule, decision.transfer, decision.verdict) == (rule, policy, "ok")
    assert decision.note == (transfer.load(policy).note(change) or "")


@EVERY_WAY
@FEW
@given(BATCHES)
def test_json_and_back_is_the_same_decision_to_the_last_bit(rule: str, policy: str, target: int) -> None:
    decision = decide(healthy(), rule, policy, target)
    assert Decision.model_validate_json(decision.canonical_json()) == decision


@EVERY_WAY
def test_without_a_usable_curve_there_is_no_learning_rate_but_a_reason(rule: str, policy: str) -> None:
    decision = decide(flat(), rule, policy, 256)
    assert decision.verdict == "flat"
    assert decision.learning_rate is None
    assert decision.training_learning_rate is None
    assert decision.multiplier is None
    assert decision.band is None
    assert decision.reason
    assert decision.fix
    assert Decision.model_validate_json(decision.canonical_json()) == decision


@pytest.mark.parametrize("policy", transfer.names())
def test_the_same_batch_keeps_the_learning_rate(policy: str) -> None:
    decision = decide(healthy(), "edge", policy, healthy().batch.global_batch)
    assert decision.training_learning_rate == decision.learning_rate


@pytest.mark.parametrize("noise", [None, NoiseScale(-1.0, 64.0, 16, 32), NoiseScale(0.0, 64.0, 16, 32)], ids=str)
def test_a_noise_scale_without_signal_is_none_and_the_fall_back_is_told(noise: NoiseScale | None) -> None:
    decision = decide(replace(healthy(), noise_scale=noise), "edge", "noise-scale", 256)
    assert decision.noise_scale is None
    assert "square root" in decision.note
    assert decision.multiplier == pytest.approx((256 / 32) ** 0.5)


def test_a_noise_scale_beyond_all_numbers_is_no_signal_and_no_crash() -> None:
    # Both figures are finite and so pass the contract; their quotient is not.
    result = replace(healthy(), noise_scale=NoiseScale(1e-310, 1e5, 16, 32))
    assert decide(LrResult.from_json(result.to_json()), "edge", "noise-scale", 256).noise_scale is None


def test_the_optimizer_of_the_sweep_decides_how_it_carries_over() -> None:
    sgd, adamw = (decide(healthy(optimizer), "edge", "noise-scale", 256) for optimizer in ("sgd", "adamw"))
    assert sgd.multiplier is not None
    assert adamw.multiplier is not None
    assert sgd.multiplier > adamw.multiplier > 1


def test_a_rule_or_a_policy_nobody_has_heard_of_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="edge"):
        decide(healthy(), "steepest", "none", 256)
    with pytest.raises(LookupError, match="noise-scale"):
        decide(healthy(), "edge", "cubic", 256)
