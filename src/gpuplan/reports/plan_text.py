"""A plan as people read it: one header, one table, facts in one aligned block, next commands last."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, count, duration, significant, usd
from gpuplan.planning.money.cost import Cost, beside_instance
from gpuplan.planning.speed.data_transfer import stored_bytes
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.lr_plan_text import lr_facts
from gpuplan.reports.money_text import beside, cost_text, money_facts
from gpuplan_job.contract import ONECYCLE_RISE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from gpuplan.planning.checkpointing import Checkpoints
    from gpuplan.planning.memory.estimate import MemoryEstimate
    from gpuplan.planning.plan import LaunchPlan, StepPlan
    from gpuplan.planning.speed.throughput import Hours
    from gpuplan.planning.warm_up import WarmUpPlan

VERDICT = {"fits": "ok", "tight": "TIGHT", "too_big": "TOO BIG"}
"""How a verdict on memory reads."""
_COLUMNS = (
    "step",
    "instance",
    "GPUs",
    "batch per GPU x GPUs x accum = global",
    "peak memory",
    "time p50 (p90)",
    "cost p50 (p90)",
)


def plan_text(plan: LaunchPlan, today: date) -> list[Line | Table | Facts]:
    """Return the blocks of a plan, in order."""
    rows = [_row(step) for step in plan.steps]
    if charged := beside(plan):
        rows.append(("charges", "", "", "", "", "", cost_text(charged)))
    rows.append(("total", "", "", "", "", _time(plan.total.time_hours), cost_text(plan.total.cost_usd)))
    rows += _most(plan)
    return [
        Line(header(plan)),
        Table(_COLUMNS, tuple(rows)),
        Facts(tuple(_facts(plan, today))),
    ]


def header(plan: LaunchPlan) -> str:
    """Return the line that names a plan."""
    step = plan.step("train") or plan.steps[0]
    processes = f"{step.gpus} x {plan.gpu}" if step.gpus > 1 else plan.gpu
    machines = f"{step.instances} x {plan.instance}" if step.instances > 1 else plan.instance
    where = plan.backend if plan.backend in {"local", "fake"} else f"{plan.backend} {plan.region}"
    return f"gpuplan plan {plan.plan_id[:10]} · {plan.pipeline} · {machines} ({processes}) · {where}"


def next_commands(arguments: list[str], command: str = "launch") -> Facts:
    """Return what to paste next; `arguments` are the options the user gave, `command` is what runs the plan."""
    given = shlex.join(arguments)
    run = ("next", f"gpuplan {command} {given}".strip())
    save = f"gpuplan plan {given}".strip() + " --out plan.json"
    return Facts((run, ("next", save)) if command == "launch" else (run,))


def hours_text(value: Hours | Unknown) -> str:
    """Return `14 min (21 min)`, or why it is not known."""
    return (
        f"unknown: {value.unknown}" if isinstance(value, Unknown) else f"{duration(value.p50)} ({duration(value.p90)})"
    )


def _row(step: StepPlan) -> tuple[str, ...]:
    batch = step.batch
    product = f"{batch.per_gpu} x {batch.world_size} x {batch.accumulation} = {batch.global_batch}"
    return (
        step.name,
        f"{step.instances} x {step.instance_type}" if step.instances > 1 else step.instance_type,
        str(step.gpus),
        product,
        _memory(step.memory),
        _time(step.time_hours),
        cost_text(step.cost_usd),
    )


def _most(plan: LaunchPlan) -> list[tuple[str, ...]]:
    """Return the row of the most that the limits sent allow and the charges beside, where AWS bills at all."""
    total = plan.total.cost_usd
    if isinstance(total, Unknown) or isinstance(total.worst_case, Unknown) or total.worst_case == 0:
        return []
    seconds = sum(step.limits.max_runtime_seconds for step in plan.steps if step.limits)
    charged, _ = beside_instance(charge for step in plan.steps for charge in step.charges)
    most = usd(total.worst_case + charged.p90)
    return [("at most", "", "", "", "", duration(seconds / SECONDS_PER_HOUR), most)]


def _time(hours: Hours | Unknown) -> str:
    """Return a cell of the table: a reason is too long for it and stands below."""
    return "unknown" if isinstance(hours, Unknown) else hours_text(hours)


def _unknown(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield why memory or time is not known, each reason once."""
    found: dict[str, list[str]] = {}
    for step in plan.steps:
        for what, value in (("memory", step.memory), ("time", step.time_hours)):
            if isinstance(value, Unknown) and what not in found.setdefault(value.unknown, []):
                found[value.unknown].append(what)
    for reason, parts in found.items():
        yield "unknown", f"{' and '.join(parts)}: {reason}"


def _memory(memory: MemoryEstimate | Unknown) -> str:
    if isinstance(memory, Unknown):
        return "unknown"
    peak, capacity = significant(memory.peak_gib, 2), significant(memory.capacity_gib)
    return f"{peak} of {capacity} GiB  {VERDICT[memory.verdict]}"


