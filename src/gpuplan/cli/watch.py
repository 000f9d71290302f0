"""`gpuplan watch`: follow a run, or with `--all` every open run, without driving any."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Hashable
from typing import Annotated, Protocol

import typer

from gpuplan.backends import base as backends
from gpuplan.cli.account import backend_of, located, runs_in_aws
from gpuplan.cli.driving import report
from gpuplan.cli.home import store
from gpuplan.cli.options import DebugOption, Given, Output, OutputOption, RunArgument, with_account
from gpuplan.cli.progress import Display, display
from gpuplan.cli.runs import find, read
from gpuplan.core.clock import Clock, SystemClock
from gpuplan.core.errors import ExitCode, UsageError
from gpuplan.engine.wait import wait
from gpuplan.engine.watch_all import Look, Watcher, watch_all
from gpuplan.engine.watched import WatchedRun
from gpuplan.planning.plan import LaunchPlan
from gpuplan.reports.layout import console, show
from gpuplan.reports.watch_text import change, ending, screen, watch_document
from gpuplan.store import events as ev
from gpuplan.store.record import Attempt

AllOption = Annotated[bool, typer.Option("--all", help="Follow every run that is not over, until none goes on.")]


@with_account
def command(
    given: Given,
    run: RunArgument = None,
    every: AllOption = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Follow a run's progress to its end, or to the end of its job if no client drives it. Changes nothing.

    With --all, follow every open run of this machine in one process, asking each service for all its jobs together.
    """
    del debug
    if not every:
        _one(run, given, output)
    elif run is not None:
        raise UsageError(
            f"--all follows every run, {run!r} is one", fix=f"gpuplan watch --all    or    gpuplan watch {run}"
        )
    else:
        _all(given, output)


def _one(run: str | None, given: Given, output: Output) -> None:
    runs, run_id = find(run, given)
    clock = SystemClock()
    record = read(runs, run_id)
    shown, plan = display(record, clock), record.plan
    followed: set[str] = set()
    try:
        while True:
            record = read(runs, run_id)
            if record.plan != plan:
                plan = record.plan
                shown.event(ev.PlannedAgain(plan=plan))
            backend = backend_of(record.plan, given.profile)
            for step in record.steps:
                last = step.last
                if last is None or last.state.terminal or last.handle in followed:
                    continue
                if backend.poll(last.handle).exists:
                    followed.add(last.handle)
                    _follow(step.name, last, backend, clock, shown)
            record = read(runs, run_id)
            if record.exit_code is not None or runs.driver(run_id) is None:
                break
            clock.sleep(backend.poll_seconds)
    finally:
        shown.close()
    report(record, runs, output)
    if record.exit_code is None:
        typer.echo(f"no client drives this run: gpuplan resume {run_id}", err=True)


def _follow(step: str, attempt: Attempt, backend: backends.Backend, clock: Clock, shown: Display) -> None:
    """Show one job until it ends."""

    def on_look(status: backends.JobStatus, changed: bool) -> None:  # noqa: FBT001 - the signature `wait` asks for
        if changed:
            shown.event(ev.Observed(step=step, attempt=attempt.number, state=status.state, detail=status.detail))

    wait(attempt.handle, backend, clock, shown, on_look)


def _all(given: Given, output: Output) -> None:
    clock = SystemClock()
    watcher = Watcher(store(), _Together(given.profile), clock)
    shown: _Shown = _Screen() if sys.stderr.isatty() else _Lines()
    code = ExitCode.OK
    try:
        watch_all(watcher, clock, shown.look)
        if watcher.errors:
            code = watcher.errors[0].exit_code
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    finally:
        shown.close()
    if code is ExitCode.INTERRUPTED:
        typer.echo("\ninterrupted; no run was changed", err=True)
    if output is Output.JSON:
        typer.echo(json.dumps(watch_document(shown.runs), indent=2, ensure_ascii=False))
    else:
        show(ending(shown.runs), console())
    raise typer.Exit(int(code))


class _Together:
    """Backends by whom they ask: the jobs of one account and region have one, whatever else their plans say."""

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._made: dict[Hashable, backends.Backend] = {}

    def __call__(self, plan: LaunchPlan) -> backends.Backend:
        place: Hashable = plan.backend
        if runs_in_aws(plan):
            aws = plan.provenance.settings.aws
            place = (plan.backend, aws.region, self._profile or located(aws).profile, aws.poll_seconds)
        return self._made.setdefault(place, backend_of(plan, self._profile))


class _Shown(Protocol):
    """How looks are shown on stderr."""

    runs: tuple[WatchedRun, ...]
    """The newest look's."""

    def look(self, look: Look) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """A line for each change of a run."""

    def __init__(self) -> None:
        self.runs: tuple[WatchedRun, ...] = ()
        self._said: dict[str, str] = {}

    def look(self, look: Look) -> None:
        self.runs = look.runs
        for note in look.notes:
            typer.echo(note, err=True)
        for run in look.runs:
            line = change(run)
            if self._said.get(run.run_id) != line:
                self._said[run.run_id] = line
                typer.echo(line, err=True)

    def close(self) -> None:
        """Nothing to leave."""


class _Screen:
    """A table that stays, of the newest changes where not all runs fit."""

    def __init__(self) -> None:
        from rich.live import Live

        self.runs: tuple[WatchedRun, ...] = ()
        self._changed: dict[str, str] = {}
        self._console = console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def look(self, look: Look) -> None:
        self.runs = look.runs
        for note in look.notes:
            self._console.print(note)
        for run in look.runs:
            line = change(run)
            if self._changed.get(run.run_id) != line:
                self._changed.pop(run.run_id, None)
                self._changed[run.run_id] = line
        self._draw()

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.text import Text

        text = io.StringIO()
        page = Console(file=text, width=self._console.width, highlight=False, emoji=False, markup=False)
        show(screen(self.runs, self._console.height, list(reversed(self._changed))), page)
        self._live.update(Text(text.getvalue()), refresh=True)
