"""Wait for a job: poll, pass progress on, report each change of state, until nothing more will happen.

A service that does not answer for a while is waited for: the job goes on without us, so there is nothing to hurry for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.backends.base import JobStatus
from gpuplan.core.errors import CredentialsError, UnreachableError
from gpuplan.core.job_state import JobState
from gpuplan_job.contract import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.backends.base import Backend
    from gpuplan.core.clock import Clock
    from gpuplan.engine.observer import Observer

PATIENCE_SECONDS = 900.0
"""Without any answer; then the client ends, and resume takes the run up again."""


def wait(
    handle: str, backend: Backend, clock: Clock, observer: Observer, on_look: Callable[[JobStatus, bool], None]
) -> JobStatus:
    """Return the terminal status of a submitted job.

    `on_look(status, changed)` is called with every look that was answered, the last included; a change is one of the
    state or of the service's own word for it.

    Raises:
        UnreachableError: the service has not answered for a quarter of an hour.
    """
    seen: tuple[JobState, str] | None = None
    cursor = ""
    shown = answered = clock.monotonic()
    while True:
        try:
            status = backend.poll(handle)
        except UnreachableError:
            if clock.monotonic() - answered > PATIENCE_SECONDS:
                raise
            clock.sleep(backend.poll_seconds)
            continue
        answered = clock.monotonic()
        if status.exists:
            shown = answered
        elif answered - shown < backend.visibility_seconds:
            clock.sleep(backend.poll_seconds)
            continue
        else:
            # It was submitted, so someone has deleted it; what is left of it must not go on unseen.
            backend.stop(handle)
            status = JobStatus(JobState.FAILED, "it is gone")
        cursor = _pass_on(handle, cursor, backend, observer)
        on_look(status, (status.state, status.detail) != seen)
        seen = (status.state, status.detail)
        if status.state.terminal:
            return status
        clock.sleep(backend.poll_seconds)


def _pass_on(handle: str, cursor: str, backend: Backend, observer: Observer) -> str:
    """Tell the observer the newest progress after `cursor`, and return the next cursor."""
    try:
        page = backend.logs(handle, cursor)
    except (CredentialsError, UnreachableError):
        return cursor  # progress is for people: the job's state does not hang on it
    newest = None
    for line in page.lines:
        newest = Progress.from_line(line) or newest
    if newest is not None:
        observer.progress(newest)
    return page.cursor
