"""What `gpuplan memory` prints: the peak by kind and module, the cards it fits, what would save memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import significant
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.plan_text import VERDICT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.memory.report import CardVerdict, MemoryReport

_LEAST_SHOWN_GIB = 0.0005


def memory_text(report: MemoryReport, next_commands: list[str]) -> list[Line | Table | Facts]:
    """Return the blocks of a report."""
    blocks: list[Line | Table | Facts] = [
        Line(_header(report)),
        Table(("at the peak", "GiB", "what it is"), _items(report)),
    ]
    if report.modules:
        rows = tuple((item.name, significant(item.gib, 3), item.how) for item in report.modules)
        blocks.append(Table(("by module", "GiB", ""), rows))
    if report.cards:
        blocks.append(_cards(report.cards))
    if report.savers:
        savers = tuple((s.change, _saved(report.peak_gib, s.peak_gib), s.flags, s.cost) for s in report.savers)
        blocks.append(Table(("what would save", "peak GiB", "flags", "cost"), savers))
    blocks.append(Facts((*_facts(report), *(("next", command) for command in next_commands))))
    return blocks


def memory_document(report: MemoryReport, chosen: bool) -> dict[str, Any]:  # noqa: FBT001 - a fact, not a switch
    """Return the report for scripts; `chosen` says that the user named the first card, which then is the capacity."""
    document = report.document()
    question = document.pop("question")
    process = question.pop("process")
    cards = document["cards"]
    capacity = {"capacity": {key: cards[0][key] for key in ("instance", "gib", "verdict")}} if chosen and cards else {}
    return {"schema": "gpuplan.memory/1", **question, **process, **document, **capacity}


def _header(report: MemoryReport) -> str:
    question, process = report.question, report.question.process
    size = f"{question.tokens} tokens" if question.tokens else f"{question.image_size} px"
    several = f" · {process.world_size} GPUs" if process.world_size > 1 else ""
    again = " · checkpointing" if question.checkpointing else ""
    batch = f"{process.per_gpu_batch} per GPU{several}"
    how = f"{process.precision} · {process.optimizer} · {process.loop} loop{again}"
    return f"gpuplan memory · {question.model} · {size} · {batch} · {how}"


def _items(report: MemoryReport) -> tuple[tuple[str, str, str], ...]:
    rows = [(i.name, significant(i.gib, 3), i.how) for i in report.items if abs(i.gib) >= _LEAST_SHOWN_GIB]
    low, high = report.error_band
    band = f"band {significant(low, 3)} to {significant(high, 3)}"
    rows.append(("peak", significant(report.peak_gib, 3), f"what the allocator holds; {band}"))
    rows.append(("with context", significant(report.peak_gib + report.context_gib, 3), "what nvidia-smi shows"))
    return tuple(rows)


def _cards(cards: tuple[CardVerdict, ...]) -> Table:
    searched = any(card.largest_batch is not None for card in cards)
    columns = ("card", "GiB", "this batch", *(("largest safe batch",) if searched else ()), "instance")
    rows = tuple(
        (
            card.gpu,
            significant(card.gib, 3),
            VERDICT[card.verdict],
            *((str(card.largest_batch),) if searched else ()),
            card.instance,
        )
        for card in cards
    )
    return Table(columns, rows)


def _saved(peak: float, other: float | Unknown) -> str:
    if isinstance(other, Unknown):
        return "unknown"
    return f"{significant(other, 3)} ({other / peak - 1:+.0%})"


def _facts(report: MemoryReport) -> Iterator[tuple[str, str]]:
    yield "smallest card", f"{significant(report.min_card_gib, 3)} GiB, its context included"
    yield "trace", report.source
    if report.guesses:
        yield "note", f"the model asked for a tensor's value {report.guesses} times; a trace has none and answered 1"
    for saver in report.savers:
        if isinstance(saver.peak_gib, Unknown):
            yield "note", f"{saver.change}: {saver.peak_gib.unknown}"
