"""How long an LR range test's sweeps should be and over which learning rates, from the training they are for.

Called by the client that plans a job and by `find_lr` in a notebook. Standard library only; it must not look at a
model or at data.
"""

from __future__ import annotations

from dataclasses import dataclass

RUNS = 3
"""Sweeps whose curves are averaged: the worst pick of three curves averaged is far better than the worst of single
sweeps, and better than that of the median of three picks."""
_SHARE = 8
"""A sweep is as long as the training over this, where the bounds allow."""
LEAST_ITERATIONS, MOST_ITERATIONS = 60, 200
"""Under 60 steps a curve has 10 points a decade, few for its noise to be told from its shape."""
CHECK_RUNS = 2


@dataclass(frozen=True)
class Design:
    """One sweep."""

    iterations: int
    """n: optimizer steps."""
    lr_min: float
    lr_max: float


def design(steps: int) -> Design:
    """Return the sweep for a training of `steps` optimizer steps (T) at the sweep's own batch."""
    return Design(min(max(round(steps / _SHARE), LEAST_ITERATIONS), MOST_ITERATIONS), 1e-5, 10.0)
