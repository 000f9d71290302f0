"""Pick a share of the LR at which the loss leaves its valley, corrected for the sweep's length.

Loaded by name through `gpuplan_job.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.rules.base import Law, Laws

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep

LAWS = Laws(sgd=Law(4.7, 0.0, 0.1), adaptive=Law(22.0, 0.0, 1.0))
"""Fitted by benchmarks/lr_regret.py on trainings at swept LRs."""


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return a share of the edge."""
    return LAWS(curve.edge, sweep)
