"""Loss curves as functions of x = log10(LR), and noise: what the generators of range tests are made of.

Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

Shape = Callable[[float], float]
_MOST_EXPONENT = 50.0
MOST_TILT = 0.3
"""Most that a valley's tilt adds to its fall."""


@dataclass(frozen=True)
class Valley:
    """A loss that rests at `start`, falls by `drop` around `fall`, and leaves its valley around `rise`."""

    start: float
    drop: float
    fall: float
    """log10 of the LR at half the fall."""
    rise: float
    """log10 of the LR at which the loss comes back through its start."""
    fall_decades: float
    """Decades over which the middle four fifths of the fall take place."""
    rise_decades: float
    """The same of the rise."""
    height: float
    """How far above its start the loss goes, in falls."""
    tilt: float = 0.0
    """How far the loss goes on falling in its valley, in falls a decade: sound losses do until they leave it."""

    def __call__(self, x: float) -> float:
        """Return the loss at log10(LR) = x."""
        in_valley = max(0.0, min(x, self.rise) - self.fall)
        low = self.start - self.drop * (
            sigmoid((x - self.fall) * 4.4 / self.fall_decades) + min(self.tilt * in_valley, MOST_TILT)
        )
        return low + (1 + self.height) * self.drop * sigmoid((x - self.rise) * 4.4 / self.rise_decades)


def sigmoid(value: float) -> float:
    """Return the logistic function, without overflow."""
    return 1 / (1 + math.exp(min(_MOST_EXPONENT, max(-_MOST_EXPONENT, -value))))


def start(rng: Random) -> float:
    """Return a starting loss: from that of two classes to that of a thousand at a bad initialisation."""
    return float(math.exp(rng.uniform(math.log(0.5), math.log(9.0))))


def valley(rng: Random, drop_share: tuple[float, float] = (0.15, 0.7)) -> Valley:
    """Return a valley like those of real trainings: it rests below an LR of 1e-4.2, and is half a decade wide or more.

    `drop_share` is the fall as a share of the starting loss; what the tilt adds comes on top.
    """
    loss = start(rng)
    fall = rng.uniform(-4.2, -2.2)
    fall_decades = rng.uniform(0.4, 1.6)
    rise_decades = rng.uniform(0.1, 0.8)
    narrowest = fall + (fall_decades + rise_decades) / 2 + 0.4
    rise = rng.uniform(min(narrowest, 0.6), 0.6)
    height = 10 ** rng.uniform(-0.3, 1.5)
    drop, tilt = rng.uniform(*drop_share) * loss, rng.uniform(0.05, 0.2)
    return Valley(loss, drop, fall, rise, fall_decades, rise_decades, height, tilt)


def gaussian(rng: Random, points: int, sigma: float) -> list[float]:
    """Return independent noise."""
    return [rng.gauss(0, sigma) for _ in range(points)]


def heavy(rng: Random, points: int, scale: float) -> list[float]:
    """Return independent noise of Student's t with two degrees of freedom: its variance is not finite."""
    return [scale * rng.gauss(0, 1) / math.sqrt(rng.expovariate(1.0)) for _ in range(points)]


def correlated(rng: Random, points: int, sigma: float, memory: float) -> list[float]:
    """Return noise of which each value keeps the share `memory` of the one before; `memory` 1 is a random walk."""
    value, values = rng.gauss(0, sigma), []
    for _ in range(points):
        values.append(value)
        value = memory * value + rng.gauss(0, sigma * math.sqrt(1 - memory**2) if memory < 1 else sigma)
    return values
