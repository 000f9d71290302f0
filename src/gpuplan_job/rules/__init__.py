"""LR suggestion rules, one file each: a rule reads a smoothed range-test curve and picks an LR.

Called by `gpuplan_job.suggestion`. Standard library only; a rule judges nothing: whether a curve may be used at all is
decided before it is asked.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from gpuplan_job import discover

if TYPE_CHECKING:
    from gpuplan_job.rules.base import Rule


def names() -> list[str]:
    """Return the rules there are, sorted."""
    return discover.names(sys.modules[__name__])


def load(name: str) -> Rule:
    """Return the rule `name`.

    Raises:
        LookupError: there is no such rule; the message lists those there are.
    """
    return cast("Rule", discover.load(sys.modules[__name__], name))
