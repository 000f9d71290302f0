"""From a range test's curves to the training's learning rate: the rule, then the transfer policy, then the check.

Called by the job, which writes the decision into its result, and by the client, which makes it again and must get the
same bits. Standard library only; it must not run, read or write anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuplan_job import transfer
from gpuplan_job.contract import Decision
from gpuplan_job.suggestion import NoSuggestion, Suggestion, suggest, suggest_at
from gpuplan_job.transfer.base import Transfer

if TYPE_CHECKING:
    from gpuplan_job.contract import LrResult, LrTarget

MOST_DISAGREEMENT = 2.0
"""Factor between a policy's learning rate and the check's beyond which one of them is wrong for this training."""
_DIGITS = 4
"""Significant digits kept, so that the last bit of one machine's power function cannot change a plan."""
_MULTIPLIER_DIGITS = 6
"""The same for a multiplier: a job and its client rarely run on machines of one kind, and must get the same bits."""


def decide(result: LrResult, target: LrTarget | None = None) -> Decision:
    """Return the decision for a training, by default the one that the range test was made for.

    Raises:
        LookupError: there is no such rule or policy.
    """
    target = target or result.sweep.target
    found = suggest(result, target.rule)
    noise = result.noise_scale.samples if result.noise_scale else None
    if isinstance(found, NoSuggestion):
        return Decision(
            verdict=found.verdict,
            rule=target.rule,
            transfer=target.transfer,
            divergence_lr=found.divergence_lr,
            noise_scale=noise,
            reason=found.reason,
            fix=found.fix,
        )
    checked = _checked(result, target)
    change = Transfer(
        batch_from=result.batch.global_batch,
        batch_to=target.global_batch,
        noise_scale=noise,
        checked=None if checked is None else checked / found.learning_rate,
    )
    policy = transfer.load(target.transfer)
    decision = Decision(
        verdict="ok",
        rule=target.rule,
        transfer=target.transfer,
        learning_rate=found.learning_rate,
        band=found.band,
        divergence_lr=found.divergence_lr,
        noise_scale=noise,
        multiplier=_rounded(policy.multiplier(change), _MULTIPLIER_DIGITS),
        training_learning_rate=_carried(found, change, target.transfer),
        by_policy={
            name: _carried(found, change, name) for name in transfer.names() if transfer.load(name).can_say(change)
        },
        checked_learning_rate=checked,
        note=policy.note(change) or "",
    )
    return replace(decision, warning=_warning(decision, target))


def _carried(found: Suggestion, change: Transfer, policy: str) -> float:
    return _rounded(found.learning_rate * transfer.load(policy).multiplier(change), _DIGITS)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _checked(result: LrResult, target: LrTarget) -> float | None:
    """Return what the sweeps at the training's own batch give; None where they are of another training or no good."""
    check = result.check
    if check is None or (check.at.batch.global_batch, check.at.reference_steps) != (target.global_batch, target.steps):
        return None
    found = suggest_at(result, check, target.rule)
    return found.learning_rate if isinstance(found, Suggestion) else None


def _warning(decision: Decision, target: LrTarget) -> str:
    used, checked = decision.training_learning_rate, decision.checked_learning_rate
    if used is None or checked is None or 1 / MOST_DISAGREEMENT <= used / checked <= MOST_DISAGREEMENT:
        return ""
    return (
        f"{target.transfer} carries the learning rate to {used:.2g}, a range test at batch {target.global_batch} "
        f"itself gives {checked:.2g}: more than {MOST_DISAGREEMENT:g} x apart"
    )
