"""Pick a fixed multiple of the LR half-way down the longest fall of the loss, corrected for the sweep's length.

Loaded by name through `gpuplan_job.rules`. The landmark is that of the `valley` that fastai suggests by default.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from gpuplan_job.rules.base import Law, Laws

if TYPE_CHECKING:
    from gpuplan_job.curve import SmoothedCurve
    from gpuplan_job.rules.base import Sweep

LAWS = Laws(sgd=Law(0.06, 1.0, 0.8), adaptive=Law(0.19, 1.0, 1.0))
"""Fitted by benchmarks/lr_regret.py on trainings at swept LRs."""


def pick(curve: SmoothedCurve, sweep: Sweep) -> float:
    """Return a multiple of the landmark, at most the edge."""
    return min(LAWS(landmark(curve), sweep), curve.edge)


def landmark(curve: SmoothedCurve) -> float:
    """Return the LR in the middle of the longest run of losses of which each is below all before it in the run.

    The run may skip points: it is a longest decreasing subsequence, found in n log n (Fredman 1975).
    """
    fallen: list[float] = []
    """fallen[k]: the smallest fall (minus a loss) at which a run of k + 1 losses ends."""
    starts: list[int] = []
    first = last = 0
    for i, loss in enumerate(curve.losses):
        length = bisect_left(fallen, -loss)
        start = starts[length - 1] if length else i
        if length == len(fallen):
            first, last = start, i
        fallen[length : length + 1], starts[length : length + 1] = [-loss], [start]
    return curve.learning_rates[(first + last) // 2]
