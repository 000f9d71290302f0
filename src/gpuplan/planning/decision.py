"""From a range test's curve to the training's learning rate: the rule, then the transfer policy. Pure.

Called by the engine after lr-find and by `gpuplan suggest`. The job's own modules do the arithmetic, so both sides of
the door get the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gpuplan.core.frozen import Frozen
from gpuplan_job import transfer
from gpuplan_job.suggestion import NoSuggestion, suggest
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from gpuplan_job.contract import LrResult


class Decision(Frozen):
    """What was made of a range test: a training learning rate, or the verdict that there is none."""

    verdict: Literal["ok", "flat", "diverged", "noisy"]
    rule: str
    transfer: str
    learning_rate: float | None = None
    """Suggested for one GPU at the finder's batch."""
    band: tuple[float, float] | None = None
    """Lowest and highest pick of the single sweeps."""
    divergence_lr: float | None = None
    noise_scale: float | None = None
    """Gradient noise scale in samples."""
    multiplier: float | None = None
    training_learning_rate: float | None = None
    reason: str = ""
    """Why there is no suggestion."""
    fix: str = ""
    note: str = ""
    """What the transfer policy has to say, such as a fall-back it took."""


def decide(result: LrResult, rule: str, policy: str, training_batch: int) -> Decision:
    """Return the decision for a training at `training_batch` samples per optimizer step."""
    found = suggest(result, rule)
    noise = result.noise_scale.samples if result.noise_scale else None
    if isinstance(found, NoSuggestion):
        return Decision(
            verdict=found.verdict,
            rule=rule,
            transfer=policy,
            divergence_lr=found.divergence_lr,
            noise_scale=noise,
            reason=found.reason,
            fix=found.fix,
        )
    change = Transfer(result.batch.global_batch, training_batch, result.optimizer, noise)
    chosen = transfer.load(policy)
    multiplier = chosen.multiplier(change)
    return Decision(
        verdict="ok",
        rule=rule,
        transfer=policy,
        learning_rate=found.learning_rate,
        band=found.band,
        divergence_lr=found.divergence_lr,
        noise_scale=noise,
        multiplier=multiplier,
        training_learning_rate=found.learning_rate * multiplier,
        note=chosen.note(change) or "",
    )
