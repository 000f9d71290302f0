"""The open runs of a store, read again only when their logs change: what `watch_all` knows without any service.

A record with its plan and curves is folded and let go; what is kept of a run is small. Read-only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.core.errors import GpuplanError
from gpuplan.engine.account import spending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal
    from pathlib import Path

    from gpuplan.backends.base import Backend, JobHandle
    from gpuplan.core.errors import ExitCode
    from gpuplan.core.frozen import Unknown
    from gpuplan.engine.spending import Spending
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord, RunState
    from gpuplan.store.sqlite import RunStore

_Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class WatchedStep:
    """A step of a run, and its newest attempt."""

    name: str
    state: str
    """As in the run's record, or newer, from the service."""
    attempt: int = 0
    """0 before the first."""
    handle: JobHandle | None = None
    detail: str = ""
    """The service's own word for the state; empty where it has none or was not asked."""
    open: bool = False
    """The record does not know an end of the attempt's job."""


@dataclass(frozen=True)
class WatchedRun:
    """A run as it stands."""

    run_id: str
    instance: str
    backend: str
    state: RunState
    exit_code: ExitCode | None
    """None while the record is open."""
    steps: tuple[WatchedStep, ...]
    goes_on: bool = True
    """Something will still change by itself: the record is open, and a client drives the run or a job may live."""
    spending: Spending | None = None
    """Its dollars, as the record tells them; None where nothing is billed."""
    so_far_usd: Decimal | Unknown | None = None
    """The same at the look; None where nothing is billed."""

    @property
    def step(self) -> WatchedStep:
        """The step that was begun last, or the first."""
        return next((step for step in reversed(self.steps) if step.attempt), self.steps[0])

    def open_handles(self) -> Iterator[JobHandle]:
        """Yield the handles of the jobs whose end the record does not know."""
        return (step.handle for step in self.steps if step.open and step.handle)


@dataclass
class _Entry:
    """What is known of a run in the store."""

    stamp: _Stamp = ()
    settled: bool = False
    """It was read twice with this stamp: no write within one tick of the file system's clock was missed."""
    run: WatchedRun | None = None
    """None: it was over when first read, or could not be read yet."""
    backend: Backend | None = None


class OpenRuns:
    """Every run that was open at some look, as its record last told it.

    `backend_of` must return the same object for plans whose jobs can be asked for together.
    """

    def __init__(self, store: RunStore, backend_of: Callable[[LaunchPlan], Backend]) -> None:
        self._store = store
        self._backend_of = backend_of
        self._entries: dict[str, _Entry] = {}
        self.notes: list[str] = []
        """What could not be read, once for each change of the log."""

    def read(self) -> None:
        """Take in new runs and changed logs."""
        present = self._store.run_ids()
        for run_id in self._entries.keys() - set(present):
            del self._entries[run_id]
        for run_id in present:
            self.refresh(run_id)

    def refresh(self, run_id: str, *, anyway: bool = False) -> None:
        """Read a run's log if it may have changed, or `anyway`."""
        stamp = _stamp(self._store.folder(run_id))
        entry = self._entries.setdefault(run_id, _Entry())
        unchanged = entry.stamp == stamp
        if unchanged and entry.settled and not anyway:
            return
        entry.stamp, entry.settled = stamp, unchanged
        try:
            record = self._store.record(run_id)
            if entry.run is None and record.exit_code is not None:
                return
            entry.backend = entry.backend or self._backend_of(record.plan)
        except GpuplanError as error:
            if not unchanged:
                self.notes.append(f"{run_id}: {error.what}: {error.why}")
            return
        entry.run = _watched(record)

    def runs(self) -> Iterator[tuple[WatchedRun, Backend]]:
        """Yield the runs, oldest first, each with its backend."""
        for entry in self._entries.values():
            if entry.run is not None and entry.backend is not None:
                yield entry.run, entry.backend

    def run(self, run_id: str) -> WatchedRun | None:
        """Return one run, None if it is not among them."""
        entry = self._entries.get(run_id)
        return entry.run if entry else None


def _watched(record: RunRecord) -> WatchedRun:
    steps = []
    for step in record.steps:
        last = step.last
        if last is None:
            steps.append(WatchedStep(step.name, step.state))
        else:
            is_open = not last.state.terminal and not last.failed
            steps.append(WatchedStep(step.name, step.state, last.number, last.handle, open=is_open))
    plan = record.plan
    return WatchedRun(
        record.run_id,
        plan.instance,
        plan.backend,
        record.state,
        record.exit_code,
        tuple(steps),
        spending=spending(record) if plan.billed else None,
    )


def _stamp(folder: Path) -> _Stamp:
    """Return what changes with every write to a run's log: time and size of the SQLite files there."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if ".sqlite3" in entry.name and not entry.name.endswith("-shm"):
                    status = entry.stat()
                    found.append((entry.name, status.st_mtime_ns, status.st_size))
    except FileNotFoundError:  # the WAL, or the whole run, has just gone
        return ()
    return tuple(sorted(found))
