"""`gpuplan watch`: follow a run without driving it."""

from __future__ import annotations

import typer

from gpuplan.backends import base as backends
from gpuplan.cli.driving import report
from gpuplan.cli.home import home, store
from gpuplan.cli.options import DebugOption, Output, OutputOption, RunArgument
from gpuplan.cli.progress import Display, display
from gpuplan.core.clock import Clock, SystemClock
from gpuplan.engine.wait import wait
from gpuplan.store import events as ev
from gpuplan.store import lock
from gpuplan.store.record import Attempt


def command(run: RunArgument = None, output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """Follow a run's progress to its end, or to the end of its job if no client drives it. Changes nothing."""
    del debug
    runs = store()
    run_id = runs.resolve(run)
    clock = SystemClock()
    shown = display()
    followed: set[str] = set()
    try:
        while True:
            record = runs.record(run_id)
            backend = backends.create(record.plan.backend, home())
            for step in record.steps:
                last = step.last
                if last is None or last.state.terminal or last.handle in followed:
                    continue
                if backend.poll(last.handle).exists:
                    followed.add(last.handle)
                    _follow(step.name, last, backend, clock, shown)
            record = runs.record(run_id)
            if record.exit_code is not None or not lock.is_held(runs.folder(run_id)):
                break
            clock.sleep(backend.poll_seconds)
    finally:
        shown.close()
    report(record, runs, output)
    if record.exit_code is None:
        typer.echo(f"no client drives this run: gpuplan resume {run_id}", err=True)


def _follow(step: str, attempt: Attempt, backend: backends.Backend, clock: Clock, shown: Display) -> None:
    """Show one job until it ends."""

    def on_change(status: backends.JobStatus) -> None:
        shown.event(ev.Observed(step=step, attempt=attempt.number, state=status.state, detail=status.detail))

    wait(attempt.handle, backend, clock, shown, on_change)
