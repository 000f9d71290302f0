"""All that `gpuplan memory` says of one model: the peak by kind and module, the cards it fits, what would save memory.

Pure; it asks a trace source and `memory`. It knows no instance beyond the cards it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import MIB_PER_GIB, gib_from_bytes
from gpuplan.planning.memory.estimate import (
    MemoryEstimate,
    MemoryItem,
    TrainingProcess,
    Verdict,
    estimate,
    footprint,
    largest_batch,
    least_card_gib,
    outside,
)
from gpuplan.planning.traces.source import Traced, request_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpuplan.planning.traces.source import TraceSource
    from gpuplan_job.contract import DataDescription, Precision
    from gpuplan_job.step_trace import TraceRequest

UNBOUNDED_MIB = 1 << 30
"""A card with room for everything: what a monitor shows when nothing presses."""
_SHARE = 0.02
"""Modules under this share of the memory in use are added up."""
_SPLIT = 0.6
"""A module with more than this share of its parent's memory is shown by its own parts."""
_SMALLER_SIDE = 0.75


class Card(Frozen):
    """A GPU that the process may run on."""

    instance: str
    """Profile it is found in, or what the user calls it."""
    gpu: str
    memory_mib: int
    compute_capability: str | None = None


class CardVerdict(Frozen):
    """What becomes of the process on a card."""

    instance: str
    gpu: str
    gib: float
    verdict: Verdict
    largest_batch: int | None = None
    """Set where the largest safe batch was asked for."""


class Saver(Frozen):
    """A change that takes less memory, with the peak it leads to; the global batch stays."""

    change: str
    flags: str
    peak_gib: float | Unknown
    cost: str
    """What it costs in turn."""


class MemoryQuestion(Frozen):
    """What is asked."""

    model: str
    image_size: int
    process: TrainingProcess
    checkpointing: bool = False
    tokens: int = 0
    """Length of the sequences; 0 where samples are images."""


class MemoryReport(Frozen):
    """The answer; sizes in GiB."""

    question: MemoryQuestion
    peak_gib: float
    """Most bytes the allocator holds, on the first card or, without one, with room for all: a monitor's figure less the
    context."""
    context_gib: float
    """What lies outside the allocator: the device context, and NCCL's buffers where there are several processes."""
    min_card_gib: float
    """Smallest card that the process fits, context included."""
    items: tuple[MemoryItem, ...]
    modules: tuple[MemoryItem, ...]
    """Bytes in use at the peak by module."""
    error_band: tuple[float, float]
    """Of the peak without the context."""
    cards: tuple[CardVerdict, ...]
    savers: tuple[Saver, ...]
    source: str
    guesses: int
    """How often the model asked for a tensor's value while it was traced, and was told 1."""


def report(
    question: MemoryQuestion, data: DataDescription, traces: TraceSource, cards: Sequence[Card], *, search: bool
) -> MemoryReport | Unknown:
    """Return the report, or why the model's memory is not known; `search` asks each card for its largest batch."""
    traced = traces.find(_request(question, data))
    if isinstance(traced, Unknown):
        return traced
    process = question.process
    if len(cards) == 1:
        process = process.model_copy(update={"compute_capability": cards[0].compute_capability})
    first = cards[0].memory_mib if cards else UNBOUNDED_MIB
    found = estimate(traced, process, first)
    if isinstance(found, Unknown):
        return found
    apart = outside(process)
    context = sum(item.gib for item in apart)
    low, high = found.error_band
    return MemoryReport(
        question=question,
        peak_gib=found.peak_gib - context,
        context_gib=context,
        min_card_gib=least_card_gib(traced, process),
        items=tuple(item for item in found.items if item not in apart),
        modules=tuple(by_module(traced, process)),
        error_band=(low - context, high - context),
        cards=tuple(_on(card, traced, process, search=search) for card in cards),
        savers=tuple(_savers(question, data, traces, first)),
        source=traced.how,
        guesses=traced.step.guesses,
    )


