"""Wait for a job: poll, pass progress on, report each change of state, until nothing more will happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.backends.base import JobStatus
from gpuplan.core.job_state import JobState
from gpuplan_job.contract import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.backends.base import Backend
    from gpuplan.core.clock import Clock
    from gpuplan.engine.observer import Observer


def wait(
    handle: str, backend: Backend, clock: Clock, observer: Observer, on_change: Callable[[JobStatus], None]
) -> JobStatus:
    """Return the terminal status of a submitted job; `on_change` is called with every new state, the last included."""
    seen = None
    cursor = ""
    while True:
        status = backend.poll(handle)
        if not status.exists:
            # It was submitted, so someone has deleted it; what is left of it must not go on unseen.
            backend.stop(handle)
            status = JobStatus(JobState.FAILED, "its files are gone")
        page = backend.logs(handle, cursor)
        cursor = page.cursor
        newest = None
        for line in page.lines:
            newest = Progress.from_line(line) or newest
        if status.state is not seen:
            seen = status.state
            on_change(status)
        if newest is not None:
            observer.progress(newest)
        if status.state.terminal:
            return status
        clock.sleep(backend.poll_seconds)
