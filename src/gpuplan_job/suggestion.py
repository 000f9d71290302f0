"""From an LR range test to one LR, or to the reason why there is none: the gate that no bad LR passes.

Called by the server when it binds a training and by the client that re-decides on stored curves; both get the same
bits. Standard library only; it must not run, read or write anything.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import TYPE_CHECKING, Literal

from gpuplan_job import rules
from gpuplan_job.contract import BatchSweeps
from gpuplan_job.curve import EDGE_SHARE, divergence_lr, smooth
from gpuplan_job.rules.base import Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan_job.contract import Curve, LrResult, SweepSpec
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Rule

LEAST_POINTS = 20
"""With fewer, the noise of a curve is not known well enough to tell a fall from chance."""
LEAST_DROP = 0.05
"""Share of the starting loss that must be lost. Sweeps that learned took off 28 % and more; with shuffled labels a
network still learns the classes' frequencies, which took 3 % off a freshly initialised ResNet-18."""
CHANCE_DROP = 7.0
"""Standard errors of the smooth curve that a drop may come to by chance: of curves of pure noise one in ten reaches 4
and one in a thousand 7, because a minimum is taken over some thirty values."""
DROP_OVER_NOISE = 12.0
"""Standard errors that the drop must come to: leaves room for noise that is not Gaussian."""
NOISE_OVER_DROP = 0.25
"""Most noise of the averaged raw curve, as a share of the drop: beyond it the level that marks the edge, half-way, is
crossed by chance."""
LEAST_TREND = 3.5
"""Standard scores of Mann-Kendall's trend test (Mann 1945, Kendall 1975) by which the raw losses must fall on their way
to the minimum. A few lucky points make a drop but no trend; a fall over ten points or more scores 4."""
_TREND_POINTS = 200
"""The test compares all pairs: longer sweeps are thinned to about this many."""
SMALL_DROP = 0.25
"""Share of the starting loss; a smaller fall needs more proof. What tells a fall from a drift of the data is that it
comes at an LR of its own and in each of several sweeps. Without this one in eight random walks that wander by up to
30 % passed as a single sweep; with it 3 of 300 on fresh seeds, and none of 300 as three sweeps."""
LEAST_REST_DECADES = 1.0
"""Decades of LR before a small fall begins, or it is the data's; sound sweeps on digits rested for 1.2 and more."""
REST_SHARE = 0.2
"""Of the fall: what may be gone where the loss still counts as at rest."""
LEAST_SHARE_OF_A_SWEEP = 0.65
"""Of the averaged fall, what each of several sweeps must have fallen by itself at the LR of the averaged minimum.
Sound sweeps on digits had fallen by 0.79 of it and more."""
MOST_RISE_BEFORE_MINIMUM = 0.15
"""Share of the fall by which the smooth loss may rise again on its way down. Sound sweeps of small networks on digits
reached 0.08; random walks and losses that go up and down with the order of the data reach any share."""
MOST_RETURN = 0.25
"""Share of the fall by which the loss may come back below the level of its edge after it left its valley: a sound one
came back by 0.16; one that goes up and down with the order of the data comes back by 0.5, all the way."""
LEAST_BELOW_CHANCE = 0.02
"""Share of the loss of always answering with the classes' frequencies that the minimum must lie below it, for each pass
through the data, up to `_MOST_PASSES`. With shuffled labels a transformer falls from 2.6 nats to the 2.30 of ten
classes, by 13 %; a ResNet that sees the samples eleven times learns them by heart and comes 3 to 5 % lower."""
_MOST_PASSES = 5.0
MOST_DISAGREEMENT = 4.0
"""Largest over smallest pick of the single sweeps. Sound finders agree within 2x even over different batches, so each
end may be a factor two off the middle, which costs a training little; beyond that it is not the same answer."""
LARGEST_SHARE_OF_DIVERGENCE = 0.25
"""For SGD the LR that diverged lay 4 to 10 times above the best one."""
_DIGITS = 4
"""Significant digits kept, so that the last bit of one machine's log10 cannot change a plan."""


@dataclass(frozen=True)
class Suggestion:
    """An LR worth using, on one GPU at the sweep's batch."""

    learning_rate: float
    rule: str
    band: tuple[float, float]
    """Lowest and highest pick of the single runs."""
    divergence_lr: float | None
    """Smallest LR at which a sweep blew up; None: none did."""
    verdict: Literal["ok"] = "ok"


@dataclass(frozen=True)
class NoSuggestion:
    """Why no LR can be suggested from a range test, and what to do."""

    verdict: Literal["flat", "diverged", "noisy"]
    reason: str
    fix: str
    divergence_lr: float | None = None


def suggest(result: LrResult, rule: str) -> Suggestion | NoSuggestion:
    """Judge a range test's own curves and, if they can be trusted, let the rule pick the LR for one GPU at its batch.

    Raises:
        LookupError: there is no such rule.
        ValueError: the sweep's specification is empty (no iterations, no reference steps, no rising range).
    """
    return suggest_at(result, BatchSweeps(result.sweep.own(result.batch), result.curves), rule)


