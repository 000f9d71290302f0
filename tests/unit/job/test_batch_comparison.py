"""Several batches side by side: each with its learning rate or why it has none, and how far they lie apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuplan.backends.fake import synthetic_results
from gpuplan_job.batch_comparison import compare
from gpuplan_job.contract import (
    LR_RESULT_FILE,
    BatchSpec,
    BatchSweeps,
    JobInput,
    LrResult,
    LrTarget,
    SweepAt,
    SweepSpec,
    WorkloadSpec,
)
from gpuplan_job.suggestion import Suggestion, suggest, suggest_at

WORKLOAD = WorkloadSpec("resnet18", "digits", "sgd", 0.9, 0.0, "onecycle", 0.0, 6, "fp32", 0, 0)


def swept(*batches: int) -> LrResult:
    """Return a range test at batch 64 that compares others; 23 steps an epoch at 64."""
    sweep = SweepSpec(
        runs=3,
        iterations=60,
        lr_min=1e-5,
        lr_max=10.0,
        reference_steps=1380,
        noise_micro_batches=16,
        target=LrTarget("edge", "noise-scale", 256, 350),
        compare=[SweepAt(BatchSpec(batch, 1, 1), 3, 60, 1380 * 64 // batch) for batch in batches],
    )
    job = JobInput("digits-1", "lr-find", 1, "0" * 64, WORKLOAD, BatchSpec(64, 1, 1), "cpu", sweep=sweep)
    return LrResult.from_json(synthetic_results(job)[LR_RESULT_FILE])


def without_a_fall(sweeps: BatchSweeps) -> BatchSweeps:
    return replace(sweeps, curves=[replace(curve, losses=[2.3] * len(curve.losses)) for curve in sweeps.curves])


def test_without_other_batches_there_is_nothing_to_compare() -> None:
    assert compare(swept()) is None


@pytest.mark.parametrize("rule", ["edge", "minimum"])
def test_each_batch_has_what_the_rule_makes_of_its_own_sweeps(rule: str) -> None:
    result = swept(128, 32)
    found = compare(result, rule)
    assert found is not None
    assert [row.batch for row in found.batches] == [32, 64, 128]
    own = suggest(result, rule)
    at = {sweeps.at.batch.global_batch: suggest_at(result, sweeps, rule) for sweeps in result.compared}
    for row in found.batches:
        suggestion = own if row.batch == 64 else at[row.batch]
        assert isinstance(suggestion, Suggestion)
        assert (row.verdict, row.learning_rate, row.band) == ("ok", suggestion.learning_rate, suggestion.band)
        assert row.divergence_lr == suggestion.divergence_lr


def test_the_spread_is_the_largest_over_the_smallest_learning_rate() -> None:
    found = compare(swept(32, 128))
    assert found is not None
    rates = [row.learning_rate for row in found.batches if row.learning_rate]
    assert found.spread == max(rates) / min(rates) > 1


def test_the_rule_is_the_range_tests_own_where_none_is_named() -> None:
    assert compare(swept(32)) == compare(swept(32), "edge")


def test_a_batch_without_a_learning_rate_says_why_and_is_left_out_of_the_spread() -> None:
    result = swept(32, 128)
    broken = replace(result, compared=[without_a_fall(result.compared[0]), result.compared[1]])
    found, whole = compare(broken), compare(swept(128))
    assert found is not None
    assert whole is not None
    assert (found.batches[0].verdict, found.batches[0].learning_rate) == ("flat", None)
    assert found.batches[0].reason
    assert found.spread == whole.spread


def test_one_learning_rate_alone_has_no_spread() -> None:
    result = swept(32)
    found = compare(replace(result, compared=[without_a_fall(result.compared[0])]))
    assert found is not None
    assert found.spread is None
