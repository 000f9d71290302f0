"""Scale the LR by the measured gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162).

Loaded by name through `gpuplan_job.transfer`. Where there is no usable measurement it is the square root, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.transfer import sqrt

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Transfer

_ADAPTIVE_EXPONENT = 0.75
"""The paper gives 0.5 .. 1 for optimizers that divide by the gradient's size; 1 holds for SGD."""


def can_say(transfer: Transfer) -> bool:
    """Return whether there is a noise scale, or nothing to carry."""
    return transfer.noise_scale is not None or transfer.batch_to == transfer.batch_from


def multiplier(transfer: Transfer) -> float:
    """Return ((1 + Bn / batch_from) / (1 + Bn / batch_to)) ^ alpha, alpha 1 for SGD and 0.75 for any other optimizer.

    Bn far above both batches gives the linear rule, far below them no change.
    """
    noise = transfer.noise_scale
    if noise is None:
        return sqrt.multiplier(transfer)
    alpha = 1.0 if transfer.optimizer == "sgd" else _ADAPTIVE_EXPONENT
    return float(((1 + noise / transfer.batch_from) / (1 + noise / transfer.batch_to)) ** alpha)


def note(transfer: Transfer) -> str | None:
    """Say so where the square root stands in for a missing measurement."""
    if transfer.noise_scale is None and transfer.batch_to != transfer.batch_from:
        return (
            "the gradient noise scale carried no signal or was not measured, as on data of too few micro-batches: "
            "the square root of the batch ratio is used"
        )
    return None