def suggest_at(result: LrResult, sweeps: BatchSweeps, rule: str) -> Suggestion | NoSuggestion:
    """Do as `suggest` with a result's sweeps at another batch; errors are the same."""
    sweep = sweep_of(result.sweep, sweeps.at.iterations, sweeps.at.reference_steps, result.optimizer)
    to_reach = None
    if result.chance_loss is not None:
        passes = sweep.iterations * result.workload.epochs / sweep.reference_steps
        to_reach = result.chance_loss * (1 - LEAST_BELOW_CHANCE * min(max(1.0, passes), _MOST_PASSES))
    return suggest_from(sweeps.curves, sweep, rule, to_reach)


def sweep_of(spec: SweepSpec, iterations: int, reference_steps: int, optimizer: str) -> Sweep:
    """Return what a rule is told of sweeps over the range of `spec`."""
    decades = math.log10(spec.lr_max / spec.lr_min) if 0 < spec.lr_min < spec.lr_max else 0.0
    return Sweep(iterations, decades, reference_steps, optimizer)


def suggest_from(
    curves: list[Curve], sweep: Sweep, rule: str, to_reach: float | None = None
) -> Suggestion | NoSuggestion:
    """Judge curves and, if they can be trusted, let the rule pick the LR.

    `to_reach` is the loss in nats that whoever learned anything comes below, None where it is not known.
    The LR holds for the curves' batch and a training of `sweep.reference_steps` steps. It is at most a quarter of the
    smallest LR at which a sweep diverged; so are the ends of the band.

    Raises:
        LookupError: there is no such rule.
    """
    picker = _Picker(rule, rules.load(rule), sweep, divergence_lr(curves))
    try:
        curve = smooth(curves)
    except ValueError as error:
        return _too_short(str(error), picker)
    refused = _judge_curve(curve, picker) or _judge_learning(curve, picker, len(curves), to_reach)
    return refused or _judge_sweeps(curve, [smooth([single]) for single in curves], picker)


@dataclass(frozen=True)
class _Picker:
    """A rule with all it needs but the curve, and the cap that holds for every suggestion."""

    name: str
    rule: Rule
    sweep: Sweep
    divergence_lr: float | None

    def __call__(self, curve: SmoothedCurve) -> float:
        return float(f"{self.rule.pick(curve, self.sweep):.{_DIGITS}g}")

    def capped(self, picked: float) -> float:
        if self.divergence_lr is None:
            return picked
        return min(picked, self.divergence_lr * LARGEST_SHARE_OF_DIVERGENCE)


def _too_short(what: str, picker: _Picker) -> NoSuggestion:
    blown = picker.divergence_lr
    if blown is None:
        return NoSuggestion("noisy", f"too few points: {what}", f"--lr-iterations {3 * LEAST_POINTS} or more", None)
    return NoSuggestion(
        "diverged",
        f"the loss blew up at LR {blown:.2g}, too early in the sweep to judge it: {what}",
        "start the sweep lower (--lr-min 1e-7); if it still blows up, look for NaN in the data or use --precision fp32",
        blown,
    )


def _judge_curve(curve: SmoothedCurve, picker: _Picker) -> NoSuggestion | None:
    """Return why the averaged curve cannot be used, None if it can."""
    blown = picker.divergence_lr
    points = len(curve.learning_rates)
    if points < LEAST_POINTS:
        return _too_short(f"{points} points, {LEAST_POINTS} are needed", picker)
    if curve.drop < max(LEAST_DROP * abs(curve.start_loss), CHANCE_DROP * curve.smoothed_noise):
        fell = (
            f"the loss does not fall beyond chance: {curve.start_loss:.3g} at the start, {curve.minimum_loss:.3g}"
            f" at best, noise {curve.noise:.2g}"
        )
        if blown is not None and blown < 10 * curve.learning_rates[0]:
            return _too_short(fell, picker)
        return NoSuggestion(
            "flat",
            fell,
            "check that labels belong to their samples and inputs are normalised; then --runs 5 --lr-iterations 200",
            blown,
        )
    if curve.drop < max(DROP_OVER_NOISE * curve.smoothed_noise, curve.noise / NOISE_OVER_DROP):
        return NoSuggestion(
            "noisy",
            f"single losses scatter by {curve.noise:.2g} around a fall of {curve.drop:.2g}",
            "--runs 5 --lr-iterations 200, or a larger --per-gpu-batch",
            blown,
        )
    if _fall_score(curve.raw[: curve.minimum_index + 1]) < LEAST_TREND:
        return NoSuggestion(
            "noisy",
            f"the fall of {curve.drop:.2g} comes from a few single losses, not from a steady trend",
            "--runs 5 --lr-iterations 200, or a larger --per-gpu-batch",
            blown,
        )
    if not curve.edge_reached and blown is None:
        return NoSuggestion(
            "flat",
            f"the loss never rises again: {curve.losses[-1]:.3g} at the highest LR, {curve.learning_rates[-1]:.2g}",
            f"widen the range: --lr-max {10 * curve.learning_rates[-1]:.2g}",
            None,
        )
    return None


