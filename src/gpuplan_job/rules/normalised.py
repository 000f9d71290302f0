"""Pick a share of the middle of the valley, corrected for the sweep's length: what a run uses by default.

Loaded by name through `gpuplan_job.rules`. The valley reaches from the LR by which the loss has come down to the LR at
which it has left again. The two ends err apart, and neither is one point that chance can move, as the minimum is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpuplan_job.rules.base import Law, Laws

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep

LAWS = Laws(sgd=Law(2.1, 0.5, 0.1), adaptive=Law(5.3, 0.5, 1.0))
"""Fitted by benchmarks/lr_regret.py on trainings at swept LRs."""


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return a share of the geometric mean of the two ends."""
    return LAWS(math.sqrt(curve.descended * curve.edge), sweep)