def by_module(traced: Traced, process: TrainingProcess) -> list[MemoryItem]:
    """Return the bytes in use at the peak by module, in the model's order; small ones are added up."""
    names = traced.step.modules
    own: dict[str, int] = {}
    for (_, module), size in footprint(traced, process).in_use.items():
        own[names[module]] = own.get(names[module], 0) + size
    whole = sum(own.values())
    shown = dict(_parts(own, "", whole))
    rest = sum(size for size in shown.values() if size < _SHARE * whole)
    kept = [
        MemoryItem(name=name, gib=gib_from_bytes(size), how="")
        for name, size in shown.items()
        if size >= _SHARE * whole
    ]
    if rest:
        kept.append(MemoryItem(name="the rest", gib=gib_from_bytes(rest), how=f"each under {_SHARE:.0%}"))
    return kept


def _parts(own: dict[str, int], parent: str, whole: int) -> Iterator[tuple[str, int]]:
    """Yield a module's own bytes and those of its parts, a part that has most of them by its parts in turn."""
    inside = f"{parent}." if parent else ""
    children: dict[str, int] = {}
    for name, size in own.items():
        if name.startswith(inside) and name != parent:
            child = inside + name.removeprefix(inside).partition(".")[0]
            children[child] = children.get(child, 0) + size
    if own.get(parent):
        yield parent or "the model itself", own[parent]
    for child, size in children.items():
        if size > _SPLIT * whole and any(name.startswith(f"{child}.") for name in own):
            yield from _parts(own, child, size)
        else:
            yield child, size


def _request(question: MemoryQuestion, data: DataDescription) -> TraceRequest:
    return request_for(
        question.model,
        data,
        question.process.precision,
        image_size=question.image_size,
        checkpointing=question.checkpointing,
        tokens=question.tokens,
    )


def _on(card: Card, traced: Traced, process: TrainingProcess, *, search: bool) -> CardVerdict:
    process = process.model_copy(update={"compute_capability": card.compute_capability})
    found = estimate(traced, process, card.memory_mib)
    largest = largest_batch(traced, process, card.memory_mib) if search else None
    return CardVerdict(
        instance=card.instance,
        gpu=card.gpu,
        gib=card.memory_mib / MIB_PER_GIB,
        verdict=found.verdict if isinstance(found, MemoryEstimate) else "too_big",
        largest_batch=largest if isinstance(largest, int) else None,
    )


def _savers(question: MemoryQuestion, data: DataDescription, traces: TraceSource, memory_mib: int) -> Iterator[Saver]:
    process = question.process

    def changed(change: str, flags: str, cost: str, other: MemoryQuestion) -> Saver:
        found = estimate(traces.find(_request(other, data)), other.process, memory_mib)
        apart = sum(item.gib for item in outside(other.process))
        peak = found if isinstance(found, Unknown) else found.peak_gib - apart
        return Saver(change=change, flags=flags, peak_gib=peak, cost=cost)

    def with_process(**update: object) -> MemoryQuestion:
        return question.model_copy(update={"process": process.model_copy(update=update)})

    if process.precision == "fp32":
        mixed: Precision = "16-mixed"
        yield changed(
            "mixed precision", f"--precision {mixed}", "fp16 needs loss scaling", with_process(precision=mixed)
        )
    if not question.checkpointing:
        other = question.model_copy(update={"checkpointing": True})
        yield changed("activation checkpointing", "--checkpointing", "about 30 % slower", other)
    if process.per_gpu_batch > 1:
        half = process.per_gpu_batch // 2
        yield changed(
            "half the batch, accumulated twice",
            f"--per-gpu-batch {half} --accumulate 2",
            "BatchNorm sees half the samples",
            with_process(per_gpu_batch=half),
        )
    if not question.tokens:
        side = int(question.image_size * _SMALLER_SIDE) // 32 * 32
        if side >= 32:  # noqa: PLR2004 - the stride of the last feature map
            smaller = question.model_copy(update={"image_size": side})
            yield changed("smaller images", f"--image-size {side}", "another task: accuracy falls", smaller)
    if process.optimizer in {"adam", "adamw"}:
        yield changed(
            "SGD with momentum", "--optimizer sgd", "another recipe", with_process(optimizer="sgd", momentum=0.9)
        )
