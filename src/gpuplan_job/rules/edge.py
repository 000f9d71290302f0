"""Pick a fixed share of the LR at which the loss leaves its valley, corrected for the sweep's length.

Loaded by name through `gpuplan_job.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return edge / 11 * (8 n / T)^0.35; the constants were fitted on trainings at swept LRs."""
    return float(curve.edge / 11 * (8 * sweep.length_ratio) ** 0.35)
