"""Fits a rule's law to the regret over many readings: its divisor and its power of the training's length.

The fit is a search over a grid, so it finds the same constants everywhere.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from gpuplan_job.rules.base import MEASURED_DECADES, Law, Laws, Sweep
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
"""Landmarks of each rule, of which the geometric mean is taken."""
LEAST_ITERATIONS = 90
"""Constants are fitted on sweeps about as long as gpuplan makes them."""
_EXPONENTS = np.arange(0, 1.001, 0.05)
"""Of the training's length; up to one: no LR falls faster than the training grows."""
_LOG_DIVISORS = np.arange(-2.0, 1.8, 0.025)
_LOW, _HIGH, _PER_DECADE = -7.0, 3.0, 200
_WORST = 5.0
"""Regret beyond which worse is as bad."""


def pick(law: Law, reading: Reading, landmarks: Sequence[str]) -> float:
    """Return the learning rate by a law, held below a quarter of the one that diverged."""
    rate = law(10 ** _log(reading, landmarks), _sweep(reading))
    if reading.divergence is None:
        return rate
    return min(rate, reading.divergence * LARGEST_SHARE_OF_DIVERGENCE)


def laws(rule: str) -> Laws:
    """Return the laws that a rule's file holds; the power of a sweep's length is a property of its landmark."""
    found: Laws = import_module(f"gpuplan_job.rules.{rule}").LAWS
    return found


def fit(readings: Sequence[Reading], rule: str, truth: Mapping[str, Landscape]) -> Law:
    """Return the law of the least mean log(1 + regret); each task and length counts the same.

    `truth` holds the landscape of a task on one GPU by the task's name.
    """
    power = laws(rule).sgd.sweep
    tables = {name: _table(landscape) for name, landscape in truth.items()}
    table = np.stack([tables[one.task] for one in readings])
    sweeps = [_sweep(one) for one in readings]
    by_length, by_training = Law(1.0, power, 0.0), Law(1.0, 0.0, 1.0)
    marks = [10 ** _log(one, RULES[rule]) for one in readings]
    logs = np.log10([by_length(mark, sweep) for mark, sweep in zip(marks, sweeps, strict=True)])
    trainings = np.log10([by_training(1.0, sweep) for sweep in sweeps])
    most = np.array([math.log10((one.divergence or math.inf) * LARGEST_SHARE_OF_DIVERGENCE) for one in readings])
    counts = Counter((one.task, one.iterations) for one in readings)
    weights = np.array([1 / counts[one.task, one.iterations] for one in readings])
    rows = np.arange(len(readings))
    best = (math.inf, Law(1.0, power, 0.0))
    for exponent in _EXPONENTS:
        for log_divisor in _LOG_DIVISORS:
            picked = np.minimum(logs - log_divisor + exponent * trainings, most)
            columns = np.clip(np.round((picked - _LOW) * _PER_DECADE), 0, table.shape[1] - 1).astype(int)
            score = float(np.average(np.log1p(table[rows, columns]), weights=weights))
            if score < best[0]:
                best = (score, Law(float(10**log_divisor), power, float(exponent)))
    return best[1]


def _log(reading: Reading, landmarks: Sequence[str]) -> float:
    return statistics.fmean(math.log10(reading.landmarks[name]) for name in landmarks)


def _sweep(reading: Reading) -> Sweep:
    return Sweep(reading.iterations, MEASURED_DECADES, reading.reference_steps, reading.optimizer)


def _table(landscape: Landscape) -> Floats:
    """Return the regret over a grid of log10 LR."""
    grid = np.linspace(_LOW, _HIGH, round((_HIGH - _LOW) * _PER_DECADE) + 1)
    return np.array([min(landscape.regret(10**place), _WORST) for place in grid])
