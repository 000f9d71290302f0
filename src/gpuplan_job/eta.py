"""How long a training will still take, from what it has measured: its steps, and what lies between its epochs.

Called by `training_progress`. Standard library only; the caller brings the clock's readings.
"""

from __future__ import annotations

import math

_MEMORY_SECONDS = 300.0
"""What was measured so long ago counts 1/e of what was measured now: a rate that changes shows soon, noise does not."""


class Eta:
    """Adds up what a training took; all times in seconds."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._steps = 0.0
        self._between: list[float] = []

    def trained(self, steps: int, seconds: float) -> None:
        """Count optimizer steps and the time they took, data loading included."""
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._seconds = self._seconds * kept + seconds
        self._steps = self._steps * kept + steps

    def rested(self, seconds: float) -> None:
        """Count what followed the last step of an epoch: validation and checkpoints."""
        self._between.append(seconds)

    def seconds_left(self, steps: int, epoch_ends: int) -> float | None:
        """Return the time of so many steps and ends of epochs; None before a step was measured.

        Before the first end of an epoch its share is not known, and not in it.
        """
        if self._steps <= 0:
            return None
        between = sum(self._between) / len(self._between) if self._between else 0.0
        return steps * self._seconds / self._steps + epoch_ends * between
