"""The figures of each suggestion rule, and the sweep length that they are normalised by."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module

import pytest

from gpuplan_job import rules
from gpuplan_job.curve import SmoothedCurve
from gpuplan_job.rules import valley
from gpuplan_job.rules.base import Law, Laws, Sweep

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


def swept(iterations: int, reference_steps: int, decades: float = 6.0, optimizer: str = "sgd") -> Sweep:
    return Sweep(iterations, decades, reference_steps, optimizer)


LAWS = Laws(sgd=Law(2.0, 0.5, 0.1), adaptive=Law(8.0, 0.0, 1.0))


def test_a_hundred_steps_for_a_training_of_a_thousand_are_the_plain_divisor() -> None:
    assert LAWS(0.4, swept(100, 1000)) == pytest.approx(0.4 / 2)
    assert LAWS(0.4, swept(100, 1000, optimizer="adamw")) == pytest.approx(0.4 / 8)


def test_a_longer_sweep_and_a_longer_training_correct_by_their_powers() -> None:
    assert LAWS(0.4, swept(400, 1000)) == pytest.approx(0.4)
    assert LAWS(0.4, swept(100, 4000, optimizer="adamw")) == pytest.approx(0.4 / 32)


def test_an_optimizer_that_is_not_sgd_counts_as_adaptive() -> None:
    assert LAWS(0.4, swept(100, 1000, optimizer="lamb")) == pytest.approx(0.4 / 8)


@pytest.mark.parametrize(
    ("rule", "landmark"),
    [("edge", 0.4), ("minimum", 0.1), ("normalised", math.sqrt(0.4 * 1e-1)), ("steepest", 10**-2.5), ("valley", 1e-2)],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_rule_applies_its_law_to_its_landmark(rule: str, landmark: float, optimizer: str) -> None:
    sweep = swept(100, 1000, optimizer=optimizer)
    laws: Laws = import_module(f"gpuplan_job.rules.{rule}").LAWS
    assert rules.load(rule).pick(CURVE, sweep) == pytest.approx(min(laws(landmark, sweep), 0.4))


def test_the_valley_is_the_longest_fall_even_where_single_losses_rise_within_it() -> None:
    losses = (2.0, 2.1, 1.9, 2.0, 1.5, 1.6, 1.0, 3.0)
    rates = tuple(10.0**power for power in range(-8, 0))
    curve = replace(CURVE, learning_rates=rates, losses=losses, minimum_index=6)
    assert valley.landmark(curve) == rates[3]


def test_the_length_counts_steps_over_six_decades() -> None:
    assert swept(50, 1000, decades=3.0).length == swept(100, 1000).length == 100


@pytest.mark.parametrize(
    ("iterations", "reference_steps", "held"),
    [(100, 10**7, (100, 4000)), (10**6, 1000, (2000, 1000)), (2, 3, (30, 300))],
)
def test_lengths_outside_the_measured_range_count_as_its_end(
    iterations: int, reference_steps: int, held: tuple[float, float]
) -> None:
    sweep = swept(iterations, reference_steps)
    assert (sweep.length, sweep.training) == held


@pytest.mark.parametrize(("iterations", "reference_steps", "decades"), [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_a_sweep_without_length_is_refused(iterations: int, reference_steps: int, decades: float) -> None:
    with pytest.raises(ValueError, match="must"):
        swept(iterations, reference_steps, decades)


def test_an_unknown_rule_names_those_there_are() -> None:
    with pytest.raises(LookupError, match="edge"):
        rules.load("lowest")
