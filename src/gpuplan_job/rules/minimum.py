"""Pick a fixed share of the LR at which the loss is lowest, corrected for the sweep's length.

Loaded by name through `gpuplan_job.rules`. The classic "minimum / 10" is this rule at one sweep length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return LR_at_minimum / 4 * (8 n / T)^0.65; the constants were fitted on trainings at swept LRs."""
    return float(curve.lr_at_minimum / 4 * (8 * sweep.length_ratio) ** 0.65)
