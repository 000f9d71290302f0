"""Measures the time of optimizer steps, on the GPU's own clock where there is one.

Called by `measuring`. It must not make the host wait for the GPU while the training runs.
"""

from __future__ import annotations

import statistics
import time

import torch

WARM_UP_STEPS = 3
"""Left out: the first steps choose kernels and fill the allocator's cache."""
_KEPT_STEPS = 2000
"""A median needs no more, and each step on a GPU holds an event."""


class StepClock:
    """Marks the ends of optimizer steps; `restart` at the start of an epoch leaves the time in between out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: list[float] = []
        self._events: list[torch.cuda.Event] = []
        self._previous = 0.0
        self.ticked = False
        """Whether a step was marked."""

    def restart(self) -> None:
        """Begin a stretch of steps."""
        self._collect()
        self._previous = time.perf_counter()
        if self._device.type == "cuda":
            self._mark()

    def tick(self) -> None:
        """Mark the end of a step."""
        self.ticked = True
        if self._device.type == "cuda":
            if len(self._seconds) + len(self._events) < _KEPT_STEPS:
                self._mark()
            return
        now = time.perf_counter()
        if len(self._seconds) < _KEPT_STEPS:
            self._seconds.append(now - self._previous)
        self._previous = now

    def median_seconds(self) -> float:
        """Return the median step time in seconds, after warm-up where there are steps beyond it.

        Raises:
            ValueError: no step was marked.
        """
        self._collect()
        if not self._seconds:
            raise ValueError("no optimizer step was timed")
        return statistics.median(self._seconds[WARM_UP_STEPS:] or self._seconds)

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch does not type it
        event.record()
        self._events.append(event)

    def _collect(self) -> None:
        if len(self._events) > 1:
            self._events[-1].synchronize()
            pairs = zip(self._events, self._events[1:], strict=False)
            self._seconds += [first.elapsed_time(second) / 1000 for first, second in pairs]
        self._events = []
