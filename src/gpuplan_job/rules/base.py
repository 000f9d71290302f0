"""What a suggestion rule is given beside the curve and what it must offer; every file beside this one is such a rule.

Used by the rules and by `gpuplan_job.suggestion`. It must not name a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve

MEASURED_DECADES = 6.0
"""The rules' constants were measured on sweeps over six decades."""
MEASURED_RATIOS = (0.025, 1.0)
"""Sweep lengths, as shares of the training, that the constants were measured over."""


@dataclass(frozen=True)
class Sweep:
    """How a curve was taken: what its LRs depend on beside the task.

    The slower a sweep climbs, the lower the LR at which it ends, so a rule normalises by the sweep's length.
    """

    iterations: int
    """n: optimizer steps from the lowest to the highest LR."""
    decades: float
    """log10(highest / lowest LR) of the planned range."""
    reference_steps: int
    """T: optimizer steps of the whole training on one GPU at the sweep's batch."""
    optimizer: str

    def __post_init__(self) -> None:
        """Refuse a sweep or a training without length."""
        if min(self.iterations, self.reference_steps) < 1 or self.decades <= 0:
            raise ValueError("iterations and reference_steps must be at least 1 and the LR range must rise")

    @property
    def length_ratio(self) -> float:
        """The ratio n / T, with n counted over six decades, held within the measured 0.025 .. 1.

        Outside that range nothing was measured: the nearest measured length is used rather than a power law carried on.
        """
        steps_over_six_decades = self.iterations * MEASURED_DECADES / self.decades
        low, high = MEASURED_RATIOS
        return min(max(steps_over_six_decades / self.reference_steps, low), high)


@dataclass(frozen=True)
class Law:
    """From a landmark of the curve to an LR: landmark / divisor * (8 n / T)^exponent."""

    divisor: float
    exponent: float

    def __call__(self, landmark: float, sweep: Sweep) -> float:
        """Return the LR for a landmark read off a sweep."""
        return float(landmark / self.divisor * (8 * sweep.length_ratio) ** self.exponent)


@dataclass(frozen=True)
class Laws:
    """The two laws of a rule.

    What SGD can stand in a short sweep is near what it can stand in a training. An optimizer that divides by the
    gradient's size stands far more in a sweep, and the more so the shorter the sweep is.
    """

    sgd: Law
    adaptive: Law

    def __call__(self, landmark: float, sweep: Sweep) -> float:
        """Return the LR by the law of the sweep's optimizer."""
        return (self.sgd if sweep.optimizer == "sgd" else self.adaptive)(landmark, sweep)


class Rule(Protocol):
    """What a file of this folder offers.

    Laws, checked over every file: the pick is finite and positive, does not depend on the unit of the loss, and moves
    with the curve when every LR is multiplied by the same factor.
    """

    def pick(self, curve: SmoothedCurve, sweep: Sweep) -> float:
        """Return the LR for a training of `reference_steps` steps at the sweep's own batch."""
        ...
