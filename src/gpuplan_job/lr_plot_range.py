"""What part of a range test's curves its picture shows: learning rates in whole decades, losses up to a rule's reach.

Called by `lr_plot`. Standard library only; it draws nothing.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan_job.contract import Curve

_START_POINTS = 5
"""Points whose median is a sweep's starting loss, as in `gpuplan_job.curve`."""
_SHOWN_RISE = 0.6
"""Part of the fall that may be seen lost again: just past the edge, which lies at one half."""
_LEAST_SPAN = 0.2
"""Least height of the picture as a share of the starting loss, so that a flat curve looks flat."""
_ROUNDING = 1e-9


def rates_shown(rates: Sequence[float]) -> tuple[float, float]:
    """Return the whole powers of ten around positive learning rates, at least a decade apart."""
    powers = [math.log10(rate) for rate in rates]
    low, high = math.floor(min(powers) + _ROUNDING), math.ceil(max(powers) - _ROUNDING)
    return 10.0**low, 10.0 ** max(high, low + 1)


def losses_shown(curves: Sequence[Curve]) -> tuple[float, float, float | None]:
    """Return the lowest and the highest loss to show, and the highest that there is where it is not shown.

    The losses shown end a little above the start: how far beyond it a sweep blew up (10 or 1e6) says nothing more.
    """
    sweeps = [losses for curve in curves if (losses := finite(curve))]
    if not sweeps:
        return 0.0, 1.0, None
    start = statistics.median([loss for losses in sweeps for loss in losses[:_START_POINTS]])
    low, highest = min(map(min, sweeps)), max(map(max, sweeps))
    fall = start - low
    # Before its minimum a sweep is seen whole, noise included, unless a single loss jumps out by the whole fall.
    noisiest = max(max(losses[: losses.index(min(losses)) + 1]) for losses in sweeps)
    high = min(max(noisiest, start + _SHOWN_RISE * fall), start + fall, highest)
    lacking = max(_LEAST_SPAN * max(abs(start), _ROUNDING) - (high - low), 0.0)
    margin = lacking / 2 + 0.04 * (high - low)
    return low - margin, high + margin, highest if highest > high + margin else None


def finite(curve: Curve) -> list[float]:
    """Return a sweep's losses up to the first that is not finite."""
    end = next((i for i, loss in enumerate(curve.losses) if not math.isfinite(loss)), len(curve.losses))
    return curve.losses[:end]
