"""Pick a fixed multiple of the LR at which the loss falls fastest, corrected for the sweep's length.

Loaded by name through `gpuplan_job.rules`. The landmark is that of Smith's range test (2017, arXiv 1506.01186) as
torch-lr-finder reads it, on a curve that smoothing has not shifted.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from gpuplan_job.rules.base import Law, Laws

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep

LAWS = Laws(sgd=Law(0.75, 1.0, 0.1), adaptive=Law(1.06, 1.0, 1.0))
"""Fitted by benchmarks/lr_regret.py on trainings at swept LRs."""


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return a multiple of the landmark, at most the edge."""
    return min(LAWS(landmark(curve), sweep), curve.edge)


def landmark(curve: SmoothedCurve) -> float:
    """Return the LR of the steepest fall over log LR, among the points up to the minimum."""
    x = [math.log10(rate) for rate in curve.learning_rates[: max(curve.minimum_index, 1) + 1]]
    # Neighbouring LRs may have one logarithm.
    steps = [(a, b, curve.losses[i + 1] - curve.losses[i]) for i, (a, b) in enumerate(pairwise(x)) if b > a]
    left, right, _ = min(steps, key=lambda step: step[2] / (step[1] - step[0]), default=(x[0], x[0], 0.0))
    return float(10 ** ((left + right) / 2))
