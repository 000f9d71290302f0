"""`gpuplan cancel`: end a run and confirm it."""

from __future__ import annotations

import typer

from gpuplan.cli.account import backend_of
from gpuplan.cli.driving import report
from gpuplan.cli.options import DebugOption, Given, Output, OutputOption, RunArgument, with_account
from gpuplan.cli.runs import find
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import ExitCode
from gpuplan.engine.cancel import cancel


@with_account
def command(
    given: Given, run: RunArgument = None, output: OutputOption = Output.TEXT, debug: DebugOption = False
) -> None:
    """Stop a run's jobs with all their processes and confirm it; also works while another client drives the run."""
    del debug
    runs, run_id = find(run, given)
    before = runs.record(run_id)
    record = cancel(run_id, runs, backend_of(before.plan, given.profile), SystemClock())
    if record.state == "cancelled":
        typer.echo(f"{run_id}: stopped, nothing of it is left", err=True)
    else:
        typer.echo(f"{run_id}: was already over ({record.state})", err=True)
    report(record, runs, output, ExitCode.OK)
