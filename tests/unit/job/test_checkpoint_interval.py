"""How often to save: Young's optimum, never more than 5 % of the time, never more than half an hour to lose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job.checkpoint_interval import LEAST_SAVES, MOST_SECONDS, interval_seconds

SECONDS = st.floats(1e-3, 1e4)
FAILURES = st.floats(60, 1e8)


def test_it_is_youngs_optimum() -> None:
    assert interval_seconds(3, 34_000) == pytest.approx((2 * 3 * 34_000) ** 0.5)


@given(save=SECONDS, failures=FAILURES)
def test_saving_never_takes_more_than_a_twentieth_of_the_time(save: float, failures: float) -> None:
    assert interval_seconds(save, failures) >= LEAST_SAVES * save


@given(save=st.floats(1e-3, MOST_SECONDS / LEAST_SAVES), failures=FAILURES)
def test_no_more_than_half_an_hour_is_lost_unless_saving_takes_longer_than_that_allows(
    save: float, failures: float
) -> None:
    assert interval_seconds(save, failures) <= MOST_SECONDS


@given(save=SECONDS, failures=FAILURES, more=st.floats(1, 100))
def test_what_fails_less_often_is_saved_no_more_often(save: float, failures: float, more: float) -> None:
    assert interval_seconds(save, failures * more) >= interval_seconds(save, failures)
