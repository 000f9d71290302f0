"""Pick a share of the LR at which the loss is lowest, corrected for the sweep's length.

Loaded by name through `gpuplan_job.rules`. The classic "minimum / 10" is this rule at one sweep length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.rules.base import Law, Laws

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep

LAWS = Laws(sgd=Law(1.8, 0.5, 0.2), adaptive=Law(4.5, 0.5, 1.0))
"""Fitted by benchmarks/lr_regret.py on trainings at swept LRs."""


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return a share of the LR at the minimum."""
    return LAWS(curve.lr_at_minimum, sweep)
