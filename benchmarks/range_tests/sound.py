"""Generated range tests from which a learning rate can be read: refusing one is an error too.

Standard library only.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

from range_tests import shapes
from range_tests.recorded import RangeTest, geometric

if TYPE_CHECKING:
    from collections.abc import Iterator

NOISE = {"no noise": (0.0, 0.0), "noise to 3 %": (0.0, 0.03), "noise 3 to 8 %": (0.03, 0.08)}
"""Noise of single losses as a share of the fall."""
SMALL_FALL = "one sweep, falls by 15 to 25 %"
"""Refused by design: one sweep cannot tell so small a fall from a drift of the data."""


def sound_range_tests(per_kind: int) -> Iterator[RangeTest]:
    """Yield `per_kind` range tests for each level of noise, of one sweep and of three, the same at every call.

    A single sweep falls by 27 % of its loss or more, three by 15 % or more; single ones that fall less come last.
    """
    for name, noise in NOISE.items():
        for seed in range(per_kind):
            yield _sound(f"one sweep, {name}", seed, 1, (0.27, 0.7), noise)
            yield _sound(f"three sweeps, {name}", seed, 3, (0.15, 0.7), noise)
    for seed in range(per_kind):
        yield _sound(SMALL_FALL, seed, 1, (0.15, 0.25), (0.0, 0.08))


def _sound(kind: str, seed: int, runs: int, drop_share: tuple[float, float], noise: tuple[float, float]) -> RangeTest:
    rng = Random(f"{kind}/{seed}")  # noqa: S311 - a simulation
    rates = geometric(rng.choice([60, 100, 150, 200]))
    shape = shapes.valley(rng, drop_share)
    sigma = rng.uniform(*noise) * shape.drop
    sweeps = []
    for _ in range(runs):
        losses = []
        for rate in rates:
            x = math.log10(rate)
            # Past the edge a loss is chaos.
            chaos = abs(rng.gauss(0, 0.3 * shape.drop)) if x > shape.rise else 0.0
            losses.append(shape(x) + rng.gauss(0, sigma) + chaos)
        sweeps.append(losses)
    return RangeTest(kind, rates, sweeps, round(10 ** rng.uniform(2, 5)))
