"""One smooth curve from the sweeps of an LR range test, and the landmarks that rules read off it.

Called by `gpuplan_job.suggestion` on either side of the door, and by reports that draw it. Standard library only; it
judges nothing and picks nothing.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan_job.contract import Curve

SIGMA_DECADES = 0.2
"""Standard deviation of the Gaussian, in decades of LR."""
EDGE_SHARE = 0.5
"""Share of the fall that may be lost again before the loss counts as having left its valley."""
DESCENDED_SHARE = 0.75
"""Share of the fall after which the loss counts as having come down."""
_REACH = 4 * SIGMA_DECADES
"""Weights beyond four standard deviations (under 0.0004) are left out: the cost stays linear in the points."""
_LARGEST_LOSS = 1e50
"""Larger counts as not finite: its square would not be."""
_START_POINTS = 5
"""Points whose median is a single sweep's starting loss."""


@dataclass(frozen=True)
class SmoothedCurve:
    """The mean of the sweeps, raw and smoothed, over the LR range that all of them reached; losses in nats."""

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Smoothed with zero phase: a centred Gaussian in log10(LR), its weights normalised at each point."""
    raw: tuple[float, ...]
    """The mean before smoothing, each sweep capped (see `smooth`)."""
    noise: float
    """Standard deviation of `raw` around the true curve, up to the edge."""
    smoothed_noise: float
    """The same of `losses`."""
    minimum_index: int
    edge: float
    """The LR at which the loss leaves its valley.

    Right of the minimum, the first crossing of `minimum_loss + 0.5 * (start_loss - minimum_loss)`, interpolated
    linearly in log10(LR). Where the loss never crosses it, the last LR: then `edge_reached` tells.
    """
    edge_reached: bool
    divergence_lr: float | None
    """Smallest LR at which a sweep stopped early; None: all went through."""

    @property
    def start_loss(self) -> float:
        """L0: the smoothed loss at the lowest LR."""
        return self.losses[0]

    @property
    def minimum_loss(self) -> float:
        """The lowest smoothed loss."""
        return self.losses[self.minimum_index]

    @property
    def lr_at_minimum(self) -> float:
        """The LR of the lowest smoothed loss."""
        return self.learning_rates[self.minimum_index]

    @property
    def descended(self) -> float:
        """The lowest LR by which the smoothed loss has lost three quarters of its fall."""
        level = self.start_loss - DESCENDED_SHARE * self.drop
        return next(rate for rate, loss in zip(self.learning_rates, self.losses, strict=True) if loss <= level)

    @property
    def drop(self) -> float:
        """How far the smoothed loss falls from its start to its minimum."""
        return self.start_loss - self.minimum_loss


def smooth(curves: Sequence[Curve]) -> SmoothedCurve:
    """Average sweeps, smooth the mean and find its landmarks.

    Each sweep is cut at its first non-finite loss, and the mean ends where the shortest one does. Each sweep is also
    capped at as far above its starting loss as it fell below it: past that point it has plainly blown up, and how far
    (10 or 1e6) must not move the edge through the Gaussian's tail. Of an abrupt blow-up the edge then lies some 0.2
    decade to the left, on the safe side.

    Raises:
        ValueError: there is no sweep, or fewer than two points that all sweeps have.
    """
    if not curves:
        raise ValueError("no sweep to smooth")
    cut = [_finite_part(curve) for curve in curves]
    end = min((rates[-1] if rates else 0.0) for rates, _ in cut)
    start = max((rates[0] if rates else math.inf) for rates, _ in cut)
    grid = [rate for rate in cut[0][0] if start <= rate <= end]
    if len(grid) <= 1:
        raise ValueError(f"the sweeps share {len(grid)} points")
    x = [math.log10(rate) for rate in grid]
    columns = [_resampled(rates, _capped(losses), x) for rates, losses in cut]
    raw = [statistics.fmean(column) for column in zip(*columns, strict=True)]
    smoothed, squared_weights = _gaussian(x, raw)

    lowest = min(range(len(grid)), key=smoothed.__getitem__)
    level = smoothed[lowest] + EDGE_SHARE * (smoothed[0] - smoothed[lowest])
    after = next((i for i in range(lowest + 1, len(grid)) if smoothed[i] > level), None)
    edge = grid[-1] if after is None else 10 ** _crossing(x, smoothed, after, level)
    # Beyond the edge a sweep is chaos, not noise; but a flat curve has its "edge" anywhere, so keep half the points.
    quiet = len(grid) if after is None else max(after, len(grid) // 2)
    noise = _noise(x[:quiet], raw[:quiet])
    return SmoothedCurve(
        learning_rates=tuple(grid),
        losses=tuple(smoothed),
        raw=tuple(raw),
        noise=noise,
        smoothed_noise=noise * math.sqrt(squared_weights),
        minimum_index=lowest,
        edge=edge,
        edge_reached=after is not None,
        divergence_lr=divergence_lr(curves),
    )


def divergence_lr(curves: Sequence[Curve]) -> float | None:
    """Return the smallest LR at which a sweep diverged or met a non-finite loss; None if all went through."""
    stops = [curve.stopped_at_lr for curve in curves if curve.stop_reason != "completed"]
    for curve in curves:
        rates, _ = _finite_part(curve)
        stops.extend(curve.learning_rates[len(rates) : len(rates) + 1])
    return min(stops, default=None)


def _finite_part(curve: Curve) -> tuple[list[float], list[float]]:
    # Written so that NaN, for which every comparison is false, ends the curve too.
    end = next((i for i, loss in enumerate(curve.losses) if not abs(loss) <= _LARGEST_LOSS), len(curve.losses))
    return curve.learning_rates[:end], curve.losses[:end]


def _capped(losses: list[float]) -> list[float]:
    start = statistics.median(losses[:_START_POINTS])
    cap = start + (start - min(losses))
    return [min(loss, cap) for loss in losses]


def _resampled(rates: list[float], losses: list[float], x: list[float]) -> list[float]:
    """Return the losses at the points x (log10 LR), interpolated linearly; exact where a point is the sweep's own."""
    own = [math.log10(rate) for rate in rates]
    result, right = [], 0
    for point in x:
        while right < len(own) - 1 and own[right] < point:
            right += 1
        if right == 0 or own[right] <= point:
            result.append(losses[right])
        else:
            share = (point - own[right - 1]) / (own[right] - own[right - 1])
            result.append(losses[right - 1] + share * (losses[right] - losses[right - 1]))
    return result


