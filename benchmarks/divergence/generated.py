"""Losses of trainings that nobody ran, from seeds: shapes that sound and bad trainings are known to have.

Used by `divergence_guard.py`. It must not know of any guard.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Levels = Callable[[random.Random, int, float, float], list[float]]
    """Expected losses of so many steps that start at one loss and may end at another."""

_KIND_SIZE = {"sound": 200, "bad": 100}
_APART = 300
"""Steps to a spike, on the average: closer, they are no spikes."""


def _power(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    power, knee = draw.uniform(0.2, 1.5), draw.uniform(0.001, 0.05) * steps
    return [end + (start - end) * (1 + step / knee) ** -power for step in range(steps)]


def _warm_up(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    flat = int(draw.uniform(0.01, 0.1) * steps)
    return [start] * flat + _power(draw, steps - flat, start, end)


def _spikes(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    """Return a fall with spikes that pass, up to far above the start."""
    levels = _power(draw, steps, start, end)
    for _ in range(draw.randint(1, max(1, min(5, steps // _APART)))):
        at, height, life = draw.randrange(steps), draw.uniform(0.5, 20) * start, draw.uniform(1, 20)
        for offset in range(min(int(8 * life), steps - at)):
            levels[at + offset] += height * math.exp(-offset / life)
    return levels


def _hump(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    """Return one-cycle at its limit: the loss rises in the middle, where the learning rate is highest."""
    levels = _power(draw, steps, start, end)
    middle, width = draw.uniform(0.2, 0.4) * steps, draw.uniform(0.03, 0.1) * steps
    rise = draw.uniform(0, 0.5) * (start - end)
    return [min(start, level + rise * math.exp(-(((step - middle) / width) ** 2))) for step, level in enumerate(levels)]


def _fine_tuning(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    return _power(draw, steps, end + draw.uniform(0, 0.3) * (start - end), end)


def _explodes(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    levels = _power(draw, steps, start, end)
    at, growth = int(draw.uniform(0.02, 0.6) * steps), draw.uniform(0.01, 0.2)
    return levels[:at] + [
        min(1e6, levels[at] + start * (math.exp(min(30.0, growth * step)) - 1)) for step in range(steps - at)
    ]


def _dies(draw: random.Random, steps: int, start: float, end: float) -> list[float]:
    at = int(draw.uniform(0.05, 0.6) * steps)
    return _power(draw, steps, start, end)[:at] + [start] * (steps - at)


def _flat(_draw: random.Random, steps: int, start: float, _end: float) -> list[float]:
    return [start] * steps


SOUND: dict[str, Levels] = {
    "power law": _power,
    "warm-up first": _warm_up,
    "spikes that pass": _spikes,
    "hump of one-cycle": _hump,
    "fine-tuning": _fine_tuning,
}
BAD: dict[str, Levels] = {"explodes": _explodes, "dies after learning": _dies, "stays at its start": _flat}


def trainings(shapes: dict[str, Levels], group: str) -> Iterator[tuple[str, float, list[float]]]:
    """Yield kind, chance loss and the loss of every step, of seeded trainings of each kind."""
    for kind, levels in shapes.items():
        for seed in range(_KIND_SIZE[group]):
            draw = random.Random(f"{kind} {seed}")  # noqa: S311 - seeded shapes, no secret
            chance = math.log(draw.choice([2, 10, 100, 1000, 30000]))
            steps = draw.choice([300, 1000, 3000, 10000])
            spread = draw.uniform(0.01, 0.2)
            expected = levels(draw, steps, chance, draw.uniform(0.02, 0.75) * chance)
            yield kind, chance, [level * math.exp(spread * draw.gauss(0, 1) - spread**2 / 2) for level in expected]
