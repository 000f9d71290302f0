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


def sound_range_tests(per_kind: int) -> Iterator[RangeTest]:
    """Yield `per_kind` range tests of one run and as many of three for each level of noise, the same at every call."""
    for name, (low, high) in NOISE.items():
        for runs in (1, 3):
            for seed in range(per_kind):
                rng = Random(f"sound {name}/{runs}/{seed}")  # noqa: S311 - a simulation
                rates = geometric(rng.choice([60, 100, 150, 200]))
                shape = shapes.valley(rng)
                sigma = rng.uniform(low, high) * shape.drop
                x = [math.log10(rate) for rate in rates]
                noise = [shapes.gaussian(rng, len(x), sigma) for _ in range(runs)]
                sweeps = [[shape(at) + n for at, n in zip(x, one, strict=True)] for one in noise]
                # Past the edge a loss is chaos.
                for losses in sweeps:
                    losses[:] = [
                        loss if at < shape.rise else loss + abs(rng.gauss(0, 0.3 * shape.drop))
                        for at, loss in zip(x, losses, strict=True)
                    ]
                yield RangeTest(name, rates, sweeps, round(10 ** rng.uniform(2, 5)))
