"""End a run for good: nothing new is submitted, every job is stopped, and each stop is confirmed.

It works beside a live driver: the request is an event, which the driver obeys before its next submit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import LockedError, MayBeBillingError
from gpuplan.engine.account import observed
from gpuplan.store import events as ev
from gpuplan.store import lock

if TYPE_CHECKING:
    from gpuplan.backends.base import Backend, JobStatus
    from gpuplan.core.clock import Clock
    from gpuplan.store.record import Attempt, RunRecord
    from gpuplan.store.sqlite import RunStore

_LIMIT_SECONDS = 120.0
_PAUSE_SECONDS = 0.2


def cancel(run_id: str, store: RunStore, backend: Backend, clock: Clock) -> RunRecord:
    """Cancel a run and return its record once no job of it lives; a run that is over is returned as it is.

    Raises:
        MayBeBillingError: a job could not be confirmed as stopped in time.
    """
    record = store.record(run_id)
    if record.state in {"succeeded", "cancelled"} or (record.state == "failed" and not record.live_handles()):
        return record
    store.append(run_id, ev.CancelRequested())
    deadline = clock.monotonic() + _LIMIT_SECONDS
    while clock.monotonic() < deadline:
        record = store.record(run_id)
        if record.state in {"succeeded", "failed", "cancelled"}:
            return record
        for handle in record.live_handles():
            backend.stop(handle)
        try:
            with lock.hold(store.folder(run_id), run_id, clock):
                return _settle(run_id, store, backend, clock)
        except LockedError:
            clock.sleep(_PAUSE_SECONDS)  # the driver sees its job end and records it
    raise MayBeBillingError(
        f"{run_id} could not be confirmed as stopped within {_LIMIT_SECONDS:.0f} s",
        why="still alive: " + ", ".join(record.live_handles()),
        fix=f"gpuplan cancel {run_id}    again, then: gpuplan status {run_id}",
    )


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
