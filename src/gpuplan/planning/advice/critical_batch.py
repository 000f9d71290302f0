"""When more GPUs stop paying: steps, examples, hours and dollars to one loss on 1, 2, 4 ... GPUs, from the noise scale.

Called by `planning.replan` with what lr-find measured, and by `advise`. Pure. It must not choose machines or prices: an
option brings its own, and what one lacks stays unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.money.cost import Cost, Rate, cost
from gpuplan.planning.speed.throughput import Hours, from_measured

if TYPE_CHECKING:
    from collections.abc import Sequence

Judged = Literal["hours x dollars", "hours", "steps x examples"]

COUNTS = (1, 2, 4, 8)
"""GPUs to compare, beside a plan's own number."""
CAVEAT = (
    "the batch that pays is a lower bound: Bn is measured at the start and grows in training (McCandlish et al. 2018); "
    "the law counts fresh samples and each batch's own best LR, so on small data more epochs may not buy the same loss"
)
_MINUTES_PER_HOUR = 60
_FEWEST_TO_COMPARE = 2


class GpuOption(Frozen):
    """The training of a plan on some number of GPUs of one kind, at the same per-GPU batch and epochs."""

    gpus: int = Field(ge=1)
    batch: StepBatch
    instance_type: str | None = None
    """None: no machine is known of, and `time_hours` says why."""
    instances: int = 1
    instance_gpus: int | None = None
    """GPUs that are paid for on all instances, used or not."""
    optimizer_steps: int | None = None
    """Of the full batch, over the plan's epochs; None where they are not known."""
    time_hours: Hours | Unknown
    """Of those steps, as estimated."""
    startup_minutes: tuple[float, float] = (0.0, 0.0)
    measured_scale: float | None = None
    """As `StepPlan.measured_scale`."""
    loading_seconds: float = 0.0
    """As `StepPlan.loading_seconds`."""
    rate_usd_per_hour: Rate | Unknown


class Reference(Frozen):
    """The training whose final loss every option is to reach."""

    batch: int = Field(ge=1)
    """Samples per optimizer step."""
    steps: int | Unknown
    examples: int | Unknown
    """Samples seen, each as often as it is."""


class GpuRow(Frozen):
    """What one number of GPUs takes to the reference's loss."""

    gpus: int
    instance_type: str | None = None
    instances: int = 1
    instance_gpus: int | None = None
    global_batch: int
    steps: int | Unknown
    examples: int | Unknown
    steps_factor: float
    """Over the reference's."""
    examples_factor: float
    time_hours: Hours | Unknown
    cost_usd: Cost | Unknown
    """Of the instances, start-up included."""
    time_factor: float | Unknown
    """p50 over that of the row before."""
    cost_factor: float | Unknown
    reference: bool
    """Whether its batch is the reference's."""


class CriticalBatch(Frozen):
    """Whether more GPUs pay: they do as long as the time falls by a larger factor than the dollars rise."""

    noise_scale: float
    """Bn, samples: the batch at which steps x examples is least."""
    reference_batch: int
    rows: tuple[GpuRow, ...]
    """By GPUs."""
    pays_up_to: int
    """GPUs at which what is `judged` is least; of equals the fewest."""
    judged: Judged
    """Hours x dollars; hours where nothing is billed; steps x examples where time or price of too few is known."""
    speed: Literal["measured", "estimated", "unknown"]
    verdict: str
    """In a sentence."""
    caveat: str = CAVEAT


def without_machines(way: StepBatch) -> tuple[GpuOption, ...]:
    """Return options of which only the batches are known: those of `way`'s micro-batches on each number of GPUs."""
    why = Unknown(unknown="--instance, --model, --data and --epochs tell time and cost")
    return tuple(
        GpuOption(
            gpus=gpus,
            batch=StepBatch.of(way.per_gpu, gpus, way.accumulation),
            time_hours=why,
            rate_usd_per_hour=why,
        )
        for gpus in sorted({*COUNTS, way.world_size})
    )


def critical_batch(
    noise_scale: float, options: Sequence[GpuOption], reference: Reference, step_seconds: float | None = None
) -> CriticalBatch:
    """Return what each option, one or more in any order, takes to the reference's loss.

    Steps go with 1 + Bn / B and examples with 1 + B / Bn, each batch B at its own best learning rate (McCandlish et al.
    2018, arXiv 1812.06162, with one noise scale for the whole training). `step_seconds` is lr-find's
    measured step without the wait for data; None, or an option on another GPU: the estimates count.
    """
    rows: list[GpuRow] = []
    for option in sorted(options, key=lambda one: one.gpus):
        rows.append(_row(noise_scale, option, reference, step_seconds, rows[-1] if rows else None))
    judged, among = _judged(rows)
    best = min(among, key=lambda row: (_measure(row, judged), row.gpus))
    timed = any(isinstance(row.time_hours, Hours) for row in rows)
    measured = step_seconds is not None and any(option.measured_scale is not None for option in options)
    return CriticalBatch(
        noise_scale=noise_scale,
        reference_batch=reference.batch,
        rows=tuple(rows),
        pays_up_to=best.gpus,
        judged=judged,
        speed="measured" if measured else "estimated" if timed else "unknown",
        verdict=_verdict(best, among, judged),
    )


