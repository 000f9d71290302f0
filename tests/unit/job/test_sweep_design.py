"""How long a range test is and over which learning rates: from the training's length and its optimizer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job.sweep_design import LEAST_ITERATIONS, MOST_ITERATIONS, iterations, lr_range

STEPS = st.integers(1, 10**9)
OPTIMIZERS = st.sampled_from(["sgd", "adamw"])


def test_a_sweep_is_a_quarter_of_the_training() -> None:
    assert iterations(800) == 200


@pytest.mark.parametrize(("steps", "length"), [(1, LEAST_ITERATIONS), (450_000, MOST_ITERATIONS)])
def test_a_sweep_is_neither_too_short_to_read_nor_longer_than_it_tells(steps: int, length: int) -> None:
    assert iterations(steps) == length


def test_without_momentum_sgd_is_tried_up_to_ten_times_the_learning_rate() -> None:
    assert (lr_range("sgd", 0.9)[1], lr_range("sgd", 0.0)[1]) == (10.0, 100.0)


def test_an_adaptive_optimizer_is_tried_up_to_ten_whatever_its_momentum() -> None:
    assert lr_range("adamw", 0.9) == lr_range("adamw", 0.0) == (1e-5, 10.0)


@given(OPTIMIZERS, st.floats(0, 0.999))
def test_the_range_is_six_decades(optimizer: str, momentum: float) -> None:
    low, high = lr_range(optimizer, momentum)
    assert math.log10(high / low) == pytest.approx(6, abs=0.01)


@given(STEPS, STEPS)
def test_a_longer_training_never_gets_a_shorter_sweep(steps: int, other: int) -> None:
    short, long = sorted((steps, other))
    assert iterations(short) <= iterations(long)
