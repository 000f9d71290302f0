"""Whether more GPUs pay, as people read it: a row a number of GPUs, then the verdict in a sentence.

Called by reports of runs, by the progress display, `suggest` and `advise`. It words what `planning.advice` found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import count, duration, significant, usd
from gpuplan.reports.layout import Block, Facts, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.advice.critical_batch import CriticalBatch, GpuRow
    from gpuplan.planning.money.cost import Cost
    from gpuplan.planning.speed.throughput import Hours

COLUMNS = ("GPUs", "on", "global batch", "steps", "examples", "time p50", "x before", "cost p50", "x before")
_WITHOUT_MACHINES = {"GPUs", "global batch", "steps", "examples"}
_PAYS = "as long as the time falls by a larger factor than the dollars rise, so that hours x dollars falls"


def critical_batch_blocks(found: CriticalBatch) -> list[Block]:
    """Return the table of the same loss on each number of GPUs, and what follows from it."""
    placed = any(row.instance_type is not None for row in found.rows)
    shown = [index for index, column in enumerate(COLUMNS) if placed or column in _WITHOUT_MACHINES]
    rows = tuple(tuple(row[index] for index in shown) for row in map(_row, found.rows))
    return [Table(tuple(COLUMNS[index] for index in shown), rows), Facts(tuple(_facts(found)))]


def verdict_text(found: CriticalBatch | Unknown) -> str:
    """Return the verdict in a sentence, or why there is none."""
    if isinstance(found, Unknown):
        return f"unknown whether they pay: {found.unknown}"
    return f"{found.verdict} (noise scale {significant(found.noise_scale)} samples)"


def _row(row: GpuRow) -> tuple[str, ...]:
    return (
        f"{row.gpus} *" if row.reference else str(row.gpus),
        _place(row),
        count(row.global_batch),
        _number(row.steps, row.steps_factor),
        _number(row.examples, row.examples_factor),
        _time(row.time_hours),
        _factor(row.time_factor),
        _dollars(row.cost_usd),
        _factor(row.cost_factor),
    )


def _place(row: GpuRow) -> str:
    if row.instance_type is None:
        return ""
    machines = f"{row.instances} x {row.instance_type}" if row.instances > 1 else row.instance_type
    idle = row.instance_gpus is not None and row.instance_gpus > row.gpus
    return f"{machines} ({row.gpus} of {row.instance_gpus})" if idle else machines


def _number(value: int | Unknown, factor: float) -> str:
    return f"x {significant(factor, 2)}" if isinstance(value, Unknown) else count(value)


def _time(hours: Hours | Unknown) -> str:
    return "unknown" if isinstance(hours, Unknown) else duration(hours.p50)


def _dollars(cost: Cost | Unknown) -> str:
    return "unknown" if isinstance(cost, Unknown) else usd(cost.p50)


def _factor(value: float | Unknown) -> str:
    return "" if isinstance(value, Unknown) else f"{value:.2f}"


def _facts(found: CriticalBatch) -> Iterator[tuple[str, str]]:
    speed = {"measured": "at the measured step time", "estimated": "at estimated speeds", "unknown": ""}[found.speed]
    same = "to the loss of the row with *, each batch at its own best LR"
    yield "same loss", ", ".join(part for part in (same, speed) if part)
    yield "more GPUs", verdict_text(found)
    if found.judged == "hours x dollars":
        yield "", f"they pay {_PAYS}"
    for reason in _reasons(found):
        yield "unknown", reason
    yield "caution", found.caveat


def _reasons(found: CriticalBatch) -> list[str]:
    """Return why a time or a cost is not known, each reason once."""
    values = [value for row in found.rows for value in (row.steps, row.time_hours, row.cost_usd)]
    return list(dict.fromkeys(value.unknown for value in values if isinstance(value, Unknown)))
