"""Scale the LR with the batch (Goyal et al. 2017, arXiv 1706.02677), meant to go with a gradual warm-up.

Loaded by name through `gpuplan_job.transfer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Transfer

_VERIFIED_UP_TO = 8192
"""The largest global batch at which Goyal et al. kept the accuracy."""


def can_say(transfer: Transfer) -> bool:  # noqa: ARG001 - every policy is called alike
    """Return True: the batches are all it goes by."""
    return True


def multiplier(transfer: Transfer) -> float:
    """Return batch_to / batch_from."""
    return transfer.ratio


def note(transfer: Transfer) -> str | None:
    """Warn where the new batch is larger than the rule's authors could go."""
    if transfer.batch_to > max(_VERIFIED_UP_TO, transfer.batch_from):
        return f"linear scaling was verified up to a global batch of {_VERIFIED_UP_TO}; here it is {transfer.batch_to}"
    return None
