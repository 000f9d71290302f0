"""`gpuplan logs`: what a run's jobs printed."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from gpuplan.backends import base as backends
from gpuplan.cli.account import backend_of
from gpuplan.cli.options import DebugOption, Given, RunArgument, with_account
from gpuplan.cli.runs import find, read
from gpuplan.core.errors import UsageError
from gpuplan_job.contract import PROGRESS_PREFIX


@with_account
def command(
    given: Given,
    run: RunArgument = None,
    step: Annotated[str | None, typer.Option("--step", help="lr-find or train; by default all steps.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Keep the machine-readable progress lines.")] = False,
    debug: DebugOption = False,
) -> None:
    """Print the logs of a run's jobs, every attempt, oldest first."""
    del debug
    runs, run_id = find(run, given)
    record = read(runs, run_id)
    known = [entry.name for entry in record.steps]
    if step is not None and step not in known:
        raise UsageError(f"this run has no step {step!r}", why=f"it has {', '.join(known)}", fix=f"--step {known[0]}")
    backend = backend_of(record.plan, given.profile)
    for entry in record.steps:
        for attempt in entry.attempts:
            if step in {None, entry.name}:
                typer.echo(f"== {entry.name}, attempt {attempt.number}: {attempt.handle}", err=True)
                _print(backend, attempt.handle, follow=follow, raw=raw)


def _print(backend: backends.Backend, handle: str, *, follow: bool, raw: bool) -> None:
    cursor = ""
    while True:
        status = backend.poll(handle)
        over = status.state.terminal or not status.exists
        page = backend.logs(handle, cursor)
        cursor = page.cursor
        for line in page.lines:
            if raw or not line.startswith(PROGRESS_PREFIX):
                typer.echo(line)
        if over or not follow:
            return
        time.sleep(backend.poll_seconds)