def _gaussian(x: list[float], y: list[float]) -> tuple[list[float], float]:
    """Return the smoothed y, and by what factor smoothing shrinks the variance of independent noise (mean over x)."""
    smoothed, squared = [], []
    for centre in x:
        first, past = bisect_left(x, centre - _REACH), bisect_right(x, centre + _REACH)
        weights = [math.exp(-0.5 * ((point - centre) / SIGMA_DECADES) ** 2) for point in x[first:past]]
        total = math.fsum(weights)
        smoothed.append(math.fsum(w * value for w, value in zip(weights, y[first:past], strict=True)) / total)
        squared.append(math.fsum(w * w for w in weights) / total**2)
    return smoothed, statistics.fmean(squared)


def _noise(x: list[float], y: list[float]) -> float:
    """Return the standard deviation of the noise in y(x), from each point's distance to the line of its neighbours.

    Nearly free of the curve's own shape (Gasser, Sroka, Jennen-Steinmetz 1986); 0 for fewer than three points.
    """
    squares = []
    for i in range(1, len(x) - 1):
        span = x[i + 1] - x[i - 1]
        if span <= 0:
            continue  # neighbouring LRs may have one logarithm
        left = (x[i + 1] - x[i]) / span
        distance = y[i] - left * y[i - 1] - (1 - left) * y[i + 1]
        squares.append(distance**2 / (1 + left**2 + (1 - left) ** 2))
    return math.sqrt(statistics.fmean(squares)) if squares else 0.0


def _crossing(x: list[float], y: list[float], after: int, level: float) -> float:
    """Return where the line from point `after - 1` (at or below the level) to point `after` (above it) meets it."""
    low, high = y[after - 1], y[after]
    return x[after - 1] + (level - low) / (high - low) * (x[after] - x[after - 1])