def _facts(plan: LaunchPlan, today: date) -> Iterator[tuple[str, str]]:
    work, data = plan.workload, plan.data
    side = f"{work.image_size or data.height} px"
    samples = f"{count(data.train_samples)} + {count(data.val_samples)} samples of {side}, {data.classes} classes"
    yield (
        "workload",
        f"{work.model} on {work.data}: {samples}; {work.epochs} epochs, {work.optimizer}, {work.precision}",
    )
    train = plan.step("train")
    if train is not None:
        yield "steps", f"{count(plan.batch.steps_per_epoch)} an epoch, {count(train.optimizer_steps)} in all"
    if train is not None and train.checkpoints:
        yield "checkpoints", _checkpoints(train.checkpoints)
    yield from lr_facts(plan)
    if warmup := warm_up_text(plan, plan.lr.warmup):
        yield "warm-up", warmup
    if plan.gpu_options:
        yield (
            "more GPUs",
            "whether they would pay follows from lr-find's noise scale: launch, status and suggest show it",
        )
    yield from _finder(plan)
    if train is not None and train.bound:
        speed = train.samples_per_second
        known = "" if isinstance(speed, Unknown) else f": about {significant(speed)} samples/s over {train.gpus} GPUs"
        yield "bound", f"{train.bound}{known.replace('GPUs', 'processes') if plan.device == 'cpu' else known}"
    yield from _unknown(plan)
    yield (
        "estimates",
        "from the trace of a step and published speeds; bands are in -o json, errors in docs/estimates.md",
    )
    yield from _data(plan)
    yield from _limits(plan)
    yield from money_facts(plan, today)
    for warning in plan.warnings:
        yield "note", f"{warning.message} ({warning.fix})" if warning.fix != "none needed" else warning.message


def warm_up_text(plan: LaunchPlan, warmup: WarmUpPlan | None) -> str:
    """Return the length of the plan's warm-up, why, and how the schedule takes it; nothing to say is an empty text."""
    if warmup is None or not (warmup.steps or warmup.asked):
        return ""
    if not warmup.steps:
        return f"none, {warmup.why}"
    length = f"{warmup.epochs:.3g} epoch{'' if warmup.epochs == 1 else 's'} ({count(warmup.steps)} steps)"
    how = f"linear, from {significant(warmup.start, 2)} x the learning rate"
    if plan.workload.schedule == "onecycle":
        within = warmup.steps <= ONECYCLE_RISE * plan.batch.steps_per_epoch * plan.workload.epochs
        how = "within onecycle's own rise over 30 % of the steps" if within else "onecycle's rise lasts as long"
    return f"{length}: {warmup.why}; {how}"


def _checkpoints(plan: Checkpoints) -> str:
    """Return how often the training saves, why, and what can be lost."""
    every = duration(plan.interval_minutes / 60)
    save = (
        "" if isinstance(plan.save_seconds, Unknown) else f"a save takes about {significant(plan.save_seconds, 2)} s; "
    )
    asked = "as asked; " if plan.asked else ""
    return f"each epoch, and within one every {every}: no more is ever lost ({asked}{save}{plan.why})"


def _finder(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield where lr-find runs, and what it would cost on the training's whole instance."""
    finder, step = plan.finder, plan.step("lr-find")
    if finder is None or step is None:
        return
    yield "finder", f"{finder.instance_type} ({finder.gpu}): {finder.reason}"
    naive, here = finder.naive_cost_usd, step.cost_usd
    if isinstance(naive, Cost) and isinstance(here, Cost) and here.p50 and naive.p50:
        ratio = float(naive.p50 / here.p50)
        times = f"{significant(ratio, 2)} x less" if ratio >= 1 else f"{significant(1 / ratio, 2)} x more"
        told = f"on the whole {finder.naive_instance_type}: {usd(naive.p50)}; this plan: {usd(here.p50)}, {times}"
        yield "naive finder", told


def _data(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield how data on S3 reach the steps."""
    told = {
        "streamed": "opens what it needs on S3",
        "copied": f"gets all {significant(stored_bytes(plan.data) / 1e9)} GB copied from S3 first, billed",
    }
    ways = [f"{step.name} {told[step.s3_data]}" for step in plan.steps if step.s3_data]
    if ways:
        yield "data", "; ".join(ways)


def _limits(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    sent = [(step, step.limits) for step in plan.steps if step.limits is not None]
    texts = [f"{step.name} {duration(limits.max_runtime_seconds / SECONDS_PER_HOUR)}" for step, limits in sent]
    if texts:
        budget = plan.provenance.settings.launch.max_cost
        yield (
            "limits",
            f"{', '.join(texts)}: AWS ends a job there{f', within --max-cost {usd(budget)}' if budget else ''}",
        )
