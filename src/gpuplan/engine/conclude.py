"""What follows from a step's end: the decision after lr-find, the new estimates, the reason of a failure, the dollars.

Pure functions of the record, called by `engine.run`, which makes their answers durable.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from gpuplan.core.errors import CapacityError, ExitCode, GpuplanError, JobFailedError, OverBudgetError
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.core.units import usd
from gpuplan.engine.account import spent
from gpuplan.planning.replan import more_gpus, replan
from gpuplan.store import events as ev
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.backends.base import JobStatus
    from gpuplan.planning.plan import StepPlan
    from gpuplan.store.record import RunRecord
    from gpuplan_job.contract import BatchResult, Failure, JobInput, LrResult, TrainResult

_NOTHING = Decimal(0)
_CHANGES_THE_PLAN = {"usage", "out-of-memory", "diverged", "user-code"}
"""Kinds of failure that the same plan would meet again: resuming it would only repeat them."""


def bound_lr(record: RunRecord) -> float | None:
    """Return the training's learning rate: the user's, else what lr-find led to, else None."""
    if record.plan.lr.learning_rate is not None:
        return record.plan.lr.learning_rate
    return record.decision.training_learning_rate if record.decision else None


def multiplier(record: RunRecord) -> float | None:
    """Return the training's learning rate over the one found on one GPU; None where it was given."""
    return record.decision.multiplier if record.decision and record.plan.lr.learning_rate is None else None


def follow_ups(record: RunRecord, step: StepPlan) -> Iterator[ev.Event]:
    """Yield the events that a finished lr-find asks for and that are not yet recorded; none after a training."""
    result = record.measured()
    if step.sweep is None or result is None:
        return
    decision = record.decision
    if decision is None:
        decision = decide(result)
        yield ev.Decided(decision=decision)
    attempt = record.step(step.name).last
    number = attempt.number if attempt else 1
    if decision.verdict != "ok":
        yield ev.Failed(
            step=step.name,
            attempt=number,
            exit_code=ExitCode.NO_RESULT,
            message=f"the range test gives no learning rate: {decision.verdict}",
            why=decision.reason,
            fix=decision.fix,
        )
        return
    new = record.replanned
    if new is None:
        estimate = replan(record.plan, result.measured)
        if estimate is not None:
            new = ev.Replanned(time_hours=estimate.time_hours, cost_usd=estimate.cost_usd, memory=estimate.memory)
            yield new
    if record.critical_batch is None and record.plan.gpu_options:
        yield ev.Advised(critical_batch=more_gpus(record.plan, decision.noise_scale, result.measured))
    if new is not None and _over_budget(record, new):
        yield _budget_failure(record, step, number, new)


def job_error(run_id: str, job: JobInput, status: JobStatus, failure: Failure | None) -> GpuplanError:
    """Return why a job ended without success, in its own words where it left any."""
    resume = f"gpuplan resume {run_id}"
    if status.exit_code is ExitCode.OVER_BUDGET:
        return OverBudgetError(
            f"{job.step} ran into its limit ({status.detail})",
            why="the limit follows from --max-cost or --max-hours, by default from 1.5 x the p90 time",
            fix="launch again with a higher --max-cost or --max-hours",
        )
    if status.exit_code is ExitCode.CAPACITY:
        return CapacityError(
            f"{job.step} got no instance ({status.detail})",
            why="AWS has none free there now; a job that never ran costs nothing",
            fix=f"{resume}    tries again; or another --region or --instance",
        )
    if failure is None:
        detail = f" ({status.detail})" if status.detail else ""
        verb = "was stopped" if status.state is JobState.STOPPED else "failed"
        return JobFailedError(
            f"{job.step} {verb}{detail}",
            why="it left no account of the cause",
            fix=f"gpuplan logs {run_id}    then: {resume}",
        )
    rank = "" if failure.rank is None else f" on rank {failure.rank}"
    ended = failure.signal or ("" if failure.exit_code is None else f"exit code {failure.exit_code}")
    why = f"cause: {failure.kind}{f', its process ended with {ended}' if ended else ''}"
    again = "gpuplan launch with that change" if failure.kind in _CHANGES_THE_PLAN else resume
    fix = f"{failure.fix or f'gpuplan logs {run_id}'}    then: {again}"
    return JobFailedError(f"{job.step} failed{rank}: {failure.message}", why=why, fix=fix)


def cause(failure: Failure | None) -> ev.Cause | None:
    """Return what the record keeps of a job's own account of its failure."""
    if failure is None:
        return None
    return ev.Cause(
        kind=failure.kind,
        rank=failure.rank,
        exit_code=failure.exit_code,
        signal=failure.signal,
        where=failure.where,
        last_lines=tuple(failure.last_lines),
    )


def as_data(result: LrResult | TrainResult | BatchResult) -> dict[str, Any]:
    """Return a result as the JSON-ready data that an event holds."""
    data: dict[str, Any] = json.loads(result.to_json())
    return data


def _over_budget(record: RunRecord, new: ev.Replanned) -> bool:
    """Tell whether what was spent and the training's p90 pass the limit; a cost that is not known passes any."""
    limit = record.plan.provenance.settings.launch.max_cost
    if limit is None:
        return False
    before = spent(record)
    return isinstance(before, Unknown) or isinstance(new.cost_usd, Unknown) or before + new.cost_usd.p90 > limit


def _budget_failure(record: RunRecord, step: StepPlan, attempt: int, new: ev.Replanned) -> ev.Failed:
    limit = record.plan.provenance.settings.launch.max_cost or _NOTHING
    p90 = "cost is not known" if isinstance(new.cost_usd, Unknown) else f"p90 cost is {usd(new.cost_usd.p90)}"
    amount = spent(record)
    before = "an unknown amount" if isinstance(amount, Unknown) else usd(amount)
    return ev.Failed(
        step=step.name,
        attempt=attempt,
        exit_code=ExitCode.OVER_BUDGET,
        message=f"with the measured step time the training's {p90}, with {before} spent: over --max-cost {usd(limit)}",
        why="lr-find measured the speed; the training was not started",
        fix="fewer --epochs, another --instance, or a higher --max-cost",
    )