def _judge_learning(curve: SmoothedCurve, picker: _Picker, sweeps: int, to_reach: float | None) -> NoSuggestion | None:
    """Return why a fall beyond noise is none of learning, None if it is one."""
    blown = picker.divergence_lr
    if to_reach is not None and curve.minimum_loss > to_reach:
        return NoSuggestion(
            "flat",
            f"the loss falls from {curve.start_loss:.3g} to {curve.minimum_loss:.3g}; that takes no more than the"
            f" classes' frequencies and samples learned by heart, which bring it to {to_reach:.3g}",
            "check that labels belong to their samples and inputs are normalised; then --lr-iterations 400",
            blown,
        )
    if curve.drop < SMALL_DROP * abs(curve.start_loss):
        drift = f"a fall of {curve.drop:.2g} may be a drift of the data"
        if sweeps == 1:
            return NoSuggestion("noisy", f"{drift}: there is a single sweep", "--runs 3", blown)
        lowest = curve.learning_rates[0]
        if _rest_decades(curve) < LEAST_REST_DECADES:
            fix = f"start the sweep lower (--lr-min {lowest / 10:.0e}), --runs 5"
            return NoSuggestion("noisy", f"{drift}: it begins at LR {lowest:.2g}", fix, blown)
    before = curve.losses[: curve.minimum_index + 1]
    beyond = [loss for rate, loss in zip(curve.learning_rates, curve.losses, strict=True) if rate > curve.edge]
    rise = max(loss - lowest for loss, lowest in zip(before, accumulate(before, min), strict=True))
    back = curve.minimum_loss + EDGE_SHARE * curve.drop - min(beyond, default=math.inf)
    if rise > MOST_RISE_BEFORE_MINIMUM * curve.drop or back > MOST_RETURN * curve.drop:
        return NoSuggestion(
            "noisy",
            "the loss goes down and up more than once",
            "shuffle the training samples; then --runs 5 --lr-iterations 200",
            blown,
        )
    return None


def _fall_score(losses: Sequence[float]) -> float:
    """Return by how many standard deviations of chance the losses fall: Mann-Kendall's S over its deviation."""
    thinned = losses[:: max(1, len(losses) // _TREND_POINTS)]
    n = len(thinned)
    falls = sum((later < earlier) - (later > earlier) for earlier, later in combinations(thinned, 2))
    return falls / math.sqrt(n * (n - 1) * (2 * n + 5) / 18) if n > 1 else 0.0


def _rest_decades(curve: SmoothedCurve) -> float:
    level = curve.start_loss - REST_SHARE * curve.drop
    end = next(rate for rate, loss in zip(curve.learning_rates, curve.losses, strict=True) if loss < level)
    return math.log10(end / curve.learning_rates[0])


def _judge_sweeps(curve: SmoothedCurve, sweeps: list[SmoothedCurve], picker: _Picker) -> Suggestion | NoSuggestion:
    """Return the pick with the band of the single sweeps, or why the sweeps do not bear it out."""
    least = min(_fall_at(curve.lr_at_minimum, sweep) for sweep in sweeps)
    if least < LEAST_SHARE_OF_A_SWEEP * curve.drop:
        return NoSuggestion(
            "noisy",
            f"the sweeps disagree: at LR {curve.lr_at_minimum:.2g} the loss fell by {curve.drop:.2g} on average,"
            f" by {least:.2g} in one of them",
            f"--runs {2 * len(sweeps) + 1} with a higher --lr-iterations",
            picker.divergence_lr,
        )
    picked = picker(curve)
    # Before the cap, which would make one of any that lie above it.
    picks = [picker(sweep) for sweep in sweeps]
    if max(picks) > MOST_DISAGREEMENT * min(picks):
        return NoSuggestion(
            "noisy",
            f"the sweeps disagree: {min(picks):.2g} .. {max(picks):.2g}",
            f"--runs {2 * len(sweeps) + 1} with a higher --lr-iterations",
            picker.divergence_lr,
        )
    picked, *picks = (picker.capped(pick) for pick in (picked, *picks))
    if picked < curve.learning_rates[0]:
        return NoSuggestion(
            "diverged",
            f"the pick {picked:.2g} lies below the lowest LR that was tried, {curve.learning_rates[0]:.2g}",
            f"start the sweep lower (--lr-min {picked / 100:.0e})",
            picker.divergence_lr,
        )
    return Suggestion(picked, picker.name, (min(picks), max(picks)), picker.divergence_lr)


def _fall_at(learning_rate: float, sweep: SmoothedCurve) -> float:
    """Return how far a sweep lies below its start at the last of its LRs up to `learning_rate`."""
    return sweep.start_loss - sweep.losses[max(0, bisect_right(sweep.learning_rates, learning_rate) - 1)]
