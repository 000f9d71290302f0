"""Scale the LR by the measured gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162).

Loaded by name through `gpuplan_job.transfer`. Where there is no usable measurement it is the square root, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.transfer import sqrt

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Transfer


def can_say(transfer: Transfer) -> bool:
    """Return whether there is a noise scale, or nothing to carry."""
    return transfer.noise_scale is not None or transfer.batch_to == transfer.batch_from


def multiplier(transfer: Transfer) -> float:
    """Return (1 + Bn / batch_from) / (1 + Bn / batch_to), whatever the optimizer.

    Bn far above both batches gives the linear rule, far below them no change. For optimizers that divide by the
    gradient's size the paper gives a power of 0.5 to 1 of it; of 0.5, 0.75 and 1, one had the least regret.
    """
    noise = transfer.noise_scale
    if noise is None:
        return sqrt.multiplier(transfer)
    return (1 + noise / transfer.batch_from) / (1 + noise / transfer.batch_to)


def note(transfer: Transfer) -> str | None:
    """Say so where the square root stands in for a missing measurement."""
    if transfer.noise_scale is None and transfer.batch_to != transfer.batch_from:
        return (
            "the gradient noise scale carried no signal or was not measured, as on data of too few micro-batches: "
            "the square root of the batch ratio is used"
        )
    return None
