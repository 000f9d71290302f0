"""Range tests from which no learning rate can be read, of named kinds, seeded: each must be refused.

A kind makes the sweeps of one range test from a random generator, the learning rates and the number of runs. Standard
library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from range_tests import shapes
from range_tests.recorded import RangeTest, geometric

if TYPE_CHECKING:
    from collections.abc import Iterator

Sweeps = list[list[float]]
Kind = Callable[[Random, list[float], int], Sweeps]
LEAST_POINTS_OF_A_SWEEP = 20
RUNS = (1, 3)

KINDS: dict[str, Kind] = {}
ONLY_OF_THREE = {"three sweeps more than 4 x apart", "one of three sweeps empty", "one of three sweeps flat to NaN"}


def _kind(name: str) -> Callable[[Kind], Kind]:
    def register(kind: Kind) -> Kind:
        KINDS[name] = kind
        return kind

    return register


def bad_range_tests(per_kind: int, first_seed: int = 0) -> Iterator[RangeTest]:
    """Yield `per_kind` range tests of one run and as many of three for each kind, the same at every call."""
    for name, kind in KINDS.items():
        for runs in RUNS:
            if runs == 1 and name in ONLY_OF_THREE:
                continue
            for seed in range(first_seed, first_seed + per_kind):
                rng = Random(f"{name}/{runs}/{seed}")  # noqa: S311 - a simulation
                rates = geometric(rng.choice([40, 60, 100, 150, 200]))
                steps = round(10 ** rng.uniform(2, 5))
                sweeps = kind(rng, rates, runs)
                cut = rng.choice(["completed", "diverged"])
                stopped = tuple(cut if len(losses) < len(rates) else "completed" for losses in sweeps)
                yield RangeTest(name, rates, sweeps, steps, stopped)


def _around(rng: Random, rates: list[float], runs: int, shape: shapes.Shape, sigma: float) -> Sweeps:
    """Return sweeps of one shape with independent Gaussian noise."""
    x = [math.log10(rate) for rate in rates]
    return [
        [shape(at) + noise for at, noise in zip(x, shapes.gaussian(rng, len(x), sigma), strict=True)]
        for _ in range(runs)
    ]


def _blow_up(rng: Random, low: float, high: float) -> shapes.Shape:
    """Return what is added to a loss that blows up somewhere between two log10 of the LR."""
    at, decades, height = rng.uniform(low, high), rng.uniform(0.05, 0.6), 10 ** rng.uniform(0.3, 6)
    return lambda x: height * shapes.sigmoid((x - at) * 4.4 / decades)


# Flat: nothing was learned at any learning rate.


@_kind("flat, Gaussian noise")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = shapes.start(rng)
    return _around(rng, rates, runs, lambda _x: loss, loss * 10 ** rng.uniform(-4, 0))


@_kind("flat, then blows up")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, blow_up = shapes.start(rng), _blow_up(rng, -4.5, 0.9)
    return _around(rng, rates, runs, lambda x: loss + blow_up(x), loss * 10 ** rng.uniform(-4, -0.5))


@_kind("flat, heavy-tailed noise")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = shapes.start(rng)
    scale = loss * 10 ** rng.uniform(-3, 0)
    return [[loss + noise for noise in shapes.heavy(rng, len(rates), scale)] for _ in range(runs)]


@_kind("flat, heavy-tailed, then blows up")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, blow_up = shapes.start(rng), _blow_up(rng, -3.5, 0.9)
    scale = loss * 10 ** rng.uniform(-3, -0.5)
    x = [math.log10(rate) for rate in rates]
    return [
        [loss + blow_up(at) + noise for at, noise in zip(x, shapes.heavy(rng, len(x), scale), strict=True)]
        for _ in range(runs)
    ]


@_kind("flat, a few lucky batches")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, blow_up = shapes.start(rng), _blow_up(rng, -2, 0.9)
    sweeps = _around(rng, rates, runs, lambda x: loss + blow_up(x), loss * 10 ** rng.uniform(-4, -2))
    for losses in sweeps:
        for _ in range(rng.randint(1, 3)):
            losses[rng.randrange(5, len(losses))] -= rng.uniform(0.3, 1.0) * loss
    return sweeps


@_kind("flat, spikes upwards")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = shapes.start(rng)
    sweeps = _around(rng, rates, runs, lambda _x: loss, loss * 10 ** rng.uniform(-4, -2))
    for losses in sweeps:
        for _ in range(rng.randint(1, 8)):
            losses[rng.randrange(len(losses))] += 10 ** rng.uniform(-1, 3) * loss
    return sweeps


@_kind("flat, noise with a memory")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = shapes.start(rng)
    sigma, memory = loss * 10 ** rng.uniform(-3, -0.7), rng.uniform(0.3, 0.9)
    return [[loss + noise for noise in shapes.correlated(rng, len(rates), sigma, memory)] for _ in range(runs)]


@_kind("random walk")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = shapes.start(rng)
    # Over the whole sweep it wanders by 1 to 30 % of the loss.
    sigma = loss * 10 ** rng.uniform(-2, -0.5) / math.sqrt(len(rates))
    return [[abs(loss + noise) for noise in shapes.correlated(rng, len(rates), sigma, 1.0)] for _ in range(runs)]


@_kind("random walk, then blows up")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, blow_up = shapes.start(rng), _blow_up(rng, -2, 0.9)
    sigma = loss * 10 ** rng.uniform(-2, -0.5) / math.sqrt(len(rates))
    x = [math.log10(rate) for rate in rates]
    return [
        [
            abs(loss + noise) + blow_up(at)
            for at, noise in zip(x, shapes.correlated(rng, len(x), sigma, 1.0), strict=True)
        ]
        for _ in range(runs)
    ]


@_kind("slow trend that stays flat, then blows up")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    # Class frequencies only, or a head start of a scheduler: up to 4 % off.
    loss, blow_up = shapes.start(rng), _blow_up(rng, -2, 0.9)
    fall, slope = rng.uniform(0, 0.04) * loss, rng.uniform(0.5, 6)
    return _around(
        rng,
        rates,
        runs,
        lambda x: loss - fall * min(1.0, (x + 5) / slope) + blow_up(x),
        loss * 10 ** rng.uniform(-4, -1),
    )


@_kind("drifting upwards")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, slope = shapes.start(rng), rng.uniform(0.01, 0.15)
    return _around(rng, rates, runs, lambda x: loss * (1 + slope * (x + 5)), loss * 10 ** rng.uniform(-4, -0.5))


@_kind("rising only")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, power = shapes.start(rng), rng.uniform(0.3, 2.5)
    sigma = loss * 10 ** rng.uniform(-4, -0.5)
    return _around(rng, rates, runs, lambda x: loss * (1 + ((x + 5) / 2) ** power), sigma)


@_kind("constant")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = rng.choice([0.0, math.log(2), math.log(10), math.log(1000), 1e-12])
    return [[loss] * len(rates) for _ in range(runs)]


@_kind("flat, quantised")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, step = shapes.start(rng), 2.0 ** rng.randint(-10, -1)
    sweeps = _around(rng, rates, runs, lambda _x: loss, rng.uniform(0.1, 2) * step)
    return [[step * round(value / step) for value in losses] for losses in sweeps]


@_kind("alternating")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, blow_up = shapes.start(rng), _blow_up(rng, -2, 0.9)
    by = rng.uniform(0.05, 1.0) * loss
    one = [loss + (-1) ** i * by + (blow_up(math.log10(rate)) if runs == 1 else 0) for i, rate in enumerate(rates)]
    return [one[i % 2 :] + one[: i % 2] for i in range(runs)]


@_kind("periodic")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    # An epoch in a fixed order of the samples: three or more within the sweep, the same in every run.
    loss, periods, phase = shapes.start(rng), rng.uniform(3, 12), rng.uniform(0, 2 * math.pi)
    by, sigma = rng.uniform(0.03, 0.5) * loss, loss * 10 ** rng.uniform(-4, -1)
    return _around(rng, rates, runs, lambda x: loss + by * math.sin(phase + 2 * math.pi * periods * (x + 5) / 6), sigma)


@_kind("sawtooth")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, periods = shapes.start(rng), rng.uniform(3, 12)
    by, sigma = rng.uniform(0.03, 0.9) * loss, loss * 10 ** rng.uniform(-4, -1)
    return _around(rng, rates, runs, lambda x: loss - by * ((periods * (x + 5) / 6) % 1), sigma)


@_kind("negative, flat")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = -(10 ** rng.uniform(-2, 6))
    return _around(rng, rates, runs, lambda _x: loss, -loss * 10 ** rng.uniform(-4, 0))


@_kind("huge")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = 10 ** rng.uniform(6, 300)
    return _around(rng, rates, runs, lambda _x: loss, loss * 10 ** rng.uniform(-4, 0))


# Not a number, or blown up, before anything was learned.


@_kind("NaN or Infinity from the first step")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    bad = rng.choice([math.nan, math.inf])
    sweeps = _around(rng, rates, runs, shapes.valley(rng), 0.01)
    first = [rng.choice([math.nan, math.inf]) for _ in sweeps]
    if rng.choice([True, False]):  # all the way, or only once
        return [[bad] * len(rates) for _ in sweeps]
    return [[value, *losses[1:]] for value, losses in zip(first, sweeps, strict=True)]


@_kind("NaN or Infinity after a few steps")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    at = rng.randint(1, 10)
    bad = rng.choice([math.nan, math.inf])
    sweeps = _around(rng, rates, runs, shapes.valley(rng), 0.01)
    if rng.choice([True, False]):
        return [[*losses[:at], *[bad] * (len(rates) - at)] for losses in sweeps]
    return [[*losses[:at], bad, *losses[at + 1 :]] for losses in sweeps]


@_kind("NaN or Infinity before the fall")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = replace(shapes.valley(rng), fall_decades=rng.uniform(0.4, 0.8))
    before = sum(math.log10(rate) < shape.fall - 1.2 * shape.fall_decades for rate in rates)
    at = rng.randint(0, max(0, before))
    bad = rng.choice([math.nan, math.inf, -math.inf])
    return [[*losses[:at], bad, *losses[at + 1 :]] for losses in _around(rng, rates, runs, shape, 0.002 * shape.start)]


@_kind("diverged from the start")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, rate = shapes.start(rng), rng.uniform(0.05, 3)
    sigma = rng.uniform(0, 0.1)
    return [
        [min(loss * math.exp(min(rate * i, 600)) * (1 + rng.gauss(0, sigma)), 1e300) for i in range(len(rates))]
        for _ in range(runs)
    ]


@_kind("diverged at the lowest rates, then chaos")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss = shapes.start(rng)
    sweeps = []
    for _ in range(runs):
        calm = rng.randint(1, 6)
        sweeps.append([loss if i < calm else loss * 10 ** rng.uniform(0.31, 5) for i in range(len(rates))])
    return sweeps


# Truncated.


@_kind("all sweeps shorter than needed")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    sweeps = _around(rng, rates, runs, shapes.valley(rng), 0.01)
    return [losses[: rng.randint(0, LEAST_POINTS_OF_A_SWEEP - 1)] for losses in sweeps]


@_kind("cut before the fall")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = replace(shapes.valley(rng), fall_decades=rng.uniform(0.4, 0.8))
    before = sum(math.log10(rate) < shape.fall - 1.2 * shape.fall_decades for rate in rates)
    return [losses[:before] for losses in _around(rng, rates, runs, shape, shape.start * 10 ** rng.uniform(-4, -1))]


@_kind("few points over the whole range")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = shapes.valley(rng)
    points = rng.randint(2, LEAST_POINTS_OF_A_SWEEP - 1)
    rates[:] = geometric(points)
    return _around(rng, rates, runs, shape, 0.01)


@_kind("one of three sweeps empty")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    sweeps = _around(rng, rates, runs, shapes.valley(rng), 0.01)
    sweeps[rng.randrange(runs)] = []
    return sweeps


@_kind("one of three sweeps flat to NaN")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = replace(shapes.valley(rng), fall_decades=rng.uniform(0.4, 0.8))
    sweeps = _around(rng, rates, runs, shape, 0.002 * shape.start)
    before = sum(math.log10(rate) < shape.fall - 1.2 * shape.fall_decades for rate in rates)
    sweeps[rng.randrange(runs)][before:] = [math.nan]
    return sweeps


@_kind("the edge is never reached")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = replace(shapes.valley(rng), rise=9.0)
    return _around(rng, rates, runs, shape, 0.02 * shape.drop)


@_kind("falls only at the last points")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    loss, last = shapes.start(rng), rng.randint(1, max(1, len(rates) // 20))
    by = rng.uniform(0.1, 0.9) * loss
    sweeps = _around(rng, rates, runs, lambda _x: loss, loss * 10 ** rng.uniform(-4, -1))
    return [[*losses[:-last], *(value - by for value in losses[-last:])] for losses in sweeps]


# Noise that hides whatever there is.


@_kind("noise larger than the fall")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = shapes.valley(rng)
    return _around(rng, rates, runs, shape, rng.uniform(1.5, 5) * shape.drop * math.sqrt(runs))


@_kind("heavy-tailed noise larger than the fall")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    shape = shapes.valley(rng)
    x = [math.log10(rate) for rate in rates]
    scale = rng.uniform(1.5, 5) * shape.drop * math.sqrt(runs)
    return [
        [shape(at) + noise for at, noise in zip(x, shapes.heavy(rng, len(x), scale), strict=True)] for _ in range(runs)
    ]


@_kind("three sweeps more than 4 x apart")
def _(rng: Random, rates: list[float], runs: int) -> Sweeps:
    # The whole valley elsewhere in each: ten times as high and more from the lowest to the highest.
    lowest, apart = rng.uniform(-3.9, -3.2), rng.uniform(1.0, 1.8)
    falls = [lowest, lowest + apart, *(lowest + rng.uniform(0, apart) for _ in range(runs - 2))]
    rng.shuffle(falls)
    shape = replace(shapes.valley(rng), fall_decades=0.4, rise_decades=0.3, height=rng.uniform(0, 0.6), tilt=0.2)
    width = rng.uniform(0.9, 1.4)
    return [
        _around(rng, rates, 1, replace(shape, fall=fall, rise=fall + width), rng.uniform(0, 0.03) * shape.drop)[0]
        for fall in falls
    ]
