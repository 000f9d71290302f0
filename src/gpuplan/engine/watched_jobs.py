"""What the services say of many jobs, asked for together and only when it makes sense to ask again.

Part of `watch_all`. A service that does not answer for a while is waited for; one that refuses is given up, and the
others go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.core.errors import GpuplanError, UnreachableError
from gpuplan.engine.wait import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gpuplan.backends.base import Backend, JobHandle, JobStatus
    from gpuplan.core.clock import Clock


@dataclass
class _Service:
    """A backend with jobs to ask for, in seconds of the monotonic clock."""

    answered: float
    due: float
    silent: bool = False


class WatchedJobs:
    """The newest status of every job that is asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._services: dict[Backend, _Service] = {}
        self._given_up: set[Backend] = set()
        self._seen: dict[JobHandle, JobStatus] = {}
        self._answered: dict[JobHandle, float] = {}
        self._missing_since: dict[JobHandle, float] = {}
        self.errors: list[GpuplanError] = []
        """Why services were given up."""
        self.notes: list[str] = []
        """What went wrong, once each."""

    def ask(self, wanted: Mapping[Backend, Collection[JobHandle]]) -> None:
        """Ask each service that is due for those of the jobs that have not ended."""
        now = self._clock.monotonic()
        open_jobs = {
            backend: [handle for handle in handles if not self._has_ended(handle)]
            for backend, handles in wanted.items()
            if backend not in self._given_up
        }
        self._services = {
            backend: self._services.get(backend) or _Service(answered=now, due=now)
            for backend, handles in open_jobs.items()
            if handles
        }
        for backend, service in list(self._services.items()):
            if now >= service.due:
                self._ask(backend, service, open_jobs[backend])
                service.due = self._clock.monotonic() + backend.poll_seconds

    def status(self, handle: JobHandle) -> JobStatus | None:
        """Return what its service last said of a job, None before it was asked."""
        return self._seen.get(handle)

    def may_live(self, backend: Backend, handle: JobHandle) -> bool:
        """Tell whether a job may still change, as far as its service can be asked."""
        if backend in self._given_up or self._has_ended(handle):
            return False
        missing = self._missing_since.get(handle)
        return missing is None or self._clock.monotonic() - missing < backend.visibility_seconds

    def due_seconds(self, most: float) -> float:
        """Return the seconds until a service wants to be asked, at most `most`."""
        now = self._clock.monotonic()
        return max(0.0, min([most, *(service.due - now for service in self._services.values())]))

    def forget_all_but(self, kept: Collection[JobHandle]) -> None:
        """Drop what is known of other jobs, so that a long watch does not grow."""
        for known in (self._seen, self._answered, self._missing_since):
            for handle in known.keys() - kept:
                del known[handle]

    def _ask(self, backend: Backend, service: _Service, handles: list[JobHandle]) -> None:
        # Those that went longest without an answer first: a service that answers in part answers all of them in turn.
        handles.sort(key=lambda handle: self._answered.get(handle, 0.0))
        try:
            found = backend.poll_all(handles)
        except UnreachableError as error:
            if self._clock.monotonic() - service.answered > PATIENCE_SECONDS:
                self._give_up(backend, error)
            elif not service.silent:
                service.silent = True
                self._note(f"{error.what}; waiting for it", error)
            return
        except GpuplanError as error:
            self._give_up(backend, error)
            return
        now = self._clock.monotonic()
        service.answered, service.silent = now, False
        for handle, status in found.items():
            self._seen[handle], self._answered[handle] = status, now
            if status.exists:
                self._missing_since.pop(handle, None)
            else:
                self._missing_since.setdefault(handle, now)

    def _give_up(self, backend: Backend, error: GpuplanError) -> None:
        self._given_up.add(backend)
        del self._services[backend]
        self.errors.append(error)
        self._note(f"{error.what}; no longer asked", error)

    def _note(self, what: str, error: GpuplanError) -> None:
        self.notes.append(what)
        self.notes += [f"  {label} {text}" for label, text in (("why: ", error.why), ("next:", error.fix)) if text]

    def _has_ended(self, handle: JobHandle) -> bool:
        status = self._seen.get(handle)
        return status is not None and status.state.terminal
