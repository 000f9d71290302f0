"""A run's record as people read it: what was found, what was reached, where it lies, what to do next."""

from __future__ import annotations

import json
import shlex
from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.core.errors import ExitCode
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.core.units import SECONDS_PER_HOUR, count, duration, learning_rate, significant, usd
from gpuplan.planning.advice.critical_batch import CriticalBatch
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.reports.critical_batch_text import critical_batch_blocks, verdict_text
from gpuplan.reports.decision_text import comparison_blocks, decision_facts
from gpuplan.reports.find_batch_text import batch_cell, found_facts, predicted_text, tries_table
from gpuplan.reports.layout import Block, Facts, Line, Table
from gpuplan.reports.money_text import cost_text
from gpuplan.reports.plan_text import VERDICT, hours_text, warm_up_text
from gpuplan.workload.schema import setting_fields
from gpuplan_job.batch_comparison import compare
from gpuplan_job.contract import LOGS_FOLDER
from gpuplan_job.suggestion import NoSuggestion, suggest_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.events import Cause, Replanned
    from gpuplan.store.record import RunRecord, StepRecord
    from gpuplan_job.contract import Decision, LrResult

_ALSO = {"launch.instance", "lr.rule", "lr.transfer", "lr.fixed", "lr.runs"}
"""Settings beside the workload that decide how a range test is read, and where the training is."""
_SHOWN_LINES = 6
_OPEN = {"planned", "running", "cancelling"}


def run_text(record: RunRecord, locate: Callable[[str, str], str], picture: Path | None) -> list[Block]:
    """Return the blocks of a run; `picture` is the curve's file, if it was drawn."""
    plan, result = record.plan, record.measured()
    compared = compare(result) if result else None
    table, spread = comparison_blocks(compared) if compared else (None, None)
    facts = [*_facts(record, locate, picture)]
    return [
        Line(f"gpuplan run {record.run_id} · {plan.pipeline} · {plan.instance} · {plan.backend} · {record.state}"),
        _steps(record),
        *([tries_table(batch)] if (batch := record.batch_found()) else []),
        *([table] if table else []),
        Facts((spread, *facts) if spread else tuple(facts)),
        *_more_gpus(record),
        Facts(tuple(_next(record))),
    ]


def runs_table(records: Sequence[RunRecord]) -> Table:
    """Return one row a run."""
    rows = tuple(
        (
            record.run_id,
            record.plan.pipeline,
            record.plan.instance,
            record.state,
            record.created_at.isoformat(sep=" ", timespec="minutes").removesuffix("+00:00") + " UTC",
            _accuracy(record),
        )
        for record in records
    )
    return Table(("run", "pipeline", "instance", "state", "started", "val accuracy"), rows)


