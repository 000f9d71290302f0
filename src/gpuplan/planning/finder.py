"""Which single-GPU machine runs lr-find: the cheapest that holds the batch, or the training's own GPU if that is near.

Pure; called by `planning.steps`, which brings the machines with their estimates. A learning rate does not depend on the
model of GPU, but measured memory and speed do: they re-plan the training before it is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import usd
from gpuplan.planning.money.cost import Cost, Rate, cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.planning.memory.estimate import MemoryEstimate
    from gpuplan.planning.placement import Placement
    from gpuplan.planning.speed.throughput import TimeEstimate

SAME_GPU_WORTH = (Decimal("0.25"), Decimal("0.01"))
"""What a range test on the training's own GPU may cost more than the cheapest: USD, or this share of the training's p50
cost if that is more. Its measured step narrows the training's p90 from 1.3 or 1.4 to 1.15 times p50, and its measured
memory is the training's. That is worth a hundredth of the bill, and of a small bill, more than the cents between small
machines."""


_AS_LARGE = 0.99
"""GPUs of one nominal size differ by less: an H100 shows 361 MiB less than an A100-80GB."""


@dataclass(frozen=True)
class Option:
    """A machine that could run lr-find, with its estimates there."""

    place: Placement
    memory: MemoryEstimate | Unknown
    time: TimeEstimate | Unknown
    holds_data: bool
    """Whether what the job puts on its disk fits there."""

    def fits(self, training: Placement) -> bool:
        """Tell whether the range test can run; where its memory is not known, on a GPU as large as the training's."""
        if isinstance(self.memory, Unknown):
            return self.holds_data and self.place.memory_mib >= _AS_LARGE * training.gpu.memory_mib
        return self.holds_data and self.memory.verdict != "too_big"

    @property
    def cost(self) -> Cost | Unknown:
        """US dollars of the whole range test, start-up included."""
        return cost(self.place.rate, self.time if isinstance(self.time, Unknown) else self.time.hours)


@dataclass(frozen=True)
class Finder:
    """The machine that runs lr-find, and why."""

    option: Option
    reason: str

    @property
    def place(self) -> Placement:
        """The machine."""
        return self.option.place


def choose(options: Sequence[Option], training: Placement, training_cost: Cost | Unknown, *, asked: bool) -> Finder:
    """Return the machine of lr-find among one or more options.

    By the whole cost of lr-find there. Where its time is not known, by the hourly rate, and the training's own GPU
    first: only there can the speed of the training be measured. An option without a price counts only where none has
    one. If none fits, the largest GPU is returned, and the plan is refused for it.
    """
    if asked:
        return Finder(options[0], "as asked with --finder-instance")
    priced = [option for option in options if isinstance(option.place.rate, Rate)]
    if not priced:
        # Its own machines, cheapest first in the profile: without prices nothing else is known of their order.
        own = [option for option in options if option.place.profile is training.profile] or list(options)
        first = next((option for option in own if option.fits(training)), None)
        return Finder(first or _largest(own), "the profile's own: no single-GPU instance has a known price here")
    fitting = [option for option in priced if option.fits(training)]
    if not fitting:
        return Finder(_largest(priced), "the largest single GPU with a known price: the batch fits none")
    costs = [option.cost for option in fitting]
    timed = all(isinstance(found, Cost) for found in costs)
    fitting.sort(key=lambda option: (_usd(option, timed=timed), option.place.instance_type))
    cheapest = fitting[0]
    same = [option for option in fitting if option.place.gpu == training.gpu]
    if not same:
        return Finder(cheapest, f"the cheapest that fits; {_why_not_the_same(options, training)}")
    near = same[0]
    if near is cheapest:
        return Finder(
            near, "the cheapest that fits, and the training's own GPU, so measured memory and speed carry over"
        )
    if not timed:
        return Finder(near, "the training's own GPU: its speed and memory are not known until they are measured there")
    more = _usd(near, timed=True) - _usd(cheapest, timed=True)
    if more <= _worth(training_cost):
        return Finder(
            near,
            "the training's own GPU, so measured memory and speed carry over; "
            f"{cheapest.place.instance_type} ({cheapest.place.gpu.model}) would save {usd(more)}",
        )
    return Finder(
        cheapest,
        f"the cheapest that fits; {near.place.instance_type} with the training's own GPU costs {usd(more)} more",
    )


def _why_not_the_same(options: Sequence[Option], training: Placement) -> str:
    same = next((option for option in options if option.place.gpu == training.gpu), None)
    if same is None:
        return f"no single-GPU instance on offer has the training's {training.gpu.model}"
    named = f"{same.place.instance_type} with the training's {training.gpu.model}"
    if isinstance(same.place.rate, Unknown):
        return f"{named} has no known price here"
    return f"{named} has too little {'memory' if same.holds_data else 'disk for the data'}"


def _worth(training_cost: Cost | Unknown) -> Decimal:
    least, share = SAME_GPU_WORTH
    return least if isinstance(training_cost, Unknown) else max(least, share * training_cost.p50)


def _usd(option: Option, *, timed: bool) -> Decimal:
    """Return p50 dollars of the range test, or where the time is not known, dollars an hour."""
    found = option.cost
    if timed and isinstance(found, Cost):
        return found.p50
    return option.place.rate.amount if isinstance(option.place.rate, Rate) else Decimal("Infinity")


def _largest(options: Sequence[Option]) -> Option:
    return max(options, key=lambda option: option.place.memory_mib)
