"""A range test at several batches side by side: the learning rate at each, and how far they lie apart.

Called by whoever shows a range test, job or client. Standard library only; it decides nothing: the training's learning
rate comes from the range test's own batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpuplan_job.contract import BatchSweeps
from gpuplan_job.suggestion import Suggestion, suggest_at

if TYPE_CHECKING:
    from gpuplan_job.contract import LrResult


@dataclass(frozen=True)
class AtBatch:
    """What the sweeps at one batch led to."""

    batch: int
    """Samples per optimizer step."""
    verdict: Literal["ok", "flat", "diverged", "noisy"]
    learning_rate: float | None
    """For one GPU at this batch and a training of as many epochs; None where the verdict is not `ok`."""
    band: tuple[float, float] | None
    """Lowest and highest pick of the single sweeps."""
    divergence_lr: float | None
    reason: str
    """Why there is no learning rate."""


@dataclass(frozen=True)
class Comparison:
    """All batches, smallest first."""

    batches: tuple[AtBatch, ...]
    spread: float | None
    """Largest over smallest learning rate; None where fewer than two batches have one."""


def compare(result: LrResult, rule: str = "") -> Comparison | None:
    """Return the comparison by a rule, the range test's own where none is named; None where no batch was compared.

    Raises:
        LookupError: there is no such rule.
    """
    if not result.compared:
        return None
    own = BatchSweeps(result.sweep.own(result.batch), result.curves)
    rows = sorted(
        (_judged(result, sweeps, rule or result.sweep.target.rule) for sweeps in (own, *result.compared)),
        key=lambda row: row.batch,
    )
    rates = [row.learning_rate for row in rows if row.learning_rate is not None]
    return Comparison(tuple(rows), max(rates) / min(rates) if len(rates) > 1 else None)


def _judged(result: LrResult, sweeps: BatchSweeps, rule: str) -> AtBatch:
    found = suggest_at(result, sweeps, rule)
    batch = sweeps.at.batch.global_batch
    if isinstance(found, Suggestion):
        return AtBatch(batch, found.verdict, found.learning_rate, found.band, found.divergence_lr, "")
    return AtBatch(batch, found.verdict, None, None, found.divergence_lr, found.reason)
