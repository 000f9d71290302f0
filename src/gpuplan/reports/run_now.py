"""What a run's open jobs do at this moment, as people and as scripts read it. Filled by `gpuplan status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, duration, usd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal


@dataclass(frozen=True)
class JobNow:
    """An open job as its service describes it."""

    step: str
    phase: str
    """The service's own word."""
    seconds: float
    """Since it was first seen running; where it has not been, since it was submitted."""
    billing: bool
    ended: bool = False
    """It is over, and no client has recorded that yet."""


@dataclass(frozen=True)
class RunNow:
    """A run's open jobs, and the dollars of the whole run so far as this client's clock counts them."""

    jobs: tuple[JobNow, ...]
    so_far_usd: Decimal | Unknown


def now_facts(now: RunNow) -> Iterator[tuple[str, str]]:
    """Yield a line for each open job, and one for the money."""
    for job in now.jobs:
        if job.ended:
            yield "now", f"{job.step}: {job.phase}, not yet recorded: gpuplan resume does"
            continue
        verb = "running for" if job.billing else "waiting for"
        yield "now", f"{job.step}: {job.phase}, {verb} {duration(job.seconds / SECONDS_PER_HOUR)}"
    if isinstance(now.so_far_usd, Unknown):
        yield "so far", f"unknown: {now.so_far_usd.unknown}"
    elif now.so_far_usd:
        yield "so far", f"about {usd(now.so_far_usd)}"


def now_document(now: RunNow) -> dict[str, Any]:
    """Return the same for scripts."""
    money = now.so_far_usd
    return {
        "jobs": [{"step": job.step, "phase": job.phase, "seconds": round(job.seconds, 1)} for job in now.jobs],
        "cost_so_far_usd": {"unknown": money.unknown} if isinstance(money, Unknown) else f"{money:.4f}",
    }
