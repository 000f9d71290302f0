"""Which batch to try next, and which of those tried to choose: the batch search without a device. Pure.

The job searches with it on real steps, the client on the memory model, so a plan's tries are those that the job would
make if the model were right; and the client chooses again from a result's tries, to the same batches. Standard library
only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpuplan_job.contract import BatchSearchSpec, BatchTrial

MULTIPLE = 8
"""Batches are multiples of it, for tensor cores and for loaders; under it any number is one."""
FASTER = 1.10
"""A smaller batch is chosen only if it takes more samples a second by this factor: less is within what one machine
differs from the next."""
RULE = f"the largest safe batch, unless a smaller one is at least {100 * (FASTER - 1):.0f} % faster per sample"
WARM_UP_STEPS = 2
"""The first step chooses kernels and allocates the optimizer's state, the second is the first with both alive."""
TIMED_STEPS = 8
LEAST_TIMED_STEPS = 3
HOST_SHARE = 0.5
"""Of a machine's memory, what the processes of a training on its CPU may take: the rest is other people's."""
_CLOSE = 16
"""The search ends when the largest safe batch is known to a sixteenth, or to one multiple."""


def aligned(batch: int) -> int:
    """Return the largest batch that may be tried and is not above `batch`; at least 1."""
    return batch // MULTIPLE * MULTIPLE if batch >= MULTIPLE else max(1, batch)


@dataclass(frozen=True)
class Choice:
    """The batches that a search names."""

    chosen: int
    largest: int
    fastest: int


@dataclass
class Search:
    """The tries of one search so far; `next_batch` and `add` in turn until there is no next.

    `start` is doubled until a batch is not safe or the bound is reached, halved as long as none is safe, and then the
    gap is closed: by the straight line through the two largest peaks that are known, else by its middle.
    """

    spec: BatchSearchSpec
    start: int
    capacity_gib: float
    trials: list[BatchTrial] = field(default_factory=list)

    def add(self, trial: BatchTrial) -> None:
        """Take in a try."""
        self.trials.append(trial)

    def safe(self, trial: BatchTrial) -> bool:
        """Tell whether a batch ran and left the room that it should."""
        return is_safe(trial, self.trials, self.spec, self.capacity_gib)

    def next_batch(self) -> int | None:
        """Return the batch to try next, None where there is nothing left to learn."""
        bound = aligned(self.spec.largest)
        if not self.trials:
            return min(aligned(self.start), bound)
        ran = [trial.batch for trial in self.trials if trial.outcome == "ran"]
        safe = [trial.batch for trial in self.trials if self.safe(trial)]
        # Where no peak is known what is safe follows from what ran, so that is what is looked for first.
        low = max(safe if self._peaks_known else ran, default=0)
        above = [trial for trial in self.trials if trial.batch > low]
        high = min((trial.batch for trial in above), default=None)
        if any(trial.outcome == "too-slow" and trial.batch == high for trial in above) and low:
            return self._last(safe, low)
        if high is None:
            twice = aligned(min(2 * low, bound))
            return twice if low < bound and not self._too_slow(twice) else self._last(safe, low)
        if low == 0:
            smaller = aligned(high // 2)
            return smaller if smaller < high else None
        gap = MULTIPLE if low >= MULTIPLE else 1
        close = max(gap, aligned(low // _CLOSE))
        if high - low <= close:
            return self._last(safe, low)
        middle = aligned(self._by_line(low, high, close) or (low + high) // 2)
        return middle if low < middle < high else low + gap

    @property
    def _peaks_known(self) -> bool:
        return any(trial.peak_gib is not None for trial in self.trials)

    def _last(self, safe: Sequence[int], low: int) -> int | None:
        """Return the share of the largest batch that ran, where no peak tells what is safe and it was not tried."""
        if self._peaks_known or safe:
            return None
        wanted = aligned(int(self.spec.memory_share * low))
        return None if any(trial.batch == wanted for trial in self.trials) else wanted

    def _too_slow(self, batch: int) -> bool:
        """Tell whether even the fewest steps of a batch would not fit into a try's time."""
        known = [trial for trial in self.trials if trial.step_seconds]
        longest = max(known, key=lambda trial: trial.batch, default=None)
        if longest is None or longest.step_seconds is None:
            return False
        seconds = longest.step_seconds * batch / longest.batch
        return (WARM_UP_STEPS + LEAST_TIMED_STEPS) * seconds > self.spec.trial_seconds

    def _by_line(self, low: int, high: int, close: int) -> int | None:
        """Return the batch at which the peak reaches the share of the memory, if that lies in the gap.

        Where it is `low` itself, the next one that would tell another story: one that is not safe ends the search.
        """
        known = sorted((trial.batch, trial.peak_gib) for trial in self.trials if trial.peak_gib is not None)
        if len(known) < 2:  # noqa: PLR2004 - a line has two points
            return None
        (one, first), (two, second) = known[-2:]
        slope = (second - first) / (two - one)
        if slope <= 0:
            return None
        found = one + (self.spec.memory_share * self.capacity_gib - first) / slope
        if low - close < found < low + close:
            return low + close
        return int(found) if low < found < high else None


def is_safe(trial: BatchTrial, trials: Sequence[BatchTrial], spec: BatchSearchSpec, capacity_gib: float) -> bool:
    """Tell whether a batch ran and its peak stays within the share of the memory.

    Where the peak is not measurable, whether the batch is within that share of the largest that ran (and so is one).
    """
    if trial.outcome != "ran":
        return False
    if trial.peak_gib is not None:
        return trial.peak_gib <= spec.memory_share * capacity_gib
    ran = [other.batch for other in trials if other.outcome == "ran"]
    failed = any(other.outcome == "out-of-memory" for other in trials)
    return not failed or trial.batch <= max(1, spec.memory_share * max(ran))


def choose(trials: Sequence[BatchTrial], spec: BatchSearchSpec, capacity_gib: float) -> Choice | None:
    """Return the batches that the tries lead to by `RULE`; None where none is safe."""
    safe = [trial for trial in trials if is_safe(trial, trials, spec, capacity_gib)]
    if not safe:
        return None
    largest = max(safe, key=lambda trial: trial.batch)
    # Of equals the larger one.
    fastest = max(safe, key=lambda trial: (trial.samples_per_second or 0.0, trial.batch))
    gain = (fastest.samples_per_second or 0.0) / (largest.samples_per_second or 1.0)
    return Choice((fastest if gain >= FASTER else largest).batch, largest.batch, fastest.batch)


def run(search: Search, trial: Callable[[int], BatchTrial]) -> Choice | None:
    """Make every try of a search and return what it leads to; None where not even the smallest batch is safe."""
    while (batch := search.next_batch()) is not None:
        search.add(trial(batch))
    return choose(search.trials, search.spec, search.capacity_gib)
