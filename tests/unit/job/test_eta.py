"""The time left: the measured rate, validation's share included, and nothing before there is a measurement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job.eta import Eta


def test_before_a_step_was_measured_it_is_not_known() -> None:
    eta = Eta()
    assert eta.seconds_left(100, 5) is None
    eta.rested(3.0)
    assert eta.seconds_left(100, 5) is None


def test_steps_and_the_ends_of_epochs_both_count() -> None:
    eta = Eta()
    eta.trained(10, 5.0)
    assert eta.seconds_left(100, 5) == pytest.approx(50.0)
    eta.rested(2.0)
    eta.rested(4.0)
    assert eta.seconds_left(100, 5) == pytest.approx(50.0 + 5 * 3.0)


def test_a_rate_that_changes_for_good_is_followed() -> None:
    eta = Eta()
    for _ in range(600):
        eta.trained(100, 1.0)
    for _ in range(1800):
        eta.trained(10, 1.0)
    left = eta.seconds_left(100, 0)
    assert left == pytest.approx(10.0, rel=0.05)


@given(st.integers(1, 500), st.floats(1e-3, 10), st.integers(0, 10**6))
def test_at_a_steady_rate_it_is_exact(steps: int, seconds: float, left: int) -> None:
    eta = Eta()
    for _ in range(5):
        eta.trained(steps, seconds)
    assert eta.seconds_left(left, 3) == pytest.approx(left * seconds / steps)
