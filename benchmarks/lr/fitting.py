"""Fits a rule's two constants, LR = landmark / divisor * (8 n / T)^exponent, to the regret over many readings.

A landmark may be several, then it is their geometric mean. The fit is a search over a grid, so it finds the same
constants everywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuplan_job.rules.base import MEASURED_RATIOS
from gpuplan_job.suggestion import LARGEST_SHARE_OF_DIVERGENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lr.readings import Reading
    from lr.truth import Landscape

    Floats = NDArray[np.float64]

RULES: dict[str, tuple[str, ...]] = {
    "normalised": ("edge", "descended"),
    "edge": ("edge",),
    "minimum": ("minimum",),
    "steepest": ("steepest",),
    "valley": ("valley",),
}
LEAST_ITERATIONS = 90
"""Constants are fitted on sweeps about as long as gpuplan makes them."""
_EXPONENTS = np.arange(0, 1.001, 0.05)
"""Up to one: no LR falls faster than the training grows."""
_LOG_DIVISORS = np.arange(-2.0, 1.8, 0.025)
_LOW, _HIGH, _PER_DECADE = -7.0, 3.0, 200
_WORST = 5.0
"""Regret beyond which worse is as bad."""


@dataclass(frozen=True)
class Constants:
    """A rule's constants."""

    divisor: float
    exponent: float

    def pick(self, reading: Reading, landmarks: Sequence[str]) -> float:
        """Return the learning rate, held below a quarter of the one that diverged."""
        logs = [math.log(reading.landmarks[name]) for name in landmarks]
        length = (8 * held(reading.share)) ** self.exponent
        rate = float(math.exp(sum(logs) / len(logs)) / self.divisor * length)
        if reading.divergence is None:
            return rate
        return min(rate, reading.divergence * LARGEST_SHARE_OF_DIVERGENCE)


def held(share: float) -> float:
    """Return n / T, held within what was measured, as the rules hold it."""
    low, high = MEASURED_RATIOS
    return min(max(share, low), high)


def fit(readings: Sequence[Reading], landmarks: Sequence[str], truth: Mapping[str, Landscape]) -> Constants:
    """Return the constants of the least mean log(1 + regret); each task and length counts the same.

    `truth` holds the landscape of a task on one GPU by the task's name.
    """
    tables = {name: _table(landscape) for name, landscape in truth.items()}
    table = np.stack([tables[one.task] for one in readings])
    logs = np.array([[math.log10(one.landmarks[name]) for name in landmarks] for one in readings]).mean(axis=1)
    lengths = np.array([math.log10(8 * held(one.share)) for one in readings])
    most = np.array([math.log10((one.divergence or math.inf) * LARGEST_SHARE_OF_DIVERGENCE) for one in readings])
    counts = Counter((one.task, one.iterations) for one in readings)
    weights = np.array([1 / counts[one.task, one.iterations] for one in readings])
    rows = np.arange(len(readings))
    best = (math.inf, Constants(1.0, 0.0))
    for exponent in _EXPONENTS:
        for log_divisor in _LOG_DIVISORS:
            picked = np.minimum(logs - log_divisor + exponent * lengths, most)
            columns = np.clip(np.round((picked - _LOW) * _PER_DECADE), 0, table.shape[1] - 1).astype(int)
            score = float(np.average(np.log1p(table[rows, columns]), weights=weights))
            if score < best[0]:
                best = (score, Constants(10**log_divisor, float(exponent)))
    return best[1]


def _table(landscape: Landscape) -> Floats:
    """Return the regret over a grid of log10 LR."""
    grid = np.linspace(_LOW, _HIGH, round((_HIGH - _LOW) * _PER_DECADE) + 1)
    return np.array([min(landscape.regret(10**place), _WORST) for place in grid])
