"""Scale the LR with the square root of the batch (Hoffer et al. 2017, arXiv 1705.08741).

Loaded by name through `gpuplan_job.transfer`; also what `noise_scale` falls back to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Transfer


def can_say(transfer: Transfer) -> bool:  # noqa: ARG001 - every policy is called alike
    """Return True: the batches are all it goes by."""
    return True


def multiplier(transfer: Transfer) -> float:
    """Return sqrt(batch_to / batch_from)."""
    return math.sqrt(transfer.ratio)


def note(transfer: Transfer) -> str | None:  # noqa: ARG001 - every policy is called alike
    """Return None: this policy has no case to tell apart."""
    return None
