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
MEASURED_LENGTHS = (30.0, 2000.0)
"""Steps of such a sweep."""
MEASURED_TRAININGS = (300.0, 4000.0)
"""Steps of the trainings whose best LR was measured."""


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
    def length(self) -> float:
        """The length n, counted over six decades, held within what was measured: no power law is carried on."""
        return _held(self.iterations * MEASURED_DECADES / self.decades, MEASURED_LENGTHS)

    @property
    def training(self) -> float:
        """The training's length T, held likewise."""
        return _held(self.reference_steps, MEASURED_TRAININGS)


@dataclass(frozen=True)
class Law:
    """From a landmark of the curve to an LR: landmark / divisor * (n / 100)^sweep * (1000 / T)^training.

    The first power takes out what the landmark owes to the sweep's length: the LR by which a loss has come down falls
    as 1 / n, because what has to add up to the same sum are the LRs of all steps; the edge does not move. The second is
    what a longer training asks for.
    """

    divisor: float
    sweep: float
    training: float

    def __call__(self, landmark: float, sweep: Sweep) -> float:
        """Return the LR for a landmark read off a sweep."""
        by_length = (sweep.length / 100) ** self.sweep * (1000 / sweep.training) ** self.training
        return float(landmark / self.divisor * by_length)


@dataclass(frozen=True)
class Laws:
    """The two laws of a rule.

    What SGD can stand in a short sweep is near what it can stand in a training. An optimizer that divides by the
    gradient's size stands far more in a sweep, and the more so the longer the training is.
    """

    sgd: Law
    adaptive: Law

    def __call__(self, landmark: float, sweep: Sweep) -> float:
        """Return the LR by the law of the sweep's optimizer."""
        return (self.sgd if sweep.optimizer == "sgd" else self.adaptive)(landmark, sweep)


def _held(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


class Rule(Protocol):
    """What a file of this folder offers.

    Laws, checked over every file: the pick is finite and positive, does not depend on the unit of the loss, and moves
    with the curve when every LR is multiplied by the same factor.
    """

    def pick(self, curve: SmoothedCurve, sweep: Sweep) -> float:
        """Return the LR for a training of `reference_steps` steps at the sweep's own batch."""
        ...
