"""The smoothed curve: what smoothing keeps, and where the landmarks lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan_job.contract import Curve
from gpuplan_job.curve import divergence_lr, smooth

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Shape = Callable[[float], float]


def grid(points: int, low: float = -5.0, high: float = 1.0) -> list[float]:
    """Return geometric LRs between two powers of ten."""
    return [10 ** (low + (high - low) * i / (points - 1)) for i in range(points)]


def sweep(
    rates: list[float],
    shape: Shape,
    stop: Literal["completed", "diverged", "non-finite"] = "completed",
    stopped_at: float | None = None,
) -> Curve:
    """Return a sweep whose loss is `shape(log10 LR)`."""
    return Curve(rates, [shape(math.log10(rate)) for rate in rates], stop, stopped_at or rates[-1], 0)


def valley(x: float) -> float:
    """Fall from 2.3 to 0.5 around 1e-3, rise past 2.3 around 0.3."""
    return 0.5 + 1.8 / (1 + math.exp(4 * (x + 3))) + 4 / (1 + math.exp(-12 * (x + 0.5)))


@given(st.floats(-10, 10), st.integers(2, 200))
def test_a_constant_stays_what_it_is_up_to_both_ends(level: float, points: int) -> None:
    curve = smooth([sweep(grid(points), lambda _x: level)])
    assert curve.losses == pytest.approx([level] * points)
    assert curve.drop == pytest.approx(0)


def test_smoothing_has_no_lag_so_a_line_stays_a_line_away_from_the_ends() -> None:
    curve = smooth([sweep(grid(121), lambda x: 3 - x)])
    inner = [i for i, rate in enumerate(curve.learning_rates) if 1e-4 < rate < 1]
    assert [curve.losses[i] for i in inner] == pytest.approx([curve.raw[i] for i in inner], abs=1e-4)


def test_the_minimum_of_a_symmetric_valley_is_found_at_its_centre() -> None:
    curve = smooth([sweep(grid(121), lambda x: (x + 2) ** 2)])
    assert curve.lr_at_minimum == pytest.approx(1e-2)


@given(st.floats(-100, 100), st.floats(0.01, 100))
def test_landmarks_do_not_depend_on_the_unit_or_the_zero_of_the_loss(zero: float, unit: float) -> None:
    plain = smooth([sweep(grid(60), valley)])
    other = smooth([sweep(grid(60), lambda x: zero + unit * valley(x))])
    assert other.edge == pytest.approx(plain.edge, rel=1e-6)
    assert other.minimum_index == plain.minimum_index
    assert other.drop == pytest.approx(unit * plain.drop, rel=1e-6, abs=1e-9)


def test_the_edge_is_the_first_crossing_of_half_the_fall_right_of_the_minimum() -> None:
    curve = smooth([sweep(grid(100), valley)])
    half = curve.minimum_loss + 0.5 * curve.drop
    right = next(i for i, rate in enumerate(curve.learning_rates) if rate > curve.edge)
    assert curve.edge_reached
    assert all(loss <= half for loss in curve.losses[curve.minimum_index : right])
    assert curve.losses[right] > half
    assert curve.learning_rates[right - 1] <= curve.edge
    assert curve.edge == pytest.approx(10**-0.65, rel=0.3)


def test_a_later_dip_below_the_level_does_not_move_the_edge() -> None:
    dip = smooth([sweep(grid(200), lambda x: valley(x) - (4.0 if x > 0.5 else 0.0))])
    assert dip.edge == pytest.approx(smooth([sweep(grid(200), valley)]).edge, rel=0.1) or dip.lr_at_minimum > 1
    assert dip.edge_reached or dip.lr_at_minimum > 1


def test_a_loss_that_never_rises_again_has_its_edge_at_the_last_lr_and_says_so() -> None:
    rates = grid(60, high=-2)
    curve = smooth([sweep(rates, valley)])
    assert not curve.edge_reached
    assert curve.edge == rates[-1]


@pytest.mark.parametrize("height", [10.0, 1e3, 1e6, 1e30])
def test_how_high_a_loss_blows_up_hardly_moves_the_edge(height: float) -> None:
    def blown(top: float) -> float:
        return smooth([sweep(grid(100), lambda x: top if x > -0.5 else min(valley(x), 2.3))]).edge

    assert math.log10(blown(height)) == pytest.approx(math.log10(blown(5.0)), abs=0.01)
    assert math.log10(blown(height)) == pytest.approx(-0.5, abs=0.25)


def test_a_sweep_ends_at_its_first_loss_that_is_not_finite_and_the_mean_with_the_shortest_sweep() -> None:
    rates = grid(60)
    broken = [valley(math.log10(rate)) for rate in rates]
    broken[40:] = [math.nan, *([1.0] * 19)]
    curve = smooth([sweep(rates, valley), Curve(rates, broken, "completed", rates[-1], 1)])
    assert curve.learning_rates == tuple(rates[:40])
    assert curve.divergence_lr == rates[40]
    assert all(math.isfinite(loss) for loss in curve.losses)


def test_the_mean_of_sweeps_is_taken_point_by_point() -> None:
    rates = grid(30)
    curve = smooth([sweep(rates, lambda x: 1 - x), sweep(rates, lambda x: 3 - 3 * x)])
    assert curve.raw == pytest.approx([2 - 2 * math.log10(rate) for rate in rates])


def test_sweeps_over_other_points_are_compared_at_equal_lr() -> None:
    coarse, fine = grid(40), grid(157)
    curve = smooth([sweep(coarse, lambda x: 1 - x), sweep(fine, lambda x: 1 - x)])
    assert curve.raw == pytest.approx([1 - math.log10(rate) for rate in coarse])


def test_the_divergence_lr_is_the_smallest_over_the_sweeps() -> None:
    rates = grid(60)
    stopped = [sweep(rates, valley, "diverged", lr) for lr in (0.7, 0.3, 0.5)]
    assert divergence_lr([sweep(rates, valley), *stopped]) == 0.3
    assert divergence_lr([sweep(rates, valley)]) is None


@settings(derandomize=True, max_examples=30)
@given(st.sampled_from([0.01, 0.1, 0.3]), st.randoms(use_true_random=True))
def test_noise_is_told_from_the_shape_of_the_curve(sigma: float, rng: Random) -> None:
    curve = smooth([sweep(grid(400), lambda x: valley(x) + rng.gauss(0, sigma))])
    assert curve.noise == pytest.approx(sigma, rel=0.25)
    assert curve.smoothed_noise < curve.noise / 3


def test_a_clean_curve_is_not_called_noisy() -> None:
    curve = smooth([sweep(grid(60), valley)])
    assert curve.noise < 0.02 * curve.drop


@pytest.mark.parametrize(
    "curves",
    [
        [],
        [Curve([], [], "non-finite", 1e-5, 0)],
        [Curve([1e-5], [1.0], "non-finite", 1e-4, 0)],
        [Curve([1e-5, 1e-4], [math.inf, 1.0], "completed", 1e-4, 0)],
        [sweep(grid(10), valley), sweep(grid(10, low=2, high=3), valley)],
    ],
    ids=["no sweep", "no point", "one point", "not finite", "nothing in common"],
)
def test_what_has_no_two_common_points_is_refused(curves: list[Curve]) -> None:
    with pytest.raises(ValueError, match=r"no sweep|points"):
        smooth(curves)