def _row(
    noise_scale: float, option: GpuOption, reference: Reference, step_seconds: float | None, before: GpuRow | None
) -> GpuRow:
    batch = option.batch.global_batch
    examples = (noise_scale + batch) / (noise_scale + reference.batch)
    steps = examples * reference.batch / batch
    hours = _hours(option, steps, reference, step_seconds)
    dollars = cost(option.rate_usd_per_hour, hours, option.instances)
    return GpuRow(
        gpus=option.gpus,
        instance_type=option.instance_type,
        instances=option.instances,
        instance_gpus=option.instance_gpus,
        global_batch=batch,
        steps=_times(reference.steps, steps),
        examples=_times(reference.examples, examples),
        steps_factor=steps,
        examples_factor=examples,
        time_hours=hours,
        cost_usd=dollars,
        time_factor=_over(hours, before.time_hours if before else None),
        cost_factor=_over(dollars, before.cost_usd if before else None),
        reference=batch == reference.batch,
    )


def _times(value: int | Unknown, factor: float) -> int | Unknown:
    return value if isinstance(value, Unknown) else max(1, round(value * factor))


def _hours(option: GpuOption, steps_factor: float, reference: Reference, step_seconds: float | None) -> Hours | Unknown:
    """Return the time to the reference's loss: its steps at a measured step, else at the estimated one."""
    steps, start = _times(reference.steps, steps_factor), option.startup_minutes
    if isinstance(option.time_hours, Unknown) and option.instance_type is None:
        return option.time_hours
    if isinstance(steps, Unknown):
        return steps
    if step_seconds is not None and option.measured_scale is not None:
        seconds = max(step_seconds * option.measured_scale, option.loading_seconds)
        return from_measured(seconds, steps, start, option.batch.global_batch).hours
    if isinstance(option.time_hours, Unknown) or option.optimizer_steps is None:
        return option.time_hours
    share = steps / option.optimizer_steps
    low, high = (minutes / _MINUTES_PER_HOUR for minutes in start)
    known = option.time_hours
    return Hours(p50=low + (known.p50 - low) * share, p90=high + (known.p90 - high) * share)


def _over(value: Hours | Cost | Unknown, before: Hours | Cost | Unknown | None) -> float | Unknown:
    if before is None:
        return Unknown(unknown="the first row")
    for one in (value, before):
        if isinstance(one, Unknown):
            return one
    if isinstance(value, Unknown) or isinstance(before, Unknown) or not before.p50:
        return Unknown(unknown="nothing is billed")
    return float(value.p50) / float(before.p50)


def _judged(rows: Sequence[GpuRow]) -> tuple[Judged, list[GpuRow]]:
    """Return what the rows can be compared by, and those that have it."""
    priced = [row for row in rows if isinstance(row.cost_usd, Cost)]
    if len(priced) < _FEWEST_TO_COMPARE:
        return "steps x examples", list(rows)
    billed = any(isinstance(row.cost_usd, Cost) and row.cost_usd.p50 for row in priced)
    return ("hours x dollars" if billed else "hours"), priced


def _measure(row: GpuRow, judged: Judged) -> float:
    hours = row.time_hours.p50 if isinstance(row.time_hours, Hours) else float("inf")
    if judged == "hours":
        return hours
    if judged == "hours x dollars":
        return hours * float(row.cost_usd.p50) if isinstance(row.cost_usd, Cost) else float("inf")
    return row.steps_factor * row.examples_factor


def _verdict(best: GpuRow, among: Sequence[GpuRow], judged: Judged) -> str:
    further = next((row for row in among if row.gpus > best.gpus), None)
    pays = f"more GPUs pay up to {best.gpus}" if best.gpus > among[0].gpus else f"no more than {best.gpus} pays"
    if judged == "steps x examples":
        return f"{pays} by steps x examples alone: a batch of {best.global_batch}"
    if further is None:
        return f"{pays}, the most compared"
    time = _share(further.time_hours, best.time_hours)
    to = f"{further.gpus} take x {time:.2f} the time"
    if judged == "hours":
        return f"{pays} (nothing is billed, time alone counts): {to}"
    return f"{pays}: {to} and x {_share(further.cost_usd, best.cost_usd):.2f} the dollars"


def _share(value: Hours | Cost | Unknown, of: Hours | Cost | Unknown) -> float:
    found = _over(value, of)
    return 1.0 if isinstance(found, Unknown) else found
