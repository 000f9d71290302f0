"""Take the LR that a range test at the training's own global batch gave, reached on one GPU by accumulation.

Loaded by name through `gpuplan_job.transfer`. No theory is in it: its sweeps make the very updates that all GPUs will
make. Where there were none, or they gave no LR, the noise scale stands in, and it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan_job.transfer import noise_scale

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Transfer


def can_say(transfer: Transfer) -> bool:
    """Return whether there was such a range test, or nothing to carry."""
    return transfer.checked is not None or transfer.batch_to == transfer.batch_from


def multiplier(transfer: Transfer) -> float:
    """Return the LR found at `batch_to` over the one found at `batch_from`; the noise scale's where there is none."""
    if transfer.batch_to == transfer.batch_from:
        return 1.0
    return noise_scale.multiplier(transfer) if transfer.checked is None else transfer.checked


def note(transfer: Transfer) -> str | None:
    """Say so where the noise scale stands in."""
    if can_say(transfer):
        return None
    instead = "the gradient noise scale" if noise_scale.can_say(transfer) else "the square root of the batch ratio"
    return f"the sweeps at the training's own batch gave no learning rate: {instead} is used"
