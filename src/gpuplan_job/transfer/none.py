"""Keep the LR whatever the batch: right where the number of optimizer steps is fixed, not the number of epochs.

Loaded by name through `gpuplan_job.transfer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Transfer


def can_say(transfer: Transfer) -> bool:  # noqa: ARG001 - every policy is called alike
    """Return True: the batches are all it goes by."""
    return True


def multiplier(transfer: Transfer) -> float:  # noqa: ARG001 - every policy is called alike
    """Return 1."""
    return 1.0


def note(transfer: Transfer) -> str | None:  # noqa: ARG001 - every policy is called alike
    """Return None: this policy has no case to tell apart."""
    return None
