"""`gpuplan cancel`: end a run and confirm it."""

from __future__ import annotations

import typer

from gpuplan.backends import base as backends
from gpuplan.cli.driving import report
from gpuplan.cli.home import home, store
from gpuplan.cli.options import DebugOption, Output, OutputOption, RunArgument
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import ExitCode
from gpuplan.engine.cancel import cancel


def command(run: RunArgument = None, output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """Stop a run's jobs with all their processes and confirm it; also works while another client drives the run."""
    del debug
    runs = store()
    run_id = runs.resolve(run)
    before = runs.record(run_id)
    backend = backends.create(before.plan.backend, home())
    record = cancel(run_id, runs, backend, SystemClock())
    if record.state == "cancelled":
        typer.echo(f"{run_id}: stopped, nothing of it is left", err=True)
    else:
        typer.echo(f"{run_id}: was already over ({record.state})", err=True)
    report(record, runs, output, ExitCode.OK)
