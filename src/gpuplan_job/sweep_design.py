"""What an LR range test is like where nobody says otherwise: its sweeps, its rule, its transfer policy.

Called by the client that plans a job and by `find_lr` in a notebook. Standard library only; it must not look at a
model or at data.
"""

from __future__ import annotations

RUNS = 3
"""Sweeps whose curves are averaged: the worst pick of three curves averaged is far better than the worst of single
sweeps, and better than that of the median of three picks; five are no better."""
RULE = "normalised"
POLICIES = {"epochs": "sqrt", "steps": "none"}
"""The transfer policy by what the training fixes."""
NOISE_MICRO_BATCHES = 16
"""Fewest that give a usable gradient noise scale: with two, |G|^2 came out negative."""
CHECK_RUNS = 2
"""Sweeps of a check at the training's own batch: each is as much dearer as the training has GPUs."""
_SHARE = 4
"""A sweep is as long as the training over this, where the bounds allow: the longer it is, the smaller the regret."""
LEAST_ITERATIONS, MOST_ITERATIONS = 100, 300
"""Under 100 steps over six decades the edge of a curve moves with chance; more than 300 cost more than they tell."""
_DECADES = 6
_ADAPTIVE_MAX = 10.0
"""A network with BatchNorm under AdamW still learned at 1."""
_SGD_MAX = 100.0
"""Highest LR over (1 - momentum): what SGD's steps add up to is LR / (1 - momentum)."""


def iterations(steps: int) -> int:
    """Return n, optimizer steps of a sweep for a training of `steps` optimizer steps (T) at the sweep's own batch."""
    return min(max(round(steps / _SHARE), LEAST_ITERATIONS), MOST_ITERATIONS)


def lr_range(optimizer: str, momentum: float) -> tuple[float, float]:
    """Return the lowest and the highest LR of a sweep: six decades.

    They end some ten times above the largest LR that a task of benchmarks/lr_regret.py could be trained at, for SGD
    with its momentum taken into account, and for optimizers that divide by the gradient's size.
    """
    highest = _SGD_MAX * (1 - momentum) if optimizer == "sgd" else _ADAPTIVE_MAX
    highest = float(f"{highest:.3g}")
    return float(f"{highest / 10**_DECADES:.3g}"), highest
