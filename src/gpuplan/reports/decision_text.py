"""What was made of a range test, as people and as scripts read it: the learning rate, other policies, check, batches.

Called by the reports of a run, by `suggest` and while a run goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.core.units import learning_rate, significant
from gpuplan.reports.layout import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.batch_comparison import AtBatch, Comparison
    from gpuplan_job.contract import Decision


def decision_facts(decision: Decision) -> Iterator[tuple[str, str]]:
    """Yield what was found and what it means for the training, with the reason."""
    if decision.learning_rate is None or decision.training_learning_rate is None:
        yield "learning rate", f"none: the range test is {decision.verdict}. {decision.reason}"
        return
    low, high = decision.band or (decision.learning_rate, decision.learning_rate)
    edge = f", diverges at {learning_rate(decision.divergence_lr)}" if decision.divergence_lr else ""
    yield (
        "found LR",
        f"{learning_rate(decision.learning_rate)} on 1 GPU (verdict {decision.verdict}, rule {decision.rule}, "  # noqa: ISC004 - one sentence
        f"single sweeps {learning_rate(low)} .. {learning_rate(high)}{edge})",
    )
    noise = (
        "" if decision.noise_scale is None else f", gradient noise scale {significant(decision.noise_scale)} samples"
    )
    yield (
        "training LR",
        f"{learning_rate(decision.training_learning_rate)} = found LR x "  # noqa: ISC004 - one sentence
        f"{significant(decision.multiplier or 1)} (transfer {decision.transfer}{noise})",
    )
    if decision.note:
        yield "", decision.note
    others = [f"{name} {learning_rate(rate)}" for name, rate in decision.by_policy.items() if name != decision.transfer]
    if others and decision.multiplier != 1:
        yield "other policies", ", ".join(others)
    if decision.checked_learning_rate is not None:
        apart = decision.training_learning_rate / decision.checked_learning_rate
        yield (
            "check",
            f"{learning_rate(decision.checked_learning_rate)} by sweeps at the training's own batch; "  # noqa: ISC004 - one sentence
            f"the training LR is {significant(apart)} x that",
        )
    if decision.warning:
        yield "warning", decision.warning


def comparison_blocks(comparison: Comparison) -> tuple[Table, tuple[str, str]]:
    """Return one row a batch, and a fact of how far their learning rates lie apart."""
    table = Table(
        ("batch", "verdict", "LR on 1 GPU", "single sweeps", "diverges at"), tuple(map(_row, comparison.batches))
    )
    usable = sum(row.learning_rate is not None for row in comparison.batches)
    if comparison.spread is None:
        return table, ("spread", f"unknown: {usable} of {len(comparison.batches)} batches gave a learning rate")
    apart = f"largest learning rate {significant(comparison.spread)} x the smallest, over {usable} batches"
    return table, ("spread", apart)


def _row(row: AtBatch) -> tuple[str, ...]:
    rate = "" if row.learning_rate is None else learning_rate(row.learning_rate)
    band = row.reason if row.band is None else " .. ".join(map(learning_rate, row.band))
    edge = "" if row.divergence_lr is None else learning_rate(row.divergence_lr)
    return str(row.batch), row.verdict, rate, band, edge


def decision_document(decision: Decision) -> dict[str, Any]:
    """Return the decision for scripts."""
    suggestion: dict[str, Any] = {
        "rule": decision.rule,
        "verdict": decision.verdict,
        "divergence_lr": decision.divergence_lr or {"unknown": "no sweep diverged"},
    }
    found: dict[str, Any] = {
        "suggestion": suggestion,
        "noise_scale": {"unknown": "no signal"} if decision.noise_scale is None else decision.noise_scale,
        "transfer": decision.transfer,
    }
    if decision.verdict != "ok":
        suggestion |= {"reason": decision.reason, "fix": decision.fix}
        return found
    suggestion |= {"learning_rate": decision.learning_rate, "band": list(decision.band or ())}
    checked = decision.checked_learning_rate
    return found | {
        "multiplier": decision.multiplier,
        "training_learning_rate": decision.training_learning_rate,
        "by_policy": decision.by_policy,
        "check": {"unknown": "no usable sweeps at the training's batch"} if checked is None else checked,
        "note": decision.note,
        "warning": decision.warning,
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Return compared batches for scripts."""
    return {
        "batches": [_at(row) for row in comparison.batches],
        "spread": {"unknown": "fewer than two batches gave a learning rate"}
        if comparison.spread is None
        else comparison.spread,
    }


def _at(row: AtBatch) -> dict[str, Any]:
    return {
        "global": row.batch,
        "verdict": row.verdict,
        "learning_rate": {"unknown": row.reason} if row.learning_rate is None else row.learning_rate,
        "band": {"unknown": row.reason} if row.band is None else list(row.band),
        "divergence_lr": row.divergence_lr or {"unknown": "no sweep diverged"},
    }