def failure_facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield why the run failed: what, why, next."""
    if record.failure:
        yield "failed", record.failure.message
        if record.failure.why:
            yield "why", record.failure.why
        yield from _last_lines(record.failure.cause)
        if record.failure.fix:
            yield "fix", record.failure.fix


def _last_lines(cause: Cause | None) -> Iterator[tuple[str, str]]:
    """Yield what the rank that failed printed last; the rest is in the log."""
    for line in cause.last_lines[-_SHOWN_LINES:] if cause else ():
        yield "last lines", line.rstrip()


def _steps(record: RunRecord) -> Table:
    """Return one row an attempt; where the jobs are billed, also what was planned, and the sum of both."""
    billed = record.plan.billed
    rows = [row for step in record.steps for row in _attempts(step)]
    if not billed:
        return Table(("step", "attempt", "state", "took", "cost"), tuple(rows))
    planned = {step.name: step.cost_usd for step in record.plan.steps}
    named: dict[str, str] = {name: cost_text(cost) for name, cost in planned.items()}
    seen: set[str] = set()
    with_plan = []
    for row in rows:
        with_plan.append((*row, "" if row[0] in seen else named[row[0]]))
        seen.add(row[0])
    total = ("total", "", "", "", _sum(record), cost_text(record.plan.total.cost_usd))
    return Table(("step", "attempt", "state", "took", "cost", "planned p50 (p90)"), (*with_plan, total))


def _attempts(step: StepRecord) -> Iterator[tuple[str, str, str, str, str]]:
    if not step.attempts:
        yield step.name, "", step.state, "", ""
    for attempt in step.attempts:
        took = ""
        if attempt.ended_at:
            took = duration((attempt.ended_at - attempt.started_at).total_seconds() / SECONDS_PER_HOUR)
        state = step.state if attempt is step.last else JobState.FAILED.value if attempt.failed else attempt.state.value
        yield step.name, str(attempt.number), state, took, _dollars(attempt.cost_usd)


def _dollars(cost: Decimal | Unknown | None) -> str:
    return "" if cost is None else "unknown" if isinstance(cost, Unknown) else usd(cost)


def _sum(record: RunRecord) -> str:
    costs = [attempt.cost_usd for step in record.steps for attempt in step.attempts if attempt.cost_usd is not None]
    if any(isinstance(cost, Unknown) for cost in costs):
        return "unknown"
    return usd(sum((cost for cost in costs if isinstance(cost, Decimal)), Decimal(0)))


def replanned_text(new: Replanned) -> str:
    """Return the training's estimates with what lr-find measured: time, dollars and, where it was measured, memory."""
    text = f"{hours_text(new.time_hours)}, {cost_text(new.cost_usd)} with the measured step time"
    if not isinstance(new.memory, MemoryEstimate):
        return text
    peak, capacity = significant(new.memory.peak_gib, 2), significant(new.memory.capacity_gib)
    return f"{text}; peak {peak} of {capacity} GiB with the measured memory ({VERDICT[new.memory.verdict]})"


def planned_again_lines(plan: LaunchPlan) -> list[str]:
    """Return what to say once a run was planned again at the batch that was found."""
    told = plan.find_batch
    if told is None or told.found is None:
        return []
    peak = "" if told.found.peak_gib is None else f", peak {significant(told.found.peak_gib)} GiB"
    estimated = told.estimated_peak_gib
    beside = "" if isinstance(estimated, Unknown) or not peak else f" (estimated {significant(estimated)} GiB)"
    lines = [f"found batch: {count(told.found.per_gpu)} per GPU{peak}{beside}; predicted {predicted_text(told)}"]
    for step in plan.steps:
        if step.search is None:
            told_step = f"{hours_text(step.time_hours)}, {cost_text(step.cost_usd)}"
            lines.append(f"planned again: {step.name} {batch_cell(step, plan)}: {told_step}")
    return lines


def _facts(record: RunRecord, locate: Callable[[str, str], str], picture: Path | None) -> Iterator[tuple[str, str]]:
    if batch := record.batch_found():
        yield from found_facts(batch, record.plan)
    if record.decision:
        yield from decision_facts(record.decision)
        yield from _check_without(record.decision, record.measured())
    elif record.plan.lr.reused is not None:
        yield from decision_facts(record.plan.lr.reused.decision)
        yield "LR from", f"the range test of run {record.plan.lr.reused.run_id}"
    elif record.plan.lr.learning_rate is not None:
        yield "training LR", f"{learning_rate(record.plan.lr.learning_rate)}, as given"
    if warmup := warm_up_text(record.plan, record.warmup):
        yield "warm-up", warmup
    if record.replanned and record.state in _OPEN:
        yield "re-planned", replanned_text(record.replanned)
    if record.critical_batch and not _more_gpus(record):
        yield "more GPUs", verdict_text(record.critical_batch)
    yield from _training(record, locate)
    if picture:
        yield "curve", str(picture)
    yield from failure_facts(record)


def _check_without(decision: Decision, result: LrResult | None) -> Iterator[tuple[str, str]]:
    """Yield why a check that was made says nothing."""
    if result is None or result.check is None or decision.verdict != "ok" or decision.checked_learning_rate is not None:
        return
    found = suggest_at(result, result.check, decision.rule)
    if isinstance(found, NoSuggestion):
        batch = result.check.at.batch.global_batch
        yield "check", f"no learning rate from the sweeps at batch {batch} itself: {found.verdict}, {found.reason}"


