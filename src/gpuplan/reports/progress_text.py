"""Where a running job stands, in a line as people read it: step, loss, rates, time left, dollars so far.

Called by the command line's displays. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import count, learning_rate, significant, time_left, usd

if TYPE_CHECKING:
    from decimal import Decimal

    from gpuplan_job.contract import Progress

_LEAST_SHOWN_RATE = 100
"""Samples a second from which on the rate is shown without decimals."""


def progress_line(progress: Progress, money: str = "") -> str:
    """Return the whole line; `money` is its last part, empty where nothing is billed."""
    place = f"{progress.step}: {progress.phase}, step {count(progress.done)} of {count(progress.total)}"
    return "  ".join(filter(None, (place, values_text(progress), money)))


def values_text(progress: Progress) -> str:
    """Return a job's newest figures in a fixed order, then the time left."""
    values = progress.values
    parts = []
    if "loss" in values:
        parts.append(f"loss {significant(values['loss'])}")
    if "learning_rate" in values:
        parts.append(f"LR {learning_rate(values['learning_rate'])}")
    if "val_loss" in values:
        parts.append(f"val loss {significant(values['val_loss'])}")
    if "val_accuracy" in values:
        parts.append(f"val acc {significant(values['val_accuracy'])}")
    if "samples_per_second" in values:
        parts.append(f"{_rate(values['samples_per_second'])} samples/s")
    if progress.eta_seconds is not None and progress.done < progress.total:
        parts.append(f"ETA {time_left(progress.eta_seconds)}")
    return "  ".join(parts)


def money_text(so_far: Decimal | Unknown, most: Decimal | None) -> str:
    """Return the dollars so far and the most they can become, in one phrase."""
    if isinstance(so_far, Unknown):
        return f"cost so far unknown: {so_far.unknown}"
    bound = "" if most is None else f" (at most {usd(most)})"
    return f"{usd(so_far)} so far{bound}"


def _rate(value: float) -> str:
    return count(round(value)) if value >= _LEAST_SHOWN_RATE else significant(value)
