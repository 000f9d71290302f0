"""End a run for good: nothing new is submitted, every job is stopped, and each stop is confirmed.

It works beside a live driver: the request is an event, which the driver obeys before its next submit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import LockedError, MayBeBillingError
from gpuplan.engine.account import observed
from gpuplan.store import events as ev

if TYPE_CHECKING:
    from gpuplan.backends.base import Backend, JobStatus
    from gpuplan.core.clock import Clock
    from gpuplan.store.record import Attempt, RunRecord
    from gpuplan.store.sqlite import RunStore

_LIMIT_SECONDS = 720.0
"""SageMaker leaves a job 120 s to end by itself, and a driver that was killed on another machine its lease 600 s."""
_LOOKS, _MARGIN_SECONDS = 3, 10.0
"""A driver that lives has looked at its job so often by then, and recorded its end."""
_LONGEST_PAUSE_SECONDS = 5.0


def cancel(run_id: str, store: RunStore, backend: Backend, clock: Clock) -> RunRecord:
    """Cancel a run and return its record once no job of it lives; a run that is over is returned as it is.

    Raises:
        MayBeBillingError: a job could not be confirmed as stopped in time.
    """
    record = store.record(run_id)
    if record.state in {"succeeded", "cancelled"} or (record.state == "failed" and not record.live_handles()):
        return record
    store.append(run_id, ev.CancelRequested())
    begun = clock.monotonic()
    patience = _LOOKS * backend.poll_seconds + _MARGIN_SECONDS
    pause = min(backend.poll_seconds, _LONGEST_PAUSE_SECONDS)
    while clock.monotonic() - begun < _LIMIT_SECONDS:
        record = store.record(run_id)
        if record.state in {"succeeded", "failed", "cancelled"}:
            return record
        ended = _stop_all(record, backend)
        try:
            with store.driving(run_id, take_over=ended and clock.monotonic() - begun > patience):
                return _settle(run_id, store, backend, clock)
        except LockedError:
            clock.sleep(pause)  # the driver sees its job end and records it
    raise MayBeBillingError(
        f"{run_id} could not be confirmed as stopped within {_LIMIT_SECONDS:.0f} s",
        why="still alive: " + ", ".join(record.live_handles()),
        fix=f"gpuplan cancel {run_id}    again, then: gpuplan status {run_id}",
    )


def _stop_all(record: RunRecord, backend: Backend) -> bool:
    """Stop all jobs of a run that may live, and tell whether they are over and its driver can create none any more.

    It can while an intent has no answer: the call may be on its way. Before another intent it meets the cancel.
    """
    live = [attempt for step in record.steps for attempt in step.attempts if not attempt.state.terminal]
    over = [backend.stop(attempt.handle).state.terminal for attempt in live]
    return all(over) and all(attempt.submitted for attempt in live)


def _settle(run_id: str, store: RunStore, backend: Backend, clock: Clock) -> RunRecord:
    """Record the end of a run that nobody drives."""
    record = store.record(run_id)
    if record.state in {"succeeded", "failed", "cancelled"}:
        return record
    for step in record.steps:
        for attempt in step.attempts:
            if not attempt.state.terminal:
                status = confirm_stopped(backend, attempt)
                store.append(run_id, observed(record, step.name, attempt.number, status, clock.now()))
    store.append(run_id, ev.Cancelled())
    return store.record(run_id)


def confirm_stopped(backend: Backend, attempt: Attempt) -> JobStatus:
    """Stop an attempt's job and return its terminal status.

    Raises:
        MayBeBillingError: it does not stop.
    """
    status = backend.stop(attempt.handle)
    if not status.state.terminal:
        raise MayBeBillingError(
            f"{attempt.job_name} is still {status.state.value}",
            why="it was asked to stop and has not",
            fix="gpuplan cancel    again in a minute, then: gpuplan status",
        )
    return status
