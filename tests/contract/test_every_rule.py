"""Laws that every file in `gpuplan_job/rules` keeps, whatever is in the folder."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job import rules
from gpuplan_job.contract import Curve
from gpuplan_job.curve import SmoothedCurve, smooth
from gpuplan_job.rules.base import Sweep

EVERY_RULE = pytest.mark.parametrize("name", rules.names())
SWEEPS = st.builds(
    Sweep,
    iterations=st.integers(20, 5000),
    decades=st.floats(2, 8),
    reference_steps=st.integers(1, 10**8),
    optimizer=st.sampled_from(["sgd", "adamw"]),
)
SHAPES = st.tuples(st.floats(-4, -2.5), st.floats(-1.0, 0.5), st.floats(0.2, 10), st.floats(0.05, 0.9))
"""log10 LR of the fall and of the blow-up, starting loss, share of it that stays."""


def valley(shape: tuple[float, float, float, float], unit: float = 1.0, shift: float = 1.0) -> SmoothedCurve:
    fall, blow_up, start, floor = shape
    rates, losses = [], []
    for i in range(80):
        x = -5 + 6 * i / 79
        rates.append(shift * 10**x)
        low = start * (floor + (1 - floor) / (1 + math.exp(4 * (x - fall))))
        losses.append(unit * (low + 2 * start / (1 + math.exp(-12 * (x - blow_up)))))
    return smooth([Curve(rates, losses, "completed", rates[-1], 0)])


def test_there_are_rules() -> None:
    assert {"edge", "minimum"} <= set(rules.names())


@EVERY_RULE
@given(SHAPES, SWEEPS)
def test_a_pick_is_positive_and_below_the_edge_times_three(
    name: str, shape: tuple[float, float, float, float], sweep: Sweep
) -> None:
    curve = valley(shape)
    assert 0 < rules.load(name).pick(curve, sweep) < 3 * curve.edge


@EVERY_RULE
@given(SHAPES, SWEEPS, st.floats(0.01, 100))
def test_the_unit_of_the_loss_does_not_matter(
    name: str, shape: tuple[float, float, float, float], sweep: Sweep, unit: float
) -> None:
    pick = rules.load(name).pick
    assert pick(valley(shape, unit=unit), sweep) == pytest.approx(pick(valley(shape), sweep), rel=1e-6)


@EVERY_RULE
@given(SHAPES, SWEEPS, st.floats(0.01, 100))
def test_the_pick_moves_with_the_curve(
    name: str, shape: tuple[float, float, float, float], sweep: Sweep, shift: float
) -> None:
    pick = rules.load(name).pick
    assert pick(valley(shape, shift=shift), sweep) == pytest.approx(shift * pick(valley(shape), sweep), rel=1e-6)


@EVERY_RULE
@given(SHAPES, SWEEPS)
def test_a_longer_training_never_gets_a_larger_lr(
    name: str, shape: tuple[float, float, float, float], sweep: Sweep
) -> None:
    longer = Sweep(sweep.iterations, sweep.decades, 2 * sweep.reference_steps, sweep.optimizer)
    curve = valley(shape)
    assert rules.load(name).pick(curve, longer) <= rules.load(name).pick(curve, sweep)
