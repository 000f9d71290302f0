"""The two axes of a range test's picture: log learning rate against loss, and what part of the losses is shown.

Called by `curve_svg`. Pure; it draws nothing.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
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
_WANTED_TICKS = 5
_MOST_DECADE_LABELS = 14
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Frame:
    """The rectangle of the plot in px; y grows downwards."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Axes:
    """Data to px, and the ticks."""

    frame: Frame
    decades: tuple[int, int]
    """Powers of ten at the left and the right edge."""
    losses: tuple[float, float]
    """Loss at the bottom and at the top edge."""
    highest: float | None
    """Highest loss of all, where it lies beyond the top edge."""

    def x(self, learning_rate: float) -> float:
        """Return the horizontal place of a learning rate in px, inside the frame."""
        low, high = self.decades
        share = (math.log10(learning_rate) - low) / (high - low)
        return self.frame.left + min(max(share, 0.0), 1.0) * (self.frame.right - self.frame.left)

    def y(self, loss: float) -> float:
        """Return the vertical place of a loss in px; what lies beyond the frame stays within one height of it."""
        low, high = self.losses
        share = (loss - low) / (high - low)
        return self.frame.bottom - min(max(share, -1.0), 2.0) * (self.frame.bottom - self.frame.top)

    def decade_ticks(self) -> list[tuple[float, str]]:
        """Return the labelled learning rates, with their labels: 1e-5 .. 1e-3, 0.01, 0.1, 1, 10."""
        low, high = self.decades
        step = math.ceil((high - low) / _MOST_DECADE_LABELS)
        return [(10.0**power, _decade(power)) for power in range(low, high + 1, step)]

    def minor_ticks(self) -> list[float]:
        """Return the learning rates at 2 .. 9 of each decade."""
        return [digit * 10.0**power for power in range(*self.decades) for digit in range(2, 10)]

    def loss_ticks(self) -> list[tuple[float, str]]:
        """Return about five round losses inside the frame, with their labels."""
        low, high = self.losses
        rough = (high - low) / _WANTED_TICKS
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(magnitude * digit for digit in (1, 2, 5, 10) if magnitude * digit >= rough * (1 - _ROUNDING))
        ticks = [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [(tick, _loss(tick, step)) for tick in ticks]


def axes(frame: Frame, curves: Sequence[Curve], rates: Sequence[float]) -> Axes:
    """Return axes that hold whole decades around `rates` (positive) and the part of the curves that a rule reads.

    The losses shown end a little above the start: how far beyond it a sweep blew up (10 or 1e6) says nothing more.
    """
    powers = [math.log10(rate) for rate in rates]
    low, high = math.floor(min(powers) + _ROUNDING), math.ceil(max(powers) - _ROUNDING)
    bottom, top, highest = _losses([losses for curve in curves if (losses := finite(curve))])
    return Axes(frame, (low, max(high, low + 1)), (bottom, top), highest if highest > top else None)


def finite(curve: Curve) -> list[float]:
    """Return a sweep's losses up to the first that is not finite."""
    end = next((i for i, loss in enumerate(curve.losses) if not math.isfinite(loss)), len(curve.losses))
    return curve.losses[:end]


def _losses(sweeps: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the lowest and the highest loss to show, and the highest that there is."""
    if not sweeps:
        return 0.0, 1.0, 1.0
    start = statistics.median([loss for losses in sweeps for loss in losses[:_START_POINTS]])
    low, highest = min(map(min, sweeps)), max(map(max, sweeps))
    fall = start - low
    # Before its minimum a sweep is seen whole, noise included, unless a single loss jumps out by the whole fall.
    noisiest = max(max(losses[: losses.index(min(losses)) + 1]) for losses in sweeps)
    high = min(max(noisiest, start + _SHOWN_RISE * fall), start + fall, highest)
    lacking = max(_LEAST_SPAN * max(abs(start), _ROUNDING) - (high - low), 0.0)
    margin = lacking / 2 + 0.04 * (high - low)
    return low - margin, high + margin, highest


def _decade(power: int) -> str:
    return f"1e{power}" if not -2 <= power <= 3 else f"{10.0**power:g}"  # noqa: PLR2004 - 0.01 .. 1000 read better plain


def _loss(tick: float, step: float) -> str:
    if abs(tick) >= 1e5 or step < 1e-4:  # noqa: PLR2004 - wider labels would leave the margin
        mantissa, _, exponent = f"{tick + 0.0:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}" if tick else "0"
    decimals = max(0, -math.floor(math.log10(step) + _ROUNDING))
    return f"{round(tick, decimals) + 0.0:.{decimals}f}"
