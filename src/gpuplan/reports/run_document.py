"""A run's record as the `gpuplan.run/1` document that scripts read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.core.frozen import Unknown
from gpuplan.reports.decision_text import comparison_document, decision_document
from gpuplan.reports.find_batch_text import find_batch_document
from gpuplan_job.batch_comparison import compare
from gpuplan_job.contract import LOGS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from decimal import Decimal

    from gpuplan.planning.money.cost import Cost
    from gpuplan.planning.plan import StepPlan
    from gpuplan.store.events import Cause
    from gpuplan.store.record import Attempt, RunRecord, StepRecord
    from gpuplan_job.contract import OomRetry


def run_document(record: RunRecord, locate: Callable[[str, str], str], exit_code: int | None = None) -> dict[str, Any]:
    """Return the document; `locate(handle, name)` says where a file of a job lies.

    `exit_code` is that of the command that prints it, where it differs from what the record stands for.
    """
    code = exit_code if exit_code is not None else record.exit_code
    document: dict[str, Any] = {
        "schema": "gpuplan.run/1",
        "run_id": record.run_id,
        "plan_id": record.agreed_plan_id,
        "state": record.state,
        "exit_code": {"unknown": "the run is not over"} if code is None else int(code),
        "steps": [_step(step, record.plan.step(step.name)) for step in record.steps],
        "batch": {
            "lr_find": _batch(record.plan.batch.lr_find.per_gpu, record.plan.batch.lr_find.global_batch),
            "train": _batch(record.plan.batch.train.per_gpu, record.plan.batch.train.global_batch),
        },
    }
    document |= find_batch_document(record)
    if record.decision:
        document["lr"] = decision_document(record.decision) | _compared(record)
    elif record.plan.lr.reused is not None:
        reused = record.plan.lr.reused
        document["lr"] = decision_document(reused.decision) | {"from_run": reused.run_id}
    elif record.plan.lr.learning_rate is not None:
        document["lr"] = {"training_learning_rate": record.plan.lr.learning_rate, "transfer": "none", "given": True}
    if "lr" in document and record.warmup:
        document["lr"]["warmup"] = record.warmup.document()
    if record.critical_batch:
        document["critical_batch"] = record.critical_batch.document()
    document |= _measured(record) | _train(record, locate)
    if record.failure:
        failure = record.failure
        document["failure"] = {
            "step": failure.step,
            "what": failure.message,
            "why": failure.why,
            "fix": failure.fix,
            **({} if failure.cause is None else _cause(failure.cause)),
        }
    return document


def _cause(cause: Cause) -> dict[str, Any]:
    no_rank = {"unknown": "no rank is to blame, or it is not known which"}
    by_signal = {"unknown": f"ended by {cause.signal}" if cause.signal else "not told"}
    return {
        "kind": cause.kind,
        "rank": no_rank if cause.rank is None else cause.rank,
        "job_exit_code": by_signal if cause.exit_code is None else cause.exit_code,
        "signal": cause.signal,
        "where": cause.where,
        "last_lines": list(cause.last_lines),
    }


def _step(step: StepRecord, planned: StepPlan | None) -> dict[str, Any]:
    last = step.last
    not_yet = {"unknown": "not started"}
    estimate = {} if planned is None else {"planned_cost_usd": _planned(planned.cost_usd)}
    if last is None:
        unset = dict.fromkeys(("handle", "started_at", "ended_at", "cost_usd"), not_yet)
        return {"name": step.name, "state": step.state, "attempt": 0, **unset, **estimate, "attempts": []}
    return {
        "name": step.name,
        "state": step.state,
        "attempt": last.number,
        **_attempt(last),
        **estimate,
        "attempts": [{"attempt": one.number, "state": one.state.value, **_attempt(one)} for one in step.attempts],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    billed = {} if attempt.billable_seconds is None else {"billable_seconds": attempt.billable_seconds}
    return {
        "handle": attempt.handle,
        "started_at": _time(attempt.started_at),
        "ended_at": _time(attempt.ended_at) if attempt.ended_at else {"unknown": "not ended"},
        "cost_usd": _cost(attempt.cost_usd),
        **billed,
    }


def _planned(cost: Cost | Unknown) -> dict[str, str]:
    return (
        {"unknown": cost.unknown} if isinstance(cost, Unknown) else {"p50": f"{cost.p50:.4f}", "p90": f"{cost.p90:.4f}"}
    )


def _cost(value: Decimal | Unknown | None) -> object:
    if value is None:
        return {"unknown": "not ended"}
    return {"unknown": value.unknown} if isinstance(value, Unknown) else f"{value:.4f}"


def _time(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _batch(per_gpu: int, global_batch: int) -> dict[str, int]:
    return {"per_gpu": per_gpu, "global": global_batch}


def _compared(record: RunRecord) -> dict[str, Any]:
    result = record.measured()
    compared = compare(result) if result else None
    return {"compared": comparison_document(compared)} if compared else {}


def _measured(record: RunRecord) -> dict[str, Any]:
    result = record.measured()
    if result is None:
        return {}
    measured = result.measured
    return {
        "measured": {
            "peak_gib": {"unknown": "not measurable here"} if measured.peak_gib is None else measured.peak_gib,
            "step_seconds": measured.step_seconds,
            "samples_per_second": measured.samples_per_second,
            "device": measured.device,
        }
    }


def _train(record: RunRecord, locate: Callable[[str, str], str]) -> dict[str, Any]:
    result = record.trained()
    last = record.step("train").last if result else None
    if result is None or last is None:
        return {}
    final, loggers = result.epochs[-1], record.plan.provenance.settings.launch.loggers
    return {
        "train": {
            "metrics": {
                "train_loss": final.train_loss,
                "val_loss": _logged(final.val_loss),
                "val_accuracy": _logged(final.val_accuracy),
                "best_val_accuracy": _logged(result.best.val_accuracy),
                "best_epoch": result.best_epoch,
                **({"logged": final.logged} if final.logged else {}),
            },
            "learning_rate": result.learning_rate,
            "epochs": len(result.epochs),
            "optimizer_steps": result.optimizer_steps,
            "world_size": result.world_size,
            "checkpoint": locate(last.handle, result.best_checkpoint),
            "last_checkpoint": locate(last.handle, result.last_checkpoint),
            "logs": locate(last.handle, LOGS_FOLDER) if loggers else {"unknown": "it was trained without loggers"},
            "samples_per_second": result.measured.samples_per_second,
            **({"oom_retry": _retry(result.oom_retry)} if result.oom_retry else {}),
        }
    }


def _retry(retry: OomRetry) -> dict[str, Any]:
    cut = {"per_gpu": retry.per_gpu, "accumulation": retry.accumulation, "planned_per_gpu": retry.planned_per_gpu}
    return {**cut, "message": retry.message}


def _logged(value: float | None) -> float | dict[str, str]:
    return {"unknown": "the model logs none in validation"} if value is None else value
