"""Follow every open run at once: what the store says of each, and what the services say of its jobs, in few calls.

Called by `gpuplan watch --all`. It only reads and asks: it drives no run and records nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gpuplan.core.job_state import JobState
from gpuplan.engine.watched import OpenRuns, WatchedRun, WatchedStep
from gpuplan.engine.watched_jobs import WatchedJobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.backends.base import Backend, JobHandle
    from gpuplan.core.clock import Clock
    from gpuplan.core.errors import GpuplanError
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.sqlite import RunStore

_STORE_SECONDS = 5.0
"""Longest time between two looks at the store, however rarely the services are asked."""


@dataclass(frozen=True)
class Look:
    """One look at everything."""

    runs: tuple[WatchedRun, ...]
    """Every run that was open at some look, oldest first."""
    notes: tuple[str, ...]
    """What went wrong since the look before: a log that cannot be read, a service that does not answer."""


class Watcher:
    """Looks at all runs of a store as often as it is told to.

    `backend_of` must return the same object for plans whose jobs can be asked for together.
    """

    def __init__(self, store: RunStore, backend_of: Callable[[LaunchPlan], Backend], clock: Clock) -> None:
        self._store = store
        self._runs = OpenRuns(store, backend_of)
        self._jobs = WatchedJobs(clock)
        self._clock = clock
        self._at_rest: set[str] = set()
        """Runs that would not go on by themselves at the last look."""

    @property
    def errors(self) -> list[GpuplanError]:
        """Why services were given up."""
        return self._jobs.errors

    def look(self) -> Look:
        """Read what has changed, ask the services that are due, and return every followed run as it now stands."""
        self._runs.read()
        wanted: dict[Backend, list[JobHandle]] = {}
        kept: set[JobHandle] = set()
        for run, backend in self._runs.runs():
            handles = list(run.open_handles())
            kept.update(handles)
            if run.run_id not in self._at_rest:
                wanted.setdefault(backend, []).extend(handles)
        self._jobs.forget_all_but(kept)
        self._jobs.ask(wanted)
        runs = tuple(self._as_it_stands(run, backend) for run, backend in self._runs.runs())
        self._at_rest = {run.run_id for run in runs if not run.goes_on}
        notes = (*self._runs.notes, *self._jobs.notes)
        self._runs.notes.clear()
        self._jobs.notes.clear()
        return Look(runs, notes)

    def pause_seconds(self) -> float:
        """Return how long to wait before the next look."""
        return self._jobs.due_seconds(_STORE_SECONDS)

    def _as_it_stands(self, run: WatchedRun, backend: Backend) -> WatchedRun:
        """Return a run with its open jobs as their service last described them, and whether it goes on."""
        goes_on = self._goes_on(run, backend)
        if not goes_on and run.exit_code is None and run.run_id not in self._at_rest:
            # Whoever drove it may have recorded its end and gone between our reading and the look at its lock.
            self._runs.refresh(run.run_id, anyway=True)
            run = self._runs.run(run.run_id) or run
            goes_on = self._goes_on(run, backend)
        so_far = run.spending.at(self._clock.now()) if run.spending else None
        return replace(run, steps=tuple(self._newest(step) for step in run.steps), goes_on=goes_on, so_far_usd=so_far)

    def _goes_on(self, run: WatchedRun, backend: Backend) -> bool:
        if run.exit_code is not None:
            return False
        lives = any(self._jobs.may_live(backend, handle) for handle in run.open_handles())
        return lives or self._store.driver(run.run_id) is not None

    def _newest(self, step: WatchedStep) -> WatchedStep:
        status = self._jobs.status(step.handle) if step.open and step.handle else None
        if status is None:
            return step
        # As in a record: a job's success counts only once its result is verified.
        state = "verifying" if status.state is JobState.SUCCEEDED else status.state.value
        return replace(step, state=state, detail=status.detail)


def watch_all(watcher: Watcher, clock: Clock, on_look: Callable[[Look], None]) -> None:
    """Look again and again until nothing will change by itself; `on_look` gets every look, the last included."""
    while True:
        look = watcher.look()
        on_look(look)
        if not any(run.goes_on for run in look.runs):
            return
        clock.sleep(watcher.pause_seconds())