def _more_gpus(record: RunRecord) -> list[Block]:
    """Return what other numbers of GPUs would take, as long as the training can still be another one."""
    found = record.critical_batch
    undecided = record.state in _OPEN or record.plan.step("train") is None
    return critical_batch_blocks(found) if undecided and isinstance(found, CriticalBatch) else []


def _training(record: RunRecord, locate: Callable[[str, str], str]) -> Iterator[tuple[str, str]]:
    result = record.trained()
    last = record.step("train").last if result else None
    if result is None or last is None:
        return
    best = result.best
    when = f"in epoch {best.epoch} of {len(result.epochs)}"
    samples = f"{count(record.plan.data.val_samples)} samples, each counted once"
    loss = None if best.val_loss is None else significant(best.val_loss)
    if best.val_accuracy is not None:
        yield "val accuracy", f"{best.val_accuracy:.4f} {when} ({f'loss {loss}, ' if loss else ''}{samples})"
    elif loss is not None:
        yield "val loss", f"{loss} {when} ({samples})"
    if best.logged:
        yield "logged", ", ".join(f"{name} {significant(value)}" for name, value in best.logged.items())
    rate = significant(result.measured.samples_per_second)
    yield "speed", f"{rate} samples/s over {result.world_size} processes on {result.measured.device}"
    if (retry := result.oom_retry) is not None:
        planned = f"{retry.planned_per_gpu} samples per GPU ran out of memory"
        batch = retry.per_gpu * result.world_size * retry.accumulation
        cut = f"{retry.per_gpu} x {result.world_size} x {retry.accumulation} = {batch}"
        yield "memory", f"{planned}: trained with {cut}, BatchNorm over {retry.per_gpu} samples"
    yield "checkpoint", locate(last.handle, result.best_checkpoint)
    if record.plan.provenance.settings.launch.loggers:
        yield "logs", locate(last.handle, LOGS_FOLDER)


def _accuracy(record: RunRecord) -> str:
    result = record.trained()
    best = result.best if result else None
    return f"{best.val_accuracy:.4f}" if best and best.val_accuracy is not None else ""


def _conditions(plan: LaunchPlan) -> list[str]:
    """Return the options under which a training may use this run's range test, where they are not the defaults."""
    settings = plan.provenance.settings
    options: list[str] = []
    for field in setting_fields():
        section = getattr(settings, field.section)
        value, info = getattr(section, field.name), type(section).model_fields[field.name]
        told = (field.section == "workload" and field.name != "workers") or field.key in _ALSO
        if told and (info.is_required() or value != info.default):
            options += _option(field.flag, value)
    return options


def _option(flag: str, value: object) -> list[str]:
    """Return a setting as a command line says it."""
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    return [flag, json.dumps(value) if isinstance(value, dict) else str(value)]


def _next(record: RunRecord) -> Iterator[tuple[str, str]]:
    run = record.run_id
    if record.state in _OPEN:
        yield "next", f"gpuplan watch {run}"
        yield "next", f"gpuplan cancel {run}"
        yield "next", f"gpuplan resume {run}    (if no client drives it any more)"
        return
    if record.exit_code is ExitCode.NO_RESULT and record.lr_result is not None:
        yield "next", f"gpuplan suggest {run}"
        yield "next", f"gpuplan logs {run}"
        return
    if record.state in {"failed", "cancelled"}:
        yield "next", f"gpuplan resume {run}"
        yield "next", f"gpuplan logs {run}"
        return
    if len(record.steps) == 1 and record.batch_result is not None:
        processes = record.plan.provenance.settings.launch.world_size
        more = ["--world-size", str(processes)] if processes else []
        yield "next", f"gpuplan launch {shlex.join([*_conditions(record.plan), *more])}"
    if record.plan.step("train") is None and record.lr_result is not None:
        yield "next", f"gpuplan launch {shlex.join([*_conditions(record.plan), '--lr-from', run])}"
    if record.lr_result is not None:
        yield "next", f"gpuplan suggest {run} --lr-rule minimum"
    yield "next", f"gpuplan status {run} -o json"
    if record.lr_result is None:
        yield "next", "gpuplan list"
