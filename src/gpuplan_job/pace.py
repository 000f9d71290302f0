"""How fast an LR range test goes and where it stands: step times, and a progress report about every second.

Called by `lr_find` and `sweep`. It must not touch torch; the caller sees to it that the device has finished a step.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from gpuplan_job.contract import Measured, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

_WARM_UP_STEPS = 3
"""Steps of a phase that are not timed: they fill caches, pick kernels and start the data-loading processes."""
_REPORT_SECONDS = 1.0


class Pace:
    """Counts and times optimizer steps of `samples_per_step` samples each, `total` of them over all phases."""

    def __init__(
        self,
        step: str,
        total: int,
        samples_per_step: int,
        clock: Callable[[], float],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._step = step
        self._total = total
        self._samples_per_step = samples_per_step
        self._clock = clock
        self._on_progress = on_progress
        self._phase = ""
        self._done = 0
        self._untimed: float = 0
        self._last_step = clock()
        self._last_report = -math.inf
        self._arrived = self._last_step
        self._warm_up: list[float] = []
        self._seconds: list[float] = []
        self._busy: list[float] = []

    def begin(self, phase: str, done: int, *, timed: bool = True) -> None:
        """Enter a phase that starts when `done` steps are done, never going back; its first steps are warm-up.

        One whose steps are of another size than the first phase's is not `timed` at all.
        """
        self._phase, self._untimed = phase, _WARM_UP_STEPS if timed else math.inf
        self._count_to(done)
        self._last_step = self._clock()
        self._report({})

    def arrived(self) -> None:
        """Note that the data of the next step is there: from here on the step is the device's own work."""
        self._arrived = self._clock()

    def stepped(self, learning_rate: float, loss: float, *, taken: bool = True) -> None:
        """Count one optimizer step, its data loading included; the device must have finished it.

        One that the loss scaler did not let happen is not `taken`: it is no progress, and timed only as a warm-up is.
        """
        now = self._clock()
        timed = taken and self._untimed <= 0
        (self._seconds if timed else self._warm_up).append(now - self._last_step)
        if timed:
            self._busy.append(now - max(self._arrived, self._last_step))
        self._last_step = now
        self._untimed -= 1
        if taken:
            self._count_to(self._done + 1)
        self._report({"loss": loss, "learning_rate": learning_rate, "samples_per_second": self.samples_per_second})

    @property
    def step_seconds(self) -> float:
        """Median seconds of a step after warm-up; of the warm-up steps where there were no others, 0 before any."""
        timed = self._seconds or self._warm_up
        return statistics.median(timed) if timed else 0.0

    @property
    def busy_seconds(self) -> float | None:
        """Median seconds of a step after warm-up without the wait for its data; None where no step was timed."""
        return statistics.median(self._busy) if self._busy else None

    @property
    def samples_per_second(self) -> float:
        """Samples a second at the median step; 0 before the first step."""
        seconds = self.step_seconds
        return self._samples_per_step / seconds if seconds > 0 else 0.0

    def measured(self, peak_gib: float | None, device: str) -> Measured:
        """Return what was timed so far, beside what only the caller can know."""
        return Measured(
            step_seconds=self.step_seconds,
            samples_per_second=self.samples_per_second,
            peak_gib=peak_gib,
            device=device,
            busy_seconds=self.busy_seconds,
        )

    def _count_to(self, done: int) -> None:
        self._done = min(self._total, max(self._done, done))

    def _report(self, values: dict[str, float]) -> None:
        now = self._clock()
        if now - self._last_report < _REPORT_SECONDS and self._done < self._total:
            return
        self._last_report = now
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        eta = self.step_seconds * (self._total - self._done) if self._seconds else None
        self._on_progress(Progress(self._step, self._phase, self._done, self._total, finite, eta))
