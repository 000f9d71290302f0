"""The figures of each suggestion rule, and the sweep length that they are normalised by."""

from __future__ import annotations

import pytest

from gpuplan_job import rules
from gpuplan_job.curve import SmoothedCurve
from gpuplan_job.rules.base import Sweep

CURVE = SmoothedCurve(
    learning_rates=(1e-3, 1e-2, 1e-1, 1.0),
    losses=(2.0, 1.0, 0.5, 3.0),
    raw=(2.0, 1.0, 0.5, 3.0),
    noise=0.0,
    smoothed_noise=0.0,
    minimum_index=2,
    edge=0.4,
    edge_reached=True,
    divergence_lr=1.0,
)


def swept(iterations: int, reference_steps: int, decades: float = 6.0) -> Sweep:
    return Sweep(iterations, decades, reference_steps, "sgd")


def test_at_an_eighth_of_the_training_the_rules_are_their_plain_divisors() -> None:
    sweep = swept(100, 800)
    assert rules.load("edge").pick(CURVE, sweep) == pytest.approx(0.4 / 11)
    assert rules.load("minimum").pick(CURVE, sweep) == pytest.approx(0.1 / 4)


def test_a_sweep_as_long_as_the_training_corrects_by_the_eighth_power_law() -> None:
    sweep = swept(100, 100)
    assert rules.load("edge").pick(CURVE, sweep) == pytest.approx(0.4 / 11 * 8**0.35)
    assert rules.load("minimum").pick(CURVE, sweep) == pytest.approx(0.1 / 4 * 8**0.65)


def test_the_length_counts_steps_over_six_decades() -> None:
    assert swept(50, 1000, decades=3.0).length_ratio == swept(100, 1000).length_ratio


@pytest.mark.parametrize(("iterations", "reference_steps", "ratio"), [(100, 10**7, 0.025), (1000, 10, 2.5)])
def test_lengths_outside_the_measured_range_count_as_its_end(
    iterations: int, reference_steps: int, ratio: float
) -> None:
    assert swept(iterations, reference_steps).length_ratio == ratio


@pytest.mark.parametrize(("iterations", "reference_steps", "decades"), [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_a_sweep_without_length_is_refused(iterations: int, reference_steps: int, decades: float) -> None:
    with pytest.raises(ValueError, match="must"):
        swept(iterations, reference_steps, decades)


def test_an_unknown_rule_names_those_there_are() -> None:
    with pytest.raises(LookupError, match="edge"):
        rules.load("steepest")
