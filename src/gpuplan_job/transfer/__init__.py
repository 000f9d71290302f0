"""LR transfer policies, one file each: from the LR found on one GPU to the LR of all of them.

Called by the server when it binds the training's LR and by the client that explains it. Standard library only; a policy
must not read anything but the `Transfer` it is given.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from gpuplan_job import discover

if TYPE_CHECKING:
    from gpuplan_job.transfer.base import Policy


def names() -> list[str]:
    """Return the policies there are, sorted."""
    return discover.names(sys.modules[__name__])


def load(name: str) -> Policy:
    """Return the policy `name`.

    Raises:
        LookupError: there is no such policy; the message lists those there are.
    """
    return cast("Policy", discover.load(sys.modules[__name__], name))
